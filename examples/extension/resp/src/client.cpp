// client.cpp: what Python sees of it.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cmath>
#include <optional>

#include <zloop/pybind11.hpp>

#include "commands.hpp"
#include "subscription.hpp"
#include "values.hpp"

namespace {

using namespace resp;
using zloop::python::def_async;

using anything = shaped<"typing.Any">;
using maybe_bytes = shaped<"bytes | None">;
using number = shaped<"int">;
using text = shaped<"str">;
using list_of_bytes = shaped<"list[bytes]">;
using list_of_maybe_bytes = shaped<"list[bytes | None]">;
using dict_of_bytes = shaped<"dict[bytes, bytes]">;
using set_of_bytes = shaped<"builtins.set[bytes]">;
using arguments = py::Args<argument>;
using argument_names = py::typing::Iterable<argument>;
using command_list = py::typing::Iterable<argument_names>;
using argument_pairs = py::typing::Dict<argument, argument>;
using key_and_value = shaped<"list[bytes] | None">;

/// Looks at the arguments of a call, which outlive it.
class argument_list {
public:
    void add(py::handle from) {
        if (!arguments_.emplace_back().load(from.ptr())) {
            throw py::type_error(
                "an argument of a command is bytes, a str, an int, a float or a buffer, not " +
                std::string(Py_TYPE(from.ptr())->tp_name));
        }
    }
    void add_all(py::handle from) {
        for (const py::handle each : py::reinterpret_borrow<py::object>(from)) {
            kept_.push_back(py::reinterpret_borrow<py::object>(each));
            add(each);
        }
    }
    std::vector<std::string_view> texts() const {
        std::vector<std::string_view> made;
        made.reserve(arguments_.size());
        for (const argument& each : arguments_) {
            made.push_back(each.text());
        }
        return made;
    }

private:
    std::vector<argument> arguments_;
    std::vector<py::object> kept_;
};

/// A command that is known here.
template <class... Texts>
request command(manner how, std::string_view name, const Texts&... texts) {
    return {encoded(std::array<std::string_view, 1 + sizeof...(Texts)>{name, texts...}), 1, how};
}
request command_of_many(manner how, std::string_view name, const arguments& from) {
    argument_list given;
    given.add_all(from);
    std::vector<std::string_view> texts = given.texts();
    texts.insert(texts.begin(), name);
    return {encoded(texts), 1, how};
}

/// Adds a command that is a sequence of arguments.
void add_command(request& to, py::handle from, line_is line) {
    argument_list given;
    given.add_all(from);
    const auto texts = given.texts();
    if (texts.empty()) {
        throw py::value_error("a command has a name");
    }
    const manner how = manner_of(texts, line);
    to.how = to.count == 0                                     ? how
             : how == manner::alone || to.how == manner::alone ? manner::alone
             : how == to.how                                   ? how
                                                               : manner::once;
    to.commands += encoded(texts);
    ++to.count;
}
request any_command(const arguments& from, line_is line) {
    request made{{}, 0};
    add_command(made, from, line);
    return made;
}
request many_commands(const command_list& commands, line_is line) {
    request made{{}, 0};
    for (const py::handle each : commands) {
        add_command(made, each, line);
    }
    return made;
}

std::shared_ptr<client> make_client(std::string host, std::uint16_t port, std::string path,
                                    std::string username, std::string password, std::string name,
                                    std::int64_t database, unsigned retries, std::size_t connections) {
    client::options made;
    made.by.to = {std::move(host), port,    std::move(path), std::move(username), std::move(password),
                  std::move(name), database};
    made.by.retry.retries = retries;
    made.most_connections = connections;
    return std::make_shared<client>(std::move(made));
}

request transaction_of(const command_list& commands, line_is line) {
    request made = many_commands(commands, line);
    made.commands = encoded(std::array<std::string_view, 1>{"MULTI"}) + made.commands +
                    encoded(std::array<std::string_view, 1>{"EXEC"});
    made.count += 2;
    made.how = manner::once;
    return made;
}

/// SET with its options.
request set_command(std::string_view key, std::string_view value, std::optional<double> seconds, bool if_new,
                    bool if_there, bool keep_ttl) {
    std::vector<std::string_view> texts{"SET", key, value};
    std::string milliseconds;
    if (seconds) {
        milliseconds = std::to_string(std::llround(*seconds * 1000));
        texts.insert(texts.end(), {"PX", milliseconds});
    }
    for (const auto& [is_asked, word] :
         {std::pair(if_new, "NX"), std::pair(if_there, "XX"), std::pair(keep_ttl, "KEEPTTL")}) {
        if (is_asked) {
            texts.push_back(word);
        }
    }
    return {encoded(texts), 1, manner::once};
}

/// A command of a dict's keys and values, behind a key or not.
request command_of_pairs(std::string_view name, const argument* key, const argument_pairs& pairs) {
    argument_list given;
    for (const auto& [field, value] : pairs) {
        given.add(field);
        given.add(value);
    }
    std::vector<std::string_view> texts = given.texts();
    if (key != nullptr) {
        texts.insert(texts.begin(), key->text());
    }
    texts.insert(texts.begin(), name);
    return {encoded(texts), 1, manner::once};
}

/// A command that waits in the server, for no time or so many seconds.
request waiting_command(std::string_view name, const arguments& keys, double seconds) {
    argument_list given;
    given.add_all(keys);
    std::vector<std::string_view> texts = given.texts();
    const std::string limit = std::to_string(seconds);
    texts.insert(texts.begin(), name);
    texts.push_back(limit);
    return {encoded(texts), 1, manner::alone};
}

request subscribing(const arguments& channels, const argument_names& patterns, const argument_names& shards) {
    request made{{}, 0};
    const auto add = [&](std::string_view name, const py::object& names) {
        argument_list given;
        given.add_all(names);
        std::vector<std::string_view> texts = given.texts();
        if (!texts.empty()) {
            texts.insert(texts.begin(), name);
            made.commands += encoded(texts);
            ++made.count;
        }
    };
    add("SUBSCRIBE", channels);
    add("PSUBSCRIBE", patterns);
    add("SSUBSCRIBE", shards);
    if (made.count == 0) {
        throw py::value_error("subscribe() takes channels, patterns or shards");
    }
    return made;
}

using client_class = py::class_<client, std::shared_ptr<client>>;

void bind_strings(client_class& to) {
    constexpr auto reads = manner::repeatable;
    const auto key = py::arg("key");
    def_async(to, "ping", [](client& self) { return self.send<text>(command(reads, "PING")); });
    def_async(
        to, "get",
        [](client& self, argument of) { return self.send<maybe_bytes>(command(reads, "GET", of.text())); },
        key);
    def_async(
        to, "getdel",
        [](client& self, argument of) {
            return self.send<maybe_bytes>(command(manner::once, "GETDEL", of.text()));
        },
        key);
    def_async(
        to, "set",
        [](client& self, argument of, argument value, std::optional<double> ex, bool nx, bool xx, bool keep) {
            return self.send<truth>(set_command(of.text(), value.text(), ex, nx, xx, keep));
        },
        key, py::arg("value"), py::kw_only(), py::arg("ex") = py::none(), py::arg("nx") = false,
        py::arg("xx") = false, py::arg("keepttl") = false,
        "Whether it was set, for `ex` seconds: with `nx` only a new key is, with `xx` only one that is "
        "there.");
    def_async(
        to, "incr",
        [](client& self, argument of, std::int64_t by) {
            return self.send<number>(command(manner::once, "INCRBY", of.text(), std::to_string(by)));
        },
        key, py::arg("by") = 1);
    def_async(to, "mget", [](client& self, arguments keys) {
        return self.send<list_of_maybe_bytes>(command_of_many(reads, "MGET", keys));
    });
    def_async(
        to, "mset",
        [](client& self, argument_pairs values) {
            return self.send<truth>(command_of_pairs("MSET", nullptr, values));
        },
        py::arg("values"));
    def_async(to, "delete", [](client& self, arguments keys) {
        return self.send<number>(command_of_many(manner::once, "DEL", keys));
    });
    def_async(to, "exists", [](client& self, arguments keys) {
        return self.send<number>(command_of_many(reads, "EXISTS", keys));
    });
    def_async(
        to, "expire",
        [](client& self, argument of, double seconds) {
            const std::string milliseconds = std::to_string(std::llround(seconds * 1000));
            return self.send<truth>(command(manner::once, "PEXPIRE", of.text(), milliseconds));
        },
        key, py::arg("seconds"));
    def_async(
        to, "ttl",
        [](client& self, argument of) { return self.send<number>(command(reads, "TTL", of.text())); }, key,
        "Seconds; -1: it stays, -2: there is no such key.");
    def_async(
        to, "publish",
        [](client& self, argument channel, argument data) {
            return self.send<number>(command(manner::once, "PUBLISH", channel.text(), data.text()));
        },
        py::arg("channel"), py::arg("data"));
}

void bind_aggregates(client_class& to) {
    constexpr auto reads = manner::repeatable;
    const auto key = py::arg("key");
    def_async(
        to, "hset",
        [](client& self, argument of, argument_pairs values) {
            return self.send<number>(command_of_pairs("HSET", &of, values));
        },
        key, py::arg("values"));
    def_async(
        to, "hget",
        [](client& self, argument of, argument field) {
            return self.send<maybe_bytes>(command(reads, "HGET", of.text(), field.text()));
        },
        key, py::arg("field"));
    def_async(
        to, "hgetall",
        [](client& self, argument of) {
            return self.send<dict_of_bytes>(command(reads, "HGETALL", of.text()));
        },
        key);
    def_async(to, "hdel", [](client& self, arguments key_and_fields) {
        return self.send<number>(command_of_many(manner::once, "HDEL", key_and_fields));
    });
    def_async(to, "lpush", [](client& self, arguments key_and_values) {
        return self.send<number>(command_of_many(manner::once, "LPUSH", key_and_values));
    });
    def_async(to, "rpush", [](client& self, arguments key_and_values) {
        return self.send<number>(command_of_many(manner::once, "RPUSH", key_and_values));
    });
    def_async(
        to, "lrange",
        [](client& self, argument of, std::int64_t start, std::int64_t stop) {
            return self.send<list_of_bytes>(
                command(reads, "LRANGE", of.text(), std::to_string(start), std::to_string(stop)));
        },
        key, py::arg("start") = 0, py::arg("stop") = -1);
    def_async(
        to, "blpop",
        [](client& self, arguments keys, double timeout) {
            return self.send<key_and_value>(waiting_command("BLPOP", keys, timeout));
        },
        py::arg("timeout") = 0.0, "The key and the value, or None after `timeout` seconds; 0: none at all.");
    def_async(
        to, "brpop",
        [](client& self, arguments keys, double timeout) {
            return self.send<key_and_value>(waiting_command("BRPOP", keys, timeout));
        },
        py::arg("timeout") = 0.0);
    def_async(to, "sadd", [](client& self, arguments key_and_members) {
        return self.send<number>(command_of_many(manner::once, "SADD", key_and_members));
    });
    def_async(
        to, "smembers",
        [](client& self, argument of) {
            return self.send<set_of_bytes>(command(reads, "SMEMBERS", of.text()));
        },
        key);
}

void bind_subscription(py::module_& m) {
    py::class_<message>(m, "Message", "What somebody has published.")
        .def_property_readonly("channel", [](const message& of) { return py::bytes(of.channel); })
        .def_property_readonly("data", [](const message& of) { return py::bytes(of.data); })
        .def_property_readonly(
            "pattern",
            [](const message& of) {
                return of.pattern ? std::optional<py::bytes>(py::bytes(*of.pattern)) : std::nullopt;
            },
            "That the channel matches; None: it was subscribed by its name.");
    py::class_<subscription, std::shared_ptr<subscription>> made(
        m, "Subscription", "Messages, by `async for` inside of its `async with`.");
    made.def("__aiter__", [](std::shared_ptr<subscription> self) {
        return zloop::python::async_iterator([self] { return self->next(); });
    });
    zloop::python::def_async_with(made, &subscription::enter, &subscription::leave);
}

void bind_connection(py::module_& m) {
    py::class_<exclusive> made(
        m, "Connection", "A connection of one's own, inside of its `async with`: for WATCH and the like.");
    def_async(made, "execute", [](exclusive& self, arguments command) {
        return self.send<anything>(any_command(command, line_is::own));
    });
    def_async(
        made, "pipeline",
        [](exclusive& self, command_list commands) {
            return self.send_many<replies>(many_commands(commands, line_is::own));
        },
        py::arg("commands"));
    def_async(
        made, "transaction",
        [](exclusive& self, command_list commands) {
            return self.send_many<transacted>(transaction_of(commands, line_is::shared));
        },
        py::arg("commands"));
    zloop::python::def_async_with(made, &exclusive::enter, &exclusive::leave);
}

void bind_client(py::module_& m) {
    client_class made(m, "Client", "A server, and the connections to it that are needed.");
    made.def(py::init(&make_client), py::arg("host") = "127.0.0.1", py::arg("port") = 6379, py::kw_only(),
             py::arg("path") = "", py::arg("username") = "", py::arg("password") = "", py::arg("name") = "",
             py::arg("database") = 0, py::arg("retries") = 6, py::arg("connections") = 16);
    bind_strings(made);
    bind_aggregates(made);
    def_async(
        made, "execute",
        [](client& self, arguments command) {
            return self.send<anything>(any_command(command, line_is::shared));
        },
        "The reply to any command; an error is raised.");
    def_async(
        made, "pipeline",
        [](client& self, command_list commands) {
            return self.send_many<replies>(many_commands(commands, line_is::shared));
        },
        py::arg("commands"),
        "The replies to commands, each a sequence of arguments, that are sent together. Errors are values.");
    def_async(
        made, "transaction",
        [](client& self, command_list commands) {
            return self.send_many<transacted>(transaction_of(commands, line_is::shared));
        },
        py::arg("commands"), "The same in MULTI and EXEC. None: a key that was watched has changed.");
    made.def(
        "connection", [](client& self) { return std::make_unique<exclusive>(self.others()); },
        py::keep_alive<0, 1>(), "A connection of one's own.");
    made.def(
        "subscribe",
        [](client& self, arguments channels, argument_names patterns, argument_names shards) {
            return std::make_shared<subscription>(self.by(),
                                                  subscribing(channels, patterns, shards).commands);
        },
        py::arg("patterns") = py::tuple(), py::arg("shards") = py::tuple(),
        "Messages of channels: `async with client.subscribe(\"news\") as messages`.");
    def_async(made, "close", &client::close);
    zloop::python::def_async_with(made, &client::close);
}

/// The protocol alone.
class parser {
public:
    parser(std::size_t bytes, std::size_t line_bytes, std::size_t depth)
        : inbox_(limits{bytes, line_bytes, depth}) {}

    py::typing::List<zloop::python::object> feed(argument data) {
        inbox_.add(data.text());
        py::typing::List<zloop::python::object> made;
        for (reply next; inbox_.take(next);) {
            made.append(object_of(next));
        }
        return made;
    }

private:
    inbox inbox_;
};

void bind_parser(py::module_& m) {
    py::class_<parser>(m, "Parser", "RESP3 alone, for who has the bytes from elsewhere.")
        .def(py::init<std::size_t, std::size_t, std::size_t>(), py::kw_only(),
             py::arg("limit_bytes") = limits().bytes, py::arg("line_limit_bytes") = limits().line_bytes,
             py::arg("depth") = limits().depth)
        .def("feed", &parser::feed, py::arg("data"), "The replies that have ended in what came so far.");
}

}  // namespace

PYBIND11_MODULE(_resp, m) {
    m.doc() = "A Redis client of C++ coroutines.";
    const py::module_ errors = py::module_::import("resp.errors");
    const auto exception = [&](const char* name) {
        return zloop::python::object::steal(errors.attr(name).cast<py::object>().release().ptr());
    };
    exceptions::of_module = new exceptions{exception("ReplyError"), exception("ProtocolError")};
    py::register_local_exception_translator(&translate);
    bind_subscription(m);
    bind_connection(m);
    bind_client(m);
    bind_parser(m);
}

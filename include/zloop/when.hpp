// zloop/when.hpp: several tasks or other operations at once: all of them, or the first of them.
//
// An operation becomes a task. The tasks are started in order, at once, each in a scope of its own, and all
// of them have ended before the await ends: who is not needed any more is cancelled and joined, or, where the
// first has ended before another was started, never starts: it has taken nothing then. They live in the frame
// of the task that waits; a list of them is one allocation.
#pragma once

#include <iterator>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <variant>
#include <vector>

#include <zloop/task.hpp>
#include <zloop/wait/operation.hpp>

namespace zloop {

namespace detail {

/// A task's result as a member of something: nothing for void, a pointer for a reference.
template <class T>
struct storable {
    using type = T;
    static T take(task<T>& from) { return from.take(); }
};
template <class T>
struct storable<T&> {
    using type = T*;
    static T* take(task<T&>& from) { return &from.take(); }
};
template <>
struct storable<void> {
    using type = std::monostate;
    static std::monostate take(task<void>& from) {
        from.take();
        return {};
    }
};

template <class T>
using stored = typename storable<T>::type;

/// Tasks that run at the same time, and whoever waits for all of them.
class group : op {
public:
    enum class until : bool { first_failure, first_end };
    static constexpr std::size_t none = ~std::size_t{0};

    group(const context& here, until rule) noexcept
        : op(&group::go_on), all(here.within), on(*here.on), rule_(rule) {}

    /// Whether a task that has not begun is not needed any more: another one was the first to end.
    bool passes_over() noexcept {
        if (rule_ == until::first_failure || decisive_ == none) {
            return false;
        }
        --left_;
        return true;
    }

    /// The task that has decided: ended first, or failed first.
    std::size_t decisive() const noexcept { return decisive_; }

    /// Awaited, starts all tasks and waits for all of them.
    template <class F>
    class starter {
    public:
        starter(group& of, std::size_t count, F start) noexcept : group_(of), start_(std::move(start)) {
            group_.left_ = count;
        }
        bool await_ready() const noexcept { return false; }
        template <task_promise P>
        bool await_suspend(std::coroutine_handle<P> caller, site where = site::current()) {
            note(caller.promise(), "several tasks", where);
            start_();
            if (group_.left_ == 0) {
                return false;
            }
            group_.waiter_ = caller;
            return true;
        }
        void await_resume() const noexcept {}

    private:
        group& group_;
        F start_;
    };

    void ended(std::size_t index, bool failed) noexcept {
        if (decisive_ == none && (failed || rule_ == until::first_end)) {
            decisive_ = index;
            all.cancel();
        }
        if (--left_ == 0 && waiter_) {
            on.push(*this);
        }
    }

    scope all;
    loop& on;

private:
    static void go_on(op& node) noexcept { static_cast<group&>(node).waiter_.resume(); }

    std::coroutine_handle<> waiter_;
    std::size_t left_ = 0;
    std::size_t decisive_ = none;
    until rule_;
};

/// One task of a group.
template <class T>
class member : completion, live_task {
public:
    struct seed {
        group& home;
        task<T> work;
    };
    explicit member(seed from)
        : completion(&member::end), home_(from.home), own_(&home_.all), work_(std::move(from.work)) {
        work_.require();
    }
    member(const member&) = delete;
    member& operator=(const member&) = delete;

    void start(std::size_t index) noexcept {
        if (home_.passes_over()) {
            return;
        }
        index_ = index;
        auto& promise = work_.frame().promise();
        bottom = &promise;
        promise.surround({&home_.on, &own_});
        promise.when_done(*this);
        home_.on.enlist(*this);
        work_.frame().resume();
    }

    stored<T> take() { return storable<T>::take(work_); }

    /// A result that nobody wants is dropped; a failure never silently.
    void drop() noexcept {
        if (work_.failed()) {
            try {
                static_cast<void>(take());
            } catch (...) {
                report_beside(home_.on, std::current_exception());
            }
        }
    }

private:
    static void end(completion& ended) noexcept {
        auto& self = static_cast<member&>(ended);
        self.home_.on.strike(self);
        self.home_.ended(self.index_, self.work_.failed());
    }

    group& home_;
    scope own_;
    task<T> work_;
    std::size_t index_ = 0;
};

/// Not inside of the coroutines: g++ 12 fails to compile an assert there that comes from a precompiled
/// header.
inline void require_some(std::size_t count) {
    if (count == 0) {
        throw std::invalid_argument("the first of no tasks");
    }
}

template <class T>
using members = std::vector<std::optional<member<T>>>;

/// Starts the tasks of a list, waits for all, and drops what is not wanted but the decisive one.
template <class T>
task<void> run_all(group& home, members<T>& list, std::vector<task<T>> work) {
    for (std::size_t index = 0; index < work.size(); ++index) {
        list[index].emplace(typename member<T>::seed{home, std::move(work[index])});
    }
    co_await group::starter(home, list.size(), [&list] {
        for (std::size_t index = 0; index < list.size(); ++index) {
            list[index]->start(index);
        }
    });
    if (home.decisive() != group::none) {
        for (std::size_t index = 0; index < list.size(); ++index) {
            if (index != home.decisive()) {
                list[index]->drop();
            }
        }
    }
}

/// Calls `visit(place, one)` for the one at `index`; `place` is that index as a type.
template <class F, class... Ts>
void visit_at(std::tuple<member<Ts>...>& list, std::size_t index, F&& visit) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        static_cast<void>(
            ((index == I && (visit(std::integral_constant<std::size_t, I>{}, std::get<I>(list)), true)) ||
             ...));
    }(std::index_sequence_for<Ts...>{});
}

/// The same for tasks of several types.
template <class... Ts>
task<void> run_all(group& home, std::tuple<member<Ts>...>& list) {
    co_await group::starter(home, sizeof...(Ts), [&list] {
        std::size_t index = 0;
        std::apply([&index](auto&... one) { (one.start(index++), ...); }, list);
    });
    if (home.decisive() != group::none) {
        std::size_t index = 0;
        std::apply([&](auto&... one) { ((index++ == home.decisive() ? void() : one.drop()), ...); }, list);
    }
}

}  // namespace detail

namespace detail {

/// One of several: it ends before who waits for all of them goes on.
template <operation A>
auto as_member(A work) {
    static_assert(!is_lent<awaited_type<A>>,
                  "what receive() lends is gone when the others have ended: give it a buffer, recv(buffer)");
    return as_task(std::move(work));
}

/// Tasks alone: those need not be made tasks.
template <class... As>
concept some_operations = (operation<As> && ...) && (... || !is_task<As>);

/// A list, of whatever kind, of operations.
template <class R>
using element_of = std::remove_reference_t<decltype(*std::begin(std::declval<R&>()))>;
template <class R>
concept operation_list = requires(R& list) { std::end(list); } && operation<element_of<R>> && !awaitable<R> &&
                         !(is_task<element_of<R>> && std::same_as<R, std::vector<element_of<R>>>);

template <class R>
auto list_of_tasks(R& from) {
    std::vector<decltype(as_member(std::move(*std::begin(from))))> list;
    for (auto& each : from) {
        list.push_back(as_member(std::move(each)));
    }
    return list;
}

}  // namespace detail

/// What when_any gives for a list: which task was first, and its result.
/// Example: examples/cpp/when.cpp
template <class T>
struct first_of {
    std::size_t index;  ///< in the list
    T value;            ///< its result; a pointer where that is a reference
};
/// The same of tasks without a result.
template <>
struct first_of<void> {
    std::size_t index;  ///< in the list
};

/// Runs all, and gives all results, in order: T, T* for a task<T&>, std::monostate for a task<void>.
///
/// Completes: when all have ended; those that do not wait have before the first suspension.
/// Fails:     throws the first exception of one; the others are cancelled and joined, and what they throw
///            besides goes to the loop's failure hook. An error in a result<T> is a result like others.
/// Cancelled: all are; what they give then is given.
/// Owns:      the tasks.
/// Example:   examples/cpp/when.cpp
template <class... Ts>
task<std::tuple<detail::stored<Ts>...>> when_all(task<Ts>... work) {
    detail::group home(co_await current_context(), detail::group::until::first_failure);
    std::tuple<detail::member<Ts>...> list(typename detail::member<Ts>::seed{home, std::move(work)}...);
    co_await detail::run_all(home, list);
    if (home.decisive() != detail::group::none) {
        detail::visit_at(list, home.decisive(), [](auto, auto& failed) { static_cast<void>(failed.take()); });
    }
    co_return std::apply([](auto&... one) { return std::tuple<detail::stored<Ts>...>{one.take()...}; }, list);
}

/// Runs all tasks of a list; otherwise the same. An empty one is done at once.
template <class T>
    requires(!std::is_void_v<T>)
task<std::vector<detail::stored<T>>> when_all(std::vector<task<T>> work) {
    detail::group home(co_await current_context(), detail::group::until::first_failure);
    detail::members<T> list(work.size());
    co_await detail::run_all(home, list, std::move(work));
    if (home.decisive() != detail::group::none) {
        static_cast<void>(list[home.decisive()]->take());
    }
    std::vector<detail::stored<T>> results;
    results.reserve(list.size());
    for (auto& one : list) {
        results.push_back(one->take());
    }
    co_return results;
}
/// The same for tasks without a result.
inline task<void> when_all(std::vector<task<void>> work) {
    detail::group home(co_await current_context(), detail::group::until::first_failure);
    detail::members<void> list(work.size());
    co_await detail::run_all(home, list, std::move(work));
    if (home.decisive() != detail::group::none) {
        list[home.decisive()]->take();
    }
}

/// The same for any operations, at least one of which is no task: `when_all(socket.recv(buffer),
/// sleep_for(1s))`.
/// Example: examples/cpp/operations.cpp
template <class... As>
    requires detail::some_operations<As...>
auto when_all(As... work) {
    return when_all(detail::as_member(std::move(work))...);
}
/// The same for a tuple of them.
template <operation... As>
auto when_all(std::tuple<As...> work) {
    return std::apply([](As&... each) { return when_all(detail::as_member(std::move(each))...); }, work);
}
/// The same for a list of them, of any kind, whose elements are moved.
template <detail::operation_list R>
auto when_all(R work) {
    return when_all(detail::list_of_tasks(work));
}

/// Runs all until the first has ended; the others are cancelled and joined, and their results dropped. Which
/// one it was is the variant's index(); what types it holds is as for when_all.
///
/// Completes: when all have ended.
/// Fails:     throws the first one's exception, if it ended so; what others throw goes to the loop's failure
///            hook.
/// Cancelled: all are, and the first to end has the result.
/// Owns:      the tasks.
/// Example:   examples/cpp/parallel_ping.cpp
template <class... Ts>
task<std::variant<detail::stored<Ts>...>> when_any(task<Ts>... work) {
    using outcome_type = std::variant<detail::stored<Ts>...>;
    detail::group home(co_await current_context(), detail::group::until::first_end);
    std::tuple<detail::member<Ts>...> list(typename detail::member<Ts>::seed{home, std::move(work)}...);
    co_await detail::run_all(home, list);
    std::optional<outcome_type> outcome;
    detail::visit_at(list, home.decisive(), [&](auto place, auto& first) {
        outcome.emplace(std::in_place_index<decltype(place)::value>, first.take());
    });
    co_return std::move(*outcome);
}

/// Runs the tasks of a list until the first has ended; otherwise the same.
/// Fails: also by std::invalid_argument for an empty list.
template <class T>
    requires(!std::is_void_v<T>)
task<first_of<detail::stored<T>>> when_any(std::vector<task<T>> work) {
    detail::require_some(work.size());
    detail::group home(co_await current_context(), detail::group::until::first_end);
    detail::members<T> list(work.size());
    co_await detail::run_all(home, list, std::move(work));
    co_return first_of<detail::stored<T>>{home.decisive(), list[home.decisive()]->take()};
}
/// The same for tasks without a result.
inline task<first_of<void>> when_any(std::vector<task<void>> work) {
    detail::require_some(work.size());
    detail::group home(co_await current_context(), detail::group::until::first_end);
    detail::members<void> list(work.size());
    co_await detail::run_all(home, list, std::move(work));
    list[home.decisive()]->take();
    co_return first_of<void>{home.decisive()};
}

/// The same for any operations, at least one of which is no task: `when_any(box.receive(), sleep_for(1s))`.
/// One that is not the first has consumed nothing: a value is still in its channel, a connection with its
/// listener, bytes in their socket. What was sent is sent, and what a pool has begun is done.
/// Example: examples/cpp/operations.cpp
template <class... As>
    requires detail::some_operations<As...>
auto when_any(As... work) {
    return when_any(detail::as_member(std::move(work))...);
}
/// The same for a tuple of them.
template <operation... As>
    requires(sizeof...(As) != 0)
auto when_any(std::tuple<As...> work) {
    return std::apply([](As&... each) { return when_any(detail::as_member(std::move(each))...); }, work);
}
/// The same for a list of them, of any kind, whose elements are moved.
/// Fails: also by std::invalid_argument for an empty one.
template <detail::operation_list R>
auto when_any(R work) {
    return when_any(detail::list_of_tasks(work));
}

}  // namespace zloop

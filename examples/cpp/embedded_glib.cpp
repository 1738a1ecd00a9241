// A guest in GLib's main loop: zloop's tasks run beside GTK, or whatever else lives there, on one thread.
//
// A GSource is asked three things, and the loop has an answer to each: `prepare` (is something ready, when is
// the next timer due), `check` (was its descriptor readable), `dispatch` (a turn). Built where there is
// glib-2.0.
#include <algorithm>
#include <cstdio>
#include <thread>

#include <glib.h>

#include <zloop/zloop.hpp>

using namespace std::chrono_literals;

namespace {

/// The loop as a source of events. GLib allocates it, so it holds pointers only.
struct guest_source {
    GSource head;
    zloop::loop* guest;
    gpointer descriptor;  // GLib's name for it

    static guest_source& of(GSource* source) { return *reinterpret_cast<guest_source*>(source); }

    static gboolean prepare(GSource* source, gint* timeout_ms) {
        const zloop::loop& guest = *of(source).guest;
        *timeout_ms = -1;
        if (guest.has_ready()) {
            *timeout_ms = 0;
        } else if (const auto next = guest.next_deadline(); next != zloop::time_point::max()) {
            const auto left =
                std::chrono::ceil<std::chrono::milliseconds>(next - guest.now());  // up: not early
            *timeout_ms = static_cast<gint>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
        }
        return *timeout_ms == 0;
    }

    static gboolean check(GSource* source) {
        const guest_source& self = of(source);
        return self.guest->has_ready() || self.guest->next_deadline() <= self.guest->now() ||
               g_source_query_unix_fd(source, self.descriptor) != 0;
    }

    static gboolean dispatch(GSource* source, GSourceFunc, gpointer) {
        of(source).guest->run_once(0ns);
        return G_SOURCE_CONTINUE;
    }
};

/// A loop in the default context while it lives. The loop has turned before: its kernel knows of all that
/// waits.
class attachment {
public:
    explicit attachment(zloop::loop& guest) : source_(g_source_new(&functions_, sizeof(guest_source))) {
        guest_source& self = guest_source::of(source_);
        self.guest = &guest;
        guest.run_once(0ns);
        self.descriptor = g_source_add_unix_fd(source_, guest.native_handle(), G_IO_IN);
        g_source_attach(source_, nullptr);
    }
    attachment(const attachment&) = delete;
    attachment& operator=(const attachment&) = delete;
    ~attachment() {
        g_source_destroy(source_);
        g_source_unref(source_);
    }

private:
    static inline GSourceFuncs functions_{
        guest_source::prepare, guest_source::check, guest_source::dispatch, nullptr, nullptr, nullptr};
    GSource* source_;
};

zloop::task<> work(GMainLoop* host, int& sum) {
    for (int round = 0; round < 5; ++round) {
        (co_await zloop::sleep_for(3ms)).value();
        sum += (co_await zloop::offload([round] {
                   std::this_thread::sleep_for(3ms);
                   return round;
               })).value();
    }
    g_main_loop_quit(host);
}

gboolean tick(gpointer count) {
    ++*static_cast<int*>(count);
    return G_SOURCE_CONTINUE;
}

}  // namespace

int main() {
    int sum = 0;
    int ticks = 0;
    GMainLoop* const host = g_main_loop_new(nullptr, FALSE);
    const guint ticking = g_timeout_add(2, tick, &ticks);
    {
        zloop::loop guest;
        const attachment attached(guest);
        zloop::spawn(guest, work(host, sum));
        g_main_loop_run(host);
    }
    g_source_remove(ticking);
    g_main_loop_unref(host);
    std::printf("the guest's sum is %d; the host's clock has ticked meanwhile: %s\n", sum,
                ticks != 0 ? "yes" : "no");
    return ticks != 0 && sum == 10 ? 0 : 1;
}

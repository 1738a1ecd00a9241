"""Calls every method and sets every attribute of loops, handles, transports with objects of odd types.

    python every_method.py asyncio|zloop FIRST_SEED COUNT

Whatever is raised is well: what must not happen is a crash, or a hang. Private methods are called as well, of
what runs, from where it runs. On asyncio's loop only the public ones: its own Python trusts the others.
"""

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import random
import signal
import socket
import sys
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda *_: None

NAME, FIRST, COUNT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

# What ends the process, waits for ever, or is about the whole interpreter: no matter of odd objects.
LEFT_ALONE = {
    "__class__", "__del__", "__init_subclass__", "__subclasshook__", "run_forever", "run_until_complete",
    "add_signal_handler", "remove_signal_handler", "shutdown_default_executor", "run_in_executor",
    "subprocess_exec", "subprocess_shell", "set_default_executor", "_watch_in_thread",
    "_process_self_data", "_child_watcher_callback", "_do_shutdown", "_run_forever_setup",
    "_run_forever_cleanup", "_setup_exception_handler", "set_exception_handler", "_exception_handler",
    "default_exception_handler", "call_exception_handler",
}  # fmt: skip


def make_loop():
    if NAME == "asyncio":
        return asyncio.SelectorEventLoop()
    import zloop

    return zloop.new_event_loop()


class Raises:
    """Every question is answered by an exception."""

    def __init__(self, error):
        self.error = error

    def _raise(self, *_, **__):
        raise self.error

    __call__ = __repr__ = __eq__ = __bool__ = __index__ = __float__ = __len__ = __iter__ = _raise
    __hash__ = fileno = __getattr__ = __getitem__ = __await__ = __str__ = _raise


class Acts:
    """Every question does something to the loop, and is answered."""

    def __init__(self, action):
        self.action = action

    def _act(self):
        with contextlib.suppress(Exception):
            self.action()

    def __call__(self, *_, **__):
        self._act()

    def __repr__(self):
        self._act()
        return "acts"

    def __eq__(self, other):
        self._act()
        return False

    def __hash__(self):
        self._act()
        return 1

    def __bool__(self):
        self._act()
        return True

    def __index__(self):
        self._act()
        return 1

    def __float__(self):
        self._act()
        return 0.0

    def __len__(self):
        self._act()
        return 1

    def __iter__(self):
        self._act()
        return iter((b"1", 2))

    def __del__(self):
        self._act()

    def fileno(self):
        self._act()
        return 1 << 20

    def __getattr__(self, name):
        self._act()
        return lambda *_, **__: self._act()


class LyingBytes(bytes):
    def __len__(self):
        return 1 << 40

    def __del__(self):
        gc.collect()


class LyingArray(bytearray):
    def __len__(self):
        return 1 << 40


class Protocol(asyncio.Protocol):
    transport = None

    def connection_made(self, transport):
        self.transport = transport


class Buffered(asyncio.BufferedProtocol):
    def get_buffer(self, hint):
        return bytearray(10)


def odd_objects(rng, loop, things):
    released = memoryview(b"x")
    released.release()

    def collect():
        gc.collect()

    def drop():
        things[rng.randrange(1, len(things))] = None if len(things) > 4 else things[0]

    def schedule():
        loop.call_soon(int)
        loop.call_later(0, int)
        loop.add_reader(0, int)

    def end():
        for each in list(things):
            with contextlib.suppress(Exception):
                each.abort()

    actions = [loop.close, loop.stop, collect, schedule, end, drop]
    return [
        None, True, False, 0, 1, -1, 2**31, 2**63, 2**70, -(2**70), 0.0, -1.0, float("nan"), float("inf"), 1e300,
        "", "x", "a\0b", "\ud800", "é" * 200, b"", b"x" * 100, LyingBytes(b"abc"), bytearray(b"abc"),
        LyingArray(b"abc"), memoryview(b"abcdef")[::2], released, (), (1,), ("127.0.0.1", 1), ("127.0.0.1\0x", 1),
        ("::1", 1, 2, 3), (None, None), [], [b"a", b"b"], [1, "2"], {}, {"a": 1}, {"peername": 1}, set(), object(), int,
        type, asyncio.Protocol, Protocol, Buffered, Protocol(), Buffered(), asyncio.DatagramProtocol(),
        contextvars.copy_context(), lambda *_: None, print, rng.choice(things), rng.choice(things), loop, socket.socket, sys.stdin,
        Raises(ValueError("odd")), Raises(OSError("odd")), Raises(TypeError()), Acts(rng.choice(actions)),
        Acts(rng.choice(actions)), iter([b"1", b"2"]), asyncio.Handle, type(rng.choice(things)), Ellipsis, NotImplemented,
    ]  # fmt: skip


async def make_things(loop, kept):
    """A loop's everything: each kind of object that has C++ behind it."""

    def pair(kind=socket.SOCK_STREAM):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.setblocking(False)
        other.setblocking(False)
        kept.append(other)
        return one

    things = [loop]
    things.append((await loop.connect_accepted_socket(Protocol, pair()))[0])
    things.append((await loop.connect_accepted_socket(Buffered, pair()))[0])
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    things.append(server)
    things.append((await loop.create_connection(Protocol, *server.sockets[0].getsockname()))[0])
    things.append(
        (await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0)))[0]
    )
    things.append(
        (
            await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, sock=pair(socket.SOCK_DGRAM)
            )
        )[0]
    )
    r, w = os.pipe()
    things.append((await loop.connect_read_pipe(Protocol, os.fdopen(r, "rb", 0)))[0])
    things.append((await loop.connect_write_pipe(Protocol, os.fdopen(w, "wb", 0)))[0])
    things.append(loop.call_soon(int))
    things.append(loop.call_later(0.001, int))
    things.append(loop.call_later(1000, int, things))
    things.append(loop.call_soon_threadsafe(int))
    if NAME == "zloop":
        things.append(loop.sock_recv(pair(), 10))
        waiting = loop.sock_recv(pair(), 10)
        waiting.send(None)
        things.append(waiting)
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        tls = loop._new_tls_transport(Protocol(), context, None, False, None, 60.0, 30.0, True)
        things.append(tls)
        things.append((await loop.connect_accepted_socket(lambda: tls, pair()))[0])
    return things


def names_of(thing):
    private = NAME == "zloop"
    return [
        name
        for name in dir(type(thing))
        if name not in LEFT_ALONE and (private or not name.startswith("_"))
    ]


def disturb(rng, loop, things):
    """One call, or one attribute set or deleted."""
    thing = rng.choice([each for each in things if each is not None])
    name = rng.choice(names_of(thing))
    odd = odd_objects(rng, loop, things)
    what = rng.random()
    if what < 0.08:
        setattr(thing, name, rng.choice(odd)) if name != "__dict__" else None
        with contextlib.suppress(Exception):
            delattr(thing, name)  # else what is set hides the method for good
    elif what < 0.12:
        for base in type(thing).__mro__[1:]:  # asyncio's own descriptor of the slot
            slot = base.__dict__.get(name)
            if type(slot).__name__ == "member_descriptor":
                slot.__delete__(thing) if rng.random() < 0.3 else slot.__set__(
                    thing, rng.choice(odd)
                )
    else:
        value = getattr(thing, name)
        if callable(value):
            arguments = [
                rng.choice(odd) for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 8)))
            ]
            if name in ("close", "_drop", "abort", "_force_close", "orphan") and rng.random() < 0.8:
                return
            result = value(*arguments)
            if asyncio.iscoroutine(result) and rng.random() < 0.7:
                with contextlib.suppress(Exception):
                    result.send(None)
            if (
                hasattr(result, "close")
                and not isinstance(result, type(loop))
                and result is not None
            ):
                with contextlib.suppress(Exception):
                    result.close() if not isinstance(result, type(thing)) else None


def scenario(seed):
    rng = random.Random(seed)
    loop = make_loop()
    loop.set_exception_handler(lambda *_: None)
    if rng.random() < 0.2:
        loop.set_debug(True)
    kept = []
    things = loop.run_until_complete(make_things(loop, kept))

    def step():
        for _ in range(20):
            try:
                disturb(rng, loop, things)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                pass

    def turn():
        try:
            type(loop).call_soon(loop, step)
            type(loop).call_later(loop, 0.0005, type(loop).stop, loop)
            type(loop).run_forever(loop)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            pass

    for _ in range(4):
        step()  # outside of the loop
        turn()  # and in a callback
    with contextlib.suppress(BaseException):
        type(loop).close(loop)
    step()
    for sock in kept:
        sock.close()


keep_open = [os.dup(fd) for fd in (0, 1, 2)]
gc.collect()
gc.freeze()  # the destructors here collect, often
for seed in range(FIRST, FIRST + COUNT):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    os.write(keep_open[1], b"%d " % seed)
    scenario(seed)
    gc.collect()  # all of it
os.write(keep_open[1], b"done\n")
os._exit(0)

"""Each capability while memory runs out, at each place in turn: python no_memory.py HOW CAPABILITY MOST

HOW is `python`: _testcapi.set_nomemory() makes Python's allocators fail, or `new`: a library in LD_PRELOAD makes
operator new fail. An operation may fail, a connection may end; the process does not, and the loop goes on.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import faulthandler
import gc
import io
import logging
import os
import socket
import sys
import warnings

import zloop

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda *_: None

HOW, CAPABILITY, MOST = sys.argv[1], sys.argv[2], int(sys.argv[3])

if HOW == "python":
    import _testcapi

    def begin(first, count):
        _testcapi.set_nomemory(first, first + count)

    end = _testcapi.remove_mem_hooks
else:
    library = ctypes.CDLL(os.environ["LD_PRELOAD"].split()[0])
    first_and_last = [ctypes.c_long.in_dll(library, name) for name in ("fails_first", "fails_last")]
    asked = ctypes.c_long.in_dll(library, "asked")

    def begin(first, count):
        asked.value = 0
        first_and_last[1].value = first + count
        first_and_last[0].value = first

    def end():
        first_and_last[0].value = 0


def quiet(*_):
    return None


def make_loop():
    loop = zloop.new_event_loop()
    loop.set_exception_handler(quiet)
    return loop


def turn(loop, seconds=0.0005):
    loop.call_later(seconds, loop.stop)
    loop.run_forever()


def tcp():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        return bytearray(100)

    def buffer_updated(self, count):
        self.transport.write(b"x" * count)


# Each: what is there before (a dict with "loop"), and what is done while memory runs out.


def schedule():
    loop = make_loop()
    yield {"loop": loop}
    for _ in range(20):
        loop.call_soon(quiet)
        loop.call_soon(quiet, 1, 2, 3, 4, 5, 6)
        loop.call_later(0, quiet)
        loop.call_later(100, quiet).cancel()
        loop.call_soon_threadsafe(quiet)
    turn(loop)


def watch():
    loop = make_loop()
    pairs = [socket.socketpair() for _ in range(4)]
    yield {"loop": loop, "open": pairs}
    for one, other in pairs:
        loop.add_reader(one, quiet)
        loop.add_reader(one, quiet)
        loop.add_writer(other, quiet)
    turn(loop)
    for one, _ in pairs:
        loop.remove_reader(one)


def connect():
    loop = make_loop()
    one, other = tcp()
    yield {"loop": loop, "open": [(one, other)]}
    loop.run_until_complete(loop.connect_accepted_socket(Echo, one))
    other.send(b"x")
    turn(loop)


def stream(factory=Echo):
    loop = make_loop()
    one, other = tcp()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(factory, one))
    yield {"loop": loop, "open": [(one, other)]}
    other.send(b"x" * 100)
    turn(loop)
    transport.write(b"y" * 4_000_000)
    transport.writelines([b"z" * 10] * 20)
    transport.pause_reading()
    transport.resume_reading()
    turn(loop)
    with contextlib.suppress(BlockingIOError):
        other.recv(1 << 22)
    turn(loop)
    transport.get_extra_info("socket")
    repr(transport)
    transport.close()
    turn(loop)


def buffered_stream():
    return stream(BufferedEcho)


def serve():
    loop = make_loop()
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
    peers = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
    yield {"loop": loop, "open": [peers], "server": server}
    turn(loop)
    for peer in peers:
        peer.send(b"x")
    turn(loop)


def datagrams():
    loop = make_loop()
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    )
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    name = transport.get_extra_info("sockname")
    peer.bind(("127.0.0.1", 0))
    yield {"loop": loop, "open": [(peer,)]}
    for _ in range(5):
        peer.sendto(b"x", name)
        transport.sendto(b"y", peer.getsockname())
    turn(loop)
    transport.close()
    turn(loop)


def pipes():
    loop = make_loop()
    r, w = os.pipe()
    reading, writing = os.fdopen(r, "rb", 0), os.fdopen(w, "wb", 0)
    yield {"loop": loop, "open": [(reading, writing)]}
    loop.run_until_complete(loop.connect_read_pipe(Echo, reading))
    transport, _ = loop.run_until_complete(loop.connect_write_pipe(asyncio.Protocol, writing))
    transport.write(b"x" * 300_000)
    transport.write(b"x")
    turn(loop)


def sock_calls():
    loop = make_loop()
    one, other = tcp()
    yield {"loop": loop, "open": [(one, other)]}

    async def both():
        first = loop.create_task(loop.sock_recv(one, 10))
        second = loop.create_task(loop.sock_recv(one, 10))
        await asyncio.sleep(0)
        await loop.sock_sendall(other, b"x" * 20)
        await first
        await second

    loop.run_until_complete(asyncio.wait_for(both(), 0.2))


def send_file():
    loop = make_loop()
    one, other = tcp()
    transport, _ = loop.run_until_complete(loop.connect_accepted_socket(Echo, one))
    file = io.FileIO(__file__)
    yield {"loop": loop, "open": [(one, other, file)]}
    loop.run_until_complete(asyncio.wait_for(loop.sendfile(transport, file), 0.2))


def tls():
    import ssl

    certificate = os.environ["CERTIFICATE"]
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    loop = make_loop()
    server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context))
    name = server.sockets[0].getsockname()
    yield {"loop": loop, "server": server}
    connecting = loop.create_connection(asyncio.Protocol, *name, ssl=context)
    transport, _ = loop.run_until_complete(asyncio.wait_for(connecting, 0.3))
    transport.write(b"x" * 300_000)
    transport.write(b"y")
    turn(loop)
    transport.close()
    turn(loop)


def make():
    yield {}
    make_loop().close()


def sweep(capability):
    for count in (1, 50):
        for first in range(1, MOST):
            steps = capability()
            there = next(steps)
            if "loop" in there:  # what waits for who was lost with the memory, gives up
                there["loop"].call_later(0.05, there["loop"].stop)
            try:
                begin(first, count)
                try:
                    next(steps, None)
                finally:
                    end()
            except Exception:
                pass  # SystemError too: CPython's own, in some places of C
            steps.close()
            asyncio._set_running_loop(None)  # run_forever() may have failed to do so
            if "server" in there:
                there["server"].close()
            if "loop" in there:  # which still works
                loop = there["loop"]
                loop._thread_id = None  # likewise
                with contextlib.suppress(MemoryError, OSError, RuntimeError):
                    turn(loop)
                ran = []
                loop.call_soon(ran.append, 1)
                loop.call_soon(loop.stop)
                with contextlib.suppress(MemoryError, OSError):
                    loop.run_forever()
                while not ran:
                    loop.call_soon(loop.stop)
                    loop.run_forever()
                loop.close()
            for group in there.get("open", ()):
                for each in group:
                    each.close()
            del there, steps
        gc.collect()


faulthandler.enable()
faulthandler.dump_traceback_later(100, exit=True)
contextvars.copy_context()  # a thread that has none yet: CPython 3.11 crashes without memory for it
sweep(globals()[CAPABILITY])
print("done")

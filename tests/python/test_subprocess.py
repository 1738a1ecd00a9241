"""What child processes promise: every option of Popen, real pipes, an end that is told once."""

from __future__ import annotations

import asyncio
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from unittest import mock

import pytest
from helpers import PATIENCE, check_program, kernel_was_asked, turns
from test_memory_safety import check

import zloop

PIPE = asyncio.subprocess.PIPE
DEVNULL = asyncio.subprocess.DEVNULL
POLICIES = sys.version_info < (3, 14)  # a user can choose who watches children


def python(source):
    """A program, as arguments."""
    return sys.executable, "-c", source


async def run(*args, **options):
    """The exit code and what a child has written."""
    child = await asyncio.create_subprocess_exec(*args, stdout=PIPE, **options)
    written, _ = await asyncio.wait_for(child.communicate(), PATIENCE)
    return child.returncode, written


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.written = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.calls.append(("connection_made",))

    def pipe_data_received(self, fd, data):
        self.written = data
        self.calls.append(("pipe_data_received", fd, data))

    def pipe_connection_lost(self, fd, exc):
        self.calls.append(("pipe_connection_lost", fd, exc))

    def process_exited(self):
        self.calls.append(("process_exited",))

    def connection_lost(self, exc):
        self.calls.append(("connection_lost", exc))
        self.lost.set_result(None)


def has_zombies():
    """Whether a child of ours has ended and nobody has asked for its state."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


@pytest.fixture(autouse=True)
def no_zombies():
    yield
    assert not has_zombies()


# The end of a child.


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_wait_returns_the_exit_code(loop, code):
    child = await asyncio.create_subprocess_shell(f"exit {code}")
    assert await child.wait() == code
    assert child.returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
async def test_a_child_that_a_signal_ends_has_it_as_its_negative_code(loop, number):
    child = await asyncio.create_subprocess_exec("sleep", "100")
    child.send_signal(number)
    assert await child.wait() == -number


async def test_terminate_and_kill_send_their_signals(loop):
    one = await asyncio.create_subprocess_exec("sleep", "100")
    other = await asyncio.create_subprocess_exec("sleep", "100")
    one.terminate()
    other.kill()
    assert await one.wait() == -signal.SIGTERM
    assert await other.wait() == -signal.SIGKILL


async def test_many_can_wait_for_one_child(loop):
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    waiting = [loop.create_task(child.wait()) for _ in range(100)]
    impatient = waiting.pop()
    await turns(2)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    child.stdin.close()
    assert await asyncio.gather(*waiting) == [0] * 99
    assert await child.wait() == 0


async def test_signals_after_the_end_find_no_process(loop):
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    await turns(3)
    for send in (child.kill, child.terminate, lambda: child.send_signal(0)):
        with pytest.raises(ProcessLookupError):
            send()


async def test_a_stopped_child_has_not_ended(loop):
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    await kernel_was_asked()
    assert child.returncode is None
    child.send_signal(signal.SIGCONT)
    child.stdin.close()
    assert await child.wait() == 0


async def test_no_zombie_stays(loop):
    await asyncio.gather(*[run("true") for _ in range(20)])
    assert not has_zombies()


async def test_a_handler_of_sigchld_does_not_disturb(loop):
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, told.set)
    child = await asyncio.create_subprocess_shell("exit 3")
    assert await child.wait() == 3
    await asyncio.wait_for(told.wait(), PATIENCE)
    loop.remove_signal_handler(signal.SIGCHLD)


def test_children_of_a_loop_in_another_thread(new_loop):
    results = []

    def work():
        loop = new_loop()
        results.append(loop.run_until_complete(run("echo", "hello")))
        loop.close()  # here: on io_uring no other thread may turn it

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [(0, b"hello\n")]


# What passes through the pipes.


async def test_communicate_carries_megabytes_both_ways(loop):
    sent = os.urandom(3_000_000)
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert await child.communicate(sent) == (sent, None)
    assert child.returncode == 0


async def test_output_and_errors_come_apart_or_together(loop):
    line = "echo out; echo err >&2"
    child = await asyncio.create_subprocess_shell(line, stdout=PIPE, stderr=PIPE)
    assert await child.communicate() == (b"out\n", b"err\n")
    child = await asyncio.create_subprocess_shell(
        line, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert await child.communicate() == (b"out\nerr\n", None)


async def test_the_pipes_are_pipes(loop):
    source = """if True:
        import os, stat, sys
        sys.stdout.write(repr([stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (0, 1, 2)]))
    """
    child = await asyncio.create_subprocess_exec(
        *python(source), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert await child.communicate() == (b"[True, True, True]", b"")


async def test_a_conversation_line_by_line(loop):
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for number in range(100):
        child.stdin.write(b"%d\n" % number)
        await child.stdin.drain()
        assert await child.stdout.readline() == b"%d\n" % number
    child.stdin.close()
    await child.stdin.wait_closed()
    assert await child.stdout.read() == b""
    assert await child.wait() == 0


async def test_a_child_that_does_not_read_slows_its_writer(loop):
    child = await asyncio.create_subprocess_exec("sleep", "100", stdin=PIPE)
    child.stdin.write(bytes(1_000_000))
    drained = loop.create_task(child.stdin.drain())
    await kernel_was_asked()
    assert not drained.done()
    child.kill()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await drained
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_that_ends_without_reading_breaks_the_pipe(loop):
    child = await asyncio.create_subprocess_exec("true", stdin=PIPE)
    await child.wait()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            child.stdin.write(b"x" * 1000)
            await child.stdin.drain()


async def test_files_sockets_and_nothing_as_streams(loop, tmp_path):
    (tmp_path / "in").write_bytes(b"from a file")
    ours, theirs = socket.socketpair()
    with (tmp_path / "in").open("rb") as source, ours, theirs:
        child = await asyncio.create_subprocess_exec(
            "cat", stdin=source, stdout=theirs, stderr=DEVNULL
        )
        assert await child.wait() == 0
        assert ours.recv(100) == b"from a file"
    child = await asyncio.create_subprocess_exec("cat", stdin=DEVNULL, stdout=PIPE)
    assert (child.stdin, child.stderr) == (None, None)
    assert await child.communicate() == (b"", None)


# The transport.


async def test_the_protocol_is_told_all_in_order(loop):
    transport, protocol = await loop.subprocess_shell(Recorder, "echo out; echo err >&2")
    await asyncio.wait_for(protocol.lost, PATIENCE)
    assert protocol.calls[0] == ("connection_made",)
    assert protocol.calls[-1] == ("connection_lost", None)
    assert sorted(call for call in protocol.calls[1:-1] if len(call) == 3 and call[2]) == [
        ("pipe_data_received", 1, b"out\n"),
        ("pipe_data_received", 2, b"err\n"),
    ]
    assert protocol.calls.count(("process_exited",)) == 1
    for fd in (0, 1, 2):
        assert protocol.calls.count(("pipe_connection_lost", fd, None)) == 1
    transport.close()


async def test_connection_lost_waits_for_pipes_that_a_grandchild_keeps_open(loop):
    transport, protocol = await loop.subprocess_shell(
        Recorder, "sleep 100 & echo $!", stdin=None, stderr=None
    )
    while protocol.written is None or ("process_exited",) not in protocol.calls:
        await asyncio.sleep(0.001)
    grandchild = int(protocol.written)
    await kernel_was_asked()
    assert transport.get_returncode() == 0
    assert not protocol.lost.done()
    os.kill(grandchild, signal.SIGKILL)
    await asyncio.wait_for(protocol.lost, PATIENCE)
    transport.close()


async def test_what_a_transport_knows(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "cat", stderr=None)
    popen = transport.get_extra_info("subprocess")
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert isinstance(popen, subprocess.Popen)
    assert transport.get_pid() == popen.pid
    assert transport.get_returncode() is None
    assert isinstance(transport.get_pipe_transport(0), asyncio.WriteTransport)
    assert isinstance(transport.get_pipe_transport(1), asyncio.ReadTransport)
    assert transport.get_pipe_transport(2) is None
    assert transport.get_pipe_transport(0).get_extra_info("pipe") is popen.stdin
    assert transport.get_protocol() is protocol
    assert f"pid={popen.pid} running" in repr(transport)
    assert not transport.is_closing()
    transport.get_pipe_transport(0).close()
    await asyncio.wait_for(protocol.lost, PATIENCE)
    assert transport.get_returncode() == popen.returncode == 0
    transport.close()


async def test_close_kills_a_child_that_still_runs(loop):
    transport, protocol = await loop.subprocess_exec(Recorder, "sleep", "100")
    transport.close()
    assert transport.is_closing()
    await asyncio.wait_for(protocol.lost, PATIENCE)
    assert transport.get_returncode() == -signal.SIGKILL


async def test_a_start_that_is_cancelled_leaves_no_child(loop):
    before = threading.active_count()
    task = loop.create_task(asyncio.create_subprocess_exec("sleep", "100", stdin=PIPE, stdout=PIPE))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not has_zombies()
    while threading.active_count() > before:  # asyncio's watchers
        await asyncio.sleep(0.001)


@pytest.mark.filterwarnings("ignore:.*is deprecated as of Python 3.12:DeprecationWarning")
async def test_debug_mode_names_the_program_and_its_end(loop, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    loop.slow_callback_duration = 10
    await run("true")
    loop.set_debug(False)
    said = [record.getMessage() for record in caplog.records]
    assert any(words.startswith("process 'true' created: pid ") for words in said)
    assert any("exited with return code 0" in words for words in said)


# Popen's options.


@pytest.mark.parametrize(
    "program",
    ["echo", b"echo", pathlib.Path("/bin/echo"), pathlib.PurePosixPath("/bin/echo")],
    ids=repr,
)
async def test_the_program_may_be_text_bytes_or_a_path(loop, program):
    assert await run(program, "hello") == (0, b"hello\n")
    assert await run(program, b"hello") == (0, b"hello\n")


async def test_a_shell_takes_text_and_bytes(loop):
    for line in ("echo $0 x", b"echo $0 x"):
        child = await asyncio.create_subprocess_shell(line, stdout=PIPE)
        assert await child.communicate() == (b"/bin/sh x\n", None)


async def test_the_environment_and_the_folder(loop, tmp_path):
    line = "import os; print(sorted(os.environ), os.getcwd())"
    _, written = await run(
        *python(line), env={"ONLY": "this", "LC_ALL": "C"}, cwd=pathlib.Path(tmp_path)
    )
    assert written.decode() == f"['LC_ALL', 'ONLY'] {tmp_path}\n"


async def test_descriptors_are_passed_or_closed_or_inherited(loop):
    r, w = os.pipe()
    os.set_inheritable(w, True)
    program = python(f"import os; os.write({w}, b'through')")
    try:
        code, _ = await run(*program, stderr=DEVNULL)
        assert code == 1
        for options in ({"pass_fds": [w]}, {"close_fds": False}):
            assert await run(*program, **options) == (0, b"")
            assert os.read(r, 100) == b"through"
    finally:
        os.close(r), os.close(w)


@pytest.mark.parametrize("restore", [True, False])
async def test_ignored_signals_are_restored_or_not(loop, restore):
    _, written = await run("grep", "SigIgn", "/proc/self/status", restore_signals=restore)
    ignored = int(written.split()[1], 16)
    assert bool(ignored & 1 << signal.SIGPIPE - 1) is not restore


ABOUT = "import os, sys; print(%s)"


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({"start_new_session": True}, "os.getsid(0) == os.getpid()", "True"),
        ({"process_group": 0}, "os.getpgid(0) == os.getpid()", "True"),
        ({"umask": 0o027}, "oct(os.umask(0))", "0o27"),
        ({"executable": sys.executable}, "sys.executable != sys.argv[0]", "True"),
        ({"preexec_fn": lambda: os.nice(3)}, "os.nice(0) >= 3", "True"),
        ({"pipesize": 8192}, "__import__('fcntl').fcntl(1, 1032)", "8192"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_option_of_popen_passes_through(loop, options, asked, expected):
    _, written = await run(*python(ABOUT % asked), **options)
    assert written.decode().split() == [expected]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_and_other_groups(loop):
    line = "id -u; id -g; id -G"  # no Python: it may be where only root can look
    code, written = await run("/bin/sh", "-c", line, user=12345, group=23456, extra_groups=[34567])
    assert (code, written.split()) == (0, [b"12345", b"23456", b"23456", b"34567"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
        ({"bufsize": 4096}, "bufsize must be 0"),
        ({"shell": True}, "shell must be False"),
    ],
)
async def test_options_that_asyncio_refuses(loop, options, words):
    with pytest.raises(ValueError, match=words):
        await asyncio.create_subprocess_exec("true", **options)


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        (("/no/such/program",), {}, FileNotFoundError),
        (("/etc/passwd",), {}, PermissionError),
        (("true",), {"cwd": "/no/such/folder"}, FileNotFoundError),
        (("tr\0ue",), {}, ValueError),
        ((7,), {}, TypeError),
        (("true",), {"no_such_option": 1}, TypeError),
        (("true",), {"preexec_fn": lambda: 1 / 0}, subprocess.SubprocessError),
    ],
)
async def test_what_cannot_start_fails_and_leaves_nothing(loop, args, options, error):
    with pytest.raises(error):
        await asyncio.create_subprocess_exec(*args, stdin=PIPE, stdout=PIPE, **options)
    assert not has_zombies()


# What asyncio's watchers do not promise, or not in each version.


async def test_no_thread_is_started(zloop_loop):
    before = threading.active_count()
    children = [await asyncio.create_subprocess_exec("cat", stdin=PIPE) for _ in range(10)]
    assert threading.active_count() == before
    for child in children:
        child.stdin.close()
        assert await child.wait() == 0


async def test_a_signal_never_reaches_who_has_the_number_after_the_child(zloop_loop):
    transport, protocol = await zloop_loop.subprocess_shell(
        Recorder, "sleep 100 & echo $!", stdin=None, stderr=None
    )
    with mock.patch("os.kill") as kill:
        while protocol.written is None or ("process_exited",) not in protocol.calls:
            transport.send_signal(0)
            await asyncio.sleep(0.001)
        transport.kill()  # reaped; the grandchild keeps the transport alive
        transport.terminate()
        assert not kill.called
    os.kill(int(protocol.written), signal.SIGKILL)
    await asyncio.wait_for(protocol.lost, PATIENCE)
    transport.close()


async def child_that_ends_unseen(code):
    """A child that has ended, and the loop has had no turn to find out."""
    r, w = os.pipe()
    child = await asyncio.create_subprocess_shell(f"read _; exit {code}", stdin=r)
    os.close(r), os.close(w)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


async def test_a_signal_to_a_child_that_has_just_ended_does_not_change_its_end(zloop_loop):
    child = await child_that_ends_unseen(7)
    child.kill()
    assert await child.wait() == 7


async def test_an_end_that_popen_saw_first_is_reported_right(zloop_loop):
    child = await child_that_ends_unseen(7)
    assert child._transport.get_extra_info("subprocess").poll() == 7
    assert await child.wait() == 7


async def test_an_end_that_a_stranger_saw_first_is_255(zloop_loop, caplog):
    child = await child_that_ends_unseen(7)
    os.waitpid(child.pid, 0)
    assert await child.wait() == 255
    (record,) = caplog.records
    assert "exit status already read" in record.getMessage()


async def test_without_a_pidfd_a_thread_watches(zloop_loop):
    with mock.patch("os.pidfd_open", side_effect=OSError(24, "Too many open files")):
        child = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        other = await asyncio.create_subprocess_exec("sleep", "100")
    child.stdin.close()
    assert await child.wait() == 0
    other.kill()
    assert await other.wait() == -signal.SIGKILL


async def test_where_the_loop_cannot_watch_a_pidfd_a_thread_watches(zloop_loop):
    full = OSError(28, "No space left on device")  # as fs.epoll.max_user_watches has it
    with mock.patch.object(zloop_loop, "_add_reader", side_effect=full):
        child = await asyncio.create_subprocess_shell("exit 5")
    assert await child.wait() == 5


def test_where_there_are_no_pidfds_children_are_watched_all_the_same():
    check_program("""
    import os
    del os.pidfd_open
    import asyncio, zloop

    async def main():
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert await child.communicate(b"hello") == (b"hello", None)
        assert child.returncode == 0
        child = await asyncio.create_subprocess_exec("sleep", "100")
        child.kill()
        assert await child.wait() == -9

    zloop.run(main())
    """)


async def test_ctrl_c_while_a_child_starts_is_not_waited_for(loop):
    transports = []
    made = mock.Mock(side_effect=transports.append)
    protocol = mock.Mock(spec=asyncio.SubprocessProtocol, connection_made=made)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"))
    starting = loop.subprocess_exec(lambda: protocol, "sleep", "100", **streams)
    starting.send(None)

    with pytest.raises(KeyboardInterrupt):
        starting.throw(KeyboardInterrupt)

    await turns(3)
    (transport,) = transports
    transport.close()
    await asyncio.wait_for(transport._wait(), PATIENCE)


@pytest.mark.skipif(not POLICIES, reason="from 3.14 on asyncio alone watches children")
@pytest.mark.filterwarnings("ignore:.*is deprecated as of Python 3.12:DeprecationWarning")
class TestWatchersThatAUserHasSet:
    @pytest.fixture
    def watcher(self):
        class Watcher(asyncio.ThreadedChildWatcher):
            def __init__(self):
                super().__init__()
                self.active = True
                self.watched = []

            def is_active(self):
                return self.active

            def add_child_handler(self, pid, callback, *args):
                self.watched.append(pid)
                super().add_child_handler(pid, callback, *args)

        policy = asyncio.get_event_loop_policy()
        before, policy._watcher = policy._watcher, Watcher()
        yield policy._watcher
        policy._watcher = before

    async def test_it_watches(self, loop, watcher):
        child = await asyncio.create_subprocess_shell("exit 5")
        assert await child.wait() == 5
        assert watcher.watched == [child.pid]

    async def test_a_policy_may_choose_it_each_time(self, loop, watcher):
        class Policy(asyncio.DefaultEventLoopPolicy):
            def get_child_watcher(self):
                return watcher

        before = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(Policy())
        try:
            child = await asyncio.create_subprocess_shell("exit 5")
            assert await child.wait() == 5
        finally:
            asyncio.set_event_loop_policy(before)
        assert watcher.watched == [child.pid]

    async def test_nothing_starts_while_it_is_not_active(self, loop, watcher):
        watcher.active = False
        with pytest.raises(
            RuntimeError, match="is not activated, subprocess support is not installed"
        ):
            await asyncio.create_subprocess_exec("true")

    async def test_the_policy_has_it(self, loop, watcher):
        assert asyncio.get_child_watcher() is watcher


@pytest.mark.slow
def test_a_thousand_children_at_once_need_a_descriptor_each():
    source = """
    import asyncio, os, resource, signal, sys, zloop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 60  # in debug mode it would tell
        r, w = os.pipe()
        children = [await asyncio.create_subprocess_exec("cat", stdin=r, stdout=-3) for _ in range(1000)]
        os.close(r)
        assert len({child.pid for child in children}) == 1000
        assert all(child.returncode is None for child in children)
        children[0].kill()
        assert await children[0].wait() == -signal.SIGKILL
        waits = [asyncio.create_task(child.wait()) for child in children[1:]]
        await asyncio.sleep(0)
        os.close(w)  # now they end
        assert await asyncio.gather(*waits) == [0] * 999
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            print("no zombies")

    zloop.run(main())
    """
    assert check_program(source, timeout=90) == "no zombies\n"


def test_a_loop_that_is_closed_over_its_children_leaves_no_descriptor_and_no_child():
    check("""
    warnings.simplefilter("ignore", ResourceWarning)  # that they were open is the point
    before = len(os.listdir("/proc/self/fd"))
    loop = zloop.new_event_loop()

    async def main():
        return [await asyncio.create_subprocess_exec("sleep", "100") for _ in range(5)]

    children = loop.run_until_complete(main())
    loop.close()
    pids = [child.pid for child in children]
    del children, main, loop
    gc.collect()
    for pid in pids:
        try:
            assert os.waitpid(pid, 0)[1] == 9
        except ChildProcessError:
            pass  # Popen has reaped it already
    assert len(os.listdir("/proc/self/fd")) == before
    """)


def test_anything_may_be_done_to_a_child_in_any_callback():
    check("""
    ACTIONS = {
        "close": lambda t: t.close(),
        "kill": lambda t: t.kill(),
        "close stdin": lambda t: t.get_pipe_transport(0) and t.get_pipe_transport(0).close(),
        "abort stdin": lambda t: t.get_pipe_transport(0) and t.get_pipe_transport(0).abort(),
        "close stdout": lambda t: t.get_pipe_transport(1) and t.get_pipe_transport(1).close(),
        "raise": lambda t: 1 / 0,
        "collect": lambda t: gc.collect(),
        "poll": lambda t: t.get_extra_info("subprocess").poll(),
        "forget": lambda t: None,
    }
    HOOKS = ["connection_made", "pipe_data_received", "pipe_connection_lost", "process_exited",
             "connection_lost"]

    class Acting(asyncio.SubprocessProtocol):
        transport = None

    def acting(name):
        def method(self, *args):
            if name == "connection_made":
                self.transport = args[0]
            try:
                if self.hook == name:
                    ACTIONS[self.action](self.transport)
            except ProcessLookupError:
                pass
            finally:
                if name == "connection_lost":
                    self.transport = None
                    self.lost.set_result(None)
        return method

    for name in HOOKS:
        setattr(Acting, name, acting(name))

    async def one(hook, action):
        loop = asyncio.get_running_loop()
        protocol = Acting()
        protocol.hook, protocol.action, protocol.lost = hook, action, loop.create_future()
        transport, _ = await loop.subprocess_exec(lambda: protocol, "cat")
        if stdin := transport.get_pipe_transport(0):
            stdin.write(b"hello")
            await asyncio.sleep(0.001)
            if not transport.is_closing():
                stdin.close()
        del transport, stdin
        await asyncio.wait_for(protocol.lost, 10)

    async def main():
        quiet(asyncio.get_running_loop())
        for hook in HOOKS:
            await asyncio.gather(*[one(hook, action) for action in ACTIONS])
        gc.collect()

    warnings.simplefilter("ignore", ResourceWarning)
    zloop.run(main(), debug=False)
    """)


def children():
    """Those of this process that were not reaped."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


@pytest.fixture
def lifeline():
    """A descriptor that is readable once the test is over: whoever waits for that ends then."""
    reading, writing = os.pipe()
    yield reading
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("program", ["exec cat <&{0}", "cat <&{0} & exec cat <&{0}", "exit 3"])
@pytest.mark.parametrize("options", [{}, {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}])
def test_a_program_that_ends_while_a_child_is_being_started_ends(program, options, lifeline):
    """asyncio.run() cancels what starts the child and what connects its pipes. (asyncio's may wait for ever.)"""

    async def main(count):
        starting = asyncio.create_task(
            asyncio.create_subprocess_shell(
                program.format(lifeline), pass_fds=[lifeline], **options
            )
        )
        await turns(count)
        return starting

    async def cancel_all():
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end(child):
        child._transport.close()
        await child.wait()

    before = children()
    for count in range(12):
        with asyncio.Runner(loop_factory=zloop.new_event_loop) as runner:
            starting = runner.run(main(count))
            runner.run(cancel_all())
            assert starting.done()
            if not starting.cancelled():  # it was as fast
                runner.run(end(starting.result()))
    assert children() == before


async def test_a_start_that_is_cancelled_waits_for_no_grandchild(zloop_loop, lifeline):
    """It may have a pipe's other end for as long as it likes."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_shell(
            f"cat <&{lifeline} & exec cat <&{lifeline}", pass_fds=[lifeline], stdout=PIPE
        )
    )
    await turns(1)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, PATIENCE)

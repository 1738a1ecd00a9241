"""Child processes: asyncio's transport, but what tells of the end is a pidfd that our loop watches.

subprocess.Popen starts the child, with every option that it has. The pidfd also sends the signals and
reaps: whoever has the pid's number by then is never hit, and nobody else's child is waited for. It
replaces the watcher that asyncio takes by itself, which before 3.12 is a thread a child. One that the
user has set goes on to serve; so does a thread where the kernel has no pidfd to spare.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal as signals
import sys
import warnings
from asyncio import events, unix_events
from asyncio.log import logger
from typing import Any


@functools.cache
def _pidfds_work() -> bool:
    """Whether the kernel (Linux 5.4), and whoever restricts us, has all that we do with one."""
    try:
        own = os.pidfd_open(os.getpid())
        try:
            signals.pidfd_send_signal(own, 0)
            with contextlib.suppress(ChildProcessError):  # we are not ours: it knows what was asked
                os.waitid(os.P_PIDFD, own, os.WEXITED | os.WNOHANG)
        finally:
            os.close(own)
    except (AttributeError, OSError):
        return False
    return True


def is_ours_to_watch(loop: Any) -> bool:
    """Whether nobody but asyncio itself has chosen who watches the loop's children."""
    if not _pidfds_work():
        return False
    if sys.version_info >= (3, 14):
        return type(loop._watcher) is unix_events._PidfdChildWatcher
    policy = events.get_event_loop_policy()
    stock = unix_events._UnixDefaultEventLoopPolicy
    if getattr(type(policy), "get_child_watcher", None) is not stock.get_child_watcher:
        return False
    watcher = policy._watcher  # asking for it would make one
    chosen_by_asyncio = (
        unix_events.ThreadedChildWatcher
        if sys.version_info < (3, 12)
        else unix_events.PidfdChildWatcher
    )
    return watcher is None or type(watcher) is chosen_by_asyncio


def thread_watcher() -> Any:
    """asyncio's watcher with a thread a child."""
    if sys.version_info >= (3, 14):
        return unix_events._ThreadedChildWatcher()
    return unix_events.ThreadedChildWatcher()


class ChildTransport(unix_events._UnixSubprocessTransport):
    """An asyncio.SubprocessTransport."""

    _pidfd: int | None = None  # -1 once the child is reaped; None while a thread watches it
    _connecting: asyncio.Task[None] | None = None  # connects the pipes, once it has begun
    _exited: asyncio.Future[None] | None = None  # for _end()

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        self._connecting = asyncio.current_task()
        await super()._connect_pipes(waiter)

    def _process_exited(self, returncode: int) -> None:
        super()._process_exited(returncode)
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(None)

    async def _end(self) -> None:
        """Wait for the end of a child that was closed while it was being started.

        Who ends the program cancels its start and what connects its pipes: some may be connected and others
        not, for ever. Then the connection is never lost, for which asyncio's _wait() may wait.
        """
        if self._returncode is None:
            self._exited = self._loop.create_future()
            await self._exited
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        child = self._proc
        if child is None:  # all was connected, and is lost already
            return
        for number, file in enumerate((child.stdin, child.stdout, child.stderr)):
            connected = self._pipes.get(number)
            if connected is not None:
                connected.pipe.close()  # a grandchild may have the other end
            elif file is not None:
                file.close()

    def _start(self, **options: Any) -> None:
        super()._start(**options)
        pid = self._proc.pid
        try:
            pidfd = os.pidfd_open(pid)
            try:
                self._loop._add_reader(pidfd, self._ended)
            except BaseException:
                os.close(pidfd)
                raise
        except OSError:  # no descriptor left
            self._loop._watch_in_thread(pid, self)
        else:
            self._pidfd = pidfd

    def _ended(self) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        self._loop._remove_reader(pidfd)
        try:
            # A look by the pidfd: the number is still the child's when waitpid() asks by it.
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:
            returncode = self._proc.returncode  # Popen.poll() was faster, or a stranger
            if returncode is None:
                returncode = 255
                logger.warning(
                    "child process pid %d exit status already read:  will report returncode 255",
                    self._pid,
                )
        else:
            returncode = os.waitstatus_to_exitcode(status)
            self._proc.returncode = returncode  # at once: Popen leaves the pid alone from here on
        finally:
            os.close(pidfd)
        self._loop._child_watcher_callback(self._pid, returncode, self)

    def send_signal(self, signal: int) -> None:
        """asyncio.SubprocessTransport.send_signal"""
        if self._pidfd is None:
            super().send_signal(signal)
            return
        self._check_proc()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signals.pidfd_send_signal(self._pidfd, signal)

    def terminate(self) -> None:
        """asyncio.SubprocessTransport.terminate"""
        self.send_signal(signals.SIGTERM)

    def kill(self) -> None:
        """asyncio.SubprocessTransport.kill"""
        self.send_signal(signals.SIGKILL)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        try:
            super().__del__(_warn)
        finally:
            if self._pidfd is not None and self._pidfd >= 0:  # the loop is gone, the child is not
                os.close(self._pidfd)
                self._pidfd = -1

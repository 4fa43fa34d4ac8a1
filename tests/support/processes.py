"""What tests see of other processes: their arrival and their end, without sleeping."""

import contextlib
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import anyio
import psutil

_WORD = 8
# What must happen, does within milliseconds; a loaded machine gets patience, a hang an end. Half of
# pytest's `faulthandler_timeout`, so that whoever waits in vain says so before it does.
PATIENCE = 60.0
# A tick of the clock that stands still while the machine does; see `gone_now`.
_TICK_SECONDS = 0.01
# Of the standard library: one for the process, shared by all executors, for ever.
_SHARED = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


class Fifo:
    """A named pipe between a test and the functions that it runs."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # Both ends, so that neither side ever waits for the other to open it.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def let(self, count: int = 1) -> None:
        """Let `count` functions pass that wait here."""
        os.write(self._fd, b"x" * count)

    def take_back(self) -> None:
        """Shut the gate: whom it was opened for has not passed, and does not come any more."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._fd, 1 << 10):
                pass

    async def heard(self, seconds: float = PATIENCE) -> int:
        """Return the next number that somebody told here."""
        with anyio.fail_after(seconds):
            while True:
                await anyio.wait_readable(self._fd)
                try:
                    return int.from_bytes(os.read(self._fd, _WORD), "little")
                except BlockingIOError:
                    continue

    def heard_now(self, seconds: float = PATIENCE) -> int:
        """Return the next number, in a test that is not async."""
        if not select.select([self._fd], [], [], seconds)[0]:
            raise TimeoutError(self.path)
        return int.from_bytes(os.read(self._fd, _WORD), "little")

    def rest(self) -> list[int]:
        """Return every number that has been told and not been heard."""
        numbers = []
        while select.select([self._fd], [], [], 0)[0]:
            numbers.append(int.from_bytes(os.read(self._fd, _WORD), "little"))
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def free_port() -> int:
    """Return a port for a server that must be told one, and that nobody else is given meanwhile.

    The kernel hands out ports from 32768 on, to whoever asks for any and for outgoing connections;
    those below stay free when they are.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def parent_of(pid: int) -> int:
    """Return the process id of a process's parent: of a worker's supervisor."""
    return psutil.Process(pid).ppid()


def supervisors() -> set[int]:
    """Return the supervisor processes of this process's pools."""
    return {
        child.pid
        for child in psutil.Process().children()
        if is_alive(child.pid)
        and any("offload._child.supervisor" in part for part in child.cmdline())
    }


async def gone(*pids: int, seconds: float = PATIENCE) -> None:
    """Wait for the end of processes.

    Raises:
        TimeoutError: one of them lives.
    """
    with anyio.fail_after(seconds):
        for pid in pids:
            for fd in _pidfd(pid):
                await anyio.wait_readable(fd)


def gone_now(*pids: int, seconds: float) -> list[int]:
    """Wait for the end of processes, and return those that live after `seconds`.

    Counted are seconds in which the machine let this process run: what it kept from us it may as
    well have kept from those that end. On a machine that has time they are seconds as any other.
    """
    left = list(pids)
    for _ in range(max(round(seconds / _TICK_SECONDS), 1)):
        tick = time.monotonic() + _TICK_SECONDS
        left = [pid for pid in left if not _ends_before(tick, pid)]
        if not left:
            break
    return left


def _ends_before(instant: float, pid: int) -> bool:
    ended = True  # unless there is such a process
    for fd in _pidfd(pid):
        ended = bool(select.select([fd], [], [], max(instant - time.monotonic(), 0.0))[0])
    return ended


def longer_and_longer(seconds: float) -> Iterator[float]:
    """Yield times to try something with that a loaded machine may need longer for.

    For what is cut off after a while, and must have begun by then: the caller breaks out of the
    loop when it has.
    """
    while seconds < PATIENCE:
        yield seconds
        seconds *= 4
    message = f"it never began, not even within {seconds / 4:g} s"
    raise TimeoutError(message)


def _pidfd(pid: int) -> Iterator[int]:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        yield fd
    finally:
        os.close(fd)


def descendants(pid: int | None = None) -> set[int]:
    """Return the processes below one, this one by default, but those the interpreter keeps."""
    found = set()
    for child in psutil.Process(pid).children(recursive=True):
        try:
            command = " ".join(child.cmdline())
            # What the fork server forks has its command line, and is not our child.
            is_shared = child.ppid() == os.getpid() and any(name in command for name in _SHARED)
        except psutil.Error:
            continue
        if command and not is_shared:  # a zombie has no command line
            found.add(child.pid)
    return found


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Let the loop go round until something is so.

    Raises:
        TimeoutError: it did not come to be.
    """
    with anyio.fail_after(seconds):
        # What is waited for has no event of its own: the numbers of a pool.
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)

"""What workers run for the tests of trust: tasks that write to the worker's socket themselves."""

import contextlib
import mmap
import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offload._wire.frames import Flag, Kind, pack_descriptors, pack_frame
from offload._wire.memory_file import anonymous_file, seal
from offload._wire.page import RECEIVED
from tests.support.functions.pool import knock, pass_gate

END_SECONDS = 60.0


def _links() -> list[tuple[int, str]]:
    """Return the descriptors of this process, and what each of them is."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append((int(each.name), str(each.readlink())))
    return found


def own_socket() -> socket.socket:
    """Return the socket of this worker, as code that looks through its descriptors finds it."""
    found = next(fd for fd, link in _links() if link.startswith("socket:"))
    endpoint = socket.socket(fileno=os.dup(found))
    endpoint.setblocking(True)
    return endpoint


def files_in_memory() -> list[int]:
    """Return the descriptors of this process that are files in memory."""
    return [fd for fd, link in _links() if link.startswith("/memfd:")]


def task_number() -> int:
    """Return the number of this task, as frames of it have."""
    from offload._child import context

    assert context.process.page is not None
    return context.process.page[RECEIVED]


def frame(kind: int, body: bytes = b"", flags: int = 0, files: int = 0) -> bytes:
    """Return a frame of this task."""
    return pack_frame(kind, body, flags, files, task_number())


def _huge_frame() -> None:
    own_socket().sendall(frame(Kind.RESULT, bytes(1 << 20)))


def _unknown_kind() -> None:
    own_socket().sendall(frame(99))


def _ready_again() -> None:
    own_socket().sendall(frame(Kind.READY, bytes(8)))


def _item_of_no_stream() -> None:
    own_socket().sendall(frame(Kind.ITEM, pickle.dumps(1)))


def _many_descriptors() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        for _ in range(100):
            own_socket().sendmsg([frame(Kind.PROGRESS)], pack_descriptors(*[nothing] * 30))
    finally:
        os.close(nothing)


def _one_descriptor() -> None:
    own_socket().sendmsg([frame(Kind.PROGRESS)], pack_descriptors(0))


def _no_descriptor() -> None:
    own_socket().sendall(frame(Kind.RESULT, bytes(16), Flag.LARGE))


def _files() -> None:
    own_socket().sendmsg([frame(Kind.RESULT, files=1)], pack_descriptors(0))


def _file_that_shrinks() -> None:
    fd = anonymous_file()
    os.write(fd, bytes(1 << 20))
    own_socket().sendmsg([frame(Kind.RESULT, bytes(16), Flag.LARGE)], pack_descriptors(fd))


def _no_file() -> None:
    reading, _ = os.pipe()
    own_socket().sendmsg([frame(Kind.RESULT, bytes(16), Flag.LARGE)], pack_descriptors(reading))


INTRUSIONS = {
    "huge frame": _huge_frame,
    "unknown kind": _unknown_kind,
    "ready again": _ready_again,
    "item of no stream": _item_of_no_stream,
    "many descriptors": _many_descriptors,
    "one descriptor": _one_descriptor,
    "no descriptor": _no_descriptor,
    "files": _files,
    "file that shrinks": _file_that_shrinks,
    "no file": _no_file,
}


def intrude(how: str) -> None:
    """Send what no worker sends, and go on until we are ended for it."""
    with contextlib.suppress(OSError):  # the socket was closed in the middle of it
        INTRUSIONS[how]()
    time.sleep(END_SECONDS)


def truncate_everything() -> int:
    """Make every file in memory of this worker empty, as far as that is possible."""
    done = 0
    for fd in files_in_memory():
        try:
            os.ftruncate(fd, 0)
        except PermissionError:
            continue
        done += 1
    return done


class TruncatedLater:
    """Pickles as a large array, of whose file it keeps a descriptor to truncate it with."""

    def __init__(self, entered: str, gate: str) -> None:
        self.entered = entered
        self.gate = gate

    def __reduce__(self) -> Any:
        kept = [os.dup(fd) for fd in files_in_memory()]
        threading.Thread(target=self._truncate, args=(kept,), daemon=True).start()
        import numpy as np  # here, since most workers of these functions die soon

        return np.asarray, (np.ones(8_000_000, dtype="u1"),)

    def _truncate(self, kept: list[int]) -> None:
        pass_gate(self.gate)
        for fd in kept:
            with contextlib.suppress(PermissionError):
                os.ftruncate(fd, 0)
            os.close(fd)
        knock(self.entered)


def truncated_result(entered: str, gate: str) -> TruncatedLater:
    """Return what is truncated when the gate is open."""
    return TruncatedLater(entered, gate)


def write_reply(kind: int, detail: object) -> None:
    """Reply with whatever is given, and end."""
    own_socket().sendall(frame(kind, pickle.dumps(detail)))
    os._exit(0)


def reply_from_outside_of_the_file(kind: int, body: bytes) -> None:
    """Reply with a sealed file that does not have what the frame says."""
    fd = anonymous_file()
    os.write(fd, bytes(4096))
    seal(fd)
    own_socket().sendmsg([frame(kind, body, Flag.LARGE)], pack_descriptors(fd))
    os._exit(0)


def flood(count: int) -> None:
    """Report progress many times at once, as one write."""
    data = frame(Kind.PROGRESS, pickle.dumps((1.0, 2.0))) * count
    own_socket().sendall(data)


def yield_too_much(count: int) -> Any:
    """Yield one item, and send others without having credit for them."""
    yield 0
    endpoint = own_socket()
    for _ in range(count):
        endpoint.sendall(frame(Kind.ITEM, pickle.dumps(1)))
    time.sleep(END_SECONDS)
    yield 1


def report_what_is_no_number(size: int) -> None:
    """Report progress that is no number."""
    from offload import task_context

    context = task_context()
    assert context is not None
    wrong: Any = "x" * size
    context.progress(wrong)


def log_with_many_fields(count: int) -> None:
    """Log a record that is larger than what a worker sends."""
    import logging

    extra = {f"field {number}": "x" * 10_000 for number in range(count)}
    logging.getLogger("tests.intruders").warning("large", extra=extra)


def change_kept_code() -> list[str]:
    """Try to change the program's code, which all workers have open; return what was possible."""
    done: list[str] = []
    (log,) = [fd for fd, link in _links() if "offload-code" in link]

    def attempt(what: str, change: Callable[[], object]) -> None:
        try:
            change()
        except OSError:
            return
        done.append(what)

    again = os.open(f"/proc/self/fd/{log}", os.O_RDWR)
    attempt("write", lambda: os.pwrite(log, b"x", 8))
    attempt("write by a name", lambda: os.pwrite(again, b"x", 8))
    attempt("map", lambda: mmap.mmap(again, 4096))
    attempt("shrink", lambda: os.ftruncate(log, 0))
    attempt("grow", lambda: os.ftruncate(log, 1 << 30))
    return done

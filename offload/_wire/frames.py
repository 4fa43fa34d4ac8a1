"""Frames: what the two ends of a worker's socket say to each other.

    ┌────────────┬──────┬───────┬───────┬──────┐
    │ body bytes │ kind │ flags │ files │ task │  header, 12 bytes   + up to 64 KiB of body
    └────────────┴──────┴───────┴───────┴──────┘

A small payload is the body of its frame: one send, one receive. A larger one is elsewhere: in
memory that both processes share, or in a file that travels beside the frame as a descriptor; see
`offload._wire.payload`. `files` is the number of descriptors beside that one: open files that are
arguments.

`task` is the worker's count of the tasks that it had received when it sent the frame. The parent
counts them as well, and so never takes a late or repeated reply for that of another task.
"""

from __future__ import annotations

import errno
import os

from offload._wire.lean import socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

HEADER = struct.Struct("<IBBHI")
_INT = struct.Struct("=i")
_HEADER_BYTES = HEADER.size
_unpack_header = HEADER.unpack_from
pack_header = HEADER.pack
# The C pickler hands out a frame when it exceeds 64 KiB, so below that a pickle is one write.
# A frame of this size always fits an empty socket buffer: sending it never blocks.
INLINE_BYTES = 64 * 1024
RECEIVE_BYTES = INLINE_BYTES + 4096
SOCKET_BUFFER_BYTES = 4 * INLINE_BYTES
# What a worker sends is no larger: it is an inline payload, or a log record, which the worker cuts.
WORKER_BODY_BYTES = 4 * INLINE_BYTES
# What we receive is not for programs that we start; Python marks only what it opens itself.
RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
DONT_WAIT = RECEIVE_FLAGS | getattr(socket, "MSG_DONTWAIT", 0)
_TRUNCATED = getattr(socket, "MSG_CTRUNC", 0)
# Descriptors beside one frame: the payload's, and those of files that are arguments. Arbitrary, and
# far below what the kernel passes at once (SCM_MAX_FD, 253).
MAX_DESCRIPTORS = 32
_ANCILLARY_BYTES = (
    socket.CMSG_SPACE(_INT.size * MAX_DESCRIPTORS) if hasattr(socket, "CMSG_SPACE") else 0
)


class Kind:
    """What a frame means. Plain ints: members of an `enum` cost a microsecond at each use."""

    # To the worker.
    CALL: Final = 1
    STREAM: Final = 2
    CREDIT: Final = 3
    CLOSE: Final = 4
    BEGIN: Final = 5
    # From the worker.
    NOT_DATA: Final = 7
    OVER_MEMORY: Final = 8
    RESULT_TOO_LARGE: Final = 9
    READY: Final = 10
    START_FAILED: Final = 11
    RESULT: Final = 12
    RAISED: Final = 13
    BAD_ARGUMENT: Final = 14
    BAD_RESULT: Final = 15
    NOT_FOUND: Final = 16
    END: Final = 17
    # From here on, what does not end a task.
    ITEM: Final = 18
    PROGRESS: Final = 19
    LOG: Final = 20
    # What multiprocessing's resource tracker is to be told.
    TRACK: Final = 21


class Flag:
    """How a frame is to be read, or what else it tells; bits of one byte."""

    # The payload is in the descriptor that came with the frame.
    LARGE: Final = 1
    # The worker's memory is above its limit.
    RECYCLE: Final = 2
    # Pickling took the worker long; unpickle off the event loop.
    SLOW: Final = 4
    # The payload is in the shared buffer; the body is its size.
    SHARED: Final = 8
    # The payload is no pickle, but the `bytes` that are the result.
    RAW: Final = 16
    # The payload is data and no pickle: see `offload._wire.data_format`.
    DATA: Final = 32
    # What is not to be unpickled right where it is received.
    NOT_INLINE: Final = LARGE | SLOW | RAW | DATA


class Frame:
    """One frame as it was received. It owns the descriptors that came with it.

    Attributes:
        kind: one of `Kind`.
        flags: bits of `Flag`.
        body: the payload, or what tells where that is.
        descriptor: the file with a large payload, None for any other.
        task: the number of the task that it belongs to.
        files: descriptors of the open files among the arguments.
        sender: who reads the socket of the worker that sent it; only of frames with `Flag.DATA`.
    """

    __slots__ = ("body", "descriptor", "files", "flags", "kind", "sender", "task")
    if TYPE_CHECKING:
        sender: Any

    def __init__(
        self,
        kind: int,
        flags: int = 0,
        body: bytes = b"",
        descriptor: int | None = None,
        task: int = 0,
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.body = body
        self.descriptor = descriptor
        self.task = task
        self.files: list[int] | None = None

    def __repr__(self) -> str:
        """Tell all but the body."""
        return f"<Frame kind={self.kind} flags={self.flags} of task {self.task}>"

    def take_descriptor(self) -> int | None:
        """Return the descriptor, which is the caller's to close from now on."""
        descriptor, self.descriptor = self.descriptor, None
        return descriptor

    def take_files(self) -> list[int]:
        """Return the descriptors of arguments, which are the caller's to close from now on."""
        files, self.files = self.files, None
        return files or []

    def copy(self) -> Frame:
        """Return the same frame for another receiver, with a descriptor of its own.

        Raises:
            OSError: this process may not open more descriptors.
        """
        descriptor = None if self.descriptor is None else os.dup(self.descriptor)
        copied = Frame(self.kind, self.flags, self.body, descriptor, self.task)
        if self.flags & Flag.DATA:
            copied.sender = self.sender
        return copied

    def close(self) -> None:
        """Close the descriptors that nobody has taken."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        for fd in self.take_files():
            os.close(fd)


def pack_frame(
    kind: int, body: bytes = b"", flags: int = 0, files: int = 0, task: int = 0
) -> bytes:
    """Return header and body as one message."""
    return pack_header(len(body), kind, flags, files, task) + body


def pack_descriptors(*fds: int) -> list[tuple[int, int, Any]]:
    """Return the ancillary data that carries descriptors."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_INT.pack, fds)))]


def unpack_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what `recvmsg` gave, none of them inheritable."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _INT.size
            fds += [fd for (fd,) in _INT.iter_unpack(data[:whole])]
    if not RECEIVE_FLAGS:  # macOS, where the kernel cannot do so as it hands them over
        for fd in fds:
            os.set_inheritable(fd, False)
    return fds


class Assembler:
    """Makes whole frames of what a stream socket delivers in pieces.

    Attributes:
        buffer: what came, empty once all of it was taken.
        fds: descriptors that came and were not taken.
    """

    __slots__ = ("_start", "buffer", "fds")

    # For the descriptors that come with one message.
    _ancillary_bytes = _ANCILLARY_BYTES

    def __init__(self) -> None:
        # What came and was not taken begins at `_start`.
        self.buffer = b""
        self._start = 0
        # The kernel keeps descriptors in the order of the bytes that they were sent with, so that
        # the first ones belong to the first frame that says that it has some.
        self.fds: list[int] = []

    def receive(self, connection: socket.socket, how: int = RECEIVE_FLAGS) -> bool:
        """Read once; False at the end of the stream.

        Args:
            connection: where to read.
            how: flags of recvmsg(2); `DONT_WAIT` for what is there already.

        Raises:
            BlockingIOError: nothing to read, on a non-blocking socket or with `DONT_WAIT`.
            ConnectionError: the peer is gone.
            OSError: a descriptor was lost, because we may not open more. The connection is of no
                use then: the frame that it belongs to cannot be read.
        """
        data, ancillary, flags, _ = connection.recvmsg(RECEIVE_BYTES, self._ancillary_bytes, how)
        if ancillary:
            self.fds += unpack_descriptors(ancillary)
        if flags & _TRUNCATED:
            self._truncated(came=bool(ancillary))
        if not data:
            return False
        if self.buffer:
            self.buffer = self.buffer[self._start :] + data
        else:
            self.buffer = data
        self._start = 0
        return True

    def _truncated(self, *, came: bool) -> None:
        """Raise the error of descriptors that did not come; `came`: others did."""
        del came
        raise OSError(errno.EMFILE, "a descriptor could not be received")

    def take(self) -> Frame | None:
        """Return the next whole frame, if there is one; whoever takes it closes it."""
        buffer, start = self.buffer, self._start
        length = len(buffer)
        if length - start < _HEADER_BYTES:
            return None
        size, kind, flags, files, task = _unpack_header(buffer, start)
        start += _HEADER_BYTES
        end = start + size
        if length < end:
            return None
        body = buffer[start:end]
        if length == end:  # nearly always: one frame, and nothing after it
            self.buffer = b""
            self._start = 0
        else:
            self._start = end
        descriptor = self.fds.pop(0) if flags & Flag.LARGE else None
        frame = Frame(kind, flags, body, descriptor, task)
        if files:
            frame.files = self.fds[:files]
            del self.fds[:files]
        return frame

    def close(self) -> None:
        """Close descriptors that nobody took."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

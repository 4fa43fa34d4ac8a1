"""Frames and payloads: what the two ends of a worker's socket say to each other.

    ┌────────────┬──────┬───────┬─────────┐
    │ body bytes │ kind │ flags │ unused  │  header, 8 bytes   + up to 64 KiB of body
    └────────────┴──────┴───────┴─────────┘

A small payload is pickled into the body: one send, one receive. A large one is pickled into an
anonymous file (a memfd) that travels beside the frame as a descriptor; the body then holds only
its layout:

    memfd:  pickle stream │ buffer 0 │ buffer 1 │ …        buffers start at multiples of 64
    copies: sender's object ──write(2)──► memfd ──mmap──► receiver (buffers), or
                                                ──read(2)─► receiver (bytes objects)

Every copy is made by the kernel while the GIL is free. An anonymous file has no name to leak, needs
no /dev/shm, and dies with its last descriptor (memfd_create(2)).

Pickles are read only from our own parent or child process, over a socketpair that no one else has.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys

from offload._child.lean import pickle, socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

HEADER = struct.Struct("<IBBH")
_INT = struct.Struct("=i")
_HEADER_BYTES = HEADER.size
_unpack_header = HEADER.unpack_from
pack_header = HEADER.pack
# The C pickler hands out a frame when it exceeds 64 KiB, so below that a pickle is one write.
# A frame of this size always fits an empty socket buffer: sending it never blocks.
INLINE_BYTES = 64 * 1024
RECEIVE_BYTES = INLINE_BYTES + 4096
SOCKET_BUFFER_BYTES = 4 * INLINE_BYTES
# What we receive is not for programs that we start; Python marks only what it opens itself.
_RECEIVE_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
DONT_WAIT = _RECEIVE_FLAGS | getattr(socket, "MSG_DONTWAIT", 0)
_TRUNCATED = getattr(socket, "MSG_CTRUNC", 0)
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
_ALIGNMENT = 64
# Below this a buffer costs more as a separate mapping entry than as a part of the stream.
_OUT_OF_BAND_BYTES = 4096
# Where each mapping costs a descriptor: how many to spend at once, of the usual 1024.
_MAX_MAPPINGS = 64
# read(2) and write(2) move at most 0x7ffff000 bytes a call.
_CALL_BYTES = 1 << 30


class Kind:
    """What a frame means. Plain ints: members of an `enum` cost a microsecond at each use."""

    # To the worker.
    CALL: Final = 1
    STREAM: Final = 2
    CREDIT: Final = 3
    CLOSE: Final = 4
    BEGIN: Final = 5
    # From the worker.
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


class Flag:
    """How a frame is to be read, or what else it tells; bits of one byte."""

    # The payload is in the descriptor that came with the frame.
    LARGE: Final = 1
    # The worker's memory is above its limit.
    RECYCLE: Final = 2
    # Pickling took the worker long; unpickle off the event loop.
    SLOW: Final = 4
    # What is not to be unpickled right where it is received.
    NOT_INLINE: Final = LARGE | SLOW


class TooLarge(Exception):  # noqa: N818 - a signal between encode() and its caller
    """The payload does not fit a frame."""


class _Sink:
    """Collects what a pickler writes, and stops it at the first byte over the limit."""

    __slots__ = ("limit", "parts", "size")

    def __init__(self, limit: int = INLINE_BYTES) -> None:
        self.limit = limit
        self.parts: list[Any] = []
        self.size = 0

    def write(self, data: Any) -> None:
        # The C pickler passes a large bytes object itself here, uncopied: it is refused by its
        # length before anything has been touched.
        self.size += len(data) if type(data) is bytes else memoryview(data).nbytes
        if self.size > self.limit:
            raise TooLarge
        self.parts.append(data)


# Reducers that only our picklers use: to register one with copyreg would change what `copy.copy`
# does with the type in the whole process. None until there is one, so that the usual pickler stays
# as fast as it is.
_dispatch_table: Mapping[type, Callable[[Any], Any]] | None = None


def register_reducer(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Let objects of exactly this type cross as `reduce(object)` says, as `__reduce__` would."""
    import copyreg
    from collections import ChainMap

    global _dispatch_table  # noqa: PLW0603 - set once, by a module that is imported
    known: Any = getattr(_dispatch_table, "maps", ({},))[0]
    _dispatch_table = ChainMap({**known, kind: reduce}, copyreg.dispatch_table)


def _pickler(sink: Any, in_band: Callable[[Any], Any] | None = None) -> pickle.Pickler:
    pickler = pickle.Pickler(sink, 5, buffer_callback=in_band)
    if _dispatch_table is not None:
        pickler.dispatch_table = _dispatch_table
    return pickler


def dumps(value: object) -> bytes:
    """Pickle a value of any size into memory.

    Raises:
        Exception: whatever pickling raises.
    """
    if _dispatch_table is None:
        return pickle.dumps(value, 5)
    sink = _Sink(limit=sys.maxsize)
    _pickler(sink).dump(value)
    return b"".join(sink.parts)


def encode(value: object) -> bytes:
    """Pickle a small value.

    Raises:
        TooLarge: its pickle is larger than a frame; `encode_large` takes it.
        Exception: whatever pickling raises.
    """
    sink = _Sink()
    _pickler(sink).dump(value)
    parts = sink.parts
    return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def anonymous_file(label: str = "offload") -> int:
    """Return the descriptor of a new file without a name; `label` is what /proc shows it as."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(label, os.MFD_CLOEXEC)
    import tempfile

    # macOS: an unlinked temporary file; the page cache keeps a short-lived one off the disk.
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _FileSink:
    """A pickler's file on a descriptor. Python-level, so that the GIL is free between frames."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0

    def write(self, data: Any) -> None:
        with memoryview(data) as view, view.cast("B") as raw:
            start = 0
            while start < raw.nbytes:
                start += os.write(self.fd, raw[start : start + _CALL_BYTES])
            self.size += raw.nbytes

    def align(self) -> None:
        padding = -self.size % _ALIGNMENT
        if padding:
            self.write(bytes(padding))


def encode_large(
    value: object, *, dump: Callable[[Any, Any, Any], None] | None = None
) -> tuple[bytes, int, int]:
    """Pickle a value of any size into an anonymous file. Call it off the event loop.

    Returns:
        The body that describes the file, the file's descriptor, which the caller closes, and the
        payload's size in bytes.

    Raises:
        OSError: there is no memory or disk for it.
        Exception: whatever pickling raises.
    """
    buffers: list[memoryview] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()  # contiguous in some order: the pickler has refused all others
        if raw.nbytes < _OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    fd = anonymous_file()
    try:
        sink = _FileSink(fd)
        if dump is None:
            _pickler(sink, is_in_band).dump(value)
        else:
            dump(value, sink, is_in_band)
        stream = sink.size
        layout: list[tuple[int, int]] = []
        for raw in buffers:
            sink.align()
            layout.append((sink.size, raw.nbytes))
            sink.write(raw)
        return pickle.dumps((stream, layout), 5), fd, sink.size
    except BaseException:
        os.close(fd)
        raise


class _FileSource:
    """An unpickler's file on a descriptor; the GIL is free while the kernel copies."""

    __slots__ = ("end", "fd", "position")

    def __init__(self, fd: int, end: int) -> None:
        self.fd = fd
        self.position = 0
        self.end = end

    def read(self, size: int = -1) -> bytes:
        size = self.end - self.position if size < 0 else min(size, self.end - self.position)
        if size > _CALL_BYTES:
            parts: list[bytes] = []
            while size > 0 and (part := self.read(min(size, _CALL_BYTES))):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)
        data = os.pread(self.fd, size, self.position)
        self.position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        total = 0
        with memoryview(buffer) as view, view.cast("B") as raw:
            while total < raw.nbytes:
                moved = os.preadv(self.fd, [raw[total : total + _CALL_BYTES]], self.position)
                if not moved:
                    break
                total += moved
                self.position += moved
        return total

    def readline(self) -> bytes:
        # Only protocol 0 opcodes are terminated by newlines; ours is 5, but a reducer may embed.
        parts: list[bytes] = []
        while (byte := self.read(1)) not in (b"", b"\n"):
            parts.append(byte)
        return b"".join(parts) + byte


# Those that are still in use, or were when it was last looked.
_mappings: list[Callable[[], mmap.mmap | None]] = []


def _open_buffers(fd: int, start: int, end: int) -> tuple[memoryview, int]:
    """Return writable memory of our own with what is in a file, and the offset that it begins at.

    Args:
        fd: the file.
        start: the first byte that is needed.
        end: the byte after the last one.
    """
    if sys.version_info >= (3, 13):
        mapping = mmap.mmap(fd, end, access=mmap.ACCESS_COPY, trackfd=False)
        return memoryview(mapping), 0
    # Before 3.13 a mapping keeps a descriptor of its own (gh-78502): a thousand results that
    # somebody keeps would be all that a server may open. Past some, copy: a millisecond for each
    # megabyte, while the GIL is free.
    from weakref import ref

    if len(_mappings) >= _MAX_MAPPINGS:
        _mappings[:] = [known for known in _mappings if known() is not None]
    if len(_mappings) < _MAX_MAPPINGS:
        mapping = mmap.mmap(fd, end, access=mmap.ACCESS_COPY)
        _mappings.append(ref(mapping))
        return memoryview(mapping), 0
    memory = memoryview(mmap.mmap(-1, end - start, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    source = _FileSource(fd, end)
    source.position = start
    source.readinto(memory)
    return memory, start


def decode_large(body: bytes, fd: int) -> Any:
    """Unpickle what `encode_large` made, and close the descriptor. Call it off the event loop.

    Out-of-band buffers are mapped, not copied: copy-on-write, so that what was writable still is.
    Keeping them keeps no descriptor open, or not many.
    """
    try:
        stream, layout = pickle.loads(body)
        buffers: list[memoryview] = []
        if layout:
            view, start = _open_buffers(fd, layout[0][0], sum(layout[-1]))
            # Those that were read-only are made so by the unpickler: the stream says which.
            for offset, size in layout:
                buffers.append(view[offset - start : offset - start + size])
        return pickle.Unpickler(_FileSource(fd, stream), buffers=buffers).load()
    finally:
        os.close(fd)


def frame(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Return header and body as one message."""
    return HEADER.pack(len(body), kind, flags, 0) + body


def pack_descriptor(fd: int) -> list[tuple[int, int, Any]]:
    """Return the ancillary data that carries one descriptor."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _INT.pack(fd))]


def unpack_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in what `recvmsg` gave."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _INT.size
            fds += [fd for (fd,) in _INT.iter_unpack(data[:whole])]
    return fds


class Assembler:
    """Makes whole frames of what a stream socket delivers in pieces."""

    __slots__ = ("_buffer", "_fds")

    def __init__(self) -> None:
        self._buffer = b""
        self._fds: list[int] = []

    def receive(self, connection: socket.socket, how: int = _RECEIVE_FLAGS) -> bool:
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
        data, ancillary, flags, _ = connection.recvmsg(RECEIVE_BYTES, _ANCILLARY_BYTES, how)
        if ancillary:
            fds = unpack_descriptors(ancillary)
            self._fds += fds
            if not _RECEIVE_FLAGS:
                for fd in fds:
                    os.set_inheritable(fd, False)
        if flags & _TRUNCATED:
            raise OSError(errno.EMFILE, "a descriptor could not be received")
        if not data:
            return False
        self._buffer = self._buffer + data if self._buffer else data
        return True

    def take(self) -> tuple[int, int, bytes, int | None] | None:
        """Return the next whole frame as (kind, flags, body, descriptor or None), if there is one.

        Whoever takes a frame with a descriptor closes it.
        """
        buffer = self._buffer
        length = len(buffer)
        if length < _HEADER_BYTES:
            return None
        size, kind, flags, _ = _unpack_header(buffer)
        end = _HEADER_BYTES + size
        if length < end:
            return None
        if length == end:  # as good as always: one frame, and nothing after it
            self._buffer = b""
            body = buffer[_HEADER_BYTES:]
        else:
            self._buffer = buffer[end:]
            body = buffer[_HEADER_BYTES:end]
        return kind, flags, body, self._fds.pop(0) if flags & Flag.LARGE else None

    def close(self) -> None:
        """Close descriptors that nobody took."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

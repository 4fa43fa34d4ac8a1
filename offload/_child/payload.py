"""Payloads: values to bytes and back, by the way that suits their size.

Small, up to 64 KiB: pickled into the body of a frame.

Medium, up to 2 MiB and mostly buffers: pickled into a tray, memory that a worker shares with its
parent for as long as it lives.

    shared file:  page of words │ in-tray │ out-tray
    copies:       sender's object ──memcpy──► tray ──memcpy──► receiver's object

A megabyte takes 25 to 100 microseconds to copy where the pages are there already. A new memfd costs
ten times that in page faults, and a thread's two hops as much again; so it is done on the event
loop, and holds that for less time than giving it to a thread would.

Large: pickled into an anonymous file (a memfd) that travels beside the frame as a descriptor, on a
thread; the body then holds only its layout.

    memfd:   pickle stream │ buffer 0 │ buffer 1 │ …        buffers start at multiples of 64
    copies:  sender's object ──write(2)──► memfd ──mmap──► receiver (buffers), or
                                                 ──read(2)─► receiver (bytes objects)

Every copy is made by the kernel while the GIL is free. An anonymous file has no name to leak, needs
no /dev/shm, and dies with its last descriptor (memfd_create(2)).

Pickles are read only from our own parent or child process, over a socketpair that no one else has.
"""

from __future__ import annotations

import _thread
import mmap
import os
import sys

from offload._child import context
from offload._child.lean import pickle
from offload._child.wire import INLINE_BYTES, MAX_DESCRIPTORS, Flag, anonymous_file, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What the event loop may copy at once: within its millisecond on slow memory too. Both trays of a
# worker take that much memory from when they are used first.
TRAY_BYTES = 2 << 20
_IN_TRAY = context.PAGE_BYTES
_OUT_TRAY = _IN_TRAY + TRAY_BYTES
# The pickler passes buffers of this size on as they are, beside its own frames, which begin so.
_FRAME_BYTES = 64 * 1024
_FRAME_OPCODE = 0x95
_ALIGNMENT = 64
# Below this a buffer costs more as a separate mapping entry than as a part of the stream.
_OUT_OF_BAND_BYTES = 4096
# Where each mapping costs a descriptor: how many to spend at once, of the usual 1024.
_MAX_MAPPINGS = 64
# read(2) and write(2) move at most 0x7ffff000 bytes a call.
_CALL_BYTES = 1 << 30
# Text is encoded and decoded by so many characters at a time, each of them less than a millisecond.
_TEXT_CHARACTERS = 256 * 1024


class TooLarge(Exception):  # noqa: N818 - a signal between a pickler and its caller
    """The payload does not go this way."""


class NeedsDescriptors(TooLarge, TypeError):  # noqa: N818 - as TooLarge
    """A file can be pickled only where its descriptor can travel beside the payload."""


class Parcel:
    """A payload that is more than one frame, on its way to a worker.

    Either the parts of a pickle that fits a tray, of which nothing can change any more, or a large
    payload whose arguments refer to files.
    """

    __slots__ = ("body", "files", "kind", "parts", "size")

    def __init__(self, parts: list[bytes], size: int) -> None:
        self.parts = parts
        self.size = size
        self.kind = 0
        self.body = b""
        self.files: list[Descriptor] = []

    def __eq__(self, other: object) -> bool:
        """Return whether the same would arrive."""
        if not isinstance(other, Parcel):
            return NotImplemented
        if self.files or other.files:
            return self is other
        return (self.kind, self.size) == (
            other.kind,
            other.size,
        ) and self.joined() == other.joined()

    def __hash__(self) -> int:
        """Return a hash that takes no time: the first part has the function and what is small."""
        return hash((self.size, self.parts[0]) if self.parts else id(self))

    def joined(self) -> bytes:
        """Return all of it as one `bytes` object."""
        return b"".join(self.parts)

    def lay(self, shared: mmap.mmap, start: int) -> bytes:
        """Copy the parts into a tray; return the body that says so."""
        for part in self.parts:
            end = start + len(part)
            shared[start:end] = part
            start = end
        return self.size.to_bytes(4, "little")

    def file(self) -> tuple[bytes, int]:
        """Copy the parts into a file instead, where there is no tray; return body and descriptor.

        Raises:
            OSError: there is no memory or disk for it.
        """
        fd = anonymous_file()
        try:
            sink = _FileSink(fd)
            for part in self.parts:
                sink.write(part)
        except BaseException:
            os.close(fd)
            raise
        return pickle.dumps((self.size, []), 5), fd

    def post(
        self, shared: mmap.mmap, descriptor: int | None, send: Callable[[bytes, list[int]], None]
    ) -> None:
        """Have it sent to a worker.

        Args:
            shared: what the worker shares with us.
            descriptor: the file of a large payload.
            send: sends a frame and descriptors.

        Raises:
            OSError: as `send` does.
        """
        if descriptor is None:
            send(frame(self.kind, self.lay(shared, _IN_TRAY), Flag.TRAY), [])
        else:
            data = frame(self.kind, self.body, Flag.LARGE, len(self.files))
            send(data, [descriptor, *(file.fd for file in self.files)])


class Descriptor:
    """A descriptor of our own for a file that somebody else may close."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = -1  # if the next line fails
        self.fd = os.dup(fd)

    def __del__(self) -> None:
        """Close it: with the last reference, since a request may be sent more than once."""
        if self.fd >= 0:
            os.close(self.fd)


def has_trays() -> bool:
    """Return whether workers that this process starts have trays."""
    # Only memory has: a disk that is full could say so only by a signal that ends us (SIGBUS for a
    # mapped page that cannot be had).
    return hasattr(os, "memfd_create")


def shared_bytes() -> int:
    """Return the size of the file that a worker shares with its parent."""
    return _OUT_TRAY + TRAY_BYTES if has_trays() else context.PAGE_BYTES


def take_tray(shared: mmap.mmap, body: bytes) -> bytes:
    """Return what a worker put into its out-tray; from then on it is the worker's again."""
    data = shared[_OUT_TRAY : _OUT_TRAY + int.from_bytes(body, "little")]
    start = context.OUT_FULL * 8
    shared[start : start + 8] = bytes(8)
    return data


class Trays:
    """The trays as the worker sees them."""

    def __init__(self, shared: mmap.mmap, page: memoryview) -> None:
        self._shared = shared
        self._page = page
        self._whole = memoryview(shared)
        self._has_trays = len(shared) > context.PAGE_BYTES

    def load(self, body: bytes) -> Any:
        """Unpickle what is in the in-tray; nothing that comes of it refers to the tray."""
        end = _IN_TRAY + int.from_bytes(body, "little")
        return pickle.loads(self._whole[_IN_TRAY:end])

    def put(self, parcel: Parcel) -> bytes | None:
        """Return the body for what is now in the out-tray; None if there is no place in it."""
        # Items of a stream may come faster than the parent empties the tray.
        if not self._has_trays or self._page[context.OUT_FULL]:
            return None
        body = parcel.lay(self._shared, _OUT_TRAY)
        self._page[context.OUT_FULL] = 1
        return body


class _Sink:
    """Collects what a pickler writes, and stops it at the first byte over a limit."""

    __slots__ = ("limit", "loose", "parts", "size")

    def __init__(self, limit: int = INLINE_BYTES, loose: int = INLINE_BYTES) -> None:
        self.limit = limit
        # How much may be of small objects, which take long to pickle for their size.
        self.loose = loose
        self.parts: list[bytes] = []
        self.size = 0

    def write(self, data: Any) -> None:
        # The C pickler passes a large buffer itself here, uncopied: it is refused by its length
        # before anything has been touched, and copied if it may change.
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        self.size += size
        if self.size > self.limit:
            raise TooLarge
        if type(data) is not bytes:
            data = bytes(data)
        if size < _FRAME_BYTES or data[0] == _FRAME_OPCODE or not self.parts:
            self.loose -= size
            if self.loose < 0:
                raise TooLarge
        self.parts.append(data)


# Reducers that only our picklers use: to register one with copyreg would change what `copy.copy`
# does with the type in the whole process. None until there is one, so that the usual pickler stays
# as fast as it is.
_reducers: dict[type, Callable[[Any], Any]] = {}
_dispatch_table: dict[type, Callable[[Any], Any]] = {}
_known: dict[type, Callable[[Any], Any]] = {}


def register_reducer(kind: type, reduce: Callable[[Any], Any]) -> None:
    """Let objects of exactly this type cross as `reduce(object)` says, as `__reduce__` would."""
    _reducers[kind] = reduce
    _known.clear()


def _pickler(sink: Any, in_band: Callable[[Any], Any] | None = None) -> pickle.Pickler:
    pickler = pickle.Pickler(sink, 5, buffer_callback=in_band)
    if _reducers:
        import copyreg

        global _dispatch_table, _known  # noqa: PLW0603 - remembered, since merging takes time
        # Whole and plain, since the pickler looks here for every object that is not a builtin.
        if copyreg.dispatch_table != _known or not _known:
            _known = dict(copyreg.dispatch_table)
            _dispatch_table = {**_known, **_reducers}
        pickler.dispatch_table = _dispatch_table
    return pickler


def _learns(error: TypeError) -> bool:
    """Return whether to pickle again, now that we know how: the process has met a memoryview."""
    # Only now: a dispatch table costs each object that is looked up in it.
    if memoryview in _reducers or "memoryview" not in str(error):
        return False
    register_reducer(memoryview, _reduce_view)
    return True


def _reduce_view(view: memoryview) -> tuple[Any, ...]:
    if view.c_contiguous:
        return _make_view, (pickle.PickleBuffer(view), view.format, view.shape)
    return _make_view, (pickle.PickleBuffer(view.tobytes()), view.format, view.shape)


def _make_view(buffer: Any, form: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    if len(shape) != 1:
        return flat.cast(form, shape)
    return flat if form == "B" else flat.cast(form)


class Text:
    """A large `str` that is an argument or a result itself, pickled so that the GIL goes round.

    The pickler would make its UTF-8, and the unpickler the `str` again, in one piece each: at
    64 MiB the GIL is held for a tenth of a second, twice.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as pieces."""
        text, step = self._text, _TEXT_CHARACTERS
        starts = range(0, len(text), step)
        return _join, ([text[at : at + step].encode("utf-8", "surrogatepass") for at in starts],)


def _join(pieces: list[bytes]) -> str:
    # What is left to do in one piece is a copy. (`text += piece` would grow in place, or copy all
    # of it for each piece: it depends on what lies behind it in memory.)
    return "".join([str(piece, "utf-8", "surrogatepass") for piece in pieces])


def in_pieces(value: Any) -> Any:
    """Return a large `str` as what crosses in pieces, anything else as it is."""
    return Text(value) if type(value) is str and len(value) > _TEXT_CHARACTERS else value


def dumps(value: object) -> bytes:
    """Pickle a value of any size into memory.

    Raises:
        Exception: whatever pickling raises.
    """
    try:
        if not _reducers:
            return pickle.dumps(value, 5)
        return _collected(value, _Sink(sys.maxsize, sys.maxsize))
    except TypeError as error:
        if not _learns(error):
            raise
    return dumps(value)


def encode(value: object) -> bytes:
    """Pickle a small value.

    Raises:
        TooLarge: its pickle is larger than a frame; `encode_large` takes it.
        Exception: whatever pickling raises.
    """
    try:
        return _collected(value, _Sink())
    except TypeError as error:
        if not _learns(error):
            raise
    return encode(value)


def _collected(value: object, sink: _Sink) -> bytes:
    _pickler(sink).dump(value)
    parts = sink.parts
    return parts[0] if len(parts) == 1 else b"".join(parts)


def pack(value: object) -> bytes | Parcel:
    """Pickle a value that is small, or large by nothing but its buffers.

    Returns:
        Its bytes, if they fit a frame; else what fits a tray.

    Raises:
        TooLarge: it is neither; `encode_large` takes it.
        Exception: whatever pickling raises.
    """
    sink = _Sink(TRAY_BYTES)
    try:
        _pickler(sink).dump(value)
    except TypeError as error:
        if not _learns(error):
            raise
        return pack(value)
    parts = sink.parts
    if sink.size > INLINE_BYTES:
        return Parcel(parts, sink.size)
    return parts[0] if len(parts) == 1 else b"".join(parts)


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


class _Attached(_thread._local):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    """The files of the payload that this thread is pickling or unpickling."""

    leaving: list[Descriptor] | None = None
    coming: list[int] | None = None


_attached = _Attached()


def attach(fd: int) -> int:
    """Send a descriptor beside the payload that is being pickled; return its number there.

    Raises:
        NeedsDescriptors: it cannot travel the way that this payload takes.
        ValueError: there are too many.
    """
    files = _attached.leaving
    if files is None:
        raise NeedsDescriptors(
            "an open file crosses only as an argument, and only to a worker process of a pool"
        )
    if len(files) >= MAX_DESCRIPTORS - 1:
        raise ValueError(f"a call can have at most {MAX_DESCRIPTORS - 1} open files as arguments")
    files.append(Descriptor(fd))
    return len(files) - 1


def attached(number: int) -> int:
    """Return the descriptor of that number, which is the caller's from now on."""
    files = _attached.coming
    assert files is not None
    fd, files[number] = files[number], -1
    return fd


def encode_large(value: object) -> tuple[bytes, int, int]:
    """Pickle a value of any size into an anonymous file. Call it off the event loop.

    Returns:
        The body that describes the file, the file's descriptor, which the caller closes, and the
        payload's size in bytes.

    Raises:
        OSError: there is no memory or disk for it.
        Exception: whatever pickling raises.
    """
    try:
        return _encode_file(value)
    except TypeError as error:
        if not _learns(error):
            raise
    return _encode_file(value)


def encode_with_files(value: object) -> tuple[bytes, int, int, list[Descriptor]]:
    """As `encode_large`, for a value that may refer to open files, which are returned as well."""
    try:
        files = _attached.leaving = []
        try:
            return *_encode_file(value), files
        except TypeError as error:
            if not _learns(error):
                raise
        files.clear()
        return *_encode_file(value), files
    finally:
        _attached.leaving = None


def _encode_file(value: object) -> tuple[bytes, int, int]:
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
        _pickler(sink, is_in_band).dump(value)
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


def decode_with_files(body: bytes, fd: int, files: list[int]) -> Any:
    """As `decode_large`, with the files that came beside it, which it closes or gives away."""
    _attached.coming = files
    try:
        return decode_large(body, fd)
    finally:
        _attached.coming = None
        for unwanted in files:
            if unwanted >= 0:
                os.close(unwanted)


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

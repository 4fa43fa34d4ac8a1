"""Large payloads: pickled into an anonymous file that crosses as a descriptor.

    memfd:   pickle stream │ buffer 0 │ buffer 1 │ … │ table    buffers start at multiples of 64
    copies:  sender's object ──write(2)──► memfd ──mmap──► receiver (buffers), or
                                                 ──read(2)─► receiver (bytes objects)

Every copy is made by the kernel while the GIL is free. An anonymous file has no name to leak, needs
no /dev/shm, and dies with its last descriptor (memfd_create(2)). All of this is for threads: none
of it is done on an event loop.

The body of the frame beside it has a fixed size: it tells how long the stream is, and how many
buffers the table at the end of the file lists. The file is sealed by who made it. Who gets it maps
it only then, and looks at nothing beyond its size, whatever the table says.

Files that are arguments themselves travel beside the payload, as descriptors of their own.
"""

from __future__ import annotations

import _thread
import mmap
import os
import sys

from offload._wire.frames import MAX_DESCRIPTORS
from offload._wire.lean import pickle, struct
from offload._wire.memory_file import anonymous_file, seal, sealed_size
from offload._wire.pickling import (
    TooLarge,
    TooManyBytes,
    dumps,
    pickler,
    register_missing_reducer,
)
from offload._wire.source import CALL_BYTES, FileSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Bytes of the pickle stream, number of buffers; and, for each of them, where it is in the file.
_BODY = struct.Struct("<QQ")
_ENTRY = struct.Struct("<QQ")
_ALIGNMENT = 64
# Below this a buffer costs more as a separate mapping entry than as a part of the stream.
_OUT_OF_BAND_BYTES = 4096
# Where each mapping costs a descriptor: how many to spend at once, of the usual 1024.
_MAX_MAPPINGS = 64


class NeedsDescriptors(TooLarge, TypeError):  # noqa: N818 - as TooLarge
    """A file can be pickled only where its descriptor can travel beside the payload."""


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


class FileSink:
    """A pickler's file on a descriptor. Python-level, so that the GIL is free between frames."""

    __slots__ = ("fd", "limit", "size")

    def __init__(self, fd: int, limit: int | None = None) -> None:
        self.fd = fd
        self.limit = sys.maxsize if limit is None else limit
        self.size = 0

    def write(self, data: Any) -> None:
        with memoryview(data) as view, view.cast("B") as raw:
            if self.size + raw.nbytes > self.limit:
                raise TooManyBytes(self.size + raw.nbytes)
            start = 0
            while start < raw.nbytes:
                start += os.write(self.fd, raw[start : start + CALL_BYTES])
            self.size += raw.nbytes

    def align(self) -> None:
        padding = -self.size % _ALIGNMENT
        if padding:
            self.write(bytes(padding))


class _Attached(_thread._local):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    """The files of the payload that this thread is pickling or unpickling."""

    leaving: list[Descriptor] | None = None
    coming: list[int] | None = None
    # Whether the payload takes copies of files: it goes where no descriptor can.
    is_copying = False


_attached = _Attached()


def dumps_with_files(value: object) -> bytes:
    """Pickle a value of any size into memory, open files with all that is in them.

    Raises:
        OSError: a file cannot be read.
        Exception: whatever pickling raises.
    """
    _attached.is_copying = True
    try:
        return dumps(value)
    finally:
        _attached.is_copying = False


def is_copying() -> bool:
    """Return whether what is being pickled takes copies of files."""
    return _attached.is_copying


def attach(fd: int) -> int:
    """Send a descriptor beside the payload that is being pickled; return its number there.

    Raises:
        NeedsDescriptors: it cannot travel the way that this payload takes.
        ValueError: there are too many.
    """
    files = _attached.leaving
    if files is None:
        raise NeedsDescriptors("an open file crosses only as an argument of a call")
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


def encode_large(value: object, limit: int | None = None) -> tuple[bytes, int, int]:
    """Pickle a value of any size into an anonymous file. Call it off the event loop.

    Args:
        value: anything that pickles.
        limit: how many bytes it may be; None: as many as there is room for.

    Returns:
        The body that describes the file, the file's descriptor, which the caller closes, and the
        payload's size in bytes.

    Raises:
        TooManyBytes: it is larger than `limit`.
        OSError: there is no memory or disk for it.
        Exception: whatever pickling raises.
    """
    try:
        return _encode_file(value, limit)
    except (TypeError, pickle.PicklingError) as error:
        if not register_missing_reducer(error):
            raise
    return _encode_file(value, limit)


def encode_with_files(
    value: object, limit: int | None = None
) -> tuple[bytes, int, int, list[Descriptor]]:
    """As `encode_large`, for a value that may refer to open files, which are returned as well."""
    files: list[Descriptor] = []
    _attached.leaving = files
    try:
        try:
            return *_encode_file(value, limit), files
        except (TypeError, pickle.PicklingError) as error:
            if not register_missing_reducer(error):
                raise
        files.clear()
        return *_encode_file(value, limit), files
    except BaseException:
        files.clear()  # now, and not when nobody refers to the traceback any more
        raise
    finally:
        _attached.leaving = None


def _encode_file(value: object, limit: int | None) -> tuple[bytes, int, int]:
    buffers: list[memoryview] = []

    def is_in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()  # contiguous in some order: the pickler has refused all others
        if raw.nbytes < _OUT_OF_BAND_BYTES:
            return True
        buffers.append(raw)
        return False

    fd = anonymous_file()
    try:
        sink = FileSink(fd, limit)
        pickler(sink, is_in_band).dump(value)
        stream = sink.size
        table: list[bytes] = []
        for raw in buffers:
            sink.align()
            table.append(_ENTRY.pack(sink.size, raw.nbytes))
            sink.write(raw)
        if table:
            FileSink(fd).write(b"".join(table))
        seal(fd)
        return _BODY.pack(stream, len(table)), fd, sink.size
    except BaseException:
        os.close(fd)
        raise


# Those that are still in use, or were when it was last looked.
_mappings: list[Callable[[], mmap.mmap | None]] = []


def _open_buffers(fd: int, start: int, end: int, *, is_sealed: bool) -> tuple[memoryview, int]:
    """Return writable memory of our own with what is in a file, and the offset that it begins at.

    Args:
        fd: the file.
        start: the first byte that is needed.
        end: the byte after the last one.
        is_sealed: nobody can make the file shorter, so that it can be mapped.

    Raises:
        EOFError: the file has become shorter.
    """
    if is_sealed:
        if sys.version_info >= (3, 13):
            mapping = mmap.mmap(fd, end, access=mmap.ACCESS_COPY, trackfd=False)
            return memoryview(mapping), 0
        # Before 3.13 a mapping keeps a descriptor of its own (gh-78502): a thousand results that
        # somebody keeps would be all that a server may open. Past some, copy: a millisecond for
        # each megabyte, while the GIL is free.
        from weakref import ref

        if len(_mappings) >= _MAX_MAPPINGS:
            _mappings[:] = [known for known in _mappings if known() is not None]
        if len(_mappings) < _MAX_MAPPINGS:
            mapping = mmap.mmap(fd, end, access=mmap.ACCESS_COPY)
            _mappings.append(ref(mapping))
            return memoryview(mapping), 0
    memory = memoryview(mmap.mmap(-1, end - start, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    source = FileSource(fd, end)
    source.position = start
    if source.readinto(memory) < end - start:
        raise EOFError("the file of a payload is shorter than it was")
    return memory, start


def spilled(fd: int, size: int) -> bytes:
    """Return the body for a file that has a pickle of so many bytes and nothing else."""
    seal(fd)
    return _BODY.pack(size, 0)


def layout_of(body: bytes, fd: int) -> tuple[int, list[tuple[int, int]], bool]:
    """Return where the parts of a payload are in its file, all of them inside it.

    Returns:
        The size of the pickle stream; offset and size of each buffer; whether the file is sealed.

    Raises:
        UnpicklingError: nobody of ours has written it.
    """
    sealed = sealed_size(fd)
    whole = os.fstat(fd).st_size if sealed is None else sealed
    try:
        stream, count = _BODY.unpack(body)
    except struct.error:
        raise pickle.UnpicklingError("the description of a payload is none") from None
    end = whole - count * _ENTRY.size
    if stream > end:
        raise pickle.UnpicklingError("a payload is larger than its file")
    if not count:
        return stream, [], sealed is not None
    source = FileSource(fd, whole)
    source.position = end
    layout = list(_ENTRY.iter_unpack(source.read()))
    if any(offset + size > end for offset, size in layout):
        raise pickle.UnpicklingError("a buffer of a payload is outside of its file")
    return stream, layout, sealed is not None


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
        stream, layout, is_sealed = layout_of(body, fd)
        buffers: list[memoryview] = []
        if layout:
            first, last = min(layout)[0], max(map(sum, layout))
            view, start = _open_buffers(fd, first, last, is_sealed=is_sealed)
            # Those that were read-only are made so by the unpickler: the stream says which.
            for offset, size in layout:
                buffers.append(view[offset - start : offset - start + size])
        return pickle.Unpickler(FileSource(fd, stream), buffers=buffers).load()
    finally:
        os.close(fd)

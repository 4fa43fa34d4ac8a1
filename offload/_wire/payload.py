"""Payloads: values to bytes, by the way that suits their size.

| the pickle of a value | arguments, to the worker | result, to the parent |
|---|---|---|
| up to 64 KiB | frame | frame |
| up to 2 MiB, at most 64 KiB of them no buffers | shared buffer | shared buffer, or file if full |
| any other | file | file |
| with open files in it | file + files | refused |
| `bytes` as the whole result, above 64 KiB | as any other | not pickled; as above |

Frame: the pickle is the body of its frame. One send, one receive.

Shared buffer: memory that the worker shares with its parent for as long as it lives.

    copies:  sender's object ──memcpy──► shared buffer ──memcpy──► receiver's object

A megabyte takes 25 to 100 microseconds to copy where the pages are there already. A new memfd costs
ten times that in page faults, and the two hops of a thread as much again; so the event loop copies
itself, and is held for less time than it takes to hand the work to a thread.

File: an anonymous file, written in a thread, that travels beside the frame as a descriptor; the
body has its layout. See `offload._wire.large`. Open files among the arguments travel in the same
way, as descriptors of their own.

`way_of` has the limits by size, and `Sink` stops a pickler at them. What looks large at a glance is
pickled in a thread (`offload._pool.codec`), and still goes by the first way that has room. Where
there is no memfd (macOS) there is no shared buffer, and the file is on a disk. Workers of executors
have neither: theirs are plain pickles of any size, and open files are copied into them.

Pickles are read only from our own parent or child process, over a socketpair that no one else has.
"""

from __future__ import annotations

import os
import time

from offload._wire.frames import INLINE_BYTES, Flag, pack_frame
from offload._wire.large import FileSink, encode_with_files, spilled
from offload._wire.lean import pickle
from offload._wire.memory_file import anonymous_file
from offload._wire.page import BUFFER_BYTES, TO_WORKER, has_shared_buffers
from offload._wire.pickling import Sink, TooLarge, encode, pickler, register_missing_reducer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from offload._wire.large import Descriptor

    Send = Callable[[bytes, Sequence[int]], None]

__all__ = [
    "Parcel",
    "Request",
    "Stopwatch",
    "Way",
    "pack",
    "request_here",
    "request_in_thread",
    "way_of",
]


class Way:
    """How a payload crosses. Plain ints: a worker imports no `enum`."""

    FRAME: Final = 1
    SHARED_BUFFER: Final = 2
    FILE: Final = 3


def way_of(size_bytes: int) -> int:
    """Return the way of a payload of so many bytes, one of `Way`; a file if it is no buffer."""
    if size_bytes <= INLINE_BYTES:
        return Way.FRAME
    if size_bytes <= BUFFER_BYTES:
        return Way.SHARED_BUFFER
    return Way.FILE


class Parcel:
    """A payload that is more than one frame, on its way to a worker.

    Either the parts of a pickle that fits the shared buffer, of which nothing can change any more,
    or a large payload whose arguments refer to open files.
    """

    __slots__ = ("body", "files", "kind", "loose", "parts", "size")

    def __init__(self, parts: list[bytes], size: int, loose: int = 0) -> None:
        self.parts = parts
        self.size = size
        # How much of it is no buffer.
        self.loose = loose
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

    def write_to(self, shared: mmap.mmap, start: int) -> bytes:
        """Copy the parts into a shared buffer; return the body of the frame that says so."""
        for part in self.parts:
            end = start + len(part)
            shared[start:end] = part
            start = end
        return self.size.to_bytes(4, "little")

    def spill(self) -> tuple[bytes, int]:
        """Copy the parts into a file, where the shared buffer is full; return body and descriptor.

        Raises:
            OSError: there is no memory or disk for it.
        """
        fd = anonymous_file()
        try:
            sink = FileSink(fd)
            for part in self.parts:
                sink.write(part)
        except BaseException:
            os.close(fd)
            raise
        return spilled(fd, self.size), fd

    def send(self, shared: mmap.mmap, descriptor: int | None, send: Send) -> None:
        """Send it to a worker.

        Args:
            shared: the memory that the worker shares with us.
            descriptor: the file of a large payload.
            send: sends a frame and descriptors.

        Raises:
            OSError: as `send` does.
            ValueError: the memory was let go, since the worker has ended.
        """
        if descriptor is None:
            send(pack_frame(self.kind, self.write_to(shared, TO_WORKER), Flag.SHARED), ())
        else:
            data = pack_frame(self.kind, self.body, Flag.LARGE, len(self.files))
            send(data, [descriptor, *(file.fd for file in self.files)])


class Request:
    """A pickled call. It owns its file, and may be sent more than once until it is closed.

    Attributes:
        payload: a whole frame, or what takes its place; for an executor, the pickle.
        descriptor: the file of a large one, None for any other and once it is closed.
        size_bytes: the size of the pickle.
    """

    __slots__ = ("descriptor", "payload", "size_bytes")

    def __init__(self, payload: bytes | Parcel, descriptor: int | None, size_bytes: int) -> None:
        self.payload = payload
        self.descriptor = descriptor
        self.size_bytes = size_bytes

    def send(self, shared: mmap.mmap, send: Send) -> None:
        """Send it to a worker; see `Parcel.send`."""
        payload, descriptor = self.payload, self.descriptor
        if not isinstance(payload, bytes):
            payload.send(shared, descriptor, send)
        else:
            send(payload, () if descriptor is None else (descriptor,))

    def take_descriptor(self) -> int | None:
        """Return the descriptor of the file, which is the caller's to close from now on."""
        descriptor, self.descriptor = self.descriptor, None
        if isinstance(self.payload, Parcel):
            self.payload.files.clear()
        return descriptor

    def close(self, closer: Callable[[int], object] = os.close) -> None:
        """Close the file, if there is one and it has not been closed.

        Args:
            closer: closes a descriptor. To close the last one of a large file takes long.
        """
        descriptor = self.take_descriptor()
        if descriptor is not None:
            closer(descriptor)


def pack(value: object) -> bytes | Parcel:
    """Pickle a value that is small, or large by nothing but its buffers.

    Returns:
        Its bytes, if they fit a frame; else the parts for a shared buffer.

    Raises:
        TooLarge: it needs a file: `encode_large`.
        Exception: whatever pickling raises.
    """
    # The sink stops the pickler at the first byte at which `way_of` would say "file".
    sink = Sink(BUFFER_BYTES, INLINE_BYTES)
    try:
        pickler(sink).dump(value)
    except (TypeError, pickle.PicklingError) as error:
        if not register_missing_reducer(error):
            raise
        return pack(value)
    parts = sink.parts
    if way_of(sink.size) == Way.SHARED_BUFFER:
        return Parcel(parts, sink.size, INLINE_BYTES - sink.loose)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def request_here(payload: tuple[Any, ...], kind: int) -> Request | None:
    """Pickle a call that goes to a worker process, for the event loop to do.

    Args:
        payload: function, arguments, keywords, meta data.
        kind: `Kind.CALL` or `Kind.STREAM`.

    Returns:
        None if it needs a file, and so a thread: `request_in_thread`.

    Raises:
        Exception: whatever pickling raises.
    """
    try:
        packed = pack(payload) if has_shared_buffers() else encode(payload)
    except TooLarge:
        return None
    if isinstance(packed, bytes):
        return Request(pack_frame(kind, packed), None, len(packed))
    packed.kind = kind
    return Request(packed, None, packed.size)


def request_in_thread(payload: tuple[Any, ...], kind: int, limit: int | None) -> Request:
    """Pickle a call of any size, into a file if need be; off the event loop. See `request_here`.

    Raises:
        TooManyBytes: it is larger than `limit`.
        OSError: there is no memory or disk for it.
        Exception: whatever pickling raises.
    """
    # A list of a thousand numbers takes too long for the loop, and is smaller than a frame.
    request = request_here(payload, kind)
    if request is not None and (limit is None or request.size_bytes <= limit):
        return request
    body, descriptor, size, files = encode_with_files(payload, limit)
    if not files:
        return Request(pack_frame(kind, body, Flag.LARGE), descriptor, size)
    parcel = Parcel([], size)
    parcel.kind, parcel.body, parcel.files = kind, body, files
    return Request(parcel, descriptor, size)


class Stopwatch:
    """Measures how long pickling a result took, which tells how long unpickling will take."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def is_slow(self) -> bool:
        """Whether the other side should not do this on its event loop."""
        # Unpickling takes two to three times as long as pickling, and the loop's budget is 1 ms.
        return time.perf_counter() - self._started > 0.0003  # noqa: PLR2004

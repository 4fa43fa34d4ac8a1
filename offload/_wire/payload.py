"""Payloads: values to bytes and back, by the way that suits their size.

Small, up to 64 KiB: pickled into the body of a frame.

Medium, up to 2 MiB and mostly buffers: pickled into a tray, memory that a worker shares with its
parent for as long as it lives.

    shared file:  page of words │ in-tray │ out-tray
    copies:       sender's object ──memcpy──► tray ──memcpy──► receiver's object

A megabyte takes 25 to 100 microseconds to copy where the pages are there already. A new memfd costs
ten times that in page faults, and a thread's two hops as much again; so it is done on the event
loop, and holds that for less time than giving it to a thread would.

Large: pickled into an anonymous file that travels beside the frame as a descriptor, on a thread;
the body then holds only its layout. See `offload._wire.large`.

Pickles are read only from our own parent or child process, over a socketpair that no one else has.
"""

from __future__ import annotations

import os
import time

from offload._wire.frames import INLINE_BYTES, Flag, anonymous_file, frame
from offload._wire.large import FileSink, encode_large
from offload._wire.lean import pickle
from offload._wire.page import OUT_FULL, PAGE_BYTES
from offload._wire.pickling import (
    Sink,
    TooLarge,
    TooManyBytes,
    in_pieces,
    learns,
    pickled_size,
    pickler,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

    from offload._wire.large import Descriptor

# What the event loop may copy at once: within its millisecond on slow memory too. Both trays of a
# worker take that much memory from when they are used first.
TRAY_BYTES = 2 << 20
# So few objects are unpickled in no time.
_LOOSE_BYTES = 4096
# What leaves room in a frame for its header.
_BODY_BYTES = 60 * 1024
_IN_TRAY = PAGE_BYTES
_OUT_TRAY = _IN_TRAY + TRAY_BYTES


class Parcel:
    """A payload that is more than one frame, on its way to a worker.

    Either the parts of a pickle that fits a tray, of which nothing can change any more, or a large
    payload whose arguments refer to files.
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
            sink = FileSink(fd)
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


def has_trays() -> bool:
    """Return whether workers that this process starts have trays."""
    # Only memory has: a disk that is full could say so only by a signal that ends us (SIGBUS for a
    # mapped page that cannot be had).
    return hasattr(os, "memfd_create")


def shared_bytes() -> int:
    """Return the size of the file that a worker shares with its parent."""
    return _OUT_TRAY + TRAY_BYTES if has_trays() else PAGE_BYTES


def take_tray(shared: mmap.mmap, body: bytes) -> bytes:
    """Return what a worker put into its out-tray; from then on it is the worker's again."""
    data = shared[_OUT_TRAY : _OUT_TRAY + int.from_bytes(body, "little")]
    start = OUT_FULL * 8
    shared[start : start + 8] = bytes(8)
    return data


def keep_freed_memory() -> None:
    """Have this process keep some megabytes that it frees, for what it allocates next.

    What is copied into and out of trays is allocated and freed with each call. glibc returns to the
    kernel what is free beyond twice the largest mapped block that was ever freed, 128 KiB at first,
    and to get it anew takes fifteen times as long as the copy: page faults. To free a block teaches
    it, until a larger one does (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this does nothing.
    """
    # Never written to, so that it costs 30 microseconds and no memory.
    bytes(2 * TRAY_BYTES)


class Trays:
    """The trays as the worker sees them."""

    def __init__(self, shared: mmap.mmap, page: memoryview) -> None:
        keep_freed_memory()
        self._shared = shared
        self._page = page
        self._whole = memoryview(shared)
        self._has_trays = len(shared) > PAGE_BYTES
        os.register_at_fork(after_in_child=self.leave_to_parent)

    def leave_to_parent(self) -> None:
        """Let go of the out-tray: this is a forked child of the worker, which may be filling it."""
        self._has_trays = False

    def load(self, body: bytes) -> Any:
        """Unpickle what is in the in-tray; nothing that comes of it refers to the tray."""
        end = _IN_TRAY + int.from_bytes(body, "little")
        return pickle.loads(self._whole[_IN_TRAY:end])

    def pack(self, value: Any, limit: int | None) -> tuple[bytes, int, int | None]:
        """Pickle a result the way that suits it.

        Args:
            value: the result.
            limit: how many bytes it may take; None: any number.

        Returns:
            Body and flags of the reply, and the descriptor of a large one, which the caller closes.

        Raises:
            TooManyBytes: it takes more.
            OSError: there is no memory or disk for it.
            Exception: whatever pickling raises.
        """
        if type(value) is bytes and len(value) > INLINE_BYTES:
            # How a response that is encoded already goes back: not even pickled.
            return self.pack_bytes(value, limit)
        watch = Stopwatch()
        try:
            packed = pack(value)
        except TooLarge:
            try:
                body, fd, _ = encode_large(in_pieces(value), limit)
            except TooManyBytes:
                raise TooManyBytes(pickled_size(value)) from None
            return body, Flag.LARGE, fd
        flags = Flag.SLOW if watch.is_slow() else 0
        size = len(packed) if isinstance(packed, bytes) else packed.size
        if limit is not None and size > limit:
            raise TooManyBytes(size)
        if isinstance(packed, bytes):
            return packed, flags, None
        # What is little but buffers only seemed slow: others had the core.
        return self._put(packed, flags if packed.loose > _LOOSE_BYTES else 0)

    def pack_bytes(self, data: bytes, limit: int | None) -> tuple[bytes, int, int | None]:
        """As `pack`, for what is sent as it is; the other side gets these very bytes."""
        size = len(data)
        if limit is not None and size > limit:
            raise TooManyBytes(size)
        if size <= _BODY_BYTES:
            return data, 0, None
        if size <= TRAY_BYTES:
            return self._put(Parcel([data], size), Flag.RAW)
        body, fd, _ = encode_large(data)
        return body, Flag.LARGE, fd

    def _put(self, parcel: Parcel, flags: int) -> tuple[bytes, int, int | None]:
        # Items of a stream may come faster than the parent empties the tray.
        if self._has_trays and not self._page[OUT_FULL]:
            body = parcel.lay(self._shared, _OUT_TRAY)
            self._page[OUT_FULL] = 1
            return body, flags | Flag.TRAY, None
        if flags & Flag.RAW:
            body, fd, _ = encode_large(parcel.joined())
        else:
            body, fd = parcel.file()
        return body, Flag.LARGE, fd


def pack(value: object) -> bytes | Parcel:
    """Pickle a value that is small, or large by nothing but its buffers.

    Returns:
        Its bytes, if they fit a frame; else what fits a tray.

    Raises:
        TooLarge: it is neither; `encode_large` takes it.
        Exception: whatever pickling raises.
    """
    sink = Sink(TRAY_BYTES)
    try:
        pickler(sink).dump(value)
    except TypeError as error:
        if not learns(error):
            raise
        return pack(value)
    parts = sink.parts
    if sink.size > INLINE_BYTES:
        return Parcel(parts, sink.size, INLINE_BYTES - sink.loose)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Stopwatch:
    """Measures how long pickling a result took, which tells how long unpickling will take."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def is_slow(self) -> bool:
        """Whether the other side should not do this on its event loop."""
        # Unpickling takes two to three times as long as pickling, and the loop's budget is 1 ms.
        return time.perf_counter() - self._started > 0.0003  # noqa: PLR2004

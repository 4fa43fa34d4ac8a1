"""The buffers that a worker shares with its parent, as each of them uses them."""

from __future__ import annotations

import os

from offload._wire.frames import INLINE_BYTES, Flag
from offload._wire.large import encode_large
from offload._wire.lean import pickle
from offload._wire.page import BUFFER_BYTES, FROM_WORKER, OUT_FULL, PAGE_BYTES, TO_WORKER
from offload._wire.payload import Parcel, Stopwatch, Way, pack, way_of
from offload._wire.pickling import TooLarge, TooManyBytes, in_pieces, pickled_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from typing import Any

__all__ = ["SharedBuffers", "keep_freed_memory", "read_reply"]

# So few objects are unpickled in no time.
_LOOSE_BYTES = 4096


def read_reply(shared: mmap.mmap, body: bytes) -> bytes:
    """Return what a worker has put into its buffer, which is the worker's again from then on."""
    data = shared[FROM_WORKER : FROM_WORKER + int.from_bytes(body, "little")]
    start = OUT_FULL * 8
    shared[start : start + 8] = bytes(8)
    return data


def keep_freed_memory() -> None:
    """Have this process keep some megabytes that it frees, for what it allocates next.

    What is copied into and out of shared buffers is allocated and freed with each call. glibc
    returns to the kernel what is free beyond twice the largest mapped block that was ever freed,
    128 KiB at first, and to get it anew takes fifteen times as long as the copy: page faults. To
    free a block teaches it, until a larger one does (mallopt(3), M_MMAP_THRESHOLD). Elsewhere this
    does nothing.
    """
    # Never written to, so that it costs 30 microseconds and no memory.
    bytes(2 * BUFFER_BYTES)


class SharedBuffers:
    """The buffers as the worker uses them: requests come in one, replies leave by the other."""

    def __init__(self, shared: mmap.mmap, page: memoryview) -> None:
        keep_freed_memory()
        self._shared = shared
        self._page = page
        self._whole = memoryview(shared)
        self._is_ours = len(shared) > PAGE_BYTES
        os.register_at_fork(after_in_child=self.leave_to_parent)

    def leave_to_parent(self) -> None:
        """Leave the buffer alone: this is a forked child of the worker, which may be using it."""
        self._is_ours = False

    def load(self, body: bytes) -> Any:
        """Unpickle the request that is in the buffer; no object made of it refers to the buffer."""
        end = TO_WORKER + int.from_bytes(body, "little")
        return pickle.loads(self._whole[TO_WORKER:end])

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
            # An encoded response goes back like this: not even pickled.
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
        # A result of few objects beside its buffers only seemed slow: others had the core.
        return self._put(packed, flags if packed.loose > _LOOSE_BYTES else 0)

    def pack_bytes(self, data: bytes, limit: int | None) -> tuple[bytes, int, int | None]:
        """As `pack`, for a result that is sent as it is; the other side gets these very bytes."""
        size = len(data)
        if limit is not None and size > limit:
            raise TooManyBytes(size)
        way = way_of(size)
        if way == Way.FRAME:
            return data, 0, None
        if way == Way.SHARED_BUFFER:
            return self._put(Parcel([data], size), Flag.RAW)
        body, fd, _ = encode_large(data)
        return body, Flag.LARGE, fd

    def pack_parts(self, parts: list[bytes], size: int) -> tuple[bytes, int, int | None]:
        """As `pack`, for a payload that is made already."""
        way = way_of(size)
        if way == Way.FRAME:
            return b"".join(parts), 0, None
        parcel = Parcel(parts, size)
        if way == Way.SHARED_BUFFER:
            return self._put(parcel, 0)
        body, fd = parcel.spill()
        return body, Flag.LARGE, fd

    def _put(self, parcel: Parcel, flags: int) -> tuple[bytes, int, int | None]:
        # Items of a stream may come faster than the parent empties the buffer.
        if self._is_ours and not self._page[OUT_FULL]:
            body = parcel.write_to(self._shared, FROM_WORKER)
            self._page[OUT_FULL] = 1
            return body, flags | Flag.SHARED, None
        if flags & Flag.RAW:
            body, fd, _ = encode_large(parcel.joined())
        else:
            body, fd = parcel.spill()
        return body, Flag.LARGE, fd

"""Files that cross as descriptors: what they hold is neither pickled nor copied.

    disk or memory ◄──one open file──► descriptor here, descriptor in the worker

Both sides read at positions of their own (pread(2)): the offset of the open file, which they share,
is not used, so that two calls can read the same file at once, and a call that is run again begins
at the beginning.

A worker that is a slot of an executor cannot be given a descriptor. It gets a file of its own, with
a copy of all that is in ours.
"""

from __future__ import annotations

import io
import os

from offload._wire.large import FileSink, attach, attached, is_copying
from offload._wire.memory_file import anonymous_file, seal
from offload._wire.source import FileSource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Each time that it is filled costs a call in Python.
_BUFFER_BYTES = 128 << 10


class _Reader(io.RawIOBase):
    """Reads a descriptor, which it owns, from a position of its own."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__()
        self._fd = fd
        self._size = size
        self._position = 0

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        with memoryview(buffer) as view, view.cast("B") as raw:
            if hasattr(os, "preadv"):
                moved = os.preadv(self._fd, [raw], self._position)
            else:  # Windows, where nobody shares the offset: each worker has a copy
                os.lseek(self._fd, self._position, os.SEEK_SET)
                data = os.read(self._fd, raw.nbytes)
                moved = len(data)
                raw[:moved] = data
        self._position += moved
        return moved

    def readall(self) -> bytes:
        # Python's own reads 8 KiB at a time: 16 MiB took 50 ms instead of 10.
        self._check()
        if not hasattr(os, "pread"):
            return super().readall()
        source = FileSource(self._fd, max(self._size, self._position))
        source.position = self._position
        data = source.read()
        self._position = source.position
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"there is no position {start + offset} in a file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        self._check()
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        self._check()
        return self._fd

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")


class SharedFile(io.BufferedReader):
    """A file without a name, open for reading in binary; it crosses to a worker as a descriptor.

    As an argument of a call it costs no copy, whatever its size, and does not count against
    `max_payload_bytes`. The worker gets one of its own, at the beginning, to read, seek in or map
    (`mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)`). Its memory or disk is free when all of
    them are closed, as happens when nobody refers to them any more.

    Only workers that are processes of the pool can be given a descriptor. On a pool with
    `executor=…` the worker gets a copy, which is pickled and counts. It cannot be a result.

    Attributes:
        size: in bytes.
    """

    def __init__(
        self, descriptor: int, size: int, *, closed: Callable[[], object] | None = None
    ) -> None:
        """Take over a descriptor of a file that nobody changes any more.

        Args:
            descriptor: of the file.
            size: in bytes.
            closed: called once, when this is closed.
        """
        self._tell_closed = closed
        super().__init__(_Reader(descriptor, size), _BUFFER_BYTES)
        self.size = size

    def close(self) -> None:
        """Close it; its memory or disk is free when nobody else has it open."""
        tell, self._tell_closed = self._tell_closed, None
        try:
            super().close()
        finally:
            if tell is not None:
                tell()

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:
        """Cross beside the payload, or inside it where there is no other way."""
        if is_copying():
            with _Reader(os.dup(self.fileno()), self.size) as reader:
                return _copied, (reader.readall(),)
        return _opened, (attach(self.fileno()), self.size)

    def __repr__(self) -> str:
        """Tell the size."""
        state = "closed" if self.closed else f"{self.size} bytes"
        return f"<SharedFile {state}>"


def _copied(data: bytes) -> SharedFile:
    fd = anonymous_file()
    try:
        FileSink(fd).write(data)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return SharedFile(fd, len(data))


def _opened(number: int, size: int) -> SharedFile:
    return SharedFile(attached(number), size)

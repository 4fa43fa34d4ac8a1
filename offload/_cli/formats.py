"""Figures and texts as a terminal shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["cpu_text", "memory_text", "printable", "seconds_text", "size_text"]

_KIB = 1024


def printable(value: object, limit: int = 200) -> str:
    """Return a text that only shows: what comes from a server must not steer this terminal."""
    text = str(value)[:limit]
    # Escape sequences, line ends, and characters that turn the direction of what follows.
    return "".join(each if each.isprintable() else "�" if each == "\x1b" else " " for each in text)


def cpu_text(usage: Mapping[str, Any]) -> str:
    """Return the share of a CPU that a process uses; nothing where it is not known."""
    return "" if usage["cpu"] is None else f"{usage['cpu']:.0%}"


def memory_text(usage: Mapping[str, Any]) -> str:
    """Return the memory of a process; nothing where it is not known."""
    size = usage["pss_bytes"] or usage["rss_bytes"]
    return "" if size is None else size_text(size)


def size_text(size: float) -> str:
    """Return a number of bytes in a unit that people read."""
    for unit in ("B", "KiB", "MiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}"
        size /= _KIB
    return f"{size:.1f} GiB"


def seconds_text(seconds: float) -> str:
    """Return a duration with three digits that count."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds else "0"

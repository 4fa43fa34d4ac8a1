"""Stacks as samples: light, since they are taken while the loop is in trouble."""

from __future__ import annotations

import linecache
import os
import sysconfig
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, FrameType

__all__ = [
    "Call",
    "Stack",
    "is_loop_waiting",
    "is_ours",
    "is_waiting",
    "own_call",
    "stack_of",
    "text_of",
]

# Innermost frames that are kept; a recursion is told by its end as well as by all of it.
_MAX_DEPTH = 200
_MAX_TEXT = 80

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STANDARD = tuple(
    {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")} | {"<frozen"}
)
_INSTALLED = tuple(
    {os.path.join(sysconfig.get_path(name), "") for name in ("purelib", "platlib")}
    | {f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"}
)
# Where a thread that has nothing to do is.
_WAITING = {
    "concurrent.futures.thread": ("_worker",),
    "multiprocessing.connection": ("wait", "_recv", "_poll"),
    "queue": ("get", "put"),
    "selectors": ("select",),
    "socket": ("accept", "readinto"),
    "subprocess": ("_try_wait", "_wait"),
    "threading": ("wait", "_wait_for_tstate_lock", "join", "acquire"),
    "trio._core._thread_cache": ("_work",),
}


_HOOKS = ("offload.watchdog._watcher", "offload._heartbeat")
# Our own calls that a hook makes, and itself.
_MOST_OF_US = 8


class Call(NamedTuple):
    """One frame at one instant."""

    code: CodeType
    line: int
    instruction: int
    module: str

    @property
    def file(self) -> str:
        """The file of its code."""
        return self.code.co_filename

    @property
    def function(self) -> str:
        """Its function, as `module:qualname`."""
        return f"{self.module}:{self.code.co_qualname}"

    @property
    def text(self) -> str:
        """The very expression that is being evaluated, on one line; "" where it is not known."""
        # One entry per code unit of two bytes.
        for index, (line, end_line, start, end) in enumerate(self.code.co_positions()):
            if index * 2 < self.instruction:
                continue
            if line is None or end_line is None or start is None or end is None:
                break
            # Columns count bytes of UTF-8.
            lines = [
                linecache.getline(self.file, each).encode() for each in range(line, end_line + 1)
            ]
            lines[-1] = lines[-1][:end]
            lines[0] = lines[0][start:]
            text = " ".join(b" ".join(lines).decode(errors="replace").split())
            if not text:  # an instruction that the compiler has added
                break
            return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."
        return linecache.getline(self.file, self.line).strip()[:_MAX_TEXT]


Stack = tuple[Call, ...]
"""Calls, innermost first."""


def stack_of(frame: FrameType) -> Stack:
    """Return the stack of a thread, given its innermost frame."""
    calls: list[Call] = []
    each: FrameType | None = frame
    while each is not None and len(calls) < _MAX_DEPTH:
        module = each.f_globals.get("__name__") or "?"
        # No line: an instruction that the compiler has added.
        line = each.f_lineno or each.f_code.co_firstlineno  # pyright: ignore[reportUnnecessaryComparison]
        calls.append(Call(each.f_code, line, each.f_lasti, str(module)))
        each = each.f_back
    return _without_us(calls)


def _without_us(calls: list[Call]) -> Stack:
    """Return the stack of what was at work when the watchdog itself came in between.

    Its hooks run on the thread that it watches: of the collector, wherever that was at work, and of
    the timer. They are seen often, since the GIL goes round there, and are never the place.
    """
    for index in range(min(len(calls), _MOST_OF_US) - 1, -1, -1):
        if calls[index].module in _HOOKS:
            return tuple(calls[index + 1 :]) or tuple(calls)
    return tuple(calls)


def is_waiting(stack: Stack) -> bool:
    """Return whether a thread has nothing to do, as far as its stack tells."""
    call = stack[0]
    return call.code.co_name in _WAITING.get(call.module, ())


def is_loop_waiting(stack: Stack) -> bool:
    """Return whether a loop waits for events, where its own code is Python."""
    if stack[0].module.startswith(("trio._core._io", "asyncio.windows_events")):
        return True
    return (
        len(stack) > 1 and stack[0].module == "selectors" and stack[1].module.startswith("asyncio.")
    )


def own_call(stack: Stack, package: str = "") -> int:
    """Return the index of the innermost call of the application.

    Args:
        stack: with one call at least.
        package: top-level name of the package that the endpoint is in. The application's own code
            is what is neither of Python, nor installed, nor of this library, or is in here.

    Returns:
        Where there is none: that of the innermost call that is not of Python itself, else 0.
    """
    best = None
    for index, call in enumerate(stack):
        if package and call.module.partition(".")[0] == package:
            return index
        if not _is_library(call.file):
            return index
        if best is None and not _is_standard(call.file):
            best = index
    return best or 0


def is_ours(stack: Sequence[Call]) -> bool:
    """Return whether code of this library was at work: its own, or what it called of Python."""
    for call in stack:
        if call.file.startswith(_OURS):
            return True
        if not _is_standard(call.file):
            return False
    return False


def _is_standard(file: str) -> bool:
    return file.startswith(_STANDARD) and not any(part in file for part in _INSTALLED)


def _is_library(file: str) -> bool:
    return file.startswith((*_STANDARD, _OURS)) or any(part in file for part in _INSTALLED)


def text_of(stack: Stack) -> str:
    """Return a stack as a traceback shows it, outermost call first."""
    lines: list[str] = []
    for call in reversed(stack):
        lines.append(f'  File "{call.file}", line {call.line}, in {call.code.co_qualname}\n')
        if source := linecache.getline(call.file, call.line).strip():
            lines.append(f"    {source}\n")
    return "".join(lines)

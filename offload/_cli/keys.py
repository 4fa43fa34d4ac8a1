"""Reads single keys from the terminal."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["keys", "names_of"]

_MOST_BYTES = 4096
# What terminals send for keys that are no characters (xterm, both of its cursor modes).
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
}
_CONTROLS = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x1b": "escape",
    "\x03": "interrupt",
}


def names_of(typed: str) -> list[str]:
    """Return the keys that were pressed: characters, or names such as "up" and "enter".

    Sequences of keys that have no meaning here are left out.
    """
    found: list[str] = []
    at = 0
    while at < len(typed):
        if typed[at] == "\x1b" and typed[at + 1 : at + 2] in ("[", "O"):
            # ESC [ parameters final, or ESC O final (ECMA-48, 5.4).
            end = at + 2
            while end < len(typed) and not "@" <= typed[end] <= "~":
                end += 1
            name = _SEQUENCES.get(typed[at : end + 1])
            found += [name] if name else []
            at = end + 1
            continue
        found += [_CONTROLS.get(typed[at], typed[at])]
        at += 1
    return found


@contextmanager
def keys() -> Generator[Callable[[float], list[str]]]:
    """Take keys as they are pressed, without Enter; where input is no terminal, there are none.

    Yields:
        A function that waits for at most so many seconds and returns the keys that were pressed.
    """
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError):  # Windows, or input that is no terminal
        yield _no_keys
        return
    except Exception as error:
        if type(error).__name__ != "error":  # termios.error is a class of its own
            raise
        yield _no_keys
        return

    def pressed(seconds: float) -> list[str]:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return []
        # Unbuffered: what a buffer has taken already would not wake the next select.
        typed = os.read(descriptor, _MOST_BYTES)
        # Nothing to read although it was ready: the terminal is gone.
        return names_of(typed.decode(errors="ignore")) if typed else ["q"]

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> list[str]:
    time.sleep(seconds)
    return []

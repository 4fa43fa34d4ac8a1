"""A program that `offload run` has started: its end with its parent, and that it is ready."""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

from offload._child.os_priority import die_with_parent

__all__ = ["NOTHING", "OPTION", "READY", "Child", "arguments_of"]

# What a program tells: that it does what it is for, or that there is nothing to do.
READY: Final = b"1"
NOTHING: Final = b"0"
OPTION: Final = "--child"


def arguments_of(parent: int, ready: int, listener: int | None) -> list[str]:
    """Return the arguments that tell a program whose child it is."""
    return [OPTION, f"{parent}:{ready}:{'' if listener is None else listener}"]


class Child:
    """What a program knows of the one that has started it.

    Args:
        text: as `arguments_of` wrote it.

    Attributes:
        listener: the socket to serve; None: there is none.
    """

    def __init__(self, text: str) -> None:
        parent, ready, listener = text.split(":")
        # Before anything can take time. Our parent starts us on its main thread, so that the trap
        # of prctl(2), which fires when the *thread* ends, is none.
        die_with_parent()
        if os.getppid() != int(parent):
            sys.exit(1)  # It had ended before it could take us with it.
        self._ready = int(ready)
        # No program that is started here gets them.
        os.set_inheritable(self._ready, False)
        self.listener: socket.socket | None = None
        if listener:
            self.listener = socket.socket(fileno=int(listener))
            self.listener.set_inheritable(False)

    def ready(self) -> None:
        """Tell that this program does what it is for."""
        self._tell(READY)

    def nothing_to_do(self) -> None:
        """Tell that it need not be started again when it ends, which it does now."""
        self._tell(NOTHING)

    def _tell(self, word: bytes) -> None:
        os.write(self._ready, word)
        os.close(self._ready)

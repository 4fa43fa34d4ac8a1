"""The supervisor's end of the socket to the server."""

from __future__ import annotations

import marshal
import os
import select

from offload._wire.supervision import LENGTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from offload._wire.lean import socket

__all__ = ["is_abandoned", "receive_exactly", "receive_settings"]


def is_abandoned(control: socket.socket) -> bool:
    """Return whether the server has ended."""
    poll = select.poll()
    poll.register(control, 0)  # nothing but the end of the other side, which is always told
    return bool(poll.poll(0))


def receive_settings(control: socket.socket) -> dict[str, Any]:
    """Return the settings, which come first."""
    (size,) = LENGTH.unpack(receive_exactly(control, LENGTH.size))
    settings: dict[str, Any] = marshal.loads(receive_exactly(control, size))
    return settings


def receive_exactly(control: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes; ends this process where there are no more."""
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data

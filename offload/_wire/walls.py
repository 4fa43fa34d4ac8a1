"""The walls around a hardened worker, by name, and what a worker that is ready says of them.

READY: │ process id, 8 bytes │ walls that are missing, 1 byte │
"""

from __future__ import annotations

from offload._wire.lean import struct

__all__ = [
    "ALL_WALLS",
    "CAPABILITIES",
    "DUMPS",
    "FILES",
    "NETWORK",
    "PRIVILEGES",
    "SIGNALS",
    "SYSTEM_CALLS",
    "USER",
    "pack_ready",
    "unpack_ready",
]

_READY = struct.Struct("<QB")

PRIVILEGES = "privileges"
DUMPS = "dumps"
CAPABILITIES = "capabilities"
SYSTEM_CALLS = "system calls"
NETWORK = "network"
FILES = "files"
SIGNALS = "signals"
USER = "user"

ALL_WALLS: tuple[str, ...] = (
    PRIVILEGES,
    DUMPS,
    CAPABILITIES,
    SYSTEM_CALLS,
    NETWORK,
    FILES,
    SIGNALS,
    USER,
)


def pack_ready(pid: int, missing: list[str]) -> bytes:
    """Return what a worker says that is ready: its process, and which walls are missing."""
    bits = sum(1 << ALL_WALLS.index(name) for name in set(missing))
    return _READY.pack(pid, bits)


def unpack_ready(body: bytes) -> tuple[int, tuple[str, ...]] | None:
    """Return the same, None if it is nothing that a worker says."""
    if len(body) != _READY.size:
        return None
    pid, bits = _READY.unpack(body)
    return pid, tuple(name for place, name in enumerate(ALL_WALLS) if bits >> place & 1)

"""What a worker tells the resource tracker of its server, in the frames of kind `TRACK`.

Both ends are in `kinship`: that of `offload._child` sends, that of `offload._workers` obeys.
"""

from __future__ import annotations

__all__ = ["COMMANDS", "RESOURCES", "pack_news", "unpack_news"]

COMMANDS = ("register", "unregister")
# What multiprocessing makes names for.
RESOURCES = ("shared_memory", "semaphore")


def pack_news(command: str, rtype: str, name: str) -> bytes:
    """Return the body of a frame."""
    return f"{command}\n{rtype}\n{name}".encode()


def unpack_news(body: bytes) -> tuple[str, str, str] | None:
    """Return command, type and name; None if it is nothing that a worker of ours says."""
    command, rtype, name = (*body.decode(errors="replace").split("\n", 2), "", "")[:3]
    # Names are words of a protocol of lines, in which another line would be another command.
    is_known = command in COMMANDS and rtype in RESOURCES and name and name.isprintable()
    return (command, rtype, name) if is_known else None

"""How the file does, and what its operator should know."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
from typing import TYPE_CHECKING, Final

from offload.jobs._sqlite.location import network_filesystem
from offload.jobs._values import Health

if TYPE_CHECKING:
    from offload.jobs._sqlite.location import Location

__all__ = ["look"]

_LOW_SPACE_BYTES: Final = 256 << 20


def look(connection: sqlite3.Connection, location: Location, round_trip: float) -> Health:
    """Return what there is to say."""
    path = location.path
    problems: list[str] = []
    network = network_filesystem(path)
    if network is not None:
        problems.append(
            f"{path} is on {network}, where SQLite's locks and log do not work: jobs may get lost; "
            "put the file on a local disk, or use Redis or Postgres"
        )
    status = os.stat(path)
    if sys.platform != "win32":
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            problems.append(
                f"others than the owner may use {path} (mode {mode:o}), and with it read and make "
                "jobs; chmod 600 unless that is meant"
            )
        space = os.statvfs(path)
        free_bytes = space.f_bavail * space.f_frsize
        if free_bytes < _LOW_SPACE_BYTES:
            problems.append(f"the disk of {path} has only {free_bytes >> 20} MiB left")
    (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
    if journal != "wal":
        problems.append(f"{path} is in journal mode {journal}, in which readers block writers")
    try:
        log_bytes = os.stat(path + "-wal").st_size
    except FileNotFoundError:
        log_bytes = 0
    details = {
        "size_bytes": str(status.st_size),
        "log_bytes": str(log_bytes),
        "synchronous": "full" if location.is_synced else "normal",
    }
    return Health(
        "sqlite", sqlite3.sqlite_version, location.url, round_trip, tuple(problems), details
    )

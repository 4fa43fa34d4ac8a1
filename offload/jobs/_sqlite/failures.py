"""What SQLite's errors mean for whoever has jobs in the file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from offload.jobs._errors import JobsCorruptError, JobsUnavailableError
from offload.jobs._sqlite.holder import holder

if TYPE_CHECKING:
    from offload.jobs._sqlite.location import Location

__all__ = ["translate"]

# The low byte is the primary result code. https://sqlite.org/rescode.html
_PRIMARY = 0xFF
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program holds a lock on it",
    sqlite3.SQLITE_LOCKED: "another program holds a lock on it",
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "this process may not write to the file or to its directory",
    sqlite3.SQLITE_PERM: "this process may not write to the file or to its directory",
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened; look at the path, its permissions, and the limit of open files"
    ),
    sqlite3.SQLITE_IOERR: "the disk fails, or is full",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_TOOBIG: "a text is larger than SQLite can keep",
}


def translate(error: BaseException, place: Location) -> BaseException:
    """Return what to raise instead of `error`; itself, if it is not of SQLite or of the OS.

    The transaction was rolled back: nothing was stored.
    """
    location = place.url
    found: JobsUnavailableError
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & _PRIMARY if code is not None else None
        if primary in _CORRUPT:
            found = JobsCorruptError(
                f"{location} is damaged, or no SQLite file ({error}); restore a backup, or try "
                "`sqlite3 FILE .recover`",
                location=location,
            )
        elif primary in _ADVICE:
            advice = _ADVICE[primary]
            if primary in _LOCKED and (held_by := holder(place.path)):
                advice = f"{held_by} holds a lock on it"
            found = JobsUnavailableError(
                f"{location} cannot be used: {advice} ({error})", location=location
            )
        elif isinstance(error, sqlite3.OperationalError):
            found = JobsUnavailableError(f"{location} cannot be used: {error}", location=location)
        else:
            return error
    elif isinstance(error, OSError) and not isinstance(error, JobsUnavailableError):
        found = JobsUnavailableError(f"{location} cannot be used: {error}", location=location)
    else:
        return error
    found.__cause__ = error
    return found

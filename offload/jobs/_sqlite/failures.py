"""What SQLite's errors mean for whoever has jobs in the file."""

from __future__ import annotations

import sqlite3

from offload.jobs._errors import JobsCorruptError, JobsUnavailableError

__all__ = ["translate"]

# The low byte is the primary result code. https://sqlite.org/rescode.html
_PRIMARY = 0xFF
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program holds a lock on it, or is stopped while it has one",
    sqlite3.SQLITE_LOCKED: "another program holds a lock on it, or is stopped while it has one",
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


def translate(error: BaseException, location: str) -> BaseException:
    """Return what to raise instead of `error`; itself, if it is not of SQLite or of the OS.

    The transaction was rolled back: nothing was stored.
    """
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
            found = JobsUnavailableError(
                f"{location} cannot be used: {_ADVICE[primary]} ({error})", location=location
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

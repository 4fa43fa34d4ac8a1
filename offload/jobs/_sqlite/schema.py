"""Tables, their versions, and connections to them."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from offload.jobs._errors import JobsCorruptError
from offload.jobs._values import JobState

if TYPE_CHECKING:
    from offload.jobs._sqlite.location import Location

__all__ = ["APPLICATION_ID", "MIGRATIONS", "STATES", "STATE_NUMBERS", "connect", "migrate"]

# "offl": tells our files from others, as `file` does. https://sqlite.org/fileformat.html
APPLICATION_ID: Final = 0x6F66666C

# Numbers in the file: never change one. States that are over are from 3 on, and indices say so.
STATES: Final = (
    JobState.WAITING,
    JobState.DELAYED,
    JobState.ACTIVE,
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
)
STATE_NUMBERS: Final = {state: number for number, state in enumerate(STATES)}

# Instants are seconds since the epoch, but for `leased_until`, which is of the system's monotonic
# clock: all processes of a machine share it, setting the time of day does not end leases, nor does
# a laptop's sleep. With `lease` beside it, a lease of before a reboot can be told: it would run
# for longer than it was given. Where the two uptimes happen to meet, it lapses a lease later.
#
# What is read and rewritten with each change of state is in `jobs`; arguments, which may be
# large and never change, are in `bodies`: SQLite rewrites rows as a whole.
#
# Indices are partial, so that a change of state touches two of them. `waiting` leads a claim
# straight to the next job of one function, however many wait.
#
# `positions` counts up for ever. A job has its `seq` from there, for good, and its `position` in
# the queue, anew each time that it goes to the end of it.
#
# Counts are kept, not counted: they tell claims which functions have jobs at all, and `put`
# whether the queue is full.
_VERSION_1: Final = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    function TEXT NOT NULL,
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    position INTEGER NOT NULL,
    created_at REAL NOT NULL,
    due_at REAL,
    deadline REAL,
    keep REAL,
    max_crashes INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0,
    history INTEGER NOT NULL DEFAULT 0,
    logs INTEGER NOT NULL DEFAULT 0,
    is_cancel_asked INTEGER NOT NULL DEFAULT 0,
    token TEXT,
    lease REAL,
    leased_until REAL,
    worker TEXT NOT NULL DEFAULT '',
    started_at REAL,
    ended_at REAL,
    forget_at REAL,
    unique_key TEXT,
    progress TEXT,
    error TEXT,
    result TEXT
);
CREATE INDEX jobs_waiting ON jobs (queue, function, priority DESC, position) WHERE state = 0;
CREATE INDEX jobs_delayed ON jobs (queue, function, due_at) WHERE state = 1;
CREATE INDEX jobs_active ON jobs (leased_until) WHERE state = 2;
CREATE INDEX jobs_over ON jobs (state, seq) WHERE state >= 3;
CREATE INDEX jobs_to_forget ON jobs (forget_at) WHERE forget_at IS NOT NULL;
CREATE INDEX jobs_with_deadline ON jobs (deadline) WHERE deadline IS NOT NULL AND state < 2;

CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY,
    options TEXT NOT NULL,
    trace TEXT NOT NULL,
    enqueued_by TEXT NOT NULL,
    arguments TEXT NOT NULL
);
CREATE TABLE attempts (
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    worker TEXT NOT NULL,
    error TEXT,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;
CREATE TABLE logs (
    seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    level INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (seq, number)
) WITHOUT ROWID;
CREATE TABLE unique_keys (
    queue TEXT NOT NULL,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    until REAL,
    PRIMARY KEY (queue, name)
) WITHOUT ROWID;
CREATE INDEX unique_keys_until ON unique_keys (until) WHERE until IS NOT NULL;
CREATE TABLE counts (
    queue TEXT NOT NULL,
    function TEXT NOT NULL,
    state INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (state, queue, function)
) WITHOUT ROWID;
CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE positions (last INTEGER NOT NULL);
INSERT INTO positions VALUES (0);
"""

_VERSION_2: Final = """
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL, until REAL) WITHOUT ROWID;
CREATE INDEX notes_until ON notes (until) WHERE until IS NOT NULL
"""

# How many jobs have ended, by the beginning of the ten seconds in which they did: for a day, also
# of jobs that are forgotten.
_VERSION_3: Final = """
CREATE TABLE ended (
    at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    queue TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    PRIMARY KEY (at, state, queue)
) WITHOUT ROWID
"""

# The version of a file is how many of these it has had. Only ever append.
MIGRATIONS: Final = (_VERSION_1, _VERSION_2, _VERSION_3)

# A last resort: the writers of this library take turns before they ask SQLite for its lock. What
# still collides is other programs, checkpoints and the recovery after a crash.
_BUSY_SECONDS: Final = 5.0
# The log is cut to this when it begins anew: its size tells how much there is to checkpoint.
_WAL_LIMIT_BYTES: Final = 1 << 20


def connect(location: Location, *, is_reader: bool = False) -> sqlite3.Connection:
    """Open a connection for the calling thread. The schema is not looked at."""
    connection = sqlite3.connect(
        location.path, timeout=min(_BUSY_SECONDS, location.timeout), isolation_level=None
    )
    try:
        if is_reader:
            connection.execute("PRAGMA query_only = ON")
        else:
            # Checkpoints are made after callers have had their replies, not inside of a commit.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(
    connection: sqlite3.Connection, location: str, migrations: tuple[str, ...] = MIGRATIONS
) -> None:
    """Create the tables, or bring those of an earlier version up to date: all of it or nothing.

    Raises:
        JobsCorruptError: the file is of a later version, or holds something else.
    """
    version = _version(connection, location, len(migrations))
    if version == len(migrations):
        return
    if version == 0:
        # Kept in the file, so once is enough. It cannot be part of a transaction.
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Again, under the lock: another process may have been first.
        for script in migrations[_version(connection, location, len(migrations)) :]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection, location: str, known: int) -> int:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application or version or tables:
            raise JobsCorruptError(
                f"{location} is a database of another program; name a file of its own for jobs",
                location=location,
            )
        return 0
    if not 0 <= version <= known:
        raise JobsCorruptError(
            f"{location} has version {version}, made by a later offload; this one knows up to "
            f"{known}: upgrade it, or name another file",
            location=location,
        )
    return int(version)

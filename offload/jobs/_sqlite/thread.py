"""Threads that have a connection each, and run operations on it."""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from offload.errors import OffloadError
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._sqlite.failures import translate
from offload.jobs._sqlite.location import create_file
from offload.jobs._sqlite.replies import post_all
from offload.jobs._sqlite.schema import connect, migrate
from offload.jobs._sqlite.transaction import Transaction
from offload.jobs._sqlite.turns import Turns

if TYPE_CHECKING:
    from offload.jobs._sqlite.bells import Ringer
    from offload.jobs._sqlite.clock import Clock
    from offload.jobs._sqlite.location import Location
    from offload.jobs._sqlite.operation import Operation

__all__ = ["DatabaseThread", "Reader", "Writer"]

S = TypeVar("S")

# What is taken into one transaction at most, so that other processes have their turn.
_MAX_BATCH: Final = 256
# Above the first, a checkpoint is made when there is nothing else to do; above the second, at once.
_WAL_IDLE_BYTES: Final = 4 << 20
_WAL_BUSY_BYTES: Final = 16 << 20
# Until datagrams are sent again that found no room.
_RING_AGAIN_SECONDS: Final = 0.02

_logger = logging.getLogger("offload.jobs")


class DatabaseThread(Generic[S]):
    """A thread with a connection, which is opened anew where the file was replaced or failed."""

    kind = ""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._queue: queue.SimpleQueue[Operation[S, Any] | None] = queue.SimpleQueue()
        self._file: tuple[int, int] | None = None
        self._is_closed = False
        # Daemon: a program that forgets to close ends nevertheless, and nothing gets lost by it.
        self._thread = threading.Thread(
            target=self._run, name=f"offload-jobs-{self.kind}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, operation: Operation[S, Any]) -> None:
        """Have the thread run `operation`; on any thread."""
        self._queue.put(operation)

    def stop(self) -> None:
        """Have the thread end once it has run what was submitted before."""
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for its end and return whether it has come."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # Owned by this frame and nothing else: in a forked child, which has no such thread, nobody
        # ever closes it. That would harm the parent, whose locks and log it would be.
        # https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
        connection: sqlite3.Connection | None = None
        while (batch := self._take()) is not None:
            operations = [operation for operation in batch if operation.begin()]
            if not operations:
                continue
            try:
                connection = self._connected(connection)
                self._do(connection, operations)
            except BaseException as error:  # noqa: BLE001 - it is the answer
                for operation in operations:
                    operation.fail(translate(error, self._location))
                if isinstance(error, (sqlite3.Error, OSError)):
                    self._disconnect(connection)
                    connection = None
            if connection is not None:
                self._tidy(connection)
        self._disconnect(connection)
        self._close()

    def _take(self) -> list[Operation[S, Any]] | None:
        """Wait for operations, and return all that there are; None at the end."""
        if self._is_closed:
            return None
        try:
            operation = self._queue.get(timeout=self._patience())
        except queue.Empty:
            return []
        batch: list[Operation[S, Any]] = []
        while operation is not None:
            batch.append(operation)
            if len(batch) == _MAX_BATCH:
                return batch
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return batch
        self._is_closed = True
        return batch

    def _patience(self) -> float | None:
        return None

    def _connected(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        path = self._location.path
        if connection is not None:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                status = None
            if status is not None and (status.st_dev, status.st_ino) == self._file:
                return connection
            # What is written to a file that has no name any more is lost.
            _logger.warning("%s was removed or replaced; opening it anew", self._location.url)
            self._disconnect(connection)
        create_file(path)
        connection = self._open()
        status = os.stat(path)
        self._file = status.st_dev, status.st_ino
        return connection

    def _open(self) -> sqlite3.Connection:
        # Switching to WAL does not wait for locks, so no two processes shall do it at once.
        turns = Turns(self._location.path)
        try:
            with turns:
                connection = connect(self._location)
                try:
                    migrate(connection, self._location.url)
                except BaseException:
                    connection.close()
                    raise
        finally:
            turns.close()
        return connection

    def _disconnect(self, connection: sqlite3.Connection | None) -> None:
        if connection is not None:
            try:
                connection.close()
            except Exception:
                _logger.debug("closing %s failed", self._location.url, exc_info=True)
        self._file = None

    def _do(self, connection: sqlite3.Connection, operations: list[Operation[S, Any]]) -> None:
        """Run operations and answer each."""
        raise NotImplementedError

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Do what can wait until after the answers."""

    def _close(self) -> None:
        """Let go of what the thread has beside the connection, and of what came too late."""
        error = JobsUnavailableError(
            f"{self._location.url} was closed; open it again to go on", location=self._location.url
        )
        while True:
            try:
                operation = self._queue.get_nowait()
            except queue.Empty:
                return
            if operation is not None:
                operation.fail(error)


class Reader(DatabaseThread[sqlite3.Connection]):
    """Runs what only reads."""

    kind = "reader"

    def _open(self) -> sqlite3.Connection:
        connection = super()._open()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _do(
        self,
        connection: sqlite3.Connection,
        operations: list[Operation[sqlite3.Connection, Any]],
    ) -> None:
        for operation in operations:
            # One view of the data for all that an operation reads.
            connection.execute("BEGIN")
            try:
                value = operation.run(connection)
            except OffloadError as error:
                operation.fail(error)
            else:
                operation.succeed(value)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")


class Writer(DatabaseThread[Transaction]):
    """Runs what writes, in transactions of all that came together."""

    kind = "writer"

    def __init__(self, location: Location, clock: Clock, ringer: Ringer) -> None:
        super().__init__(location)
        self._clock = clock
        self._ringer = ringer
        self._turns: Turns | None = None
        self._is_synced: bool | None = None

    def close_inherited(self) -> None:
        """Close what a forked child has of the parent's turn, so that it ends with the parent."""
        if self._turns is not None:
            self._turns.close()

    def _patience(self) -> float | None:
        return _RING_AGAIN_SECONDS if self._ringer.ring_again() else None

    def _open(self) -> sqlite3.Connection:
        connection = super()._open()
        self._is_synced = None
        if self._turns is not None:
            self._turns.close()
        self._turns = Turns(self._location.path)
        return connection

    def _do(
        self,
        connection: sqlite3.Connection,
        operations: list[Operation[Transaction, Any]],
    ) -> None:
        if self._answered_at_a_glance(connection, operations):
            return
        try:
            self._transact(connection, operations)
        except Exception:
            if len(operations) == 1:
                raise
            # One of them may be to blame, such as a text that is too long: each on its own.
            for operation in operations:
                try:
                    self._transact(connection, [operation])
                except Exception as error:  # noqa: BLE001 - it is the answer
                    operation.fail(translate(error, self._location))

    def _answered_at_a_glance(
        self,
        connection: sqlite3.Connection,
        operations: list[Operation[Transaction, Any]],
    ) -> bool:
        """Answer without a transaction, if none of the operations needs one."""
        answers: list[Any] = []
        for operation in operations:
            answer = None if operation.glance is None else operation.glance(connection)
            if answer is None:
                return False
            answers.append(answer)
        for operation, answer in zip(operations, answers, strict=True):
            operation.succeed(answer)
        return True

    def _transact(
        self,
        connection: sqlite3.Connection,
        operations: list[Operation[Transaction, Any]],
    ) -> None:
        answers: list[tuple[Any, OffloadError | None]] = []
        assert self._turns is not None
        with self._turns:
            self._sync(connection, any(operation.is_synced for operation in operations))
            connection.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(connection, self._clock)
                for operation in operations:
                    try:
                        answers.append((operation.run(transaction), None))
                    except OffloadError as error:
                        answers.append((None, error))
                transaction.save_counts()
                connection.execute("COMMIT")
            except BaseException:
                # Some errors, a full disk for one, have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        post_all(
            (operation.reply, value, refusal)
            for operation, (value, refusal) in zip(operations, answers, strict=True)
            if refusal is not None or operation.end(value)
        )
        self._ringer.ring(transaction.rings, transaction.events)

    def _sync(self, connection: sqlite3.Connection, is_needed: bool) -> None:  # noqa: FBT001
        is_synced = is_needed and self._location.is_synced
        if is_synced is not self._is_synced:
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}")
            self._is_synced = is_synced

    def _tidy(self, connection: sqlite3.Connection) -> None:
        try:
            size = os.stat(self._location.path + "-wal").st_size
            if size < (_WAL_IDLE_BYTES if self._queue.empty() else _WAL_BUSY_BYTES):
                return
            # It does not keep writers waiting, but gets no further than to where they are.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            if size >= _WAL_BUSY_BYTES:
                # Where they never rest, the log would grow for ever. The rest is done in no time,
                # and then the next writer begins the log from the start.
                assert self._turns is not None
                with self._turns:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except Exception:
            _logger.debug("a checkpoint of %s failed", self._location.url, exc_info=True)

    def _close(self) -> None:
        if self._turns is not None:
            self._turns.close()
        super()._close()

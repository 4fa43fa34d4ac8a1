"""The way from event loops to the threads: one store of one process, also across forks."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread

from offload.jobs._errors import JobsUnavailableError
from offload.jobs._sqlite.core import Core
from offload.jobs._sqlite.holder import holder
from offload.jobs._sqlite.location import network_filesystem
from offload.jobs._sqlite.operation import Operation
from offload.jobs._sqlite.replies import TimedOut, new_reply

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from offload.jobs._sqlite.clock import Clock
    from offload.jobs._sqlite.location import Location
    from offload.jobs._sqlite.thread import DatabaseThread
    from offload.jobs._sqlite.transaction import Transaction

__all__ = ["Store"]

T = TypeVar("T")
S = TypeVar("S")

_logger = logging.getLogger("offload.jobs")


class Store:
    """Has operations run by threads, and awaits their answers with a limit of time."""

    def __init__(self, location: Location, clock: Clock) -> None:
        self.location: Final = location
        self.clock: Final = clock
        self._core: Core | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has been opened, and not closed since."""
        return self._core is not None

    async def open(self) -> None:
        """Start the threads, and have them open the file."""
        if self._core is not None:
            return
        core = self._core = Core(self.location, self.clock)
        try:
            await self.read(lambda _: None)
        except BaseException:
            self._core = None
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(core.close, self.location.timeout)
            raise
        network = network_filesystem(self.location.path)
        if network is not None:
            _logger.warning(
                "%s is on %s, where SQLite loses data; put it on a local disk",
                self.location.url,
                network,
            )

    async def aclose(self) -> None:
        """End the threads."""
        core, self._core = self._core, None
        # A forked child has none of the parent's threads to end.
        if core is not None and core.pid == os.getpid():
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(core.close, self.location.timeout)

    async def listening(self, suffix: str) -> Core:
        """Return the core once it hears what other processes do."""
        core = self._opened()
        if not core.is_listening(suffix):
            await anyio.to_thread.run_sync(core.listen, suffix)
        return core

    async def write(
        self,
        run: Callable[[Transaction], T],
        *,
        glance: Callable[[sqlite3.Connection], T | None] | None = None,
        undo: Callable[[T], None] | None = None,
        is_synced: bool = True,
    ) -> T:
        """Run an operation in a transaction; see `Operation`."""
        operation: Operation[Transaction, T] = Operation(
            run, new_reply(), glance=glance, undo=undo, is_synced=is_synced
        )
        return await self._answer(self._opened().writer, operation)

    async def read(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation that only reads."""
        operation: Operation[sqlite3.Connection, T] = Operation(run, new_reply())
        return await self._answer(self._opened().reader, operation)

    def write_later(self, run: Callable[[Transaction], None]) -> None:
        """Run an operation that nobody waits for; on any thread."""
        core = self._core
        if core is not None:
            core.writer.submit(Operation(run, _Nobody()))

    def _opened(self) -> Core:
        core = self._core
        if core is None:
            raise JobsUnavailableError(
                f"{self.location.url} is not open: await open() first, and use it before aclose()",
                location=self.location.url,
            )
        if core.pid != os.getpid():
            # Forked: the threads are the parent's.
            core = self._core = Core(self.location, self.clock)
        return core

    async def _answer(self, thread: DatabaseThread[S], operation: Operation[S, T]) -> T:
        thread.submit(operation)
        try:
            return await operation.reply.wait(self.location.timeout)
        except TimedOut:
            has_begun = operation.abandon()
            held_by = holder(self.location.path)
            why = (
                f"{held_by} has its write lock"
                if held_by
                else "another program may be stopped while it has a lock, or the disk is too slow"
            )
            raise JobsUnavailableError(
                f"{self.location.url} has not answered within {self.location.timeout:g} s: {why}",
                location=self.location.url,
                may_have_happened=has_begun,
            ) from None
        except BaseException:
            operation.abandon()
            raise


class _Nobody:
    """A reply that nobody waits for."""

    def post(self, value: Any, error: BaseException | None) -> None:
        """Drop it."""

    async def wait(self, seconds: float) -> Any:
        """Nobody does."""
        raise NotImplementedError

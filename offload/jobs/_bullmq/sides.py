"""What the engine asks of either server; methods as in `offload.jobs._engine.Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Sequence

    from offload.jobs._bullmq.listener import Listener
    from offload.jobs._ended import Ended
    from offload.jobs._notes import Swap
    from offload.jobs._values import (
        CancelOutcome,
        Claim,
        Claimed,
        Count,
        Ending,
        Extended,
        Finished,
        Health,
        JobRecord,
        LogLine,
        NewJob,
        Page,
        Query,
        Swept,
        Wanted,
    )

__all__ = ["Asked", "Client", "Hub", "Place", "Store"]


class Place(Protocol):
    """Where a server is."""

    @property
    def url(self) -> str:
        """The location without secrets."""
        ...


class Asked(Protocol):
    """Who is asked how the server does."""

    @property
    def location(self) -> Place:
        """Where it is."""
        ...

    async def command(self, *words: str | int) -> Any:
        """Run a plain command."""
        ...


class Client(Protocol):
    """Connections."""

    @property
    def location(self) -> Place:
        """Where the server is."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it is between `open` and `close`."""
        ...

    async def open(self) -> None:
        """Connect."""
        ...

    def close(self) -> None:
        """Disconnect at once."""
        ...

    async def health(self) -> Health:
        """Ask the server how it does."""
        ...


class Hub(Protocol):
    """Who listens."""

    async def add_listener(self, listener: Listener) -> None:
        """Give it events from now on."""
        ...

    def remove_listener(self, listener: Listener) -> None:
        """Give it no more."""
        ...

    def hears_of(self, queues: frozenset[str]) -> bool:
        """Return whether it is told of these queues already, so that `expect` takes no time."""
        ...

    async def expect(self, queues: frozenset[str], ring: asyncio.Event) -> None:
        """Have `ring` set whenever there may be jobs."""
        ...

    def forget(self, queues: frozenset[str], ring: asyncio.Event) -> None:
        """Set it no more."""
        ...

    async def close(self) -> None:
        """End all listening, and wait until nothing reads any more."""
        ...


class Store(Protocol):
    """Operations."""

    def claimed(self, found: Sequence[Any]) -> Claimed:
        """Return a claim out of a reply."""
        ...

    async def put(self, jobs: Sequence[NewJob], max_queued: int | None) -> tuple[str, ...]: ...
    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]: ...
    async def logs(self, job_id: str, start: int, limit: int) -> tuple[LogLine, ...]: ...
    async def find(self, query: Query) -> Page: ...
    async def counts(self, queues: Collection[str] | None) -> tuple[Count, ...]: ...
    async def ended(self, step: int, steps: int) -> Ended: ...
    async def cancel(self, job_id: str) -> CancelOutcome: ...
    async def requeue(self, job_id: str) -> None: ...
    async def remove(self, ids: Sequence[str]) -> int: ...
    async def claim(
        self, wanted: Wanted, undo: Callable[[Any], None]
    ) -> tuple[tuple[Claimed, ...], float | None]:
        """Claim, and return also the seconds after which it is worth to look again, if known."""
        ...

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended: ...
    async def finish(
        self,
        reports: Sequence[tuple[Claim, Ending]],
        then: Wanted | None,
        undo: Callable[[Any], None],
    ) -> Finished: ...
    async def progress(self, claim: Claim, value: str) -> bool: ...
    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool: ...
    async def sweep(self) -> Swept: ...
    async def prune(self, max_over: int | None) -> int: ...
    async def pause(self, queue: str, *, is_paused: bool) -> None: ...
    async def paused(self) -> frozenset[str]: ...
    async def read_notes(self, names: Sequence[str]) -> tuple[str | None, ...]: ...
    async def find_notes(self, prefix: str) -> dict[str, str]: ...
    async def swap_notes(self, swaps: Sequence[Swap]) -> tuple[bool, ...]: ...

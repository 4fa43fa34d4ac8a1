"""What surrounds a call: a client that may leave, and deadlines that hold for a whole block.

One context variable tells of all of it, so that a call that nothing surrounds pays for one look.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from offload._values.options import check_number
from offload._wire.lean import contextvars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager
    from contextvars import ContextVar, Token
    from typing import Self

    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions

    class Run(Protocol):
        """Has a call run: `Pool.call`."""

        def __call__(
            self,
            target: Target,
            arguments: tuple[Any, ...],
            keywords: dict[str, Any],
            options: ResolvedOptions,
            started: Callable[[], object] | None = None,
        ) -> Awaitable[Any]: ...


__all__ = ["Client", "Guard", "current_guard", "deadline_after"]


class Wait(Protocol):
    """A call that is pending, as the client's watcher knows it."""

    def begin(self) -> bool:
        """Take note that a worker is given the call; True: it is wanted."""
        ...


class Client(Protocol):
    """The client of a request, which may leave."""

    def awaiting(
        self, function: str, *, tells_start: bool = True
    ) -> AbstractContextManager[Wait, None]:
        """Watch while a call of `function` is awaited inside; end the wait when the client leaves.

        Args:
            function: the function as `module:qualname`.
            tells_start: whether `begin` will be called when a worker is given the call.

        Raises:
            ClientDisconnectedError: it has left.
        """
        ...


class Guard:
    """One thing that surrounds calls, from its making until it is over.

    A context outlives what set its variables: an asyncio task, a transport's callbacks or, on a
    connection that is kept alive, the next request inherit it (cpython#140947). A guard that is
    over therefore holds nothing, and for nobody.
    """

    __slots__ = ("_outer", "client", "deadline", "is_over")

    def __init__(self, *, client: Client | None = None, deadline: float | None = None) -> None:
        self.client = client
        self.deadline = deadline
        self.is_over = False
        self._outer = current_guard.get()
        self.outer()

    def end(self) -> None:
        """Let go of everything, whoever still refers to this."""
        self.is_over = True
        self.client = self.deadline = None

    def earliest(self, options: ResolvedOptions) -> ResolvedOptions:
        """Return `options` with the earliest deadline of its own and of all that is in force."""
        deadline = options.deadline
        guard: Guard | None = self
        while guard is not None:
            own = guard.deadline
            if own is not None and (deadline is None or own < deadline):
                deadline = own
            guard = guard.outer()
        return options if deadline == options.deadline else options._replace(deadline=deadline)

    def watched(self, options: ResolvedOptions) -> Client | None:
        """Return the client whose leaving ends a call of these options."""
        guard: Guard | None = self if options.cancel_on_disconnect else None
        while guard is not None and guard.client is None:
            guard = guard.outer()
        return None if guard is None else guard.client

    def outer(self) -> Guard | None:
        """Return the next one around this that is in force."""
        # Those that are over are dropped on the way, or a chain of contexts that are each made
        # within the one before would keep all of them.
        outer = self._outer
        while outer is not None and outer.is_over:
            outer = self._outer = outer._outer  # noqa: SLF001 - of this very class
        return outer

    async def call(
        self,
        run: Run,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
    ) -> Any:
        """Run a call under all that is in force.

        Raises:
            ClientDisconnectedError: the client left.
            DeadlineError: the deadline came.
        """
        client = self.watched(options)
        bound = self.earliest(options)
        if options.single_flight and bound is not options:
            # The run is shared with callers that have more time: only our wait for it ends.
            run = _Waiting(run, bound.deadline)
        else:
            options = bound
        if client is None:
            return await run(target, arguments, keywords, options)
        with client.awaiting(target.name, tells_start=not options.single_flight) as wait:
            return await run(target, arguments, keywords, options, wait.begin)

    async def following(
        self, items: AsyncIterator[Any], function: str, options: ResolvedOptions
    ) -> Any:
        """Return the next item of a stream.

        Raises:
            ClientDisconnectedError: the client left.
        """
        client = self.watched(options)
        if client is None:
            return await anext(items)
        with client.awaiting(function, tells_start=False):
            return await anext(items)


class _Waiting:
    """Ends the wait for a call, and not the call, when a deadline comes."""

    def __init__(self, run: Run, deadline: float | None) -> None:
        self._run = run
        self._deadline = deadline

    async def __call__(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        started: Callable[[], object] | None = None,
    ) -> Any:
        import anyio

        from offload._pool.outcome import deadline_error, shared_deadline_error

        assert self._deadline is not None
        seconds = self._deadline - time.monotonic()
        if seconds <= 0.0:
            raise deadline_error(target.name, self._deadline, started=False)
        with anyio.move_on_after(seconds):
            return await self._run(target, arguments, keywords, options, started)
        raise shared_deadline_error(target.name, self._deadline)


current_guard: ContextVar[Guard | None] = contextvars.ContextVar("offload_guard", default=None)


class deadline_after:  # noqa: N801 - reads as `anyio.fail_after` and `asyncio.timeout` do
    """Give all calls that are made inside a `with` block together so many seconds.

    A call that cannot end in time is not started, and one that runs when the time is over is
    stopped; both raise `DeadlineError`, and nothing else in the block is interrupted. Blocks nest,
    and with the option `deadline`: the earliest holds. It also holds for calls of asyncio tasks
    that were started inside, for as long as the block is open.

    Args:
        seconds: from the entry of the block; 0 or less: no call is started.

    Raises:
        TypeError: `seconds` is not a number.
        ValueError: `seconds` is not finite.
    """

    def __init__(self, seconds: float) -> None:
        check_number("seconds", seconds, optional=False)
        self._seconds = seconds
        self._entered: list[tuple[Guard, Token[Guard | None]]] = []

    def __enter__(self) -> Self:
        """Begin."""
        guard = Guard(deadline=time.monotonic() + self._seconds)
        self._entered.append((guard, current_guard.set(guard)))
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        guard, token = self._entered.pop()
        guard.end()
        current_guard.reset(token)

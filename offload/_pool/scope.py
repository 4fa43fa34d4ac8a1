"""What surrounds a call: a client that may leave, and deadlines that hold for a whole block.

One context variable tells of all of it, so that a call that nothing surrounds pays for one look.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from offload._values.options import check_number
from offload._wire.lean import contextvars

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager
    from contextvars import ContextVar, Token
    from typing import Self

    from offload._pool.invocation import Invocation, InvocationRunner
    from offload._values.options import ResolvedOptions

__all__ = ["CallScope", "Client", "current_scope", "deadline_after"]


class Wait(Protocol):
    """A call that is pending, as the client's watcher knows it."""

    def may_start(self) -> bool:
        """Return whether the call is still wanted, right before a worker is sent it."""
        ...


class Client(Protocol):
    """The client of a request, which may leave."""

    def awaiting(
        self, function: str, *, tells_start: bool = True
    ) -> AbstractContextManager[Wait, None]:
        """Watch while a call of `function` is awaited inside; end the wait when the client leaves.

        Args:
            function: the function as `module:qualname`.
            tells_start: whether `may_start` will be asked.

        Raises:
            ClientDisconnectedError: it has left.
        """
        ...


class CallScope:
    """One thing that surrounds calls, from its making until it is over.

    A context outlives what set its variables: an asyncio task, a transport's callbacks or, on a
    connection that is kept alive, the next request inherit it (cpython#140947). A scope that is
    over therefore holds nothing, and for nobody.
    """

    __slots__ = ("_outer", "client", "deadline", "is_over")

    def __init__(self, *, client: Client | None = None, deadline: float | None = None) -> None:
        self.client = client
        self.deadline = deadline
        self.is_over = False
        self._outer = current_scope.get()
        self.outer()

    def end(self) -> None:
        """Let go of everything, whoever still refers to this."""
        self.is_over = True
        self.client = self.deadline = None

    def earliest(self, options: ResolvedOptions) -> ResolvedOptions:
        """Return `options` with the earliest deadline of its own and of all that is in force."""
        deadline = options.deadline
        scope: CallScope | None = self
        while scope is not None:
            own = scope.deadline
            if own is not None and (deadline is None or own < deadline):
                deadline = own
            scope = scope.outer()
        return options if deadline == options.deadline else options._replace(deadline=deadline)

    def watched(self, options: ResolvedOptions) -> Client | None:
        """Return the client whose leaving ends a call of these options."""
        scope: CallScope | None = self if options.cancel_on_disconnect else None
        while scope is not None and scope.client is None:
            scope = scope.outer()
        return None if scope is None else scope.client

    def outer(self) -> CallScope | None:
        """Return the next one around this that is in force."""
        # Those that are over are dropped on the way, or a chain of contexts that are each made
        # within the one before would keep all of them.
        outer = self._outer
        while outer is not None and outer.is_over:
            outer = self._outer = outer._outer  # noqa: SLF001 - of this very class
        return outer

    async def run(self, runner: InvocationRunner, invocation: Invocation) -> Any:
        """Run a call under all that is in force.

        Raises:
            ClientDisconnectedError: the client left.
            DeadlineError: the deadline came.
        """
        options = invocation.options
        client = self.watched(options)
        bound = self.earliest(options)
        if options.single_flight and bound is not options:
            # The run is shared with callers that have more time: only our wait for it ends.
            runner = _Waiting(runner, bound.deadline)
        else:
            invocation = invocation._replace(options=bound)
        if client is None:
            return await runner.run_invocation(invocation)
        function = invocation.target.name
        with client.awaiting(function, tells_start=not options.single_flight) as wait:
            return await runner.run_invocation(invocation, wait.may_start)

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

    def __init__(self, runner: InvocationRunner, deadline: float | None) -> None:
        self._runner = runner
        self._deadline = deadline

    async def run_invocation(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """Run it, and wait for no longer than there is time."""
        import anyio

        from offload._pool.call_errors import deadline_error, shared_deadline_error

        assert self._deadline is not None
        function = invocation.target.name
        seconds = self._deadline - time.monotonic()
        if seconds <= 0.0:
            raise deadline_error(function, self._deadline, may_have_run=False)
        with anyio.move_on_after(seconds):
            return await self._runner.run_invocation(invocation, may_start)
        raise shared_deadline_error(function, self._deadline)


current_scope: ContextVar[CallScope | None] = contextvars.ContextVar("offload_scope", default=None)


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
        self._entered: list[tuple[CallScope, Token[CallScope | None]]] = []

    def __enter__(self) -> Self:
        """Begin."""
        scope = CallScope(deadline=time.monotonic() + self._seconds)
        self._entered.append((scope, current_scope.set(scope)))
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        scope, token = self._entered.pop()
        scope.end()
        current_scope.reset(token)

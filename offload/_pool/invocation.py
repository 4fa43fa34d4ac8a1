"""A function with its arguments and options: what a call, a job and a schedule all are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions

__all__ = ["Invocation", "InvocationRunner"]


class Invocation(NamedTuple):
    """One request to run a function.

    Attributes:
        target: the function, and how a worker finds it.
        arguments: its positional arguments.
        keywords: its keyword arguments.
        options: how the call is treated.
        outlasts_worker: whether a call that is stopped ends only when nothing of it runs any more,
            and not as soon as its worker was told to. Of callers on asyncio.
    """

    target: Target
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    options: ResolvedOptions
    outlasts_worker: bool = False


class InvocationRunner(Protocol):
    """Whatever can run an invocation: a pool of this process, as a rule."""

    async def run_invocation(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """Run it and return its result.

        Args:
            invocation: what to run.
            may_start: asked right before a worker is sent it; False drops it.
        """
        ...

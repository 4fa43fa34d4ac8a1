"""A pool whose calls have other options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from offload._values.options import CallOptionsDict
    from offload.executor import PoolExecutor

    class _Pool(Protocol):
        def executor(self, **options: Unpack[CallOptionsDict]) -> PoolExecutor: ...

    _Run = Callable[
        [Any, CallOptionsDict, tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, Any]
    ]

__all__ = ["PoolWithOptions"]

P = ParamSpec("P")
R = TypeVar("R")


class PoolWithOptions:
    """A pool with other options for calls; made by `Pool.options`.

    Args:
        pool: the pool.
        run: calls a function with these options, its arguments and keywords.
        changes: the options.
    """

    __slots__ = ("_changes", "_pool", "_run")

    def __init__(self, pool: _Pool, run: _Run, changes: CallOptionsDict) -> None:
        self._pool = pool
        self._run = run
        self._changes = changes

    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function as `Pool.run` does, with these options."""
        return await self._run(function, self._changes, args, kwargs)

    def executor(self) -> PoolExecutor:
        """Return a view of the pool whose calls have these options."""
        return self._pool.executor(**self._changes)

    def __repr__(self) -> str:
        """Tell the pool and the options."""
        changes = ", ".join(f"{name}={value!r}" for name, value in self._changes.items())
        return f"{self._pool!r}.options({changes})"

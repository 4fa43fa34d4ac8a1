"""The items of a generator function that runs on a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from offload._child.context import in_worker
from offload._child.main_module import inline
from offload._pool.invocation import Invocation
from offload._pool.scope import current_scope
from offload.errors import ClientDisconnectedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType
    from typing import Self

    from offload._definition import Definition
    from offload._values.options import CallOptions, ResolvedOptions

__all__ = ["Stream"]

T = TypeVar("T")


class Stream(Generic[T]):
    """The items of a generator that runs on a worker: an async iterator and context manager."""

    def __init__(
        self,
        definition: Definition,
        options: CallOptions,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._definition = definition
        self._call = (args, kwargs, options)
        self._items: AsyncIterator[T] | None = None
        self._options: ResolvedOptions | None = None

    def _begun(self) -> AsyncIterator[T]:
        if self._items is None:
            args, kwargs, options = self._call
            if in_worker():
                self._items = _inline(inline(self._definition.function)(*args, **kwargs))
            else:
                pool, target = self._definition.resolve()
                resolved = self._options = pool.resolve(options)
                scope = current_scope.get()
                if scope is not None:
                    resolved = scope.earliest(resolved)
                self._items = pool.stream_invocation(Invocation(target, args, kwargs, resolved))
        return self._items

    def __aiter__(self) -> Self:
        """Return itself: a stream can be consumed once."""
        return self

    async def __anext__(self) -> T:
        """Return the next item.

        Raises:
            StopAsyncIteration: there is none.
            OffloadError: see `offload.errors`.
            Exception: what the generator raised.
        """
        items = self._begun()
        scope, options = current_scope.get(), self._options
        if scope is None or options is None:
            return await anext(items)
        try:
            item: T = await scope.following(items, self._definition.name, options)
        except ClientDisconnectedError:
            # Its worker would wait for somebody to take more.
            await self.aclose()
            raise
        return item

    if not TYPE_CHECKING:

        def __iter__(self) -> Iterator[T]:
            """Iterate in plain code of a worker, where the generator runs in place."""
            if not in_worker():
                name = self._definition.function.__name__
                message = f"iterate with `async for item in {name}.stream(…)`"
                raise TypeError(message)
            args, kwargs, _ = self._call
            return iter(inline(self._definition.function)(*args, **kwargs))

    async def aclose(self) -> None:
        """End the generator, if it has not ended, and free its worker."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()


async def _inline(items: Iterator[T]) -> AsyncIterator[T]:
    try:
        for item in items:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()

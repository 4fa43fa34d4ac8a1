"""`@offload`: a plain function in, an object whose call runs it on a worker out."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from offload._child.context import in_worker
from offload._child.main_module import inline
from offload._pool.scope import current_guard
from offload._pool.short_cut import Prepared, call
from offload._pool.target import check, is_generator_function, target_of
from offload._values.options import (
    CallOptions,
    CallOptionsDict,
    check_integer,
    check_name,
    check_type,
    merge,
)
from offload.errors import ClientDisconnectedError, FunctionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
    from types import TracebackType
    from typing import Concatenate, Self

    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions
    from offload.pool import Pool

__all__ = ["Offloaded", "OffloadedGenerator", "Stream", "offload"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")


class _Definition:
    """What the decorator was given: shared by all objects that stem from one decoration."""

    __slots__ = ("binds_class", "function", "max_concurrency", "options", "pool", "target")

    def __init__(
        self,
        function: Any,
        pool: Pool | str,
        options: CallOptions,
        max_concurrency: int | None,
    ) -> None:
        self.binds_class: bool | None = None  # None: an instance method or a plain function
        if isinstance(function, (staticmethod, classmethod)):
            self.binds_class = isinstance(function, classmethod)
            function = cast("Any", function).__func__
        if isinstance(function, _Common):
            message = f"{function!r} is offloaded already; decorate it once"
            raise FunctionError(message)
        check(function)
        self.function: Callable[..., Any] = function
        self.pool: Pool | str = pool
        self.options: CallOptions = options
        self.max_concurrency: int | None = max_concurrency
        self.target: Target | None = None

    def is_in_classmethod(self) -> bool:
        """Return whether `@classmethod` stands above `@offload`, where its class says so."""
        found: Any = sys.modules.get(self.function.__module__)
        for name in self.function.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(name)
        return isinstance(found, classmethod)

    def resolve(self) -> tuple[Pool, Target]:
        """Return where to run what; looked up at the first call, when every module is complete."""
        pool = self.pool
        if isinstance(pool, str):
            from offload.pool import Pool

            pool = Pool.named(pool)
        target = self.target
        if target is None:
            target = self.target = target_of(self.function, max_concurrency=self.max_concurrency)
        return pool, target


if TYPE_CHECKING:

    class _Partial(Generic[P, R]):
        func: Any
        args: tuple[Any, ...]
        keywords: dict[str, Any]

        def __new__(cls, *args: Any) -> Self: ...

else:
    # A partial of an async function: `inspect.iscoroutinefunction` is true for it in every version,
    # Starlette's Route takes it for a function, FastAPI awaits it; and binding a method or options
    # is what a partial is for.
    class _Partial(functools.partial):
        __class_getitem__ = classmethod(lambda cls, _: cls)


class _BoundSignature:
    """Signature of a bound method, made when asked for: a method is bound at each of its calls."""

    def __get__(self, instance: _Common[Any, Any] | None, owner: type) -> Any:
        """Return the signature without the bound parameter."""
        # Without this attribute inspect.signature follows __wrapped__, which has all parameters.
        bound = 0 if instance is None else len(instance.bound)
        if instance is None or not bound:
            raise AttributeError("__signature__")
        import inspect

        whole = inspect.signature(instance.__wrapped__)
        return whole.replace(parameters=list(whole.parameters.values())[bound:])


class _Common(_Partial[P, R]):
    """What plain functions and generator functions have in common."""

    # By this the worker knows, without importing this module's names, that it must unwrap.
    __offload__ = True

    __wrapped__: Callable[P, Any]
    _definition: _Definition
    _options: CallOptions

    @classmethod
    def _make(
        cls, definition: _Definition, options: CallOptions, bound: tuple[Any, ...] = ()
    ) -> Self:
        made = cls(call, Prepared(definition, options), *bound)
        functools.update_wrapper(cast("Any", made), definition.function)
        made._definition = definition
        made._options = options
        return made

    __signature__: Any = _BoundSignature()

    @property
    def __globals__(self) -> dict[str, Any]:
        # Frameworks resolve annotations written as strings against these.
        return getattr(self._definition.function, "__globals__", {})

    @property
    def bound(self) -> tuple[Any, ...]:
        """What the method is bound to, as its first arguments; empty for a function."""
        return self.args[1:]

    def options(self, **changes: Unpack[CallOptionsDict]) -> Self:
        """Return the same function with other options, for one call or many.

        Args:
            **changes: as for `offload`; what is not given stays.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range.
        """
        self._check_binding()
        return self._make(self._definition, merge(self._options, changes), self.bound)

    def _check_binding(self) -> None:
        """Raise where a class method has lost its class: it would get the first argument instead.

        Up to Python 3.12 `classmethod` binds what it wraps by the `__get__` of that. Since then
        only calls reach us bound: attributes are those of the unbound function (gh-89519).
        """
        if sys.version_info >= (3, 13) and not self.bound and self._definition.is_in_classmethod():
            name = self._definition.function.__qualname__
            message = (
                f"{name} was not called, and knows its class only when it is: write @offload above "
                "@classmethod, not below it, to use .options, .map and .stream"
            )
            raise FunctionError(message)

    def _bind(self, instance: object, owner: type | None) -> Self:
        binds_class = self._definition.binds_class
        if self.bound or binds_class is False or (binds_class is None and instance is None):
            return self
        target = (owner or type(instance)) if binds_class else instance
        return self._make(self._definition, self._options, (target,))

    def __reduce__(self) -> Any:
        # By name, as a function pickles: the worker finds the same decorated object there.
        bound = self.bound
        _, target = self._definition.resolve()
        if target.by_value:
            return functools.partial, (self._definition.function, *bound)
        assert isinstance(target.reference, str)
        return _restore, (target.reference, self._options, bound)

    def __repr__(self) -> str:
        pool = self._definition.pool
        name = pool if isinstance(pool, str) else pool.name
        function = self._definition.function
        return (
            f"<{type(self).__name__} {function.__module__}:{function.__qualname__} pool={name!r}>"
        )


class Offloaded(_Common[P, R]):
    """A function that runs on a worker when called. Made by `offload`.

    Attributes:
        __wrapped__: the plain function; calling it runs it here and now.
    """

    __wrapped__: Callable[P, R]

    if TYPE_CHECKING:

        async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """Run the function on a worker and return its result.

            Raises:
                OffloadError: see `offload.errors`; each says whether the function may have run.
                Exception: what the function raised, its `__cause__` the worker's traceback.

            Cancellation: a call that waits is taken out of the queue; one that runs is stopped,
            after `grace` seconds by ending its process.
            """
            ...

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Offloaded[Concatenate[Any, Q], T], instance: object, owner: type | None = None
    ) -> Offloaded[Q, T]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Bind as a method does: the object, which must pickle, is sent as the first argument."""
        return self._bind(instance, owner)

    # As a plain callable, and not as Offloaded[[T], R]: from that mypy infers no T, and a function
    # whose other parameters have defaults would not do.
    async def map(
        self: Callable[[T], Coroutine[Any, Any, S]],  # pyright: ignore[reportGeneralTypeIssues]
        items: Iterable[T],
        *,
        max_concurrency: int | None = None,
    ) -> list[S]:
        """Call the function for each item, some at once, and return the results in order.

        Args:
            items: taken as calls are made, not all at once.
            max_concurrency: how many calls to have under way; None: as many as keep every worker
                of the pool busy.

        Raises:
            Exception: of the first call that fails; the others are cancelled. Where the pool's
                queue is too short for so many at once there are fewer: `QueueFullError` is raised
                only if not even one is accepted.
        """
        check_integer("max_concurrency", max_concurrency, minimum=1, optional=True)
        this = cast("Offloaded[..., S]", self)
        this._check_binding()  # noqa: SLF001 - its own
        definition = this._definition  # noqa: SLF001 - its own
        if in_worker():
            function = inline(definition.function)
            return [function(*this.bound, item) for item in items]
        from offload._pool.fanout import ordered

        pool, _ = definition.resolve()
        # Two more than workers, so that none of them waits for the loop to hand it the next item.
        return await ordered(self, iter(items), max_concurrency or pool.max_workers + 2)


class OffloadedGenerator(_Common[P, T]):
    """A generator function whose items are made on a worker. Made by `offload`.

    Attributes:
        __wrapped__: the plain generator function.
    """

    __wrapped__: Callable[P, Iterator[T]]

    if not TYPE_CHECKING:

        def __call__(self, *_: Any, **__: Any) -> Any:
            """Refuse: a generator has no single result."""
            name = self._definition.function.__qualname__
            message = (
                f"{name} is a generator function: iterate with `async for item in {name}.stream(…)`"
            )
            raise FunctionError(message)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: OffloadedGenerator[Concatenate[Any, Q], S],
        instance: object,
        owner: type | None = None,
    ) -> OffloadedGenerator[Q, S]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Bind as a method does: the object, which must pickle, is sent as the first argument."""
        return self._bind(instance, owner)

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        """Run the generator on a worker and return its items as an async iterator.

        The worker runs a few items ahead of the consumer and then waits: it is never more than
        that ahead. Leaving the loop early closes the generator; `async with` does so for sure,
        and at once.
        """
        self._check_binding()
        return Stream(self._definition, self._options, (*self.bound, *args), dict(kwargs))


class Stream(Generic[T]):
    """The items of a generator that runs on a worker: an async iterator and context manager."""

    def __init__(
        self,
        definition: _Definition,
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
                guard = current_guard.get()
                if guard is not None:
                    resolved = guard.earliest(resolved)
                self._items = pool.stream_target(target, args, kwargs, resolved)
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
        guard, options = current_guard.get(), self._options
        if guard is None or options is None:
            return await anext(items)
        function = self._definition.function
        name = f"{function.__module__}:{function.__qualname__}"
        try:
            item: T = await guard.following(items, name, options)
        except ClientDisconnectedError:
            # Its worker would wait for somebody to take more.
            await self.aclose()
            raise
        return item

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


def _restore(reference: str, options: CallOptions, bound: tuple[Any, ...]) -> Any:
    """Find a decorated function again; the unpickling side of `__reduce__`."""
    import importlib

    module, _, qualname = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = found.__dict__[name] if isinstance(found, type) else getattr(found, name)
    while not isinstance(found, _Common) and hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    decorated = cast("Any", found)
    if not bound and options == decorated._options:  # noqa: SLF001 - our own class
        return decorated
    return decorated._make(decorated._definition, options, bound)  # noqa: SLF001 - our own class


# The overlap is meant: a function that returns an iterator is first of all a generator function.
@overload
def offload(  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload]
    function: Callable[P, Generator[T, Any, Any]], /
) -> OffloadedGenerator[P, T]: ...
@overload
def offload(  # type: ignore[overload-overlap]
    function: Callable[P, Iterator[T]], /
) -> OffloadedGenerator[P, T]: ...
@overload
def offload(function: Callable[P, R], /) -> Offloaded[P, R]: ...
@overload
def offload(
    *,
    pool: Pool | str = ...,
    max_concurrency: int | None = ...,
    **options: Unpack[CallOptionsDict],
) -> _Decorator: ...
def offload(
    function: Any = None,
    /,
    *,
    pool: Pool | str = "default",
    max_concurrency: int | None = None,
    **options: Unpack[CallOptionsDict],
) -> Any:
    """Make a plain, CPU-bound function run on a worker when it is called and awaited.

    Works on functions, static, class and instance methods, and generator functions (`.stream`).
    Stands above or below `@staticmethod`; above `@classmethod`, since below it, from Python 3.13
    on, only calls work. The function must be importable by module and name; arguments and results
    must pickle.

    Args:
        function: the function; not given when options are.
        pool: the pool, or its name, which is looked up at the first call.
        max_concurrency: how many calls of this function may run at once in the pool; None: as many
            as there are workers.
        **options: `timeout`: seconds that it may run, then it is stopped. `queue_timeout`: seconds
            that a call may wait for a worker. Both: None is no limit, not given is the pool's.
            `deadline`: `time.monotonic()` instant by which a call must have ended; one that cannot
            is not started.
            `priority`: larger runs first, default 0. `max_crash_retries`: how many times a call is
            run again whose worker died under it, default 0; for functions that may run twice.
            `grace`: seconds between asking an unwanted task to stop (`task_context().cancelled()`)
            and ending its process, default 0; so long it counts as running. `single_flight`:
            identical calls (same pickled arguments; those of more than 64 KiB may be left out) that are
            under way at once share one run, default False. `on_progress`: called on the event
            loop, in the caller's context, with (done, total) of `task_context().progress(…)`.
            `max_payload_bytes`: size that the pickled arguments, and the result, may have.
            `cancel_on_disconnect`: whether a call is stopped when the client of its HTTP request
            leaves, default True; only where `offload.starlette.CancelOnDisconnect` watches.

    Raises:
        FunctionError: the function cannot be offloaded: `async def`, a lambda, a local function.
        TypeError: unknown option, or wrong type.
        ValueError: an option is out of range.
    """
    check_integer("max_concurrency", max_concurrency, minimum=1, optional=True)
    if isinstance(pool, str):
        check_name("pool", pool)
    else:
        from offload.pool import Pool

        check_type("pool", pool, Pool, "a Pool or the name of one")
    defaults = merge(CallOptions(), options)

    def decorate(function: Any) -> Any:
        definition = _Definition(function, pool, defaults, max_concurrency)
        if not in_worker():
            from offload.pool import import_what_calls_need

            import_what_calls_need()
        kind = OffloadedGenerator if is_generator_function(definition.function) else Offloaded
        if not isinstance(pool, str):
            pool.register(definition.function.__module__)
        return kind._make(definition, defaults)  # pyright: ignore[reportPrivateUsage]

    return decorate if function is None else decorate(function)


if TYPE_CHECKING:

    class _Decorator:
        """`@offload(…)`: as generic as the function that it is put on."""

        @overload
        def __call__(  # type: ignore[overload-overlap] # pyright: ignore[reportOverlappingOverload]
            self, function: Callable[P, Generator[T, Any, Any]], /
        ) -> OffloadedGenerator[P, T]: ...
        @overload
        def __call__(  # type: ignore[overload-overlap]
            self, function: Callable[P, Iterator[T]], /
        ) -> OffloadedGenerator[P, T]: ...
        @overload
        def __call__(self, function: Callable[P, R], /) -> Offloaded[P, R]: ...
        def __call__(self, function: Any, /) -> Any: ...

"""`@offload`: a plain function in, an object whose call runs it on a worker out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, cast, overload

from offload._child.context import in_async_code, in_worker, process, running_task
from offload._child.main_module import inline
from offload._decorated import Annotations, Decorated, check_call_options
from offload._definition import Definition
from offload._pool.target import is_generator_function
from offload._values.options import (
    CallOptions,
    CallOptionsDict,
    check_integer,
    check_name,
    check_type,
)
from offload.errors import FunctionError
from offload.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
    from typing import Concatenate, Self

    from offload.jobs import Job, Jobs
    from offload.pool import Pool

__all__ = ["Offloaded", "OffloadedGenerator", "offload"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")


class Offloaded(Decorated[P, R]):
    """A function that runs on a worker when called. Made by `offload`.

    Attributes:
        __wrapped__: the plain function; calling it runs it here and now.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def __wrapped__(self) -> Callable[P, R]:
            """The plain function."""
            ...

    else:
        __annotations__ = Annotations()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the function on a worker and return its result.

        Raises:
            OffloadError: see `offload.errors`; each says whether the function may have run.
            Exception: what the function raised, its `__cause__` the worker's traceback.

        Cancellation: a call that waits is taken out of the queue; one that runs is stopped,
        after `grace` seconds by ending its process.

        In a worker it runs here and now. Plain code there gets the value itself, as from any
        function; where an event loop runs in the thread, it is awaited as ever.
        """
        # `in_worker`, without the call: this is on the path of each call.
        is_inside = process.is_worker or running_task.get(None) is not None
        if is_inside and not in_async_code():
            return inline(self._definition.function)(*self.bound, *args, **kwargs)  # type: ignore[no-any-return]
        return self._call(*args, **kwargs)  # type: ignore[no-any-return]

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Offloaded[Concatenate[Any, Q], T], instance: object, owner: type | None = None
    ) -> Offloaded[Q, T]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Bind as a method does: the object, which must pickle, is sent as the first argument."""
        return self._bind(instance, owner)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Have a worker program run the function as a job. It is durable when this returns.

        The job goes to the `jobs` that `@offload` was given, else to those that OFFLOAD_JOBS names.
        `jobs.options(…).enqueue(function, …)` sets options of a job.

        Raises:
            FunctionError: the function cannot be run as a job, and why. Nothing was stored.
            JobArgumentError: an argument does not fit, has no JSON or is too large; likewise.
            JobQueueFullError: the queue has `max_queued` jobs; likewise.
            JobsUnavailableError: the engine cannot be reached, or cannot store; its
                `may_have_happened` says whether the job may be there all the same.

        Cancellation: the job may have been stored or not.
        """
        jobs = self._definition.jobs
        if jobs is None:
            from offload.jobs import default_jobs

            jobs = default_jobs()
        return await jobs.enqueue(
            cast("Callable[P, Coroutine[Any, Any, R]]", self), *args, **kwargs
        )

    # As a plain callable, and not as Offloaded[[T], R]: from that mypy infers no T, and a function
    # whose other parameters have defaults would not do.
    def map(
        self: Callable[[T], Coroutine[Any, Any, S]],  # pyright: ignore[reportGeneralTypeIssues]
        items: Iterable[T],
        *,
        max_concurrency: int | None = None,
    ) -> Coroutine[Any, Any, list[S]]:
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
        mapped: Coroutine[Any, Any, list[S]] = this._mapped(items, max_concurrency)  # noqa: SLF001 - its own
        return mapped

    def _mapped(self, items: Iterable[Any], max_concurrency: int | None) -> Any:
        self._check_binding()
        if in_worker() and not in_async_code():
            return self._map_inline(items)
        coroutine: Any = self._map(items, max_concurrency)
        coroutine.__name__ = "map"
        coroutine.__qualname__ = f"{self.__qualname__}.map"
        return coroutine

    def _map_inline(self, items: Iterable[Any]) -> list[R]:
        function = inline(self._definition.function)
        return [function(*self.bound, item) for item in items]

    async def _map(self, items: Iterable[Any], max_concurrency: int | None) -> list[R]:
        if in_worker():
            return self._map_inline(items)
        from offload._pool.fanout import ordered

        pool, _ = self._definition.resolve()
        # Two more than workers, so that none of them waits for the loop to hand it the next item.
        return await ordered(
            cast("Any", self), iter(items), max_concurrency or pool.max_workers + 2
        )


class OffloadedGenerator(Decorated[P, T]):
    """A generator function whose items are made on a worker. Made by `offload`.

    Attributes:
        __wrapped__: the plain generator function.
    """

    __slots__ = ()

    _is_coroutine_function = False

    if TYPE_CHECKING:

        @property
        def __wrapped__(self) -> Callable[P, Iterator[T]]:
            """The plain generator function."""
            ...

    else:
        __annotations__ = Annotations()

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Refuse: a generator has no single result. In plain code of a worker, make it."""
            if in_worker() and not in_async_code():
                return inline(self._definition.function)(*self.bound, *args, **kwargs)
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
    jobs: Jobs | None = ...,
    **options: Unpack[CallOptionsDict],
) -> _Decorator: ...
def offload(
    function: Any = None,
    /,
    *,
    pool: Pool | str = "default",
    max_concurrency: int | None = None,
    jobs: Jobs | None = None,
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
        jobs: where `.enqueue(…)` puts its jobs; None: where OFFLOAD_JOBS says.
        **options: `timeout`: seconds that it may run, then it is stopped. `queue_timeout`: seconds
            that a call may wait for a worker. Both: None is no limit, not given is the pool's.
            `deadline`: `time.monotonic()` instant by which a call must have ended; one that cannot
            is not started.
            `priority`: larger runs first, default 0. `max_crash_retries`: how many times a call is
            run again whose worker died under it, default 0; for functions that may run twice.
            `grace`: seconds between asking an unwanted task to stop (`task_context().cancelled()`)
            and ending its process, default 0; it counts as running until then. `single_flight`:
            identical calls (same pickled arguments; those of more than 64 KiB may be left out)
            that are under way at once share one run, default False. `on_progress`: called on the
            event loop, in the caller's context, with (done, total) of
            `task_context().progress(…)`.
            `max_payload_bytes`: size that the pickled arguments, and the result, may have.
            `max_memory_bytes`: memory that it may take beyond what its worker has when it begins,
            else `TaskMemoryError`. `max_cpu_seconds`: CPU time that it may take, in whole seconds,
            else its worker is ended with `TaskCpuError`. Both: on Linux, for workers that are
            processes of the pool; what it starts has as much for itself.
            `cancel_on_disconnect`: whether a call is stopped when the client of its HTTP request
            leaves, default True; only where `offload.starlette.CancelOnDisconnect` watches.

    Raises:
        FunctionError: the function cannot be offloaded: `async def`, a lambda, a local function;
            or `jobs` is given for a generator function.
        TypeError: unknown option, or wrong type.
        ValueError: an option is out of range.
    """
    check_integer("max_concurrency", max_concurrency, minimum=1, optional=True)
    if isinstance(pool, str):
        check_name("pool", pool)
    else:
        from offload.pool import Pool

        check_type("pool", pool, Pool, "a Pool or the name of one")
    if jobs is not None:
        from offload.jobs import Jobs

        check_type("jobs", jobs, Jobs, "a Jobs")
    check_call_options(options)
    defaults = CallOptions(**options)

    def decorate(function: Any) -> Any:
        definition = Definition(function, pool, max_concurrency, jobs)
        if not in_worker():
            from offload._pool.imports import import_what_calls_need

            import_what_calls_need()
        kind = OffloadedGenerator if is_generator_function(definition.function) else Offloaded
        if jobs is not None and kind is OffloadedGenerator:
            message = (
                f"{definition.name} is a generator function, and a job has one result: "
                "leave out `jobs`, or write a function that returns a list"
            )
            raise FunctionError(message)
        if not isinstance(pool, str):
            pool.register(definition.function.__module__)
        made: Decorated[..., Any] = kind(definition, defaults)
        definition.remember(made)
        if not in_worker():
            _tell_if_routed(definition.function, definition.name)
        return made

    return decorate if function is None else decorate(function)


def _tell_if_routed(function: Any, name: str) -> None:
    """Log that a function is an endpoint already: its route has the plain one.

    `@offload` was written above `@app.get(…)`, as a rule.
    """
    routing = sys.modules.get("starlette.routing")
    applications = sys.modules.get("starlette.applications")
    if routing is None or applications is None:
        return
    for value in list(getattr(function, "__globals__", {}).values()):
        if isinstance(value, (routing.Router, applications.Starlette)):
            last = value.routes[-1:]
            if last and getattr(last[0], "endpoint", None) is function:
                import logging

                logging.getLogger("offload.pool").warning(
                    "%s is an endpoint already, and its route has the plain function: requests "
                    "run it in this process. Write @offload below the decorator of the route",
                    name,
                )
                return


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

"""Pools: workers, and the queue of calls that wait for one.

                     ┌────────────────────────── server process ───────────────────────────┐
    await report(…)  │  encode ─► admit ─► queue ─► idle worker ─► send ─► reply ─► decode  │
                     └──────────────────────────────────────────────│─────▲────────────────┘
                                                       one socket   ▼     │   for each worker
                     ┌────────── worker process ──────────┐  unpickle ─► run ─► pickle
                     │ lower OS priority, nothing shared  │
                     └────────────────────────────────────┘

Guarantees:
1. The loop stays free: no process start, join, big pickle or big copy happens on it.
2. The server comes first: workers run at a lower OS priority (`os_priority`).
3. One task's fate is its own: a crash, a kill or a timeout costs exactly that task.
4. Cancelled means stopped: a cancelled or timed-out call stops using CPU.
5. You always know: every error says whether the function may have run; nothing waits for ever.
6. Bounded: past `max_queued` or `max_queued_bytes` a call is refused at once.
7. Nothing left behind: no worker or file outlives the server by more than a second.
"""

# Over 400 lines and over 25 methods: it is the list of what users do with a pool, each method a few
# lines and its docstring. What they do is in `_pool`.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar, Unpack, overload

from offload._child.context import asyncio_loop, in_worker
from offload._child.functions import modules_for
from offload._pool.accounts import Accounts
from offload._pool.imports import import_what_calls_need
from offload._pool.periods import Periods
from offload._pool.registry import ObserverList, Registry
from offload._pool.setup import Setup
from offload._pool.short_cut import call
from offload._pool.target import bound_arguments
from offload._pool.undecorated import PreparedFunctions
from offload._values.options import INHERIT, NO_OPTIONS, CallOptionsDict, Inherit, check_name
from offload._values.pool_options import PoolOptions, PoolOptionsDict
from offload._with_options import PoolWithOptions
from offload.errors import PoolNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from concurrent.futures import Future
    from types import TracebackType

    from offload._pool.invocation import Invocation
    from offload._pool.running_pool import RunningPool
    from offload._pool.window import WindowStatistics
    from offload._values.call_record import Observer
    from offload._values.options import CallOptions, ResolvedOptions
    from offload._values.statistics import PoolStatistics, TaskStatistics
    from offload.executor import PoolExecutor

__all__ = ["Pool"]

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULT_NAME = "default"
# How many items a stream may be ahead of its consumer.
_STREAM_WINDOW = 8


class Pool:
    """Worker processes that run functions for event loops and threads of this process.

    A pool opens by itself at its first call, or before that, warm, with `open`, `async with` or
    `offload.starlette.lifespan`. It may be used from several event loops and threads at once.

    Args:
        name: how `@offload(pool=name)`, logs and metrics call it; unique in the process.
        min_workers: workers to keep alive once open.
        max_workers: tasks to run at once; None: the CPUs that the container really has, divided by
            the web workers beside us (`WEB_CONCURRENCY`, or `--workers` of a known server).
        spare_workers: warm workers beyond those that are needed, for the next call and in place of
            one that dies. They are idle: never more than `max_workers` run.
        max_queued: calls that may wait for a worker; past it, `QueueFullError`. None: no limit.
        max_queued_bytes: size of their pickled arguments; None: no limit.
        idle_timeout: seconds after which an idle worker that the recent load did not need ends;
            None: never.
        os_priority: "idle" (SCHED_IDLE: the event loop always goes first; where the OS has it not,
            as "low"), "low" (nice 19) or "normal". Where other programs keep the CPUs busy, the
            first two get next to nothing, which the log says then: use "normal" there.
        start_method: "forkserver" (a single-threaded process of ours is forked; the default on
            Linux) or "spawn" (a new interpreter for each worker; elsewhere).
        executor: make workers of `concurrent.futures` executors: `ProcessPoolExecutor` itself (one
            of a single process for each worker; the default on Windows), a callable that makes an
            executor for each worker, or an executor that all of them share. What it cannot do,
            such as stop a running task, the pool cannot either. `InterpreterPoolExecutor` (Python
            3.14): each worker is an interpreter in this process, with its search path; modules
            that do not support that, such as numpy, do not import there.
        initializer: called with `initargs` in each worker before its first task.
        initargs: its arguments.
        preload: modules to import once and share with all workers (forkserver), or to import in
            each worker before its first task (spawn). As "module:name", a resource to load
            likewise, see `offload.resources`.
        context_vars: context variables whose value crosses to the worker with each call, as
            "module:name" of the `ContextVar`; values must pickle.
        env: environment variables of the workers; None removes one. Thread pools of numeric
            libraries (OMP_NUM_THREADS, …) are set to the CPUs per worker unless set by you.
        max_tasks_per_worker: replace a worker after so many; None: never.
        max_worker_memory_bytes: replace a worker whose resident memory is above this after a task;
            None: never.
        timeout: default for calls, in seconds of run time; None: no limit.
        queue_timeout: default for calls, in seconds of waiting for a worker; None: no limit.
        max_payload_bytes: default for calls: size that the pickled arguments of a call, and its
            result or each item of a stream, may have; past it, `ArgumentError` or `ResultError`.
            Files that cross as descriptors do not count. None: no limit.
        start_timeout: seconds that a worker may take to be ready.
        harden: True: the kernel keeps workers from changing files, from the network and from other
            processes (Linux); with exceptions: a `Hardening`. Where the system does not allow all
            of it, `WorkerStartError`, unless that says otherwise. Not for workers of an `executor`.
        results: "pickle": functions return and raise whatever pickles, and whoever owns a worker
            owns this process. "data": what workers send is read as data, and never unpickled: the
            standard types, and models, dataclasses and the like where the function's annotation
            says that it returns them (see the page on operating). Not for an `executor`.
        raises: with `results="data"`, the classes of exceptions, beside Python's own, that come
            back as they were raised; subclasses come as the class that is named, others as
            `RemoteError`.
        show_arguments: whether `tasks`, and so the dashboard, may show the arguments of calls that
            wait or run, cut to 1,000 characters: off, since they may be secrets. Calls of such a
            pool cost some microseconds more.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or there is another pool of this name.
    """

    _registry: ClassVar[Registry[Pool]] = Registry()

    def __init__(self, name: str = _DEFAULT_NAME, **options: Unpack[PoolOptionsDict]) -> None:
        check_name("name", name)
        self.name = name
        self._setup = setup = Setup(name, PoolOptions.checked(options))
        self.max_workers: int = setup.max_workers
        self._accounts = Accounts(name)
        self._prepared = PreparedFunctions(self)
        # What new workers import: modules of functions that were decorated for this pool, once it
        # is opened, and of those that were called.
        self._decorated: set[str] = set()
        self._modules: set[str] = set()
        self._observers = ObserverList(self.tell_observers)
        self._periods = Periods(name, self._prepare)
        import_what_calls_need(
            with_executors=setup.options.executor is not None,
            with_data=setup.options.results == "data",
        )
        Pool._registry.add(self)

    # --- names ---

    @classmethod
    def named(cls, name: str = _DEFAULT_NAME) -> Pool:
        """Return the pool of this name; the one named "default" is made when first asked for.

        Raises:
            PoolNotFoundError: there is none.
        """
        pool = cls._registry.get(name)
        if pool is not None:
            return pool
        if name == _DEFAULT_NAME:
            try:
                return cls()
            except ValueError:  # another thread was faster
                return cls.named(name)
        known = ", ".join(repr(pool.name) for pool in cls.all()) or "none"
        message = (
            f"there is no pool named {name!r} (there are: {known}); "
            f"make one with Pool({name!r}, …), and keep it in a variable of a module"
        )
        raise PoolNotFoundError(message, pool=name)

    @classmethod
    def all(cls) -> list[Pool]:
        """Return all pools of this process, open or not, by name."""
        return cls._registry.all()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and not opened again."""
        return self._periods.is_closed

    # --- life ---

    async def open(self) -> None:
        """Start `min_workers`, at least one, and return when they are ready.

        They have then imported the modules of the functions that were decorated for this pool. A
        pool that was closed is opened anew. Does nothing in a worker.

        Raises:
            WorkerStartError: none came up.
        """
        if in_worker():
            return
        self._periods.reopen()
        self._modules |= self._decorated | (modules_for(self.name) - {"__main__", "__mp_main__"})
        await self._periods.open()

    async def aclose(self, *, drain: float | None = 10.0) -> None:
        """Refuse new calls, let those that are there end, then end all workers.

        Args:
            drain: seconds to wait for running and queued calls; then they fail with
                `PoolClosedError` and their workers are killed. 0: at once. None: no limit.

        Cancellation: kills at once, and returns when nothing is left.
        """
        await self._periods.aclose(drain)

    def kill(self) -> Future[None]:
        """End all workers now, from any thread.

        Returns:
            A future that is done when nothing of them is left; nobody has to wait for it.
        """
        return self._periods.kill()

    def stop_accepting(self) -> None:
        """Refuse new calls from now on, and let those that are there end; from any thread.

        The workers stay. `open` takes it back, `aclose` ends what is left. A pool that is not open
        is left as it is.
        """
        running = self._periods.running
        if running is not None:
            running.life.drain()

    async def __aenter__(self) -> Self:
        """Open the pool, warm."""
        try:
            await self.open()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain and close; at once if an exception passes."""
        await self.aclose(drain=10.0 if kind is None else 0.0)

    def renew(self) -> None:
        """Have all later calls run by new workers: code that they may have imported has changed."""
        running = self._periods.running
        if running is not None:
            running.renew()

    def rest(self) -> None:
        """Let the next call open this pool again: it was closed by one of several that use it."""
        self._periods.rest()

    def forget_workers(self) -> None:
        """Let go of the workers: this is a forked copy of the process that has them."""
        self._periods.forget()

    # --- by hand; from any thread ---

    def kill_task(self, pid: int) -> bool:
        """Stop the task that a worker runs; its caller gets `TaskKilledError`.

        Args:
            pid: process id of the worker.

        Returns:
            False if no worker of this pool with this process id runs a task.
        """
        running = self._periods.running
        return running is not None and running.kill_task(pid)

    def stop_task(self, task_id: str) -> bool:
        """Stop a task, whether it waits or runs; its caller gets `TaskKilledError`.

        Args:
            task_id: as `tasks` has told it.

        Returns:
            False if no such task waits or runs any more.
        """
        running = self._periods.running
        return running is not None and running.stop_task(task_id)

    def set_limits(
        self,
        *,
        max_workers: int | Inherit = INHERIT,
        max_queued: int | Inherit | None = INHERIT,
    ) -> None:
        """Change how many calls run and wait at once, from now on; from any thread.

        What runs goes on and what waits stays, also where there are too many now. More workers are
        started as calls need them. It holds for this process, until it is changed again, also if
        the pool is closed and opened meanwhile. One executor that all workers share (`executor`)
        runs no more at once than it can.

        Args:
            max_workers: as for `Pool`; not given: as it is.
            max_queued: as for `Pool`; not given: as it is.

        Raises:
            TypeError: one is not an int.
            ValueError: one is out of range, or `max_workers` is less than `min_workers`.
        """
        setup = self._setup
        with self._periods.lock:  # a period that begins has either the new ones, or is told below
            setup.set_limits(max_workers, max_queued)
            self.max_workers = setup.max_workers
            running = self._periods.running
        if running is not None:
            running.set_limits(setup.max_workers, setup.options.max_queued)

    def recycle(self, pid: int) -> bool:
        """Replace a worker: at once if it is idle, after its task if it is busy.

        Args:
            pid: process id of the worker.

        Returns:
            False if this pool has no idle or busy worker of this process id.
        """
        running = self._periods.running
        return running is not None and running.recycle(pid)

    # --- observers ---

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of each call of this pool; twice, if it is given twice.

        Returns:
            A function that removes the observer.
        """
        return self._observers.add(observer)

    @classmethod
    def observe_all(cls, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of each call of every pool of this process, of later ones too.

        Returns:
            A function that removes the observer.
        """
        return cls._registry.observers.add(observer)

    def tell_observers(self) -> None:
        """Tell what is running who observes it; called when that has changed."""
        with self._periods.lock:  # one that is being made was given what there was before
            running = self._periods.running
            if running is not None:
                running.observe(self._all_observers())

    def _all_observers(self) -> tuple[Observer, ...]:
        return (*self._registry.observers.now, *self._observers.now)

    # --- calls ---

    # What `@offload` made is called on a worker, and its result is no coroutine there.
    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a plain, importable function on a worker of this pool and return its result.

        A decorated function keeps the options of its decorator.

        Args:
            function: found in the worker by module and name; decorated or not.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Raises:
            OffloadError: see `offload.errors`; each says whether the function may have run.
            Exception: what the function raised, its `__cause__` the worker's traceback.
        """
        return await self._run(function, None, args, kwargs)

    def options(self, **changes: Unpack[CallOptionsDict]) -> PoolWithOptions:
        """Return this pool with other options for calls: `await pool.options(timeout=1).run(f, x)`.

        Args:
            **changes: as for `offload`. They go before those of a function's decorator.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range.
        """
        NO_OPTIONS.merged(changes)  # checks them
        return PoolWithOptions(self, self._run, changes)

    async def _run(
        self,
        function: Any,
        changes: CallOptionsDict | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        prepared = self._prepared.of(function, changes)
        return await call(prepared, *bound_arguments(function), *args, **kwargs)

    async def run_invocation(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """Run an invocation on a worker and return its result; `InvocationRunner`.

        Args:
            invocation: what to run.
            may_start: asked right before a worker is sent it; False drops it.
        """
        if in_worker():
            # A worker that waited for another of the same pool could wait for itself.
            return invocation.target.function(*invocation.arguments, **invocation.keywords)
        running = self._periods.current()
        if asyncio_loop() is not None:
            return await running.run(invocation, may_start)
        from offload._pool.trio import on_trio, run_on_keeper

        return await run_on_keeper(running.run(on_trio(invocation), may_start))

    def promise(self, future: Future[Any]) -> bool:
        """Note a call of a view: a pool that is closed lets it end, wherever it is by then.

        Returns:
            False if the pool is closed already.
        """
        return self._periods.promise(future)

    async def run_promised(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """Run what was promised, on the keeper's thread; arguments as `run_invocation`."""
        return await self._periods.promised().run(invocation, may_start)

    def stream_invocation(self, invocation: Invocation) -> AsyncIterator[Any]:
        """Run a generator function; what `OffloadedGenerator.stream` calls."""
        running = self._periods.current()
        if not running.shell.backend.has_descriptors:
            message = (
                f"pool {self.name!r} runs on an executor, which cannot stream: call the function "
                "on a pool without `executor`, or return a list"
            )
            raise NotImplementedError(message)
        if asyncio_loop() is not None:
            return running.stream(invocation, _STREAM_WINDOW)
        from offload._pool.trio import iterate_on_keeper, on_trio

        return iterate_on_keeper(running.stream(on_trio(invocation), _STREAM_WINDOW))

    def executor(self, **options: Unpack[CallOptionsDict]) -> PoolExecutor:
        """Return a view of this pool as a `concurrent.futures.Executor`, usable on any thread.

        Args:
            **options: as for `offload`; they go before those of a function's decorator.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range.
        """
        from offload.executor import PoolExecutor

        NO_OPTIONS.merged(options)  # checks them
        return PoolExecutor(self, options)

    def register(self, module: str) -> None:
        """Note the module of a function that was decorated for this pool, to be warm for it."""
        if module not in ("__main__", "__mp_main__"):
            self._decorated.add(module)

    def resolve(self, options: CallOptions) -> ResolvedOptions:
        """Return `options` with what they inherit from this pool."""
        own = self._setup.options
        return options.resolve(
            timeout=own.timeout,
            queue_timeout=own.queue_timeout,
            max_payload_bytes=own.max_payload_bytes,
        )

    # --- what it is ---

    def statistics(self) -> PoolStatistics:
        """Return the state, the counters and the histograms of this instant."""
        running = self._periods.running
        if running is not None:
            return running.statistics()
        from offload._pool.statistics import of_pool_at_rest

        return of_pool_at_rest(
            self.name,
            self._accounts,
            state="closed" if self.is_closed else "new",
            max_workers=self.max_workers,
            max_queued=self._setup.options.max_queued,
            results=self._setup.options.results,
        )

    def tasks(self, limit: int = 100) -> tuple[TaskStatistics, ...]:
        """Return the tasks that run, the longest first, and those that wait, the next first.

        Args:
            limit: how many of those that wait at most; `statistics().queued` counts all.
        """
        running = self._periods.running
        return () if running is None else running.tasks(limit)

    def task(self, task_id: str) -> TaskStatistics | None:
        """Return one task; None if no such task waits or runs any more.

        Args:
            task_id: as `tasks` has told it.
        """
        running = self._periods.running
        return None if running is None else running.task(task_id)

    def load(self) -> tuple[int, int, int] | None:
        """Return how many workers are up, are busy, and how many calls wait; None: not open.

        Without any lock: to be asked often.
        """
        running = self._periods.running
        return None if running is None else running.load()

    def take_window(self) -> WindowStatistics:
        """Return what has ended since this was called last: for the one who keeps a history."""
        return self._accounts.take_window()

    def story(self) -> tuple[str, ...]:
        """Return what happened to the pool of late, a line each, for a bug report.

        The last 200 transitions (starts, stops, cancellations, crashes, refusals), the oldest
        first, and then what runs now. Empty while the pool is not open.
        """
        running = self._periods.running
        return () if running is None else running.story()

    def __repr__(self) -> str:
        """Tell the state in one line."""
        now = self.statistics()
        missing = f" but for {', '.join(now.missing_walls)}" if now.missing_walls else ""
        return (
            f"<Pool {self.name!r} {now.state}: {now.busy} busy of {self.max_workers}, "
            f"{now.idle} idle, {now.starting} starting, {now.leaving} leaving, "
            f"{now.queued} queued ({self._setup}{missing})>"
        )

    def _prepare(self) -> Callable[[], RunningPool]:
        """Import what the next period needs, and return what begins it."""
        from offload._pool.running_pool import RunningPool

        setup = self._setup
        variables = setup.context_variables()
        Pool._registry.watch_process()
        return lambda: RunningPool(
            self.name,
            setup.limits(),
            setup.new_backend,
            self._modules,
            self._accounts,
            variables=variables,
            observers=self._all_observers(),
            shows_arguments=setup.options.show_arguments,
            results=setup.options.results,
        )

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
4. Not wanted means not running: a cancelled or timed-out call stops burning CPU.
5. You always know: every error says whether the function may have run; nothing waits for ever.
6. Bounded: past `max_queued` or `max_queued_bytes` a call is refused at once.
7. Nothing left behind: no worker or file outlives the server by more than a second.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import sys
import threading
import weakref
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, ParamSpec, Self, TypeVar, overload

from offload._child.context import asyncio_loop, in_worker
from offload._pool.short_cut import Prepared, call
from offload._values.options import (
    CallOptions,
    ResolvedOptions,
    check_integer,
    check_name,
    check_number,
)
from offload.errors import PoolNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from concurrent.futures import Executor, Future
    from contextvars import ContextVar
    from types import TracebackType

    from offload._pool.engine import Engine
    from offload._pool.target import Target
    from offload._values.call_record import Observer
    from offload._values.statistics import PoolStatistics
    from offload._workers.backend import Crew
    from offload.executor import PoolExecutor

__all__ = ["Pool", "import_what_calls_need"]

P = ParamSpec("P")
R = TypeVar("R")

_OS_PRIORITIES = ("idle", "low", "normal")
_START_METHODS = ("forkserver", "spawn")
_DEFAULT_NAME = "default"
# How many items a stream may be ahead of its consumer.
_STREAM_WINDOW = 8
_NO_OPTIONS = CallOptions()
# Of how many functions that were given to `Pool.run` it is remembered where they are.
_MOST_BARE = 1000
# Nothing is done under the lock of a pool that takes as long.
_LOCK_SECONDS = 0.5
# How long to wait for workers that have been killed; one in an uninterruptible system call may
# take longer, and nobody can change that.
_KILL_SECONDS = 10.0


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
            as "low"), "low" (nice 19) or "normal". On a host whose CPUs are kept busy by other
            programs, idle work waits: use "low" there.
        start_method: "forkserver" (a single-threaded process of ours is forked; the default on
            Linux) or "spawn" (a new interpreter for each worker; elsewhere).
        executor: make workers of `concurrent.futures` executors: `ProcessPoolExecutor` itself (one
            of a single process for each worker; the default on Windows), a callable that makes an
            executor for each worker, or an executor that all of them share. What it cannot do,
            such as stop a running task, the pool cannot either.
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

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or there is another pool of this name.
    """

    _registry: ClassVar[dict[str, Pool]] = {}
    # Also those whose name is another's by now: what is open must be closed.
    _everyone: ClassVar[weakref.WeakSet[Pool]] = weakref.WeakSet()
    _registry_lock: ClassVar[threading.Lock] = threading.Lock()
    # Those of all pools, of whatever is made later too.
    _common_observers: ClassVar[tuple[Observer, ...]] = ()

    def __init__(  # noqa: PLR0915 - one statement for each option
        self,
        name: str = _DEFAULT_NAME,
        *,
        min_workers: int = 0,
        max_workers: int | None = None,
        spare_workers: int = 1,
        max_queued: int | None = 1000,
        max_queued_bytes: int | None = 256 * 2**20,
        idle_timeout: float | None = 60.0,
        os_priority: Literal["idle", "low", "normal"] = "idle",
        start_method: Literal["forkserver", "spawn"] | None = None,
        executor: type[Executor] | Executor | Callable[[], Executor] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        preload: Iterable[str] = (),
        context_vars: Iterable[str] = (),
        env: Mapping[str, str | None] | None = None,
        max_tasks_per_worker: int | None = None,
        max_worker_memory_bytes: int | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        max_payload_bytes: int | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        check_name("name", name)
        check_integer("min_workers", min_workers, minimum=0)
        check_integer("max_workers", max_workers, minimum=1, optional=True)
        check_integer("spare_workers", spare_workers, minimum=0)
        check_integer("max_queued", max_queued, minimum=0, optional=True)
        check_integer("max_queued_bytes", max_queued_bytes, minimum=1, optional=True)
        check_integer("max_payload_bytes", max_payload_bytes, minimum=1, optional=True)
        check_integer("max_tasks_per_worker", max_tasks_per_worker, minimum=1, optional=True)
        check_integer("max_worker_memory_bytes", max_worker_memory_bytes, minimum=1, optional=True)
        check_number("idle_timeout", idle_timeout, above=0.0)
        check_number("timeout", timeout, above=0.0)
        check_number("queue_timeout", queue_timeout, minimum=0.0)
        check_number("start_timeout", start_timeout, above=0.0, optional=False)
        _check_choice("os_priority", os_priority, _OS_PRIORITIES)
        _check_choice("start_method", start_method, (None, *_START_METHODS))
        _check_names("preload", preload)
        _check_names("context_vars", context_vars)
        _check_environment(env or {})
        workers = max_workers if max_workers is not None else _default_max_workers()
        if min_workers > workers:
            message = f"min_workers ({min_workers}) must not exceed max_workers ({workers})"
            raise ValueError(message)
        self.name = name
        self.max_workers = workers
        self.timeout = timeout
        self.queue_timeout = queue_timeout
        self.max_payload_bytes = max_payload_bytes
        self._min_workers = min_workers
        self._spare_workers = spare_workers
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._idle_timeout = idle_timeout
        self._os_priority = os_priority
        self._start_method = start_method
        self._executor = executor
        self._initializer = _pickle_initializer(initializer, initargs)
        self._preload = tuple(preload)
        self._bare: dict[Callable[..., Any], Prepared] = {}
        self._context_vars = tuple(context_vars)
        self._env = dict(env or {})
        self._max_tasks_per_worker = max_tasks_per_worker
        self._max_worker_memory_bytes = max_worker_memory_bytes
        self._start_timeout = start_timeout
        self._modules: set[str] = set()
        self._registered: set[str] = set()
        self._own_observers: tuple[Observer, ...] = ()
        self._running: Engine | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        if executor is not None and _name_of(executor) != "ProcessPoolExecutor":
            # Refused, not dropped: the executor starts its workers itself, in its own way.
            for option, value in (("initializer", initializer), ("env", env), ("preload", preload)):
                if value:
                    message = (
                        f"{option} is for worker processes that the pool starts; "
                        f"give it to the {_name_of(executor)} yourself"
                    )
                    raise ValueError(message)
        import_what_calls_need(with_executors=executor is not None)
        with Pool._registry_lock:
            other = Pool._registry.get(name)
            if other is not None and not other._is_closed:  # noqa: SLF001 - of this very class
                message = f"there is a pool named {name!r} already; Pool.named({name!r}) returns it"
                raise ValueError(message)
            Pool._registry[name] = self
            Pool._everyone.add(self)

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
                return cls._registry[name]
        known = ", ".join(sorted(map(repr, cls._registry))) or "none"
        message = (
            f"there is no pool named {name!r} (there are: {known}); "
            f"make one with Pool({name!r}, …), and keep it in a variable of a module"
        )
        raise PoolNotFoundError(message, pool=name)

    @classmethod
    def all(cls) -> list[Pool]:
        """Return all pools of this process, open or not, by name."""
        with cls._registry_lock:
            return [pool for _, pool in sorted(cls._registry.items())]

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
        with self._lock:
            if self._is_closed:
                self._is_closed = False
                self._running = None  # one that is still closing goes on by itself
        self._modules |= self._registered
        await self._bridge(_wait(self._opened().open()))

    async def aclose(self, *, drain: float | None = 10.0) -> None:
        """Refuse new calls, let those that are there end, then end all workers.

        Args:
            drain: seconds to wait for running and queued calls; then they fail with
                `PoolClosedError` and their workers are killed. 0: at once. None: no limit.

        Cancellation: kills at once, and returns when nothing is left.
        """
        check_number("drain", drain, minimum=0.0)
        with self._lock:
            self._is_closed = True
            engine = self._running
        if engine is not None:
            import anyio

            drained = engine.drain()
            try:
                if drain != 0.0:
                    await self._bridge(_wait_at_most(drained, drain))
            finally:
                # Also when cancelled: what was asked for is that the workers end, and when this
                # returns they have. It takes no longer than a kill.
                closed = engine.kill()
                with anyio.CancelScope(shield=True):
                    await self._bridge(_wait_at_most(closed, _KILL_SECONDS))
                self._drop(engine)

    def kill(self) -> Future[None]:
        """End all workers now, from any thread.

        Returns:
            A future that is done when nothing of them is left; nobody has to wait for it.
        """
        # A signal handler runs on a thread that may have the lock, and then never gets it.
        has_lock = self._lock.acquire(timeout=_LOCK_SECONDS)
        self._is_closed = True
        engine = self._running
        if has_lock:
            self._lock.release()
        if engine is None:
            from concurrent.futures import Future

            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        closed = engine.kill()
        closed.add_done_callback(lambda _: self._drop(engine))
        return closed

    def stop_accepting(self) -> None:
        """Refuse new calls from now on, and let those that are there end; from any thread.

        The workers stay. `open` takes it back, `aclose` ends what is left. A pool that is not open
        is left as it is.
        """
        engine = self._running
        if engine is not None:
            engine.drain()

    # --- by hand; from any thread ---

    def kill_task(self, pid: int) -> bool:
        """Stop the task that a worker runs; its caller gets `TaskKilledError`.

        Args:
            pid: process id of the worker.

        Returns:
            False if no worker of this pool with this process id runs a task.
        """
        engine = self._running
        return engine is not None and engine.kill_task(pid)

    def recycle(self, pid: int) -> bool:
        """Replace a worker: at once if it is idle, after its task if it is busy.

        Args:
            pid: process id of the worker.

        Returns:
            False if this pool has no idle or busy worker of this process id.
        """
        engine = self._running
        return engine is not None and engine.recycle(pid)

    # --- observers ---

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of each call of this pool; twice, if it is given twice.

        Returns:
            Takes it back.
        """
        listener = _Listener(observer)
        self._own_observers = (*self._own_observers, listener)
        self._tell_observers()

        def end() -> None:
            self._own_observers = _without(self._own_observers, listener)
            self._tell_observers()

        return end

    @classmethod
    def observe_all(cls, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of each call of every pool of this process, of later ones too.

        Returns:
            Takes it back.
        """
        listener = _Listener(observer)
        cls._common_observers = (*cls._common_observers, listener)
        for pool in cls.all():
            pool._tell_observers()  # noqa: SLF001 - of this very class

        def end() -> None:
            cls._common_observers = _without(cls._common_observers, listener)
            for pool in cls.all():
                pool._tell_observers()  # noqa: SLF001 - of this very class

        return end

    def _tell_observers(self) -> None:
        with self._lock:  # one that is being made was given what there was before
            engine = self._running
            if engine is not None:
                engine.observe((*self._common_observers, *self._own_observers))

    # --- inside, of its life ---

    def _drop(self, engine: Engine) -> None:
        # Kept until its last worker is gone, so that whoever closes again waits for the same end;
        # unless the pool was opened anew meanwhile. In a signal handler that lock may be held by
        # this very thread; what is kept then has refused all calls, and goes with the next `open`.
        if self._lock.acquire(timeout=_LOCK_SECONDS):
            if self._running is engine:
                self._running = None
            self._lock.release()

    def _forget(self) -> None:
        # Locks may have been held by threads that do not exist in this process.
        self._lock = threading.Lock()
        engine, self._running = self._running, None
        if engine is not None:
            engine.crew.forget()

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

    # --- calls ---

    # What `@offload` made is called on a worker, and its result is no coroutine there.
    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a plain, importable function on a worker and return its result.

        Args:
            function: found in the worker by module and name; decorated or not.
            *args: its arguments.
            **kwargs: its keyword arguments.

        Raises:
            OffloadError: see `offload.errors`; each says whether the function may have run.
            Exception: what the function raised, its `__cause__` the worker's traceback.
        """
        from offload._pool.target import bound_arguments, plain_function

        plain = plain_function(function)
        # What else can be called may compare equal to another.
        is_function = isinstance(plain, (FunctionType, BuiltinFunctionType))
        prepared = self._bare.get(plain) if is_function else None
        if prepared is None:
            prepared = self._prepare(plain, is_kept=is_function)
        return await call(prepared, *bound_arguments(function), *args, **kwargs)

    def _prepare(self, function: Callable[..., Any], *, is_kept: bool) -> Prepared:
        prepared = Prepared(_Bare(function, self), _NO_OPTIONS)
        # A function that is sent by value is so as it is now, with what it refers to.
        if is_kept and not prepared.definition.resolve()[1].by_value:
            if len(self._bare) >= _MOST_BARE:  # somebody makes them by the thousand
                self._bare.clear()
            self._bare[function] = prepared
        return prepared

    async def run_target(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        started: Callable[[], object] | None = None,
    ) -> Any:
        """Run a target; what `PoolExecutor` calls, and `Offloaded` outside of asyncio."""
        if in_worker():
            # A worker that waited for another of the same pool could wait for itself.
            return target.function(*arguments, **keywords)
        engine = self._opened()
        if asyncio_loop() is not None:
            return await engine.run(target, arguments, keywords, options, started)
        from offload._pool.trio import call_on_trio, run_on_keeper

        if options.on_progress is not None:
            options = options._replace(on_progress=call_on_trio(options.on_progress))
        return await run_on_keeper(engine.run(target, arguments, keywords, options, started))

    def stream_target(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
    ) -> AsyncIterator[Any]:
        """Run a generator target; what `OffloadedGenerator` calls."""
        engine = self._opened()
        if self._executor_or_default() is not None:
            message = (
                f"pool {self.name!r} runs on an executor, which cannot stream: call the function "
                "on a pool without `executor`, or return a list"
            )
            raise NotImplementedError(message)
        if asyncio_loop() is not None:
            return engine.stream(target, arguments, keywords, options, _STREAM_WINDOW)
        from offload._pool.trio import call_on_trio, iterate_on_keeper

        if options.on_progress is not None:
            options = options._replace(on_progress=call_on_trio(options.on_progress))
        return iterate_on_keeper(
            engine.stream(target, arguments, keywords, options, _STREAM_WINDOW)
        )

    def executor(self) -> PoolExecutor:
        """Return a view of this pool as a `concurrent.futures.Executor`, usable on any thread."""
        from offload.executor import PoolExecutor

        return PoolExecutor(self)

    def register(self, module: str) -> None:
        """Note the module of a function that will be called here, to be warm for it."""
        if module not in ("__main__", "__mp_main__"):
            self._registered.add(module)

    # --- what it is ---

    def statistics(self) -> PoolStatistics:
        """Return the state, the counters and the histograms of this instant."""
        from offload._values.histogram import Histogram
        from offload._values.statistics import PoolStatistics

        engine = self._running
        if engine is not None:
            return engine.statistics(self.max_workers)
        empty = Histogram().snapshot()
        return PoolStatistics(
            name=self.name,
            state="closed" if self._is_closed else "new",
            max_workers=self.max_workers,
            wait=empty,
            run=empty,
        )

    def __repr__(self) -> str:
        """Tell the state in one line."""
        now = self.statistics()
        kind = self._executor_or_default()
        how = self._method() if kind is None else f"executor={_name_of(kind)}"
        cannot = "" if self._can_stop() else ", cannot stop a running task"
        return (
            f"<Pool {self.name!r} {now.state}: {now.busy} busy of {self.max_workers}, "
            f"{now.idle} idle, {now.starting} starting, {now.leaving} leaving, "
            f"{now.queued} queued ({how}, priority {self._os_priority}{cannot})>"
        )

    # --- the process ---

    @staticmethod
    @functools.cache
    def _watch_process() -> None:
        """Arrange for what happens to open pools when this process ends or is forked."""
        # Not at import: hooks run last in, first out, and ours must come before those of what an
        # engine imports, while threads still run.
        atexit.register(Pool._at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=Pool._after_fork)

    @staticmethod
    def _at_exit() -> None:
        from concurrent.futures import wait

        ends = [pool.kill() for pool in list(Pool._everyone)]
        # The supervisors would see to it by themselves; waiting a moment makes the end orderly.
        wait(ends, timeout=2.0)

    @staticmethod
    def _after_fork() -> None:
        """Make a forked copy of this process forget pools whose workers are not its own."""
        for pool in list(Pool._everyone):
            pool._forget()  # noqa: SLF001 - of this very class

    # --- inside ---

    def resolve(self, options: CallOptions) -> ResolvedOptions:
        """Return `options` with what they inherit from this pool."""
        return options.resolve(
            timeout=self.timeout,
            queue_timeout=self.queue_timeout,
            max_payload_bytes=self.max_payload_bytes,
        )

    def _opened(self) -> Engine:
        """Return what runs the calls, making it at the first one.

        Raises:
            PoolClosedError: the pool was closed.
        """
        engine = self._running
        if engine is not None:
            return engine  # refuses calls itself while it is closing
        # Not under the lock: it imports their modules, which may do anything.
        variables = {home: _context_variable(home) for home in self._context_vars}
        killed: Future[None] | None = None
        with self._lock:
            if self._running is None:
                if self._is_closed:
                    from offload.errors import PoolClosedError

                    message = (
                        f"pool {self.name!r} is closed; the function did not run. A pool that was "
                        "closed can be opened again with `await pool.open()`"
                    )
                    raise PoolClosedError(message)
                engine = self._running = self._new_engine(variables)
                if self._is_killed():
                    killed = engine.kill()
            engine = self._running
        if killed is not None:  # without the lock: it may be done already
            killed.add_done_callback(lambda _: self._drop(engine))
        return engine

    def _is_killed(self) -> bool:
        """Return whether a signal handler has called `kill` meanwhile, without the lock."""
        return self._is_closed

    def _new_engine(self, variables: dict[str, ContextVar[Any]]) -> Engine:
        from offload._decisions.dispatch import Limits
        from offload._pool.engine import Engine

        self._watch_process()
        return Engine(
            self.name,
            Limits(
                min_workers=self._min_workers,
                max_workers=self.max_workers,
                spare_workers=self._spare_workers,
                max_queued=self._max_queued,
                max_queued_bytes=self._max_queued_bytes,
                idle_timeout=self._idle_timeout,
                max_tasks_per_worker=self._max_tasks_per_worker,
            ),
            self._new_crew,
            self._modules,
            variables=variables,
            observers=(*self._common_observers, *self._own_observers),
        )

    def _new_crew(self, engine: Engine) -> Crew:
        from offload._workers.backend import Settings

        executor = self._executor_or_default()
        settings = Settings(
            name=self.name,
            os_priority=self._os_priority,
            start_method=self._method(),
            start_timeout=self._start_timeout,
            initializer=self._initializer,
            preload=self._preload,
            env=self._environment(),
            max_memory_bytes=self._max_worker_memory_bytes,
        )
        if executor is not None:
            from offload._workers.executor import ExecutorCrew

            return ExecutorCrew(engine, settings, executor)
        from offload._workers.process import ProcessCrew

        return ProcessCrew(engine, settings)

    def _executor_or_default(self) -> Any:
        if self._executor is None and not hasattr(os, "fork"):
            from concurrent.futures import ProcessPoolExecutor

            return ProcessPoolExecutor
        return self._executor

    def _method(self) -> str:
        if self._start_method is not None:
            return self._start_method
        # Forking is not safe on macOS once system frameworks have been used, even from a process
        # as bare as the supervisor (bpo-33725).
        return "forkserver" if sys.platform == "linux" else "spawn"

    def _can_stop(self) -> bool:
        executor = self._executor_or_default()
        return executor is None or _name_of(executor) == "ProcessPoolExecutor"

    def _environment(self) -> dict[str, str | None]:
        from offload._system import BLAS_VARIABLES, available_cpus

        threads = str(max(1, int(available_cpus() / self.max_workers)))
        caps: dict[str, str | None] = {
            name: threads for name in BLAS_VARIABLES if name not in os.environ
        }
        return caps | self._env

    async def _bridge(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Await a coroutine of asyncio from any async framework."""
        if asyncio_loop() is not None:
            return await coroutine
        from offload._pool.trio import run_on_keeper

        return await run_on_keeper(coroutine)


def import_what_calls_need(*, with_executors: bool = False) -> None:
    """Import what calls need while modules are being imported: the first call is on a loop.

    Does nothing in a worker, where nothing is called.

    Args:
        with_executors: also import what workers on executors need, which is `multiprocessing`.
    """
    if in_worker():
        return
    import offload._pool.engine
    import offload._workers.process

    if with_executors:
        import offload._workers.executor  # noqa: F401 - for its import time


class _Bare:
    """A function that was given to `Pool.run` as it is."""

    __slots__ = ("function", "pool", "target")

    def __init__(self, function: Callable[..., Any], pool: Pool) -> None:
        self.function = function
        self.pool = pool
        self.target: Target | None = None

    def resolve(self) -> tuple[Pool, Target]:
        """Return where to run what."""
        from offload._pool.target import target_of

        if self.target is None:
            self.target = target_of(self.function)
        return self.pool, self.target


class _Listener:
    """One time that an observer was given."""

    def __init__(self, observer: Observer) -> None:
        self.submitted = observer.submitted
        self.ended = observer.ended


def _without(observers: tuple[Observer, ...], observer: Observer) -> tuple[Observer, ...]:
    return tuple(each for each in observers if each is not observer)


async def _wait(future: Future[None]) -> None:
    import asyncio

    await asyncio.wrap_future(future)


async def _wait_at_most(future: Future[None], seconds: float | None) -> None:
    import asyncio

    # Not wait_for: it would cancel the future, which others may wait for.
    await asyncio.wait({asyncio.wrap_future(future)}, timeout=seconds)


def _check_names(option: str, names: object) -> None:
    if isinstance(names, str):
        message = f"{option} must be several names, such as [{names!r}], not one str"
        raise TypeError(message)


def _check_environment(env: Mapping[Any, Any]) -> None:
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str | None):
            message = f"env must map names to str or None, not {name!r} to {value!r}"
            raise TypeError(message)
        if not name or "=" in name or "\0" in name + (value or ""):
            message = f"env cannot hold {name!r}: {value!r}"
            raise ValueError(message)
        try:
            os.fsencode(name + (value or ""))
        except UnicodeEncodeError as error:
            message = f"env cannot hold {name!r}: {value!r}: {error}"
            raise ValueError(message) from None


def _pickle_initializer(function: object, arguments: object) -> bytes | None:
    if function is None:
        return None
    if not callable(function) or not isinstance(arguments, tuple):
        message = (
            "initializer must be a function, and initargs the tuple of its arguments, "
            f"not {function!r} and {arguments!r}"
        )
        raise TypeError(message)
    try:
        return pickle.dumps((function, arguments), 5)
    except Exception as error:
        message = f"initializer and initargs must pickle, to reach the workers: {error}"
        raise TypeError(message) from error


def _context_variable(home: str) -> ContextVar[Any]:
    from contextvars import ContextVar
    from importlib import import_module

    module, _, name = home.partition(":")
    try:
        variable = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"context_vars: there is no {home!r} (module:name of a ContextVar): {error}"
        raise ValueError(message) from error
    if not isinstance(variable, ContextVar):
        message = f"context_vars: {home!r} is {variable!r}, not a ContextVar"
        raise TypeError(message)
    return variable


def _default_max_workers() -> int:
    from offload._system import default_max_workers

    return default_max_workers()


def _name_of(executor: Any) -> str:
    name = getattr(executor, "__name__", None)
    return name if isinstance(name, str) else type(executor).__name__


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        message = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
        raise ValueError(message)

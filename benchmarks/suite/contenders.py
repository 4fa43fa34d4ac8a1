"""The contenders, behind one protocol: a name, versions, a server, and one call in this process.

A contender of Python is opened with a number of workers and gives a `Call`: a coroutine function
that runs a function somewhere and returns its result. `benchmarks.server` puts that behind HTTP, in
the same way for all; scenarios about calls use it directly. Contenders of Node are servers only
(`benchmarks/node/server.mjs`). Settings are equal, and each contender is used as its documentation
tells to; where a default is deliberately left as it is, the label says so. Queues of jobs are
contenders, too: what starts them is in `benchmarks.suite.queues`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import itertools
import json
import multiprocessing
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

NODE_FOLDER = Path(__file__).parent.parent / "node"
# Other queues have an environment of their own: they want other versions of what `offload` wants.
QUEUE_PYTHON = str(Path(__file__).parent.parent / "queues" / ".venv" / "bin" / "python")
# How many plain calls `run_in_threadpool` runs at once, unless told otherwise.
_THREADS = 40


class UnknownNameError(LookupError):
    """There is no contender or scenario of this name; the text has those that there are."""


class Call(Protocol):
    """Runs a function with these arguments, wherever the contender does, and returns its result."""

    async def __call__(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run it."""
        ...


class Open(Protocol):
    """Opens a contender with so many workers; the other options are for those that have them."""

    def __call__(
        self,
        workers: int,
        *,
        max_queued: int | None = None,
        max_queued_bytes: int | None = None,
        preload: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[Call]:
        """Open it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to run heavy work beside an event loop.

    Attributes:
        name: for commands and raw results.
        label: for readers.
        family: which plots it is in.
        packages: those whose versions make a difference.
        open: gives calls in this process; None: it is a server of another language, a
            queue, or programs.
        language: of what it runs.
        has_processes: whether it runs functions in processes of their own, that can be killed.
        is_bounded: whether its queue has a limit, past which it refuses.
        takes_files: whether a worker can be given an open file.
        is_default: whether it takes part unless others are asked for.
        only_in: the scenarios that it can take part in; none: all of them.
    """

    name: str
    label: str
    family: Literal["offload", "pool", "no pool", "node", "queue"]
    packages: tuple[str, ...] = ()
    open: Open | None = None
    language: Literal["python", "node"] = "python"
    has_processes: bool = True
    is_bounded: bool = False
    takes_files: bool = False
    is_default: bool = True
    only_in: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is `offload`, of whatever kind."""
        return self.family == "offload"

    def missing(self) -> str | None:
        """Return why it cannot take part on this machine; None if it can."""
        if self.language == "node":
            if shutil.which("node") is None:
                return "there is no `node` on this machine"
            if not (NODE_FOLDER / "node_modules" / "express").is_dir():
                return "its packages are not installed: run `npm ci` in benchmarks/node"
            return None
        absent = [name for name in self.packages if self._version(name) is None]
        if absent and self.family == "queue":
            return f"not installed: {', '.join(absent)}; see benchmarks/queues/__init__.py"
        if absent:
            return f"not installed: {', '.join(absent)}; install the group `bench`"
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of what it is made of."""
        if self.language == "node":
            return _node_versions()
        return {name: self._version(name) or "missing" for name in self.packages}

    def _version(self, package: str) -> str | None:
        return _queue_versions().get(package) if self.family == "queue" else version(package)


def version(package: str) -> str | None:
    """Return the installed version of a package of Python; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _node_versions() -> dict[str, str]:
    lock = json.loads((NODE_FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    wanted = lock["packages"][""]["dependencies"]
    return {"node": told.strip(), **wanted}


@functools.cache
def _queue_versions() -> dict[str, str]:
    """Return the versions of what is installed for queues; empty: there is no such environment."""
    if not Path(QUEUE_PYTHON).exists():
        return {}
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({each.name.lower(): each.version for each in m.distributions()}))"
    )
    told = subprocess.run([QUEUE_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(told.stdout)
    return versions


_numbers = itertools.count()


def _offload(**options: Any) -> Open:
    """Return how a pool of ours is opened, with what differs from the default."""

    @contextlib.asynccontextmanager
    async def open_pool(
        workers: int,
        *,
        max_queued: int | None = None,
        max_queued_bytes: int | None = None,
        preload: Sequence[str] = (),
    ) -> AsyncIterator[Call]:
        from offload import Pool, offload

        settings = dict(options)
        if settings.pop("is_executor", False):
            from concurrent.futures import ProcessPoolExecutor

            settings["executor"] = ProcessPoolExecutor
        pool = Pool(
            f"benchmark {next(_numbers)}",  # a name that nobody has
            max_workers=workers,
            max_queued=max_queued,
            max_queued_bytes=max_queued_bytes,
            preload=preload,
            **settings,
        )
        # As its users call it: each function is decorated once. `pool.run` finds it anew each time.
        decorated = functools.cache(offload(pool=pool))

        def call(function: Callable[..., Any], /, *args: Any) -> Any:
            return decorated(function)(*args)

        async with pool:
            yield call

    return open_pool


def _executor(start_method: str) -> Open:
    """Return how the standard library's pool is opened."""

    @contextlib.asynccontextmanager
    async def open_executor(
        workers: int, *, preload: Sequence[str] = (), **_: object
    ) -> AsyncIterator[Call]:
        from concurrent.futures import ProcessPoolExecutor

        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context(start_method)
        if preload:
            multiprocessing.set_forkserver_preload([*preload])
        executor = ProcessPoolExecutor(workers, mp_context=context)
        try:
            yield functools.partial(loop.run_in_executor, executor)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    return open_executor


@contextlib.asynccontextmanager
async def _inline(workers: int, **_: object) -> AsyncIterator[Call]:
    del workers

    async def call(function: Callable[..., Any], /, *args: Any) -> Any:
        return function(*args)

    yield call


@contextlib.asynccontextmanager
async def _threadpool(workers: int, **_: object) -> AsyncIterator[Call]:
    from starlette.concurrency import run_in_threadpool

    del workers
    yield run_in_threadpool


@contextlib.asynccontextmanager
async def _anyio(workers: int, **_: object) -> AsyncIterator[Call]:
    from anyio import to_process

    to_process.current_default_process_limiter().total_tokens = workers
    yield to_process.run_sync


@contextlib.asynccontextmanager
async def _pebble(workers: int, *, preload: Sequence[str] = (), **_: object) -> AsyncIterator[Call]:
    from pebble import ProcessPool

    if preload:
        multiprocessing.set_forkserver_preload([*preload])
    context: Any = multiprocessing.get_context("forkserver")
    pool = ProcessPool(max_workers=workers, context=context)

    async def call(function: Callable[..., Any], /, *args: Any) -> Any:
        return await asyncio.wrap_future(pool.schedule(function, args=args))

    try:
        yield call
    finally:
        pool.stop()
        await asyncio.to_thread(pool.join)


@contextlib.asynccontextmanager
async def _loky(workers: int, **_: object) -> AsyncIterator[Call]:
    from loky import get_reusable_executor

    loop = asyncio.get_running_loop()

    async def call(function: Callable[..., Any], /, *args: Any) -> Any:
        # Asked for anew at each call, as its documentation tells to: a broken one is replaced.
        executor = get_reusable_executor(max_workers=workers)
        return await loop.run_in_executor(executor, function, *args)

    try:
        yield call
    finally:
        await asyncio.to_thread(
            get_reusable_executor(max_workers=workers).shutdown, kill_workers=True
        )


@contextlib.asynccontextmanager
async def _aiomultiprocess(workers: int, **_: object) -> AsyncIterator[Call]:
    import aiomultiprocess

    from benchmarks.functions import awaited

    # Its default of 16 at once in a process is for I/O: it would put 16 computations into one.
    pool = aiomultiprocess.Pool(processes=workers, childconcurrency=1)

    async def call(function: Callable[..., Any], /, *args: Any) -> Any:
        return await pool.apply(awaited, (function, *args))

    try:
        yield call
    finally:
        pool.terminate()
        await pool.join()


@contextlib.asynccontextmanager
async def _prototype(workers: int, **_: object) -> AsyncIterator[Call]:
    from benchmarks.prototype import Prototype

    prototype = Prototype(workers)
    try:
        yield prototype.run
    finally:
        prototype.close()


def _queue(
    name: str, label: str, *packages: str, language: Literal["python", "node"] = "python"
) -> Contender:
    return Contender(
        name=name,
        label=label,
        family="queue",
        packages=packages,
        language=language,
        is_default=False,
    )


OURS = "offload-forkserver"
# The scenarios about programs, and not about calls in one of them.
WAYS: tuple[str, ...] = ("scheduled_work", "ways_to_run")
CONTENDERS: dict[str, Contender] = {
    each.name: each
    for each in (
        Contender(
            name=OURS,
            label="offload",
            family="offload",
            packages=("offload",),
            open=_offload(start_method="forkserver"),
            is_bounded=True,
            takes_files=True,
        ),
        Contender(
            name="offload-spawn",
            label="offload, spawn",
            family="offload",
            packages=("offload",),
            open=_offload(start_method="spawn"),
            is_bounded=True,
            takes_files=True,
        ),
        Contender(
            name="offload-executor",
            label="offload, executors",
            family="offload",
            packages=("offload",),
            open=_offload(is_executor=True),
            is_bounded=True,
        ),
        Contender(
            name="offload-low",
            label="offload, nice 19",
            family="offload",
            packages=("offload",),
            open=_offload(os_priority="low"),
            is_bounded=True,
            takes_files=True,
            is_default=False,
        ),
        Contender(
            name="offload-normal",
            label="offload, normal priority",
            family="offload",
            packages=("offload",),
            open=_offload(os_priority="normal"),
            is_bounded=True,
            takes_files=True,
            is_default=False,
        ),
        Contender(
            name="inline",
            label="inline",
            family="no pool",
            open=_inline,
            has_processes=False,
        ),
        Contender(
            name="run_in_threadpool",
            label=f"run_in_threadpool ({_THREADS} threads)",
            family="no pool",
            packages=("starlette",),
            open=_threadpool,
            has_processes=False,
        ),
        Contender(
            name="executor-fork",
            label="ProcessPoolExecutor, fork",
            family="pool",
            open=_executor("fork"),
        ),
        Contender(
            name="executor-forkserver",
            label="ProcessPoolExecutor, forkserver",
            family="pool",
            open=_executor("forkserver"),
        ),
        Contender(
            name="executor-spawn",
            label="ProcessPoolExecutor, spawn",
            family="pool",
            open=_executor("spawn"),
        ),
        Contender(
            name="anyio",
            label="anyio.to_process",
            family="pool",
            packages=("anyio",),
            open=_anyio,
        ),
        Contender(name="pebble", label="pebble", family="pool", packages=("pebble",), open=_pebble),
        Contender(name="loky", label="loky", family="pool", packages=("loky",), open=_loky),
        Contender(
            name="aiomultiprocess",
            label="aiomultiprocess",
            family="pool",
            packages=("aiomultiprocess",),
            open=_aiomultiprocess,
        ),
        Contender(
            name="express-inline",
            label="Express, inline",
            family="node",
            language="node",
            has_processes=False,
        ),
        Contender(
            name="express-worker-thread-per-request",
            label="Express, a thread per request",
            family="node",
            language="node",
            has_processes=False,
        ),
        Contender(
            name="express-piscina",
            label="Express, piscina",
            family="node",
            language="node",
            has_processes=False,
        ),
        Contender(
            name="express-workerpool",
            label="Express, workerpool",
            family="node",
            language="node",
            has_processes=False,
        ),
        Contender(
            name="offload-jobs",
            label="offload, jobs in a worker program",
            family="offload",
            packages=("offload",),
            is_default=False,
            only_in=WAYS,
        ),
        Contender(
            name="node-cron",
            label="node-cron, background task",
            family="node",
            language="node",
            is_default=False,
            only_in=WAYS,
        ),
        Contender(
            name="prototype",
            label="bare socket (the floor)",
            family="pool",
            open=_prototype,
            is_default=False,
        ),
        _queue("bullmq", "BullMQ on Node", language="node"),
        _queue("bullmq-sandbox", "BullMQ on Node, sandboxed", language="node"),
        _queue("celery", "Celery", "celery", "redis"),
        _queue("taskiq", "taskiq", "taskiq", "taskiq-redis", "redis"),
        _queue("procrastinate", "procrastinate", "procrastinate", "psycopg"),
        _queue("pgqueuer", "pgqueuer", "pgqueuer", "asyncpg"),
    )
}


def default_names(also: Sequence[str] = ()) -> list[str]:
    """Return the names of those that take part by default, and of these others."""
    return [each.name for each in CONTENDERS.values() if each.is_default or each.name in also]


def chosen(names: Sequence[str]) -> list[Contender]:
    """Return the contenders of these names.

    Raises:
        UnknownNameError: there is none of a name.
    """
    for name in names:
        if name not in CONTENDERS:
            raise UnknownNameError(
                f"there is no contender {name!r}; there are: {', '.join(CONTENDERS)}"
            )
    return [CONTENDERS[name] for name in names]

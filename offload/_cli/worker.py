"""`offload worker MODULE[:JOBS] …`: a worker program, until SIGTERM or Ctrl+C."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._cli import event_loop
from offload._cli.loading import ApplicationError, import_module, load
from offload._cli.program_log import set_up_logging
from offload._pool.hold import Hold
from offload.pool import Pool
from offload.roles import Role
from offload.roles._role import ENVIRONMENT, role_entered

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from offload.jobs import Jobs, WorkerProgram
    from offload.schedules import Scheduler

__all__ = ["add_arguments", "add_options", "positive", "run", "seconds", "work"]

_logger = logging.getLogger("offload.roles")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "SIGTERM or Ctrl+C: it claims no more jobs; those under way have --drain seconds to end, "
        "then they are handed back. A second one: they are handed back at once."
    )
    parser.add_argument(
        "modules",
        nargs="+",
        metavar="MODULE[:JOBS]",
        help="modules with the functions; the first may name its Jobs object, such as app:jobs",
    )
    parser.add_argument("--app-dir", metavar="FOLDER", help="where the modules are (default: here)")
    parser.add_argument(
        "--drain",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time for jobs under way (10)",
    )
    parser.add_argument("--burst", action="store_true", help="end when no job is left")
    parser.add_argument(
        "--scheduler",
        metavar="MODULE[:SCHEDULER]",
        help="also fire these schedules: both roles, worker and scheduler, in one program",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        metavar="LEVEL",
        help="least level of records to print (info)",
    )
    add_options(parser)


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,  # pyright: ignore[reportPrivateUsage] - it has no other name
) -> None:
    """Declare what is of a worker program, whichever command starts it."""
    parser.add_argument(
        "--queues",
        metavar="A,B",
        help='queues to serve (default: "default", and those in the code)',
    )
    parser.add_argument(
        "--concurrency",
        type=positive,
        metavar="N",
        help="attempts at once, of functions on the default pool (default: the CPUs)",
    )
    parser.add_argument(
        "--lease",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="if this program dies, others get its jobs after this time (10; at least 2)",
    )
    parser.add_argument(
        "--pool", metavar="NAME", help="run everything on this pool (default: each function's own)"
    )
    parser.add_argument("--name", help="name of this program in the history of jobs (HOST:PID)")
    parser.add_argument(
        "--health",
        metavar="[HOST:]PORT",
        help="answer GET /healthz, /readyz, /statistics and /metrics there (HOST: 127.0.0.1)",
    )
    parser.add_argument(
        "--health-file", metavar="FILE", help="touch this file every second while ready"
    )


def positive(text: str) -> int:
    """Return a number of things; for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def seconds(text: str) -> float:
    """Return a duration; for argparse."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the worker program until it is told to stop."""
    try:
        set_up_logging(arguments.log_level)
        role = Role.WORKER if arguments.scheduler is None else Role.WORKER | Role.SCHEDULER
        # For what is imported now, and for worker processes.
        os.environ[ENVIRONMENT] = str(role)
        sys.path.insert(0, os.path.abspath(arguments.app_dir or os.getcwd()))
        jobs = _jobs_of(arguments.modules)
        scheduler = _scheduler_of(arguments)
    except (ApplicationError, ValueError, ModuleNotFoundError) as error:
        print(f"offload worker: {error}", file=sys.stderr)
        return 2
    return work(jobs, arguments, command="offload worker", scheduler=scheduler)


def _scheduler_of(arguments: argparse.Namespace) -> Scheduler | None:
    if arguments.scheduler is None:
        return None
    if arguments.burst:
        raise ApplicationError("with --scheduler there is always something to come: no --burst")
    from offload._cli.code_base import find_scheduler

    return find_scheduler(arguments.scheduler)


def work(
    jobs: Jobs,
    arguments: argparse.Namespace,
    *,
    command: str,
    ready: Callable[[], None] | None = None,
    scheduler: Scheduler | None = None,
) -> int:
    """Run a worker program until SIGTERM or SIGINT.

    Args:
        jobs: what it runs.
        arguments: see `add_options`; and `drain`, perhaps `burst`.
        command: what errors are told of.
        ready: called when it has begun.
        scheduler: what fires in this program, too; None: nothing does.

    Returns:
        The exit status.
    """
    from offload.errors import OffloadError

    try:
        program = _program_of(jobs, arguments)
    except (ValueError, ModuleNotFoundError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    try:
        with role_entered(Role.WORKER if scheduler is None else Role.WORKER | Role.SCHEDULER):
            event_loop.run(_serve(jobs, program, arguments, ready, scheduler))
    except (OffloadError, ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    return 0


def _jobs_of(modules: list[str]) -> Jobs:
    from offload.jobs import Jobs, default_jobs

    found: list[Jobs] = []
    for each in modules:
        if ":" in each:
            value = load(each)
            if not isinstance(value, Jobs):
                raise ApplicationError(f"{each} is {value!r:.100}, not offload.jobs.Jobs")
            found.append(value)
        else:
            import_module(each)
    if len(found) > 1:
        raise ApplicationError("a worker program serves one Jobs object: start one for each")
    return found[0] if found else default_jobs()


def _program_of(jobs: Jobs, arguments: argparse.Namespace) -> WorkerProgram:
    from offload.jobs import WorkerProgram

    queues = None
    if arguments.queues is not None:
        queues = [name.strip() for name in arguments.queues.split(",") if name.strip()]
        if not queues:
            raise ValueError(f"--queues names no queue: {arguments.queues!r}")
    return WorkerProgram(
        jobs,
        queues=queues,
        concurrency=arguments.concurrency,
        lease=arguments.lease,
        drain=arguments.drain,
        pool=arguments.pool,
        burst=getattr(arguments, "burst", False),
        name=arguments.name,
    )


async def _metrics(headers: Mapping[str, str]) -> tuple[int, str, bytes]:
    """Answer Prometheus; about the pools of the worker program as well."""
    try:
        from offload.metrics._asgi import exposition
        from offload.metrics._client import REGISTRY
        from offload.metrics._collector import register
    except ModuleNotFoundError as error:
        return 501, "text/plain; charset=utf-8", f"{error}\n".encode()
    register(REGISTRY)
    kind, body = await exposition(REGISTRY, headers.get("accept", ""))
    return 200, kind, body


async def _serve(
    jobs: Jobs,
    program: WorkerProgram,
    arguments: argparse.Namespace,
    ready: Callable[[], None] | None,
    scheduler: Scheduler | None,
) -> None:
    from offload.jobs._worker.health import HealthFile, HealthServer

    firing = None if scheduler is None else _Firing(scheduler, program)

    def stop() -> None:
        program.stop()
        if firing is not None:
            firing.stop()

    _on_signals(stop)
    watchers: list[Any] = []
    if arguments.health is not None:
        watchers.append(HealthServer(program, arguments.health, {"/metrics": _metrics}))
    if arguments.health_file is not None:
        watchers.append(HealthFile(program, arguments.health_file))
    for watcher in watchers:
        await watcher.start()
    try:
        running = asyncio.create_task(program.run())
        # What it can run is settled in its first step; its engine may come later.
        await asyncio.sleep(0)
        if firing is not None and not running.done():
            firing.start()
        if ready is not None and not running.done():
            ready()
        await running
    finally:
        if firing is not None:
            await firing.aclose()
        for watcher in watchers:
            await watcher.aclose()
        await jobs.aclose()


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))


class _Firing:
    """The schedules of a worker program, from its start to its end.

    Args:
        scheduler: what has them.
        program: the worker; it ends where the scheduler cannot go on.
    """

    def __init__(self, scheduler: Scheduler, program: WorkerProgram) -> None:
        self._scheduler = scheduler
        self._program = program
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Begin to fire."""
        _logger.info("scheduler: schedules %d", len(self._scheduler))
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        if self._is_stopping:
            return
        # The worker closes its pools when its jobs have ended; what was fired may run on still.
        holds = [await Hold.take(pool) for pool in Pool.all()]
        try:
            await self._scheduler.run()
        except Exception:
            self._program.stop()
            raise
        finally:
            for hold in holds:
                await hold.release(partial(hold.of.aclose, drain=0.0))

    def stop(self) -> None:
        """Fire no more, and let what runs in memory end; the second time: stop that."""
        if self._is_stopping and self._task is not None:
            self._task.cancel()
        self._is_stopping = True
        self._scheduler.stop()

    async def aclose(self) -> None:
        """Wait for the end, which this brings about if nobody else has."""
        if not self._is_stopping:
            self.stop()
        if self._task is not None:
            # Cancelled by a second signal, if at all.
            with suppress(asyncio.CancelledError):
                await self._task

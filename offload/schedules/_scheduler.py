"""`Scheduler`: what has schedules, and fires them while it runs."""

from __future__ import annotations

import math
import os
import sys
import weakref
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import anyio

from offload.jobs._engines import ENVIRONMENT
from offload.jobs._enqueuer import this_program
from offload.jobs._jobs import default_jobs
from offload.schedules._errors import ScheduleError, ScheduleNotFoundError
from offload.schedules._events import Teller
from offload.schedules._execute import execute
from offload.schedules._keeper import Keeper
from offload.schedules._kept import Kept
from offload.schedules._last_run import last_run
from offload.schedules._records import Phase, Snapshot
from offload.schedules._running import RunningScheduler
from offload.schedules._stored import schedule_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from offload._values.histogram import HistogramSnapshot
    from offload.jobs import Jobs
    from offload.schedules._decisions import ScheduleState
    from offload.schedules._events import EventKind, Events, ScheduleEvent
    from offload.schedules._fires import ScheduleRun
    from offload.schedules._schedule import Schedule

__all__ = ["Scheduler", "default_scheduler"]

# What an engine has to answer before a scheduler goes on without it; it is waited for nevertheless.
_ENGINE_SECONDS: Final = 2.0


class Scheduler:
    """Fires schedules while it runs: `async with scheduler:`, or `await scheduler.run()`.

    It may be run on asyncio and on trio, and again after it has ended. Everything but the making
    of it and `add` is for the event loop on which it runs.

    Args:
        jobs: the engine by which any number of processes that run the same schedules fire each
            once, and which keeps how far they are, across restarts. It is opened when it is
            needed, and left open. None: that of OFFLOAD_JOBS, if this is set; if it is not, each
            process fires by itself, and what is missed while none runs is not known. A schedule
            that has `jobs` of its own is kept there.
        drain: seconds that running functions are given at the end; then they are stopped. Jobs go
            on.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range.
    """

    def __init__(self, jobs: Jobs | None = None, *, drain: float = 10.0) -> None:
        if isinstance(drain, bool) or not isinstance(drain, (int, float)):
            raise TypeError(f"drain must be a number of seconds, not {drain!r}")
        if not 0 <= drain < math.inf:
            raise ValueError(f"drain must be 0 or more seconds and finite, not {drain!r}")
        self._jobs: Final = jobs
        self._drain: Final = drain
        self._schedules: Final[dict[str, Schedule]] = {}
        self._stored: Final[set[str]] = set()
        self._teller: Final = Teller()
        self._rest: dict[str, Snapshot] = {}
        self._clock: Callable[[], datetime] = _utc_now
        self._running: RunningScheduler | None = None
        self._context: AbstractAsyncContextManager[None] | None = None
        self._keepers: dict[Jobs | None, Keeper] = {}
        self._stopped: anyio.Event | None = None
        _all.add(self)

    def __repr__(self) -> str:
        """Return how many schedules it has, and whether it runs."""
        state = "running" if self.is_running else "not running"
        return f"<Scheduler {state}: {len(self)} schedules>"

    # Schedules

    def add(self, schedule: Schedule) -> Schedule:
        """Have a schedule fire while this runs: from now on, or from when it begins to run.

        Returns:
            The schedule.

        Raises:
            ScheduleError: there is another one of that name, or it is in another scheduler.
        """
        found = self._schedules.get(schedule.name)
        if found is schedule:
            return schedule
        if found is not None:
            raise ScheduleError(
                f"there is a schedule {schedule.name!r} already; give one of them another name="
            )
        schedule.added_to(self)
        self._schedules[schedule.name] = schedule
        if self._running is not None:
            self._keeper_of(schedule).add(schedule)
        return schedule

    async def remove(self, name: str) -> None:
        """Stop a schedule and remove it; an engine forgets it.

        Raises:
            ScheduleNotFoundError: there is none of that name.
            JobsUnavailableError: the engine cannot be reached; it is removed here nevertheless.
        """
        schedule = self[name]
        kept = self.kept_of(schedule)
        self._drop(name)
        self._stored.discard(name)
        if kept is not None:
            await kept.forget(name)

    def _drop(self, name: str) -> None:
        schedule = self._schedules.pop(name)
        self._rest.pop(name, None)
        for keeper in self._keepers.values():
            keeper.discard(name)
        if self._running is not None:
            self._running.remove(name)
        schedule.added_to(None)

    def __getitem__(self, name: str) -> Schedule:
        """Return a schedule by its name.

        Raises:
            ScheduleNotFoundError: there is none.
        """
        found = self._schedules.get(name)
        if found is None:
            raise ScheduleNotFoundError(f"there is no schedule {name!r} here", schedule=name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._schedules

    def __iter__(self) -> Iterator[Schedule]:
        return iter(list(self._schedules.values()))

    def __len__(self) -> int:
        return len(self._schedules)

    # Life

    @property
    def is_running(self) -> bool:
        """Whether it fires."""
        return self._running is not None

    async def run(self) -> None:
        """Fire until `stop` is called.

        Raises:
            ScheduleError: it runs already.

        Cancellation: stops what runs in memory at once; jobs go on.
        """
        async with self:
            assert self._stopped is not None
            await self._stopped.wait()

    def stop(self) -> None:
        """Have `run` end."""
        if self._stopped is not None:
            self._stopped.set()

    async def __aenter__(self) -> Self:
        """Begin to fire. An engine that cannot be reached holds up only what needs it."""
        if self._running is not None:
            raise ScheduleError(f"{self!r} runs already, and cannot run twice at once")
        self._stopped = anyio.Event()
        self._running = running = RunningScheduler(self._teller, self._clock)
        self._context = running.running(self._drain)
        await self._context.__aenter__()
        try:
            for schedule in self:
                self._keeper_of(schedule).add(schedule)
            jobs = self.jobs
            if jobs is not None:
                self._keeper(jobs)
            await self._taken_up()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def _taken_up(self) -> None:
        """Wait until the schedules have been taken up; for an engine that does not answer, shortly.

        What needs no engine fires from the first moment on.
        """
        for keeper in self._keepers.values():
            with anyio.move_on_after(None if keeper.kept is None else _ENGINE_SECONDS):
                await keeper.loaded.wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Fire no more, drain, and stop what still runs in memory."""
        assert self._context is not None
        running = self._running
        assert running is not None
        try:
            await self._context.__aexit__(kind, error, traceback)
        finally:
            agenda = running.agenda
            self._rest |= {name: agenda[name].snapshot() for name in agenda}
            self._running = None
            self._keepers = {}
            for name in self._stored:
                self._drop(name)
            self._stored.clear()

    @property
    def jobs(self) -> Jobs | None:
        """Whose engine it shares with other processes; None: with none."""
        if self._jobs is not None:
            return self._jobs
        return default_jobs() if os.environ.get(ENVIRONMENT) else None

    def _jobs_of(self, schedule: Schedule) -> Jobs | None:
        return self.jobs if schedule.jobs is None else schedule.jobs

    def _keeper_of(self, schedule: Schedule) -> Keeper:
        return self._keeper(self._jobs_of(schedule))

    def _keeper(self, jobs: Jobs | None) -> Keeper:
        keeper = self._keepers.get(jobs)
        if keeper is None:
            assert self._running is not None
            kept = None if jobs is None else _new_kept(jobs)
            keeper = self._keepers[jobs] = Keeper(self._running, kept, self._rest, self)
            keeper.start()
        return keeper

    def kept_of(self, schedule: Schedule) -> Kept | None:
        """Return what an engine keeps of a schedule; None: no engine does. For its levers."""
        jobs = self._jobs_of(schedule)
        keeper = self._keepers.get(jobs)
        if keeper is not None:
            return keeper.kept
        return None if jobs is None else _new_kept(jobs)

    def add_stored(self, name: str, declaration: Any, jobs: Jobs) -> Schedule | None:
        """Have a schedule that was made at run time; None: it cannot be fired here."""
        schedule = None if name in self else schedule_of(name, declaration, jobs)
        if schedule is not None:
            schedule.added_to(self)
            self._schedules[name] = schedule
            self._stored.add(name)
        return schedule

    def drop_stored(self, name: str) -> None:
        """Have it no longer; what its jobs do is theirs."""
        if name in self._stored:
            self._stored.discard(name)
            self._drop(name)

    # Levers and views, for schedules

    def now(self) -> datetime:
        """Return the instant that it is, in UTC."""
        return self._clock()

    def state_of(self, name: str) -> ScheduleState | None:
        """Return what the agenda knows of a schedule; None: it does not run here."""
        running = self._running
        return running.agenda[name] if running is not None and name in running.agenda else None

    async def pause(self, name: str) -> None:
        """Have a schedule fire no more; see `Schedule.pause`."""
        await self._set_paused(name, is_paused=True)

    async def resume(self, name: str) -> None:
        """Have it fire again; see `Schedule.resume`."""
        await self._set_paused(name, is_paused=False)

    async def _set_paused(self, name: str, *, is_paused: bool) -> None:
        schedule = self[name]
        if self.state_of(name) is not None:
            assert self._running is not None
            self._running.pause(name, is_paused=is_paused)
        else:
            rest = self._rest.get(name, Snapshot(handled_until=self.now()))
            if rest.phase is not Phase.FINISHED:
                phase = Phase.PAUSED if is_paused else Phase.ACTIVE
                self._rest[name] = Snapshot(
                    handled_until=rest.handled_until, executions=rest.executions, phase=phase
                )
        kept = self.kept_of(schedule)
        if kept is not None:
            await kept.pause(name, is_paused=is_paused)

    def stop_runs(self, name: str) -> None:
        """Stop what a schedule runs, its jobs too."""
        if self._running is not None:
            self._running.stop_runs(name)

    async def execute(self, schedule: Schedule) -> Any:
        """Run a schedule now; see `Schedule.execute`."""
        return await execute(schedule, self._running)

    async def last_run(self, schedule: Schedule) -> ScheduleRun | None:
        """Return the last run of a schedule; see `Schedule.last_run`."""
        runs = None if self._running is None else self._running.seen_runs(schedule.name)
        return await last_run(schedule, None if runs is None else runs.last, self.kept_of(schedule))

    def lateness_of(self, name: str) -> HistogramSnapshot:
        """Return by how many seconds fires of a schedule began late."""
        from offload._values.histogram import Histogram

        runs = None if self._running is None else self._running.seen_runs(name)
        return (Histogram() if runs is None else runs.late).snapshot()

    def counts_of(self, name: str) -> dict[EventKind, int]:
        """Return how many events of each kind a schedule had."""
        runs = None if self._running is None else self._running.seen_runs(name)
        return {} if runs is None else dict(runs.counts)

    # Events

    def observe(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]:
        """Call `callback` at each event, on the event loop. What it raises is logged.

        Returns:
            Takes it back.
        """
        return self._teller.add(callback)

    def events(self, schedule: str | None = None) -> Events:
        """Return the events from now on: `async with scheduler.events() as events: async for …`.

        Args:
            schedule: name of the only schedule of interest; None: all.
        """
        return self._teller.events(schedule)

    @classmethod
    def all(cls) -> list[Scheduler]:
        """Return all schedulers of this process."""
        return list(_all)


_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@cache
def default_scheduler() -> Scheduler:
    """Return the scheduler of this process, which has what `@schedule` was put on."""
    return Scheduler()


def _new_kept(jobs: Jobs) -> Kept:
    # Unique: two schedulers of one process are two.
    return Kept(jobs, f"{this_program()}:{uuid4().hex[:12]}")


def _utc_now() -> datetime:
    return datetime.now(UTC)

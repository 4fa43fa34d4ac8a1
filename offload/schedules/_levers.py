"""What the levers of schedules, and keepers, do in a scheduler that may be running or not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from offload._values.histogram import Histogram
from offload.jobs._enqueuer import this_program
from offload.schedules._declaration import schedule_of
from offload.schedules._errors import ScheduleNotFoundError
from offload.schedules._events import Teller
from offload.schedules._execute import execute
from offload.schedules._history import Recent, history
from offload.schedules._last_run import last_run
from offload.schedules._loader import Loader
from offload.schedules._records import Phase, Snapshot
from offload.schedules._store import ScheduleStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._values.histogram import HistogramSnapshot
    from offload.jobs import Jobs
    from offload.schedules._decisions import ScheduleState
    from offload.schedules._events import EventKind, Events, ScheduleEvent
    from offload.schedules._fires import ScheduleRun
    from offload.schedules._running import RunningScheduler
    from offload.schedules._runs import Runs
    from offload.schedules._schedule import Schedule

__all__ = ["Levers"]


class Levers:
    """The schedules of a scheduler, and what can be done with them: the `Home` of each.

    Args:
        jobs: returns the jobs that the scheduler shares with other processes, if there are any.

    Attributes:
        schedules: all of them, by name.
        teller: of events.
        recent: the last runs that ended here.
        clock: returns the instant that it is.
        running: what there is of the scheduler while it runs.
        loaders: by engine, while it runs.
    """

    def __init__(self, jobs: Callable[[], Jobs | None]) -> None:
        self.schedules: Final[dict[str, Schedule]] = {}
        self.teller: Final = Teller()
        self.recent: Final = Recent()
        self.teller.add(self.recent.note)
        self.clock: Callable[[], datetime] = _utc_now
        self.running: RunningScheduler | None = None
        self.loaders: dict[Jobs | None, Loader] = {}
        self._jobs: Final = jobs
        # Those that were made at run time; they are had while the scheduler runs.
        self._stored: Final[set[str]] = set()
        # What schedules were when the scheduler ran last.
        self._rest: dict[str, Snapshot] = {}

    def find(self, name: str) -> Schedule:
        """Return a schedule by its name.

        Raises:
            ScheduleNotFoundError: there is none.
        """
        found = self.schedules.get(name)
        if found is None:
            raise ScheduleNotFoundError(f"there is no schedule {name!r} here", schedule=name)
        return found

    # Engines

    def _jobs_of(self, schedule: Schedule) -> Jobs | None:
        return self._jobs() if schedule.jobs is None else schedule.jobs

    def store_of(self, schedule: Schedule) -> ScheduleStore | None:
        """Return what an engine keeps of a schedule; None: no engine does."""
        jobs = self._jobs_of(schedule)
        loader = self.loaders.get(jobs)
        if loader is not None:
            return loader.store
        return None if jobs is None else _store_in(jobs)

    def loader(self, jobs: Jobs | None) -> Loader:
        """Return the loader of an engine, while the scheduler runs."""
        loader = self.loaders.get(jobs)
        if loader is None:
            assert self.running is not None
            store = None if jobs is None else _store_in(jobs)
            loader = self.loaders[jobs] = Loader(self.running, store, self._rest, self)
            loader.start()
        return loader

    def take_up(self, schedule: Schedule) -> None:
        """Have a schedule fire, while the scheduler runs."""
        self.loader(self._jobs_of(schedule)).add(schedule)

    # Schedules that come and go

    def ended(self) -> None:
        """Note that the scheduler does not run any more."""
        assert self.running is not None
        agenda = self.running.agenda
        self._rest |= {name: agenda[name].snapshot() for name in agenda}
        self.running = None
        self.loaders = {}
        for name in self._stored:
            self._drop(name)
        self._stored.clear()

    async def remove(self, name: str) -> None:
        """Stop a schedule and forget it; see `Scheduler.remove`."""
        store = self.store_of(self.find(name))
        self._drop(name)
        self._stored.discard(name)
        if store is not None:
            await store.forget(name)

    def _drop(self, name: str, *, stops_runs: bool = True) -> None:
        schedule = self.schedules.pop(name)
        self._rest.pop(name, None)
        for loader in self.loaders.values():
            loader.discard(name)
        if self.running is not None:
            self.running.remove(name, stops_runs=stops_runs)
        schedule.added_to(None)

    def add_stored(self, name: str, declaration: Any, jobs: Jobs) -> Schedule | None:
        """Have a schedule that was made at run time; None: it cannot be fired here."""
        schedule = None if name in self.schedules else schedule_of(name, declaration, jobs)
        if schedule is not None:
            schedule.added_to(self)
            self.schedules[name] = schedule
            self._stored.add(name)
        return schedule

    def drop_stored(self, name: str) -> None:
        """Have it no longer; what its jobs do is theirs."""
        if name in self._stored:
            self._stored.discard(name)
            self._drop(name, stops_runs=False)

    # For each schedule

    def now(self) -> datetime:
        """Return the instant that it is, in UTC."""
        return self.clock()

    def state_of(self, name: str) -> ScheduleState | None:
        """Return what the agenda knows of a schedule; None: it does not run here."""
        running = self.running
        return running.agenda[name] if running is not None and name in running.agenda else None

    async def pause(self, name: str) -> None:
        """Have a schedule fire no more; see `Schedule.pause`."""
        await self._set_paused(name, is_paused=True)

    async def resume(self, name: str) -> None:
        """Have it fire again; see `Schedule.resume`."""
        await self._set_paused(name, is_paused=False)

    async def _set_paused(self, name: str, *, is_paused: bool) -> None:
        schedule = self.find(name)
        if self.running is not None and name in self.running.agenda:
            self.running.pause(name, is_paused=is_paused)
        else:
            rest = self._rest.get(name, Snapshot(handled_until=self.now()))
            if rest.phase is not Phase.FINISHED:
                phase = Phase.PAUSED if is_paused else Phase.ACTIVE
                self._rest[name] = Snapshot(
                    handled_until=rest.handled_until, executions=rest.executions, phase=phase
                )
        store = self.store_of(schedule)
        if store is not None:
            await store.pause(name, is_paused=is_paused)

    def stop_runs(self, name: str) -> None:
        """Stop what a schedule runs, its jobs too."""
        if self.running is not None:
            self.running.stop_runs(name)

    async def execute(self, schedule: Schedule) -> Any:
        """Run a schedule now; see `Schedule.execute`."""
        return await execute(schedule, self.running)

    async def last_run(self, schedule: Schedule) -> ScheduleRun | None:
        """Return the last run of a schedule; see `Schedule.last_run`."""
        runs = self._runs_of(schedule.name)
        return await last_run(
            schedule, None if runs is None else runs.last, self.store_of(schedule)
        )

    async def history(self, schedule: Schedule, count: int) -> list[ScheduleRun]:
        """Return the last runs of a schedule; see `Schedule.history`."""
        return await history(schedule, self.recent, count)

    def lateness_of(self, name: str) -> HistogramSnapshot:
        """Return by how many seconds fires of a schedule began late."""
        runs = self._runs_of(name)
        return (Histogram() if runs is None else runs.late).snapshot()

    def counts_of(self, name: str) -> dict[EventKind, int]:
        """Return how many events of each kind a schedule had."""
        runs = self._runs_of(name)
        return {} if runs is None else dict(runs.counts)

    def seen_runs(self) -> list[tuple[str, Runs]]:
        """Return the runs of all schedules that have had some, with their names; on any thread."""
        return [] if self.running is None else self.running.all_runs()

    def _runs_of(self, name: str) -> Runs | None:
        return None if self.running is None else self.running.seen_runs(name)

    def observe(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]:
        """Call `callback` at each event; return what takes that back."""
        return self.teller.add(callback)

    def events(self, schedule: str | None = None) -> Events:
        """Return the events from now on, of one schedule or of all."""
        return self.teller.events(schedule)


def _store_in(jobs: Jobs) -> ScheduleStore:
    # Unique: two schedulers of one process are two.
    return ScheduleStore(jobs, f"{this_program()}:{uuid4().hex[:12]}")


def _utc_now() -> datetime:
    return datetime.now(UTC)

"""Brings schedules from declarations, and from what an engine keeps of them, into a scheduler."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
import anyio.lowlevel

from offload._workers.logs import log_safely
from offload.jobs import JobsUnavailableError
from offload.jobs._job import Job
from offload.schedules._records import Fire, FireReason, Overlap, Phase, Snapshot, fire_id
from offload.schedules._store import LEASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import datetime

    from offload.jobs import Jobs
    from offload.schedules._running import RunningScheduler
    from offload.schedules._schedule import Schedule
    from offload.schedules._store import ScheduleStore, SpecNote, StoredProgress

__all__ = ["Loader"]

_logger: Final = logging.getLogger("offload.schedules")
T = TypeVar("T")

# How long the event loop may be held at a time, in seconds.
_TURN_SECONDS: Final = 0.0005
# Schedules that an engine is asked about at a time.
_BATCH: Final = 500
# How soon what another process has changed is seen, in seconds.
_WATCH_SECONDS: Final = 2.0
_EXTEND_SECONDS: Final = LEASE_SECONDS / 4
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_TICK: Final = timedelta(microseconds=1)


class Home(Protocol):
    """Who has the schedules."""

    def add_stored(self, name: str, declaration: Any, jobs: Jobs) -> Schedule | None:
        """Have a schedule that was made at run time; None: it is not for this process."""
        ...

    def drop_stored(self, name: str) -> None:
        """Have it no longer."""
        ...


class Loader:
    """The schedules of a running scheduler that one engine keeps, or none does.

    Args:
        running: the scheduler.
        store: what the engine keeps; None: there is no engine.
        rest: what schedules were when the scheduler ran last in this process.
        home: who has schedules that were made at run time.

    Attributes:
        loaded: set when what there was at first has been taken up.
    """

    def __init__(
        self,
        running: RunningScheduler,
        store: ScheduleStore | None,
        rest: dict[str, Snapshot],
        home: Home,
    ) -> None:
        self.store: Final = store
        self._running: Final = running
        self._rest: Final = rest
        self._home: Final = home
        self._new: list[tuple[Schedule, datetime]] = []
        self._ring = anyio.Event()
        self.loaded: Final = anyio.Event()
        self._specs: dict[str, SpecNote] = {}
        # Not None, which a new engine has: so that it is looked at once.
        self._version: str | None = ""
        # Those that were made at run time, as they were declared.
        self._declared: dict[str, Any] = {}

    def add(self, schedule: Schedule) -> None:
        """Have a schedule fire from now on, once it is known what the engine keeps of it."""
        self._new.append((schedule, self._running.now()))
        self._ring.set()

    def discard(self, name: str) -> None:
        """Drop a schedule that has not been loaded yet."""
        self._new = [each for each in self._new if each[0].name != name]

    def start(self) -> None:
        """Begin."""
        self._running.follow(self._load)
        if self.store is not None:
            self._running.keep(self._extend)

    # Loading

    async def _load(self) -> None:
        store = self.store
        if store is not None:
            await self._patiently(self._look)
            self._running.follow(self._watch)
        while True:
            while self._new:
                batch, self._new = self._new[:_BATCH], self._new[_BATCH:]
                if store is None:
                    await self._add_all(batch, {})
                else:
                    await self._patiently(partial(self._add_stored, batch))
            self.loaded.set()
            self._ring = anyio.Event()
            await self._ring.wait()

    async def _patiently(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Try until the engine answers."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await attempt()
            except JobsUnavailableError as error:
                if pause == _FIRST_PAUSE:
                    log_safely(_logger, logging.WARNING, "schedules wait: %s", error)
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _add_stored(self, batch: Sequence[tuple[Schedule, datetime]]) -> None:
        store = self.store
        assert store is not None
        states = await store.states([schedule.name for schedule, _ in batch])
        times = {schedule.name: repr(schedule.fire_times) for schedule, _ in batch}
        # Other fire times than before count from now on, as those of a new schedule do.
        news = {
            name: text
            for name, text in times.items()
            if name not in states or states[name].times != text
        }
        if news:
            await store.begin(news, min(since for _, since in batch))
        running = await self._running_jobs(batch, states)
        known = {name: state for name, state in states.items() if name not in news}
        await self._add_all(batch, known, running)

    async def _running_jobs(
        self, batch: Sequence[tuple[Schedule, datetime]], states: dict[str, StoredProgress]
    ) -> dict[str, tuple[Fire, Job[Any]]]:
        """Return the jobs of fires that have not ended yet."""
        asked: dict[str, Fire] = {}
        for schedule, _ in batch:
            state = states.get(schedule.name)
            if (
                state is not None
                and schedule.jobs is not None
                and schedule.policy.overlap is not Overlap.ALLOW
            ):
                name = fire_id(schedule.name, state.until)
                reason = FireReason.SCHEDULED
                asked[name] = Fire(schedule.name, name, state.until, state.until, reason)
        if not asked:
            return {}
        assert self.store is not None
        engine = await self.store.jobs.engine()
        records = await engine.get(list(asked))
        return {
            fire.schedule: (fire, Job(self.store.jobs, fire.id))
            for fire, record in zip(asked.values(), records, strict=True)
            if record is not None and not record.state.is_over
        }

    async def _add_all(
        self,
        batch: Sequence[tuple[Schedule, datetime]],
        states: dict[str, StoredProgress],
        running: dict[str, tuple[Fire, Job[Any]]] | None = None,
    ) -> None:
        turn = time.perf_counter()
        for schedule, since in batch:
            snapshot = self._snapshot(schedule, since, states.get(schedule.name))
            fire, job = (running or {}).get(schedule.name, (None, None))
            if fire is not None:
                snapshot = replace(snapshot, running=(fire,))
            if schedule.is_added:
                self._running.add(schedule, self.store, snapshot)
                if fire is not None:
                    self._running.adopt(fire, job)
            if time.perf_counter() - turn > _TURN_SECONDS:
                await anyio.lowlevel.checkpoint()
                turn = time.perf_counter()

    def _snapshot(
        self, schedule: Schedule, since: datetime, state: StoredProgress | None
    ) -> Snapshot:
        rest = self._rest.pop(schedule.name, None)
        until, executions = since, 0
        if schedule.policy.start == since:
            # A start that is now is to be seen, too.
            until -= _TICK
        phase = Phase.ACTIVE
        if rest is not None:
            executions, phase = rest.executions, rest.phase
        if state is not None:
            # Not further than now: a clock that was ahead may have noted it.
            until = min(state.until, since)
            executions = max(executions, state.executions)
        spec = self._specs.get(schedule.name)
        if self.store is not None:
            phase = Phase.PAUSED if spec is not None and spec.is_paused else Phase.ACTIVE
        return Snapshot(handled_until=until, executions=executions, phase=phase)

    # Watching what others change

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(_WATCH_SECONDS)
            await self._patiently(self._look)

    async def _look(self) -> None:
        """See which schedules others have paused, made, changed or removed."""
        store = self.store
        assert store is not None
        version = await store.version()
        if version == self._version:
            return
        before, self._specs = self._specs, await store.specs()
        self._version = version
        for name in before.keys() | self._specs.keys():
            self._follow_spec(store, name, self._specs.get(name))

    def _follow_spec(self, store: ScheduleStore, name: str, spec: SpecNote | None) -> None:
        declaration = None if spec is None else spec.declaration
        if declaration != self._declared.get(name):
            if name in self._declared:
                del self._declared[name]
                self._home.drop_stored(name)
            if declaration is not None:
                schedule = self._home.add_stored(name, declaration, store.jobs)
                if schedule is not None:
                    self._declared[name] = declaration
                    self.add(schedule)
            return
        if name in self._running.agenda:
            is_paused = spec is not None and spec.is_paused
            phase = self._running.agenda[name].phase
            if phase is not Phase.FINISHED and is_paused != (phase is Phase.PAUSED):
                self._running.pause(name, is_paused=is_paused)

    # Holding what runs here

    async def _extend(self) -> None:
        store = self.store
        assert store is not None
        while True:
            await anyio.sleep(_EXTEND_SECONDS)
            for name in await self._patiently(store.extend):
                log_safely(
                    _logger,
                    logging.ERROR,
                    "schedule %s runs elsewhere since the engine was away: stopping its run here",
                    name,
                )
                self._running.stop_runs(name)

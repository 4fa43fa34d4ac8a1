"""`Scheduler`: what has schedules, and fires them while it runs."""

from __future__ import annotations

import math
import os
import sys
import weakref
from functools import cache
from typing import TYPE_CHECKING, Final

import anyio

from offload.jobs._engines import ENVIRONMENT
from offload.jobs._jobs import default_jobs
from offload.schedules._errors import ScheduleError
from offload.schedules._levers import Levers
from offload.schedules._running import RunningScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from offload.jobs import Jobs
    from offload.schedules._events import Events, ScheduleEvent
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
        # What schedules ask of their scheduler.
        self.levers: Final = Levers(lambda: self.jobs)
        self._context: AbstractAsyncContextManager[None] | None = None
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
        schedules = self.levers.schedules
        found = schedules.get(schedule.name)
        if found is schedule:
            return schedule
        if found is not None:
            raise ScheduleError(
                f"there is a schedule {schedule.name!r} already; give one of them another name="
            )
        schedule.added_to(self.levers)
        schedules[schedule.name] = schedule
        if self.is_running:
            self.levers.take_up(schedule)
        return schedule

    async def remove(self, name: str) -> None:
        """Stop a schedule and remove it; an engine forgets it.

        Raises:
            ScheduleNotFoundError: there is none of that name.
            JobsUnavailableError: the engine cannot be reached; it is removed here nevertheless.
        """
        await self.levers.remove(name)

    def __getitem__(self, name: str) -> Schedule:
        """Return a schedule by its name.

        Raises:
            ScheduleNotFoundError: there is none.
        """
        return self.levers.find(name)

    def __contains__(self, name: object) -> bool:
        return name in self.levers.schedules

    def __iter__(self) -> Iterator[Schedule]:
        return iter(list(self.levers.schedules.values()))

    def __bool__(self) -> bool:
        """Return True: one without schedules is a scheduler, too."""
        return True

    def __len__(self) -> int:
        return len(self.levers.schedules)

    # Life

    @property
    def is_running(self) -> bool:
        """Whether it fires."""
        return self.levers.running is not None

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
        levers = self.levers
        if levers.running is not None:
            raise ScheduleError(f"{self!r} runs already, and cannot run twice at once")
        self._stopped = anyio.Event()
        levers.running = RunningScheduler(levers.teller, levers.clock)
        self._context = levers.running.running(self._drain)
        await self._context.__aenter__()
        try:
            for schedule in self:
                levers.take_up(schedule)
            if self.jobs is not None:
                # Which may keep schedules that were made at run time.
                levers.loader(self.jobs)
            await self._taken_up()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def _taken_up(self) -> None:
        """Wait until the schedules have been taken up; for an engine that does not answer, shortly.

        What needs no engine fires from the first moment on.
        """
        for loader in list(self.levers.loaders.values()):
            with anyio.move_on_after(None if loader.store is None else _ENGINE_SECONDS):
                await loader.loaded.wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Fire no more, drain, and stop what still runs in memory."""
        assert self._context is not None
        try:
            await self._context.__aexit__(kind, error, traceback)
        finally:
            self.levers.ended()

    @property
    def jobs(self) -> Jobs | None:
        """Whose engine it shares with other processes; None: with none."""
        if self._jobs is not None:
            return self._jobs
        return default_jobs() if os.environ.get(ENVIRONMENT) else None

    # Events

    def observe(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]:
        """Call `callback` at each event, on the event loop. What it raises is logged.

        Returns:
            A function that removes the observer.
        """
        return self.levers.observe(callback)

    def events(self, schedule: str | None = None) -> Events:
        """Return the events from now on: `async with scheduler.events() as events: async for …`.

        Args:
            schedule: name of the only schedule of interest; None: all.
        """
        return self.levers.events(schedule)

    @classmethod
    def all(cls) -> list[Scheduler]:
        """Return all schedulers of this process."""
        return list(_all)


_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@cache
def default_scheduler() -> Scheduler:
    """Return the scheduler of this process, which has what `@schedule` was put on."""
    return Scheduler()

"""A schedule, and its levers."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from offload.schedules._call import ScheduledCall, name_of
from offload.schedules._errors import ScheduleError
from offload.schedules._execute import enqueue, execute
from offload.schedules._options import checked_name, fire_times_of, policy_of
from offload.schedules._records import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo
    from typing import Unpack

    from offload._values.histogram import HistogramSnapshot
    from offload.jobs import Job, Jobs
    from offload.schedules._decisions import ScheduleState
    from offload.schedules._events import EventKind, Events, ScheduleEvent
    from offload.schedules._fire_times import FireTimes
    from offload.schedules._fires import ScheduleRun
    from offload.schedules._options import PolicyDict
    from offload.schedules._records import Policy

__all__ = ["Schedule", "ScheduleStatus"]


class ScheduleStatus(StrEnum):
    """What a schedule is doing in this process."""

    NEW = "new"
    """Its scheduler does not run, or has not loaded it yet."""
    IDLE = "idle"
    """It waits for its next fire time."""
    RUNNING = "running"
    """It runs here, or its job has not ended."""
    PAUSED = "paused"
    """It does not fire until it is resumed."""
    FINISHED = "finished"
    """It will not fire again."""


class Home(Protocol):
    """The scheduler of a schedule, as its levers need it."""

    def now(self) -> datetime: ...
    def state_of(self, name: str) -> ScheduleState | None: ...
    def stop_runs(self, name: str) -> None: ...
    def lateness_of(self, name: str) -> HistogramSnapshot: ...
    def counts_of(self, name: str) -> dict[EventKind, int]: ...
    def observe(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]: ...
    def events(self, schedule: str | None = None) -> Events: ...
    async def last_run(self, schedule: Schedule) -> ScheduleRun | None: ...
    async def history(self, schedule: Schedule, count: int) -> list[ScheduleRun]: ...
    async def execute(self, schedule: Schedule) -> Any: ...
    async def pause(self, name: str) -> None: ...
    async def resume(self, name: str) -> None: ...
    async def remove(self, name: str) -> None: ...


class Schedule:
    """When a function runs by itself. It fires once its scheduler runs: `scheduler.add(schedule)`.

    The levers are for the event loop on which the scheduler runs.

    Args:
        fire_times: a cron expression, or `Cron`, `Every` or `At`.
        function: what `@offload` was put on, or an `async def` function, which then runs on the
            event loop; with `jobs`, what `@offload` or `@job_options` was put on.
        timezone: IANA name of the zone of the expression.
        args: positional arguments of each call.
        kwargs: keyword arguments of each call.
        name: unique in the scheduler, and among all that share an engine; 1 to 150 printable
            characters. None: the function's, as `module.qualname`.
        jobs: each fire is a job there, which a worker program runs and which survives crashes;
            any number of schedulers enqueue it once. None: it runs on the pool of this process.
        timeout: seconds that it may run; None: as `@offload` or `@job_options` says.
        start_timeout: seconds that it may wait for a worker of the pool; None: as `@offload`
            says. Not with `jobs`.
        metadata: whatever you want to find here again.
        **policy: see `PolicyDict`.

    Raises:
        ScheduleError: something is wrong, and what.
        FunctionError: with `jobs`: the function cannot be run as a job, and why.
        TypeError: unknown option.
    """

    __slots__ = (
        "_home",
        "call",
        "fire_times",
        "metadata",
        "name",
        "policy",
    )

    def __init__(
        self,
        fire_times: FireTimes | str,
        function: Callable[..., Any],
        *,
        timezone: str | tzinfo = "UTC",
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        jobs: Jobs | None = None,
        timeout: float | None = None,
        start_timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        **policy: Unpack[PolicyDict],
    ) -> None:
        for option, seconds in (("timeout", timeout), ("start_timeout", start_timeout)):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ScheduleError(f"{option}={seconds!r}: must be seconds, above 0 and finite")
        self.name: str = checked_name(name or name_of(function))
        self.fire_times: FireTimes = fire_times_of(fire_times, timezone)
        self.policy: Policy = policy_of(policy)
        self.call: ScheduledCall = ScheduledCall(
            function,
            args,
            kwargs or {},
            timeout=timeout,
            start_timeout=start_timeout,
            jobs=jobs,
        )
        self.metadata: Mapping[str, Any] = dict(metadata or {})
        self._home: Home | None = None

    @classmethod
    def of_parts(
        cls,
        name: str,
        fire_times: FireTimes,
        policy: Policy,
        call: ScheduledCall,
        metadata: Mapping[str, Any],
    ) -> Schedule:
        """Return a schedule of what is checked already; of those that were made at run time."""
        made = cls.__new__(cls)
        made.name, made.fire_times, made.policy = name, fire_times, policy
        made.call, made.metadata, made._home = call, metadata, None  # noqa: SLF001 - our own
        return made

    def __repr__(self) -> str:
        """Return name, fire times and status."""
        return f"<Schedule {self.name!r} {self.status.value}: {self.fire_times!r}>"

    @property
    def function(self) -> Callable[..., Any]:
        """What it calls."""
        return self.call.function

    @property
    def jobs(self) -> Jobs | None:
        """Where its fires are jobs; None: they run in memory."""
        return self.call.jobs

    @property
    def is_added(self) -> bool:
        """Whether it is in a scheduler."""
        return self._home is not None

    def local(self, instant: datetime) -> datetime:
        """Return an instant in the schedule's zone."""
        return instant.astimezone(self.fire_times.timezone)

    # What it does

    @property
    def status(self) -> ScheduleStatus:
        """What it is doing in this process."""
        state = None if self._home is None else self._home.state_of(self.name)
        if state is None:
            return ScheduleStatus.NEW
        if state.running:
            return ScheduleStatus.RUNNING
        return {
            Phase.ACTIVE: ScheduleStatus.IDLE,
            Phase.PAUSED: ScheduleStatus.PAUSED,
            Phase.FINISHED: ScheduleStatus.FINISHED,
        }[state.phase]

    def next_run(self) -> datetime | None:
        """Return the next instant at which it fires, in its zone, without any random delay.

        None: it fires no more, or is paused.
        """
        found = self.next_runs(1)
        return found[0] if found else None

    def next_runs(self, count: int) -> list[datetime]:
        """Return the next `count` of these, fewer if there are no more."""
        state = None if self._home is None else self._home.state_of(self.name)
        if state is not None and state.phase is not Phase.ACTIVE:
            return []
        policy = self.policy
        if policy.max_executions is not None:
            done = 0 if state is None else state.executions
            count = min(count, policy.max_executions - done)
        after = datetime.now(UTC) if self._home is None else self._home.now()
        if state is not None:
            after = max(after, state.handled_until)
        elif policy.start is not None and policy.start > after:
            # A start that is a fire time is one that fires.
            after = self.fire_times.previous_before(policy.start) or after
        found = self.fire_times.next_n(after, count)
        return [self.local(each) for each in found if policy.end is None or each <= policy.end]

    async def last_run(self) -> ScheduleRun | None:
        """Return its last run that has ended, or whose job was enqueued; None: there was none.

        Where an engine keeps the schedule, that is the last run of any process.

        Raises:
            JobsUnavailableError: the engine cannot be reached.
        """
        return None if self._home is None else await self._home.last_run(self)

    async def history(self, count: int = 20) -> list[ScheduleRun]:
        """Return its last runs, the latest first, without their results.

        With jobs: of all processes, as long as the engine keeps the jobs. In memory: those that
        ended in this process, of which a scheduler remembers 1000 for all its schedules, and the
        last one of any process that an engine keeps.

        Args:
            count: how many at most, from 1 to 1000.

        Raises:
            ScheduleError: it has no scheduler.
            ValueError: `count` is out of range.
            JobsUnavailableError: the engine cannot be reached.
        """
        return await self._added().history(self, count)

    def lateness(self) -> HistogramSnapshot:
        """Return by how many seconds fires began late in this process."""
        return self._added().lateness_of(self.name)

    def counts(self) -> dict[EventKind, int]:
        """Return how many events of each kind there were in this process."""
        return self._added().counts_of(self.name)

    # Levers

    async def execute(self) -> Any:
        """Run it now and return its result; its fire times stay as they are.

        Its overlap policy holds. Where the scheduler does not run, it just runs.

        Raises:
            NotFiredError: an earlier run has not ended, or it was stopped before it began.
            JobsUnavailableError: the engine cannot be reached.
            Exception: as the function, its pool or its job do.

        Cancellation: stops the run.
        """
        return await (execute(self) if self._home is None else self._home.execute(self))

    async def enqueue(self) -> Job[Any]:
        """Enqueue a run of it now, of a schedule with jobs, and do not wait for its end.

        Raises:
            ScheduleError: its fires are no jobs.
            OffloadError: as `Jobs.enqueue` does.
        """
        if self.jobs is None:
            raise ScheduleError(f"fires of {self.name!r} are no jobs; execute() runs it here")
        return await enqueue(self)

    async def pause(self) -> None:
        """Have it fire no more; what runs goes on. What would have fired meanwhile never will.

        Where an engine keeps the schedule, it pauses in every process, in others within seconds.

        Raises:
            ScheduleError: it has no scheduler.
            JobsUnavailableError: the engine cannot be reached; it is paused here nevertheless.
        """
        await self._added().pause(self.name)

    async def resume(self) -> None:
        """End a pause: it fires again, from now on. Raises as `pause` does."""
        await self._added().resume(self.name)

    async def stop(self) -> None:
        """Pause it, and stop what it runs, its jobs too. Raises as `pause` does."""
        home = self._added()
        home.stop_runs(self.name)
        await home.pause(self.name)

    async def start(self) -> None:
        """Undo `stop`: the same as `resume`."""
        await self.resume()

    async def destroy(self) -> None:
        """Stop it and remove it from its scheduler; an engine forgets it.

        Raises:
            ScheduleError: it has no scheduler.
            JobsUnavailableError: the engine cannot be reached; it is removed here nevertheless.
        """
        await self._added().remove(self.name)

    # Events

    def observe(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]:
        """Call `callback` at each event of this schedule, on the event loop.

        Returns:
            A function that removes the observer.

        Raises:
            ScheduleError: it has no scheduler.
        """
        name = self.name

        def tell(event: ScheduleEvent) -> None:
            if event.schedule == name:
                callback(event)

        return self._added().observe(tell)

    def events(self) -> Events:
        """Return its events from now on: `async with schedule.events() as events: async for …`."""
        return self._added().events(self.name)

    def added_to(self, scheduler: Home | None) -> None:
        """Note whose it is; for schedulers.

        Raises:
            ScheduleError: it is another one's.
        """
        if scheduler is not None and self._home not in (None, scheduler):
            raise ScheduleError(
                f"schedule {self.name!r} is in another scheduler; make one for each scheduler"
            )
        self._home = scheduler

    def _added(self) -> Home:
        if self._home is None:
            raise ScheduleError(f"schedule {self.name!r} is in no scheduler: add it to one first")
        return self._home

"""Schedules that are made at run time: kept by the engine, fired by every scheduler that has it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from offload._workers.logs import log_safely
from offload.jobs._call_options import resolve
from offload.jobs._codec import Signature
from offload.jobs._enqueuer import this_program
from offload.jobs._functions import known, options_of, reference_of
from offload.jobs._job import Job
from offload.jobs._values import NewJob
from offload.schedules._call import context_parameter
from offload.schedules._context import FireContext
from offload.schedules._errors import ScheduleError, ScheduleNotFoundError
from offload.schedules._fire_times import At, Cron, Every
from offload.schedules._options import checked_name, fire_times_of, policy_of
from offload.schedules._records import Coalesce, FireReason, Overlap, Policy
from offload.schedules._schedule import Schedule
from offload.schedules._store import KEEP_SECONDS, ScheduleStore, SpecNote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo
    from typing import Unpack

    from offload.jobs import Jobs
    from offload.schedules._fire_times import FireTimes
    from offload.schedules._options import PolicyDict

__all__ = ["StoredSchedule", "StoredSchedules", "schedule_of", "schedule_of_stored"]

_logger: Final = logging.getLogger("offload.schedules")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule that was made at run time, as the engine keeps it.

    Attributes:
        name: its name.
        fire_times: when it fires.
        function: what it calls, as `module:qualname`.
        arguments: of each call, as JSON text.
        policy: how it deals with lateness, overlap and limits.
        timeout: seconds that a run may take; None: as the function's options say.
        queue: name of the queue of its jobs.
        metadata: as given.
        is_paused: whether it is paused.
    """

    name: str
    fire_times: FireTimes
    function: str
    arguments: str
    policy: Policy
    timeout: float | None
    queue: str
    metadata: Mapping[str, Any]
    is_paused: bool


class StoredSchedules:
    """Schedules that are made, changed, paused and removed at run time, in an engine.

    Each scheduler that has these jobs fires them, as jobs: it need not have the functions, and sees
    within some seconds what has changed. Worker programs run them.

    Args:
        jobs: the engine.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs: Final = jobs
        self._store: Final = ScheduleStore(jobs, this_program())

    async def put(
        self,
        name: str,
        fire_times: FireTimes | str,
        function: Callable[..., Any],
        *,
        timezone: str | tzinfo = "UTC",
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - of the runs, not of this
        metadata: Mapping[str, Any] | None = None,
        **policy: Unpack[PolicyDict],
    ) -> StoredSchedule:
        """Make a schedule, or change all of it but whether it is paused; from now on.

        Args:
            name: unique among all schedules that share the engine.
            fire_times: a cron expression, or `Cron`, `Every` or `At`.
            function: what `@offload` or `@job_options` was put on.
            timezone: IANA name of the zone of the expression.
            args: positional arguments of each call; checked now, as by `Jobs.enqueue`.
            kwargs: keyword arguments of each call.
            timeout: seconds that a run may take; None: as the function's options say.
            metadata: what has JSON, and you want to find here again.
            **policy: see `PolicyDict`.

        Raises:
            ScheduleError: something is wrong, and what.
            FunctionError: the function cannot be run as a job, and why.
            JobArgumentError: an argument does not fit or has no JSON.
            TypeError: unknown option, or metadata that has no JSON.
            JobsUnavailableError: the engine cannot be reached.
        """
        declaration: dict[str, Any] = {
            "fire_times": _words_of(fire_times_of(fire_times, timezone)),
            "function": reference_of(function),
            "policy": _policy_words(policy_of(policy)),
            "timeout": timeout,
            "metadata": dict(metadata or {}),
            "queue": resolve({"queue": self._jobs.default_queue}, options_of(function)).queue,
        }
        declaration |= _arguments_of(function, args, dict(kwargs or {}))
        # As it will be read: lists for tuples.
        declaration = json.loads(json.dumps(declaration))
        checked_name(name)
        while True:
            old = await self._store.spec(name)
            new = SpecNote(old is not None and old.is_paused, declaration)
            if old == new or await self._store.change_spec(name, old, new):
                return _declaration(name, new)

    async def list(self) -> list[StoredSchedule]:
        """Return all of them, by name.

        Raises:
            JobsUnavailableError: the engine cannot be reached.
        """
        specs = await self._store.specs()
        return [
            _declaration(name, spec)
            for name, spec in sorted(specs.items())
            if spec.declaration is not None
        ]

    async def get(self, name: str) -> StoredSchedule:
        """Return one of them.

        Raises:
            ScheduleNotFoundError: there is none of that name.
            JobsUnavailableError: the engine cannot be reached.
        """
        return _declaration(name, await self._spec(name))

    async def pause(self, name: str) -> None:
        """Have it fire no more, until it is resumed. Raises as `get` does."""
        await self._spec(name)
        await self._store.pause(name, is_paused=True)

    async def resume(self, name: str) -> None:
        """Have it fire again, from now on. Raises as `get` does."""
        await self._spec(name)
        await self._store.pause(name, is_paused=False)

    async def remove(self, name: str) -> None:
        """Forget it; what runs goes on. Raises as `get` does."""
        await self._spec(name)
        await self._store.forget(name)

    async def _spec(self, name: str) -> SpecNote:
        spec = await self._store.spec(name)
        if spec is None or spec.declaration is None:
            raise ScheduleNotFoundError(
                f"there is no schedule {name!r} that was made at run time", schedule=name
            )
        return spec


class StoredCall:
    """What a schedule that was made at run time enqueues; as `ScheduledCall`.

    Args:
        declaration: as the engine keeps it.
        jobs: where.
    """

    __slots__ = ("_declaration", "function", "jobs", "timeout")

    def __init__(self, declaration: Mapping[str, Any], jobs: Jobs) -> None:
        self._declaration: Final = declaration
        self.jobs: Final = jobs
        self.function: Final = str(declaration["function"])
        self.timeout: Final = declaration["timeout"]

    async def run(self, context: FireContext) -> Any:
        """Refuse: it is always a job."""
        raise NotImplementedError

    async def enqueue(self, context: FireContext) -> Job[Any]:
        """Enqueue the job of a fire; once, however often this is called."""
        function = known(self.function)
        options = resolve({} if function is None else options_of(function)).options
        keep = options.keep
        if keep is not None:
            keep = max(keep, KEEP_SECONDS)
        timeout = options.timeout if self.timeout is None else self.timeout
        new = NewJob(
            id=context.id,
            function=self.function,
            arguments=self._arguments(context),
            queue=self._declaration["queue"],
            options=replace(options, keep=keep, timeout=timeout),
            enqueued_by=this_program(),
        )
        engine = await self.jobs.engine()
        (job_id,) = await engine.put([new])
        return Job(self.jobs, job_id, function)

    def _arguments(self, context: FireContext) -> str:
        text: str = self._declaration["arguments"]
        parameter = self._declaration["context"]
        if parameter is None:
            return text
        # The codec's form of a dataclass.
        fields = {
            "schedule": context.schedule,
            "id": context.id,
            "fire_time": context.fire_time.isoformat(),
            "reason": context.reason.value,
        }
        return json.dumps(json.loads(text) | {parameter: fields})


def schedule_of(name: str, declaration: Mapping[str, Any], jobs: Jobs) -> Schedule | None:
    """Return a schedule of what an engine keeps; None: it cannot be read here."""
    try:
        stored = _declaration(name, SpecNote(declaration=declaration))
        call: Any = StoredCall(declaration, jobs)
    except (ScheduleError, KeyError, TypeError, ValueError):
        # A zone that this machine does not know; or a later version has made it.
        log_safely(_logger, logging.ERROR, "schedule %s cannot be fired here", name, exc_info=True)
        return None
    return Schedule.of_parts(name, stored.fire_times, stored.policy, call, stored.metadata)


async def schedule_of_stored(name: str, jobs: Jobs) -> Schedule | None:
    """Return a schedule that was made at run time; None: there is none, or it cannot be read.

    Raises:
        JobsUnavailableError: the engine cannot be reached.
    """
    spec = await ScheduleStore(jobs, this_program()).spec(name)
    if spec is None or spec.declaration is None:
        return None
    return schedule_of(name, spec.declaration, jobs)


def _declaration(name: str, spec: SpecNote) -> StoredSchedule:
    declaration = spec.declaration
    assert declaration is not None
    return StoredSchedule(
        name=name,
        fire_times=_fire_times_of_words(declaration["fire_times"]),
        function=declaration["function"],
        arguments=declaration["arguments"],
        policy=_policy_of_words(declaration["policy"]),
        timeout=declaration["timeout"],
        queue=declaration["queue"],
        metadata=declaration["metadata"],
        is_paused=spec.is_paused,
    )


def _arguments_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    parameter = context_parameter(function)
    if parameter is not None and parameter not in kwargs:
        # Each fire has its own; this one has it checked that there is room for it.
        kwargs = kwargs | {parameter: FireContext("", "", _EPOCH, FireReason.SCHEDULED)}
    else:
        parameter = None
    text = Signature.of(function).encode_arguments(args, kwargs)
    return {"arguments": text, "context": parameter}


def _words_of(fire_times: FireTimes) -> dict[str, Any]:
    match fire_times:
        case Cron():
            return {"cron": fire_times.expression, "timezone": _zone_words(fire_times.timezone)}
        case Every():
            anchor = fire_times.previous_before(_EPOCH + fire_times.interval)
            assert anchor is not None
            return {
                "every": fire_times.interval / timedelta(microseconds=1),
                "anchor": anchor.isoformat(),
                "timezone": _zone_words(fire_times.timezone),
            }
        case At():
            instant = fire_times.next_after(datetime.min.replace(tzinfo=UTC))
            assert instant is not None
            return {"at": instant.isoformat(), "timezone": _zone_words(fire_times.timezone)}
        case _:
            pass
    raise ScheduleError(
        f"{fire_times!r:.100} cannot be kept: a schedule that is made at run time fires by a cron "
        "expression, Cron, Every or At"
    )


def _fire_times_of_words(words: Mapping[str, Any]) -> FireTimes:
    zone = _zone_of(words["timezone"])
    if "cron" in words:
        return Cron(words["cron"], zone)
    if "every" in words:
        anchor = datetime.fromisoformat(words["anchor"]).astimezone(zone)
        return Every(timedelta(microseconds=words["every"]), anchor=anchor)
    return At(datetime.fromisoformat(words["at"]).astimezone(zone))


def _zone_words(zone: tzinfo) -> str | float:
    if isinstance(zone, ZoneInfo) and isinstance(zone.key, str):
        return zone.key
    offset = zone.utcoffset(None)
    if offset is None:
        raise ScheduleError(f"time zone {zone!r} cannot be kept: give the IANA name of one")
    return offset.total_seconds()


def _zone_of(words: str | float) -> tzinfo:
    if isinstance(words, str):
        return ZoneInfo(words)
    return UTC if words == 0 else timezone(timedelta(seconds=words))


def _policy_words(policy: Policy) -> dict[str, Any]:
    return {
        "misfire_grace": policy.misfire_grace,
        "coalesce": policy.coalesce.value,
        "max_catch_up": policy.max_catch_up,
        "overlap": policy.overlap.value,
        "max_executions": policy.max_executions,
        "start": None if policy.start is None else policy.start.isoformat(),
        "end": None if policy.end is None else policy.end.isoformat(),
        "random_delay": policy.random_delay,
    }


def _policy_of_words(words: Mapping[str, Any]) -> Policy:
    given = dict(words)
    for name in ("start", "end"):
        if given[name] is not None:
            given[name] = datetime.fromisoformat(given[name])
    given["coalesce"] = Coalesce(given["coalesce"])
    given["overlap"] = Overlap(given["overlap"])
    return Policy(**given)

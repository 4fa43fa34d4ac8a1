"""`@schedule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from offload._child.context import in_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo
    from typing import Unpack

    from offload.jobs import Jobs
    from offload.schedules._fire_times import FireTimes
    from offload.schedules._options import PolicyDict
    from offload.schedules._scheduler import Scheduler

__all__ = ["schedule"]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")


def schedule(
    fire_times: FireTimes | str,
    *,
    timezone: str | tzinfo = "UTC",
    scheduler: Scheduler | None = None,
    name: str | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    jobs: Jobs | None = None,
    timeout: float | None = None,
    start_timeout: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    **policy: Unpack[PolicyDict],
) -> Callable[[FunctionT], FunctionT]:
    """Have a function run by itself, while its scheduler runs. The function stays as it is.

    Stands above `@offload`, and may stand there several times, with a `name` each.

    Args:
        fire_times: a cron expression, or `Cron`, `Every` or `At`.
        timezone: IANA name of the zone of the expression.
        scheduler: whose it is; None: the one of `default_scheduler()`.
        name: of the schedule; None: the function's, as `module.qualname`.
        args: positional arguments of each call.
        kwargs: keyword arguments of each call.
        jobs: each fire is a job there, which a worker program runs; None: it runs on the pool of
            the process that has the scheduler.
        timeout: seconds that it may run; None: as `@offload` or `@job_options` says.
        start_timeout: seconds that it may wait for a worker of the pool; not with `jobs`.
        metadata: whatever you want to find at the schedule again.
        **policy: see `PolicyDict`: `misfire_grace`, `coalesce`, `overlap`, `max_executions`, …

    Raises:
        ScheduleError: something is wrong, and what; there is a schedule of that name already.
        FunctionError: with `jobs`: the function cannot be run as a job, and why.
        TypeError: unknown option.
    """

    def decorate(function: FunctionT) -> FunctionT:
        # Worker processes import the module for the function alone: nothing fires there.
        if in_worker():
            return function
        from offload.schedules._schedule import Schedule
        from offload.schedules._scheduler import default_scheduler

        (scheduler or default_scheduler()).add(
            Schedule(
                fire_times,
                function,
                timezone=timezone,
                args=args,
                kwargs=kwargs,
                name=name,
                jobs=jobs,
                timeout=timeout,
                start_timeout=start_timeout,
                metadata=metadata,
                **policy,
            )
        )
        return function

    return decorate

"""The doctor's child process looks at jobs: the stores that an application names, its functions."""

from __future__ import annotations

import gc
import os
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from offload._cli.report import JobFunctionReport, JobsReport

if TYPE_CHECKING:
    from offload.jobs import Jobs

__all__ = ["inspect_jobs"]

_ANSWER_SECONDS: Final = 15.0
# The latest ones, whose arguments and results are measured.
_SAMPLED: Final = 200


def inspect_jobs() -> tuple[tuple[JobsReport, ...], tuple[JobFunctionReport, ...]]:
    """Return what there is of jobs; nothing where the application has not imported them."""
    if "offload.jobs._jobs" not in sys.modules:
        return (), ()
    import anyio

    from offload.jobs import Jobs
    from offload.jobs._functions import discover

    names = frozenset(discover())
    reports: dict[str, JobsReport] = {}
    for jobs in Jobs.all():
        location = jobs.statistics().location
        if location not in reports:
            reports[location] = anyio.run(_look, jobs, location, names)
    return tuple(report for _, report in sorted(reports.items())), tuple(_functions())


# --- stores ---


async def _look(jobs: Jobs, location: str, names: frozenset[str]) -> JobsReport:
    import anyio

    from offload.errors import OffloadError

    if _is_new(location):
        return JobsReport(location=location, is_new=True)
    try:
        with anyio.fail_after(_ANSWER_SECONDS):
            async with jobs:
                return await _look_into(jobs, location, names)
    except (OffloadError, TimeoutError) as error:
        problem = str(error) or f"it did not answer within {_ANSWER_SECONDS:g} s"
        return JobsReport(location=location, problem=problem)


def _is_new(location: str) -> bool:
    """Return whether it is a file that is made when it is first used: the doctor makes none."""
    if not location.startswith("sqlite:"):
        return False
    from offload.jobs._sqlite.location import parse_url

    return not os.path.exists(parse_url(location).path)


async def _look_into(jobs: Jobs, location: str, names: frozenset[str]) -> JobsReport:
    health = await jobs.health()
    queued: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for each in await jobs.counts():
        if each.state in ("waiting", "delayed"):
            queued[each.queue] = queued.get(each.queue, 0) + each.count
            if each.function not in names:
                unknown[each.function] = unknown.get(each.function, 0) + each.count
    latest = (await jobs.find(limit=_SAMPLED)).jobs
    sizes = [
        (len(text.encode(errors="replace")), job.function)
        for job in latest
        for text in (job.arguments, job.result or "")
    ]
    largest_bytes, largest_of = max(sizes, default=(0, ""))
    return JobsReport(
        location=location,
        engine=health.engine,
        version=health.version,
        round_trip=health.round_trip,
        problems=health.problems,
        clock_ahead=health.clock_ahead,
        queued=queued,
        max_queued=jobs.max_queued,
        unknown=unknown,
        largest_bytes=largest_bytes,
        largest_of=largest_of,
        sampled=len(latest),
        max_payload_bytes=jobs.max_payload_bytes,
    )


# --- functions ---


def _functions() -> list[JobFunctionReport]:
    """Return what is decorated to be a job: by `@job_options`, or with jobs of its own."""
    found: dict[str, JobFunctionReport] = {}
    for each in gc.get_objects():
        # By its class first: a proxy that is asked for an attribute may do anything.
        is_job = (isinstance(each, FunctionType) and _is_plain_job(each)) or (
            getattr(type(each), "__offload__", False) and _has_jobs(each)
        )
        if is_job:
            report = _function(each)
            found.setdefault(report.name, report)
    return [report for _, report in sorted(found.items())]


def _is_plain_job(function: FunctionType) -> bool:
    from offload.jobs._functions import OPTIONS

    return OPTIONS in function.__dict__


def _has_jobs(function: Any) -> bool:
    definition = getattr(function, "_definition", None)
    return getattr(definition, "jobs", None) is not None


def _function(function: Any) -> JobFunctionReport:
    from offload.errors import FunctionError, OffloadError
    from offload.jobs._codec import Signature
    from offload.jobs._functions import decorated, known, plain, reference_of

    raw = plain(function)
    name = f"{raw.__module__}:{raw.__qualname__}"
    try:
        reference = reference_of(function)
        inner = decorated(function)
        if known(reference) is None:
            module, _, qualname = reference.partition(":")
            problem = f"there is no {qualname} in {module} that is this function"
            return JobFunctionReport(name=reference, problem=problem)
        Signature.of(inner)
    except (FunctionError, OffloadError, TypeError, ValueError) as error:
        return JobFunctionReport(name=name, problem=str(error))
    return JobFunctionReport(name=reference)

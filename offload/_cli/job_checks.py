"""What the doctor thinks of jobs: readings in, findings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from offload._cli.findings import Finding, Level, count, duration, found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload._cli.report import JobFunctionReport, JobsReport, Report

__all__ = ["check_jobs"]

_JOBS: Final = "Jobs"
# Instants of jobs are shown and compared to the second.
_MOST_CLOCK_SECONDS: Final = 1.0
_SLOW_SECONDS: Final = 0.05
# Of a limit: what comes nearer is told before a call is refused.
_NEAR: Final = 0.5
_NEARLY_FULL: Final = 0.8
_MOST_NAMES: Final = 5


def check_jobs(report: Report) -> Iterator[Finding]:
    """Say how the stores of jobs do, and whether worker programs can run what is enqueued."""
    for store in report.jobs:
        yield from _store(store)
    yield from _functions(report.job_functions)


def _store(store: JobsReport) -> Iterator[Finding]:
    if store.is_new:
        yield found(
            Level.OK, _JOBS, "store", f"{store.location}: a file that is made when first used"
        )
        return
    if store.problem:
        yield found(
            Level.FAIL,
            _JOBS,
            "store",
            f"{store.location} cannot be used: {store.problem}",
            "enqueuing would raise JobsUnavailableError, and worker programs would wait",
        )
        return
    is_slow = store.round_trip > _SLOW_SECONDS
    yield Finding(
        level=Level.WARN if is_slow else Level.OK,
        section=_JOBS,
        check="store",
        text=f"{store.location}: {store.engine} {store.version}, answers in "
        f"{duration(store.round_trip)}",
        advice="each enqueuing waits so long at least: have the store nearer" if is_slow else "",
        facts={"location": store.location, "round_trip": store.round_trip},
    )
    for problem in store.problems:
        yield found(Level.WARN, _JOBS, "settings", f"{store.location}: {problem}")
    yield from _clock(store)
    yield from _queues(store)
    yield from _payloads(store)


def _clock(store: JobsReport) -> Iterator[Finding]:
    ahead = store.clock_ahead
    # The answer itself was under way for a part of the round trip.
    if ahead is None or abs(ahead) - store.round_trip < _MOST_CLOCK_SECONDS:
        return
    side = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        level=Level.WARN,
        section=_JOBS,
        check="clock",
        text=f"{store.location}: its clock is {abs(ahead):.1f} s {side} that of this machine",
        advice="delays, deadlines and ages are wrong by as much: synchronise both (NTP)",
        facts={"clock_ahead": ahead},
    )


def _queues(store: JobsReport) -> Iterator[Finding]:
    for queue, queued in sorted(store.queued.items()):
        if store.max_queued is not None and queued >= _NEARLY_FULL * store.max_queued:
            yield Finding(
                level=Level.WARN,
                section=_JOBS,
                check="queues",
                text=f"{store.location}: {queued:,} jobs wait in queue {queue!r}, of "
                f"{store.max_queued:,} that may",
                advice="past that, enqueue() raises JobQueueFullError: start more worker programs, "
                "or see whether one runs at all",
                facts={"queue": queue, "queued": queued, "max_queued": store.max_queued},
            )
    if store.unknown:
        names = sorted(store.unknown, key=lambda name: -store.unknown[name])
        jobs = count(sum(store.unknown.values()), "job")
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        yield Finding(
            level=Level.WARN,
            section=_JOBS,
            check="unknown",
            text=f"{store.location}: {jobs} in the queues, of functions that this application "
            f"does not import: {', '.join(names[:_MOST_NAMES])}{more}",
            advice="a worker program of this code leaves them waiting: name their modules as well, "
            "or cancel them if the functions are gone for good",
            facts={"functions": store.unknown},
        )


def _payloads(store: JobsReport) -> Iterator[Finding]:
    limit = store.max_payload_bytes
    if limit is None or store.largest_bytes < _NEAR * limit:
        return
    yield Finding(
        level=Level.WARN,
        section=_JOBS,
        check="payloads",
        text=f"{store.location}: of the latest {count(store.sampled, 'job')} one of "
        f"{store.largest_of} has {store.largest_bytes / 1024:,.0f} KiB of arguments or result, of "
        f"{limit / 1024:,.0f} KiB that it may have",
        advice="past that it is refused: keep large data elsewhere, and enqueue where they are; or "
        "Jobs(max_payload_bytes=…)",
        facts={"largest_bytes": store.largest_bytes, "max_payload_bytes": limit},
    )


def _functions(functions: tuple[JobFunctionReport, ...]) -> Iterator[Finding]:
    good = [each.name for each in functions if not each.problem]
    for each in functions:
        if each.problem:
            yield found(
                Level.FAIL,
                _JOBS,
                "functions",
                f"{each.name} cannot be a job: {each.problem}",
            )
    if good:
        yield Finding(
            level=Level.OK,
            section=_JOBS,
            check="functions",
            text=f"worker programs of this code find {count(len(good), 'function')} with jobs: "
            f"{', '.join(good)}",
            facts={"functions": good},
        )

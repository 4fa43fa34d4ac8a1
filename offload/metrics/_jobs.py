"""Jobs: what there is in the stores, what this process enqueues, and what its programs run."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import anyio

from offload.metrics._client import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from offload.metrics._families import LONG_BOUNDS, Families, Kind, breathe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload.jobs import Count, Jobs, WorkerProgram
    from offload.metrics._client import Metric

__all__ = ["collect", "describe", "look"]

# A store that does not answer shall not cost the process its other metrics: Prometheus gives up
# after ten seconds.
_LOOK_SECONDS = 3.0
# Several who scrape at once, and one who does so too often, ask the store once.
_FRESH_SECONDS = 1.0
# What was seen longer ago is not of now: it is not told.
_STALE_SECONDS = 10.0

_STORE = ("store",)
_FUNCTION = ("store", "queue", "function")
_FAMILIES = {
    "offload_jobs": Kind(
        GaugeMetricFamily,
        "Jobs in the store by state; every process that is asked says the same.",
        ("store", "queue", "function", "state"),
    ),
    "offload_jobs_queue_paused": Kind(
        GaugeMetricFamily, "1 for a queue that is paused.", ("store", "queue")
    ),
    "offload_jobs_store_up": Kind(
        GaugeMetricFamily, "1 if the store of jobs has answered, 0 if not.", _STORE
    ),
    "offload_jobs_enqueued": Kind(
        CounterMetricFamily,
        "Jobs that this process has enqueued, by outcome.",
        (*_FUNCTION, "outcome"),
    ),
    "offload_jobs_enqueue_seconds": Kind(
        HistogramMetricFamily, "Seconds that the store took to keep jobs.", _STORE
    ),
    "offload_job_attempts": Kind(
        CounterMetricFamily,
        "Attempts of jobs that have ended in this worker program, by outcome.",
        (*_FUNCTION, "outcome"),
    ),
    "offload_job_wait_seconds": Kind(
        HistogramMetricFamily,
        "Seconds from the enqueuing of a job to its first claim, its delay included.",
        _FUNCTION,
        LONG_BOUNDS,
    ),
    "offload_job_run_seconds": Kind(
        HistogramMetricFamily, "Seconds that attempts of jobs ran.", _FUNCTION, LONG_BOUNDS
    ),
    "offload_jobs_swept": Kind(
        CounterMetricFamily,
        "Jobs found with a lease that ran out, or past their deadline.",
        _STORE,
    ),
    "offload_worker_program_ready": Kind(
        GaugeMetricFamily, "1 if this worker program claims jobs, and the store answers.", _STORE
    ),
    "offload_worker_program_slots": Kind(
        GaugeMetricFamily, "Attempts that this worker program can run at once.", _STORE
    ),
    "offload_worker_program_active": Kind(
        GaugeMetricFamily, "Attempts that this worker program has under way.", _STORE
    ),
    "offload_worker_program_claimed": Kind(
        CounterMetricFamily, "Jobs that this worker program has claimed.", _STORE
    ),
    "offload_worker_program_fenced": Kind(
        CounterMetricFamily, "Reports that were refused since the lease was lost.", _STORE
    ),
    "offload_worker_program_outages": Kind(
        CounterMetricFamily, "Times that the store could not be reached.", _STORE
    ),
}


@dataclass(frozen=True, slots=True)
class _Look:
    """What a store said last."""

    at: float
    is_up: bool
    counts: tuple[Count, ...] = ()
    paused: frozenset[str] = frozenset()


_looks: WeakKeyDictionary[Jobs, _Look] = WeakKeyDictionary()
_changed = threading.Lock()


async def look() -> None:
    """Ask the stores of all open `Jobs` of this process how many jobs there are.

    A collector cannot: it is called on a thread, and must not wait.
    """
    if "offload.jobs._jobs" not in sys.modules:
        return
    from offload.jobs import Jobs

    now = time.monotonic()
    async with anyio.create_task_group() as group:
        for jobs in Jobs.all():
            last = _looks.get(jobs)
            if jobs.is_open and (last is None or now - last.at >= _FRESH_SECONDS):
                group.start_soon(_look, jobs)


async def _look(jobs: Jobs) -> None:
    from offload.jobs import JobsUnavailableError
    from offload.jobs._counting import recent_counts

    seen = _Look(time.monotonic(), is_up=False)
    with anyio.move_on_after(_LOOK_SECONDS):
        try:
            paused = await jobs.paused()
            # It answers, though counting may take longer than there is time.
            seen = _Look(time.monotonic(), is_up=True, paused=paused)
            told = await recent_counts(jobs, max_age=_FRESH_SECONDS)
            seen = replace(seen, counts=told.counts or ())
        except JobsUnavailableError:
            seen = _Look(time.monotonic(), is_up=False)
    with _changed:
        _looks[jobs] = seen


def describe() -> Iterator[Metric]:
    """Yield the families without samples."""
    yield from Families(_FAMILIES)


def collect() -> Iterator[Metric]:
    """Yield the families with their samples of this instant."""
    from offload.jobs import Jobs

    families = Families(_FAMILIES)
    of_store: dict[str, list[Jobs]] = {}
    for jobs in Jobs.all():
        of_store.setdefault(jobs.statistics().location, []).append(jobs)
    for store, each in of_store.items():
        breathe()
        _add_store(families, store, each)
        _add_enqueued(families, store, each)
    if "offload.jobs._worker.program" in sys.modules:
        from offload.jobs import WorkerProgram

        programs: dict[str, list[WorkerProgram]] = {}
        for program in WorkerProgram.all():
            programs.setdefault(program.location, []).append(program)
        for store, those in programs.items():
            breathe()
            _add_programs(families, store, those)
    yield from families


def _add_store(to: Families, store: str, several: list[Jobs]) -> None:
    """Add what the store said; several `Jobs` of one store say the same."""
    late = time.monotonic() - _STALE_SECONDS
    with _changed:
        looks = [found for jobs in several if (found := _looks.get(jobs)) and found.at > late]
    if not looks:
        return
    seen = max(looks, key=lambda each: each.at)
    to.value("offload_jobs_store_up", float(seen.is_up), store)
    for each in seen.counts:
        to.value("offload_jobs", each.count, store, each.queue, each.function, each.state)
    for queue in sorted(seen.paused):
        to.value("offload_jobs_queue_paused", 1.0, store, queue)


def _add_enqueued(to: Families, store: str, several: list[Jobs]) -> None:
    from offload._values.histogram import merge

    told = [jobs.statistics() for jobs in several]
    counts: dict[tuple[str, str, str], int] = {}
    for each in told:
        for one in each.enqueued:
            key = one.queue, one.function, one.outcome
            counts[key] = counts.get(key, 0) + one.count
    for key, count in sorted(counts.items()):
        to.value("offload_jobs_enqueued", count, store, *key)
    if counts:
        to.histogram("offload_jobs_enqueue_seconds", merge(one.enqueue for one in told), store)


def _add_programs(to: Families, store: str, programs: list[WorkerProgram]) -> None:
    from offload._values.histogram import merge

    told = [program.statistics() for program in programs]
    to.value("offload_worker_program_ready", float(all(each.is_ready for each in programs)), store)
    for name, value in (
        ("offload_worker_program_slots", sum(each.slots for each in told)),
        ("offload_worker_program_active", sum(each.active for each in told)),
        ("offload_worker_program_claimed", sum(each.claimed for each in told)),
        ("offload_worker_program_fenced", sum(each.fenced for each in told)),
        ("offload_worker_program_outages", sum(each.outages for each in told)),
        ("offload_jobs_swept", sum(each.swept for each in told)),
    ):
        to.value(name, value, store)
    functions = [each for program in programs for each in program.function_statistics()]
    for queue, function in sorted({(each.queue, each.function) for each in functions}):
        breathe()
        these = [each for each in functions if (each.queue, each.function) == (queue, function)]
        outcomes = sorted({outcome for each in these for outcome in each.ended})
        for outcome in outcomes:
            count = sum(each.ended.get(outcome, 0) for each in these)
            to.value("offload_job_attempts", count, store, queue, function, outcome)
        for name, parts in (
            ("offload_job_wait_seconds", [each.wait for each in these]),
            ("offload_job_run_seconds", [each.run for each in these]),
        ):
            to.histogram(name, merge(parts), store, queue, function)

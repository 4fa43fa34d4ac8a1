"""What do jobs cost, beside other queues on the same store: one at a time, and how many a second?

Varied: the queue, its store, what jobs do, and how many attempts may run at once. Held: a new store
as it is shipped (Redis with an append-only file, synced each second), one producer and one worker
program, each a process of its own, started as their documentation tells; jobs leave a mark, in the
same way for all, by which their begin is known. First one job at a time, each enqueued when the
worker program is idle: time to enqueue, until it begins, and until its result has come, where a
queue has results. Then jobs are enqueued before the worker program begins, and counted between the
first and the last tenth. A queue that runs jobs in processes has as many as there are CPUs at most.
Refuted if `offload` takes longer than 1 ms to enqueue on SQLite at synchronous NORMAL (4 ms at the
default, FULL) or 2 ms to an awaited result on Redis; if it finishes fewer than 2,000 jobs without
work a second on SQLite, 0.6 times BullMQ's on Node, three times Celery's, or those of procrastinate
or pgqueuer; or if it computes less than 1.6 times as much as BullMQ's worker on Node.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suite import stores
from benchmarks.suite.queues import QUEUES, Bench
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario
from offload._bench.machine import read, usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.queues.marks import Mark
    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_ONE = "one at a time"
_NO_OP = "no work"
_AT_ONCE = (1, 10, 50)
_COMPUTING = {"2 ms": 2, "20 ms": 20}
_COMPUTING_AT_ONCE = 10
_COUNT = 200
_WARM_UP = 20
_QUICK_COUNT = 5
# Jobs for each second of a measurement; the fastest queue here runs fewer.
_PER_SECOND = 12_000
_QUICK_PER_SECOND = 500
_NORMAL = "sqlite, normal"
_OTHERS_SHARE = 0.10


def skips(contender: Contender) -> str | None:
    """Refuse what is no queue, or has no store here."""
    queue = QUEUES.get(contender.name)
    if queue is None:
        return "it is no queue of jobs"
    reasons = [stores.missing(store) for store in queue.stores]
    return reasons[0] if all(reasons) else None


def cells(contender: Contender, settings: Settings) -> list[Parameters]:
    """Return what is asked on each store of a queue."""
    found: list[Parameters] = []
    for store in QUEUES[contender.name].stores:
        if stores.missing(store) is None:
            found.append({"store": store, "jobs": _ONE, "at_once": 1})
            at_once = (10,) if settings.is_quick else _AT_ONCE
            found += [{"store": store, "jobs": _NO_OP, "at_once": count} for count in at_once]
            if not settings.is_quick:
                found += [
                    {"store": store, "jobs": work, "at_once": _COMPUTING_AT_ONCE}
                    for work in _COMPUTING
                ]
            if store == "sqlite":
                found.append({"store": _NORMAL, "jobs": _ONE, "at_once": 1})
    return found


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each cell on a store of its own."""
    for each in parameters:
        yield context.undisturbed(lambda each=each: once(contender, each, context))


def once(contender: Contender, cell: Parameters, context: Context) -> Measured:
    """Measure one cell."""
    before = read()
    with (
        stores.opened("sqlite" if cell["store"] == _NORMAL else str(cell["store"])) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        options = "?synchronous=normal" if cell["store"] == _NORMAL else ""
        bench = Bench(QUEUES[contender.name], url + options, Path(folder))
        measured = (_one if cell["jobs"] == _ONE else _many)(bench, contender, cell, context)
    after = read()
    if before is not None and after is not None:
        # Servers and programs have ended: what they used is ours by now.
        used = usage(before, after, [os.getpid()])
        total = max(used.busy, 1e-9)
        measured.health["others_share"] = round(max(used.busy - used.tree, 0.0) / total, 4)
        if measured.health["others_share"] > _OTHERS_SHARE:
            share = measured.health["others_share"]
            measured.disturbed.append(f"other processes took {share:.0%} of the CPU time used")
    return measured


def _one(bench: Bench, _: Contender, cell: Parameters, context: Context) -> Measured:
    is_quick = context.settings.is_quick
    with bench.producer() as do, bench.worker(1, context.settings.workers):
        # The first ones wait for a worker program that starts.
        warm_up = 1 if is_quick else _WARM_UP
        do("one", first=0, count=warm_up)
        told = do("one", first=warm_up, count=_QUICK_COUNT if is_quick else _COUNT)
        began = {mark.number: mark.began for mark in bench.read()}
    waits = [(began[number] - at) * 1e3 for number, at in enumerate(told["begun"], warm_up)]
    return Measured(
        cell,
        samples={
            "enqueue_ms": [round(each, 4) for each in told["enqueue_ms"]],
            "begin_ms": [round(each, 4) for each in waits],
            "result_ms": [round(each, 4) for each in told["result_ms"]],
        },
    )


def _many(bench: Bench, contender: Contender, cell: Parameters, context: Context) -> Measured:
    milliseconds = _COMPUTING.get(str(cell["jobs"]), 0)
    loops = context.loops(contender, milliseconds) if milliseconds else 0
    cpus, seconds = context.settings.workers, context.seconds
    each_second = cpus * 1000 / milliseconds if milliseconds else _PER_SECOND
    if context.settings.is_quick:
        each_second = _QUICK_PER_SECOND
    with bench.producer() as do:
        enqueued = do(
            "many", count=max(int(each_second * seconds), 20), loops=loops, seconds=seconds
        )
    with bench.worker(int(cell["at_once"]), cpus) as worker:
        marks = bench.wait(worker, int(enqueued["count"]), seconds)
    values: dict[str, float | None] = {"jobs_per_second": per_second(marks)}
    if cell["jobs"] == _NO_OP:
        values["enqueued_per_second"] = enqueued["per_second"]
    return Measured(cell, values=values)


def per_second(marks: Sequence[Mark]) -> float | None:
    """Return how many jobs ended in a second, the first and the last tenth left out."""
    ended = sorted(mark.ended for mark in marks)
    first, last = len(ended) // 10, len(ended) * 9 // 10
    if last <= first or ended[last] <= ended[first]:
        return None
    return (last - first) / (ended[last] - ended[first])


def _claims() -> Iterator[Claim]:
    for store, limit in ((_NORMAL, 1.0), ("sqlite", 4.0)):
        yield Claim(
            text=f"enqueue on {store}, p50, ms",
            value="enqueue_ms p50",
            parameters={"store": store, "jobs": _ONE},
            relation="at most",
            limit=limit,
        )
    for fraction, limit in (("p50", 5.0), ("p99", 20.0)):
        yield Claim(
            text=f"from enqueueing to the begin on an idle worker program, SQLite, {fraction}, ms",
            value=f"begin_ms {fraction}",
            parameters={"store": "sqlite", "jobs": _ONE},
            relation="at most",
            limit=limit,
        )
    yield Claim(
        text="jobs without work a second on SQLite",
        value="jobs_per_second",
        parameters={"store": "sqlite", "jobs": _NO_OP, "at_once": 10},
        relation="at least",
        limit=2000,
    )
    yield Claim(
        text="awaited result on Redis, p50, ms",
        value="result_ms p50",
        parameters={"store": "redis", "jobs": _ONE},
        relation="at most",
        limit=2.0,
    )
    for value, word in (("enqueue_ms p50", "enqueue"), ("begin_ms p50", "begin")):
        yield Claim(
            text=f"{word} on Redis, p50, times BullMQ's on Node",
            value=value,
            parameters={"store": "redis", "jobs": _ONE},
            relation="at most",
            limit=1.0,
            reference="bullmq",
        )
    for at_once in _AT_ONCE:
        for rival, store, limit in (
            ("bullmq", "redis", 0.6),
            ("celery", "redis", 3.0),
            ("procrastinate", "postgres", 1.0),
            ("pgqueuer", "postgres", 1.0),
        ):
            yield Claim(
                text=f"jobs without work a second, {at_once} at once, times those of {rival}",
                value="jobs_per_second",
                parameters={"store": store, "jobs": _NO_OP, "at_once": at_once},
                relation="at least",
                limit=limit,
                reference=rival,
            )
    for work in _COMPUTING:
        for rival, limit in (("bullmq", 1.6), ("bullmq-sandbox", 1.0)):
            yield Claim(
                text=f"jobs of {work} a second, times those of {rival}",
                value="jobs_per_second",
                parameters={"store": "redis", "jobs": work},
                relation="at least",
                limit=limit,
                reference=rival,
            )


scenario = Scenario(
    name="jobs",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *(
            Metric(key, f"{label} {name}, ms", fraction=fraction, is_headline=fraction == 0.5)
            for key, label in (
                ("enqueue_ms", "enqueue"),
                ("begin_ms", "until it begins"),
                ("result_ms", "until its result"),
            )
            for name, fraction in (("p50", 0.5), ("p99", 0.99))
        ),
        Metric("jobs_per_second", "jobs/s", "more", is_headline=True),
        Metric("enqueued_per_second", "enqueued/s, many at once", "more"),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=tuple(_claims()),
    plots=(
        Plot(
            "dots",
            "jobs_per_second",
            "Jobs without work a second, 10 at once",
            "More is better; queues of one store are comparable.",
            where=(("jobs", _NO_OP), ("at_once", 10)),
        ),
    ),
    only=tuple(QUEUES),
    repetitions=2,
    seconds=3.0,
    quick_seconds=0.2,
)

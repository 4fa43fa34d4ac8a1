"""Do more workers do more, and does a call stay as cheap when many wait?

Two parts. "workers": throughput of 20 ms of pure computation with 1 to twice as many workers as
there are CPUs, four calls per worker in flight; held: one process, asyncio. Refuted if two workers
of `offload` do less than 1.8 times what one does, on two free cores. "queued": so many no-op calls
at once on two workers; varied: how many, from 10 to 100,000. Values are time and CPU per call, and
the longest that the event loop was held, to which making the calls themselves contributes. Refuted
if a call among 100,000 costs more than twice one among 1,000.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from benchmarks.functions import hold, noop
from benchmarks.suite.contenders import OURS
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, in_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Call, Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_QUEUED = (10, 100, 1_000, 10_000, 100_000)
_QUICK_QUEUED = (10, 1_000)
_TASK_SECONDS = 0.02
_PER_WORKER = 4
_PATIENCE_SECONDS = 300.0


def cells(contender: Contender, settings: Settings) -> list[Parameters]:
    """Return the numbers of workers, then those of queued calls."""
    most = 2 * (os.cpu_count() or 1)
    workers = [1, most] if settings.is_quick else range(1, most + 1)
    found: list[Parameters] = []
    if contender.has_processes:
        found += [{"part": "workers", "workers": count} for count in workers]
    queued = _QUICK_QUEUED if settings.is_quick else _QUEUED
    return found + [{"part": "queued", "queued": count} for count in queued]


def skips(contender: Contender) -> str | None:
    """Refuse what has no queue."""
    return "it has no queue" if contender.name == "inline" else in_process(contender)


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each cell in a fresh process."""
    for each in parameters:
        told = context.child(
            contender,
            {"workers": context.settings.workers, "seconds": context.seconds, **each},
        )
        told.parameters = each
        yield told


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Measure one cell."""
    assert contender.open is not None  # noqa: S101 - skipped
    workers = parameters["workers"]
    async with contender.open(workers) as call, asyncio.timeout(_PATIENCE_SECONDS):
        for _ in range(2):
            await asyncio.gather(*(call(hold, _TASK_SECONDS) for _ in range(2 * workers)))
        if parameters["part"] == "workers":
            return {"values": await throughput(call, workers, parameters["seconds"])}
        return {"values": await queued(call, parameters["queued"])}


async def throughput(call: Call, workers: int, seconds: float) -> dict[str, float]:
    """Return the calls a second that so many workers do."""
    done = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(hold, _TASK_SECONDS)
            if time.perf_counter() < end:
                done += 1

    await asyncio.gather(*(client() for _ in range(_PER_WORKER * workers)))
    return {"calls_per_second": done / seconds}


async def queued(call: Call, count: int) -> dict[str, float]:
    """Make so many calls at once; return what each costs."""
    lags: list[float] = [0.0]

    async def watch() -> None:
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - begin - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    cpu, begin = time.process_time(), time.perf_counter()
    await asyncio.gather(*(call(noop) for _ in range(count)))
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    await asyncio.sleep(0.002)
    watching.cancel()
    return {
        "us_per_call": elapsed / count * 1e6,
        "cpu_us_per_call": cpu / count * 1e6,
        "largest_lag_ms": max(lags) * 1e3,
    }


_PART = (("part", "queued"),)
scenario = Scenario(
    name="scaling",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("calls_per_second", "20 ms calls/s", better="more", is_headline=True),
        Metric("us_per_call", "time per call, µs", is_headline=True),
        Metric("cpu_us_per_call", "CPU per call, µs"),
        Metric("largest_lag_ms", "largest loop lag, ms"),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="throughput of two workers, times that of one",
            value="calls_per_second",
            parameters={"part": "workers", "workers": 2},
            relation="at least",
            limit=1.8,
            reference=OURS,
            reference_parameters={"part": "workers", "workers": 1},
        ),
        Claim(
            text="time per call among 100,000, times that among 1,000",
            value="us_per_call",
            parameters={"part": "queued", "queued": 100_000},
            relation="at most",
            limit=2.0,
            reference=OURS,
            reference_parameters={"part": "queued", "queued": 1_000},
        ),
    ),
    plots=(
        Plot(
            "lines",
            "us_per_call",
            "Time per call as calls queue up",
            "Flat or falling is good: the cost of a call does not grow with the queue.",
            over="queued",
            where=_PART,
        ),
        Plot(
            "lines",
            "largest_lag_ms",
            "How long the event loop is held when so many calls are made at once",
            "Less is better. 100,000 coroutines made at once hold a loop by themselves.",
            over="queued",
            where=_PART,
        ),
        Plot(
            "lines",
            "calls_per_second",
            "Throughput of 20 ms calls by workers",
            "More is better; it cannot grow past the number of CPUs.",
            over="workers",
            where=(("part", "workers"),),
            is_log=False,
        ),
    ),
    repetitions=2,
    seconds=1.5,
)

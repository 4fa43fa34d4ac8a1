"""What does a call cost beyond its function? Round trip, event-loop CPU per call, throughput.

Varied: the contender, the event loop, the calls in flight. Held: a no-op function, two workers,
each contender in a process of its own; "bare socket" is a worker and a socket without any
guarantee, the floor. The CPU is that of the process that awaits, all its threads: what the server
has left for `/fast` is what this leaves. Refuted if `offload` is not at least 5 times faster than
`run_in_executor(ProcessPoolExecutor)` and 2 times than `anyio.to_process`, one call at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from benchmarks.functions import noop
from benchmarks.suite.contenders import OURS
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, in_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Call, Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_IN_FLIGHT = (1, 16, 64, 256)
_WARM_CALLS = 50
_CALLS = 2000
_QUICK_CALLS = 50


def skips(contender: Contender) -> str | None:
    """Refuse what makes no call to anywhere."""
    return "a plain call goes nowhere" if contender.name == "inline" else in_process(contender)


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the calls in flight, on both event loops."""
    if settings.is_quick:
        return [{"loop": "uvloop", "in_flight": 16}]
    return [
        {"loop": loop, "in_flight": count} for loop in ("asyncio", "uvloop") for count in _IN_FLIGHT
    ]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each cell in a fresh process."""
    calls = _QUICK_CALLS if context.settings.is_quick else _CALLS
    for each in parameters:
        told = context.child(
            contender, {**each, "calls": calls, "workers": context.settings.workers}
        )
        told.parameters = each
        yield told


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Make calls, so many at once, and return what they took."""
    assert contender.open is not None  # noqa: S101 - skipped
    async with contender.open(parameters["workers"]) as call:
        for _ in range(_WARM_CALLS):
            await call(noop)
        return await calls_of(call, parameters["calls"], parameters["in_flight"])


async def calls_of(call: Call, count: int, in_flight: int) -> dict[str, Any]:
    """Make calls and return the measures of them."""
    times: list[float] = []
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            begin = time.perf_counter()
            await call(noop)
            times.append(time.perf_counter() - begin)

    cpu, begin = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    elapsed, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "values": {"cpu_us": cpu / count * 1e6, "calls_per_second": count / elapsed},
        "samples": {"round_trip_us": [round(each * 1e6, 1) for each in times]},
    }


scenario = Scenario(
    name="dispatch_overhead",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("round_trip_us", "round trip p50, µs", fraction=0.5, is_headline=True),
        Metric("round_trip_us", "round trip p99, µs", fraction=0.99),
        Metric("cpu_us", "CPU of the caller, µs", is_headline=True),
        Metric("calls_per_second", "calls/s", better="more", is_headline=True),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="round trip of a forkserver `ProcessPoolExecutor`, times that of `offload`",
            value="round_trip_us p50",
            parameters={"loop": "asyncio", "in_flight": 1},
            relation="at least",
            limit=5.0,
            contender="executor-forkserver",
            reference=OURS,
        ),
        Claim(
            text="round trip of `anyio.to_process`, times that of `offload`",
            value="round_trip_us p50",
            parameters={"loop": "asyncio", "in_flight": 1},
            relation="at least",
            limit=2.0,
            contender="anyio",
            reference=OURS,
        ),
    ),
    plots=(
        Plot(
            "dots",
            "round_trip_us p50",
            "Round trip of a no-op call, one at a time, asyncio",
            "Less is better; the median call, with 95 % intervals.",
            where=(("loop", "asyncio"), ("in_flight", 1)),
        ),
        Plot(
            "dots",
            "cpu_us",
            "CPU time of the server process per call, 16 in flight, uvloop",
            "Less is better: this is what a call takes away from everything else on the loop.",
            where=(("loop", "uvloop"), ("in_flight", 16)),
        ),
        Plot(
            "lines",
            "calls_per_second",
            "Calls a second, uvloop",
            "More is better.",
            over="in_flight",
            where=(("loop", "uvloop"),),
        ),
    ),
    repetitions=5,
    also=("prototype",),
)

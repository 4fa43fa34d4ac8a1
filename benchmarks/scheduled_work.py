"""Does `/fast` stay as fast as it is alone while a function computes 200 ms each second?

Varied: how the function runs, and whether it fires. Held: one web server process (uvicorn on
uvloop, or Node), about 200 ms of pure computation at each whole second, `/fast` probed 400 times a
second from another process, open loop, without a break. Two seconds with fires and two without
take turns on one server, so that whatever else the machine does falls on both; the requests of each
kind are put together.
Refuted if the p99 of `offload`, on the pool of the server or as jobs in a worker program, exceeds
1.1 times that of its windows without fires.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.suite.contenders import OURS
from benchmarks.suite.scenario import Claim, Metric, Plot, Scenario, quantiles
from benchmarks.ways_programs import running
from benchmarks.ways_windows import FIRES, IDLE, windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Measured, Parameters, Settings


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """Return idle and loaded."""
    return [{"load": IDLE}, {"load": FIRES}]


def measure(
    contender: Contender, both: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure both on one server, in turns."""
    loops = context.loops(contender, 200)
    with running(contender, context.settings.workers, loops) as programs:
        yield from windows(programs, both[0], both[1], context)


def _claim(contender: str, where: str) -> Claim:
    return Claim(
        text=f"`/fast` p99 {where}, times the idle one",
        value="fast_ms p99",
        parameters={"load": FIRES},
        relation="at most",
        limit=1.1,
        contender=contender,
        reference=contender,
        reference_parameters={"load": IDLE},
    )


_FIRES = (("load", FIRES),)
scenario = Scenario(
    name="scheduled_work",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        Metric("fast_p99_ratio", "/fast p99, times idle"),
        Metric("start_ms", "runs begin late by, p50, ms", fraction=0.5),
        Metric("start_ms", "runs begin late by, max, ms", better=None, fraction=1.0),
        Metric("fires", "fires that ended", better=None),
    ),
    cells=cells,
    measure=measure,
    claims=(_claim(OURS, "on the pool"), _claim("offload-jobs", "as jobs")),
    plots=(
        Plot(
            "curves",
            "fast_ms",
            "All percentiles of /fast while a function fires each second",
            "To the right are the rarest, slowest requests. A curve ends where it has too few.",
            where=_FIRES,
        ),
        Plot(
            "dots",
            "fast_p99_ratio",
            "/fast p99 while a function fires each second, times that without",
            "1 is as if nothing ran. Pooled by repetition; less is better.",
            where=_FIRES,
            is_log=False,
        ),
    ),
    only=(OURS, "offload-jobs", "node-cron"),
    repetitions=3,
    seconds=10.0,
    quick_seconds=2.0,
    timeout_ms=10e3,
)

"""Does `/fast` stay fast while heavy requests keep every core busy?

Varied: how `/heavy` runs, and the number of closed-loop heavy clients. Held: one server process
(uvicorn on uvloop, or Node), two workers, about 200 ms of pure computation per heavy request,
`/fast` probed 200 times a second from another process, open loop: its latency counts from the
intended send time. All levels of a contender are measured on one server, idle first. Refuted if the
p99 of `offload` with 8 clients exceeds 1.3 times its idle p99, or its heavy throughput is below
95 % of the best contender's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.suite.contenders import OURS
from benchmarks.suite.load import disturbances, failed_share, latencies, load
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, quantiles
from benchmarks.suite.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.suite.servers import Server

_LEVELS = (0, 1, 2, 4, 8, 64)
_QUICK_LEVELS = (0, 2)
_PROMISED = (0, 8)
_RATE = 200
_HEAVY_MS = 200
_WARM_UP_SECONDS = 0.5
_TIMEOUT_SECONDS = 10


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the levels, idle first."""
    return [{"heavy_clients": level} for level in (_QUICK_LEVELS if settings.is_quick else _LEVELS)]


def measure(
    contender: Contender, levels: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure all levels on one server."""
    loops = context.loops(contender, _HEAVY_MS)
    with serve(contender, context.settings.workers) as server:
        for level in levels:
            # The promises are about these two: their percentiles need more requests.
            seconds = context.seconds * (2 if level["heavy_clients"] in _PROMISED else 1)
            yield context.undisturbed(
                lambda level=level, seconds=seconds: once(server, level, loops, seconds)
            )


def once(server: Server, level: Parameters, loops: int, seconds: float) -> Measured:
    """Measure one level."""
    server.lags()
    result = load(
        server,
        *("--fast", "/fast", "--rate", str(_RATE), "--timeout", str(_TIMEOUT_SECONDS)),
        *("--heavy", f"/heavy?n={loops}", "--clients", str(level["heavy_clients"]), "--hang-up"),
        seconds=seconds,
        warm_up=_WARM_UP_SECONDS,
    )
    (fast,), heavy, health = result["fast"], result["heavy"], result["health"]
    has_heavy = level["heavy_clients"] != 0
    return Measured(
        level,
        values={
            "heavy_per_second": heavy["per_second"] if has_heavy else None,
            "heavy_failures": float(sum(heavy["errors"].values())) if has_heavy else None,
            "fast_failed_share": failed_share(fast),
            "pss_bytes": result["pss_bytes"],
        },
        samples={"fast_ms": latencies(fast), "lag_ms": server.lags()},
        times={
            "fast_ms": [
                at
                for at, took in zip(fast["intended_ms"], fast["latency_ms"], strict=True)
                if took is not None
            ]
        },
        health=health,
        disturbed=disturbances(health),
    )


_EIGHT = (("heavy_clients", 8),)
scenario = Scenario(
    name="fast_under_heavy",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        Metric("heavy_per_second", "heavy/s", better="more", is_headline=True),
        Metric("lag_ms", "loop lag p99, ms", fraction=0.99),
        Metric("pss_bytes", "memory, MiB PSS", factor=2**-20, is_headline=True),
        Metric("fast_failed_share", "/fast failed, %", factor=100),
    ),
    cells=cells,
    measure=measure,
    claims=(
        Claim(
            text="`/fast` p99 with 8 heavy clients, times the idle one",
            value="fast_ms p99",
            parameters={"heavy_clients": 8},
            relation="at most",
            limit=1.3,
            reference=OURS,
            reference_parameters={"heavy_clients": 0},
        ),
        Claim(
            text="heavy throughput with 8 clients, as a share of the best contender's",
            value="heavy_per_second",
            parameters={"heavy_clients": 8},
            relation="at least",
            limit=0.95,
            reference="best",
        ),
    ),
    plots=(
        Plot(
            "lines",
            "fast_ms p99",
            "/fast p99 as heavy clients come",
            "Flat is good. Bands are 95 % intervals. What is above the dashed line was given up.",
            over="heavy_clients",
        ),
        Plot(
            "curves",
            "fast_ms",
            "All percentiles of /fast, 8 heavy clients",
            "To the right are the rarest, slowest requests: one in ten, in a hundred, in a "
            "thousand. A curve ends where it has too few requests.",
            where=_EIGHT,
        ),
        Plot(
            "time",
            "fast_ms",
            "/fast over time, 8 heavy clients",
            "Every dot is a request, at its intended send time; all repetitions, one after the "
            "other. Diagonal streaks are queues that grow while the event loop is held.",
            where=_EIGHT,
        ),
        Plot(
            "dots",
            "heavy_per_second",
            "Heavy throughput, 8 heavy clients",
            "More is better. 10 a second is what two cores could do with nothing else to do.",
            where=_EIGHT,
            is_log=False,
        ),
        Plot(
            "dots",
            "pss_bytes",
            "Memory of the whole process tree under load, 8 heavy clients",
            "Less is better. PSS: a page shared by n processes counts as 1/n in each.",
            where=_EIGHT,
            is_log=False,
        ),
    ),
    seconds=1.0,
    timeout_ms=_TIMEOUT_SECONDS * 1e3,
)

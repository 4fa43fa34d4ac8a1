"""Does `/fast` stay fast under the load of real life: arrivals at random, some heavy, most not?

Varied: the contender, and how much of the capacity of two cores the heavy work takes on average.
Held: both kinds arrive as a Poisson process, open loop, whatever the server does; `/fast` 200 times
a second; the run time of `/heavy` is log-normal, median 100 ms, sigma 0.8: one in a hundred takes
over 600 ms. The same arrivals and run times for all contenders of a repetition. Refuted if the p99
of `/fast` is above that of any other contender, or the median of `/heavy` is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.suite.load import disturbances, failed_share, latencies, load
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, quantiles
from benchmarks.suite.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.suite.servers import Server

_RATE = 200
_MEDIAN_MS = 100.0
_SIGMA = 0.8
# Of the log-normal distribution.
_MEAN_SECONDS = _MEDIAN_MS / 1e3 * math.exp(_SIGMA**2 / 2)
_WARM_UP_SECONDS = 1.0
_TIMEOUT_SECONDS = 10


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the utilisations."""
    return [{"utilisation": each} for each in ((0.5,) if settings.is_quick else (0.4, 0.7))]


def measure(
    contender: Contender, levels: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each on a fresh server: a queue that is left over would be the next one's."""
    for level in levels:
        with serve(contender, context.settings.workers) as server:
            yield context.undisturbed(
                lambda level=level, server=server: once(server, level, contender, context)
            )


def once(server: Server, level: Parameters, contender: Contender, context: Context) -> Measured:
    """Measure one utilisation."""
    heavy_rate = float(level["utilisation"]) * context.settings.workers / _MEAN_SECONDS
    drawn = f"{{lognormal:{context.loops(contender, _MEDIAN_MS)}:{_SIGMA}}}"
    server.lags()
    result = load(
        server,
        *("--fast", "/fast", "--fast", f"/heavy?n={drawn}", "--arrivals", "poisson"),
        *("--rate", str(_RATE), "--rate", str(heavy_rate), "--timeout", str(_TIMEOUT_SECONDS)),
        seconds=context.seconds,
        warm_up=_WARM_UP_SECONDS,
    )
    fast, heavy = result["fast"]
    health = result["health"]
    return Measured(
        level,
        values={"heavy_failed_share": failed_share(heavy), "fast_failed_share": failed_share(fast)},
        samples={
            "fast_ms": latencies(fast),
            "heavy_ms": latencies(heavy),
            "lag_ms": server.lags(),
        },
        health=health,
        disturbed=disturbances(health),
    )


_BUSY = (("utilisation", 0.7),)
scenario = Scenario(
    name="mixed",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        Metric("heavy_ms", "/heavy p50, ms", fraction=0.5, is_headline=True),
        Metric("heavy_ms", "/heavy p99, ms", fraction=0.99),
        Metric("lag_ms", "loop lag p99, ms", fraction=0.99),
        Metric("heavy_failed_share", "/heavy failed, %", factor=100),
    ),
    cells=cells,
    measure=measure,
    claims=(
        Claim(
            text="`/fast` p99 at 70 %, times that of the best contender",
            value="fast_ms p99",
            parameters={"utilisation": 0.7},
            relation="at most",
            limit=1.0,
            reference="best",
        ),
        Claim(
            text="`/heavy` p50 at 70 %, times that of the best contender",
            value="heavy_ms p50",
            parameters={"utilisation": 0.7},
            relation="at most",
            limit=1.0,
            reference="best",
        ),
    ),
    plots=(
        Plot(
            "curves",
            "fast_ms",
            "All percentiles of /fast, heavy work at 70 % of two cores",
            "To the right are the rarest, slowest requests.",
            where=_BUSY,
        ),
        Plot(
            "curves",
            "heavy_ms",
            "All percentiles of /heavy itself, at 70 % of two cores",
            "Queue wait and run time together; the right end is drawn from few requests.",
            where=_BUSY,
        ),
    ),
    seconds=6.0,
    quick_seconds=0.5,
    timeout_ms=_TIMEOUT_SECONDS * 1e3,
)

"""What do megabytes cost, in and out: round trip, and how long is the event loop held?

Varied: the payload, the contender. Held: a function that returns its argument, two workers, one
call at a time, asyncio; a task that wakes each millisecond measures by how much it is late. Values
are the median round trip and the largest lag of a few calls. Refuted if 64 MiB of a buffer hold the
loop for over 10 ms, 1 MiB for over 2 ms or small dicts for over 25 ms; if buffers are not twice as
fast as with `ProcessPoolExecutor`, or dicts slower than with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks import payload
from benchmarks.functions import echo
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, without_workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_QUICK = ("1 MiB bytes",)


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the payloads."""
    names = _QUICK if settings.is_quick else payload.payloads()
    return [{"payload": name} for name in names]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each payload in a fresh process."""
    for each in parameters:
        told = context.child(contender, {**each, "workers": context.settings.workers})
        told.parameters = each
        yield told


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Send one payload some times."""
    assert contender.open is not None  # noqa: S101 - skipped
    workers = parameters["workers"]
    value, times = payload.payloads()[parameters["payload"]]
    async with contender.open(workers) as call:
        await asyncio.gather(*(call(echo, b"warm") for _ in range(4 * workers)))

        async def there_and_back(sent: Any) -> Any:
            return await call(echo, sent)

        round_trip, lag = await payload.measure(there_and_back, value, times)
    return {"values": {"round_trip_ms": round_trip, "largest_lag_ms": lag}}


_LARGE = (("payload", "64 MiB bytes"),)
scenario = Scenario(
    name="payload",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("round_trip_ms", "round trip p50, ms", is_headline=True),
        Metric("largest_lag_ms", "largest loop lag, ms", is_headline=True),
    ),
    cells=cells,
    measure=measure,
    skips=without_workers,
    claims=(
        *(
            Claim(
                text=f"loop held by {name}, ms",
                value="largest_lag_ms",
                parameters={"payload": name},
                relation="at most",
                limit=limit,
            )
            for name, limit in (
                ("64 MiB bytes", 10),
                ("64 MiB bytearray", 10),
                ("64 MiB float64 array", 10),
                ("1 MiB bytes", 2),
                ("1 MiB bytearray", 2),
                ("1 MiB array", 2),
                ("6 MiB of small dicts", 25),
            )
        ),
        *(
            Claim(
                text=f"round trip of {name}, times that of a forkserver `ProcessPoolExecutor`",
                value="round_trip_ms",
                parameters={"payload": name},
                relation="at most",
                limit=limit,
                reference="executor-forkserver",
            )
            for name, limit in (
                ("64 MiB bytes", 0.5),
                ("64 MiB bytearray", 0.5),
                ("64 MiB float64 array", 0.5),
                ("6 MiB of small dicts", 1.0),
            )
        ),
    ),
    plots=(
        Plot(
            "dots",
            "largest_lag_ms",
            "How long 64 MiB of bytes hold the event loop",
            "Less is better: everything else waits so long.",
            where=_LARGE,
        ),
        Plot(
            "dots",
            "round_trip_ms",
            "Round trip of 64 MiB of bytes, in and out",
            "Less is better.",
            where=_LARGE,
        ),
    ),
)

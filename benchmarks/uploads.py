"""Does `/fast` stay fast while clients send large files, and get large answers?

Varied: the contender, and the number of closed-loop clients that post 16 MiB and get 16 MiB back.
Held: a worker hashes what came and returns as many bytes; two workers; `/fast` is asked 100 times a
second, open loop. `offload` takes a body into a file that the worker is given as a descriptor, and
sends the answer in pieces (`receive_file`, `BytesResponse`); for the others, the handler reads the
body, calls the function with it and returns a `Response`, since they have no other way. Refuted if
the p99 of `/fast` with 4 clients is above a third of a forkserver `ProcessPoolExecutor`'s, or fewer
files a second go through than with the best contender.
"""

from __future__ import annotations

import tempfile
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

_FILE_BYTES = 16 << 20
_LEVELS = (0, 1, 4)
_QUICK_LEVELS = (1,)
_RATE = 100
_WARM_UP_SECONDS = 1.0
_TIMEOUT_SECONDS = 10


def skips(contender: Contender) -> str | None:
    """Refuse servers that have no such route."""
    return "its server has no route for uploads" if contender.language == "node" else None


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the numbers of clients, idle first."""
    return [{"clients": level} for level in (_QUICK_LEVELS if settings.is_quick else _LEVELS)]


def measure(
    contender: Contender, levels: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure all levels on one server."""
    with (
        tempfile.NamedTemporaryFile() as body,
        serve(contender, context.settings.workers) as server,
    ):
        body.truncate(_FILE_BYTES)
        for level in levels:
            yield context.undisturbed(lambda level=level: once(server, level, body.name, context))


def once(server: Server, level: Parameters, body: str, context: Context) -> Measured:
    """Measure one level."""
    server.lags()
    result = load(
        server,
        *("--fast", "/fast", "--rate", str(_RATE), "--timeout", str(_TIMEOUT_SECONDS)),
        *("--heavy", "/upload", "--heavy-body", body, "--clients", str(level["clients"])),
        "--hang-up",
        seconds=context.seconds,
        warm_up=_WARM_UP_SECONDS,
    )
    (fast,), heavy, health = result["fast"], result["heavy"], result["health"]
    has_clients = level["clients"] != 0
    return Measured(
        level,
        values={
            "files_per_second": heavy["per_second"] if has_clients else None,
            "fast_failed_share": failed_share(fast),
            "pss_bytes": result["pss_bytes"],
        },
        samples={"fast_ms": latencies(fast), "lag_ms": server.lags()},
        health=health,
        disturbed=disturbances(health),
    )


_FOUR = (("clients", 4),)
scenario = Scenario(
    name="uploads",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        Metric("files_per_second", "files/s", better="more", is_headline=True),
        Metric("lag_ms", "loop lag p99, ms", fraction=0.99),
        Metric("lag_ms", "loop lag max, ms", better=None, fraction=1.0),
        Metric("pss_bytes", "memory, MiB PSS", factor=2**-20),
        Metric("fast_failed_share", "/fast failed, %", factor=100),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="`/fast` p99 with 4 clients, times that of a forkserver `ProcessPoolExecutor`",
            value="fast_ms p99",
            parameters={"clients": 4},
            relation="at most",
            limit=1 / 3,
            reference="executor-forkserver",
        ),
        Claim(
            text="files a second with 4 clients, as a share of the best contender's",
            value="files_per_second",
            parameters={"clients": 4},
            relation="at least",
            limit=1.0,
            contender=OURS,
            reference="best",
        ),
    ),
    plots=(
        Plot(
            "curves",
            "fast_ms",
            "All percentiles of /fast while 4 clients send and get 16 MiB each",
            "To the right are the rarest, slowest requests.",
            where=_FOUR,
        ),
        Plot(
            "dots",
            "files_per_second",
            "Files of 16 MiB a second, there and back, 4 clients",
            "More is better.",
            where=_FOUR,
            is_log=False,
        ),
    ),
    seconds=4.0,
    quick_seconds=0.5,
    timeout_ms=_TIMEOUT_SECONDS * 1e3,
)

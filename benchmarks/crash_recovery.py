"""What do crashes cost? A worker is killed every second, while requests keep all of them busy.

Varied: the contender. Held: 8 closed-loop clients of 50 ms of pure computation, `/fast` asked 50
times a second, SIGKILL every second for the worker that has computed most of late; a client gives
up after 5 s. First the same without kills. Values are the requests that failed or were given up for
each kill, heavy throughput as a share of that without kills, the same share in the last quarter of
the time (0: it broke for good), and `/fast`. Refuted if a kill costs `offload` more than one
request, or its throughput is below 80 % of that without kills.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from benchmarks.suite.load import disturbances, latencies, load
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario
from benchmarks.suite.servers import serve
from offload._bench.machine import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.suite.servers import Server

_HEAVY_MS = 50
_CLIENTS = 8
_FAST_RATE = 50
_EVERY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 5.0
_WARM_UP_SECONDS = 0.5


def skips(contender: Contender) -> str | None:
    """Refuse what has no workers that can be killed alone."""
    return None if contender.has_processes else "it has no worker processes that could be killed"


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """There is one."""
    return [{}]


def busiest(server: Server, seconds: float) -> int | None:
    """Return which process below the server used most CPU in so many seconds; None: none did."""
    before = read()
    time.sleep(seconds)
    after = read()
    if before is None or after is None:
        return None
    used = {
        pid: after.processes[pid].cpu_seconds - before.processes[pid].cpu_seconds
        for pid in after.tree([server.pid]) - {server.pid}
        if pid in before.processes
    }
    pid = max(used, key=lambda each: used[each], default=None)
    return pid if pid is not None and used[pid] > 0 else None


def kill(server: Server, until: float, every: float) -> int:
    """Kill the busiest worker again and again; return how often one was killed."""
    killed = 0
    due = time.monotonic()
    while (due := due + every) < until:
        time.sleep(max(due - _LOOK_SECONDS - time.monotonic(), 0))
        worker = busiest(server, _LOOK_SECONDS)
        if worker is not None:
            try:
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
    return killed


def measure(contender: Contender, _: Sequence[Parameters], context: Context) -> Iterator[Measured]:
    """Measure without kills, then with them, on one server."""

    def once() -> Measured:
        with serve(contender, context.settings.workers) as server:
            return under_fire(server, context.loops(contender, _HEAVY_MS), context)

    yield context.undisturbed(once)


def under_fire(server: Server, loops: int, context: Context) -> Measured:
    """Measure one server."""
    arguments = [
        *("--fast", "/fast", "--rate", str(_FAST_RATE), "--timeout", str(_PATIENCE_SECONDS)),
        *("--heavy", f"/heavy?n={loops}", "--clients", str(_CLIENTS)),
    ]
    seconds = context.seconds
    calm = load(
        server, *arguments, "--hang-up", seconds=max(seconds / 4, 0.3), warm_up=_WARM_UP_SECONDS
    )
    every = min(_EVERY_SECONDS, seconds / 2)
    with ThreadPoolExecutor(1) as thread:
        until = time.monotonic() + _WARM_UP_SECONDS + seconds
        killing = thread.submit(kill, server, until, every)
        result = load(server, *arguments, seconds=seconds, warm_up=_WARM_UP_SECONDS)
        kills = killing.result()
    heavy, (fast,), health = result["heavy"], result["fast"], result["health"]
    usual = calm["heavy"]["per_second"] or 1.0
    failed = sum(heavy["errors"].values()) + sum(
        count for status, count in heavy["statuses"].items() if int(status) >= 400
    )
    last = sum(ended > seconds * 750 for ended in heavy["ended_ms"]) / (seconds / 4)
    return Measured(
        {},
        values={
            "kills": kills,
            "failed_per_kill": failed / kills if kills else None,
            "throughput_share": heavy["per_second"] / usual,
            "last_quarter_share": last / usual,
        },
        samples={"fast_ms": latencies(fast)},
        health=health,
        disturbed=disturbances(health),
    )


scenario = Scenario(
    name="crash_recovery",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("failed_per_kill", "requests failed per kill", is_headline=True),
        Metric(
            "throughput_share",
            "throughput, % of that without kills",
            "more",
            factor=100,
            is_headline=True,
        ),
        Metric("last_quarter_share", "in the last quarter, %", "more", factor=100),
        Metric("fast_ms", "/fast p50, ms", fraction=0.5),
        Metric("fast_ms", "/fast p99, ms", fraction=0.99, is_headline=True),
        Metric("kills", "kills", better=None),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="requests failed per kill", value="failed_per_kill", relation="at most", limit=1.0
        ),
        Claim(
            text="throughput, % of that without kills",
            value="throughput_share",
            relation="at least",
            limit=80,
        ),
    ),
    plots=(
        Plot(
            "dots",
            "throughput_share",
            "Throughput while a worker is killed every second, % of that without kills",
            "More is better; 0 is a pool that is broken for good.",
            is_log=False,
        ),
    ),
    repetitions=2,
    seconds=12.0,
    quick_seconds=1.0,
    timeout_ms=_PATIENCE_SECONDS * 1e3,
)

"""What becomes of a server that gets twice as many heavy requests as it can run?

Varied: the contender. Held: 50 ms of pure computation per request, Poisson arrivals at twice the
capacity that this server has just shown to 16 clients in a row, open loop; a client waits 5 s, then
leaves; `/fast` is asked 50 times a second meanwhile. `offload` has a queue of 30 calls, past which
it refuses with a 503 (with its default of 1,000 it would make its clients wait as the others do);
the others have no limit to set. Goodput is answers in time, as a share of capacity; recovery is how
long after the end of the load a request takes twice its usual time or less. A `Retry-After` is
right if it is within a factor of two of how long those took that were accepted around then. Refuted
if the goodput of `offload` is below 95 % of capacity, the p99 of its refusals is above 5 ms, one in
twenty of its `Retry-After`s is wrong, or it needs over 1 s to recover.
"""

from __future__ import annotations

import bisect
import contextlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.suite.load import disturbances, latencies, load
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario
from benchmarks.suite.servers import serve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.suite.servers import Server

_HEAVY_MS = 50
_FACTOR = 2.0
_CLIENTS = 16
_CAPACITY_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0
_FAST_RATE = 50
_QUEUED = 30
_WARM_UP_SECONDS = 0.5
# After this, how long recovery takes no longer matters.
_RECOVERY_SECONDS = 60.0
_REFUSED = 503
# So many that were accepted say how long it took around then.
_NEIGHBOURS = 20
_RIGHT_FACTOR = 2.0
# The generator waits with select, which knows 1024 descriptors: more than this never wait at once.
_CONNECTIONS = 450


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """There is one."""
    return [{}]


def measure(contender: Contender, _: Sequence[Parameters], context: Context) -> Iterator[Measured]:
    """Measure capacity, then twice that, then recovery, on one server."""

    def once() -> Measured:
        limit = {"MAX_QUEUED": str(_QUEUED)} if contender.is_bounded else {}
        with serve(contender, context.settings.workers, limit) as server:
            return overloaded(server, f"/heavy?n={context.loops(contender, _HEAVY_MS)}", context)

    yield context.undisturbed(once)


def overloaded(server: Server, heavy: str, context: Context) -> Measured:
    """Measure one server."""
    alone = statistics.median(asked(server, heavy) for _ in range(5))
    seconds = min(_CAPACITY_SECONDS, context.seconds)
    before = load(
        server,
        *("--heavy", heavy, "--clients", str(_CLIENTS), "--hang-up"),
        seconds=seconds,
        warm_up=_WARM_UP_SECONDS,
    )
    capacity = before["heavy"]["per_second"] or 1.0
    # What the clients that hung up have left behind is not part of the load to come.
    recovery(server, heavy, alone)
    server.lags()
    arguments = [
        *("--fast", heavy, "--fast", "/fast", "--arrivals", "poisson"),
        *("--rate", str(_FACTOR * capacity), "--rate", str(_FAST_RATE)),
        *("--timeout", str(_PATIENCE_SECONDS), "--connections", str(_CONNECTIONS)),
    ]
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        loaded = thread.submit(
            load, server, *arguments, seconds=context.seconds, warm_up=_WARM_UP_SECONDS
        )
        # The generator takes a moment to start; it tells when it did.
        time.sleep(max(begin + _WARM_UP_SECONDS + context.seconds + 0.5 - time.monotonic(), 0))
        recovered_at = time.monotonic() + recovery(server, heavy, alone)
        result = loaded.result()
    end = result["started_monotonic"] + context.seconds
    return result_of(result, capacity, max(recovered_at - end, 0.0), server, context)


def result_of(
    result: dict[str, Any], capacity: float, recovery: float, server: Server, context: Context
) -> Measured:
    """Return what the raw results have of it."""
    heavy, fast = result["fast"]
    health = result["health"]
    pairs = list(zip(heavy["latency_ms"], heavy["status"], strict=True))
    count = max(len(pairs), 1)
    accepted = [took for took, status in pairs if status == 200]
    in_vain = heavy["errors"].get("timeout", 0)
    return Measured(
        {},
        values={
            "capacity_per_second": capacity,
            "goodput_share": len(accepted) / context.seconds / capacity,
            "refused_share": sum(status == _REFUSED for _, status in pairs) / count,
            "given_up_share": in_vain / count,
            "recovery_seconds": recovery,
            "right_share": right_share(heavy),
        },
        samples={
            "accepted_ms": accepted,
            "refusal_ms": [took for took, status in pairs if status == _REFUSED],
            "fast_ms": latencies(fast),
            "lag_ms": server.lags(),
        },
        health=health,
        disturbed=disturbances(health),
    )


def right_share(stream: dict[str, Any]) -> float | None:
    """Return which part of the refusals told rightly how long to wait; None: none told anything."""
    names = "intended_ms", "latency_ms", "status", "retry_after"
    rows = list(zip(*(stream[name] for name in names), strict=True))
    accepted = [(at, took) for at, took, status, _ in rows if status == 200]
    told = [(at, seconds * 1e3) for at, _, _, seconds in rows if seconds is not None]
    if not told or len(accepted) < _NEIGHBOURS:
        return None
    starts = [at for at, _ in accepted]
    right = 0
    for at, wait in told:
        middle = bisect.bisect(starts, at)
        first = min(max(middle - _NEIGHBOURS // 2, 0), len(accepted) - _NEIGHBOURS)
        around = statistics.median(took for _, took in accepted[first : first + _NEIGHBOURS])
        right += 1 / _RIGHT_FACTOR <= wait / around <= _RIGHT_FACTOR
    return right / len(told)


def asked(server: Server, path: str) -> float:
    """Return how many seconds a request takes."""
    begin = time.monotonic()
    with contextlib.suppress(OSError):
        server.ask(path, timeout=_RECOVERY_SECONDS)
        return time.monotonic() - begin
    # Refused: it has not recovered.
    return _RECOVERY_SECONDS


def recovery(server: Server, path: str, usual: float) -> float:
    """Wait until a request takes at most twice its usual time; return how long that was."""
    begin = time.monotonic()
    while time.monotonic() - begin < _RECOVERY_SECONDS:
        asking = time.monotonic()
        if asked(server, path) < 2 * usual:
            return asking - begin
        time.sleep(0.01)
    return _RECOVERY_SECONDS


scenario = Scenario(
    name="overload",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("goodput_share", "goodput, % of capacity", "more", factor=100, is_headline=True),
        Metric("refused_share", "refused, %", better=None, factor=100),
        Metric("given_up_share", "given up, %", factor=100),
        Metric("accepted_ms", "accepted p50, ms", fraction=0.5, is_headline=True),
        Metric("accepted_ms", "accepted p99, ms", fraction=0.99),
        Metric("refusal_ms", "refusal p99, ms", fraction=0.99),
        Metric("right_share", "Retry-After right, %", "more", factor=100),
        Metric("fast_ms", "/fast p50, ms", fraction=0.5),
        Metric("fast_ms", "/fast p99, ms", fraction=0.99, is_headline=True),
        Metric("lag_ms", "loop lag p99, ms", fraction=0.99),
        Metric("recovery_seconds", "recovery, s", is_headline=True, given_up_at=_RECOVERY_SECONDS),
        Metric("capacity_per_second", "capacity, heavy/s", better="more"),
    ),
    cells=cells,
    measure=measure,
    claims=(
        Claim(text="goodput, % of capacity", value="goodput_share", relation="at least", limit=95),
        Claim(text="refusal p99, ms", value="refusal_ms p99", relation="at most", limit=5),
        Claim(
            text="`Retry-After` within a factor of two, % of refusals",
            value="right_share",
            relation="at least",
            limit=95,
        ),
        Claim(text="recovery, s", value="recovery_seconds", relation="at most", limit=1.0),
    ),
    plots=(
        Plot(
            "dots",
            "goodput_share",
            "Goodput at twice the capacity",
            "More is better. Work that was done for clients who had left is no goodput.",
            is_log=False,
        ),
        Plot(
            "dots",
            "recovery_seconds",
            "Seconds until requests take their usual time again, after the load has ended",
            "Less is better; a server that never refuses works off what nobody waits for.",
        ),
    ),
    repetitions=1,
    seconds=60.0,
    quick_seconds=0.5,
    timeout_ms=_PATIENCE_SECONDS * 1e3,
)

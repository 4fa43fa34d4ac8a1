"""Load from a process of its own: open-loop streams of requests, and closed-loop heavy clients.

    python -m offload._bench.load BASE --fast /fast --rate 200 --heavy /heavy --clients 8

`BASE` is a port on 127.0.0.1 or a URL; a path below may be a URL of another host. A request of an
open-loop stream (`--fast`, as often as wanted) has an intended send time, and its latency counts
from that: a server that freezes is charged for every request that it kept from being sent or
answered in time, not only for the one that it froze on (coordinated omission; wrk2's README tells
the story). A heavy client sends its next request when the last one is answered, or 50 ms after it
was refused; at the end it waits for its last answer, or leaves with `--hang-up`.
`{lognormal:MEDIAN:SIGMA}` in a path is replaced by a whole number drawn anew for each request. What
happens in the warm-up is done and not counted.

Prints one JSON object, and nothing else, on standard output. Keys are only ever added:

    version         1
    started_unix, started_monotonic     `time.time()`, `time.monotonic()` when the counting began
    seconds, warm_up, timeout, connections, seed        as given
    fast            a list, one object for each --fast, in that order:
        target          method and URL
        rate, arrivals  requests a second; "uniform" or "poisson"
        intended_ms     intended send times since the start, ascending
        latency_ms      of the same requests: from the intended time to the last byte of the
                        answer, of whatever status. One that was given up at the time-out has
                        the time it had waited; null: it failed in another way
        status          of the same requests: of the answer; null without one
        retry_after     of the same requests: seconds in the answer's Retry-After; null without
        statuses        {"200": answers, …}
        errors          {"timeout" | "refused" | "reset" | "bad answer" | …: requests}
        lateness_ms     {"p50", "p99", "max"}: the generator's own delay, part of the latency
    heavy           one object:
        targets, clients
        completed       answers with a status below 400 that ended within the time
        per_second      `completed` by time
        each            `completed` of each client
        ended_ms, round_trip_ms     of each of these answers: when, since the start; how long
        statuses, errors            of all requests that ended within the time
    health          of the measurement itself:
        lateness_ms     of all streams together
        nice            the generator's priority; it asks for -10
        cpu_seconds     the generator's own
        cpus            of the machine
        busy_share, steal_share     of the machine's CPU time: used by anybody; taken by the
                                    hypervisor. null: not known (no /proc)
        others_share    used by processes that are neither the generator nor below a --server-pid.
                        null: not known, or no --server-pid
        server_cpu_seconds          of the trees below the --server-pid, or null
        disturbed       texts; not empty: measure again
        causes          what they are about, a list of "steal", "others", "lateness". The last one
                        alone may be the server's doing, where it leaves no CPU to anybody
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import selectors
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from offload._bench.generator import HeavyClients, Prober
from offload._bench.machine import Reading, read, usage
from offload._bench.numbers import summary
from offload._bench.plan import plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload._bench.plan import Plan

__all__ = ["main"]

_VERSION = 1
_NICE = -10
_SWITCH_SECONDS = 1e-4
# Beyond these the numbers say more about the machine than about the server. Arbitrary, and met by
# an idle laptop.
_OTHERS_SHARE = 0.10
_STEAL_SHARE = 0.02
_LATENESS_MS = 5.0


async def run(plan: Plan) -> dict[str, Any]:
    """Do what the plan says; return the object that `main` prints."""
    start = time.perf_counter() + plan.warm_up
    # Each part draws its own numbers: the arrivals are the same whatever the server does.
    probers = [
        Prober(stream, plan, start, random.Random(plan.seed + number))  # noqa: S311 - arrivals
        for number, stream in enumerate(plan.fast)
    ]
    heavy = HeavyClients(plan, start, random.Random(plan.seed - 1))  # noqa: S311 - sizes

    async def observe() -> tuple[float, Reading | None, Reading | None]:
        await asyncio.sleep(start - time.perf_counter())
        # A reading takes some ms: off the loop, so that no request is late for it.
        cpu, before = time.process_time(), await asyncio.to_thread(read)
        await asyncio.sleep(start + plan.seconds - time.perf_counter())
        return time.process_time() - cpu, before, await asyncio.to_thread(read)

    observing = asyncio.create_task(observe())
    heavies, *streams = await asyncio.gather(heavy.run(), *(prober.run() for prober in probers))
    cpu, before, after = await observing
    ago = time.perf_counter() - start
    lateness = summary([late for prober in probers for late in prober.lateness])
    return {
        "version": _VERSION,
        "started_unix": time.time() - ago,
        "started_monotonic": time.monotonic() - ago,
        "seconds": plan.seconds,
        "warm_up": plan.warm_up,
        "timeout": plan.timeout,
        "connections": plan.connections,
        "seed": plan.seed,
        "fast": streams,
        "heavy": heavies,
        "health": health(plan, lateness, cpu, before, after),
    }


def health(
    plan: Plan,
    lateness: dict[str, float | None],
    cpu: float,
    before: Reading | None,
    after: Reading | None,
) -> dict[str, Any]:
    """Return how far the measurement can be trusted."""
    found: dict[str, Any] = {
        "lateness_ms": lateness,
        "nice": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "cpu_seconds": round(cpu, 4),
        "cpus": os.cpu_count(),
        "busy_share": None,
        "steal_share": None,
        "others_share": None,
        "server_cpu_seconds": None,
    }
    disturbed: dict[str, str] = {}
    if before is not None and after is not None:
        used = usage(before, after, plan.server_pids)
        available = after.cpus * plan.seconds
        found["cpus"] = after.cpus
        found["busy_share"] = round(used.busy / available, 4)
        found["steal_share"] = steal = round(used.steal / available, 4)
        if steal > _STEAL_SHARE:
            disturbed["steal"] = f"the hypervisor took {steal:.0%} of the CPU time"
        if plan.server_pids:
            found["server_cpu_seconds"] = round(used.tree, 3)
            others = round(max(used.busy - used.tree - cpu, 0.0) / available, 4)
            found["others_share"] = others
            if others > _OTHERS_SHARE:
                disturbed["others"] = f"other processes took {others:.0%} of the CPU time"
    late = lateness["p99"]
    if late is not None and late > _LATENESS_MS:
        disturbed["lateness"] = f"1 % of the requests were sent more than {late:.1f} ms late"
    found["disturbed"], found["causes"] = list(disturbed.values()), list(disturbed)
    return found


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are exact.

    epoll, and uvloop with it, counts in milliseconds: half a millisecond late on average, which is
    as long as a fast answer takes. select takes microseconds, and has few connections to look at.
    """
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    plan = plan_of(argv)
    # What keeps the generator from sending in time is charged to the server. It uses little.
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    # Nothing here makes cycles worth collecting, and a collection is a pause.
    gc.disable()
    # Nor does a reading of /proc, on its thread, hold up the loop for the default of 5 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        result = runner.run(run(plan))
    json.dump(result, sys.stdout, separators=(",", ":"), allow_nan=False)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

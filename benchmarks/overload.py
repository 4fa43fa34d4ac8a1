"""What does a pool do with twice as many calls as it can run?

Varied: the load, from capacity (measured in this run, before and after) to `--factor` times that.
Held: one function that holds a worker for `--seconds`, two workers, a queue of `--queued`, arrivals
at random (open loop: a slow answer delays no arrival; times count from the intended one). Goodput
is calls completed a second. What a refused caller was told is compared with how long those waited
that were admitted within the same half second. Refuted if goodput is below 95 % of capacity, the
99th percentile of refusals above 5 ms, `retry_after` off by more than a factor of two, or a call
one second after the load's end waits longer than one before it.

    python -m benchmarks.overload [--duration 10] [--factor 2] [--seconds 0.02] [--asleep]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import time
from dataclasses import dataclass, field

from benchmarks.functions import hold
from offload import Pool, QueueFullError

_WORKERS = 2
_CAPACITY_SECONDS = 3.0
_WINDOW_SECONDS = 0.5


@dataclass
class Record:
    """What came of the calls of one load; instants are seconds since its beginning."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    told: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)


async def watch(lags: list[float]) -> None:
    """Note how late the event loop is, every millisecond."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - begin - 0.001)


async def capacity(pool: Pool, arguments: argparse.Namespace) -> float:
    """Return the calls a second that the workers can run, always having one to run."""
    done = 0
    end = time.perf_counter() + _CAPACITY_SECONDS

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await pool.run(hold, arguments.seconds, is_busy=not arguments.asleep)
            done += 1

    await asyncio.gather(*(one() for _ in range(2 * _WORKERS)))
    return done / _CAPACITY_SECONDS


async def overload(pool: Pool, rate: float, arguments: argparse.Namespace) -> Record:
    """Send calls at a rate, whatever becomes of them."""
    record = Record()
    origin = time.perf_counter()
    calls: set[asyncio.Task[None]] = set()

    async def one(intended: float) -> None:
        begin = time.perf_counter()
        try:
            await pool.run(hold, arguments.seconds, is_busy=not arguments.asleep)
        except QueueFullError as full:
            record.refusals.append(time.perf_counter() - origin - intended)
            record.told.append((begin - origin, full.retry_after))
        else:
            now = time.perf_counter() - origin
            record.waits.append((begin - origin, now - intended - arguments.seconds))

    watching = asyncio.create_task(watch(record.lags))
    intended = 0.0
    while intended < arguments.duration:
        intended += random.expovariate(rate)
        await asyncio.sleep(max(0.0, origin + intended - time.perf_counter()))
        call = asyncio.create_task(one(intended))
        calls.add(call)
        call.add_done_callback(calls.discard)
    watching.cancel()
    return record


async def recovery(pool: Pool, usual: float, arguments: argparse.Namespace) -> float:
    """Return seconds until a call takes no longer than twice what is usual."""
    end = time.perf_counter()
    for _ in itertools.count():
        begin = time.perf_counter()
        try:
            await pool.run(hold, arguments.seconds, is_busy=not arguments.asleep)
        except QueueFullError:
            await asyncio.sleep(0.005)
            continue
        if time.perf_counter() - begin < 2 * usual:
            return begin - end
    raise AssertionError


def factors(record: Record) -> list[float]:
    """Return, for each refused call, what it was told over what the admitted ones waited."""
    found: list[float] = []
    for instant, seconds in record.told:
        near = [wait for at, wait in record.waits if abs(at - instant) < _WINDOW_SECONDS / 2]
        if near and instant > 1.0:  # the queue fills first
            found.append(seconds / max(statistics.median(near), 1e-3))
    return found


def quantile(values: list[float], part: float) -> float:
    """Return a quantile, nan if there is nothing."""
    return sorted(values)[int(len(values) * part)] if values else float("nan")


async def main(arguments: argparse.Namespace) -> None:
    """Measure capacity, overload, recovery and capacity again, and print them."""
    async with Pool("overload", max_workers=_WORKERS, max_queued=arguments.queued) as pool:
        await capacity(pool, arguments)  # warm
        before = await capacity(pool, arguments)
        usual: list[float] = []
        for _ in range(20):
            begin = time.perf_counter()
            await pool.run(hold, arguments.seconds, is_busy=not arguments.asleep)
            usual.append(time.perf_counter() - begin)
        completed = pool.statistics().completed
        begin = time.perf_counter()
        record = await overload(pool, before * arguments.factor, arguments)
        goodput = (pool.statistics().completed - completed) / (time.perf_counter() - begin)
        recovered = await recovery(pool, statistics.median(usual), arguments)
        after = await capacity(pool, arguments)
    held = (before + after) / 2
    told = factors(record)
    right = sum(0.5 <= each <= 2.0 for each in told) / max(len(told), 1)
    print(f"capacity before, after       {before:8.1f} {after:8.1f} calls/s")
    print(f"goodput at {arguments.factor:g} x              {goodput:8.1f} calls/s")
    print(f"goodput / capacity           {goodput / held:8.3f}")
    print(
        f"refused                      {len(record.refusals):8} of "
        f"{len(record.refusals) + len(record.waits)}"
    )
    print(
        f"refusal p50, p99             {quantile(record.refusals, 0.5) * 1e3:8.2f} "
        f"{quantile(record.refusals, 0.99) * 1e3:8.2f} ms"
    )
    print(
        f"retry_after / real wait      p5 {quantile(told, 0.05):.2f}  p50 "
        f"{quantile(told, 0.5):.2f}  p95 {quantile(told, 0.95):.2f}"
    )
    print(f"  within a factor of 2       {right:8.1%}")
    print(
        f"usual call, recovery         {statistics.median(usual) * 1e3:8.1f} ms {recovered:8.3f} s"
    )
    print(
        f"event-loop lag p99, max      {quantile(record.lags, 0.99) * 1e3:8.2f} "
        f"{max(record.lags) * 1e3:8.2f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--duration", type=float, default=10.0)
    parser.add_argument("--factor", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--queued", type=int, default=20)
    parser.add_argument("--asleep", action="store_true", help="hold workers without using CPU")
    asyncio.run(main(parser.parse_args()))

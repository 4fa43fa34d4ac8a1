"""Does a pool stay as it is for hours? Memory, descriptors and processes under a mixed load.

Varied: time. Held: `--clients` clients that call without pause, each call drawn at random: small,
a large payload, an exception, a timeout, a crash, a cancellation, a shared run;
workers are replaced after eight tasks. The parent's resident memory, its descriptors
and its processes are read `--samples` times. Refuted if the last quarter holds more memory than the
second by over 5 %, or more descriptors or processes than the workers account for; or if a call
ends in a way that nobody asked for.

    python -m benchmarks.soak [--minutes 10] [--clients 16] [--samples 40]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import gc
import os
import random
import statistics
import time
from typing import TYPE_CHECKING

import psutil

from benchmarks import functions as f
from offload import Pool, QueueFullError, TaskTimeoutError, WorkerCrashedError, offload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pool = Pool("soak", max_workers=2, max_queued=100, max_tasks_per_worker=8, os_priority="low")
_BLOB = os.urandom(1 << 20)


# Functions of a module that workers import before they are ready.
echo, fail, crash, wait = map(offload(pool=pool), (f.echo, f.fail, f.crash, f.hold))


async def timed_out() -> None:
    """Run into a timeout."""
    await wait.options(timeout=0.02)(10.0, is_busy=False)


async def cancelled() -> None:
    """Leave while the call waits or runs."""
    async with asyncio.timeout(random.random() * 0.05):
        await wait(10.0, is_busy=False)


async def large() -> None:
    """Send and receive a megabyte."""
    if await echo(_BLOB) != _BLOB:
        raise AssertionError


KINDS: dict[str, tuple[int, Callable[[], Awaitable[object]], type[Exception] | None]] = {
    "small": (50, lambda: echo(1), None),
    "large": (20, large, None),
    "raises": (10, fail, LookupError),
    "timeout": (4, timed_out, TaskTimeoutError),
    "crash": (2, crash, WorkerCrashedError),
    "cancel": (6, cancelled, TimeoutError),
    "shared": (8, lambda: wait.options(single_flight=True)(0.005, is_busy=False), None),
}


async def main(arguments: argparse.Namespace) -> None:
    """Load the pool for the time given, sample, and print."""
    process = psutil.Process()
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    end = time.monotonic() + arguments.minutes * 60

    async def client() -> None:
        names = list(KINDS)
        weights = [KINDS[name][0] for name in names]
        while time.monotonic() < end:
            (name,) = random.choices(names, weights)
            _, call, expected = KINDS[name]
            try:
                async with asyncio.timeout(60):
                    await call()
                how = "as expected" if expected in (None, TimeoutError) else "no error"
            except QueueFullError:
                how = "refused"
                await asyncio.sleep(0.01)
            except Exception as error:  # noqa: BLE001 - counted by name
                is_meant = expected is not None and isinstance(error, expected)
                how = "as expected" if is_meant else repr(error)[:90]
            ends[name, how] += 1

    samples: list[tuple[float, int, int]] = []
    async with pool:
        clients = [asyncio.create_task(client()) for _ in range(arguments.clients)]
        pause = arguments.minutes * 60 / arguments.samples
        for _ in range(arguments.samples):
            await asyncio.sleep(pause)
            gc.collect()
            children = await asyncio.to_thread(process.children, recursive=True)
            samples.append((process.memory_info().rss / 2**20, process.num_fds(), len(children)))
        await asyncio.gather(*clients)
        recycled = pool.statistics().recycled
    await asyncio.sleep(0.05)  # descriptors that belong to this loop are closed on it
    print(f"{sum(ends.values())} calls in {arguments.minutes:g} min, {recycled} workers recycled")
    for (name, how), count in sorted(ends.items()):
        print(f"  {name:10} {how:40} {count:8}")
    quarter = max(len(samples) // 4, 1)
    print(f"{'':26}{'2nd quarter':>14}{'last quarter':>14}{'maximum':>10}")
    for index, what in enumerate(("RSS, MiB", "descriptors", "processes")):
        column = [sample[index] for sample in samples]
        second = statistics.median(column[quarter : 2 * quarter])
        last = statistics.median(column[-quarter:])
        print(f"{what:26}{second:14.1f}{last:14.1f}{max(column):10.1f}")
    print(f"after close: {process.num_fds()} descriptors, {len(process.children())} processes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--samples", type=int, default=40)
    asyncio.run(main(parser.parse_args()))

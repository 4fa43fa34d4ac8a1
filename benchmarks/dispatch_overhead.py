"""What does a call cost beyond its function? Round trip, event-loop CPU per call, throughput.

Varied: the contender, the event loop, the calls in flight. Held: a no-op function, two workers,
one process, contenders interleaved in rounds so that a noisy machine is noisy for all of them.
Quoted: the median over the rounds of the ratio within a round. Refuted if `offload` is not at
least 5 times faster than `run_in_executor(ProcessPoolExecutor)` and 2 times than
`anyio.to_process`.

    python -m benchmarks.dispatch_overhead [--rounds 7] [--calls 2000] [--loop asyncio|uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from anyio import to_process

from benchmarks.functions import noop, offloaded_noop
from benchmarks.prototype import Prototype
from offload import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_WORKERS = 2
_IN_FLIGHT = 64


async def measure(call: Callable[[], Awaitable[Any]], calls: int) -> dict[str, float]:
    """Return microseconds per serial call and per call of CPU, and calls a second in flight."""
    for _ in range(50):
        await call()
    times: list[float] = []
    cpu = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    limit = asyncio.Semaphore(_IN_FLIGHT)

    async def one() -> None:
        async with limit:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(calls)))
    elapsed = time.perf_counter() - start
    times.sort()
    return {
        "p50 us": times[calls // 2] * 1e6,
        "p99 us": times[int(calls * 0.99)] * 1e6,
        "cpu us": cpu / calls * 1e6,
        "calls/s": calls / elapsed,
    }


async def main(rounds: int, calls: int) -> None:
    """Run all contenders in turn, some rounds, and print medians and ratios."""
    # First, while this process has no threads: it forks.
    prototype = Prototype(_WORKERS)
    loop = asyncio.get_running_loop()
    executor = ProcessPoolExecutor(_WORKERS, mp_context=multiprocessing.get_context("forkserver"))
    contenders: dict[str, Callable[[], Awaitable[Any]]] = {
        "prototype": lambda: prototype.run(noop),
        "offload": offloaded_noop,
        "ProcessPoolExecutor": lambda: loop.run_in_executor(executor, noop),
        "anyio.to_process": lambda: to_process.run_sync(noop),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, call in contenders.items():
            print(f"\rround {number + 1} of {rounds}: {name:24}", end="", file=sys.stderr)
            results[name].append(await measure(call, calls))
    print(file=sys.stderr)
    prototype.close()
    executor.shutdown()
    await Pool.named("benchmark").aclose()
    keys = list(results["offload"][0])
    print(f"{type(loop).__module__}, Python {sys.version.split()[0]}, medians of {rounds} rounds")
    print(f"{'':22}" + "".join(f"{key:>10}" for key in keys) + "   offload/it, same keys")
    for name, rows in results.items():
        ratios = [
            statistics.median(
                mine[key] / theirs[key]
                for mine, theirs in zip(results["offload"], rows, strict=True)
            )
            for key in keys
        ]
        print(
            f"{name:22}"
            + "".join(f"{statistics.median(row[key] for row in rows):10.1f}" for key in keys)
            + "   "
            + "".join(f"{ratio:8.2f}" for ratio in ratios)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    arguments = parser.parse_args()
    if arguments.loop == "uvloop":
        import uvloop

        uvloop.run(main(arguments.rounds, arguments.calls))
    else:
        asyncio.run(main(arguments.rounds, arguments.calls))

"""What do megabytes cost, in and out: round trip, and how long is the event loop held?

Varied: the payload, the contender. Held: a function that returns its argument, two workers of each
contender, payloads and contenders interleaved in rounds, one call at a time; a task that wakes each
millisecond measures by how much it is late. Quoted: medians over the rounds of the round trip and
of the largest lag, and the median of the ratio within a round. Refuted if 64 MiB of a buffer hold
the loop for over 10 ms, 1 MiB for over 2 ms or small dicts for over 25 ms; if buffers are not twice
as fast as with `ProcessPoolExecutor`, or dicts slower than with it.

    python -m benchmarks.payload [--rounds 7] [--loop asyncio|uvloop] [--only bytes]
                                 [--os-priority idle|low|normal]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.functions import echo
from offload import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_WORKERS = 2
_MIB = 1 << 20


def payloads() -> dict[str, tuple[Any, int]]:
    """Return what is sent, and how many times in a round."""
    noise = os.urandom(_MIB)
    dicts = [{"id": i, "name": f"name {i}", "value": i / 7} for i in range(120_000)]
    return {
        "100 bytes": (b"x" * 100, 500),
        "1 MiB bytes": (noise, 20),
        "1 MiB bytearray": (bytearray(noise), 20),
        "1 MiB array": (np.frombuffer(noise, dtype="f8").copy(), 20),
        "64 MiB bytes": (noise * 64, 2),
        "64 MiB bytearray": (bytearray(noise * 64), 2),
        "64 MiB float64 array": (np.frombuffer(noise * 64, dtype="f8").copy(), 2),
        "6 MiB of small dicts": (dicts, 2),
    }


async def measure(
    call: Callable[[Any], Awaitable[Any]], value: Any, times: int
) -> tuple[float, float]:
    """Return the milliseconds of the median round trip, and the largest lag of the loop."""
    lag = 0.0
    is_on = False

    async def tick() -> None:
        nonlocal lag
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            if is_on:
                lag = max(lag, time.perf_counter() - begin - 0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    took: list[float] = []
    for _ in range(times):
        is_on = True
        begin = time.perf_counter()
        result = await call(value)
        took.append(time.perf_counter() - begin)
        await asyncio.sleep(0.003)
        is_on = False
        if len(result) != len(value):
            raise AssertionError
        # Who frees the result holds the loop as well, but that is the user's own.
        await asyncio.to_thread(lambda: None)
        del result
    ticking.cancel()
    return statistics.median(took) * 1e3, lag * 1e3


async def main(rounds: int, only: str, os_priority: Any = "idle") -> None:
    """Run everything in turn, some rounds, and print medians and ratios."""
    loop = asyncio.get_running_loop()
    executor = ProcessPoolExecutor(_WORKERS, mp_context=multiprocessing.get_context("forkserver"))
    pool = Pool("payload", max_workers=_WORKERS, os_priority=os_priority)
    contenders: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "offload": lambda value: pool.run(echo, value),
        "stdlib": lambda value: loop.run_in_executor(executor, echo, value),
    }
    values = {name: each for name, each in payloads().items() if only in name}
    results: dict[tuple[str, str], list[tuple[float, float]]] = {}
    async with pool:
        for call in contenders.values():
            await asyncio.gather(*(call(b"warm") for _ in range(4 * _WORKERS)))
        for number in range(rounds):
            for name, (value, times) in values.items():
                for contender, call in contenders.items():
                    print(
                        f"\rround {number + 1} of {rounds}: {name:22} {contender:8}",
                        end="",
                        file=sys.stderr,
                    )
                    results.setdefault((name, contender), []).append(
                        await measure(call, value, times)
                    )
    print(file=sys.stderr)
    executor.shutdown()
    print(f"{type(loop).__module__}, Python {sys.version.split()[0]}, medians of {rounds} rounds")
    print(f"{'':22}{'round trip, ms':>22}{'':8}{'largest lag, ms':>24}")
    print(
        f"{'in and out':22}{'offload':>11}{'stdlib':>11}{'ratio':>8}{'offload':>12}{'stdlib':>12}"
    )
    for name in values:
        mine, theirs = results[name, "offload"], results[name, "stdlib"]
        ratio = statistics.median(
            left / right for (left, _), (right, _) in zip(mine, theirs, strict=True)
        )
        columns = [
            statistics.median(row[index] for row in rows)
            for index in (0, 1)
            for rows in (mine, theirs)
        ]
        print(
            f"{name:22}{columns[0]:11.2f}{columns[1]:11.2f}{ratio:8.2f}"
            f"{columns[2]:12.2f}{columns[3]:12.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--only", default="", help="payloads whose name has this in it")
    parser.add_argument(
        "--os-priority",
        choices=("idle", "low", "normal"),
        default="idle",
        help="of the pool's workers; on a machine that others keep busy, only normal compares",
    )
    arguments = parser.parse_args()
    running = main(arguments.rounds, arguments.only, arguments.os_priority)
    if arguments.loop == "uvloop":
        import uvloop

        uvloop.run(running)
    else:
        asyncio.run(running)

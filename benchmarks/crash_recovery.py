"""What do crashes cost? Calls while a worker is killed every few milliseconds.

Varied: nothing. Held: `--calls` calls of a few milliseconds, two workers, 32 calls in flight,
and SIGKILL for a worker that is busy every `--every` seconds. Counted: calls that ended with
`WorkerCrashedError`, against kills that hit a running call; processes and descriptors before,
during and after. Refuted if a call is lost that was not running on a worker that was killed, if
one ends twice or never, or if anything is left behind. With `--retry` crashed calls are run again,
and none may be lost.

    python -m benchmarks.crash_recovery [--calls 10000] [--every 0.05] [--retry]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import signal
import time

import psutil

from benchmarks.functions import hold
from offload import Pool, WorkerCrashedError, offload

_IN_FLIGHT = 32
_HANG_SECONDS = 600.0

pool = Pool("crashes", max_workers=2)


# The function of a module that workers import before they are ready: else each of them would run
# this script for its first call, and the benchmark would measure that.
short = offload(pool=pool)(hold)
_SECONDS = 0.002


class Killer:
    """Kills a busy worker now and then, and remembers which."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    async def run(self, every: float) -> None:
        """Kill until cancelled."""
        while True:
            await asyncio.sleep(every)
            for worker in pool.statistics().workers:
                if worker.state == "busy" and worker.pid is not None:
                    # The supervisor has not reaped it, or it would not be listed.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.pid, signal.SIGKILL)
                        self.pids.append(worker.pid)
                    break


async def main(arguments: argparse.Namespace) -> None:
    """Run all calls under fire, and print what became of them."""
    process = psutil.Process()
    ends: collections.Counter[str] = collections.Counter()
    crashed: list[int | None] = []
    most = collections.Counter[str]()
    function = short.options(retry_on_crash=100 if arguments.retry else 0)
    outside = process.num_fds(), len(process.children(recursive=True))
    async with pool:
        await asyncio.gather(*(short(_SECONDS, is_busy=False) for _ in range(100)))
        inside = process.num_fds(), len(process.children(recursive=True))
        limit = asyncio.Semaphore(_IN_FLIGHT)
        seen: collections.Counter[int] = collections.Counter()

        async def one(number: int) -> None:
            async with limit:
                try:
                    await function(_SECONDS, is_busy=False)
                    ends["completed"] += 1
                except WorkerCrashedError as error:
                    ends["crashed, started" if error.started else "crashed, not started"] += 1
                    crashed.append(error.pid)
                seen[number] += 1

        async def watch() -> None:
            while True:
                most["descriptors"] = max(most["descriptors"], process.num_fds())
                most["children"] = max(
                    most["children"], len(await asyncio.to_thread(process.children))
                )
                await asyncio.sleep(0.25)

        killer = Killer()
        side = [asyncio.create_task(killer.run(arguments.every)), asyncio.create_task(watch())]
        begin = time.perf_counter()
        async with asyncio.timeout(_HANG_SECONDS):
            await asyncio.gather(*(one(number) for number in range(arguments.calls)))
        elapsed = time.perf_counter() - begin
        for task in side:
            task.cancel()
        await asyncio.sleep(0.5)
        settled = process.num_fds(), len(process.children(recursive=True))
        counts = pool.statistics()
    await asyncio.sleep(0.05)  # descriptors that belong to this loop are closed on it
    strangers = [pid for pid in crashed if pid not in killer.pids]
    twice = [pid for pid, times in collections.Counter(crashed).items() if times > 1]
    print(f"{arguments.calls} calls in {elapsed:.1f} s, {len(killer.pids)} workers killed")
    for how, count in sorted(ends.items()):
        print(f"  {how:24} {count:8}")
    print(f"  accounted for            {len(seen):8}, {seen.total() - len(seen)} twice")
    print(f"lost without a kill        {len(strangers):8}")
    print(f"two lost by one kill       {len(twice):8}")
    print(f"pool counts crashed        {counts.crashed:8}")
    print(
        f"descriptors, processes     before {outside}, open {inside}, "
        f"at most ({most['descriptors']}, -), after the fire {settled}, "
        f"closed {(process.num_fds(), len(process.children(recursive=True)))}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--every", type=float, default=0.05)
    parser.add_argument("--retry", action="store_true")
    asyncio.run(main(parser.parse_args()))

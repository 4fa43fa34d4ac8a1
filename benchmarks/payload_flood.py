"""What do a thousand megabytes at once cost, and what is left of them?

Varied: how the calls end: all at once within a byte limit, and with workers that are killed while
payloads are in flight. Held: 1,000 calls of 1 MiB each, 2 workers, `max_queued_bytes` of 64 MiB,
refused calls tried again. Told: how many came back whole, how often calls were refused, how far
the memory of server and workers together (PSS) went above the start, and what is left afterwards:
descriptors, anonymous files, shared memory. Refuted if a call is lost or comes back changed, if
memory grows beyond the limit by more than what the calls that are being made and run take (32 MiB),
or if anything is left.

    python -m benchmarks.payload_flood [--calls 1000] [--kills 20]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import time
from pathlib import Path

from benchmarks.functions import hold_and_echo
from offload import Pool, QueueFullError, WorkerCrashedError
from offload._bench.machine import pss_bytes

_MIB = 1 << 20
_LIMIT_BYTES = 64 * _MIB
_SLACK_BYTES = 32 * _MIB
_WORKERS = 2


class Watch:
    """The memory of this process and its workers, looked at until it is over."""

    def __init__(self) -> None:
        gc.collect()
        self.start = self.most = pss_bytes([os.getpid()]) or 0
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            now = await asyncio.to_thread(pss_bytes, [os.getpid()])
            self.most = max(self.most, now or 0)
            await asyncio.sleep(0.02)

    def stop(self) -> float:
        """Return by how many MiB it went above the start."""
        self._task.cancel()
        return (self.most - self.start) / _MIB


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def shared_mib() -> float:
    """Return how many MiB of shared memory the machine uses, all programs together."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def flood(pool: Pool, calls: int, kills: int) -> tuple[int, int, int]:
    """Make all calls at once; return how many came back whole, were refused, and lost a worker."""
    whole = refused = crashed = 0
    data = [bytes([number]) * _MIB for number in range(8)]

    async def one(number: int) -> None:
        nonlocal whole, refused, crashed
        value = data[number % len(data)]
        while True:
            try:
                result = await pool.run(hold_and_echo, value, 0.0)
            except QueueFullError as error:
                refused += 1
                await asyncio.sleep(min(error.retry_after, 0.2))
            except WorkerCrashedError:
                crashed += 1
            else:
                whole += result == value
                return

    async def killing() -> None:
        for _ in range(kills):
            await asyncio.sleep(0.05)
            busy = [each.pid for each in pool.statistics().workers if each.state == "busy"]
            if busy and busy[0] is not None:
                os.kill(busy[0], signal.SIGKILL)

    await asyncio.gather(*(one(number) for number in range(calls)), killing())
    return whole, refused, crashed


async def main(calls: int, kills: int) -> bool:
    """Run both floods and print what they cost; True if nothing refutes us."""
    is_fine = True
    print(
        f"{'':26}{'whole':>8}{'refused':>9}{'crashed':>9}{'seconds':>9}{'memory':>12}{'left':>24}"
    )
    for name, number in (("at once", 0), (f"{kills} workers killed", kills)):
        fds, shared = descriptors(), shared_mib()
        pool = Pool("flood", max_workers=_WORKERS, max_queued_bytes=_LIMIT_BYTES)
        async with pool:
            await asyncio.gather(*(pool.run(hold_and_echo, b"", 0.05) for _ in range(_WORKERS)))
            watch = Watch()
            begin = time.perf_counter()
            whole, refused, crashed = await flood(pool, calls, number)
            took = time.perf_counter() - begin
            grown = watch.stop()
        del pool
        gc.collect()
        await asyncio.sleep(0.5)
        fds_left, shared_left = descriptors() - fds, shared_mib() - shared
        left = f"{fds_left} fds, {shared_left:.0f} MiB shared"
        memory = f"+{grown:.0f} MiB"
        print(f"{name:26}{whole:8}{refused:9}{crashed:9}{took:9.1f}{memory:>12}{left:>24}")
        is_fine &= whole == calls and fds_left <= 0
        is_fine &= grown * _MIB < _LIMIT_BYTES + _SLACK_BYTES
    print("nothing refutes it" if is_fine else "REFUTED")
    return is_fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    raise SystemExit(0 if asyncio.run(main(arguments.calls, arguments.kills)) else 1)

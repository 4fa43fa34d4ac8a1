"""What do workers weigh that share a table of 256 MiB?

Varied: 1 and 4 workers; the table as a resource that is loaded before the workers are forked, or by
each of them at its first call. Held: an array of float64 that every worker has summed. Memory is
PSS of the supervisor and its workers together (a page shared by n processes counts as 1/n in each).
Refuted if four workers that share the table weigh more than one, by more than 40 MiB for each that
is added.

    python -m benchmarks.shared_resource [--mib 256]
"""

from __future__ import annotations

import argparse
import asyncio
import os

import psutil

from benchmarks.shared_table import total
from offload import Pool
from offload._bench.machine import pss_bytes

_MIB = 1 << 20
_PER_WORKER_MIB = 40


async def weigh(workers: int, *, is_preloaded: bool) -> float:
    """Return the MiB that the workers of a pool weigh together when each has read the table."""
    preload = ["numpy", "benchmarks.shared_table:table"] if is_preloaded else ["numpy"]
    async with Pool(
        "shared", min_workers=workers, max_workers=workers, spare_workers=0, preload=preload
    ) as pool:
        idle = workers
        while idle:  # until each has run something
            await asyncio.gather(*(pool.run(total) for _ in range(2 * workers)))
            idle = sum(1 for worker in pool.statistics().workers if not worker.tasks_done)
        processes = [child.pid for child in psutil.Process().children()]
        return (pss_bytes(processes) or 0) / _MIB


async def main(mib: int) -> bool:
    """Weigh all four and print them; True if nothing refutes us."""
    os.environ["TABLE_MIB"] = str(mib)
    weights = {
        (is_preloaded, workers): await weigh(workers, is_preloaded=is_preloaded)
        for is_preloaded in (True, False)
        for workers in (1, 4)
    }
    print(f"PSS of a pool that has read {mib} MiB, in MiB")
    print(f"{'':28}{'1 worker':>10}{'4 workers':>11}")
    for is_preloaded, name in ((True, "loaded before the fork"), (False, "loaded by each worker")):
        print(f"{name:28}{weights[is_preloaded, 1]:10.0f}{weights[is_preloaded, 4]:11.0f}")
    is_fine = weights[True, 4] - weights[True, 1] < 3 * _PER_WORKER_MIB
    print("nothing refutes it" if is_fine else "REFUTED")
    return is_fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256)
    raise SystemExit(0 if asyncio.run(main(parser.parse_args().mib)) else 1)

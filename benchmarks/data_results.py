"""What does `results="data"` cost? Round trips beside those of a pool that reads pickles.

    python -m benchmarks.data_results

Varied: how results are read, and what they are. Held: one worker of either pool, one call at a
time, asyncio; the two take turns, a few calls each, so that what disturbs one disturbs the other.
The arguments are small: the worker makes what it returns. Prints the median round trip of each in
milliseconds, and by how much a task that wakes each millisecond was late at most meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from offload import Pool

ROUNDS = 20
# Name of what is returned; calls in a turn.
CASES = {"nothing": 200, "100 B": 200, "dicts, 1 MiB": 3, "floats, 1 MiB": 3, "bytes, 64 MiB": 2}

_made: dict[str, Any] = {}


def value(name: str) -> Any:
    """Return a value, made once in each worker."""
    if name not in _made:
        rows = [{"id": n, "name": f"name {n}", "tags": ["a", "b"]} for n in range(18_000)]
        _made.update(
            {
                "nothing": None,
                "100 B": {"id": 1, "name": "x" * 60, "tags": [1, 2, 3]},
                "dicts, 1 MiB": rows,
                "floats, 1 MiB": [n / 7 for n in range(115_000)],
                "bytes, 64 MiB": bytes(64 << 20),
            }
        )
    return _made[name]


async def measured(pool: Pool, name: str, calls: int, taken: list[float]) -> float:
    """Call some times; return by how much the loop was late at most."""
    latest = 0.0

    async def watch() -> None:
        nonlocal latest
        while True:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            latest = max(latest, time.perf_counter() - begin - 0.001)

    watching = asyncio.create_task(watch()) if calls < 100 else None
    for _ in range(calls):
        begin = time.perf_counter()
        await pool.run(value, name)
        taken.append(time.perf_counter() - begin)
    if watching is not None:
        watching.cancel()
    return latest


async def main() -> None:
    """Measure, and print a table."""
    options: Any = {"max_workers": 1, "spare_workers": 0}
    async with (
        Pool("pickles", **options) as pickles,
        Pool("data", results="data", **options) as data,
    ):
        print(f"{'':>16}{'pickle, ms':>14}{'data, ms':>14}{'late, ms':>14}{'late, ms':>14}")
        for name, calls in CASES.items():
            taken: dict[str, list[float]] = {"pickles": [], "data": []}
            late = {"pickles": 0.0, "data": 0.0}
            for pool in (pickles, data):
                await pool.run(value, name)
            for _ in range(ROUNDS):
                for pool in (pickles, data):
                    latest = await measured(pool, name, calls, taken[pool.name])
                    late[pool.name] = max(late[pool.name], latest)
            medians = [statistics.median(each) * 1000 for each in taken.values()]
            lates = [each * 1000 for each in late.values()]
            print(f"{name:>16}" + "".join(f"{each:14.3f}" for each in (*medians, *lates)))


if __name__ == "__main__":
    asyncio.run(main())

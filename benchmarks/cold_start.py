"""How long does the first call take, in a fresh process?

Varied: the contender. Held: a no-op function, asyncio, everything imported that the contender's
documentation tells to import. The clock runs from just before the contender's import to the first
result; the process's own start, the same for all, is not counted. Refuted if `offload` takes more
than 1.5 times as long as a forkserver `ProcessPoolExecutor`, or longer than `anyio.to_process`.

    python -m benchmarks.cold_start [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

_START = "import asyncio, time\nstart = time.perf_counter()\n"
_SCRIPTS = {
    "offload": """
import offload
import_seconds = time.perf_counter() - start
from offload import Pool
from operator import pos as noop
async def main():
    await Pool.named().run(noop, 1)
    print(time.perf_counter() - start, import_seconds)
asyncio.run(main())
""",
    "offload decorated": """
from benchmarks.functions import offloaded_noop
async def main():
    await offloaded_noop()
    print(time.perf_counter() - start)
asyncio.run(main())
""",
    "offload spawn": """
from offload import Pool
from operator import pos as noop
pool = Pool("spawned", start_method="spawn")
async def main():
    await pool.run(noop, 1)
    print(time.perf_counter() - start)
asyncio.run(main())
""",
    "ProcessPoolExecutor": """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from operator import pos as noop
async def main():
    executor = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver"))
    await asyncio.get_running_loop().run_in_executor(executor, noop, 1)
    print(time.perf_counter() - start)
    executor.shutdown()
asyncio.run(main())
""",
    "anyio.to_process": """
from anyio import to_process
from operator import pos as noop
async def main():
    await to_process.run_sync(noop, 1)
    print(time.perf_counter() - start)
asyncio.run(main())
""",
}


def once(script: str) -> list[float]:
    """Run a script in a fresh interpreter and return the numbers that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", _START + script], stdout=subprocess.PIPE, check=True, text=True
    )
    return [float(word) for word in done.stdout.split()]


def main(rounds: int) -> None:
    """Run all contenders in turn, some rounds, and print medians and ratios."""
    results: dict[str, list[float]] = {name: [] for name in _SCRIPTS}
    imports: list[float] = []
    for number in range(rounds):
        for name, script in _SCRIPTS.items():
            print(f"\rround {number + 1} of {rounds}: {name:24}", end="", file=sys.stderr)
            seconds = once(script)
            results[name].append(seconds[0])
            imports += seconds[1:]
    print(file=sys.stderr)
    print(f"Python {sys.version.split()[0]}, medians of {rounds} rounds")
    for name, values in results.items():
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(results["offload"], values, strict=True)
        )
        print(f"{name:22}{statistics.median(values) * 1e3:8.1f} ms   offload/it {ratio:5.2f}")
    print(f"{'import offload':22}{statistics.median(imports) * 1e3:8.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    main(parser.parse_args().rounds)

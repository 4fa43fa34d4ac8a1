"""Does `/fast` stay fast while heavy requests keep every core busy?

Varied: how `/heavy` runs, the number of closed-loop heavy clients. Held: uvloop, one server
process, two workers, about 200 ms of pure Python per heavy request, `/fast` probed at 200 a second,
open loop. Each round runs every cell once, idle first, so that a cell is compared with the idle one
of the same server in the same round. Quoted: medians over the rounds. Refuted if the p99 of
`offload` with 8 clients exceeds 1.3 times its idle p99, or its heavy throughput is below 95 % of
what two processes do with nothing else running.

    python -m benchmarks.fast_under_heavy [--rounds 5] [--seconds 8] [--clients 8] CONTENDER …
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from benchmarks.functions import burn

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTENDERS = ("offload", "offload-low", "offload-normal", "executor", "anyio", "thread", "inline")


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def server(contender: str, loops: int) -> Iterator[int]:
    """Run a contender's server; yield its port."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.app:app", "--port", str(port)),
            *("--loop", "uvloop", "--log-level", "error"),
        ],
        env=os.environ | {"CONTENDER": contender, "LOOPS": str(loops)},
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/fast", timeout=5).close()
                break
            if time.monotonic() > deadline:
                message = f"the server of {contender} did not answer"
                raise TimeoutError(message)
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def load(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Run the load generator."""
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "offload._bench.load", str(port)),
            *("--fast", "/fast", "--heavy", "/heavy"),
            *("--clients", str(clients), "--seconds", str(seconds)),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def capacity(loops: int, workers: int, seconds: float) -> float:
    """Return how many heavy functions a second that many processes do with nothing else running."""
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(burn, [1000] * workers)
        end = time.monotonic() + seconds
        counts = pool.starmap(_count, [(loops, end)] * workers)
    return sum(counts) / seconds


def _count(loops: int, end: float) -> float:
    done = 0.0
    while time.monotonic() < end:
        started = time.monotonic()
        burn(loops)
        # The last one counts by the part of it that was inside.
        done += min(1.0, (end - started) / (time.monotonic() - started))
    return done


def quantile(values: list[float], fraction: float) -> float:
    """Return the value at `fraction` of the sorted values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)] if ordered else float("nan")


def calibrate() -> int:
    """Return how many loops take 200 ms here."""
    started = time.perf_counter()
    burn(1_000_000)
    return int(1_000_000 * 0.2 / (time.perf_counter() - started))


def main(options: argparse.Namespace) -> None:
    """Run all cells, some rounds, and print the table."""
    loops = calibrate()
    cells: dict[tuple[str, int], list[dict[str, float]]] = {}
    capacities: list[float] = []
    for number in range(options.rounds):
        capacities.append(capacity(loops, 2, options.seconds / 2))
        for contender in options.contenders:
            with server(contender, loops) as port:
                for clients in (0, options.clients):
                    print(
                        f"\rround {number + 1}: {contender} {clients}     ", end="", file=sys.stderr
                    )
                    result = load(port, clients, options.seconds)
                    fast = result["fast"][0]
                    latencies = [each for each in fast["latency_ms"] if each is not None]
                    cells.setdefault((contender, clients), []).append(
                        {
                            "p50": quantile(latencies, 0.5),
                            "p99": quantile(latencies, 0.99),
                            "p99.9": quantile(latencies, 0.999),
                            "max": max(latencies, default=float("nan")),
                            "late p99": fast["lateness_ms"]["p99"],
                            "heavy/s": result["heavy"]["per_second"],
                            "of capacity": result["heavy"]["per_second"] / capacities[-1],
                        }
                    )
    print(file=sys.stderr)
    most = statistics.median(capacities)
    print(f"capacity {most:.2f} heavy/s, {loops} loops, {options.rounds} rounds")
    keys = ["p50", "p99", "p99.9", "max", "late p99", "heavy/s", "of capacity"]
    print(f"{'':16}{'clients':>8}" + "".join(f"{key:>12}" for key in keys) + f"{'p99/idle':>10}")
    for (contender, clients), rows in cells.items():
        idle = cells[contender, 0]
        ratio = statistics.median(
            row["p99"] / base["p99"] for row, base in zip(rows, idle, strict=True)
        )
        values = [statistics.median(row[key] for row in rows) for key in keys]
        print(
            f"{contender:16}{clients:8}"
            + "".join(f"{value:12.2f}" for value in values)
            + f"{ratio:10.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("contenders", nargs="*", default=["offload", "executor", "anyio"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clients", type=int, default=8)
    main(parser.parse_args())

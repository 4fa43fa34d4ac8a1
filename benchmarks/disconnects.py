"""Half of 1,000 clients leave: how much CPU is spent on work that nobody waits for?

Varied: whether `CancelOnDisconnect` is in force. Held: uvicorn on uvloop, two workers, 50 ms of CPU
per request, all requests sent at once, each client of a random half gone after an exponential
patience of 200 ms in the mean. Refuted if the clients that left cost more than 5 % of the CPU that
their work would have taken, or if one of those that stayed is not answered.

    python -m benchmarks.disconnects [--clients 1000] [--seconds 0.05] [--patience 0.2]

CPU is counted twice: by the work itself, client by client, and by the OS for the server and all
that it started, dead workers and their replacements included. Prints one JSON object per run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.fast_under_heavy import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def server(path: Path, seconds: float, *, watches: bool) -> Iterator[tuple[int, psutil.Process]]:
    """Run the server; yield its port and its process."""
    port = free_port()
    process = subprocess.Popen(
        # The usual backlog would refuse some of a thousand clients at once.
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.disconnects_app:app"),
            *("--port", str(port), "--loop", "uvloop", "--log-level", "error", "--backlog", "4096"),
        ],
        env=os.environ
        | {"USED_PATH": str(path), "SECONDS": str(seconds), "WATCHES": str(int(watches))},
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                pending(port)
                break
            if time.monotonic() > deadline:
                message = "the server did not answer"
                raise TimeoutError(message)
            time.sleep(0.05)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def pending(port: int) -> int:
    """Return how many calls wait or run."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=30) as response:
        return int(response.read())


def cpu_seconds(root: psutil.Process) -> float:
    """Return what a process and all below it have used, the dead included."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


async def clients(port: int, count: int, patience: float, seed: int) -> tuple[set[int], int]:
    """Send all requests at once; return who left, and how many of the others were answered."""
    draw = random.Random(seed)
    leavers = set(draw.sample(range(count), count // 2))
    patiences = {number: draw.expovariate(1 / patience) for number in leavers}
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]

    async def one(number: int) -> bool:
        reader, writer = connections[number]
        writer.write(f"GET /heavy?client={number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            async with asyncio.timeout(patiences.get(number)):
                return (await reader.readline()).split()[1] == b"200"
        except TimeoutError:
            return False
        finally:
            writer.transport.abort()

    answered = await asyncio.gather(*(one(number) for number in range(count)))
    # A leaver whose answer came before its patience ended did not leave.
    left = {number for number in leavers if not answered[number]}
    return left, sum(answered[number] for number in range(count) if number not in leavers)


def run(options: argparse.Namespace, *, watches: bool) -> dict[str, Any]:
    """Make one run."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "used"
        path.write_bytes(bytes(8 * options.clients))
        with server(path, options.seconds, watches=watches) as (port, process):
            idle = cpu_seconds(process)
            start = time.perf_counter()
            left, answered = asyncio.run(
                clients(port, options.clients, options.patience, options.seed)
            )
            while pending(port):
                time.sleep(0.05)
            took = time.perf_counter() - start
            everything = cpu_seconds(process) - idle
        used = memoryview(path.read_bytes()).cast("d")
        wanted = sum(used[number] for number in range(options.clients) if number not in left)
        wasted = sum(used[number] for number in left)
    would_be = options.seconds * len(left)
    return {
        "watches": watches,
        "clients": options.clients,
        "left": len(left),
        "stayed_and_answered": answered,
        "cpu_seconds_for_left": round(wasted, 3),
        "of_what_it_would_have_taken": round(wasted / would_be, 4),
        "cpu_seconds_for_the_others": round(wanted, 3),
        "cpu_seconds_of_everything": round(everything, 3),
        "wall_seconds": round(took, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--patience", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for is_watching in (True, False):
        print(json.dumps(run(arguments, watches=is_watching)))

"""What does it cost a busy server to be watched on its dashboard?

Varied: how many readers of the dashboard's events there are, none and five; rounds with and without
are interleaved on one server, in changing order. Held: uvicorn on uvloop, two workers, no-op calls
in a closed loop that keeps the event loop busy (`--in-flight` at once, about 10,000 a second on two
cores), and `/fast` asked 200 times a second from another process, open loop: its latency counts
from the intended send time. The readers are in a process of their own and take in all that comes.
Quoted: medians over the rounds. Refuted if the p99 of `/fast` with readers exceeds 1.2 times that
without.

Before that, on a server that has nothing else to do: the CPU that it needs for no reader, for one
and for all, by the OS; a number that neighbours hardly change. Refuted if all of them need more
than twice what one does, or more than 1 % of a core.

    python -m benchmarks.dashboard [--rounds 9] [--seconds 5] [--readers 5] [--in-flight 4]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_RATE = 200
_WARM_UP_SECONDS = 1.0
_RESAMPLES = 2000


def create() -> Starlette:
    """Make the application; called in the server process."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    from benchmarks.functions import noop
    from offload import Pool
    from offload.dashboard import Dashboard

    priority: Any = os.environ["PRIORITY"]
    pool = Pool("bench", min_workers=2, max_workers=2, os_priority=priority)

    async def fast(_: Request) -> Response:
        return PlainTextResponse("fast")

    async def call_for_ever() -> None:
        while True:
            await pool.run(noop)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with pool:
            loops = [
                asyncio.ensure_future(call_for_ever()) for _ in range(int(os.environ["IN_FLIGHT"]))
            ]
            yield
            for each in loops:
                each.cancel()
            await asyncio.wait(loops)

    return Starlette(
        routes=[Route("/fast", fast), Mount("/dashboard", Dashboard())], lifespan=lifespan
    )


@contextlib.contextmanager
def server(in_flight: int, priority: str) -> Iterator[tuple[int, int]]:
    """Run the server; yield its port and its process id."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.dashboard:create", "--factory"),
            *("--port", "0", "--loop", "uvloop", "--no-access-log"),
        ],
        env=os.environ | {"IN_FLIGHT": str(in_flight), "PRIORITY": priority},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    try:
        lines = iter(process.stderr.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"0.1:(\d+)", line)))
        yield port, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextlib.contextmanager
def watching(port: int, readers: int) -> Iterator[None]:
    """Read the events in another process, as so many browsers would."""
    if not readers:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboard", "--read", str(port), str(readers)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - as above
    try:
        # All of them have had an event.
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


async def read(port: int, readers: int) -> None:
    """Take in events for ever, on so many connections."""
    ready = asyncio.Semaphore(0)

    async def one() -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
            writer.write(b"GET /dashboard/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"data: ")
                ready.release()
                # The server ends each stream after some time, as a browser's, which then asks anew.
                while not (await reader.readline()).startswith(b"0\r"):
                    pass
            writer.close()

    tasks = [asyncio.ensure_future(one()) for _ in range(readers)]
    for _ in range(readers):
        await ready.acquire()
    print("reading", flush=True)
    await asyncio.gather(*tasks)


def state(port: int) -> dict[str, Any]:
    """Return what the dashboard knows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard/state", timeout=30) as answer:
        told: dict[str, Any] = json.loads(answer.read())
        return told


def quantile(values: list[float], fraction: float) -> float:
    """Return the value at `fraction` of the sorted values."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * fraction), len(ordered) - 1)]


def once(port: int, pid: int, readers: int, seconds: float) -> dict[str, Any]:
    """Measure one round."""
    with watching(port, readers):
        before, begun = state(port)["pools"][0]["completed"], time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "offload._bench.load", str(port), "--fast", "/fast"),
                *("--rate", str(_RATE), "--seconds", str(seconds)),
                *("--warm-up", str(_WARM_UP_SECONDS), "--server-pid", str(pid)),
            ],
            stdout=subprocess.PIPE,
            check=True,
        )
        calls = state(port)["pools"][0]["completed"] - before
        elapsed = time.monotonic() - begun
    told = json.loads(done.stdout)
    latencies = [each for each in told["fast"][0]["latency_ms"] if each is not None]
    return {
        "readers": readers,
        "p50": quantile(latencies, 0.5),
        "p99": quantile(latencies, 0.99),
        "p99.9": quantile(latencies, 0.999),
        "calls/s": calls / elapsed,
        "disturbed": told["health"]["disturbed"],
    }


def used(pid: int) -> float:
    """Return the CPU seconds of all threads of a process, to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cost(options: argparse.Namespace) -> None:
    """Print what readers cost a server that has nothing else to do."""
    with server(0, options.os_priority) as (port, pid):
        for readers in (0, 1, options.readers):
            with watching(port, readers):
                time.sleep(_WARM_UP_SECONDS)
                before, begun = used(pid), time.monotonic()
                time.sleep(options.seconds)
                share = (used(pid) - before) / (time.monotonic() - begun)
            print(f"{readers} readers, nothing else to do: {share:.2%} of a core", flush=True)


def main(options: argparse.Namespace) -> None:
    """Run all rounds, and print the table."""
    cost(options)
    rows: dict[int, list[dict[str, Any]]] = {0: [], options.readers: []}
    with server(options.in_flight, options.os_priority) as (port, pid):
        once(port, pid, options.readers, 1.0)  # Warm, with all code paths run.
        for number in range(options.rounds):
            for readers in sorted(rows, reverse=bool(number % 2)):
                row = once(port, pid, readers, options.seconds)
                rows[readers].append(row)
                print(json.dumps(row), file=sys.stderr)
    keys = ("p50", "p99", "p99.9", "calls/s")
    print(f"{'readers':>8}" + "".join(f"{key:>12}" for key in keys))
    for readers, found in rows.items():
        values = [statistics.median(row[key] for row in found) for key in keys]
        print(f"{readers:8}" + "".join(f"{value:12.2f}" for value in values))
    without, watched = rows[0], rows[options.readers]
    ratios = [b["p99"] / a["p99"] for a, b in zip(without, watched, strict=True)]
    chance = random.Random(0)
    resampled = sorted(
        statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
    )
    low, high = quantile(resampled, 0.025), quantile(resampled, 0.975)
    disturbed = sum(bool(row["disturbed"]) for found in rows.values() for row in found)
    print(
        f"p99 with readers to without: {statistics.median(ratios):.2f} (median of {len(ratios)} "
        f"rounds, 95 % interval {low:.2f} to {high:.2f}); {disturbed} of {2 * len(ratios)} "
        "measurements disturbed by others"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--readers", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=4)
    # "normal" where others keep the machine busy: idle workers would not run at all.
    parser.add_argument("--os-priority", default="idle", choices=("idle", "low", "normal"))
    parser.add_argument("--read", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        asyncio.run(read(*arguments.read))
    else:
        main(arguments)

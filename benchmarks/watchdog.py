"""What does the watchdog cost, and does it raise false alarms?

Varied: the watchdog, off and on. Held: uvicorn with one application, idle or answering `/fast` at a
fixed rate; rounds with and without are interleaved. CPU is that of the server process, by the OS.
Refuted if the medians differ by more than 1 % of a core.

    python -m benchmarks.watchdog [--seconds 10] [--rounds 5] [--rate 300]

False alarms: a pool keeps every core busy with offloaded work while `/fast` is asked for. Varied:
nothing. Refuted by any block whose cause is not that the machine starved the server.

    python -m benchmarks.watchdog --healthy 600

Prints one JSON object per run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response


def create() -> Starlette:
    """Make the application; called in the server process."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    from benchmarks.functions import burn
    from offload import Pool, watchdog
    from offload.starlette import lifespan

    workers = len(os.sched_getaffinity(0))
    pool = Pool("busy", min_workers=0, max_workers=workers)

    async def fast(_: Request) -> Response:
        return PlainTextResponse("fast")

    async def heavy(_: Request) -> Response:
        return PlainTextResponse(str(await pool.run(burn, 4_000_000)))

    async def found(_: Request) -> Response:
        return JSONResponse(dataclasses.asdict(watchdog.statistics()))

    is_watched = os.environ["WATCHED"] == "1"
    return Starlette(
        routes=[Route("/fast", fast), Route("/heavy", heavy), Route("/found", found)],
        lifespan=lifespan(pool),
        middleware=[Middleware(watchdog.Watchdog)] if is_watched else [],
    )


@contextlib.contextmanager
def server(loop: str, *, is_watched: bool) -> Iterator[tuple[int, psutil.Process]]:
    """Run the server; yield its port and its process."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.watchdog:create", "--factory"),
            *("--port", "0", "--loop", loop, "--no-access-log"),
        ],
        env=os.environ | {"WATCHED": str(int(is_watched))},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = iter(process.stderr.readline, "") if process.stderr else iter(())
        port = next(int(found[1]) for line in lines if (found := re.search(r"0.1:(\d+)", line)))
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=30)


async def ask(port: int, path: str, rate: float, seconds: float) -> list[float]:
    """Ask at a fixed rate on one connection, or as fast as it goes if 0; return latencies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.perf_counter()
    latencies: list[float] = []
    while (due := start + len(latencies) / rate if rate else time.perf_counter()) < start + seconds:
        await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
        latencies.append(time.perf_counter() - due)
    writer.close()
    return latencies


async def read(port: int, path: str) -> Any:
    """Return the JSON of a path."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return json.loads(body)


def share(loop: str, rate: float, seconds: float, *, is_watched: bool) -> float:
    """Return the CPU of a server, in percent of a core."""
    with server(loop, is_watched=is_watched) as (port, process):
        asyncio.run(ask(port, "/fast", 50, 1.0))
        before = process.cpu_times()
        start = time.perf_counter()
        if rate:
            asyncio.run(ask(port, "/fast", rate, seconds))
        else:
            time.sleep(seconds)
        took = time.perf_counter() - start
        after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / took * 100


def cost(loop: str, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """Compare servers with and without."""
    shares: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for is_watched in (False, True):
            shares[is_watched].append(share(loop, rate, options.seconds, is_watched=is_watched))
    without, with_it = statistics.median(shares[False]), statistics.median(shares[True])
    return {
        "loop": loop,
        "requests_per_second": rate,
        "percent_of_a_core_without": round(without, 2),
        "with": round(with_it, 2),
        "difference": round(with_it - without, 2),
        "rounds": {str(key): [round(each, 2) for each in value] for key, value in shares.items()},
    }


async def load(port: int, seconds: float, clients: int) -> list[float]:
    """Keep all cores busy and ask for `/fast`; return its latencies."""
    fast, *_ = await asyncio.gather(
        ask(port, "/fast", 100, seconds),
        *(ask(port, "/heavy", 0, seconds) for _ in range(clients)),
    )
    return fast


def healthy(loop: str, seconds: float) -> dict[str, Any]:
    """Run the load that must raise no alarm."""
    with server(loop, is_watched=True) as (port, process):
        psutil.cpu_percent()
        latencies = asyncio.run(load(port, seconds, 2 * len(os.sched_getaffinity(0))))
        busy = psutil.cpu_percent()
        found = asyncio.run(read(port, "/found"))
        times = process.cpu_times()
    latencies.sort()
    return {
        "loop": loop,
        "seconds": seconds,
        "percent_of_the_machine_busy": busy,
        "load_average": os.getloadavg(),
        "server_cpu_seconds": round(times.user + times.system, 1),
        "fast": len(latencies),
        "fast_p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
        "fast_p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
        "is_watching": found["is_watching"],
        "heartbeats": found["lag"]["count"],
        "longest_lag_ms": round(found["lag"]["maximum"] * 1e3, 1),
        "blocks": {each["cause"]: each["count"] for each in found["causes"]},
        "places": [
            {key: place[key] for key in ("cause", "what", "route", "function", "line", "longest")}
            for place in found["places"]
        ],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--loops", nargs="+", default=["asyncio", "uvloop"])
    parser.add_argument("--healthy", type=float, metavar="SECONDS")
    arguments = parser.parse_args()
    for name in arguments.loops:
        if arguments.healthy:
            print(json.dumps(healthy(name, arguments.healthy)), flush=True)
            continue
        for per_second in (0.0, arguments.rate):
            print(json.dumps(cost(name, per_second, arguments)), flush=True)

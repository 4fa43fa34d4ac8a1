"""Load from a process of its own: an open-loop prober of one path, closed-loop clients of another.

    python -m offload._bench.load PORT --fast /fast --rate 200 --heavy /heavy --clients 8

Prints one JSON object. A request of the open loop has an intended send time; latency counts from
that, so that a server that freezes is charged for every request that it kept from being sent on
time, not only for the one that it froze on (coordinated omission). Times are in milliseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from http import HTTPStatus
from typing import Any


class Connection:
    """One HTTP/1.1 connection, kept alive; a request at a time."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self) -> int:
        """Send the request, read the response, return its status."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        return int(lines[0].split()[1])

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def probe(port: int, path: str, rate: float, start: float, end: float) -> dict[str, Any]:
    """Send at a fixed rate; return latencies from the intended times, and our own lateness."""
    latencies: list[float] = []
    lateness: list[float] = []
    errors = 0
    idle: list[Connection] = []
    pending: set[asyncio.Task[None]] = set()

    async def one(intended: float) -> None:
        nonlocal errors
        connection = idle.pop() if idle else Connection(port, path)
        try:
            status = await connection.get()
        except (OSError, EOFError):
            errors += 1
            return
        latencies.append((time.perf_counter() - intended) * 1e3)
        errors += status != HTTPStatus.OK
        idle.append(connection)

    number = 0
    while (intended := start + number / rate) < end:
        delay = intended - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        lateness.append((time.perf_counter() - intended) * 1e3)
        task = asyncio.ensure_future(one(intended))
        pending.add(task)
        task.add_done_callback(pending.discard)
        number += 1
    if pending:
        await asyncio.wait(pending, timeout=60)
    for connection in idle:
        connection.close()
    return {
        "latencies": latencies,
        "lateness": lateness,
        "errors": errors,
        "unfinished": len(pending),
    }


async def clients(port: int, path: str, count: int, start: float, end: float) -> dict[str, Any]:
    """Keep `count` requests under way; return how many completed within the time, and statuses."""
    completed: list[float] = []
    statuses: dict[int, int] = {}

    async def one() -> None:
        connection = Connection(port, path)
        while time.perf_counter() < end:
            status = await connection.get()
            statuses[status] = statuses.get(status, 0) + 1
            completed.append(time.perf_counter())
        connection.close()

    await asyncio.gather(*(one() for _ in range(count)))
    inside = [at for at in completed if start <= at <= end]
    return {
        "completed": len(inside),
        "per_second": len(inside) / (end - start),
        "statuses": statuses,
    }


async def main(options: argparse.Namespace) -> dict[str, Any]:
    """Run both at once, after a warm-up of the heavy clients."""
    start = time.perf_counter() + options.warm_up
    end = start + options.seconds
    fast, heavy = await asyncio.gather(
        probe(options.port, options.fast, options.rate, start, end),
        clients(options.port, options.heavy, options.clients, start, end),
    )
    return {"fast": fast, "heavy": heavy}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--fast", default="/fast")
    parser.add_argument("--heavy", default="/heavy")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    arguments = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        sys.stdout.write(json.dumps(asyncio.run(main(arguments))))
    else:
        sys.stdout.write(json.dumps(uvloop.run(main(arguments))))

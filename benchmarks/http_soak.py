"""Does a server stay as it is for hours, whatever clients and tasks do to it?

Varied: time. Held: an application on uvicorn (asyncio) or hypercorn (trio), with workers of one
start method; clients that call without pause, each call drawn at random: work, failures, timeouts,
clients that leave, and tasks that attack the server (forged frames, floods, stopped and killed
supervisors, memory made shorter). Refuted if a call that was accepted does not end, ends twice, or
ends in a way that nobody asked for; if the last quarter holds more memory than the second by over
10 % and 16 MiB (errors of 5 MB come and go), or more descriptors; or if the end of the server
leaves a process.

    python -m benchmarks.http_soak --loop trio --method spawn [--minutes 10] [--harden]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main"]

_BLOB = os.urandom(1 << 20)
# For a call, whatever happens to its worker: a supervisor that hangs is replaced after a second.
_PATIENCE = 60.0
_FD_SLACK = 12
_MEMORY_SLACK = 1.10
_MEMORY_SLACK_MIB = 16
# Ends that any call may have, since a neighbour of it may have killed the supervisor.
_BY_NEIGHBOURS = {"WorkerCrashedError", "QueueFullError"}


class Kind(NamedTuple):
    """How often it is drawn, and how it ends."""

    weight: int
    ends: frozenset[str]


def _kind(weight: int, *ends: str) -> Kind:
    return Kind(weight, frozenset(ends))


KINDS = {
    "small": _kind(300, "ok"),
    "large": _kind(60, "ok"),
    "fail": _kind(40, "LookupError"),
    "crash": _kind(10, "WorkerCrashedError"),
    "timeout": _kind(15, "TaskTimeoutError"),
    "leave": _kind(20, "left", "ok"),
    "forge_frame": _kind(4, "WorkerCrashedError"),
    "flood_descriptors": _kind(4, "WorkerCrashedError"),
    "truncate_memory": _kind(8, "PermissionError"),
    "stop_itself": _kind(2, "TaskTimeoutError"),
    "kill_supervisor": _kind(2, "WorkerCrashedError", "PermissionError"),
    "stop_supervisor": _kind(3, "ok", "PermissionError"),
    "hang_up_supervisor": _kind(6, "ok", "PermissionError"),
    "flood_logs": _kind(4, "ok"),
    "fail_largely": _kind(8, "ValueError"),
    "take_memory": _kind(8, "TaskMemoryError"),
    # Where other programs keep the machine busy, a second of CPU time takes longer than it has.
    "take_cpu": _kind(1, "TaskCpuError", "TaskTimeoutError"),
}


# --- the server ---


def application() -> Any:
    """Make the application: each call is counted when it comes and when it ends."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from benchmarks import http_soak_work as work
    from offload.starlette import CancelOnDisconnect, lifespan

    begun: collections.Counter[str] = collections.Counter()
    ended: collections.Counter[str] = collections.Counter()

    async def call(request: Any) -> JSONResponse:
        name, body = request.path_params["name"], await request.body()
        begun[name] += 1
        try:
            await _run(work, name, body)
        except Exception as error:  # noqa: BLE001 - the client compares it
            return JSONResponse({"end": type(error).__name__})
        finally:
            ended[name] += 1
        return JSONResponse({"end": "ok"})

    async def account(_: Any) -> JSONResponse:
        now = work.pool.statistics()
        outcomes = ("completed", "failed", "refused", "not_started", "timed_out", "cancelled")
        return JSONResponse(
            {
                "begun": sum(begun.values()),
                "ended": sum(ended.values()),
                "counted": sum(getattr(now, each) for each in outcomes) + now.crashed,
                "busy": now.busy,
                "queued": now.queued,
            }
        )

    return Starlette(
        routes=[Route("/call/{name}", call, methods=["POST"]), Route("/account", account)],
        lifespan=lifespan(work.pool),
        middleware=[Middleware(CancelOnDisconnect)],
    )


async def _run(work: Any, name: str, body: bytes) -> None:
    if name == "small":
        await work.echo(1)
    elif name == "large":
        if await work.echo(body) != body:
            raise AssertionError(name)
    elif name == "timeout":
        await work.hold.options(timeout=0.05)(30.0, is_busy=False)
    elif name == "leave":
        await work.hold(0.3, is_busy=False)
    elif name in ("fail", "crash"):
        await getattr(work, name)()
    else:
        await getattr(work, name).options(timeout=5.0 if name == "stop_itself" else 40.0)()


def serve(loop: str, port: int) -> None:
    """Serve until SIGTERM."""
    import logging

    logging.disable(logging.INFO)
    if loop == "asyncio":
        import uvicorn

        uvicorn.run(application(), port=port, log_level="warning", timeout_graceful_shutdown=10)
        return
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve as serve_on_trio

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 10.0

    async def run() -> None:
        stop = trio.Event()

        async def wait_for_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    stop.set()
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_signal)
            await serve_on_trio(application(), config, shutdown_trigger=stop.wait)

    trio.run(run)


# --- the clients ---


class Sample(NamedTuple):
    """The server at one instant."""

    rss_mib: float
    descriptors: int
    processes: int


class Soak:
    """Clients of one server, and what they saw."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.ends: collections.Counter[tuple[str, str]] = collections.Counter()
        self.strange: collections.Counter[tuple[str, str]] = collections.Counter()

    async def client(self, end_at: float) -> None:
        """Call until the time is over."""
        names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
        async with httpx.AsyncClient(base_url=self._url, timeout=_PATIENCE) as http:
            while time.monotonic() < end_at:
                (name,) = random.choices(names, weights)
                end = await self._call(http, name)
                self.ends[name, end] += 1
                if end not in KINDS[name].ends | _BY_NEIGHBOURS:
                    self.strange[name, end] += 1
                if end == "QueueFullError":
                    await asyncio.sleep(0.05)

    async def _call(self, http: httpx.AsyncClient, name: str) -> str:
        timeout = random.random() * 0.4 if name == "leave" else _PATIENCE
        try:
            answer = await http.post(
                f"/call/{name}", content=_BLOB if name == "large" else b"", timeout=timeout
            )
            return str(answer.json()["end"])
        except httpx.TimeoutException:
            return "left" if name == "leave" else "no answer"
        except (httpx.HTTPError, ValueError) as error:
            return repr(error)[:80]

    async def account(self) -> dict[str, int]:
        """Return the server's books, once nothing is under way."""
        async with httpx.AsyncClient(base_url=self._url, timeout=_PATIENCE) as http:
            deadline = time.monotonic() + _PATIENCE
            while True:
                books: dict[str, int] = (await http.get("/account")).json()
                is_quiet = books["begun"] == books["ended"] and not books["busy"] + books["queued"]
                if is_quiet or time.monotonic() > deadline:
                    return books
                await asyncio.sleep(0.1)


@contextlib.contextmanager
def started(arguments: argparse.Namespace, port: int) -> Iterator[psutil.Process]:
    """Run the server; kill it at the latest when the block is left."""
    environment = os.environ | {
        "SOAK_METHOD": arguments.method,
        "SOAK_HARDEN": str(int(arguments.harden)),
    }
    command = [sys.executable, "-m", "benchmarks.http_soak", "--serve", str(port)]
    with subprocess.Popen([*command, "--loop", arguments.loop], env=environment) as server:
        try:
            yield psutil.Process(server.pid)
        finally:
            server.kill()


async def until_up(soak: Soak) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            await soak.account()
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def sample(server: psutil.Process) -> Sample:
    """Look at the server."""
    children = len(server.children(recursive=True))
    return Sample(server.memory_info().rss / 2**20, server.num_fds(), children)


def judge(soak: Soak, samples: Sequence[Sample], books: dict[str, int]) -> list[str]:
    """Return what refutes us."""
    wrong = [f"{name} ended in {end} ({n})" for (name, end), n in soak.strange.items()]
    if not soak.ends:
        wrong.append("no call was made")
    # On trio, a call whose client has left may end before it comes to the pool.
    left = sum(n for (_, end), n in soak.ends.items() if end == "left")
    is_whole = books["begun"] - left <= books["counted"] <= books["begun"]
    if books["begun"] != books["ended"] or not is_whole:
        wrong.append(f"the books do not agree: {books}")
    quarter = max(len(samples) // 4, 1)
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    for index, slack, extra in (
        (0, _MEMORY_SLACK, _MEMORY_SLACK_MIB),
        (1, 1.0, _FD_SLACK),
        (2, 1.0, 3),
    ):
        before = statistics.median(each[index] for each in second)
        after = statistics.median(each[index] for each in last)
        if after > before * slack + extra:
            wrong.append(f"{Sample._fields[index]} grew from {before:.1f} to {after:.1f}")
    return wrong


async def soak_for(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load one server, and return what came of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(arguments, port) as server:
        soak = Soak(port)
        await until_up(soak)
        end_at = time.monotonic() + arguments.minutes * 60
        clients = [asyncio.create_task(soak.client(end_at)) for _ in range(arguments.clients)]
        samples: list[Sample] = []
        for _ in range(arguments.samples):
            await asyncio.sleep(arguments.minutes * 60 / arguments.samples)
            with contextlib.suppress(psutil.NoSuchProcess):
                samples.append(await asyncio.to_thread(sample, server))
        await asyncio.gather(*clients)
        books = await soak.account()
        below = server.children(recursive=True)
        server.terminate()
        await asyncio.to_thread(server.wait, _PATIENCE)
        _, left = await asyncio.to_thread(psutil.wait_procs, below, 2.0)
    wrong = judge(soak, samples, books)
    wrong += [f"process {each.pid} is left" for each in left]
    return {
        "loop": arguments.loop,
        "method": arguments.method,
        "harden": arguments.harden,
        "minutes": arguments.minutes,
        "books": books,
        "ends": {f"{name}: {end}": n for (name, end), n in sorted(soak.ends.items())},
        "samples": [tuple(each) for each in samples],
        "load": os.getloadavg()[0],
        "wrong": wrong,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, or soak and print; 1 if something refutes us."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--method", choices=["forkserver", "spawn"], default="forkserver")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--harden", action="store_true")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve is not None:
        serve(chosen.loop, chosen.serve)
        return 0
    result = asyncio.run(soak_for(chosen))
    print(json.dumps(result, indent=1))
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())

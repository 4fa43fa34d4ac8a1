"""Do jobs on Redis keep up with BullMQ on Node, on the same Redis, in the same run?

Varied: who enqueues, picks up and finishes jobs, in turns; and how many are in flight. Held: the
server, jobs without work, one process each. Refuted if fewer than 0.6 times Node's jobs per second
are finished, or if enqueueing or picking up takes longer.

    npm ci --prefix benchmarks/node
    python -m benchmarks.jobs_redis redis://127.0.0.1:6379/0 --rounds 5

The database is emptied. Prints medians over the rounds, and the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from offload.jobs._bullmq.location import parse_redis_url
from offload.jobs._bullmq.redis_engine import RedisEngine
from offload.jobs._values import Complete, NewJob, Wanted

NODE = Path(__file__).parent / "node"
FUNCTION = "shop:report"
IN_FLIGHT = (1, 10, 50)
_numbers = iter(range(10**9))


def wanted() -> Wanted:
    """Return what is claimed."""
    return Wanted(frozenset({"bench"}), frozenset({FUNCTION}), "bench-1", 30.0)


def new_job() -> NewJob:
    """Return a job of its own."""
    return NewJob(f"job-{next(_numbers)}", FUNCTION, '{"month": "2026-11"}', "bench")


async def enqueue(engine: RedisEngine) -> float:
    """Return the median of enqueueing one job, in ms."""
    times = []
    for _ in range(1000):
        job = new_job()
        begin = time.perf_counter()
        await engine.put([job])
        times.append(time.perf_counter() - begin)
    while await engine.claim(wanted()):
        pass
    return statistics.median(times) * 1000


async def pick_up(engine: RedisEngine, url: str) -> float:
    """Return the median from enqueueing to the claim of an idle worker, in ms."""
    worker = RedisEngine(url)
    await worker.open()
    times = []
    for _ in range(200):
        claiming = asyncio.create_task(worker.claim(wanted(), wait=30))
        # Long enough for the worker to be idle: what is measured is a worker that waits.
        await asyncio.sleep(0.005)
        begin = time.perf_counter()
        await engine.put([new_job()])
        (claimed,) = await claiming
        times.append(time.perf_counter() - begin)
        await worker.finish(claimed.claim, Complete("null"))
    await worker.aclose()
    return statistics.median(times) * 1000


async def throughput(engine: RedisEngine, jobs: int, in_flight: int) -> float:
    """Return how many jobs without work are finished per second.

    As a worker program does it: what ends at one moment is reported, and what is next claimed, in
    one round trip.
    """
    for _ in range(0, jobs, 1000):
        await engine.put([new_job() for _ in range(1000)])
    wish, count = replace(wanted(), limit=in_flight), 0
    begin = time.perf_counter()
    claimed = await engine.claim(wish)
    while claimed:
        finished = await engine.finish_all(
            [(each.claim, Complete("null")) for each in claimed], then=wish
        )
        count += sum(finished.stored)
        claimed = finished.claimed
    seconds = time.perf_counter() - begin
    if count != jobs:
        raise AssertionError(f"{count} of {jobs} jobs were finished")
    return jobs / seconds


async def ours(url: str, jobs: int) -> dict[str, float]:
    """Return one round of ours."""
    engine = RedisEngine(url)
    await engine.open()
    await engine._client.command("FLUSHDB")  # noqa: SLF001 - no engine empties its store
    result = {"enqueue_ms": await enqueue(engine), "pick_up_ms": await pick_up(engine, url)}
    for count in IN_FLIGHT:
        result[f"jobs_per_second_{count}"] = await throughput(engine, jobs, count)
    await engine._client.command("FLUSHDB")  # noqa: SLF001 - as above
    await engine.aclose()
    return result


def nodes(url: str, jobs: int) -> dict[str, float]:
    """Return one round of BullMQ on Node."""
    port = parse_redis_url(url).port
    done = subprocess.run(
        ["node", "bullmq.mjs", str(port), "bench-node", str(jobs), *map(str, IN_FLIGHT)],
        cwd=NODE,
        check=True,
        capture_output=True,
        timeout=300,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=5000, help="a multiple of 1000")
    parser.add_argument("--uvloop", action="store_true", help="as servers have it")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        run = uvloop.run
    else:
        run = asyncio.run
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for _ in range(options.rounds):
        rounds.append((run(ours(options.url, options.jobs)), nodes(options.url, options.jobs)))
        print(json.dumps(rounds[-1]))
    for name in rounds[0][0]:
        own, node = (statistics.median(each[i][name] for each in rounds) for i in (0, 1))
        print(f"{name:22} ours {own:10.2f}   Node {node:10.2f}   ours/Node {own / node:.2f}")


if __name__ == "__main__":
    main()

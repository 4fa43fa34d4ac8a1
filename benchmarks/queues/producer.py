"""A producer: enqueues jobs as it is told by lines on stdin, and answers with lines of JSON.

The first line says that it is ready: tables are made, where there are any.

    BENCHMARK_STORE=redis://… BENCHMARK_MARKS=FILE python -m benchmarks.queues.producer offload_jobs

    {"do": "many", "count": 5000, "loops": 0, "seconds": 3}   by its means for many at once
    {"do": "one", "first": 0, "count": 200}    one, until it has run; then the next, by number
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.queues import marks

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK = 500
# Long enough for a worker to be idle again: what is measured is one that waits.
_REST_SECONDS = 0.005
_LOOK_SECONDS = 0.0005
_PATIENCE_SECONDS = 60.0


class Producer(Protocol):
    """What a module gives: `has_results` tells whether a job's result can be waited for."""

    has_results: bool

    async def enqueue(self, number: int, loops: int) -> Any:
        """Enqueue one job, and return what `result` takes."""
        ...

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many, as fast as this queue can."""
        ...

    async def result(self, job: Any) -> None:
        """Wait for the result of a job."""
        ...


async def many(producer: Producer, count: int, loops: int, seconds: float) -> dict[str, Any]:
    """Enqueue so many, fewer if that takes longer than `seconds`; return how many, and how fast."""
    begin, done = time.perf_counter(), 0
    while done < count and (done == 0 or time.perf_counter() < begin + seconds):
        chunk = range(done, min(done + _CHUNK, count))
        await producer.enqueue_many(chunk, loops)
        done = chunk.stop
    return {"count": done, "per_second": done / (time.perf_counter() - begin)}


async def one(producer: Producer, first: int, count: int) -> dict[str, Any]:
    """Enqueue one and wait for it, again and again; return what it took, and when each began."""
    enqueue_ms: list[float] = []
    result_ms: list[float] = []
    begun: list[float] = []
    for number in range(first, first + count):
        await asyncio.sleep(_REST_SECONDS)
        begun.append(time.time())
        begin = time.perf_counter()
        job = await producer.enqueue(number, 0)
        enqueue_ms.append((time.perf_counter() - begin) * 1e3)
        if producer.has_results:
            await producer.result(job)
            result_ms.append((time.perf_counter() - begin) * 1e3)
        end = time.monotonic() + _PATIENCE_SECONDS
        while marks.count() <= number:
            if time.monotonic() > end:
                raise TimeoutError(f"job {number} did not run within {_PATIENCE_SECONDS:g} s")
            await asyncio.sleep(_LOOK_SECONDS)
    return {"enqueue_ms": enqueue_ms, "result_ms": result_ms, "begun": begun}


async def main(name: str) -> None:
    """Do as told until the end of stdin."""
    loop = asyncio.get_running_loop()
    async with importlib.import_module(f"benchmarks.queues.{name}").opened() as producer:
        print("{}", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            told = json.loads(line)
            found = await {"many": many, "one": one}[told.pop("do")](producer, **told)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

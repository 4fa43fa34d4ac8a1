"""The two kinds of load: an open-loop stream that does not wait, and clients that do."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offload._bench.client import BadAnswerError, Connection
from offload._bench.numbers import in_ms, summary

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from offload._bench.client import Answer, Target
    from offload._bench.plan import Plan, Stream

__all__ = ["HeavyClients", "Prober"]

_FAILED = 400
# A client that is turned away does not ask again at once; and a generator that spins is no client.
_PAUSE_SECONDS = 0.05
_DRAWN = re.compile(r"\{lognormal:([0-9.]+):([0-9.]+)\}")


@dataclass(slots=True)
class Outcomes:
    """How requests ended."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    errors: Counter[str] = field(default_factory=Counter[str])

    def to_json(self) -> dict[str, Any]:
        """Return what the output has of them."""
        statuses = {str(status): count for status, count in sorted(self.statuses.items())}
        return {"statuses": statuses, "errors": dict(self.errors)}


def kind_of(error: BaseException) -> str:
    """Return the word for a failure that the output uses."""
    match error:
        case TimeoutError():
            return "timeout"
        case ConnectionRefusedError():
            return "refused"
        case BadAnswerError():
            return "bad answer"
        case ConnectionError():
            return "reset"
        case _:
            return type(error).__name__


def seconds_of(header: str | None) -> float | None:
    """Return the seconds of a `Retry-After`; None where there is none, or where it is a date."""
    return float(header) if header is not None and header.isdecimal() else None


def requests(target: Target, numbers: random.Random) -> Iterator[bytes]:
    """Yield the bytes of one request after the other."""
    if not _DRAWN.search(target.path):
        request = target.request()
        while True:
            yield request

    def draw(match: re.Match[str]) -> str:
        return str(round(numbers.lognormvariate(math.log(float(match[1])), float(match[2]))))

    while True:
        yield target.request(_DRAWN.sub(draw, target.path))


def arrivals(stream: Stream, begin: float, end: float, numbers: random.Random) -> Iterator[float]:
    """Yield the intended send times between two instants."""
    if stream.arrivals == "uniform":
        number = 0
        while (at := begin + number / stream.rate) < end:
            yield at
            number += 1
        return
    at = begin + numbers.expovariate(stream.rate)
    while at < end:
        yield at
        at += numbers.expovariate(stream.rate)


class Prober:
    """Sends one open-loop stream."""

    def __init__(self, stream: Stream, plan: Plan, start: float, numbers: random.Random) -> None:
        self._stream = stream
        self._plan = plan
        self._start = start
        self._numbers = numbers
        self._requests = requests(stream.target, numbers)
        self._outcomes = Outcomes()
        # Of the requests that count, in seconds: intended, latency, and last what the answer asks
        # to wait; before that its status.
        self._times: list[tuple[float, float | None, int | None, float | None]] = []
        self.lateness: list[float] = []
        self._idle: list[Connection] = []
        # Like a pool of clients, and like wrk2: past this many, a request waits for a connection,
        # and is charged for the wait. Without a limit, a server that froze would get thousands.
        self._free = asyncio.Semaphore(plan.connections)

    async def run(self) -> dict[str, Any]:
        """Send at the intended times, wait for all answers, return the object of the output."""
        begin, end = self._start - self._plan.warm_up, self._start + self._plan.seconds
        pending: set[asyncio.Task[None]] = set()
        for intended in arrivals(self._stream, begin, end, self._numbers):
            delay = intended - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            if intended >= self._start:
                self.lateness.append(time.perf_counter() - intended)
            task = asyncio.create_task(self._one(intended))
            pending.add(task)
            task.add_done_callback(pending.discard)
        # Each ends by itself, at its time-out at the latest.
        await asyncio.gather(*pending)
        for connection in self._idle:
            connection.close()
        self._times.sort(key=lambda times: times[0])
        stream = self._stream
        return {
            "target": f"{stream.target.method} {stream.target.url}",
            "rate": stream.rate,
            "arrivals": stream.arrivals,
            "intended_ms": [in_ms(intended - self._start) for intended, *_ in self._times],
            "latency_ms": [None if took is None else in_ms(took) for _, took, *_ in self._times],
            "status": [status for _, _, status, _ in self._times],
            "retry_after": [seconds for *_, seconds in self._times],
            **self._outcomes.to_json(),
            "lateness_ms": summary(self.lateness),
        }

    async def _one(self, intended: float) -> None:
        failure: str | None = None
        status, took = 0, 0.0
        retry_after: float | None = None
        try:
            async with asyncio.timeout(intended + self._plan.timeout - time.perf_counter()):
                async with self._free:
                    answer = await self._exchange()
                    status, took = answer.status, answer.at - intended
                    retry_after = seconds_of(answer.headers.get("retry-after"))
        except OSError as error:  # TimeoutError is one.
            failure, took = kind_of(error), time.perf_counter() - intended
        if intended < self._start:
            return
        if failure is None:
            self._outcomes.statuses[status] += 1
        else:
            self._outcomes.errors[failure] += 1
        told = took if failure in {None, "timeout"} else None
        self._times.append((intended, told, status if failure is None else None, retry_after))

    async def _exchange(self) -> Answer:
        """Send over a connection that is free, else over a new one."""
        request = next(self._requests)
        while self._idle:
            # The one used last: those that are not needed close by themselves.
            connection = self._idle.pop()
            if not connection.usable:
                continue
            try:
                return await self._send(connection, request)
            except ConnectionResetError:
                # Servers close a connection that was idle for long, as it happens just now. That
                # is no failure: every client sends such a request again.
                if connection.heard or self._stream.target.method not in {"GET", "HEAD"}:
                    raise
        connection = Connection(self._stream.target)
        await connection.open()
        return await self._send(connection, request)

    async def _send(self, connection: Connection, request: bytes) -> Answer:
        answer = await connection.exchange(request)
        if connection.usable:
            self._idle.append(connection)
        return answer


class HeavyClients:
    """Clients that each have one request under way at any time."""

    def __init__(self, plan: Plan, start: float, numbers: random.Random) -> None:
        self._plan = plan
        self._start = start
        self._end = start + plan.seconds
        self._requests = [requests(target, numbers) for target in plan.heavy]
        self._outcomes = Outcomes()
        self._each = [0] * plan.clients
        self._times: list[tuple[float, float]] = []

    async def run(self) -> dict[str, Any]:
        """Keep them busy until the end, wait for the last answers, return the output's object."""
        await asyncio.gather(*(self._client(number) for number in range(self._plan.clients)))
        self._times.sort()
        return {
            "targets": [f"{target.method} {target.url}" for target in self._plan.heavy],
            "clients": self._plan.clients,
            "completed": len(self._times),
            "per_second": len(self._times) / self._plan.seconds,
            "each": self._each,
            "ended_ms": [in_ms(ended - self._start) for ended, _ in self._times],
            "round_trip_ms": [in_ms(took) for _, took in self._times],
            **self._outcomes.to_json(),
        }

    async def _client(self, number: int) -> None:
        which = number % len(self._plan.heavy)
        target, stream = self._plan.heavy[which], self._requests[which]
        connection: Connection | None = None
        while (began := time.perf_counter()) < self._end:
            try:
                async with asyncio.timeout(self._patience(began)):
                    if connection is None or not connection.usable:
                        connection = Connection(target)
                        await connection.open()
                    answer = await connection.exchange(next(stream))
            except OSError as error:
                if connection is not None:
                    connection.close()
                    connection = None
                if self._counts(time.perf_counter()):
                    self._outcomes.errors[kind_of(error)] += 1
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            if self._counts(answer.at):
                self._outcomes.statuses[answer.status] += 1
                if answer.status < _FAILED:
                    self._each[number] += 1
                    self._times.append((answer.at, answer.at - began))
            if answer.status >= _FAILED:
                await asyncio.sleep(_PAUSE_SECONDS)
        if connection is not None:
            connection.close()

    def _patience(self, began: float) -> float:
        if self._plan.hang_up:
            # What comes later does not count, and the answers to many clients take long.
            return min(self._plan.timeout, self._end - began)
        return self._plan.timeout

    def _counts(self, at: float) -> bool:
        return self._start <= at <= self._end

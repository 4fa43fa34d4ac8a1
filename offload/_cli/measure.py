"""Measures one call in both ways: on the event loop, and on a worker."""

from __future__ import annotations

import asyncio
import copy
import pickle
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from offload._cli import probe
from offload._cli.verdict import Measurement, Way
from offload._pool.invocation import Invocation
from offload._pool.target import is_generator_function, is_offloaded, target_of
from offload._values.options import CallOptions
from offload.errors import PoolNotFoundError
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions

__all__ = ["measure"]

# How often the loop notes the time while a call is watched.
_BEAT_SECONDS = 0.001
# asyncio's timers are due on the next millisecond: what is less late than this is not late.
_NOISE_SECONDS = 0.0015
# Of the time that a thread computes, the loop may be late for so much if it is said to go on: what
# lets go of the GIL (hashes) measured 0 to 0.25 here, what keeps it 1.2 to 20, also beside others
# that computed on every core.
_FREE_SHARE = 0.5
# A call of nothing is short: enough of them for a steady median.
_EMPTY_CALLS = 200
_EMPTY_SECONDS = 0.5


async def measure(
    function: Any,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    *,
    repeat: int = 20,
    seconds: float = 2.0,
) -> Measurement:
    """Run a function in both ways, several times, and return what that took.

    Args:
        function: decorated or not.
        arguments: its arguments; each call gets a copy of its own.
        keywords: its keyword arguments.
        repeat: how many calls of each kind to make at most.
        seconds: after which no more calls of a kind are made; one is made in any case.

    Raises:
        OffloadError: it cannot be offloaded, or a call failed on the way.
        Exception: what the function raised, inline or on the worker.
    """
    case = _Case(function, arguments, keywords)
    budget = _Budget(repeat, seconds)
    pool = case.pool
    try:
        inline, computing, starved, result = await _inline(case, budget)
        threaded, lets_go = await _threaded(case, budget)
        started = time.perf_counter()
        await pool.run(probe.nothing)
        cold = time.perf_counter() - started
        started = time.perf_counter()
        await case.offloaded()
        first = time.perf_counter() - started
        empty, _ = await _way(
            lambda: pool.run(probe.nothing), _Budget(_EMPTY_CALLS, _EMPTY_SECONDS), watched=False
        )
        offloaded, _ = await _way(case.offloaded, budget)
        worker_seconds = await _in_worker(case, budget)
    finally:
        await pool.aclose(drain=0.0)
    size, pickling = _pickling((arguments, keywords))
    items = len(result) if case.is_generator else None
    result_size, result_pickling = (0, 0.0) if case.is_generator else _pickling(result)
    return Measurement(
        function=case.target.name,
        pool=pool.name,
        inline=inline,
        threaded=threaded,
        lets_go=lets_go,
        offloaded=offloaded,
        empty=empty,
        worker_seconds=worker_seconds,
        cold_seconds=cold,
        first_seconds=first,
        computing=computing,
        argument_bytes=size,
        argument_seconds=pickling,
        result_bytes=result_size,
        result_seconds=result_pickling,
        items=items,
        starved=starved,
    )


class _Case:
    """The call that is measured."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self._arguments = arguments
        self._keywords = keywords
        options = CallOptions()
        self.pool: Pool
        self.target: Target
        if is_offloaded(function):
            definition = function._definition  # noqa: SLF001
            options = function._options  # noqa: SLF001
            self._arguments = (*function.bound, *arguments)
            try:
                self.pool, self.target = definition.resolve()
            except PoolNotFoundError:
                # The module that makes it is not imported here; a pool like any other will do.
                self.pool, self.target = _new_pool(), target_of(definition.function)
        else:
            self.target = target_of(function)  # raises, if it cannot be offloaded
            self.pool = _new_pool()
        self._options: ResolvedOptions = self.pool.resolve(options)
        self.is_generator = is_generator_function(self.target.function)

    def copied(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments that a call may change, as it could on a worker."""
        return copy.deepcopy((self._arguments, self._keywords))

    def inline(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Run it here and now, and return its result, of a generator the list of its items."""
        result = self.target.function(*arguments, **keywords)
        return list(result) if self.is_generator else result

    async def offloaded(self) -> None:
        """Run it on a worker, and drop the result."""
        invocation = Invocation(self.target, self._arguments, self._keywords, self._options)
        if self.is_generator:
            async for _ in self.pool.stream_invocation(invocation):
                pass
        else:
            await self.pool.run_invocation(invocation)


def _new_pool() -> Pool:
    return Pool("offload explain")


class _Budget:
    """How often to repeat a measurement."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._calls = calls
        self._seconds = seconds

    def is_left(self, calls: int, started: float) -> bool:
        """Return whether one more call is to be made."""
        return not calls or (calls < self._calls and time.perf_counter() - started < self._seconds)


async def _inline(case: _Case, budget: _Budget) -> tuple[Way, float, float, Any]:
    """Run it on this event loop.

    Returns:
        How that went, the shares of computing and of being starved, and the last result.
    """
    taken: list[float] = []
    cpu = loop_cpu = waited = 0.0
    result: Any = None
    watch = _Watch()
    begun = time.perf_counter()
    while budget.is_left(len(taken), begun):
        arguments, keywords = case.copied()
        waited -= _waited()
        cpu -= time.process_time()
        loop_cpu -= time.thread_time()
        started = time.perf_counter()
        result = case.inline(arguments, keywords)
        taken.append(time.perf_counter() - started)
        loop_cpu += time.thread_time()
        cpu += time.process_time()
        waited += _waited()
        await watch.beat()
    held = watch.end()
    way = Way(
        calls=len(taken),
        seconds=statistics.median(taken),
        held=held,
        loop_cpu=loop_cpu / len(taken),
    )
    computing = min(cpu / max(sum(taken) - waited, 1e-9), 1.0)
    return way, computing, min(waited / max(sum(taken), 1e-9), 1.0), result


async def _threaded(case: _Case, budget: _Budget) -> tuple[Way, bool | None]:
    """Run it in a thread; return how that went, and whether the loop went on meanwhile."""
    computed: list[float] = []

    def run() -> None:
        arguments, keywords = case.copied()
        started = time.thread_time()
        case.inline(arguments, keywords)
        computed.append(time.thread_time() - started)

    way, lates = await _way(lambda: asyncio.to_thread(run), budget)
    watched = computed[way.calls :]
    if sum(watched) / len(watched) < 2 * sys.getswitchinterval():
        return way, None
    # Whoever keeps the GIL gives it up when the switch interval is over and takes it again: the
    # loop waits for as long as it computes, and longer on a busy machine.
    late = sum(late for late in lates if late > _NOISE_SECONDS)
    return way, late < _FREE_SHARE * sum(watched)


async def _way(
    call: Callable[[], Awaitable[Any]], budget: _Budget, *, watched: bool = True
) -> tuple[Way, list[float]]:
    """Make calls one after the other, and then, if it is wanted, as many under watch.

    Returns:
        How that went, and how late the loop's timers were while it was watched.
    """
    taken: list[float] = []
    begun = time.perf_counter()
    cpu = time.thread_time()
    while budget.is_left(len(taken), begun):
        started = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - started)
    cpu = time.thread_time() - cpu
    held, lates = 0.0, []
    if watched:
        # Apart from the others: the watch itself makes the loop compute.
        watch = _Watch()
        count = 0
        begun = time.perf_counter()
        while budget.is_left(count, begun):
            await call()
            count += 1
        await watch.beat()
        held, lates = watch.end(), watch.lates
    way = Way(
        calls=len(taken),
        seconds=statistics.median(taken),
        held=held,
        loop_cpu=cpu / len(taken),
    )
    return way, lates


async def _in_worker(case: _Case, budget: _Budget) -> float:
    """Return how long the function runs in a worker; 0.0 where it cannot be asked there."""
    reference = case.target.reference.wire
    if not isinstance(reference, str):
        return 0.0
    taken: list[float] = []
    begun = time.perf_counter()
    while budget.is_left(len(taken), begun):
        arguments, keywords = case.copied()
        taken.append(await case.pool.run(probe.timed, reference, arguments, keywords))
    return statistics.median(taken)


def _pickling(value: Any) -> tuple[int, float]:
    """Return the size of a pickled value, and the seconds to pickle and unpickle it."""
    try:
        started = time.perf_counter()
        data = pickle.dumps(value, 5)
        pickle.loads(data)
    except Exception:  # noqa: BLE001 - whatever a reducer raises
        return 0, 0.0
    return len(data), time.perf_counter() - started


class _Watch:
    """Notes on the event loop how late its timers are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.lates: list[float] = []
        self._beaten = asyncio.Event()
        self._due = 0.0
        self._waited = _waited()
        self._timer = self._loop.call_soon(self._tick)
        self._due = self._loop.time()

    def _tick(self) -> None:
        now, waited = self._loop.time(), _waited()
        # What the machine kept this thread waiting is not the call's doing.
        late = now - self._due - (waited - self._waited)
        self.lates.append(late)
        self._beaten.set()
        self._waited = waited
        self._due = now + _BEAT_SECONDS
        self._timer = self._loop.call_at(self._due, self._tick)

    async def beat(self) -> None:
        """Wait until the time has been noted again."""
        self._beaten.clear()
        await self._beaten.wait()

    def end(self) -> float:
        """Return the longest time that the loop was held, 0.0 if too short to tell."""
        self._timer.cancel()
        longest = max(self.lates, default=0.0)
        return longest if longest > _NOISE_SECONDS else 0.0


def _waited() -> float:
    """Return the seconds that this thread was runnable and not run, 0.0 where unknown.

    Source:
        proc_pid_schedstat(5): the second number, in ns.
    """
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0

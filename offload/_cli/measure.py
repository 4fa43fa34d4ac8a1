"""Measures one call in both ways: on the event loop, and on a worker."""

from __future__ import annotations

import asyncio
import copy
import pickle
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offload._cli import probe
from offload._core.options import CallOptions
from offload._engine.target import is_generator_function, is_offloaded, target_of
from offload.errors import PoolNotFoundError
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload._core.options import ResolvedOptions
    from offload._engine.target import Target

__all__ = ["Measurement", "Verdict", "Way", "judge", "measure"]

# How often the loop notes the time while a call is watched.
_BEAT_SECONDS = 0.001
# asyncio's timers are due on the next millisecond: what is less late than this is not late.
_NOISE_SECONDS = 0.0015
# A call of nothing is short: enough of them for a steady median.
_EMPTY_CALLS = 200
_EMPTY_SECONDS = 0.5
# What a server does not notice, once.
_UNNOTICED_SECONDS = 0.001
# Of its time a function computes at least so much, or it mostly waits.
_COMPUTING_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the call. All values are seconds.

    Attributes:
        calls: how many were measured.
        seconds: from the call to its result; the median.
        held: how long the event loop was held at a stretch; the longest of all calls.
        loop_cpu: what the thread of the event loop computed for each call; the mean.
    """

    calls: int
    seconds: float
    held: float
    loop_cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a call takes in both ways.

    Attributes:
        function: `module:qualname`.
        pool: the pool's name; what the function is decorated with, or one with default options.
        inline: run by the event loop itself.
        offloaded: run by a warm worker.
        empty: a warm worker that is asked to do nothing.
        worker_seconds: how long the function runs in a warm worker; the median.
        cold_seconds: from the first call of a new pool to its answer, with nothing to do.
        first_seconds: the first call of the function on a worker, which imports its module.
        computing: share of the inline time in which it computed, and did not wait.
        argument_bytes: size of its pickled arguments.
        argument_seconds: what pickling and unpickling them takes.
        result_bytes: size of its pickled result; 0 for a generator, whose items go one by one.
        result_seconds: what pickling and unpickling that takes.
        items: how many items the generator made; None if it is none.
    """

    function: str
    pool: str
    inline: Way
    offloaded: Way
    empty: Way
    worker_seconds: float
    cold_seconds: float
    first_seconds: float
    computing: float
    argument_bytes: int
    argument_seconds: float
    result_bytes: int
    result_seconds: float
    items: int | None = None

    @property
    def overhead(self) -> float:
        """Seconds that a call takes longer on a warm worker than the function runs there."""
        return max(self.offloaded.seconds - self.worker_seconds, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Is offloading worth it?

    Attributes:
        answer: "yes", "hardly", "no" or "thread".
        why: in words, with the figures.
        break_even: run time in seconds above which the event loop has less to do with a call that
            is offloaded than with one that runs inline.
    """

    answer: str
    why: str
    break_even: float


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
        inline, computing, result = await _inline(case, budget)
        started = time.perf_counter()
        await pool.run(probe.nothing)
        cold = time.perf_counter() - started
        started = time.perf_counter()
        await case.offloaded()
        first = time.perf_counter() - started
        empty = await _way(
            lambda: pool.run(probe.nothing), _Budget(_EMPTY_CALLS, _EMPTY_SECONDS), held=False
        )
        offloaded = await _way(case.offloaded, budget)
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

    async def offloaded(self) -> None:
        """Run it on a worker, and drop the result."""
        arguments, keywords = self._arguments, self._keywords
        if self.is_generator:
            async for _ in self.pool.stream(self.target, arguments, keywords, self._options):
                pass
        else:
            await self.pool.call(self.target, arguments, keywords, self._options)


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


async def _inline(case: _Case, budget: _Budget) -> tuple[Way, float, Any]:
    """Run it on this event loop; return how that went, the share of computing, and the result."""
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
        result = case.target.function(*arguments, **keywords)
        if case.is_generator:
            result = list(result)
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
    return way, computing, result


async def _way(call: Callable[[], Awaitable[Any]], budget: _Budget, *, held: bool = True) -> Way:
    """Make calls one after the other, and then, if it is wanted, once more under watch."""
    taken: list[float] = []
    begun = time.perf_counter()
    cpu = time.thread_time()
    while budget.is_left(len(taken), begun):
        started = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - started)
    cpu = time.thread_time() - cpu
    longest = 0.0
    if held:
        # Apart from the others: the watch itself makes the loop compute.
        watch = _Watch()
        watched = 0
        begun = time.perf_counter()
        while budget.is_left(watched, begun):
            await call()
            watched += 1
        await watch.beat()
        longest = watch.end()
    return Way(
        calls=len(taken),
        seconds=statistics.median(taken),
        held=longest,
        loop_cpu=cpu / len(taken),
    )


async def _in_worker(case: _Case, budget: _Budget) -> float:
    """Return how long the function runs in a worker; 0.0 where it cannot be asked there."""
    reference = case.target.reference
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
        self._longest = 0.0
        self._beaten = asyncio.Event()
        self._due = 0.0
        self._waited = _waited()
        self._timer = self._loop.call_soon(self._tick)
        self._due = self._loop.time()

    def _tick(self) -> None:
        now, waited = self._loop.time(), _waited()
        # What the machine kept this thread waiting is not the call's doing.
        late = now - self._due - (waited - self._waited)
        if late > _NOISE_SECONDS:
            self._longest = max(self._longest, late)
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
        return self._longest


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


# --- the verdict ---


def judge(found: Measurement) -> Verdict:
    """Return whether offloading is worth it, by what it saves the event loop."""
    run, cost = found.inline.seconds, found.offloaded.loop_cpu
    break_even = cost
    even = f"The break-even for this payload is a run time of {milliseconds(break_even)}"
    if run <= cost:
        answer = "no"
        why = (
            f"It runs for {milliseconds(run)}; handing it to a worker keeps the event loop busy "
            f"for {milliseconds(cost)}. Run it inline. {even}."
        )
    elif found.computing < _COMPUTING_SHARE and run > _UNNOTICED_SECONDS:
        answer = "thread"
        why = (
            f"It computes only {found.computing:.0%} of the time and waits for the rest: a thread "
            "is enough, and cheaper: await anyio.to_thread.run_sync(…)."
        )
    elif run < _UNNOTICED_SECONDS:
        answer = "hardly"
        why = (
            f"It holds the event loop for {milliseconds(run)}, which nobody notices unless it is "
            f"called very often; offloaded, the loop spends {milliseconds(cost)} on it, and the "
            f"call takes {milliseconds(found.overhead)} longer than it runs. {even}."
        )
    else:
        answer = "yes"
        why = (
            f"Inline, every other request waits for {milliseconds(found.inline.held or run)}; "
            f"offloaded, the event loop spends {milliseconds(cost)} on it, "
            f"{run / max(cost, 1e-9):,.0f} times less, and the call takes "
            f"{milliseconds(found.overhead)} longer than it runs. {even}."
        )
        if found.offloaded.held > max(5 * _UNNOTICED_SECONDS, 0.1 * run):
            why += (
                f" Its payload still holds the loop for up to {milliseconds(found.offloaded.held)}:"
                " send less, or bytes instead of many small objects."
            )
    return Verdict(answer=answer, why=why, break_even=break_even)


def milliseconds(seconds: float) -> str:
    """Return a duration for people: three figures, in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"

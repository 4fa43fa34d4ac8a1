"""What type checkers must know of `@offload`: checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Self, TypeVar, assert_type

from offload import Offloaded, OffloadedGenerator, Pool, PoolStatistics, Stream, offload
from offload.jobs import CancelOutcome, Job, Jobs, JobStatus, job_options
from offload.testing import Footprint, LoopBlock, LoopBlockDetector, no_leaks

T = TypeVar("T")


@offload
def bare(left: int, right: str = "", *, flag: bool = False) -> bytes:
    """Take one of each kind of parameter."""
    return f"{left}{right}{flag}".encode()


@offload(pool="images", timeout=10, queue_timeout=None, priority=1, max_crash_retries=2, grace=0.5)
def with_options(value: int) -> list[int]:
    """Take every option."""
    return [value]


@offload()
def with_no_options(value: int) -> None:
    """Take no option."""
    del value


@offload(pool=Pool("typed"), max_concurrency=2)
def on_pool(value: int) -> int:
    """Run on a pool that is given as an object."""
    return value


@offload
def generic(value: T) -> list[T]:
    """Keep the type of the argument."""
    return [value]


@offload
def generator(until: int) -> Generator[int, None, str]:
    """Yield numbers."""
    yield from range(until)
    return "ignored"


@offload(timeout=5)
def iterator(text: str, *, upper: bool = False) -> Iterator[str]:
    """Yield letters."""
    yield from text.upper() if upper else text


@dataclass
class Scale:
    """Methods of every kind."""

    factor: int

    @offload
    def times(self, value: int) -> int:
        """Multiply."""
        return self.factor * value

    @offload(timeout=1)
    def multiples(self, until: int) -> Iterator[int]:
        """Yield multiples."""
        yield from range(0, self.factor * until, self.factor)

    @staticmethod
    @offload
    def static(value: str) -> str:
        """Return the argument."""
        return value

    def chain(self) -> Self:
        """Return itself."""
        return self


async def calls() -> None:
    """Call."""
    assert_type(await bare(1), bytes)
    assert_type(await bare(1, "b", flag=True), bytes)
    assert_type(await bare(left=1, right="b"), bytes)
    assert_type(await with_options(1), list[int])
    await with_no_options(1)
    assert_type(await on_pool(1), int)
    assert_type(await generic("text"), list[str])
    assert_type(await bare.options(timeout=1)(1), bytes)
    assert_type(await bare.options(timeout=None, priority=5, grace=0.1)(1, flag=True), bytes)
    assert_type(bare.__wrapped__(1), bytes)
    awaitable: Awaitable[bytes] = bare(1)
    await awaitable
    function: Callable[[int], Coroutine[Any, Any, list[int]]] = with_options
    await function(1)


async def maps() -> None:
    """Map."""
    assert_type(await with_options.map([1, 2]), list[list[int]])
    assert_type(await with_options.map(range(3), max_concurrency=2), list[list[int]])
    assert_type(await on_pool.options(timeout=1).map({1, 2}), list[int])
    assert_type(await bare.map([1, 2]), list[bytes])


async def streams() -> None:
    """Stream."""
    assert_type(generator.stream(3), Stream[int])
    assert_type(iterator.stream("abc", upper=True), Stream[str])
    async for number in generator.stream(3):
        assert_type(number, int)
    async with iterator.options(timeout=1).stream("abc") as letters:
        assert_type(letters, Stream[str])
        async for letter in letters:
            assert_type(letter, str)
    items: AsyncIterator[int] = generator.stream(3)
    assert_type(await anext(items), int)


async def methods() -> None:
    """Bind."""
    scale = Scale(3).chain()
    assert_type(await scale.times(5), int)
    assert_type(await scale.times(value=5), int)
    assert_type(await scale.times.options(timeout=1)(5), int)
    assert_type(await scale.times.map([1, 2]), list[int])
    assert_type(await Scale.times(scale, 5), int)
    assert_type(scale.multiples.stream(2), Stream[int])
    assert_type(await Scale.static("a"), str)


def kinds() -> None:
    """Tell functions from generator functions."""
    plain: Offloaded[[int], list[int]] = with_options
    streaming: OffloadedGenerator[[int], int] = generator
    del plain, streaming


async def pools(pool: Pool) -> None:
    """Use a pool."""
    async with Pool("other", max_workers=2, os_priority="low") as other:
        assert_type(other, Pool)
        assert_type(await other.run(len, "abc"), int)
        assert_type(await other.run(bare, 1, flag=True), bytes)
        assert_type(await other.run(on_pool.options(timeout=1), 1), int)
    assert_type(pool.statistics(), PoolStatistics)
    assert_type(Pool.named("other"), Pool)
    executor: Executor = pool.executor()
    assert_type(executor.submit(len, "abc"), Future[int])
    assert_type(pool.executor().submit(len, "abc"), Future[int])
    assert_type(pool.executor().submit(bare, 1), Future[bytes])
    assert_type(pool.executor().submit(Scale(3).times, 1), Future[int])


async def jobs(some: Jobs) -> None:
    """Enqueue, and wait for results."""
    assert_type(await some.enqueue(bare, 1, "", flag=True), Job[bytes])
    assert_type(await some.options(delay=3.0, unique=True).enqueue(bare, 1), Job[bytes])
    assert_type(await bare.enqueue(1, "", flag=True), Job[bytes])
    assert_type(await some.run(bare, 1), bytes)
    job = await some.get("1", bare)
    assert_type(await job.result(timeout=3.0), bytes)
    assert_type(await job.status(), JobStatus)
    assert_type(await job.cancel(), CancelOutcome)
    async with job.events() as events:
        assert_type(await anext(events), JobStatus)
    assert_type(await some.enqueue(weighed, "text"), Job[float])


@job_options(max_attempts=3, backoff=0.5)
def weighed(text: str) -> float:
    """Keep the types of a function that is not offloaded."""
    return float(len(text))


def testing() -> None:
    """Use the helpers for tests."""
    with LoopBlockDetector(threshold=0.1) as detector:
        assert_type(detector.blocks, list[LoopBlock])
    with no_leaks(within=1.0) as before:
        assert_type(before, Footprint)
        assert_type(before.left_behind(), list[str])

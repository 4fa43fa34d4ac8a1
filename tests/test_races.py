"""What happens at once, or twice, and must not reach anybody else."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from offload import Pool, ResultError
from offload._core.options import CallOptions
from offload._engine.target import target_of
from tests import pool_functions, race_functions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    pool = Pool("races", max_workers=1, spare_workers=0)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@pytest.mark.guarantee(3)
async def test_stream_that_fails_twice_replies_once(pool: Pool) -> None:
    """An item that cannot be sent and a failing clean-up are one error, of this call alone."""
    errors: list[Any] = []
    results: dict[int, Any] = {}

    async def consume() -> None:
        try:
            target = target_of(race_functions.unsendable_then_failing)
            async for _ in pool.stream(target, (), {}, pool.resolve(CallOptions())):
                raise AssertionError
        except ResultError as error:
            errors.append(error)

    async def call(number: int) -> None:
        try:
            results[number] = await pool.run(pool_functions.echo, number)
        except ValueError as error:
            results[number] = error

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        for number in range(5):
            group.start_soon(call, number)
    assert "lambda" in str(errors[0])
    assert results == {number: number for number in range(5)}


@pytest.mark.guarantee(3)
async def test_forked_child_that_returns_leaves_the_tray_alone(pool: Pool) -> None:
    """A child that a task forks, and that runs on into our code, writes into nobody's result."""
    assert await pool.run(race_functions.tray_after_child_returned, 1_000_000) == 0

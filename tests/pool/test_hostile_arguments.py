"""Arguments that do more than not to pickle: the call fails, and nothing else does."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from offload import ArgumentError, Pool
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

# Not `KeyboardInterrupt`, which is taken for Ctrl+C wherever it comes from.
EXITS = [SystemExit, GeneratorExit, asyncio.CancelledError, BaseException]


class Exits:
    """Raises what ends a process, a coroutine or a task when it is pickled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> NoReturn:
        raise self.error


class Mute:
    """Cannot be pickled, and cannot say what it is either."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    def __reduce__(self) -> NoReturn:
        raise TypeError


@pytest.fixture(params=["processes", "threads"])
async def pool(
    request: pytest.FixtureRequest, new_pool: Callable[..., Pool]
) -> AsyncIterator[Pool]:
    """Return a pool of processes, or of the threads of an executor."""
    threads = ThreadPoolExecutor(1)
    options = {"executor": threads} if request.param == "threads" else {}
    async with new_pool(max_workers=1, **options) as pool:
        yield pool
    threads.shutdown()


@pytest.mark.parametrize("size", [0, 1 << 20], ids=["small", "large"])
async def test_exit_while_an_argument_is_pickled_is_an_argument_error(
    pool: Pool, size: int
) -> None:
    """Neither the server nor the caller's task ends; the error names the argument."""
    for error in EXITS:
        hostile = [Exits(error), [0] * size]
        with pytest.raises(ArgumentError, match=f"raises {error.__name__} when it is pickled"):
            await pool.run(functions.echo, hostile)
        future = pool.executor().submit(functions.echo, hostile)
        with pytest.raises(ArgumentError, match=r"\[0\]"):
            future.result(PATIENCE)
    assert await pool.run(functions.echo, 3) == 3


async def test_argument_that_cannot_say_what_it_is_is_an_argument_error(pool: Pool) -> None:
    """The path to the culprit is told as far as it can be, and telling it raises nothing else."""
    hostile: list[Any] = [
        {Mute(): 1},
        {Mute(SystemExit): lambda: 1},
        {10 ** (sys.get_int_max_str_digits() + 1): lambda: 1},
        [Mute()],
        {"deep": {Mute(): [Mute()]}},
    ]
    for value in hostile:
        with pytest.raises(ArgumentError, match="did not run: argument 'value'"):
            await pool.run(functions.echo, value)

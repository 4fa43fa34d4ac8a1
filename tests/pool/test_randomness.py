"""Workers do not repeat each other's random numbers."""

from collections.abc import Callable

import pytest

from offload import Pool
from tests.support.functions import randoms as functions


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_workers_of_one_preload_draw_different_numbers(
    new_pool: Callable[..., Pool],
) -> None:
    """Global generators, and those in variables, are each worker's own, though it was forked."""
    module = "tests.support.functions.randoms"
    async with new_pool(max_workers=2, max_tasks_per_worker=1, preload=[module]) as pool:
        draws = [await pool.run(functions.draw, number) for number in range(4)]
    for numbers in zip(*draws, strict=True):
        assert len(set(numbers)) == len(draws)

"""Fixtures that the tests of the pool share."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from offload import Pool
from tests.support import inside

_numbers = itertools.count()


@pytest.fixture
async def one_worker() -> AsyncIterator[Pool]:
    """A pool of one worker: what one call spoils, the next one meets."""
    async with Pool("one worker", max_workers=1, spare_workers=0, os_priority="normal") as pool:
        yield pool


@pytest.fixture
def new_pool() -> Iterator[Callable[..., Pool]]:
    """Makes pools, and forgets them when the test has closed them."""
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        # At normal priority: these tests are about other things than who goes first.
        made.append(Pool(f"test {next(_numbers)}", **{"os_priority": "normal"} | options))
        return made[-1]

    yield make
    for pool in made:
        inside.forget_if_known(pool.name)

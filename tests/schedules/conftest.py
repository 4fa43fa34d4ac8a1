"""Fixtures of the tests of schedules that run."""

from collections.abc import AsyncIterator, Iterator
from functools import partial

import anyio
import pytest

from tests.schedules.story import Clock
from tests.support.functions import scheduled
from tests.support.processes import until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for schedulers."""
    monkeypatch.delenv("OFFLOAD_JOBS", raising=False)
    return Clock()


@pytest.fixture(scope="module")
def _open_pool() -> Iterator[None]:
    anyio.run(scheduled.pool.open)
    yield
    anyio.run(partial(scheduled.pool.aclose, drain=0.0))


@pytest.fixture
async def pool(_open_pool: None, anyio_backend: object) -> AsyncIterator[None]:
    """Have the pool of the functions open, and nothing left in it when a test ends."""
    yield
    await until(
        lambda: not (scheduled.pool.statistics().busy or scheduled.pool.statistics().queued)
    )

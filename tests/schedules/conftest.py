"""Fixtures of the tests of schedules that run."""

from collections.abc import AsyncIterator

import pytest

from tests.schedules.story import Clock
from tests.support.functions import scheduled


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for schedulers."""
    monkeypatch.delenv("OFFLOAD_JOBS", raising=False)
    return Clock()


@pytest.fixture
async def pool(anyio_backend: object) -> AsyncIterator[None]:
    """Have the pool of the functions open."""
    async with scheduled.pool:
        yield

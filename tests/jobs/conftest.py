"""Fixtures of the tests of jobs."""

import importlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from offload.jobs import Jobs
from offload.jobs._engine import Engine
from tests.jobs.engines import PLACES, Place, Server
from tests.jobs.programs import Programs
from tests.jobs.servers import PostgresServer, RedisServer

SERVERS: dict[str, type[Server]] = {"redis": RedisServer, "postgres": PostgresServer}
_running: dict[str, Server] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have the server that a test shares with others started before anybody looks for leaks."""
    callspec = getattr(item, "callspec", None)
    kind = callspec.params.get("place") if callspec else None
    if kind in SERVERS and kind not in _running:
        factory = item.session.config._tmp_path_factory  # type: ignore[attr-defined]
        server = SERVERS[kind](factory.mktemp(kind))
        server.start()
        _running[kind] = server
        # Not on an event loop, which it would hold.
        importlib.import_module(f"offload.jobs._bullmq.{kind}_engine")


def pytest_sessionfinish() -> None:
    """End the servers."""
    while _running:
        _running.popitem()[1].stop()


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store of each kind of engine."""
    return PLACES[request.param](tmp_path, _running.get(request.param))


@pytest.fixture
async def engine(place: Place, anyio_backend: object) -> AsyncIterator[Engine]:
    """An open engine on the store."""
    made = place.new()
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
async def other(place: Place, engine: Engine) -> AsyncIterator[Engine]:
    """Another one on the same store, as another process has it."""
    made = place.new()
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
def until():
    """Wait for a condition that only time, or another process, brings about."""

    async def wait(condition):
        with anyio.fail_after(30):
            # What time brings about has no event.
            while not await condition():  # noqa: ASYNC110
                await anyio.sleep(0.01)

    return wait


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where the jobs of a test are, for several processes."""
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal"


@pytest.fixture
async def jobs(url: str, anyio_backend: object) -> AsyncIterator[Jobs]:
    """Open jobs."""
    async with Jobs(url) as opened:
        yield opened


@pytest.fixture
def programs(url: str) -> Iterator[Programs]:
    """Worker programs, each a process of its own, which end with the test."""
    with Programs(url) as started:
        yield started

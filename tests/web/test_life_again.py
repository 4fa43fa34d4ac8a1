"""Applications that come and go: a pool that one of them has closed serves whoever comes next."""

from collections.abc import Callable, Iterator

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from offload import Pool, PoolClosedError
from offload.starlette import lifespan
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")


@pytest.fixture
def pool() -> Iterator[Pool]:
    """Return a pool that applications of a test share."""
    pool = Pool("life again", max_workers=1, os_priority="normal")
    yield pool
    pool.kill().result(PATIENCE)
    inside.forget_if_known(pool.name)


@pytest.fixture
def make_client(pool: Pool) -> Callable[[], TestClient]:
    """Make clients, each of an application of its own."""

    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await pool.run(functions.echo, request.url.path)))

    def make() -> TestClient:
        return TestClient(Starlette(routes=[Route("/a", endpoint)], lifespan=lifespan(pool)))

    return make


def test_client_without_a_lifespan_works_before_and_after_others(
    make_client: Callable[[], TestClient],
) -> None:
    """A bare test client, as FastAPI's own page has it, gets what it expects in any order."""
    bare = make_client()
    assert bare.get("/a").text == "/a"
    for _ in range(2):
        with make_client() as client:
            assert client.get("/a").text == "/a"
        assert bare.get("/a").text == "/a"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_script_goes_on_with_a_pool_that_an_application_has_closed(pool: Pool) -> None:
    """Calls, views, streams and a second application find the pool as if it was new."""
    async with lifespan(pool)(None):
        assert await pool.run(functions.echo, 1) == 1
    assert pool.is_closed
    assert await pool.run(functions.echo, 2) == 2
    async with lifespan(pool)(None):
        pass
    assert await anyio.to_thread.run_sync(pool.executor().submit(functions.echo, 3).result) == 3
    async with lifespan(pool)(None):
        assert await pool.run(functions.echo, 4) == 4


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_pool_that_was_closed_by_hand_stays_closed(pool: Pool) -> None:
    """`aclose` and `kill` mean what they say, also after the end of an application."""
    async with lifespan(pool)(None):
        pass
    await pool.aclose()
    with pytest.raises(PoolClosedError):
        await pool.run(functions.echo, 1)
    async with lifespan(pool)(None):
        pass
    pool.kill()
    with pytest.raises(PoolClosedError):
        await pool.run(functions.echo, 1)

"""FastAPI takes decorated functions as they are, in endpoints, as endpoints and as dependencies."""

import os
from functools import partial

import anyio
import httpx
import pytest
from fastapi import FastAPI

from offload import Pool
from offload.starlette import lifespan
from tests.support import inside
from tests.support.apps import fastapi_app
from tests.support.functions import pool as pool_functions

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def app():
    """Serve all tests with one worker, which takes its time to import FastAPI."""
    anyio.run(fastapi_app.pool.open)
    yield fastapi_app.app
    anyio.run(partial(fastapi_app.pool.aclose, drain=0))


@pytest.fixture
async def http(app):
    """Return a client of the application."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def test_pool_lives_as_long_as_the_application():
    """`FastAPI(lifespan=lifespan(pool))` opens the pool before it serves, and closes it after."""
    pool = Pool("fastapi-lifespan", max_workers=1)
    app = FastAPI(lifespan=lifespan(pool, drain=0))
    try:
        async with app.router.lifespan_context(app):
            assert pool.statistics().state == "open"
            assert await pool.run(pool_functions.pid) != os.getpid()
        assert pool.statistics().state == "closed"
    finally:
        inside.forget(pool)


@pytest.mark.parametrize("path", ["/awaited", "/model"])
async def test_models_cross_both_ways(http, path):
    """Pydantic models are arguments and results like any other, awaited or as an endpoint."""
    response = await http.post(path, json={"item": "tea", "count": 2})

    receipt = response.json()
    assert receipt.pop("pid") != os.getpid()
    assert receipt == {"item": "tea", "total": 6}


async def test_endpoint_runs_on_a_worker(http):
    """`@app.get` over `@offload`: parameters are parsed, defaults kept, the worker runs it."""
    response = await http.get("/number", params={"n": "21"})

    assert response.status_code == 200
    assert response.json()["result"] == 42
    assert response.json()["pid"] != os.getpid()


async def test_input_is_validated_before_it_reaches_a_worker(http):
    """FastAPI sees the function's own signature."""
    response = await http.get("/number", params={"n": "many"})

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", "n"]


async def test_schema_is_that_of_the_plain_function():
    """OpenAPI shows the same operation with and without the decorator."""
    plain = FastAPI()
    plain.get("/number")(fastapi_app.number.__wrapped__)
    plain.post("/model")(fastapi_app.model.__wrapped__)

    offloaded, expected = fastapi_app.app.openapi(), plain.openapi()

    for path in ("/number", "/model"):
        assert offloaded["paths"][path] == expected["paths"][path]


async def test_dependencies_run_where_they_belong(http):
    """A plain dependency runs in the server, a decorated one and the endpoint on a worker."""
    response = await http.get("/depending", params={"n": 3}, headers={"x-tenant": "Ada"})

    told = response.json()
    assert told["tenant"] == f"Ada of {os.getpid()}"
    assert told["pid"] != os.getpid()
    assert told["product"] == 3 * told["pid"]


async def test_endpoint_may_look_at_the_request(http):
    """A `Request` parameter crosses as a copy."""
    response = await http.get("/request/tea")

    told = response.json()
    assert told.pop("pid") != os.getpid()
    assert told == {"path": "/request/tea", "name": "tea"}


async def test_installed_handlers_answer_for_endpoints(http):
    """A worker that dies is a 500 problem for that client, and nothing for the next one."""
    crashed = await http.get("/crash")
    after = await http.get("/number", params={"n": 1})

    assert (crashed.status_code, crashed.json()["error"]) == (500, "WorkerCrashedError")
    assert crashed.headers["content-type"] == "application/problem+json"
    assert after.status_code == 200

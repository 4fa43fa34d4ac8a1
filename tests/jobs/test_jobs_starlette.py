"""Jobs over HTTP: 202, status, events and cancelling, for those who may."""

import json

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from offload.jobs import JobError, Jobs, JobState
from offload.jobs._values import Complete, Fail
from offload.starlette import accepted, job_routes, jobs_lifespan
from tests.jobs import job_functions as functions
from tests.jobs.values import claim

pytestmark = pytest.mark.anyio

NAME = "tests.jobs.job_functions"


@pytest.fixture
def store(url):
    """Return jobs that the application opens."""
    return Jobs(url)


@pytest.fixture
async def client(store, anyio_backend):
    """Return a client of an application, with its lifespan."""

    async def make(request):
        return accepted(request, await store.enqueue(functions.add, 1), retry_after=3)

    async def may_see(request, status):
        return request.headers.get("x-user") == "ada" and status.function.startswith(NAME)

    app = Starlette(
        routes=[Route("/make", make, methods=["POST"]), *job_routes(store, authorize=may_see)],
        lifespan=jobs_lifespan(store),
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {"x-user": "ada"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as made:
            yield made


async def finish(store, ending):
    """End the job that waits."""
    engine = await store.engine()
    held = await claim(engine, functions=[f"{NAME}:add"])
    await engine.finish(held, ending)


async def test_accepted_leads_to_the_result(client, store):
    """202 says where to ask; there is the state, and in the end the result."""
    response = await client.post("/make")
    assert (response.status_code, response.headers["retry-after"]) == (202, "3")
    url = response.headers["location"]
    waiting = await client.get(url)
    assert (waiting.json()["state"], waiting.headers["retry-after"]) == ("waiting", "1")
    await finish(store, Complete("1"))
    completed = await client.get(url)
    assert (completed.json()["state"], completed.json()["result"]) == ("completed", 1)
    assert "retry-after" not in completed.headers


async def test_client_learns_the_kind_of_error_only(client, store):
    """A failed job tells the class of its error: no text, no traceback, no argument."""
    url = (await client.post("/make")).headers["location"]
    await finish(store, Fail(JobError("ValueError", "secret", "secret")))
    response = await client.get(url)
    assert response.json()["error"] == "ValueError"
    assert "secret" not in response.text


async def test_job_of_others_is_not_there(client):
    """Who may not see a job can neither read, follow nor cancel it, nor learn that it is there."""
    url = (await client.post("/make")).headers["location"]
    for method, path in (("GET", url), ("DELETE", url), ("GET", f"{url}/events")):
        response = await client.request(method, path, headers={"x-user": "eve"})
        assert response.status_code == 404
    assert (await client.get("/jobs/nothing")).status_code == 404


async def test_delete_cancels(client, store):
    """DELETE cancels what waits; a second time there is a conflict."""
    url = (await client.post("/make")).headers["location"]
    response = await client.delete(url)
    assert (response.status_code, response.json()["outcome"]) == (200, "removed")
    assert (await client.delete(url)).status_code == 409
    (found,) = (await store.find()).jobs
    assert found.state is JobState.CANCELLED


async def test_events_end_with_the_job(client, store):
    """Server-sent events tell the state, and end with the last one."""
    url = (await client.post("/make")).headers["location"]
    texts = []

    async def follow():
        texts.append((await client.get(f"{url}/events")).text)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        await finish(store, Complete("1"))
    events = [each.split("\n") for each in texts[0].strip().split("\n\n")]
    assert events[-1][0] == "event: completed"
    assert json.loads(events[-1][1].removeprefix("data: "))["result"] == 1


async def test_events_are_not_asked_for_again_after_the_end(client, store):
    """A browser connects again after each end of a stream; 204 tells it that there is no more."""
    url = (await client.post("/make")).headers["location"]
    await finish(store, Complete("1"))
    told = (await client.get(f"{url}/events")).text
    (last,) = [line.removeprefix("id: ") for line in told.split("\n") if line.startswith("id: ")]
    again = await client.get(f"{url}/events", headers={"last-event-id": last})
    assert (again.status_code, again.text) == (204, "")
    # Who knows of another end is told of this one.
    other = await client.get(f"{url}/events", headers={"last-event-id": "failed then"})
    assert "event: completed" in other.text


async def test_closed_jobs_are_503(client, store):
    """Where jobs cannot be reached the client is told to come again."""
    url = (await client.post("/make")).headers["location"]
    await store.aclose()
    response = await client.get(url)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")

"""Every engine: one call that another machine answers, and that ends with its caller."""

import anyio
import pytest

from offload.jobs import JobCancelledError, Jobs, JobState
from offload.jobs._values import Cancel, Complete
from tests.jobs import job_functions as functions
from tests.jobs.values import wanted
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio

ADD = "tests.jobs.job_functions:add"


@pytest.fixture
async def jobs(place, engine):
    """Jobs on the store of the engine: here it stands for a worker program elsewhere."""
    url = place.url if hasattr(place, "url") else f"sqlite:///{place.path}"
    async with Jobs(url) as opened:
        yield opened


async def claimed(engine):
    """Claim the job that comes."""
    with anyio.fail_after(PATIENCE):
        while True:
            found = await engine.claim(wanted(functions=(ADD,)), wait=5.0)
            if found:
                return found[0]


async def test_call_is_answered_elsewhere(jobs, engine):
    """`run` returns what a worker program reports, with the type of the function's result."""
    answers = []

    async def call():
        answers.append(await jobs.run(functions.add, 1, second=2))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        job = await claimed(engine)
        assert job.job.arguments == '{"first":1,"second":2}'
        assert (await engine.finish(job.claim, Complete("3"))).is_stored
    assert answers == [3]


async def test_caller_that_goes_away_cancels_what_waits(jobs, engine):
    """A call that is cancelled before anybody began it never runs."""
    async with anyio.create_task_group() as group:
        group.start_soon(jobs.run, functions.add, 1)
        with anyio.fail_after(PATIENCE):
            # The job is durable some time after the call began, and tells nobody but its caller.
            while not (await jobs.find(states=["waiting"])).jobs:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert await engine.claim(wanted(functions=(ADD,))) == ()
    (status,) = (await jobs.find()).jobs
    assert status.state is JobState.CANCELLED


async def test_caller_that_goes_away_stops_what_runs(jobs, engine):
    """A call that is cancelled while it runs is told to who runs it, at the next extension."""
    async with anyio.create_task_group() as group:
        group.start_soon(jobs.run, functions.add, 1)
        job = await claimed(engine)
        group.cancel_scope.cancel()
    extended = await engine.extend([job.claim], 10.0)
    assert extended.cancelled == {job.claim}
    assert (await engine.finish(job.claim, Cancel())).is_stored


async def test_call_whose_job_is_cancelled_is_told(jobs, engine):
    """Who waits is told that somebody else has cancelled the job."""

    async def call():
        with pytest.raises(JobCancelledError):
            await jobs.run(functions.add, 1)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        job = await claimed(engine)
        await engine.cancel(job.job.id)
        assert (await engine.finish(job.claim, Cancel())).is_stored

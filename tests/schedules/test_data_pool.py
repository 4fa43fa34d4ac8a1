"""Schedules on a pool with `results="data"`: fires in memory, and as jobs."""

import sys
from functools import partial

import anyio
import pytest

from offload import ResultError, WorkerCrashedError
from offload.jobs import AttemptOutcome, Jobs
from offload.schedules import EventKind, Every, Schedule
from tests.jobs.programs import Programs
from tests.schedules.story import Story, ready
from tests.support.functions import scheduled_data as functions
from tests.support.processes import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forges what Linux has"),
]
MINUTE = Every(60)
FIRE = "a@20261130T120100Z"


async def fired(clock, kind, function, *args):
    """Return what is told of the fire of a schedule, which ends in this way."""
    scheduler = clock.scheduler()
    scheduler.add(Schedule(MINUTE, function, name="a", args=args))
    async with scheduler, Story(scheduler) as story:
        await ready(scheduler)
        clock.move(60)
        return await story.until(kind)


async def test_fires_in_memory(clock, tmp_path):
    """Results and errors are told, what is no data is an error, and no pickle is unpickled."""
    path = tmp_path / "unpickled"
    async with functions.pool:
        told = await fired(clock, EventKind.FINISHED, functions.tell)
        failed = await fired(clock, EventKind.FAILED, functions.fail, "no")
        odd = await fired(clock, EventKind.FAILED, functions.return_no_data)
        forged = await fired(clock, EventKind.FAILED, functions.forge, str(path))
    assert told.result == ("a", FIRE, 1)
    assert repr(failed.error) == "ValueError('no')"
    assert isinstance(odd.error, ResultError)
    assert isinstance(forged.error, WorkerCrashedError)
    assert not path.exists()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_fires_as_jobs(clock, tmp_path):
    """A worker program runs them on the pool, with the fire, and goes on after a forgery."""
    url, path = f"sqlite:///{tmp_path / 'jobs.sqlite3'}", tmp_path / "unpickled"
    with Programs(url) as programs:
        async with Jobs(url) as jobs:
            scheduler = clock.scheduler()
            scheduler.add(Schedule(MINUTE, functions.forge, name="b", args=(str(path),), jobs=jobs))
            scheduler.add(Schedule(MINUTE, functions.tell, name="a", jobs=jobs))
            async with scheduler, Story(scheduler) as story:
                await ready(scheduler)
                clock.move(60)
                await story.until(EventKind.ENQUEUED, 2)
                module = f"{functions.__name__}:jobs"
                start = partial(programs.start, "--burst", module=module)
                program = await anyio.to_thread.run_sync(start)
                assert await anyio.to_thread.run_sync(program.end) == 0, program.text
            told, forged = await jobs.get(FIRE), await jobs.get(FIRE.replace("a", "b", 1))
            assert await told.result(timeout=PATIENCE) == ("a", FIRE, 1)
            status = await forged.status()
            assert {each.outcome for each in status.history} == {AttemptOutcome.CRASHED}
    assert not path.exists()

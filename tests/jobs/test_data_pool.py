"""Jobs whose pool has `results="data"`, and texts that stores have no form for."""

from functools import partial

import anyio
import pytest

from offload.jobs import Jobs, JobState
from tests.support.functions import hostile_jobs as functions
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio
EACH = pytest.mark.parametrize("place", ["sqlite", "redis", "postgres"], indirect=True)
MODULE = "tests.support.functions.hostile_jobs:jobs"


@pytest.fixture
def anyio_backend():
    """Run on one event loop: what is tested is in other processes."""
    return "asyncio"


@pytest.fixture
def url(request, tmp_path):
    """Return where the jobs are: in a file, unless a test has a place."""
    place = request.getfixturevalue("place") if "place" in request.fixturenames else None
    return getattr(place, "url", None) or f"sqlite:///{tmp_path / 'jobs.sqlite3'}"


async def run(programs, jobs: Jobs, made):
    """Run all jobs, of which the last one succeeds, and return their states."""
    last = await jobs.enqueue(functions.add, 1, 2)
    program = await anyio.to_thread.run_sync(partial(programs.start, "--burst", module=MODULE))
    assert await last.result(timeout=PATIENCE) == 3
    assert await anyio.to_thread.run_sync(program.end) == 0, program.text
    return [await job.status() for job in made]


@EACH
async def test_texts_that_no_store_holds_are_kept_escaped(place, jobs, programs):
    """The job fails of its own error, is reported once, and holds up no other."""
    raised = await jobs.enqueue(functions.say_what_no_store_holds)
    returned = await jobs.enqueue(functions.return_what_no_store_holds)
    del place  # for the fixture of the URL
    failed, completed = await run(programs, jobs, [raised, returned])
    assert (failed.state, completed.state) == (JobState.FAILED, JobState.COMPLETED)
    assert failed.error.message == r"a\x00b\ud800c"
    assert len(failed.history) == 1
    assert [line.message for line in await raised.logs()] == [r"text a\x00b\ud800c"]
    assert await returned.result() == functions.NO_TEXT


async def test_what_no_attempt_replies_fails_the_job(jobs, programs):
    """Whatever a task sends in the place of its attempt, the program goes on, and so do others."""
    made = [await jobs.enqueue(functions.reply, n) for n in range(len(functions.REPLIES))]
    made.append(await jobs.enqueue(functions.reply_at_length))
    for status in await run(programs, jobs, made):
        assert status.state is JobState.FAILED
        assert "what no attempt replies" in status.error.message

"""Worker programs on Redis and Postgres: what their users on several machines rely on."""

import signal
import time
from functools import partial

import anyio
import pytest

from offload.jobs import CancelOutcome, JobCancelledError, Jobs
from tests.jobs import job_functions as functions
from tests.support.processes import PATIENCE, gone, is_alive

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("place", ["redis", "postgres"], indirect=True),
]

LEASE = 2.0
# For a machine that is busy.
_SLACK = 4.0


@pytest.fixture
def anyio_backend():
    """Run on one event loop: what is tested is in other processes."""
    return "asyncio"


@pytest.fixture
def url(place):
    """Return where the jobs are."""
    return place.url


async def test_cancel_from_elsewhere_ends_the_process(jobs, programs, held, entered):
    """Another connection's call: the process that computes is gone within a second."""
    await anyio.to_thread.run_sync(programs.ready)
    job = await jobs.enqueue(functions.spin, held[0], 600.0)
    pid = await entered.heard()
    async with Jobs(programs.url) as elsewhere:
        asked_at = time.monotonic()
        assert await (await elsewhere.get(job.id)).cancel() is CancelOutcome.ASKED
        await gone(pid, seconds=1.0 + _SLACK)
        assert time.monotonic() - asked_at < 1.0 + _SLACK
    with pytest.raises(JobCancelledError):
        await job.result(timeout=PATIENCE)


async def test_job_of_a_killed_program_runs_again(jobs, programs, held, entered, gate):
    """A job of a killed program is another's within lease + 1 s, and that counts as a crash."""
    start = partial(programs.ready, "--lease", str(LEASE))
    first = await anyio.to_thread.run_sync(start)
    job = await jobs.enqueue(functions.wait, *held)
    pid = await entered.heard()
    await anyio.to_thread.run_sync(start)
    first.signal(signal.SIGKILL)
    began = time.monotonic()
    await entered.heard()
    assert time.monotonic() - began < LEASE + 1.0 + _SLACK
    await gone(pid)
    gate.let()
    await job.result(timeout=PATIENCE)
    status = await job.status()
    assert [attempt.outcome for attempt in status.history] == ["lapsed", "completed"]


async def test_handed_back_process_is_gone(jobs, programs, held, entered):
    """What SIGTERM hands back runs nowhere any more."""
    program = await anyio.to_thread.run_sync(partial(programs.ready, "--drain", "0.0"))
    job = await jobs.enqueue(functions.spin_on, held[0], 600.0)
    pid = await entered.heard()
    program.signal(signal.SIGTERM)
    with anyio.fail_after(PATIENCE):
        while not (await job.status()).history:  # noqa: ASYNC110 - it has no event
            await anyio.sleep(0.001)
    assert not is_alive(pid)

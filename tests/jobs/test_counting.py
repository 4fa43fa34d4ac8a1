"""Counts that many ask for: the store is asked seldom, the more seldom the longer it takes."""

import anyio
import pytest

from offload.jobs import Jobs, JobsUnavailableError
from offload.jobs._counting import recent_counts
from tests.jobs import job_functions as functions

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("offload.jobs._counting.time.monotonic", lambda: self.now)


@pytest.fixture
async def counted(tmp_path, monkeypatch, anyio_backend):
    """Open jobs that take as long to count, by the clock, as `seconds` says."""
    clock = Clock(monkeypatch)
    async with Jobs(f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal") as jobs:
        await jobs.enqueue(functions.add, 1)
        count, jobs.seconds, jobs.asked = jobs.counts, 0.01, 0

        async def slow():
            jobs.asked += 1
            clock.now += jobs.seconds
            return await count()

        jobs.counts = slow
        yield jobs, clock


async def test_within_the_age_nobody_is_asked_again(counted):
    """Many who look at once cost the store one look."""
    jobs, clock = counted
    told = [await recent_counts(jobs, max_age=1.0) for _ in range(5)]
    clock.now += 1.1
    await recent_counts(jobs, max_age=1.0)

    assert [each.counts[0].count for each in told] == [1] * 5
    assert jobs.asked == 2


async def test_slow_counting_is_a_twentieth_of_the_time(counted):
    """A store that takes three seconds is left alone for a minute."""
    jobs, clock = counted
    jobs.seconds = 3.0
    for _ in range(100):
        await recent_counts(jobs, max_age=1.0)
        clock.now += 1.2

    assert jobs.asked == 2


async def test_given_up_counting_is_not_repeated_at_once(counted):
    """Who has no time for the answer has asked all the same; what was known before stays."""
    jobs, clock = counted
    first = await recent_counts(jobs, max_age=1.0)
    clock.now += 10.0

    async def for_ever():
        jobs.asked += 1
        clock.now += 5.0
        await anyio.sleep_forever()

    jobs.counts = for_ever
    with anyio.move_on_after(0.01) as scope:
        await recent_counts(jobs, max_age=1.0)
    clock.now += 50.0
    again = await recent_counts(jobs, max_age=1.0)

    assert scope.cancelled_caught
    assert jobs.asked == 2
    assert (again.counts, again.told_at) == (first.counts, first.told_at)


async def test_store_that_is_away_is_asked_again(counted):
    """An error is told to everybody who asks, and is over when the store is back."""
    jobs, _ = counted
    count = jobs.counts

    async def fail():
        raise JobsUnavailableError("gone", location="here")

    jobs.counts = fail
    for _ in range(2):
        with pytest.raises(JobsUnavailableError):
            await recent_counts(jobs, max_age=1.0)
    jobs.counts = count
    assert (await recent_counts(jobs, max_age=1.0)).counts

"""Every engine: enqueueing, looking, cancelling. What a producer may rely on."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offload.jobs._errors import (
    JobConflictError,
    JobNotFoundError,
    JobQueueFullError,
    JobsUnavailableError,
)
from offload.jobs._values import (
    Backoff,
    CancelOutcome,
    Complete,
    Count,
    Fail,
    JobOptions,
    JobState,
    NewJob,
    Query,
    Retry,
    Unique,
)
from tests.jobs.values import (
    BOOM,
    DEFAULT,
    FUNCTION,
    claim,
    claimed_ids,
    look,
    new_job,
    put,
    wanted,
)

pytestmark = pytest.mark.anyio


async def test_record_has_all_that_was_put(engine, other):
    """What one process puts, another one gets: arguments, options, trace and all."""
    options = JobOptions(
        priority=-3,
        max_attempts=7,
        backoff=Backoff(0.5, 3.0, 60.0, 0.25),
        max_crashes=4,
        timeout=12.5,
        deadline=datetime(2100, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        keep=None,
        unique=Unique("key", 60.0),
        max_logs=5,
    )
    job = NewJob(
        id="report@2026-11-01T02:00:00+00:00",
        function="shop.reports:Reports.monthly",
        arguments='{"args": ["ünï\\u0000 ☃"], "kwargs": {}}',
        queue="reports: a b",
        options=options,
        enqueued_by="web-1",
        trace={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    )
    before = datetime.now(UTC)

    assert await engine.put([job]) == (job.id,)

    record = await look(other, job.id)
    assert record.id == job.id
    assert record.function == job.function
    assert record.arguments == job.arguments
    assert record.queue == job.queue
    assert record.options == options
    assert record.enqueued_by == "web-1"
    assert record.trace == job.trace
    assert record.state is JobState.WAITING
    assert before - timedelta(seconds=1) <= record.created_at <= datetime.now(UTC)
    assert record.created_at.tzinfo is UTC
    assert (record.attempts, record.crashes, record.starts) == (0, 0, 0)
    assert (record.result, record.error, record.progress) == (None, None, None)
    assert (record.started_at, record.ended_at, record.due_at) == (None, None, None)
    assert record.history == ()


@pytest.mark.parametrize(
    "text", ["[" * 100_000 + "]" * 100_000, '"a\\u0000b"', "[1e999]"], ids=["deep", "null", "huge"]
)
async def test_any_json_text_is_kept(engine, text):
    """A store that cannot read it keeps it all the same: it is the worker program's matter."""
    job = replace(new_job(), arguments=text)
    await engine.put([job])
    held = await claim(engine)
    assert (await engine.finish(held, Complete(text))).is_stored
    record = await look(engine, job.id)
    assert (record.arguments, record.result) == (text, text)


async def test_put_is_idempotent_by_id(engine):
    """Putting an id again changes nothing, whatever state the first job is in."""
    first = new_job("one")
    assert await engine.put([first]) == ("one",)
    assert await engine.put([new_job("one", priority=9)]) == ("one",)
    held = await claim(engine)
    assert await engine.put([first]) == ("one",)
    await engine.finish(held, Complete("1"))
    assert await engine.put([first]) == ("one",)

    record = await look(engine, "one")
    assert record.state is JobState.COMPLETED
    assert record.options.priority == 0
    assert await engine.claim(wanted()) == ()


async def test_put_of_many_keeps_their_order(engine):
    """Jobs that are put together are claimed in that order, and answered in that order."""
    jobs = [new_job(f"job-{number:03}") for number in range(100)]
    ids = await engine.put(jobs)
    assert ids == tuple(job.id for job in jobs)
    assert await claimed_ids(engine) == list(ids)


async def test_put_of_the_same_id_twice_at_once_is_one_job(engine):
    """Within one call, too, an id is one job."""
    assert await engine.put([new_job("one"), new_job("one")]) == ("one", "one")
    assert await claimed_ids(engine) == ["one"]


async def test_unique_key_gives_back_the_first_job(engine):
    """While a job with the key is not over, further ones are not kept."""
    key = Unique("report")
    assert await engine.put([new_job("one", unique=key)]) == ("one",)
    assert await engine.put([new_job("two", unique=key)]) == ("one",)
    held = await claim(engine)
    assert await engine.put([new_job("three", unique=key)]) == ("one",)
    assert await engine.get(["two", "three"]) == (None, None)

    await engine.finish(held, Complete("1"))

    assert await engine.put([new_job("four", unique=key)]) == ("four",)


async def test_unique_key_is_of_its_queue(engine):
    """The same key in another queue is another key."""
    key = Unique("report")
    await engine.put([new_job("one", unique=key)])
    assert await engine.put([new_job("two", unique=key, queue="other")]) == ("two",)


async def test_unique_key_with_a_lifetime_outlives_its_job(engine):
    """With a lifetime the key is taken for that long, even once the job is over."""
    key = Unique("report", 300.0)
    await engine.put([new_job("one", unique=key)])
    await engine.finish(await claim(engine), Complete("1"))
    assert await engine.put([new_job("two", unique=key)]) == ("one",)


async def test_unique_key_is_free_after_its_lifetime(engine, until):
    """After its lifetime the key is free, although the job still waits."""
    key = Unique("report", 0.02)
    await engine.put([new_job("one", unique=key)])

    async def is_free():
        return await engine.put([new_job("two", unique=key)]) == ("two",)

    await until(is_free)
    assert (await look(engine, "one")).state is JobState.WAITING


async def test_full_queue_refuses_and_keeps_nothing(engine):
    """Past `max_queued` a put is an error, and none of its jobs is kept."""
    await engine.put([new_job("one"), new_job("two")], max_queued=3)
    with pytest.raises(JobQueueFullError) as caught:
        await engine.put([new_job("three"), new_job("four")], max_queued=3)
    assert (caught.value.queue, caught.value.limit) == (DEFAULT, 3)
    assert await engine.get(["three", "four"]) == (None, None)

    await engine.put([new_job("other", queue="other")], max_queued=3)
    await engine.put([new_job("three")], max_queued=3)
    assert await claimed_ids(engine) == ["one", "two", "three"]
    await engine.put([new_job("four")], max_queued=3)


async def test_unknown_jobs_are_none(engine):
    """`get` answers in the order asked, and None for what there is not."""
    await engine.put([new_job("one")])
    none, one, again = await engine.get(["nobody", "one", "one"])
    assert none is None
    assert one == again
    assert await engine.get([]) == ()


async def test_find_filters_by_all_conditions(engine):
    """A job is found if it matches every condition."""
    await put(
        engine,
        new_job("a-1"),
        new_job("a-2", queue="other"),
        new_job("b-1", function="shop:f"),
        new_job("b_2", due_at=datetime.now(UTC) + timedelta(hours=1)),
    )
    held = await claim(engine, functions=["shop:f"])
    await engine.finish(held, Fail(BOOM))

    async def found(**conditions):
        page = await engine.find(Query(**conditions))
        assert page.cursor is None
        return [job.id for job in page.jobs]

    assert await found() == ["b_2", "b-1", "a-2", "a-1"]
    assert await found(is_oldest_first=True) == ["a-1", "a-2", "b-1", "b_2"]
    assert await found(states=frozenset({JobState.WAITING})) == ["a-2", "a-1"]
    assert await found(states=frozenset({JobState.FAILED, JobState.DELAYED})) == ["b_2", "b-1"]
    assert await found(states=frozenset({JobState.ACTIVE})) == []
    assert await found(queues=frozenset({"other"})) == ["a-2"]
    assert await found(functions=frozenset({"shop:f", FUNCTION})) == ["b_2", "b-1", "a-2", "a-1"]
    assert await found(id_prefix="b") == ["b_2", "b-1"]
    assert await found(id_prefix="b_") == ["b_2"]
    assert await found(id_prefix="a-", queues=frozenset({DEFAULT})) == ["a-1"]


@pytest.mark.parametrize("is_oldest_first", [False, True])
@pytest.mark.parametrize(
    "states", [frozenset(), frozenset({JobState.WAITING, JobState.COMPLETED})], ids=["all", "some"]
)
async def test_pages_show_every_job_once(engine, states, is_oldest_first):
    """Going through all pages shows each job that stays exactly once, while others come and go."""
    ids = await put(engine, *(new_job(f"job-{number:02}") for number in range(25)))
    for _ in range(10):
        await engine.finish(await claim(engine), Complete("1"))
    query = Query(states, is_oldest_first=is_oldest_first, limit=10)
    seen, cursor = [], None
    while True:
        page = await engine.find(
            Query(states, is_oldest_first=is_oldest_first, limit=10, cursor=cursor)
        )
        assert len(page.jobs) <= query.limit
        seen += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
        await engine.put([new_job(f"late-{len(seen)}")])
    seen = [job_id for job_id in seen if job_id.startswith("job-")]
    assert seen == (ids if is_oldest_first else ids[::-1])


async def test_counts_are_by_queue_function_and_state(engine):
    """Each job is counted once, where it is."""
    assert await engine.counts() == ()
    await put(
        engine,
        new_job(),
        new_job(),
        new_job(queue="other"),
        new_job(function="shop:f"),
        new_job(due_at=datetime.now(UTC) + timedelta(hours=1)),
    )
    await engine.finish(await claim(engine, functions=["shop:f"]), Complete("1"))
    await claim(engine)

    assert set(await engine.counts()) == {
        Count(DEFAULT, FUNCTION, JobState.WAITING, 1),
        Count(DEFAULT, FUNCTION, JobState.ACTIVE, 1),
        Count(DEFAULT, FUNCTION, JobState.DELAYED, 1),
        Count(DEFAULT, "shop:f", JobState.COMPLETED, 1),
        Count("other", FUNCTION, JobState.WAITING, 1),
    }
    assert await engine.counts(["other"]) == (Count("other", FUNCTION, JobState.WAITING, 1),)
    assert await engine.counts([]) == ()


async def test_cancelled_waiting_job_never_runs(engine, other):
    """A waiting or delayed job is cancelled at once, and no worker ever gets it."""
    later = datetime.now(UTC) + timedelta(hours=1)
    await put(engine, new_job("one"), new_job("two", due_at=later))
    assert await other.cancel("one") is CancelOutcome.REMOVED
    assert await other.cancel("two") is CancelOutcome.REMOVED

    assert await engine.claim(wanted()) == ()
    for job_id in ("one", "two"):
        record = await look(engine, job_id)
        assert record.state is JobState.CANCELLED
        assert record.ended_at is not None
        assert (record.starts, record.history) == (0, ())
    assert await other.cancel("one") is CancelOutcome.OVER


async def test_cancel_of_an_ended_job_changes_nothing(engine):
    """What is over stays as it is."""
    await engine.put([new_job("one")])
    await engine.finish(await claim(engine), Complete("1"))
    before = await look(engine, "one")
    assert await engine.cancel("one") is CancelOutcome.OVER
    assert await look(engine, "one") == before


async def test_unknown_job_is_an_error(engine):
    """Cancelling or requeueing what there is not says so."""
    for method in (engine.cancel, engine.requeue):
        with pytest.raises(JobNotFoundError) as caught:
            await method("nobody")
        assert caught.value.job_id == "nobody"


async def test_requeued_job_runs_again_from_the_start(engine):
    """A failed job waits again, its counters at 0 and its history kept."""
    await engine.put([new_job("one", max_attempts=2)])
    await engine.finish(await claim(engine), Retry(BOOM))
    await engine.finish(await claim(engine), Fail(BOOM))

    await engine.requeue("one")

    record = await look(engine, "one")
    assert record.state is JobState.WAITING
    assert (record.attempts, record.crashes, record.error, record.ended_at) == (0, 0, None, None)
    assert len(record.history) == 2
    await engine.finish(await claim(engine), Complete("1"))
    assert (await look(engine, "one")).state is JobState.COMPLETED


async def test_requeued_job_may_miss_its_deadline(engine):
    """A deadline that has passed does not end the job once more."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    await engine.put([new_job("one", deadline=past)])
    assert await engine.claim(wanted()) == ()
    assert (await look(engine, "one")).state is JobState.FAILED

    await engine.requeue("one")

    assert (await look(engine, "one")).options.deadline is None
    await claim(engine)


@pytest.mark.parametrize("state", ["waiting", "active", "completed"])
async def test_only_failed_or_cancelled_jobs_are_requeued(engine, state):
    """In other states it is an error that names the state, and nothing changes."""
    await engine.put([new_job("one")])
    if state != "waiting":
        held = await claim(engine)
        if state == "completed":
            await engine.finish(held, Complete("1"))
    with pytest.raises(JobConflictError) as caught:
        await engine.requeue("one")
    assert (caught.value.job_id, caught.value.state) == ("one", state)
    assert (await look(engine, "one")).state == state


async def test_only_ended_jobs_are_removed(engine):
    """`remove` forgets jobs that are over, and no others."""
    await put(engine, new_job("one"), new_job("two"))
    await engine.finish(await claim(engine), Complete("1"))
    assert await engine.remove(["one", "two", "nobody", "one"]) == 1
    one, two = await engine.get(["one", "two"])
    assert one is None
    assert two is not None
    assert await engine.counts() == (Count(DEFAULT, FUNCTION, JobState.WAITING, 1),)


async def test_closed_engine_says_so(place):
    """Before `open` and after `aclose` every method is an error that names the place."""
    engine = place.new()
    with pytest.raises(JobsUnavailableError):
        await engine.get(["one"])
    await engine.open()
    await engine.open()
    await engine.put([new_job("one")])
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(JobsUnavailableError) as caught:
        await engine.put([new_job("two")])
    assert caught.value.location
    assert not caught.value.may_have_happened
    await engine.open()
    assert (await look(engine, "one")).state is JobState.WAITING
    await engine.aclose()


async def test_healthy_engine_has_no_problems(engine):
    """A check names the engine and its place, and takes a round trip."""
    health = await engine.health()
    assert health.engine
    assert health.version
    assert health.location
    assert 0 < health.round_trip < 10
    assert health.problems == ()
    # The servers of the tests have this machine's clock.
    assert health.clock_ahead is None or abs(health.clock_ahead) < 10


async def test_ended_jobs_are_counted_by_time(engine, other):
    """How many jobs have ended is told by queue, state and step of time; the others are not."""
    done, cancelled = await put(engine, new_job(), new_job(queue="mail: a"))
    await engine.finish(await claim(engine), Complete("1"))
    await put(engine, new_job(), new_job(), new_job())
    await engine.finish(await claim(engine), Fail(BOOM))
    await engine.finish(await claim(engine), Retry(BOOM, delay=1000.0))
    await engine.cancel(cancelled)
    told = await other.ended(10, 6)
    coarse = await other.ended(7200, 2)
    times = [each.ended_at.timestamp() for each in await engine.get([done, cancelled])]
    expected = {
        (DEFAULT, JobState.COMPLETED): 1,
        (DEFAULT, JobState.FAILED): 1,
        ("mail: a", JobState.CANCELLED): 1,
    }

    for each, step in ((told, 10), (coarse, 7200)):
        assert min(times) // step * step <= min(count.at for count in each.counts)
        assert max(count.at for count in each.counts) == max(times) // step * step
        assert each.now >= max(times) - 0.001
        sums = {}
        for count in each.counts:
            sums[count.queue, count.state] = sums.get((count.queue, count.state), 0) + count.count
        assert sums == expected

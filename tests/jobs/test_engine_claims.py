"""Every engine: claims, leases, endings. What a worker program may rely on."""

import math
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from offload.jobs._values import (
    AttemptOutcome,
    Cancel,
    CancelOutcome,
    Claim,
    Complete,
    Fail,
    JobError,
    JobState,
    LogLine,
    Release,
    Retry,
    Swept,
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

SHORT = 0.02


async def swept(engine, until):
    """Sweep until there is something to sweep."""
    found = []

    async def finds():
        result = await engine.sweep()
        found.append(result)
        return result != Swept()

    await until(finds)
    return found[-1]


async def test_claim_has_the_job_as_it_is_now(engine):
    """A claim comes with the whole record, active and with this start counted."""
    await engine.put([new_job("one", priority=3)])
    (claimed,) = await engine.claim(wanted(worker="host-1:42"))
    assert claimed.claim.id == "one"
    assert claimed.claim.queue == DEFAULT
    assert claimed.claim.token
    assert claimed.job == await look(engine, "one")
    assert claimed.job.state is JobState.ACTIVE
    assert claimed.job.arguments == '["2026-11"]'
    assert (claimed.job.starts, claimed.job.attempts) == (1, 0)
    assert claimed.job.worker == "host-1:42"
    assert claimed.job.started_at is not None


async def test_higher_priority_first_and_equal_ones_in_order(engine):
    """Within a queue: larger priority first, then order of arrival."""
    await put(
        engine,
        new_job("low", priority=-1),
        new_job("one"),
        new_job("two"),
        new_job("high", priority=5),
        new_job("three"),
    )
    assert await claimed_ids(engine) == ["high", "one", "two", "three", "low"]


async def test_order_holds_over_several_functions(engine):
    """Which function a job is of does not change its turn."""
    functions = ["shop:a", "shop:b", "shop:c"]
    ids = await put(
        engine,
        *(new_job(function=functions[number % 3], priority=number // 6) for number in range(12)),
    )
    assert await claimed_ids(engine, functions=functions) == ids[6:] + ids[:6]


async def test_unknown_functions_and_queues_are_left_alone(engine):
    """A worker program gets jobs of its functions and its queues; the others wait for theirs."""
    await put(engine, new_job("new", function="shop:new"), new_job("other", queue="other"))
    assert await engine.claim(wanted()) == ()
    assert await engine.claim(wanted(functions=())) == ()
    assert await engine.claim(wanted(queues=())) == ()
    assert await claimed_ids(engine, functions=["shop:new"]) == ["new"]
    assert await claimed_ids(engine, queues=["other"]) == ["other"]


async def test_claim_gives_no_more_than_the_limit(engine):
    """At most `limit` jobs, and never one of them twice."""
    ids = await engine.put([new_job() for _ in range(5)])
    first = await engine.claim(wanted(3))
    assert 1 <= len(first) <= 3
    got = [each.job.id for each in first]
    got += await claimed_ids(engine)
    assert sorted(got) == sorted(ids)


async def test_jobs_are_claimed_once_by_many_claimers(engine, other):
    """However many claim at once, each job goes to one of them."""
    ids = await engine.put([new_job() for _ in range(60)])
    got = []

    async def take(one):
        while found := await one.claim(wanted(4)):
            got.extend(each.job.id for each in found)

    async with anyio.create_task_group() as group:
        for one in (engine, other) * 3:
            group.start_soon(take, one)
    assert sorted(got) == sorted(ids)


async def test_idle_claimer_gets_a_job_from_another_process(engine, other):
    """A claim that waits returns as soon as anybody puts a job for it."""
    got = []

    async def take():
        got.extend(await engine.claim(wanted(), wait=60))

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        await other.put([new_job("not mine", function="shop:new")])
        await other.put([new_job("mine")])
    assert [each.job.id for each in got] == ["mine"]


async def test_waiting_claim_ends_when_its_time_is_over(engine):
    """Without a job it returns nothing, after `wait` seconds."""
    begin = anyio.current_time()
    assert await engine.claim(wanted(), wait=0.05) == ()
    # uvloop's clock counts whole milliseconds.
    assert anyio.current_time() - begin >= 0.05 - 0.001


async def test_cancelled_claim_holds_no_job(engine, until):
    """A claim whose caller goes away leaves its job to others, long before the lease ends."""
    received = []
    for _ in range(20):
        async with anyio.create_task_group() as group:

            async def take():
                received.extend(await engine.claim(wanted(), wait=60))

            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            (job_id,) = await engine.put([new_job()])
            group.cancel_scope.cancel()
        # It may have come just before the cancellation; then there is nobody to hand it back.
        if not received:

            async def is_claimed(job_id=job_id):
                return await claimed_ids(engine) == [job_id]

            await until(is_claimed)
        received.clear()


async def test_delayed_job_waits_until_it_is_due(engine, other):
    """A job with a due time is claimed then, by who waits for it, and not before."""
    due_at = datetime.now(UTC) + timedelta(seconds=0.2)
    await engine.put([new_job("one", due_at=due_at)])
    assert (await look(engine, "one")).state is JobState.DELAYED
    assert (await look(engine, "one")).due_at == due_at
    assert await other.claim(wanted()) == ()
    (claimed,) = await other.claim(wanted(), wait=60)
    assert datetime.now(UTC) >= due_at
    assert claimed.job.due_at is None


async def test_claimer_hears_of_a_job_that_is_due_earlier(engine, other):
    """A claimer that waits for a late job wakes for one that is put meanwhile and due before."""
    now = datetime.now(UTC)
    await engine.put([new_job("late", due_at=now + timedelta(hours=1))])
    got = []

    async def take():
        got.extend(await engine.claim(wanted(), wait=60))

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        await other.put([new_job("early", due_at=datetime.now(UTC) + timedelta(seconds=0.05))])
    assert [each.job.id for each in got] == ["early"]


async def test_past_due_time_means_at_once(engine):
    """A due time that has passed is no delay."""
    await engine.put([new_job("one", due_at=datetime.now(UTC) - timedelta(hours=1))])
    assert (await look(engine, "one")).state is JobState.WAITING
    assert await claimed_ids(engine) == ["one"]


async def test_completed_job_has_its_result(engine, other):
    """The result can be read by everybody, and the attempt is counted and kept."""
    await engine.put([new_job("one")])
    held = await claim(engine, worker="worker-7")
    assert (await engine.finish(held, Complete('{"rows": 3}'))).is_stored
    record = await look(other, "one")
    assert record.state is JobState.COMPLETED
    assert record.result == '{"rows": 3}'
    assert (record.attempts, record.crashes, record.error) == (1, 0, None)
    assert record.ended_at is not None
    (attempt,) = record.history
    assert attempt.outcome is AttemptOutcome.COMPLETED
    assert attempt.worker == "worker-7"
    assert attempt.started_at <= attempt.ended_at


async def test_failed_job_has_its_error(engine):
    """Type, message and traceback are kept."""
    await engine.put([new_job("one")])
    assert (await engine.finish(await claim(engine), Fail(BOOM))).is_stored
    record = await look(engine, "one")
    assert record.state is JobState.FAILED
    assert record.error == BOOM
    assert (record.attempts, record.crashes, record.result) == (1, 0, None)
    assert [(each.outcome, each.error) for each in record.history] == [
        (AttemptOutcome.FAILED, BOOM)
    ]
    assert await engine.claim(wanted()) == ()


async def test_retried_job_waits_for_its_delay(engine):
    """Between attempts a job is delayed, and its error can be seen meanwhile."""
    await engine.put([new_job("one")])
    await engine.finish(await claim(engine), Retry(BOOM, delay=0.1))
    record = await look(engine, "one")
    assert record.state is JobState.DELAYED
    assert record.error == BOOM
    assert record.due_at is not None
    assert await engine.claim(wanted()) == ()
    (claimed,) = await engine.claim(wanted(), wait=60)
    assert datetime.now(UTC) >= record.due_at
    assert (claimed.job.attempts, claimed.job.starts) == (1, 2)
    await engine.finish(claimed.claim, Complete("1"))
    record = await look(engine, "one")
    assert (record.attempts, record.error) == (2, None)
    assert [each.outcome for each in record.history] == [
        AttemptOutcome.FAILED,
        AttemptOutcome.COMPLETED,
    ]


async def test_retry_without_delay_goes_behind_others(engine):
    """A job that fails again and again does not keep others waiting."""
    await put(engine, new_job("bad"), new_job("good"))
    await engine.finish(await claim(engine), Retry(BOOM))
    assert await claimed_ids(engine) == ["good", "bad"]


async def test_crashes_are_counted_apart(engine):
    """What a worker program reports as a crash adds to `crashes` only."""
    crash = JobError("offload.errors.WorkerCrashedError", "signal 9")
    await engine.put([new_job("one")])
    await engine.finish(await claim(engine), Retry(crash, outcome=AttemptOutcome.CRASHED))
    await engine.finish(await claim(engine), Retry(BOOM))
    await engine.finish(await claim(engine), Fail(crash, AttemptOutcome.CRASHED))
    record = await look(engine, "one")
    assert record.state is JobState.FAILED
    assert (record.attempts, record.crashes) == (1, 2)
    assert [each.outcome for each in record.history] == [
        AttemptOutcome.CRASHED,
        AttemptOutcome.FAILED,
        AttemptOutcome.CRASHED,
    ]


async def test_released_job_keeps_its_place_and_counters(engine):
    """Handing back counts nothing, and the job is the first of its priority again."""
    await put(engine, new_job("one"), new_job("two"))
    held = await claim(engine)
    assert (await engine.finish(held, Release())).is_stored
    record = await look(engine, "one")
    assert record.state is JobState.WAITING
    assert (record.attempts, record.crashes, record.starts) == (0, 0, 1)
    assert await claimed_ids(engine) == ["one", "two"]


async def test_finish_claims_what_is_next(engine):
    """One round trip ends an attempt and begins the next one."""
    await put(engine, new_job("one"), new_job("two"))
    held = await claim(engine)
    finished = await engine.finish(held, Complete("1"), then=wanted())
    assert finished.is_stored
    (following,) = finished.claimed
    assert following.job.id == "two"
    finished = await engine.finish(following.claim, Complete("2"), then=wanted())
    assert (finished.is_stored, finished.claimed) == (True, ())


async def test_many_ends_in_one_round_trip(engine, other, until):
    """Each of many reports is stored or refused by itself, in their order, and more is claimed."""
    await put(engine, *(new_job(name) for name in ("old", "one", "two", "three", "next")))
    old = await claim(engine, lease=SHORT)
    await swept(other, until)
    await claim(other)
    one, two, three = [each.claim for each in await engine.claim(wanted(limit=3))]

    finished = await engine.finish_all(
        [
            (three, Fail(BOOM)),
            (old, Complete("0")),
            (one, Complete("1")),
            (two, Retry(BOOM, 60.0)),
            (one, Complete("again")),
        ],
        then=wanted(limit=5),
    )

    assert finished.stored == (True, False, True, True, False)
    assert not finished.is_stored
    assert [each.job.id for each in finished.claimed] == ["next"]
    states = [(await look(engine, name)).state for name in ("old", "one", "two", "three")]
    assert states == [JobState.ACTIVE, JobState.COMPLETED, JobState.DELAYED, JobState.FAILED]
    assert (await look(engine, "one")).result == "1"


async def test_many_ends_of_more_jobs_than_a_statement_takes(engine):
    """Reports of hundreds of jobs, each with a result of its own, arrive where they belong."""
    await engine.put([new_job(str(number)) for number in range(450)])
    claimed = await engine.claim(wanted(limit=450))
    assert [each.job.id for each in claimed] == [str(number) for number in range(450)]
    assert len({each.claim.token for each in claimed}) == 450
    finished = await engine.finish_all(
        [(each.claim, Complete(f'"{each.job.id}"')) for each in claimed]
    )
    assert finished.stored == (True,) * 450
    records = await engine.get([str(number) for number in range(450)])
    assert [each.result for each in records] == [f'"{number}"' for number in range(450)]


ENDINGS = [Complete("2"), Retry(BOOM), Retry(BOOM, 5.0), Fail(BOOM), Release(), Cancel()]


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
async def test_overtaken_attempt_is_fenced(engine, other, until, ending):
    """After a lease has lapsed and been swept, the old claim stores nothing of any kind."""
    await engine.put([new_job("one")])
    old = await claim(engine, lease=SHORT)
    await swept(other, until)
    new = await claim(other)
    assert new.token != old.token
    before = await look(other, "one")

    assert not (await engine.finish(old, ending)).is_stored
    assert not await engine.progress(old, "0.5")
    assert not await engine.log(old, [LogLine(datetime.now(UTC), 20, "zombie")])
    assert (await engine.extend([old], 60.0)).lost == {old}

    assert await look(other, "one") == before
    assert (await other.finish(new, Complete("1"))).is_stored
    assert not (await engine.finish(old, ending)).is_stored
    assert (await look(other, "one")).result == "1"


@pytest.mark.parametrize("ending", ENDINGS, ids=repr)
async def test_claim_ends_once(engine, ending):
    """The second report of one claim is refused."""
    await engine.put([new_job("one")])
    held = await claim(engine)
    assert (await engine.finish(held, ending)).is_stored
    before = await look(engine, "one")
    assert not (await engine.finish(held, Complete("again"))).is_stored
    assert await look(engine, "one") == before


async def test_claims_that_never_were_are_refused(engine):
    """An invented token, or a job that is gone, is as good as an overtaken claim."""
    await engine.put([new_job("one")])
    await claim(engine)
    for forged in (Claim("one", DEFAULT, "0"), Claim("nobody", DEFAULT, "0")):
        assert not (await engine.finish(forged, Complete("1"))).is_stored
        assert (await engine.extend([forged], 1.0)).lost == {forged}


async def test_lapsed_lease_is_swept_and_counted_as_a_crash(engine, other, until):
    """The job of a dead worker program waits again, in its old place."""
    await put(engine, new_job("one"), new_job("two"))
    await claim(engine, lease=SHORT, worker="dead")
    assert await swept(other, until) == Swept(retried=("one",))
    record = await look(other, "one")
    assert record.state is JobState.WAITING
    assert (record.attempts, record.crashes) == (0, 1)
    (attempt,) = record.history
    assert (attempt.outcome, attempt.worker) == (AttemptOutcome.LAPSED, "dead")
    assert await claimed_ids(other) == ["one", "two"]


async def test_poison_job_fails_after_max_crashes(engine, until):
    """A job that kills its workers ends as failed, and takes no other job with it."""
    await put(engine, new_job("poison", max_crashes=2), new_job("good"))
    for number in range(1, 4):
        held = await claim(engine, lease=SHORT)
        assert held.id == "poison"
        found = await swept(engine, until)
        assert found == (Swept(failed=("poison",)) if number == 3 else Swept(retried=("poison",)))
    record = await look(engine, "poison")
    assert record.state is JobState.FAILED
    assert (record.attempts, record.crashes) == (0, 3)
    assert record.error is not None
    assert await claimed_ids(engine) == ["good"]


async def test_extended_lease_does_not_lapse(engine, other):
    """However long an attempt takes, while it is extended nobody else gets its job."""
    await engine.put([new_job("one"), new_job("two")])
    held = [each.claim for each in await engine.claim(wanted(2, lease=0.3))]
    if len(held) == 1:
        held.append(await claim(engine, lease=0.3))
    for _ in range(6):
        await anyio.sleep(0.1)
        assert await engine.extend(held, 0.3) == await engine.extend([], 0.3)
        assert await other.sweep() == Swept()
    assert await other.claim(wanted()) == ()
    for each in held:
        assert (await engine.finish(each, Complete("1"))).is_stored


async def test_lapsed_claim_that_was_not_swept_is_still_good(engine):
    """A worker program that was late, but before anybody noticed, goes on."""
    await put(engine, new_job("one"), new_job("two"))
    one = await claim(engine, lease=0.0)
    two = await claim(engine, lease=0.0)
    assert not (await engine.extend([one], 300.0)).lost
    assert (await engine.finish(two, Complete("1"))).is_stored
    assert await engine.sweep() == Swept()
    assert (await engine.finish(one, Complete("1"))).is_stored


async def test_extend_tells_of_cancelled_and_lost_claims(engine, other, until):
    """One round trip for all claims tells which to stop, and why."""
    await put(engine, *(new_job(name) for name in ("fine", "cancelled", "lost")))
    fine, cancelled = await claim(engine), await claim(engine)
    lost = await claim(engine, lease=SHORT)
    await swept(other, until)
    assert await other.cancel("cancelled") is CancelOutcome.ASKED

    extended = await engine.extend([fine, cancelled, lost], 60.0)

    assert extended.cancelled == {cancelled}
    assert extended.lost == {lost}
    assert (await look(engine, "cancelled")).is_cancel_asked
    assert not (await look(engine, "fine")).is_cancel_asked


@pytest.mark.parametrize(
    "ending, state",
    [
        (Cancel(), JobState.CANCELLED),
        (Release(), JobState.CANCELLED),
        (Retry(BOOM), JobState.CANCELLED),
        (Retry(BOOM, 60.0), JobState.CANCELLED),
        (Fail(BOOM), JobState.FAILED),
        (Complete("1"), JobState.COMPLETED),
    ],
    ids=repr,
)
async def test_cancelled_active_job_ends(engine, ending, state):
    """After a cancel an attempt may have ended by itself; but no other one begins."""
    await engine.put([new_job("one")])
    held = await claim(engine)
    await engine.cancel("one")
    assert await engine.cancel("one") is CancelOutcome.ASKED
    assert (await engine.finish(held, ending)).is_stored
    record = await look(engine, "one")
    assert record.state is state
    assert not record.is_cancel_asked
    assert await engine.claim(wanted()) == ()


async def test_cancelled_job_of_a_dead_worker_is_cancelled(engine, until):
    """A lease that lapses after a cancel ends the job instead of running it again."""
    await engine.put([new_job("one")])
    await claim(engine, lease=SHORT)
    await engine.cancel("one")
    assert await swept(engine, until) == Swept(cancelled=("one",))
    assert (await look(engine, "one")).state is JobState.CANCELLED


async def test_expired_job_fails_instead_of_running(engine):
    """A job whose deadline has passed is not given to a worker program; it has failed."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    await put(engine, new_job("late", deadline=past, priority=1), new_job("good"))
    assert await claimed_ids(engine) == ["good"]
    record = await look(engine, "late")
    assert record.state is JobState.FAILED
    assert record.error is not None
    assert record.error.type == "offload.errors.DeadlineError"
    assert (record.starts, record.attempts, record.history) == (0, 0, ())


async def test_sweep_fails_expired_jobs_that_nobody_claims(engine):
    """Also without any worker program a deadline holds, for waiting and for delayed jobs."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    later = datetime.now(UTC) + timedelta(hours=1)
    await put(engine, new_job("one", deadline=past), new_job("two", deadline=past, due_at=later))
    assert set((await engine.sweep()).failed) == {"one", "two"}
    assert (await look(engine, "two")).state is JobState.FAILED


async def test_progress_is_the_latest_value(engine, other):
    """Progress can be read while the job runs, and belongs to its attempt."""
    await engine.put([new_job("one")])
    held = await claim(engine)
    assert await engine.progress(held, "0.25")
    assert await engine.progress(held, '{"rows": 7}')
    assert (await look(other, "one")).progress == '{"rows": 7}'
    await engine.finish(held, Release())
    held = await claim(engine)
    assert (await look(other, "one")).progress is None
    await engine.progress(held, "1")
    await engine.finish(held, Complete("1"))
    assert (await look(other, "one")).progress == "1"


async def test_log_lines_are_kept_up_to_the_limit(engine, other):
    """The first lines of a job are kept, in order, over all its attempts."""
    lines = [
        LogLine(datetime(2026, 11, 30, 12, 0, second, 250_000, tzinfo=UTC), 20, f"line {second} ☃")
        for second in range(6)
    ]
    await engine.put([new_job("one", max_logs=5)])
    held = await claim(engine)
    assert await engine.log(held, lines[:2])
    await engine.finish(held, Retry(BOOM))
    held = await claim(engine)
    assert await engine.log(held, lines[2:])
    assert await engine.log(held, [])
    assert await other.logs("one") == tuple(lines[:5])
    assert await other.logs("one", start=1, limit=2) == tuple(lines[1:3])
    assert await other.logs("nobody") == ()
    assert (await look(other, "one")).log_count == 5


async def test_paused_queue_gives_no_jobs(engine, other):
    """A pause holds for everybody, leaves what is active alone, and ends with `resume`."""
    await put(engine, new_job("one"), new_job("two"), new_job("other", queue="other"))
    held = await claim(engine)
    await engine.pause(DEFAULT)
    await engine.pause(DEFAULT)
    assert await other.paused() == {DEFAULT}
    assert await other.claim(wanted()) == ()
    assert await claimed_ids(other, queues=[DEFAULT, "other"]) == ["other"]
    assert (await engine.finish(held, Complete("1"), then=wanted())).claimed == ()
    await engine.put([new_job("three")])

    got = []

    async def take():
        got.extend(await other.claim(wanted(), wait=60))

    async with anyio.create_task_group() as group:
        group.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        await engine.resume(DEFAULT)
    assert [each.job.id for each in got] == ["two"]
    assert await other.paused() == frozenset()


async def test_pruned_job_is_forgotten(engine, until):
    """A job that is over is kept for as long as it says, and others for ever."""
    await put(engine, *(new_job(f"{keep}", keep=keep) for keep in (0.0, 300.0, None)))
    while found := await engine.claim(wanted()):
        (claimed,) = found
        await engine.log(claimed.claim, [LogLine(datetime.now(UTC), 20, "line")])
        await engine.finish(claimed.claim, Fail(BOOM))
    await engine.put([new_job("waits", keep=0.0)])

    async def is_pruned():
        await engine.prune()
        return await engine.get(["0.0"]) == (None,)

    await until(is_pruned)
    assert None not in await engine.get(["300.0", "None", "waits"])
    assert await engine.logs("0.0") == ()
    assert math.fsum(count.count for count in await engine.counts()) == 3


async def test_prune_keeps_at_most_so_many(engine):
    """Of too many ended jobs the oldest are forgotten, whatever they say."""
    ids = await put(engine, *(new_job(keep=None) for _ in range(6)))
    for number in range(5):
        held = await claim(engine)
        await engine.finish(held, Fail(BOOM) if number % 2 else Complete("1"))
    assert await engine.prune(max_over=2) == 3
    assert [job is None for job in await engine.get(ids)] == [True, True, True, False, False, False]
    assert await engine.prune(max_over=2) == 0


async def test_function_names_are_not_mixed_up(engine):
    """Counts and claims go by the whole name."""
    await put(engine, new_job("one", function=FUNCTION + "_2"))
    assert await engine.claim(wanted()) == ()

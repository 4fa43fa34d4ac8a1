"""Every engine: schedulers that share it fire once, remember, and agree on what is paused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from offload.jobs import Jobs, JobState
from offload.jobs._codec import Signature
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._notes import Swap
from offload.jobs._values import Complete, Fail, JobError
from offload.schedules import (
    Coalesce,
    Cron,
    EventKind,
    Every,
    MissedReason,
    Overlap,
    Schedule,
    ScheduleNotFoundError,
    ScheduleStatus,
    StoredSchedules,
    _loader,
    _store,
)
from tests.jobs.engines import SqlitePlace
from tests.jobs.values import wanted
from tests.schedules.story import BASE, Clock, Story, ready
from tests.support.functions import scheduled
from tests.support.processes import until

pytestmark = pytest.mark.anyio

MINUTE = Every(60)
ENDS = (EventKind.FINISHED, EventKind.FIRED_ELSEWHERE)
FIRST = datetime(2026, 11, 30, 12, 1, tzinfo=UTC)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Loops of both kinds; what there is of engines under uvloop is tested elsewhere."""
    return request.param


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock for schedulers."""
    monkeypatch.delenv("OFFLOAD_JOBS", raising=False)
    return Clock()


@pytest.fixture
async def pool(anyio_backend: object) -> AsyncIterator[None]:
    """Have the pool of the functions open."""
    async with scheduled.pool:
        yield


async def answer():
    """Run in memory."""
    return 42


@pytest.fixture
async def new_jobs(place, anyio_backend):
    """Return jobs on the store, as another process would have them."""
    made = []

    def new():
        url = f"sqlite:///{place.path}" if isinstance(place, SqlitePlace) else place.url
        made.append(Jobs(url))
        return made[-1]

    yield new
    for each in made:
        await each.aclose()


@pytest.fixture
def soon(monkeypatch):
    """Have schedulers see sooner what others have changed."""
    monkeypatch.setattr(_loader, "_WATCH_SECONDS", 0.05)


async def work(jobs, function, ending):
    """Do what a worker program does, once."""
    engine = await jobs.engine()
    with anyio.fail_after(30):
        claimed = await engine.claim(wanted(functions={function}), wait=30.0)
    assert (await engine.finish(claimed[0].claim, ending)).is_stored
    return claimed[0].job


class TestInMemory:
    async def test_one_of_many_fires(self, clock, new_jobs):
        """Each fire runs in one of all schedulers; the others tell that it is not theirs."""
        schedulers = [clock.scheduler(new_jobs()) for _ in range(4)]
        seen = []
        for each in schedulers:
            each.add(Schedule(MINUTE, answer, name="a"))
            each.observe(seen.append)
        async with schedulers[0], schedulers[1], schedulers[2], schedulers[3]:
            for each in schedulers:
                await ready(each)
            for count in (1, 2, 3):
                clock.move(60)
                await until(lambda n=4 * count: sum(each.kind in ENDS for each in seen) == n)

        fires = [each.fire for each in seen if each.kind is EventKind.FINISHED]
        assert fires == [f"a@20261130T120{minute}00Z" for minute in (1, 2, 3)]

    @pytest.mark.usefixtures("pool")
    async def test_run_in_one_process_keeps_others_from_running(
        self, clock, new_jobs, held, entered, gate
    ):
        """A fire is skipped while an earlier one runs in another process."""
        one, two = clock.scheduler(new_jobs()), clock.scheduler(new_jobs())
        one.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        two.add(Schedule(MINUTE, answer, name="a"))
        async with one, Story(one) as first:
            await ready(one)
            clock.move(60)
            await entered.heard()
            async with two, Story(two) as second:
                await ready(two)
                clock.move(60)
                await first.until(EventKind.SKIPPED_OVERLAP)
                await second.until(EventKind.SKIPPED_OVERLAP)
                gate.let()
                await first.until(EventKind.FINISHED)
                clock.move(60)
                # Whichever of them has it.
                await until(
                    lambda: (
                        two.levers.counts_of("a").get(EventKind.FINISHED) or len(first.events._kept)
                    )
                )
                gate.let()
                await until(
                    lambda: (
                        one.levers.counts_of("a").get(EventKind.FINISHED, 0)
                        + two.levers.counts_of("a").get(EventKind.FINISHED, 0)
                        == 2
                    )
                )

    async def test_downtime_is_caught_up_with(self, clock, new_jobs):
        """A scheduler that starts again knows what has fired, and makes up for the rest once."""
        first = clock.scheduler(new_jobs())
        first.add(Schedule(MINUTE, answer, name="a"))
        async with first, Story(first) as story:
            await ready(first)
            clock.move(60)
            await story.until(EventKind.FINISHED)
        clock.move(600)

        second = clock.scheduler(new_jobs())
        second.add(Schedule(MINUTE, answer, name="a"))
        async with Story(second) as story, second:
            event = await story.until(EventKind.FINISHED)
            last = await second["a"].last_run()

        assert event.fire == "a@20261130T121100Z"
        assert story.told[0].missed is MissedReason.COALESCED
        assert story.told[0].first == FIRST + timedelta(minutes=1)
        assert last.id == event.fire
        third = clock.scheduler(new_jobs())
        last = await third.add(Schedule(MINUTE, answer, name="a")).last_run()
        assert (last.id, last.outcome) == (event.fire, EventKind.FINISHED)

    async def test_downtime_longer_than_grace_is_missed(self, clock, new_jobs):
        """What is later than the misfire grace does not run after a restart."""
        for kinds in ([], ["missed"]):
            scheduler = clock.scheduler(new_jobs())
            made = scheduler.add(Schedule("1 * * * *", answer, name="a", misfire_grace=60))
            async with Story(scheduler) as story, scheduler:
                await ready(scheduler)
                # What is due comes first.
                await made.execute()
                assert story.kinds == [*kinds, "started", "finished"]
            clock.move(600)

    async def test_other_fire_times_count_from_now(self, clock, new_jobs):
        """A deploy with another expression makes up for nothing that it would have fired."""
        for fire_times in ("1 * * * *", "5 * * * *"):
            scheduler = clock.scheduler(new_jobs())
            made = scheduler.add(Schedule(fire_times, answer, name="a"))
            async with Story(scheduler) as story, scheduler:
                await ready(scheduler)
                await made.execute()
                assert story.kinds == ["started", "finished"]
            clock.move(600)

    async def test_fire_waits_for_the_engine(self, clock, new_jobs, monkeypatch, caplog):
        """While the engine is away a fire waits, and then it runs; late ones are missed."""
        scheduler = clock.scheduler(new_jobs())
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        scheduler.add(Schedule(MINUTE, answer, name="b", misfire_grace=5))
        take, failures = _store.ScheduleStore.take, []

        async def fail(self, name, fire, state):
            if len(failures) < 4:
                failures.append(name)
                clock.now += timedelta(seconds=5)
                raise JobsUnavailableError("it is away", location="here")
            return await take(self, name, fire, state)

        monkeypatch.setattr(_store.ScheduleStore, "take", fail)
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
            await story.until(EventKind.MISSED)

        ends = {each.schedule: each.kind for each in story.told}
        assert ends == {"a": EventKind.FINISHED, "b": EventKind.MISSED}
        assert "a@20261130T120100Z waits: it is away" in caplog.text


class TestAsJobs:
    async def test_fire_is_one_job(self, clock, new_jobs):
        """However many schedulers fire, there is one job, and the fire's id is its id."""
        jobs = [new_jobs() for _ in range(3)]
        schedulers = [clock.scheduler() for _ in jobs]
        function = "tests.support.functions.scheduled:tell"
        for scheduler, own in zip(schedulers, jobs, strict=True):
            scheduler.add(
                Schedule("1 9 * * *", scheduled.tell, name="a", jobs=own, timezone="Etc/GMT+3")
            )
        async with schedulers[0], schedulers[1], schedulers[2], Story(schedulers[0]) as story:
            for each in schedulers:
                await ready(each)
            clock.move(60)
            job = await work(jobs[0], function, Complete('["a","b","c","d",1]'))
            await story.until(EventKind.FINISHED)
            await until(lambda: all(not each.levers.state_of("a").running for each in schedulers))

        assert job.id == "a@20261130T120100Z"
        page = await jobs[0].find()
        assert [each.state for each in page.jobs] == [JobState.COMPLETED]
        (fire,), kwargs = Signature.of(scheduled.tell).decode_arguments(job.arguments)
        assert kwargs == {}
        assert fire.fire_time.isoformat() == "2026-11-30T09:01:00-03:00"
        last = await schedulers[1]["a"].last_run()
        assert (last.id, last.outcome) == (job.id, EventKind.FINISHED)

    async def test_job_that_runs_is_known_after_a_restart(self, clock, new_jobs):
        """A scheduler that starts anew skips a fire while the job of an earlier one runs."""
        jobs = new_jobs()
        for number in range(2):
            scheduler = clock.scheduler()
            scheduler.add(Schedule(MINUTE, scheduled.double, name="a", args=(1,), jobs=jobs))
            async with scheduler, Story(scheduler) as story:
                await ready(scheduler)
                clock.move(60)
                if number == 0:
                    await story.until(EventKind.ENQUEUED)
                    await until(lambda s=scheduler: not s.levers.running._at_work)
                else:
                    await story.until(EventKind.SKIPPED_OVERLAP)
                    await work(jobs, "tests.support.functions.scheduled:double", Complete("2"))
                    await until(lambda s=scheduler: not s.levers.state_of("a").running)
                    clock.move(60)
                    await story.until(EventKind.ENQUEUED)

    async def test_failure_of_a_job_is_told(self, clock, new_jobs):
        """What the job's function raised is told by the scheduler that enqueued it."""
        jobs = new_jobs()
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.fail, name="a", args=("no",), jobs=jobs))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            error = Fail(JobError("ValueError", "no"))
            await work(jobs, "tests.support.functions.scheduled:fail", error)
            event = await story.until(EventKind.FAILED)
        assert (type(event.error), str(event.error)) == (ValueError, "no")

    async def test_stop_cancels_the_job(self, clock, new_jobs):
        """A schedule that is stopped has its job cancelled."""
        jobs = new_jobs()
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.double, name="a", args=(1,), jobs=jobs))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            event = await story.until(EventKind.ENQUEUED)
            await made.stop()
            await story.until(EventKind.CANCELLED)
        assert (await (await jobs.get(event.fire)).status()).state is JobState.CANCELLED

    async def test_late_scheduler_does_not_fire_again(self, clock, new_jobs):
        """A fire whose job is long forgotten is not fired again by a scheduler that slept."""
        jobs = new_jobs()
        slept, awake = clock.scheduler(), clock.scheduler()
        for each in (slept, awake):
            each.add(
                Schedule(
                    MINUTE, scheduled.double, name="a", args=(1,), jobs=jobs, coalesce=Coalesce.ALL
                )
            )
        async with slept, Story(slept) as story:
            await ready(slept)
            clock.schedulers.remove(slept)
            async with awake, Story(awake) as first:
                await ready(awake)
                clock.move(60)
                event = await first.until(EventKind.ENQUEUED)
                await work(jobs, "tests.support.functions.scheduled:double", Complete("2"))
                await first.until(EventKind.FINISHED)
                await jobs.remove([event.fire])
            clock.now = FIRST + timedelta(seconds=59 + 3600)
            slept.levers.running.changed()
            elsewhere = await story.until(EventKind.FIRED_ELSEWHERE)
        assert elsewhere.fire == event.fire


class TestNotes:
    async def test_what_cannot_be_read_is_new(self, clock, new_jobs, caplog):
        """Notes that another version has written keep no schedule from firing."""
        jobs = new_jobs()
        notes = (await jobs.engine()).notes
        await notes.swap(
            [
                Swap("schedule/state/a", None, '{"until": 7}'),
                Swap("schedule/spec/a", None, "[1]"),
                Swap("schedule/spec/b", None, '{"paused": false, "declaration": {"x": 1}}'),
            ]
        )
        scheduler = clock.scheduler(jobs)
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
        assert "schedule b cannot be fired here" in caplog.text

    async def test_other_fire_times_begin_to_count_anew(self, clock, new_jobs):
        """How often a schedule may run is counted for the fire times that it has."""
        runs = {"ended", "started", "finished"}
        cron = Cron("* * * * *")
        for fire_times, kinds in ((MINUTE, runs), (cron, runs), (cron, {"ended"})):
            scheduler = clock.scheduler(new_jobs())
            scheduler.add(Schedule(fire_times, answer, name="a", max_executions=1))
            async with Story(scheduler) as story:
                async with scheduler:
                    await ready(scheduler)
                    clock.move(60)
                    await story.until(EventKind.ENDED)
                assert set(story.kinds) == kinds


class TestPause:
    async def test_pause_is_everywhere_and_for_good(self, clock, new_jobs, soon):
        """A schedule that is paused in one process is so in others, and after restarts."""
        one, two = clock.scheduler(new_jobs()), clock.scheduler(new_jobs())
        for each in (one, two):
            each.add(Schedule(MINUTE, answer, name="a"))
        async with one, two:
            await ready(one)
            await ready(two)
            await one["a"].pause()
            await until(lambda: two["a"].status is ScheduleStatus.PAUSED)
        async with two:
            await ready(two)
            assert two["a"].status is ScheduleStatus.PAUSED
            # By a program that runs no scheduler, as the command line is.
            await one["a"].resume()
            await until(lambda: two["a"].status is ScheduleStatus.IDLE)


class TestStored:
    async def test_schedules_made_at_run_time_fire(self, clock, new_jobs, soon):
        """What any process makes, every scheduler of the engine fires; changed, paused, gone."""
        stored = StoredSchedules(new_jobs())
        jobs = new_jobs()
        scheduler = clock.scheduler(jobs)
        function = "tests.support.functions.scheduled:tell"
        async with scheduler, Story(scheduler) as story:
            made = await stored.put(
                "invoice 7", "1 9 * * *", scheduled.tell, timezone="Etc/GMT+3", metadata={"n": 7}
            )
            await until(lambda: scheduler.levers.state_of("invoice 7") is not None)
            clock.move(60)
            job = await work(jobs, function, Complete('["a","b","c","d",1]'))
            await story.until(EventKind.FINISHED)
            (fire,), _ = Signature.of(scheduled.tell).decode_arguments(job.arguments)
            assert (fire.schedule, fire.id) == ("invoice 7", job.id)
            assert fire.fire_time == FIRST

            await stored.pause("invoice 7")
            await until(lambda: scheduler["invoice 7"].status is ScheduleStatus.PAUSED)
            await stored.put("invoice 7", Every(30), scheduled.double, args=(4,))
            await until(lambda: scheduler["invoice 7"].fire_times == Every(30))
            await until(lambda: scheduler["invoice 7"].status is ScheduleStatus.PAUSED)
            await stored.resume("invoice 7")
            await until(lambda: scheduler["invoice 7"].status is ScheduleStatus.IDLE)
            clock.move(30)
            job = await work(jobs, "tests.support.functions.scheduled:double", Complete("8"))
            assert job.arguments == '{"number":4}'

            await until(lambda: not scheduler.levers.state_of("invoice 7").running)
            clock.move(30)
            await until(lambda: scheduler.levers.state_of("invoice 7").running)
            await stored.remove("invoice 7")
            await until(lambda: "invoice 7" not in scheduler)
            # What is under way goes on.
            await work(jobs, "tests.support.functions.scheduled:double", Complete("8"))

        assert made.fire_times == Cron("1 9 * * *", "Etc/GMT+3")
        assert made.metadata == {"n": 7}
        assert await stored.list() == []
        with pytest.raises(ScheduleNotFoundError):
            await stored.get("invoice 7")

    async def test_declaration_is_kept_whole(self, new_jobs):
        """What was given comes back, of every kind."""
        stored = StoredSchedules(new_jobs())
        policy = {
            "overlap": Overlap.QUEUE_ONE,
            "coalesce": Coalesce.SKIP,
            "misfire_grace": 1.5,
            "max_catch_up": 3,
            "max_executions": 4,
            "start": BASE,
            "end": BASE + timedelta(days=1),
            "random_delay": 2.0,
        }
        times = [
            Cron("0 3 * * *", "Europe/Berlin"),
            Every(0.25, anchor=BASE),
            Every(timedelta(days=3)),
        ]
        for number, each in enumerate(times):
            await stored.put(f"s{number}", each, scheduled.double, args=(1,), timeout=3, **policy)

        found = await stored.list()
        expected = Schedule(times[0], scheduled.double, args=(1,), **policy).policy
        assert [each.policy for each in found] == [expected] * 3
        for each, given in zip(found, times, strict=True):
            assert each.fire_times.next_n(BASE, 5) == given.next_n(BASE, 5)
            assert (each.function, each.timeout) == (
                "tests.support.functions.scheduled:double",
                3,
            )

"""A scheduler in one process: what fires, what is told of it, and every lever."""

import logging
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette

from offload import TaskTimeoutError, WorkerCrashedError
from offload.errors import QueueTimeoutError
from offload.metrics import register
from offload.schedules import (
    At,
    Coalesce,
    Cron,
    EventKind,
    Every,
    FireReason,
    FireTimeoutError,
    MissedReason,
    NotFiredError,
    Overlap,
    Schedule,
    ScheduleError,
    ScheduleNotFoundError,
    Scheduler,
    ScheduleStatus,
    default_scheduler,
    schedule,
)
from offload.starlette import lifespan
from tests.schedules.story import BASE, Story, ready
from tests.support.functions import scheduled, with_schedule
from tests.support.processes import until

pytestmark = pytest.mark.anyio

MINUTE = Every(60)


async def answer():
    """Run on the event loop."""
    return 42


async def forever():
    """Run until somebody stops it."""
    await anyio.sleep_forever()


class TestHistory:
    async def test_last_runs_are_remembered_without_results(self, clock):
        """What ended here is told, the latest first; runs of other schedules are not."""
        scheduler = clock.scheduler()
        for name in ("a", "b"):
            scheduler.add(Schedule(MINUTE, answer, name=name))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
            await scheduler["a"].execute()
            runs = await scheduler["a"].history()
            first = await scheduler["a"].history(1)

        assert [run.reason for run in runs] == [FireReason.MANUAL, FireReason.SCHEDULED]
        assert {(run.outcome, run.result) for run in runs} == {(EventKind.FINISHED, None)}
        assert [run.id for run in first] == [runs[0].id]
        with pytest.raises(ValueError, match="count must be from 1 to 1000, not 0"):
            await scheduler["a"].history(0)


class TestFires:
    async def test_fire_runs_on_the_pool(self, clock, pool):
        """When its time has come, a function runs on its pool, and its result is told."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.double, name="a", args=(21,)))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            event = await story.until(EventKind.FINISHED)

        assert story.kinds == ["started", "finished"]
        assert event.result == 42
        assert event.fire == "a@20261130T120100Z"
        assert event.fire_time == datetime(2026, 11, 30, 12, 1, tzinfo=UTC)
        assert story.told[0].lateness == 0.5

    async def test_function_that_asks_gets_the_fire(self, clock, pool):
        """A parameter annotated with FireContext is given the fire, in the schedule's zone."""
        scheduler = clock.scheduler()
        daily = Cron("30 9 * * *", "America/Sao_Paulo")
        scheduler.add(Schedule(daily, scheduled.tell, name="a"))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(1800)
            event = await story.until(EventKind.FINISHED)
            by_hand = await scheduler["a"].execute()

        expected = ("a", "a@20261130T123000Z", "2026-11-30T09:30:00-03:00", "scheduled", 1)
        assert event.result == expected
        assert by_hand[3] == "manual"

    async def test_async_function_runs_on_the_loop(self, clock):
        """An async function needs no pool."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule("* * * * *", answer))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            assert (await story.until(EventKind.FINISHED)).result == 42

    async def test_errors_are_told(self, clock, pool, caplog):
        """What a function raises, and a worker that dies, is told and logged; the next one runs."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.fail, name="fail", args=("no",)))
        scheduler.add(Schedule(MINUTE, scheduled.die, name="die"))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            for count in (2, 4):
                clock.move(60)
                await story.until(EventKind.FAILED, count)
            kinds = {each.schedule: type(each.error) for each in story.told if each.error}

        assert kinds == {"fail": ValueError, "die": WorkerCrashedError}
        texts = [each for each in caplog.records if each.name == "offload.schedules"]
        assert {each.levelno for each in texts} == {logging.ERROR}
        assert "schedule fail: fail@20261130T120100Z failed: no" in caplog.text

    async def test_timer_needs_no_help(self, monkeypatch):
        """With the machine's own clock, fires come when they are due."""
        monkeypatch.delenv("OFFLOAD_JOBS", raising=False)
        scheduler = Scheduler()
        scheduler.add(Schedule(Every(0.05), answer, name="a"))
        async with scheduler, Story(scheduler) as story:
            await story.until(EventKind.FINISHED, 5)
        times = [each.fire_time for each in story.told if each.kind is EventKind.STARTED]
        assert all(each.microsecond % 50_000 == 0 for each in times)
        assert len(set(times)) == len(times)


class TestClock:
    async def test_clock_that_jumps_loses_nothing(self, clock):
        """After a jump forward the last fire time fires, and the others are told as missed."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(3600)
            await story.until(EventKind.FINISHED)

        missed, started = story.told[:2]
        assert (missed.kind, missed.missed) == (EventKind.MISSED, MissedReason.COALESCED)
        assert missed.first == BASE.replace(minute=1, microsecond=0)
        assert missed.fire_time == BASE.replace(minute=59, microsecond=0)
        assert started.fire == "a@20261130T130000Z"

    async def test_clock_that_is_set_back_doubles_nothing(self, clock):
        """What has fired does not fire again when the clock comes by once more."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            for count in (1, 2, 3):
                clock.move(60)
                await story.until(EventKind.FINISHED, count)
            clock.move(-180)
            for _ in range(4):
                clock.move(60)
                await anyio.wait_all_tasks_blocked()
            await story.until(EventKind.FINISHED, 4)

        fires = [each.fire for each in story.told if each.kind is EventKind.STARTED]
        assert fires == [f"a@20261130T120{minute}00Z" for minute in (1, 2, 3, 4)]

    async def test_too_late_is_missed(self, clock, caplog):
        """A fire that is later than its grace does not run, and is logged as missed."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(At(BASE + timedelta(minutes=1)), answer, name="a", misfire_grace=30))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(100)
            await story.until(EventKind.ENDED)

        assert story.kinds == ["missed", "ended"]
        assert story.told[0].missed is MissedReason.TOO_LATE
        assert "missed 2026-11-30T12:01:00.500000+00:00 (too_late)" in caplog.text
        assert scheduler.levers.counts_of("a") == {}


class TestOverlap:
    async def test_skip(self, clock, pool, held, entered, gate):
        """While a run goes on, the next fire is skipped, and told."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            clock.move(60)
            await story.until(EventKind.SKIPPED_OVERLAP)
            assert scheduler["a"].status is ScheduleStatus.RUNNING
            gate.let()
            await story.until(EventKind.FINISHED)
            assert scheduler["a"].status is ScheduleStatus.IDLE

        assert story.kinds == ["started", "skipped_overlap", "finished"]

    async def test_queue_one(self, clock, pool, held, entered, gate):
        """One fire waits for the run to end."""
        scheduler = clock.scheduler()
        made = Schedule(MINUTE, scheduled.hold, name="a", args=held, overlap="queue_one")
        scheduler.add(made)
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            clock.move(60)
            clock.move(60)
            gate.let(2)
            await story.until(EventKind.FINISHED, 2)

        fires = [each.fire for each in story.told if each.kind is EventKind.STARTED]
        assert len(fires) == 2

    async def test_cancel_running(self, clock, pool, held, entered, gate):
        """The run is stopped, and then the later fire runs."""
        scheduler = clock.scheduler()
        scheduler.add(
            Schedule(MINUTE, scheduled.hold, name="a", args=held, overlap=Overlap.CANCEL_RUNNING)
        )
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            clock.move(60)
            await entered.heard()
            # The one that is being killed may be quicker, on a busy machine.
            gate.let(2)
            event = await story.until(EventKind.FINISHED)

        assert story.kinds == ["started", "cancelled", "started", "finished"]
        assert event.fire == "a@20261130T120200Z"


class TestLimits:
    async def test_timeout(self, clock, pool, held, entered):
        """A run that takes too long is stopped, on the pool and on the loop."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held, timeout=0.1))
        scheduler.add(Schedule(MINUTE, forever, name="b", timeout=0.1))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.TIMED_OUT, 2)

        errors = {each.schedule: type(each.error) for each in story.told if each.error}
        assert errors == {"a": TaskTimeoutError, "b": FireTimeoutError}

    async def test_start_timeout(self, clock, pool, held, entered, gate):
        """A run that waits too long for a worker does not begin."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.double, name="a", args=(1,), start_timeout=0.05))
        async with anyio.create_task_group() as group, scheduler, Story(scheduler) as story:
            await ready(scheduler)
            for _ in range(2):
                group.start_soon(scheduled.hold, *held)
                await entered.heard()
            clock.move(60)
            event = await story.until(EventKind.TIMED_OUT)
            gate.let(2)

        assert isinstance(event.error, QueueTimeoutError)

    async def test_max_executions(self, clock):
        """After so many runs the schedule has ended, and says so."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a", max_executions=2))
        assert len(scheduler["a"].next_runs(5)) == 2
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
            assert len(scheduler["a"].next_runs(5)) == 1
            clock.move(60)
            await story.until(EventKind.FINISHED, 2)
            assert scheduler["a"].status is ScheduleStatus.FINISHED
            assert scheduler["a"].next_run() is None

        assert story.kinds.count("ended") == 1

    async def test_random_delay_is_kept(self, clock):
        """Each fire is delayed by as much as its id says, less than the limit."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a", random_delay=30))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            due = scheduler.levers.state_of("a").due
            assert due > BASE.replace(minute=1, microsecond=0)
            clock.move((due - BASE).total_seconds() - 0.001)
            await anyio.wait_all_tasks_blocked()
            assert story.kinds == []
            clock.move(0.001)
            event = await story.until(EventKind.STARTED)

        assert event.lateness == 0
        assert event.fire_time == BASE.replace(minute=1, microsecond=0)


class TestLevers:
    async def test_execute_gives_the_result(self, clock, pool):
        """A run by hand gives what the function returns, or raises what it raises."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.double, name="a", args=(4,)))
        failing = scheduler.add(Schedule(MINUTE, scheduled.fail, name="b", args=("no",)))
        assert await made.execute() == 8  # without a scheduler that runs
        async with scheduler:
            await ready(scheduler)
            assert await made.execute() == 8
            with pytest.raises(ValueError, match="no"):
                await failing.execute()
            last = await failing.last_run()

        assert last.reason is FireReason.MANUAL
        assert last.outcome is EventKind.FAILED
        assert isinstance(last.error, ValueError)

    async def test_execute_does_not_overlap(self, clock, pool, held, entered, gate):
        """While it runs, a run by hand is refused; the one that runs goes on."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            with pytest.raises(NotFiredError, match="had not ended"):
                await made.execute()
            gate.let()
            await story.until(EventKind.FINISHED)

    async def test_cancelled_execute_stops_the_run(self, clock, pool, held, entered):
        """Who no longer waits for a run by hand has it stopped."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            async with anyio.create_task_group() as group:
                group.start_soon(made.execute)
                await entered.heard()
                group.cancel_scope.cancel()
            await story.until(EventKind.CANCELLED)

    async def test_stop_ends_the_run(self, clock, pool, held, entered):
        """What runs is ended, and nothing fires until it is started again."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            await made.stop()
            await story.until(EventKind.CANCELLED)
            assert made.status is ScheduleStatus.PAUSED
            assert made.next_run() is None
            clock.move(600)
            await anyio.wait_all_tasks_blocked()
            await made.start()
            assert made.status is ScheduleStatus.IDLE
            assert made.next_run() == BASE.replace(minute=12, microsecond=0)

        assert story.kinds == ["started", "cancelled"]

    async def test_who_waits_for_a_queued_run_is_told(self, clock, pool, held, entered, gate):
        """A run by hand that waits is given up when the schedule is paused."""
        scheduler = clock.scheduler()
        made = Schedule(MINUTE, scheduled.hold, name="a", args=held, overlap=Overlap.QUEUE_ONE)
        scheduler.add(made)
        told = []

        async def execute():
            with pytest.raises(NotFiredError, match="stopped before"):
                await made.execute()
            told.append(True)

        async with anyio.create_task_group() as group, scheduler:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            group.start_soon(execute)
            await until(lambda: scheduler.levers.state_of("a").queued is not None)
            await made.pause()
            gate.let()
        assert told == [True]

    async def test_destroy(self, clock, pool, held, entered):
        """A schedule that is destroyed is ended and gone; its name is free."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        async with scheduler:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            await made.destroy()
            assert "a" not in scheduler
            with pytest.raises(ScheduleNotFoundError):
                scheduler["a"]
            with pytest.raises(ScheduleError, match="in no scheduler"):
                await made.pause()
            scheduler.add(Schedule(MINUTE, answer, name="a"))
            await ready(scheduler)
            assert await scheduler["a"].execute() == 42

    async def test_what_is_added_while_it_runs_fires(self, clock):
        """A schedule fires from when it was added on."""
        scheduler = clock.scheduler()
        async with scheduler, Story(scheduler) as story:
            scheduler.add(Schedule(MINUTE, answer, name="a", metadata={"owner": "ops"}))
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
        assert scheduler["a"].metadata == {"owner": "ops"}

    async def test_next_runs_are_in_the_zone(self, clock):
        """The next fire times are those of the clock of the zone, within start and end."""
        scheduler = clock.scheduler()
        start = datetime(2026, 12, 24, 3, tzinfo=UTC)
        made = scheduler.add(
            Schedule(
                "0 0 * * *",
                answer,
                timezone="America/Sao_Paulo",
                start=start,
                end=start + timedelta(days=2),
            )
        )
        expected = ["2026-12-24T00:00:00-03:00", "2026-12-25T00:00:00-03:00"]
        expected.append("2026-12-26T00:00:00-03:00")
        assert [each.isoformat() for each in made.next_runs(9)] == expected
        async with scheduler:
            await ready(scheduler)
            assert [each.isoformat() for each in made.next_runs(9)] == expected


class TestEvents:
    async def test_callback_that_fails_stops_nothing(self, clock, caplog):
        """What a callback raises is logged; the others are called, and the function runs."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, answer, name="a"))
        scheduler.add(Schedule(MINUTE, answer, name="b"))
        seen = []

        def fail(event):
            raise RuntimeError("a callback of ours")

        undo = scheduler.observe(fail)
        made.observe(lambda event: seen.append((event.schedule, event.kind.value)))
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED, 2)
            undo()
            caplog.clear()
            clock.move(60)
            await story.until(EventKind.FINISHED, 4)

        assert seen == [("a", "started"), ("a", "finished")] * 2
        assert not caplog.records

    async def test_slow_consumer_loses_the_oldest(self, clock, monkeypatch):
        """Events for somebody who does not come for them do not grow for ever."""
        monkeypatch.setattr("offload.schedules._events._MAX_KEPT", 3)
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        async with scheduler, scheduler.events() as slow, Story(scheduler) as story:
            await ready(scheduler)
            for count in (1, 2, 3):
                clock.move(60)
                await story.until(EventKind.FINISHED, count)
            assert slow.dropped == 3
            assert (await anext(slow)).kind is EventKind.FINISHED


class TestMetrics:
    async def test_lateness_and_events_are_counted(self, clock):
        """Prometheus reads how late fires began, and what became of them."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        scheduler.add(Schedule(At(BASE + timedelta(days=9)), answer, name="later"))
        registry = CollectorRegistry()
        register(registry)
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
            seen = {
                (sample.name, *sample.labels.values()): sample.value
                for family in registry.collect()
                for sample in family.samples
            }
        after = [family.name for family in registry.collect()]

        assert seen["offload_schedule_lateness_seconds_count", "a"] == 1
        assert seen["offload_schedule_lateness_seconds_sum", "a"] == 0.5
        assert seen["offload_schedule_events_total", "a", "finished"] == 1
        assert not any("later" in sample for sample in seen)
        assert seen[("offload_schedules",)] >= 2
        assert "offload_schedules" in after


class TestLife:
    async def test_end_waits_for_what_runs(self, clock, pool, held, entered, gate):
        """At the end, a run has `drain` seconds to return."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        seen = []
        scheduler.observe(lambda event: seen.append(event.kind.value))
        async with scheduler:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
            gate.let()
        assert seen == ["started", "finished"]

    async def test_end_stops_what_does_not_return(self, clock, pool, held, entered):
        """After `drain` seconds what runs is stopped, and nothing is left."""
        scheduler = clock.scheduler(drain=0.0)
        scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        seen = []
        scheduler.observe(lambda event: seen.append(event.kind.value))
        async with scheduler:
            await ready(scheduler)
            clock.move(60)
            await entered.heard()
        assert seen == ["started", "cancelled"]
        assert not scheduler.is_running

    async def test_run_until_stop(self, clock):
        """`run` fires until it is told to stop, and can be run again."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        scheduler.observe(
            lambda event: scheduler.stop() if event.kind is EventKind.FINISHED else None
        )
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(scheduler.run)
                await until(lambda: scheduler.levers.state_of("a") is not None)
                with pytest.raises(ScheduleError, match="runs already"):
                    await scheduler.run()
                clock.move(60)

    async def test_pause_lasts_from_run_to_run(self, clock):
        """What was paused, or has finished, is so in the next period of the same process."""
        scheduler = clock.scheduler()
        made = scheduler.add(Schedule(MINUTE, answer, name="a"))
        await made.pause()
        async with scheduler:
            await ready(scheduler)
            assert made.status is ScheduleStatus.PAUSED
        await made.resume()
        async with scheduler:
            await ready(scheduler)
            assert made.status is ScheduleStatus.IDLE

    async def test_error_of_the_program_passes(self, clock):
        """What is raised within `async with scheduler` comes out as it is."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer))
        with pytest.raises(RuntimeError, match="of the program"):
            async with scheduler:
                raise RuntimeError("of the program")
        assert not scheduler.is_running

    async def test_cancelled_program_ends_at_once(self, clock, pool, held, entered):
        """A program that is cancelled has what runs stopped, without a drain."""
        scheduler = clock.scheduler(drain=600.0)
        scheduler.add(Schedule(MINUTE, scheduled.hold, name="a", args=held))
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(scheduler.run)
                await until(lambda: scheduler.levers.state_of("a") is not None)
                clock.move(60)
                await entered.heard()
                group.cancel_scope.cancel()
        assert not scheduler.is_running

    async def test_lifespan_fires(self, clock):
        """An application's schedules fire while it serves."""
        scheduler = clock.scheduler()
        scheduler.add(Schedule(MINUTE, answer, name="a"))
        life = lifespan(scheduled.own, scheduler=scheduler)
        async with life(Starlette()), Story(scheduler) as story:
            await ready(scheduler)
            clock.move(60)
            await story.until(EventKind.FINISHED)
        assert not scheduler.is_running

    @pytest.fixture
    def thousands(self):
        return [
            Schedule(Cron(f"{number % 60} * * * *"), answer, name=f"s{number}")
            for number in range(2000)
        ]

    async def test_loop_is_free_while_thousands_are_added(self, clock, thousands):
        """Thousands of schedules are taken up, and caught up with, a turn at a time."""
        scheduler = clock.scheduler()
        for each in thousands:
            scheduler.add(each)
        async with scheduler, Story(scheduler) as story:
            await ready(scheduler)
            clock.move(3600)
            await story.until(EventKind.FINISHED, 2000)


class TestDeclaration:
    @pytest.mark.parametrize(
        "make, text",
        [
            (lambda: Schedule("61 * * * *", answer), "61 is out of range"),
            (lambda: Schedule(MINUTE, print), "put @offload on it"),
            (lambda: Schedule(MINUTE, scheduled.double), "missing a required argument: 'number'"),
            (lambda: Schedule(MINUTE, scheduled.double, args=(1, 2)), "too many positional"),
            (lambda: Schedule(MINUTE, answer, timeout=0), "timeout=0"),
            (lambda: Schedule(MINUTE, answer, start_timeout=1), "waits for no worker"),
            (lambda: Schedule(MINUTE, answer, name="a\nb"), "printable"),
            (lambda: Schedule(MINUTE, answer, timezone="Europe/Berlin"), "is for a cron"),
            (lambda: Schedule(MINUTE, answer, overlap="never"), "must be one of 'skip'"),
            (lambda: Schedule(MINUTE, answer, misfire_grace=-1), "misfire_grace=-1"),
            (lambda: Schedule(60, answer), "is no fire time"),
        ],
    )
    def test_mistake_is_refused(self, make, text):
        """What cannot work is refused where it is declared, in words that say why."""
        with pytest.raises(ScheduleError, match=text.replace("(", r"\(")):
            make()

    def test_unknown_option_is_refused(self):
        """A misspelt option is not ignored."""
        with pytest.raises(TypeError, match="unknown option 'overlaps'"):
            Schedule(MINUTE, answer, overlaps="skip")

    def test_names_are_unique(self):
        """Two schedules of one name are refused, and say what to do."""
        scheduler = Scheduler()
        made = scheduler.add(Schedule(MINUTE, answer))
        assert scheduler.add(made) is made
        with pytest.raises(ScheduleError, match="another name="):
            scheduler.add(Schedule(MINUTE, answer))
        with pytest.raises(ScheduleError, match="in another scheduler"):
            Scheduler().add(made)

    def test_decorator_leaves_the_function_as_it_is(self):
        """`@schedule` adds a schedule, and the function is what it was; several stand together."""
        scheduler = Scheduler()

        @schedule("0 2 * * *", name="nightly", scheduler=scheduler, coalesce="skip")
        @schedule("0 3 1 * *", timezone="Europe/Berlin", scheduler=scheduler, kwargs={"n": 2})
        async def work(n: int = 1) -> int:
            return n

        name = f"{__name__}.{work.__qualname__}"
        assert {each.name for each in scheduler} == {"nightly", name}
        assert scheduler["nightly"].policy.coalesce is Coalesce.SKIP
        assert all(each.function is work for each in scheduler)

    def test_decorator_goes_to_the_default_scheduler(self):
        """Without a scheduler, it is that of the process."""
        default_scheduler.cache_clear()
        try:

            @schedule("0 2 * * *", name="nightly")
            async def work() -> None: ...

            assert [each.name for each in default_scheduler()] == ["nightly"]
        finally:
            default_scheduler.cache_clear()

    async def test_nothing_is_scheduled_in_a_worker(self, pool):
        """A worker that imports a module with schedules has none of them."""
        assert await with_schedule.count() == 0
        assert len(with_schedule.scheduler) == 1

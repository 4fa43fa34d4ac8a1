"""Several schedulers on one engine: what becomes of a fire while an earlier run has not ended."""

from collections import Counter
from contextlib import AsyncExitStack

import anyio
import pytest

import offload.jobs._sqlite.engine  # noqa: F401 - else on the event loop, when the first is opened
from offload.jobs import Jobs
from offload.jobs._notes import Swap
from offload.jobs._values import Complete
from offload.schedules import EventKind, Every, FireContext, Schedule
from offload.schedules._store import ScheduleStore
from tests.jobs import job_functions
from tests.jobs.values import claim
from tests.schedules.story import ready
from tests.support.processes import PATIENCE, until

pytestmark = pytest.mark.anyio

MINUTE = Every(60)


class Watched:
    """A function that runs until it is let, and what became of each fire in which scheduler."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.let = anyio.Event()
        self.told: Counter[tuple[str, str]] = Counter()

    async def function(self, fire: FireContext) -> None:
        """Run until it is let."""
        self.begun.append(minute_of(fire.id))
        await self.let.wait()
        self.ended.append(minute_of(fire.id))

    def note(self, event) -> None:
        """Note an event."""
        if event.fire is not None:
            self.told[minute_of(event.fire), event.kind.value] += 1


def minute_of(fire: str) -> str:
    """Return the minute that a fire's id tells."""
    return fire.partition("T")[2][2:4]


async def eventually(condition):
    """Wait until an engine says so."""
    with anyio.fail_after(PATIENCE):
        # What other schedulers store has no event here.
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


@pytest.fixture
def url(tmp_path):
    """Where the engine is."""
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal"


class Fleet:
    """Three schedulers on one engine, as three processes have them."""

    def __init__(self, clock, url, overlap) -> None:
        self.clock = clock
        self.watched = Watched()
        self.jobs = [Jobs(url) for _ in range(3)]
        self.schedulers = [clock.scheduler(each, drain=0) for each in self.jobs]
        for scheduler in self.schedulers:
            scheduler.add(Schedule(MINUTE, self.watched.function, name="a", overlap=overlap))
            scheduler.observe(self.watched.note)

    async def __aenter__(self):
        self.stack = await AsyncExitStack().__aenter__()
        for jobs, scheduler in zip(self.jobs, self.schedulers, strict=True):
            await self.stack.enter_async_context(jobs)
            await self.stack.enter_async_context(scheduler)
            await ready(scheduler)
        return self

    async def __aexit__(self, *_):
        await self.stack.aclose()

    async def until_one_waits(self):
        """Wait until the engine knows of a fire that waits."""
        store = self.schedulers[0].levers.store_of(self.schedulers[0]["a"])
        await eventually(lambda: store.is_waited_for("a"))

    async def fire(self, minute, *, heard=3):
        """Have a minute come, and wait until so many schedulers know what becomes of it."""
        self.clock.move(60)
        kinds = ("started", "skipped_overlap", "fired_elsewhere")
        await until(lambda: sum(self.watched.told[minute, kind] for kind in kinds) >= heard)


async def test_one_fire_waits_and_the_next_is_skipped(clock, url):
    """With queue_one a fire runs when the run before has ended, in whichever process; one waits."""
    async with Fleet(clock, url, "queue_one") as fleet:
        watched = fleet.watched
        await fleet.fire("01")
        # One waits and tells nothing yet; the others know that somebody has the fire.
        await fleet.fire("02", heard=2)
        await fleet.until_one_waits()
        await fleet.fire("03")
        assert watched.begun == ["01"]
        watched.let.set()
        await until(lambda: watched.ended == ["01", "02"])
        await fleet.fire("04")
        await until(lambda: watched.ended == ["01", "02", "04"])

    assert watched.begun == ["01", "02", "04"]
    assert watched.told["03", "skipped_overlap"] == 1


async def test_a_run_is_stopped_for_the_next_fire(clock, url):
    """With cancel_running a run of whichever process is stopped, and the later fire runs, once."""
    async with Fleet(clock, url, "cancel_running") as fleet:
        watched = fleet.watched
        for minute in ("01", "02", "03"):
            await fleet.fire(minute)
        await until(lambda: watched.begun == ["01", "02", "03"])
        watched.let.set()
        await until(lambda: watched.ended == ["03"])

    assert watched.told["01", "cancelled"] == watched.told["02", "cancelled"] == 1


async def test_of_fires_that_wait_the_last_one_runs(clock, url):
    """With cancel_running a fire that waits for a run to stop gives its place to a later one."""
    async with Fleet(clock, url, "cancel_running") as fleet:
        watched = fleet.watched
        notes = (await fleet.jobs[0].engine()).notes
        # A process that does not answer: it holds the schedule, and does not give way.
        held = Swap("schedule/lease/a", None, "somebody else", 3600.0)
        assert (await notes.swap([held]))[0]
        await fleet.fire("01", heard=2)
        await fleet.until_one_waits()
        await fleet.fire("02", heard=2)
        await until(lambda: watched.told["01", "skipped_overlap"] == 1)
        assert watched.begun == []
        assert (await notes.swap([Swap("schedule/lease/a", "somebody else", None)]))[0]
        await until(lambda: watched.begun == ["02"])


async def test_what_waits_is_stopped_with_its_scheduler_paused(clock, url):
    """A pause drops the fire that waits; after it, fires run as ever."""
    async with Fleet(clock, url, "queue_one") as fleet:
        watched = fleet.watched
        await fleet.fire("01")
        await fleet.fire("02", heard=2)
        await fleet.until_one_waits()
        for scheduler in fleet.schedulers:
            await scheduler["a"].pause()
        await until(lambda: watched.told["02", EventKind.CANCELLED] == 1)
        watched.let.set()
        await until(lambda: watched.ended == ["01"])
        for scheduler in fleet.schedulers:
            await scheduler["a"].resume()
        await fleet.fire("03")
        await until(lambda: watched.ended == ["01", "03"])


class FleetOfJobs(Fleet):
    """The same, where each fire is a job."""

    def __init__(self, clock, url, overlap) -> None:
        super().__init__(clock, url, overlap)
        for jobs, scheduler in zip(self.jobs, self.schedulers, strict=True):
            made = Schedule(
                MINUTE, job_functions.add, name="as jobs", args=(1,), jobs=jobs, overlap=overlap
            )
            scheduler.levers.schedules.clear()
            scheduler.add(made)

    async def states(self):
        """Return the states of the jobs that there are, by the minute of their fires."""
        page = await self.jobs[0].find(id_prefix="as jobs@")
        return {minute_of(each.id): each.state.value for each in page.jobs}

    async def come(self, wanted):
        """Have a minute come, and wait until the jobs are in these states."""
        self.clock.move(60)
        await self.become(wanted)

    async def become(self, wanted):
        """Wait until the jobs are in these states."""

        async def are():
            return await self.states() == wanted

        await eventually(are)


async def test_of_jobs_one_waits_and_the_next_is_skipped(clock, url):
    """With queue_one the job of a fire is stored when that of the fire before has ended."""
    async with FleetOfJobs(clock, url, "queue_one") as fleet:
        await fleet.come({"01": "waiting"})
        await fleet.come({"01": "waiting"})
        await fleet.come({"01": "waiting"})
        await until(lambda: fleet.watched.told["03", "skipped_overlap"] == 3)
        engine = await fleet.jobs[1].engine()
        held = await claim(engine, functions=[f"{job_functions.__name__}:add"])
        await engine.finish(held, Complete("1"))
        await fleet.become({"01": "completed", "02": "waiting"})


async def test_of_jobs_one_is_cancelled_for_the_next(clock, url):
    """With cancel_running the job of a later fire takes the place of that before it."""
    async with FleetOfJobs(clock, url, "cancel_running") as fleet:
        await fleet.come({"01": "waiting"})
        await fleet.come({"01": "cancelled", "02": "waiting"})
        await fleet.come({"01": "cancelled", "02": "cancelled", "03": "waiting"})


async def test_a_fire_that_gets_its_turn_at_the_end_runs(clock, url):
    """While a scheduler drains, a fire that has waited may run, and nothing is left behind."""
    async with Jobs(url) as jobs:
        watched = Watched()
        watched.let.set()
        leaving = anyio.Event()
        scheduler = clock.scheduler(jobs, drain=PATIENCE)
        made = Schedule(MINUTE, watched.function, name="a", overlap="cancel_running")
        scheduler.add(made)
        scheduler.observe(watched.note)
        notes = (await jobs.engine()).notes
        # The run of another process, which ends while this one drains.
        assert (await notes.swap([Swap("schedule/lease/a", None, "another", 3600.0)]))[0]
        async with anyio.create_task_group() as group, scheduler:
            await ready(scheduler)
            clock.move(60)
            store = scheduler.levers.store_of(made)
            await eventually(lambda: store.is_waited_for("a"))
            group.start_soon(end_the_other, leaving, notes)
            # From here to where it fires no more there is no await.
            leaving.set()

    assert watched.ended == ["01"]
    assert watched.told["01", "finished"] == 1


async def end_the_other(leaving, notes):
    """End the run of another process once a scheduler drains."""
    await leaving.wait()
    assert (await notes.swap([Swap("schedule/lease/a", "another", None)]))[0]


async def test_what_drains_goes_on_holding_its_schedule(clock, url, monkeypatch):
    """Nobody else runs a schedule while a run of it ends, however long the drain is."""
    extended = 0

    async def extend(_):
        nonlocal extended
        extended += 1
        return []

    monkeypatch.setattr("offload.schedules._loader._EXTEND_SECONDS", 0.01)
    monkeypatch.setattr(ScheduleStore, "extend", extend)
    async with Jobs(url) as jobs, anyio.create_task_group() as group:
        watched = Watched()
        leaving = anyio.Event()
        scheduler = clock.scheduler(jobs, drain=PATIENCE)
        scheduler.add(Schedule(MINUTE, watched.function, name="a"))

        async def let_it_end():
            await leaving.wait()
            before = extended
            await until(lambda: extended > before + 1)
            watched.let.set()

        async with scheduler:
            await ready(scheduler)
            clock.move(60)
            await until(lambda: watched.begun)
            group.start_soon(let_it_end)
            # From here to where it fires no more there is no await.
            leaving.set()

    assert watched.ended == ["01"]

"""How a worker program begins what it has claimed, and reports what that came to."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest

from offload import Pool
from offload.jobs._attempt import attempt_of
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._functions import reference_of
from offload.jobs._sqlite import SqliteEngine
from offload.jobs._values import Claim, Claimed, Complete, Finished, JobState, NewJob, Wanted
from offload.jobs._worker.connection import Connection
from offload.jobs._worker.consumer import Consumer
from offload.jobs._worker.leases import Leases
from offload.jobs._worker.parts import Parts
from offload.jobs._worker.pulse import Pulse
from offload.jobs._worker.records import RecordKeeper
from offload.jobs._worker.reports import Reports
from offload.jobs._worker.statistics import Counters
from tests.jobs import job_functions as functions
from tests.support.processes import PATIENCE

# A worker program has an event loop of asyncio.
pytestmark = pytest.mark.anyio

LEASE = 10.0
AWAY = JobsUnavailableError("away", location="nowhere", may_have_happened=True)


@pytest.fixture
def anyio_backend():
    """Run as a worker program does."""
    return "asyncio"


class SlowEngine:
    """An engine that answers when it is told to."""

    def __init__(self):
        self.asked = []
        self.arrived = asyncio.Event()

    async def finish_all(self, reports, *, then=None):
        answer = asyncio.get_running_loop().create_future()
        self.asked.append(([claim.id for claim, _ in reports], then, answer))
        self.arrived.set()
        return await answer

    async def next(self):
        """Return the next request: ids, what is wanted and the answer to give."""
        async with asyncio.timeout(PATIENCE):
            while not self.asked:
                self.arrived.clear()
                await self.arrived.wait()
        return self.asked.pop(0)


class Recorder:
    """A consumer that notes what it is told."""

    def __init__(self):
        self.spare = 0
        self.wanted = None
        self.ended = {}
        self.begun = []
        self.outstanding = 0

    def ask(self):
        return self.wanted

    def begin(self, claimed, _):
        self.begun += claimed

    def asked(self, change):
        self.outstanding += change

    def has_room(self):
        pass

    def reported(self, report, *, is_stored):
        self.ended[report.attempt.claimed.claim.id] = is_stored

    def gave_up(self, report):
        self.ended[report.attempt.claimed.claim.id] = None


def attempt(parts, name):
    """Return what `Reports` need of an attempt, and hold its claim."""
    claim = Claim(name, "default", f"token of {name}")
    parts.leases.claimed(claim, time.monotonic())
    return SimpleNamespace(claimed=Claimed(claim, SimpleNamespace(id=name)))


def made_parts(engine):
    """Return what consumers need of their program."""
    return Parts(
        engine=engine,
        worker="worker",
        queues=frozenset({"default"}),
        lease=LEASE,
        max_bytes=None,
        leases=Leases(LEASE),
        connection=Connection(),
        records=RecordKeeper(),
        counters=Counters(),
        pulse=Pulse(),
    )


class Setting:
    """Reports with all that is around them."""

    def __init__(self):
        self.engine = SlowEngine()
        self.consumer = Recorder()
        self.parts = made_parts(self.engine)
        self.tasks = set()
        self.reports = Reports(self.parts, self.consumer, self.tasks)

    def add(self, *names):
        for name in names:
            self.reports.add(attempt(self.parts, name), Complete("1"))

    async def carried(self):
        async with asyncio.timeout(PATIENCE):
            while self.tasks:
                await asyncio.wait(self.tasks)


async def test_what_ends_meanwhile_goes_together():
    """One report goes at once; those that come during its round trip go together in the next."""
    setting = Setting()
    setting.add("one")
    ids, _, answer = await setting.engine.next()
    assert ids == ["one"]
    setting.add("two", "three")
    assert setting.engine.asked == []
    answer.set_result(Finished((True,)))
    ids, _, answer = await setting.engine.next()
    assert ids == ["two", "three"]
    answer.set_result(Finished((True, False)))
    await setting.carried()
    assert setting.consumer.ended == {"one": True, "two": True, "three": False}


async def test_reports_wait_while_workers_have_enough():
    """A report waits for others while every worker process has a next job, and not after that."""
    setting = Setting()
    setting.consumer.spare = 10
    setting.add("one")
    await asyncio.sleep(0)
    setting.add("two")
    setting.consumer.spare = 2
    setting.add("three")
    ids, _, answer = await setting.engine.next()
    assert ids == ["one", "two", "three"]
    answer.set_result(Finished((True,) * 3))
    # Alone it goes as well, some milliseconds later.
    setting.consumer.spare = 10
    setting.add("four")
    ids, _, answer = await setting.engine.next()
    assert ids == ["four"]
    answer.set_result(Finished((True,)))
    await setting.carried()


async def test_reports_claim_what_is_next():
    """What the consumer wants comes with the answer, and counts as asked for until then."""
    setting = Setting()
    wanted = setting.consumer.wanted = Wanted(frozenset(), frozenset(), "worker", LEASE, limit=3)
    setting.add("one")
    _, then, answer = await setting.engine.next()
    assert then is wanted
    assert setting.consumer.outstanding == 3
    new = Claimed(Claim("new", "default", "1"), None)
    answer.set_result(Finished((True,), (new,)))
    await setting.carried()
    assert setting.consumer.outstanding == 0
    assert setting.consumer.begun == [new]


async def test_outage_loses_no_report():
    """Reports are made until they are stored; a refusal after "perhaps stored" is no overtaking."""
    setting = Setting()
    setting.add("one", "two")
    *_, answer = await setting.engine.next()
    answer.set_exception(AWAY)
    ids, _, answer = await setting.engine.next()
    assert ids == ["one"]
    assert not setting.parts.connection.is_up
    answer.set_result(Finished((False,)))
    ids, _, answer = await setting.engine.next()
    assert ids == ["two"]
    answer.set_result(Finished((True,)))
    await setting.carried()
    assert setting.consumer.ended == {"one": True, "two": True}
    assert setting.parts.connection.is_up


async def test_lost_claim_is_reported_no_more():
    """What another has taken over during an outage is not reported any longer."""
    setting = Setting()
    setting.add("one")
    *_, answer = await setting.engine.next()
    setting.parts.leases.over(Claim("one", "default", "token of one"))
    answer.set_exception(JobsUnavailableError("away", location="nowhere"))
    await setting.carried()
    assert setting.consumer.ended == {"one": False}


async def test_report_that_no_engine_takes_keeps_no_other():
    """One that breaks its round trip is tried alone, and given up; all others are stored."""
    setting = Setting()
    setting.add("good", "bad", "fine")
    while len(setting.consumer.ended) < 3:
        ids, _, answer = await setting.engine.next()
        if "bad" in ids:
            answer.set_exception(UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogate"))
        else:
            answer.set_result(Finished((True,) * len(ids)))
        await asyncio.sleep(0)
    await setting.carried()
    assert setting.consumer.ended == {"good": True, "bad": None, "fine": True}


async def test_job_whose_lease_has_run_out_does_not_begin(tmp_path):
    """A program that stood still after its claim does not run the job, and hands it back."""
    engine = SqliteEngine(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    await engine.open()
    reference, path = reference_of(functions.append), tmp_path / "lines"
    arguments = json.dumps({"path": str(path), "word": "late"})
    await engine.put([NewJob("late", reference, arguments)])
    async with Pool("consumer", max_workers=1) as pool:
        consumer = Consumer(
            made_parts(engine), pool, {reference: attempt_of(reference, functions.append, pool)}
        )
        wanted = consumer.ask()
        claimed = await engine.claim(wanted)
        assert len(claimed) == 1
        consumer.begin(claimed, time.monotonic() - LEASE)
        await consumer.drained()
    (record,) = await engine.get(["late"])
    await engine.aclose()
    assert not path.exists()
    assert (record.state, record.attempts, record.crashes) == (JobState.WAITING, 0, 0)
    assert [each.outcome for each in record.history] == ["released"]

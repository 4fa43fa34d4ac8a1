"""Rows that nobody of ours has written: each fails its own job, and the program goes on."""

import json
import sqlite3
from functools import partial

import anyio
import pytest

from offload.jobs import JobState
from offload.jobs._bullmq.jobs import record
from offload.jobs._sqlite import SqliteEngine
from offload.jobs._values import Complete, Fail, JobError, NewJob, Query, Wanted
from offload.schedules._store import SpecNote, StoredProgress
from tests.jobs import job_functions as functions

pytestmark = pytest.mark.anyio

ADD = "tests.jobs.job_functions:add"
OPTIONS = {
    "no JSON": "{",
    "a list": "[1]",
    "deep": "[" * 100_000,
    "attempts are text": '{"max_attempts":"3"}',
    "attempts are no number": '{"max_attempts":NaN}',
    "priority is a float": '{"priority":1.5}',
    "a timeout is text": '{"timeout":"soon"}',
    "a timeout is endless": '{"timeout":1e999}',
    "logs are true": '{"max_logs":true}',
    "a back-off is a number": '{"backoff":7}',
    "a back-off lacks parts": '{"backoff":{"initial":1}}',
    "a back-off is of texts": '{"backoff":{"initial":"1","factor":2,"maximum":3,"jitter":0}}',
    "a deadline is no instant": '{"deadline":"tomorrow"}',
    "a deadline has no zone": '{"deadline":"2026-11-30T09:00:00"}',
    "a key of three": '{"unique":["a",1,2]}',
    "a key is no text": '{"unique":[1,2]}',
}
# By column, what is written into it. What is not read at a claim fails nothing.
COLUMNS = {
    "bodies.options": OPTIONS.values(),
    "bodies.arguments": (b"\xff", "no JSON", "[1]", "[" * 100_000, '{"other":1}'),
    "bodies.enqueued_by": (b"\xff",),
    "jobs.created_at": ("yesterday", b"\xff"),
    "jobs.attempts": ("many", 1.5),
    "jobs.crashes": ("many",),
    "jobs.logs": ("many",),
    "jobs.error": ("{", "[1]", '["a","b","c","d"]', "[1,2,3]"),
    "jobs.history": ("many", 3),
    "jobs.keep": ("long", 1e300),
    "jobs.max_crashes": ("many",),
    "jobs.is_cancel_asked": ("no",),
    "jobs.position": ("first", b"\xff"),
    "jobs.priority": ("first",),
    "jobs.deadline": ("tomorrow", b"\xff"),
    "jobs.unique_key": (b"\xff",),
    "bodies.trace": ("{", "[1]", '{"traceparent":1}'),
}
FORGED = [(column, value) for column, values in COLUMNS.items() for value in values]


def forge(path, seq, column, value):
    """Write something into a column of a job."""
    table, _, name = column.partition(".")
    connection = sqlite3.connect(path)
    with connection:
        statement = f"UPDATE {table} SET {name} = ? WHERE seq = ?"  # noqa: S608 - of this file
        connection.execute(statement, (value, seq))
    connection.close()


@pytest.fixture
def anyio_backend():
    """Run on one event loop: the stores do not know which it is."""
    return "asyncio"


async def test_each_forged_row_can_be_claimed_and_ended(tmp_path):
    """Whatever a column has, a program gets the job, and its end is stored."""
    path = tmp_path / "jobs.sqlite3"
    engine = SqliteEngine(f"sqlite:///{path}")
    await engine.open()
    try:
        put = [NewJob(f"job {number}", ADD, '{"first":1}') for number in range(len(FORGED))]
        await engine.put(put)
        for number, (column, value) in enumerate(FORGED, 1):
            forge(path, number, column, value)
        await engine.find(Query(limit=len(FORGED)))
        await engine.sweep()
        wanted = Wanted(frozenset({"default"}), frozenset({ADD}), "worker", 30.0, len(FORGED))
        claimed = await engine.claim(wanted)
        assert {each.claim.id for each in claimed} == {each.id for each in put}
        problems = {each.claim.id: each.job.problem for each in claimed}
        assert all(problems[f"job {number}"] for number in range(len(OPTIONS)))
        for each in claimed:
            error = JobError("ValueError", "forged")
            ending = Fail(error) if each.job.problem else Complete("1")
            assert (await engine.finish(each.claim, ending)).stored == (True,)
        found = await engine.find(Query(limit=len(FORGED)))
        assert {each.state for each in found.jobs} <= {JobState.COMPLETED, JobState.FAILED}
    finally:
        await engine.aclose()


async def test_program_fails_forged_jobs_and_runs_the_others(jobs, url, programs):
    """Each says what is wrong with it; the log says so, too."""
    path = url.removeprefix("sqlite:///").partition("?")[0]
    made = [await jobs.enqueue(functions.add, 1, number) for number in range(3)]
    await anyio.to_thread.run_sync(forge, path, 1, "bodies.options", '{"max_attempts":"3"}')
    await anyio.to_thread.run_sync(forge, path, 2, "bodies.arguments", b"\xff")
    program = await anyio.to_thread.run_sync(partial(programs.start, "--burst"))
    assert await made[2].result() == 3
    assert await anyio.to_thread.run_sync(program.end) == 0
    for job in made[:2]:
        assert (await job.status()).state is JobState.FAILED
    with pytest.raises(ValueError, match="max_attempts is '3'"):
        await made[0].result()
    assert "cannot be read and did not run" in program.text


FIELDS = {
    "o:put": [
        *(f'{{"options":{options},"trace":{{}},"by":""}}' for options in OPTIONS.values()),
        "{",
        "[]",
        "{}",
    ],
    "timestamp": ["", "soon", "9" * 400],
    "atm": ["", "many", "1.5"],
    "ats": ["many"],
    "o:crashes": ["many"],
    "o:due": ["soon"],
    "processedOn": ["soon", "1e300"],
    "o:history": ["", "{", "[1]", '["failed","a",2,"w",null]', '["none",1,2,"w",null]'],
    "opts": ["{", "[1]", '{"backoff":{"delay":"x"}}', '{"attempts":"x"}', '{"de":7}'],
    "data": [None],
}


@pytest.mark.parametrize("field", FIELDS)
def test_forged_field_of_redis_or_postgres_is_a_problem_of_its_job(field):
    """The record says so; it is of the job and of its function, so that it can be failed."""
    whole = {"name": ADD, "data": "{}", "timestamp": "1", "atm": "0"}
    for value in FIELDS[field]:
        for state in ("active", "delayed"):
            found = record(("default", "job", state, 0, "", whole | {field: value}))
            assert (found.id, found.function) == ("job", ADD)
            read_only_if_delayed = field == "o:due" and state == "active"
            assert bool(found.problem) is not read_only_if_delayed, value


NOTES = ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "{}", '{"paused":1,"declaration":7}']
PROGRESSES = [
    {"until": 7, "executions": 1, "times": ""},
    {"until": "0001-01-01T00:00:00+10:00", "executions": 1, "times": ""},
    {"until": "2026-11-30T00:00:00+00:00", "executions": "x", "times": ""},
    {"until": "2026-11-30T00:00:00+00:00", "executions": 1e999, "times": ""},
    {"until": "2026-11-30T00:00:00+00:00", "executions": 1, "times": "", "last": 7},
    {"until": "2026-11-30T00:00:00+00:00", "executions": 1, "times": "", "last": {"x": 1}},
]


@pytest.mark.parametrize(
    "note", [*NOTES, *map(json.dumps, PROGRESSES)], ids=lambda text: f"{text[:20]}…{text[-30:]}"
)
def test_forged_note_of_a_schedule_is_as_none(note):
    """A scheduler goes by its program's own declarations then."""
    assert StoredProgress.of(note) is None
    assert SpecNote.of(note).declaration is None

"""What is of BullMQ: its scripts as ours use them, its names, deploys, and programs that die."""

import contextlib
import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.jobs import Job, Jobs
from offload.jobs._bullmq import new_engine
from offload.jobs._bullmq.names import from_bullmq, to_bullmq
from offload.jobs._bullmq.redis_engine import RedisEngine
from offload.jobs._bullmq.scripts import script, texts_of_bullmq
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import (
    AttemptOutcome,
    Complete,
    EventKind,
    Fail,
    JobEvent,
    JobRecord,
    JobState,
    NewJob,
)
from tests.jobs import job_functions as functions
from tests.jobs.servers import PostgresServer, RedisServer
from tests.jobs.values import BOOM, claim, claimed_ids, new_job, put, wanted
from tests.support.processes import PATIENCE, until

# Keys and arguments of BullMQ's scripts, as ours hand them over: (file, KEYS, ARGV).
HANDED_OVER = [
    ("addStandardJob-9", 9, 3),
    ("addDelayedJob-6", 6, 3),
    ("addPrioritizedJob-9", 9, 3),
    ("moveToActive-11", 11, 3),
    ("moveToFinished-14", 14, 9),
    ("moveToDelayed-11", 11, 9),
    ("retryJob-11", 11, 6),
    ("reprocessJob-9", 9, 6),
    ("removeJob-2", 2, 3),
    ("updateProgress-3", 3, 2),
    ("pause-7", 7, 2),
]


@pytest.fixture
def server(tmp_path):
    """One for the test."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("file, keys, arguments", HANDED_OVER)
def test_scripts_of_bullmq_take_what_ours_hand_over(file, keys, arguments):
    """A version of BullMQ with other keys or arguments is noticed here, before any job is."""
    text = Path(texts_of_bullmq(), f"{file}.lua").read_text(encoding="utf-8")
    assert max(int(number) for number in re.findall(r"KEYS\[(\d+)\]", text)) == keys
    assert max(int(number) for number in re.findall(r"ARGV\[(\d+)\]", text)) == arguments


@pytest.mark.parametrize(
    "file, words",
    [
        ("moveToFinished-14", ["return -6", "return -2", "return -3", "return -1", "keepJobs"]),
        ("moveToActive-11", ["opts['token']", "opts['lockDuration']", "opts['name']", ":lock"]),
        ("moveToDelayed-11", ['ARGV[6] == "0"', '"HINCRBY", jobKey, "atm", 1']),
        ("retryJob-11", ['"HINCRBY", jobKey, "atm", 1']),
        ("addStandardJob-9", ["cmsgpack.unpack(ARGV[1])", "opts['de']", "args[9]"]),
    ],
)
def test_words_of_bullmq_are_as_ours_expect(file, words):
    """Codes, options and fields that ours rely on are still there."""
    text = Path(texts_of_bullmq(), f"{file}.lua").read_text(encoding="utf-8")
    assert [word for word in words if word not in text] == []


def test_every_script_is_composed_once():
    """A script of ours has the text of BullMQ's in it, every line as it was."""
    text = Path(texts_of_bullmq(), "moveToFinished-14.lua").read_text(encoding="utf-8")
    assert text in script("finish").text.replace("bull_finish = function(KEYS, ARGV)\n", "")
    assert script("finish") is script("finish")


def test_functions_of_bullmq_are_made_once_for_many_jobs():
    """What ends a job makes none of the functions that its script has; those stand before it."""
    functions, ends_a_job, following = re.split(
        r"bull_finish = function\(KEYS, ARGV\)|local bull_take", script("finish").text
    )
    assert functions.count("local function ") > 30
    assert "local jobIdKey = KEYS[12]" in ends_a_job
    assert "local function " not in ends_a_job
    assert following


def test_jobs_are_imported_without_bullmq():
    """`import offload.jobs` needs none of the extras."""
    code = (
        "import sys, offload.jobs, offload.jobs._bullmq; "
        "sys.exit(bool({'bullmq', 'redis', 'hiredis', 'psycopg'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text(min_size=1))
def test_every_name_is_kept(name):
    """Names survive the way to BullMQ and back, and cannot be taken for a key of a queue."""
    kept = to_bullmq(name)
    assert from_bullmq(kept) == name
    assert ":" not in kept
    assert kept not in ("wait", "active", "meta", "events", "id")
    assert not re.fullmatch("[0-9]+", kept)


def test_ordinary_names_are_the_same_there():
    """What a Node program knows a job or queue by is what we know it by."""
    for name in ("default", "report@2026-11", "0190d1f2-7c3a", "größe"):
        assert to_bullmq(name) == name


def test_unknown_scheme_is_refused():
    """With those that there are."""
    with pytest.raises(ValueError, match="neither redis://"):
        new_engine("mysql://example")


@pytest.mark.anyio
async def test_unknown_functions_do_not_slow_claims_down(server):
    """Ten thousand jobs of a function that no worker has yet cost a claim nothing, and wait."""
    engine = RedisEngine(server.url)
    await engine.open()
    numbers = count(1)
    for _ in range(20):
        await engine.put([new_job(f"new-{next(numbers)}", function="shop:new") for _ in range(500)])
    await put(engine, new_job("one"), new_job("two", function="shop:new"), new_job("three"))
    assert await claimed_ids(engine) == ["one", "three"]
    await engine.put([new_job("four")])
    server.call("CONFIG", "RESETSTAT")
    assert await claimed_ids(engine) == ["four"]
    commands = re.findall(rb"cmdstat_(\w+):calls=(\d+)", server.call("INFO", "commandstats"))
    assert sum(int(calls) for name, calls in commands if name != b"info") < 100
    first = await claimed_ids(engine, limit=3, functions=["shop:new"])
    assert first == ["new-1", "new-2", "new-3"]
    assert sum(each.count for each in await engine.counts()) == 10_004
    await engine.aclose()


@pytest.mark.anyio
async def test_worker_program_that_listens_asks_once(server):
    """To wait again costs one look for jobs: what comes after it is heard of."""
    engine = RedisEngine(server.url)
    await engine.open()
    assert await engine.claim(wanted(), wait=0.01) == ()
    server.call("CONFIG", "RESETSTAT")
    # Not long enough for another look at the end.
    assert await engine.claim(wanted(), wait=1e-9) == ()
    (calls,) = re.findall(rb"cmdstat_evalsha:calls=(\d+)", server.call("INFO", "commandstats"))
    assert calls == b"1"
    await engine.aclose()


def calls(server, command):
    """Return how often the server has run a command since its counters were reset."""
    found = re.search(rb"cmdstat_%s:calls=(\d+)" % command, server.call("INFO", "commandstats"))
    return int(found[1]) if found else 0


@pytest.mark.anyio
async def test_awaited_result_comes_with_the_event(server):
    """Who waits for a job is told its result, and asks the server no more."""
    engine = RedisEngine(server.url)
    await engine.open()
    async with Jobs(server.url) as jobs, anyio.create_task_group() as group:
        job = await jobs.enqueue(functions.add, 2, second=3)
        (held,) = await engine.claim(wanted(functions=["tests.jobs.job_functions:add"]))
        server.call("CONFIG", "RESETSTAT")

        async def wait():
            assert await job.result(timeout=PATIENCE) == 5

        group.start_soon(wait)
        # It listens by now, and has looked.
        await until(lambda: calls(server, b"hgetall") == 1)
        server.call("CONFIG", "RESETSTAT")
        await engine.finish(held.claim, Complete("5"))
    assert calls(server, b"hgetall") == 0
    await engine.aclose()


@pytest.mark.anyio
async def test_event_of_a_job_before_is_no_result():
    """An event that is older than the job was of another one of its id, which was removed."""
    now = datetime.now(UTC)
    states = iter([JobState.ACTIVE, JobState.COMPLETED])

    class Engine:
        @contextlib.asynccontextmanager
        async def events(self, ids):
            async def told():
                (job_id,) = ids
                before = now - timedelta(seconds=1)
                yield JobEvent(EventKind.COMPLETED, job_id, "default", "1", before)

            async with contextlib.aclosing(told()) as events:
                yield events

        async def get(self, ids):
            job = new_job(ids[0])
            state = next(states)
            result = "2" if state is JobState.COMPLETED else None
            return (
                JobRecord(
                    job.id, job.function, "{}", job.queue, job.options, state, now, result=result
                ),
            )

    class Opened:
        async def engine(self):
            return Engine()

    assert await Job(Opened(), "job-1").result() == 2


WORKER = """
import asyncio, os, sys, random
from offload.jobs import Job, Jobs
from offload.jobs._bullmq import new_engine
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import Complete, Wanted

async def main(url, name):
    engine = new_engine(url)
    wanted = Wanted(frozenset({"default"}), frozenset({"shop:f"}), name, 1.0, 5)
    await engine.open()
    async def work():
        while True:
            try:
                claimed = await engine.claim(wanted, wait=10)
                while claimed:
                    each, *claimed = claimed
                    await asyncio.sleep(random.random() / 100)
                    finished = await engine.finish(each.claim, Complete('"%s"' % name), then=wanted)
                    claimed += finished.claimed
                    await engine.extend([one.claim for one in claimed], 1.0)
            except JobsUnavailableError:
                await asyncio.sleep(0.1)
    await asyncio.gather(*(work() for _ in range(5)))

asyncio.run(main(*sys.argv[1:]))
"""


def start_worker(server, name):
    """Start a worker program."""
    return subprocess.Popen([sys.executable, "-c", WORKER, server.url, name])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
@pytest.mark.parametrize("kind, total", [(RedisServer, 1500), (PostgresServer, 500)])
async def test_no_job_is_lost_while_programs_and_server_die(  # noqa: C901, PLR0915 - a story
    tmp_path_factory, kind, total
):
    """Worker programs and servers are killed at random: each job ends once, none is lost."""
    server = kind(tmp_path_factory.mktemp("chaos"))
    server.start()
    engine = new_engine(f"{server.url}?timeout=2")
    await engine.open()
    numbers = count(1)
    workers = {name: start_worker(server, name) for name in ("one", "two", "three")}
    chance = random.Random(7)

    async def produce():
        for _ in range(total // 50):
            jobs = [NewJob(f"job-{next(numbers)}", "shop:f", "[]") for _ in range(50)]
            while True:
                try:
                    await engine.put(jobs)
                    break
                except JobsUnavailableError:
                    await anyio.sleep(0.1)
            await anyio.sleep(0.05)

    async def kill():
        for round_number in range(6):
            await anyio.sleep(0.4 + chance.random() / 2)
            name = chance.choice(sorted(workers))
            workers[name].kill()
            await anyio.to_thread.run_sync(workers[name].wait)
            if round_number % 3 == 2:
                await anyio.to_thread.run_sync(server.stop)
                await anyio.to_thread.run_sync(server.start)
            workers[name] = start_worker(server, name)

    async def finished():
        counts = await engine.counts()
        return sum(each.count for each in counts if each.state is JobState.COMPLETED)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            group.start_soon(kill)
        with anyio.fail_after(60):
            done = 0
            while done < total:
                # The server may still be busy with what it missed.
                with contextlib.suppress(JobsUnavailableError):
                    await engine.sweep()
                    done = await finished()
                await anyio.sleep(0.1)
        records = await engine.get([f"job-{number}" for number in range(1, total + 1)])
        await engine.aclose()
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
        await anyio.to_thread.run_sync(server.stop)
    assert None not in records
    for record in records:
        *earlier, last = record.history
        assert last.outcome is AttemptOutcome.COMPLETED
        assert {attempt.outcome for attempt in earlier} <= {AttemptOutcome.LAPSED}
        assert (record.attempts, record.crashes) == (1, len(earlier))


@pytest.mark.anyio
async def test_many_cancelled_jobs_are_counted_apart_from_failed_ones(server):
    """However many there are: the script looks at a thousand of them in one go."""
    engine = RedisEngine(server.url)
    await engine.open()
    ids = await engine.put([new_job() for _ in range(1100)])
    await engine.finish(await claim(engine), Fail(BOOM))
    for first in range(1, len(ids), 50):
        async with anyio.create_task_group() as group:
            for job_id in ids[first : first + 50]:
                group.start_soon(engine.cancel, job_id)
    told = await engine.ended(10, 60)
    await engine.aclose()
    sums = dict.fromkeys(JobState, 0)
    for each in told.counts:
        sums[each.state] += each.count

    assert (sums[JobState.FAILED], sums[JobState.CANCELLED]) == (1, 1099)

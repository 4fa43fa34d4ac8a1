"""Programs of BullMQ's on Node, and ours, on the same queues of a real Redis."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from offload.jobs._bullmq.redis_engine import RedisEngine
from offload.jobs._values import (
    AttemptOutcome,
    CancelOutcome,
    Complete,
    EventKind,
    Fail,
    JobOptions,
    JobState,
    LogLine,
    NewJob,
    Query,
    Retry,
)
from tests.jobs.servers import RedisServer, binary
from tests.jobs.values import BOOM, FUNCTION, claim, look, new_job, wanted

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.leaves_behind("the server is every test's of this module"),
    pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"]),
]

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A directory with BullMQ's packages for Node, from their registry."""
    directory = tmp_path_factory.mktemp("node")
    binary("node")
    shutil.copy(NODE / "package.json", directory)
    shutil.copy(NODE / "package-lock.json", directory)
    shutil.copy(NODE / "program.mjs", directory)
    subprocess.run(
        [binary("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return directory


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for the module."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def engine(server, anyio_backend):
    """Open, on an empty server."""
    server.call("FLUSHALL")
    engine = RedisEngine(server.url)
    await engine.open()
    yield engine
    await engine.aclose()


@pytest.fixture
def run(node, server):
    """Run a program on Node, and return the last line that it told."""

    async def run(command, *words):
        line = [binary("node"), "program.mjs", command, str(server.port), "default", *words]
        with anyio.fail_after(60):
            done = await anyio.run_process(line, cwd=node)
        return [json.loads(each) for each in done.stdout.splitlines()]

    return run


async def test_job_of_a_node_producer_runs_here(engine, run):
    """Its name is the function, its data the arguments; the result, progress and logs go back."""
    told = []

    async def produce():
        data, options = {"month": "2026-11"}, {"attempts": 3, "priority": 2}
        told.extend(await run("produce", FUNCTION, json.dumps(data), json.dumps(options)))

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        (claimed,) = await engine.claim(wanted(), wait=30)
        job, held = claimed.job, claimed.claim
        assert (job.id, job.function, json.loads(job.arguments)) == (
            "1",
            FUNCTION,
            {"month": "2026-11"},
        )
        assert (job.options.max_attempts, job.options.priority) == (3, -2)
        assert await engine.progress(held, '{"rows": 7}')
        assert await engine.log(held, [LogLine(datetime.now(UTC), 20, "from Python")])
        assert not (await engine.extend([held], 60.0)).lost
        assert (await engine.finish(held, Complete('{"rows": 8}'))).is_stored
    (added, ended) = told
    assert added == {"id": "1"}
    assert ended["result"] == {"rows": 8}
    assert ended["heard"] == [{"rows": 7}]
    assert [row.rsplit(" ", 2)[-2:] for row in ended["logs"]] == [["from", "Python"]]
    assert ended["state"] == "completed"
    record = await look(engine, "1")
    assert record.state is JobState.COMPLETED
    assert [job.id for job in (await engine.find(Query())).jobs] == ["1"]


async def test_failure_here_reaches_the_node_producer(engine, run):
    """After its last attempt the producer has the error's text."""
    told = []

    async def produce():
        told.extend(await run("produce", FUNCTION, "{}", '{"attempts": 2}'))

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        (claimed,) = await engine.claim(wanted(), wait=30)
        await engine.finish(claimed.claim, Retry(BOOM, 0.01))
        (claimed,) = await engine.claim(wanted(), wait=30)
        assert claimed.job.attempts == 1
        await engine.finish(claimed.claim, Fail(BOOM))
    assert told[-1]["failure"] == BOOM.message
    assert told[-1]["state"] == "failed"


async def test_removal_that_a_node_producer_asks_for_happens(engine, run):
    """`removeOnComplete` holds for jobs that run here, too."""
    told = []

    async def produce():
        told.extend(await run("produce", FUNCTION, "{}", '{"removeOnComplete": true}'))

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        (claimed,) = await engine.claim(wanted(), wait=30)
        assert (await engine.finish(claimed.claim, Complete("1"))).is_stored
    assert told[-1].get("state") is None
    assert await engine.get(["1"]) == (None,)
    assert (await engine.find(Query())).jobs == ()


async def test_our_jobs_run_on_a_node_worker(engine, run):
    """Results, errors, progress, logs and events of a worker on Node are as of ours."""
    data = '{"numbers": [1, 2, 3]}'
    async with engine.events(["one"]) as events:
        short = JobOptions(keep=0.0)
        failing = NewJob("two", FUNCTION, '{"fails": 1}', options=short)
        await engine.put([NewJob("one", FUNCTION, data), failing])
        (seen,) = await run("work", "2")
        kinds = []
        with anyio.fail_after(30):
            async for event in events:
                kinds.append(event.kind)
                if event.kind is EventKind.COMPLETED:
                    break
    assert kinds == [EventKind.WAITING, EventKind.ACTIVE, EventKind.PROGRESS, EventKind.COMPLETED]
    assert [(job["id"], job["name"], job["outcome"]) for job in seen] == [
        ("one", FUNCTION, "completed"),
        ("two", FUNCTION, "failed"),
    ]
    one, two = await look(engine, "one"), await look(engine, "two")
    assert (one.state, json.loads(one.result)) == (JobState.COMPLETED, {"sum": 6})
    assert json.loads(one.progress) == {"percent": 50}
    assert [line.message for line in await engine.logs("one")] == ["from Node"]
    assert (one.attempts, one.starts) == (1, 1)
    assert [attempt.outcome for attempt in one.history] == [AttemptOutcome.COMPLETED]
    assert (two.state, two.error.message) == (JobState.FAILED, "not today")
    assert "not today" in two.error.traceback
    assert await engine.prune() == 1
    assert await engine.get(["two"]) == (None,)


async def test_bull_board_lists_our_jobs(engine, run):
    """In each state, with name, data, progress, result, error and stack trace."""
    later = datetime.now(UTC) + timedelta(hours=1)
    for name, ending in {"job-completed": Complete("1"), "job-failed": Fail(BOOM)}.items():
        await engine.put([new_job(name)])
        await engine.finish(await claim(engine), ending)
    await engine.put([new_job("job-active")])
    await engine.progress(await claim(engine), "0.5")
    await engine.put([new_job("job-unknown", function="shop:new")])
    assert await engine.claim(wanted()) == ()
    await engine.put([new_job("job-waiting"), new_job("job-urgent", priority=1)])
    await engine.put([new_job("job-delayed", due_at=later), new_job("job-cancelled")])
    assert await engine.cancel("job-cancelled") is CancelOutcome.REMOVED
    (found,) = await run("list")
    jobs = {
        state: {job["id"].removeprefix("job-"): job for job in listed}
        for state, listed in found["jobs"].items()
    }
    assert {state: set(listed) for state, listed in jobs.items()} == {
        "waiting": {"waiting"},
        "prioritized": {"urgent", "unknown"},
        "delayed": {"delayed"},
        "active": {"active"},
        "completed": {"completed"},
        "failed": {"failed", "cancelled"},
    }
    assert jobs["active"]["active"]["progress"] == 0.5
    assert jobs["completed"]["completed"]["returnvalue"] == 1
    failed = jobs["failed"]["failed"]
    assert (failed["failedReason"], failed["stacktrace"]) == (BOOM.message, [BOOM.traceback])
    assert jobs["failed"]["cancelled"]["failedReason"] == "cancelled"
    assert jobs["waiting"]["waiting"]["name"] == FUNCTION
    assert jobs["waiting"]["waiting"]["data"] == ["2026-11"]


async def test_the_page_about_node_says_what_works(engine, node, server):
    """Its programs, at this server: enqueued on Node and run here, and the reverse."""
    page = (Path(__file__).parents[2] / "docs" / "howto-node.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"```(?:js|python)\n(?:#|//) (\S+)\n(.*?)```", page, re.DOTALL):
        (node / name).write_text(text.replace("6379", str(server.port)))
    expected = re.findall(r"```text\n(?:\$ .*\n)+(.*)\n```", page)
    (options,) = re.findall(r"offload (worker .*)\n", page)

    async def output_of(*command):
        return (await anyio.run_process(command, cwd=node)).stdout.decode().strip()

    ours = [sys.executable, "-m", "offload", *options.split()]
    async with (
        await anyio.open_process(ours, cwd=node, stderr=None) as python,
        await anyio.open_process([binary("node"), "worker.mjs"], cwd=node) as javascript,
    ):
        try:
            with anyio.fail_after(60):
                told = [
                    await output_of(binary("node"), "producer.mjs"),
                    await output_of(sys.executable, "enqueue.py"),
                ]
        finally:
            python.terminate()
            javascript.terminate()

    assert len(expected) == 2
    assert told == expected

"""`offload jobs`: what it says of jobs is what there is, and what it does is done."""

import json
import socket

import anyio
import pytest

from offload._cli import main
from offload.jobs import JobError, Jobs
from offload.jobs._values import Fail, LogLine
from tests.jobs import job_functions as functions
from tests.jobs.values import claim

NAME = "tests.jobs.job_functions"


@pytest.fixture
def stored(url):
    """Return the ids of a waiting job, a failed one with a log record, and one of queue mail."""

    async def store():
        async with Jobs(url) as jobs:
            failed = await jobs.enqueue(functions.fail, "no\x1b[31m bread")
            engine = await jobs.engine()
            held = await claim(engine, functions=[f"{NAME}:fail"])
            status = await failed.status()
            await engine.log(held, [LogLine(status.created_at, 30, "about to fail")])
            error = JobError("ValueError", "no bread", "Traceback: here")
            await engine.finish(held, Fail(error))
            waiting = await jobs.enqueue(functions.add, 1)
            mail = await jobs.enqueue(functions.plain, "word")
            return waiting.id, failed.id, mail.id

    return anyio.run(store)


@pytest.fixture
def offload(url, capsys):
    """Run the command, and return what it printed."""

    def run(*arguments, code=0):
        assert main(["jobs", "--url", url, *arguments]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def test_list_shows_the_latest_first(offload, stored):
    """`list` has a line for each job, by conditions."""
    waiting, failed, mail = stored
    lines = offload("list").splitlines()
    assert [line.split()[0] for line in lines] == ["ID", mail, waiting, failed]
    assert "ValueError: no bread" in lines[3]
    assert offload("list", "--state", "failed").count("\n") == 2
    assert offload("list", "--queue", "mail", "--function", f"{NAME}:plain").count(mail) == 1
    assert offload("list", "--id", "nothing") == "none\n"
    assert "and more" in offload("list", "--limit", "1", "--oldest")


def test_list_as_json(offload, stored):
    """With --json there is an object for each job."""
    rows = [json.loads(line) for line in offload("--json", "list", "--oldest").splitlines()]
    assert [row["state"] for row in rows] == ["failed", "waiting", "waiting"]
    assert rows[0]["error"]["message"] == "no bread"


def test_show_tells_all(offload, stored):
    """`show` has arguments, attempts, traceback and log records, safe for the terminal."""
    _, failed, _ = stored
    text = offload("show", failed)
    for word in ("Traceback: here", "about to fail", "1 of 1", f"{NAME}:fail", "worker-1"):
        assert word in text
    assert "\x1b" not in text
    assert json.loads(offload("--json", "show", failed))["logs"][0][2] == "about to fail"


def test_beginning_of_an_id_is_enough(offload, stored):
    """An id may be cut, as long as it is of one job."""
    waiting, _, mail = stored
    common = next(n for n in range(36) if waiting[:n] != mail[:n])
    assert waiting in offload("show", waiting[: common + 12])
    assert "more than one job" in offload("show", waiting[:4], code=1)
    assert "no job" in offload("show", "nothing", code=1)


def test_retry_and_cancel(offload, stored):
    """`retry` has a failed job run again, `cancel` cancels it; a second time says so."""
    _, failed, _ = stored
    assert "runs again" in offload("retry", failed)
    assert "had not begun" in offload("cancel", failed)
    assert "had ended already" in offload("cancel", failed)
    assert "cancelled" in offload("list", "--id", failed)


def test_retry_of_what_waits_is_refused(offload, stored):
    """A job that has not failed is not retried, and the reason is told."""
    waiting, _, _ = stored
    assert "waiting" in offload("retry", waiting, code=1)


def test_counts_and_pauses(offload, stored):
    """`counts` counts by queue, function and state, and names paused queues."""
    assert "mail is paused" in offload("pause", "mail")
    text = offload("counts")
    assert f"mail     {NAME}:plain  waiting  1" in text
    assert "paused: mail" in text
    assert "mail is resumed" in offload("resume", "mail")
    assert "paused" not in offload("counts", "--queue", "mail")
    assert json.loads(offload("--json", "counts", "--queue", "mail"))["count"] == 1


def test_port_in_use_is_told(offload):
    """A dashboard whose port is taken is one line, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use" in offload("dashboard", "--port", port, code=1)


def test_wrong_url_is_told(capsys):
    """A URL that cannot be is one line, and no traceback."""
    assert main(["jobs", "--url", "nothing", "list"]) == 1
    assert "names no engine" in capsys.readouterr().err

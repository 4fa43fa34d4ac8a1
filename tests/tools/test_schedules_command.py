"""`offload schedule list|run|pause|resume`: the schedules of an application, from outside."""

import json
import os
import subprocess
import sys

import anyio
import pytest

from offload.jobs import Jobs
from offload.schedules import StoredSchedules
from tests.jobs import job_functions
from tests.support.busy_machine import lines_about_the_test
from tests.support.processes import PATIENCE

APPLICATION = """
from offload import Pool, offload
from offload.jobs import Jobs
from offload.schedules import Scheduler, schedule

pool = Pool("default", os_priority="normal", max_workers=1)
scheduler = Scheduler()
empty = 1

@schedule("0 2 1 * *", timezone="America/Sao_Paulo", name="monthly", args=(4,))
@offload
def square(number: int) -> int:
    return number * number

@schedule("0 3 * * *", name="nightly", jobs=Jobs())
@offload
def clean() -> None:
    pass
"""


@pytest.fixture
def offload_schedule(tmp_path):
    """Run the command in a folder with an application; return its status and what it prints."""
    (tmp_path / "shop.py").write_text(APPLICATION)
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"

    def run(*arguments, jobs=url):
        environment = {k: v for k, v in os.environ.items() if k != "OFFLOAD_JOBS"}
        environment |= {"OFFLOAD_JOBS": jobs} if jobs else {}
        done = subprocess.run(
            [sys.executable, "-m", "offload", "schedule", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout, lines_about_the_test(done.stderr)

    run.url = url
    return run


def test_pause_and_run_are_seen_in_the_list(offload_schedule):
    """What one command has done, the list of another process shows."""
    assert offload_schedule("pause", "shop", "monthly") == (0, "", "")
    status, job, _ = offload_schedule("run", "shop", "nightly")
    assert status == 0
    assert job.startswith("nightly@")
    status, out, _ = offload_schedule("list", "shop", "--json")

    monthly, nightly = map(json.loads, out.splitlines())
    assert (monthly["name"], monthly["paused"], monthly["next"]) == ("monthly", True, None)
    assert monthly["runs"] == "in memory"
    assert (nightly["name"], nightly["paused"], nightly["runs"]) == ("nightly", False, "as jobs")
    assert nightly["next"].endswith("T03:00:00+00:00")

    assert offload_schedule("resume", "shop", "monthly") == (0, "", "")
    status, out, _ = offload_schedule("list", "shop")
    heading, monthly, _ = out.splitlines()
    assert heading.split() == ["NAME", "FIRE", "TIMES", "RUNS", "NEXT", "LAST"]
    assert "-01T02:00:00-03:00" in monthly


def test_schedules_made_at_run_time_are_listed(offload_schedule):
    """The list has what the engine keeps beside what the module declares; it can be paused."""

    async def put():
        async with Jobs(offload_schedule.url) as jobs:
            await StoredSchedules(jobs).put("made", "@hourly", job_functions.add, args=(1,))

    anyio.run(put)
    assert offload_schedule("pause", "shop", "made")[0] == 0
    _, out, _ = offload_schedule("list", "shop")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "made", "monthly", "nightly"]
    assert "paused" in out


def test_run_gives_the_result(offload_schedule):
    """A schedule that runs in memory runs in the command, and its result is printed."""
    assert offload_schedule("run", "shop", "monthly") == (0, "16\n", "")


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["pause", "shop", "monthly"], 1, "no engine keeps monthly"),
        (["run", "shop", "other"], 1, "there is no schedule 'other' here"),
        (["list", "shop:empty"], 2, "shop:empty is 1, not offload.schedules.Scheduler"),
        (["list", "nowhere"], 2, "there is no module 'nowhere' here"),
    ],
)
def test_mistakes_are_told(offload_schedule, arguments, status, text):
    """What cannot be done is said in a sentence, with an exit status."""
    found, out, error = offload_schedule(*arguments, jobs=None)
    assert (found, out) == (status, "")
    assert text in error


def test_history_lists_runs_that_any_process_enqueued(offload_schedule):
    """Of a schedule with jobs the last runs, the latest first; of one in memory, none."""
    ids = [offload_schedule("run", "shop", "nightly")[1].strip() for _ in range(2)]
    status, out, _ = offload_schedule("history", "shop", "nightly", "--json")
    shown = offload_schedule("history", "shop", "nightly", "-n", "1")[1].splitlines()
    nothing = offload_schedule("history", "shop", "monthly")[1].splitlines()
    refused = offload_schedule("history", "shop", "nightly", "-n", "0")

    assert status == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids[::-1]
    assert len(shown) == 2
    assert "manual" in shown[1]
    assert len(nothing) == 1
    assert refused[0] == 1
    assert "count must be" in refused[2]

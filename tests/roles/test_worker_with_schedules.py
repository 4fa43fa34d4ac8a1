"""`offload worker … --scheduler …`: one program that runs jobs and fires schedules."""

import time

import pytest

from tests.jobs.programs import Program
from tests.support.processes import PATIENCE

APPLICATION = """
import os, time
from offload import Pool, offload
from offload.jobs import Jobs, job_options
from offload.schedules import Every, schedule

pool = Pool("default", os_priority="normal", max_workers=2)
jobs = Jobs()

def note(name):
    with open(os.path.join(os.environ["FOLDER"], name), "a") as file:
        file.write("x")

@schedule(Every(0.2), name="as jobs", jobs=jobs)
@offload
def stored():
    note("stored")

@schedule(Every(0.2), name="in memory", overlap="skip")
@offload
def here():
    note("begun")
    time.sleep(1.0)
    note("ended")
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Start one with the application of these tests."""
    (tmp_path / "both.py").write_text(APPLICATION)
    monkeypatch.setenv("FOLDER", str(tmp_path))
    started = []

    def start(*arguments):
        url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
        more = ("--app-dir", str(tmp_path), *arguments)
        started.append(Program(url, *more, module="both:jobs"))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.end()
        each.process.stderr.close()


def written(tmp_path, name):
    """Return how often something was noted."""
    path = tmp_path / name
    return len(path.read_text()) if path.exists() else 0


def eventually(condition):
    """Wait for what other processes write down."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_fires_and_runs_and_ends_what_it_has_begun(program, tmp_path):
    """Fires as jobs and in memory run; at SIGTERM what runs in memory has time to end."""
    both = program("--scheduler", "both")
    both.says("scheduler: schedules 2")
    eventually(lambda: written(tmp_path, "stored") >= 2)
    before = written(tmp_path, "begun")
    eventually(lambda: written(tmp_path, "begun") > before)
    both.process.terminate()

    assert both.end() == 0, both.text
    assert written(tmp_path, "ended") == written(tmp_path, "begun")


def test_without_it_nothing_fires(program, tmp_path):
    """A worker program fires no schedules unless it is told to."""
    plain = program("--burst")

    assert plain.end() == 0
    assert written(tmp_path, "begun") == written(tmp_path, "stored") == 0


def test_burst_and_schedules_exclude_each_other(program):
    """What ends when there is nothing to do never ends with schedules: it is refused."""
    refused = program("--burst", "--scheduler", "both")

    assert refused.end() == 2
    assert "no --burst" in refused.text

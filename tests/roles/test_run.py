"""`offload run`: one process for each role of a code base, which end together."""

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from offload._cli.code_base import FRAMEWORKS
from tests.roles.runs import APP, JOBS, SCHEDULES, Runs
from tests.support.processes import descendants, gone_now, is_alive

ANY_PORT = ("--port", "0")
TWO = ("--role", "web,worker", *ANY_PORT)
# Within a second, by the guarantee; and as much again for a machine that is busy.
GONE_SECONDS = 2.0


@pytest.fixture
def url(tmp_path):
    """Return where the jobs of a test are."""
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal"


@pytest.fixture
def start(url):
    """Start `offload run`, with jobs of the test's own."""
    with Runs(url) as runs:
        yield runs


class TestAll:
    def test_everything_runs_and_ends_together(self, start):
        """One command answers requests and runs jobs; Ctrl+C ends all of it, in order."""
        run = start(APP, *JOBS, *TWO).ready("web", "worker")
        assert run.get("/")["role"] == "web"
        assert run.get("/job") == {"sum": 3}
        everyone = run.everyone()
        run.ctrl_c()
        assert run.end() == 0
        assert gone_now(*everyone, seconds=GONE_SECONDS) == []
        assert "Traceback" not in run.text

    def test_lines_have_the_name_of_their_program(self, start):
        """Whose line it is stands before it; what a program does not start it says once."""
        run = start(APP, *JOBS, *TWO).ready("web", "worker")
        run.get("/write")
        run.says(r"^web    \| to standard error$").says(r"^web    \| to standard output$")
        run.signal(signal.SIGTERM)
        assert run.end() == 0
        assert run.output == ["web    | to standard output\n"]
        assert {line[:9] for line in run.lines} == {"web    | ", "worker | "}
        assert run.text.count("not started here") == 1
        assert "role web: not started here: running of jobs" in run.text

    def test_nothing_is_left_when_it_is_killed(self, start):
        """SIGKILL of the one process that everybody knows takes all others with it."""
        run = start(APP, *JOBS, *TWO).ready("web", "worker")
        assert run.get("/job") == {"sum": 3}
        everyone = run.everyone()
        assert len(everyone) >= 7  # with a supervisor and a worker process of each program
        run.signal(signal.SIGKILL)
        run.end()
        assert gone_now(*everyone, seconds=GONE_SECONDS) == []

    def test_crash_costs_one_role(self, start):
        """A program that dies is started again, alone: the web does not notice."""
        run = start(APP, *JOBS, *TWO).ready("web", "worker")
        web, worker = run.program("web"), run.program("worker")
        worker.kill()
        run.says(r"^run    \| worker was killed by SIGKILL, and is started again in 1 s$")
        assert run.get("/")["pid"] == web.pid
        assert run.get("/job") == {"sum": 3}
        assert run.program("worker").pid != worker.pid
        # Neither is a port lost, nor a request: who asks meanwhile is answered later.
        web.kill()
        run.says(r"web was killed")
        assert run.get("/")["pid"] != web.pid
        run.signal(signal.SIGTERM)
        assert run.end() == 0

    def test_start_that_fails_ends_all(self, start, tmp_path):
        """With the status of what failed, and nothing left."""
        run = start(APP, "--jobs", "tests.roles.nothing:jobs", *TWO)
        assert run.end() == 2
        run.says(r"^worker \| offload run: there is no module 'tests.roles.nothing'")
        run.says(r"^run    \| worker ended with status 2 before it was ready: all end$")

    def test_program_with_nothing_to_do_ends_alone(self, start, url):
        """A code base without schedules needs no scheduler; the rest goes on."""
        elsewhere = {"OFFLOAD_JOBS": "", "ROLES_JOBS": url}
        run = start("tests.roles.one_module:app", *ANY_PORT, **elsewhere).ready("web", "worker")
        run.says(r"^run       \| there is nothing for scheduler to do$")
        run.signal(signal.SIGTERM)
        assert run.end() == 0

    @pytest.mark.parametrize("role", ["", "web,worker"])
    def test_variable_and_option_decide_alike(self, start, role):
        """All by default; OFFLOAD_ROLE says what a deployment is, --role goes before it."""
        run = start("--role", "worker", APP, *JOBS, OFFLOAD_ROLE=role).says("worker program")
        run.signal(signal.SIGTERM)
        assert run.end() == 0
        assert " | " not in run.text


class TestEnds:
    @pytest.mark.parametrize("count,drain,status", [(1, "0.2", 0), (2, "600", 0), (1, "600", 1)])
    def test_what_does_not_end(  # noqa: PLR0917 - fixtures
        self, start, tmp_path, held, entered, count, drain, status
    ):
        """Jobs are handed back after the drain, at a second signal, or killed after a while."""
        kill_after = "600" if status == 0 else "1"
        arguments = ("--drain", drain, "--kill-after", kill_after, *TWO)
        run = start(APP, *JOBS, *arguments, ROLES_HELD=json.dumps(held)).ready("web", "worker")
        pid = entered.heard_now()
        everyone = run.everyone()
        assert pid in everyone
        for _ in range(count):
            run.ctrl_c()
            run.says("draining: 1 attempts")
        assert run.end() == status
        assert gone_now(*everyone, seconds=GONE_SECONDS) == []
        assert ("killed" in run.text) is (status == 1)

    def test_reader_that_leaves_ends_it(self, start):
        """As `offload run … | head` does: nothing runs on unseen."""
        reader, writer = os.pipe()
        run = start(APP, *JOBS, *TWO, stdout=writer).ready("web", "worker")
        os.close(writer)
        os.close(reader)
        run.get("/write")
        assert run.end() == 0


class TestWeb:
    def test_several_processes_share_the_port(self, start):
        """They answer on one port, know how many they are, and one's death is not all's."""
        run = start(APP, "--role", "web", "--workers", "2", *ANY_PORT).ready("web.1", "web.2")
        answer = run.get("/")
        assert answer["where"] == ["web", "2"]
        psutil.Process(answer["pid"]).kill()
        run.says(r"^run   \| web\.[12] was killed")
        assert run.get("/")["pid"] != answer["pid"]
        run.signal(signal.SIGTERM)
        assert run.end() == 0

    def test_one_role_is_one_process(self, start):
        """What a process manager starts is the program itself, which ends in order."""
        run = start(APP, "--role", "web", *ANY_PORT).says("serving http")
        assert run.get("/")["pid"] == run.pid
        assert run.get("/")["where"] == ["web", ""]
        everyone = run.everyone()
        run.signal(signal.SIGTERM)
        assert run.end() == 0
        assert gone_now(*everyone, seconds=GONE_SECONDS) == []
        assert " | " not in run.text

    def test_without_uvicorn_it_is_told(self, start, tmp_path):
        """The error says what to install."""
        (tmp_path / "uvicorn.py").write_text(
            "raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')"
        )
        run = start(APP, "--role", "web", PYTHONPATH=str(tmp_path))
        assert run.end() == 2
        assert "pip install 'offload[web]'" in run.text
        assert "Traceback" not in run.text


def start_seconds(start, folder, *arguments):
    """Return what a role computes until it does what it is for, and have it end in order.

    That of a process, since it holds on a busy machine as well; and of the second start, where the
    first one had to compile what it imports.
    """
    seconds = 0.0
    for _ in range(2):
        environment = {"PYTHONDONTWRITEBYTECODE": "", "ROLES_FOLDER": str(folder)}
        run = start(APP, *arguments, **environment)
        run.says(r"worker program .* functions \d|scheduler: schedules 2")
        seconds = run.cpu_seconds()
        run.signal(signal.SIGTERM)
        assert run.end() == 0
        if seconds < 1.0:
            break
    return seconds


class TestWorker:
    def test_starts_fast_without_the_web(self, start, tmp_path):
        """Under a second of CPU until it runs jobs, with no web framework, though there is one."""
        assert start_seconds(start, tmp_path, *JOBS, "--role", "worker") < 1.0
        imported = json.loads(Path(tmp_path, "worker").read_text())
        assert "tests.roles.tasks" in imported
        assert not {*FRAMEWORKS, "tests.roles.app"}.intersection(imported)

    def test_what_it_imports_for_nothing_is_told(self, start):
        """Given the application alone, it runs, and says what to name instead."""
        run = start(APP, "--role", "worker").says("worker program")
        run.says(r"importing tests\.roles\.app took .* s and brought starlette.*, which this role")
        run.says(r"--jobs tests\.roles\.tasks:jobs would not")
        run.signal(signal.SIGTERM)
        assert run.end() == 0

    def test_how_to_split_is_told(self, start):
        """Where functions and application are in one module, there is nothing else to name yet."""
        run = start("tests.roles.one_module:app", "--role", "worker").says("worker program")
        run.says("move the functions to a module .*: --jobs tasks")
        run.signal(signal.SIGTERM)
        assert run.end() == 0


class TestScheduler:
    def test_schedules_fire_where_they_should(self, start, entered, gate):
        """A fire that is a job runs in the worker, another one in the scheduler."""
        fifos = {"ROLES_JOBS_FIFO": entered.path, "ROLES_MEMORY_FIFO": gate.path}
        run = start(APP, "--jobs", "tests.roles.timetable", *SCHEDULES, *ANY_PORT, **fifos)
        run.ready("web", "worker", "scheduler")
        assert entered.heard_now() in descendants(run.program("worker").pid)
        assert gate.heard_now() in descendants(run.program("scheduler").pid)
        everyone = run.everyone()
        run.ctrl_c()
        assert run.end() == 0
        assert gone_now(*everyone, seconds=GONE_SECONDS) == []

    def test_starts_fast_without_the_web(self, start, tmp_path):
        """As the worker: under a second of CPU until it fires, with no web framework."""
        assert start_seconds(start, tmp_path, *SCHEDULES, "--role", "scheduler") < 1.0
        imported = json.loads(Path(tmp_path, "scheduler").read_text())
        assert "tests.roles.timetable" in imported
        assert not {*FRAMEWORKS, "tests.roles.app"}.intersection(imported)

    @pytest.mark.parametrize("count", [1, 2])
    def test_what_runs_in_memory_has_the_drain(self, start, entered, gate, count):
        """It may end; a second signal stops it."""
        held = {"ROLES_HELD": json.dumps([entered.path, gate.path])}
        run = start("tests.roles.held:app", "--role", "scheduler", **held)
        pid = entered.heard_now()
        for number in range(count):
            run.signal(signal.SIGINT)
            run.says("fires no more")
            if number + 1 == count == 1:
                gate.let()
        assert run.end() == 0
        assert gone_now(pid, seconds=GONE_SECONDS) == []


WRONG = [
    (
        [APP, "--role", "wrker"],
        "there is no role 'wrker': choose of web, worker, scheduler, or all",
    ),
    (["--role", "scheduler"], "the role scheduler needs --scheduler MODULE"),
    (["--role", "web"], "the role web needs an application"),
    (["--role", "worker"], "the role worker needs --jobs"),
    (["tests.roles.app", "--role", "web"], "not of the form module:name"),
    (["tests.roles.app:nothing", "--role", "web"], "has no 'nothing'"),
    (["tests.roles.runs:APP", "--role", "worker"], "there is no function to run"),
    ([APP, "--role", "web", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1:8000"),
    ([APP, "--log-level", "loud"], "no log level 'loud'"),
]


@pytest.mark.parametrize("arguments,text", WRONG, ids=[text for _, text in WRONG])
def test_wrong_usage_is_told(start, arguments, text):
    """What cannot work ends at once, with one line that says why."""
    run = start(*arguments)
    assert run.end() in (1, 2)
    assert text in run.text
    assert "Traceback" not in run.text


def test_scheduler_without_schedules_is_told(start):
    """Neither declared, nor kept by an engine: there is nothing to wait for."""
    run = start("tests.roles.runs", "--role", "scheduler", OFFLOAD_JOBS="")
    assert run.end() == 2
    assert "there is no schedule to fire" in run.text


def test_wrong_variable_is_told(start):
    """Whoever set it must know."""
    run = start(APP, OFFLOAD_ROLE="wbe")
    assert run.end() == 2
    assert "OFFLOAD_ROLE: there is no role 'wbe'" in run.text


def test_port_that_is_taken_is_told_before_anything_starts(start):
    """Not by one program of several, after the others have begun."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        run = start(APP, *JOBS, "--port", str(port))
        assert run.end() == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in run.text
    assert " | " not in run.text
    assert not is_alive(run.pid)


def test_child_of_a_parent_that_is_gone_does_not_start(start):
    """It was killed before it could take its child with it: process 1 has that now."""
    run = start(APP, "--role", "web", "--child", "1:99:")
    assert run.end() == 1
    assert not run.text

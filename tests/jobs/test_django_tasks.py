"""Django's tasks: a project whose settings name the backend, and a worker program beside it."""

import json
import os
import subprocess
import sys

import pytest

from tests.jobs.programs import ROOT, Program
from tests.support.processes import PATIENCE

django = pytest.importorskip("django")
if django.VERSION < (6,):
    pytest.skip("django.tasks came with Django 6", allow_module_level=True)

# A program of the project: it waits for results as Django has them, by looking again.
CLIENT = """
import asyncio, json, sys, time
import django
django.setup()
from datetime import timedelta
from django.tasks import TaskResultStatus, default_task_backend, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist, TaskResultMismatch
from django.tasks.signals import task_enqueued
from django.utils import timezone
from tests.jobs.django_site.shop import tasks

def ended(result):
    end = time.monotonic() + 60
    while not result.is_finished:
        assert time.monotonic() < end, result
        time.sleep(0.02)
        result.refresh()
    return result

def told(result):
    return {
        "status": str(result.status.value),
        "value": result._return_value,
        "attempts": result.attempts,
        "errors": [each.exception_class.__name__ for each in result.errors],
    }

def raised(kind, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except kind as error:
        return type(error).__name__
    raise AssertionError("nothing was raised")

out = {}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return the environment of the project's programs."""
    path = tmp_path_factory.mktemp("django") / "jobs.sqlite3"
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.jobs.django_site.settings",
        "OFFLOAD_JOBS": f"sqlite:///{path}?synchronous=normal",
    }


@pytest.fixture(scope="module")
def client(environment):
    """Run code in a program of the project, and return its `out`."""

    def run(code):
        done = subprocess.run(
            [sys.executable, "-c", f"{CLIENT}\n{code}\nprint(json.dumps(out))"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def worker(environment):
    """Start the worker program of the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SETTINGS_MODULE", environment["DJANGO_SETTINGS_MODULE"])
        program = Program(environment["OFFLOAD_JOBS"], module="offload.django.worker:jobs")
    try:
        yield program.says("worker program")
    finally:
        program.process.terminate()
        code = program.end()
        program.process.stderr.close()
    assert code == 0, program.text


def test_tasks_run_in_a_worker_program(client, worker):
    """What is enqueued here runs there: results, queues, contexts, retries, errors."""
    out = client(
        """
enqueued = []
task_enqueued.connect(lambda task_result, **_: enqueued.append(task_result.id), weak=False)
results = {
    "total": tasks.total.enqueue(1, 2, scale=10),
    "mail": tasks.send_mail.enqueue(to=("a", "b"), subject="hello"),
    "once": tasks.fails_once.enqueue("try"),
    "fails": tasks.fails.enqueue(),
    "no_json": tasks.has_no_json.enqueue(),
    "async": asyncio.run(tasks.total.aenqueue(5)),
}
out["enqueued"] = enqueued == [each.id for each in results.values()]
out["first"] = str(results["total"].status.value)
out |= {name: told(ended(each)) for name, each in results.items()}
once = results["once"]
out["context"] = once.return_value == [2, once.id]
out["workers"] = all(once.worker_ids)
mail = tasks.send_mail.get_result(results["mail"].id)
out["again"] = [mail.task.priority, mail.task.queue_name, mail.kwargs, mail.return_value]
times = [mail.enqueued_at, mail.started_at, mail.finished_at]
out["times"] = times == sorted(times)
out["trace"] = "again and again" in results["fails"].errors[0].traceback
"""
    )
    assert out["enqueued"]
    assert out["first"] == "READY"
    good = {"status": "SUCCESSFUL", "attempts": 1, "errors": []}
    assert out["total"] == good | {"value": {"total": 30}}
    assert out["async"] == good | {"value": {"total": 5}}
    assert out["mail"] == good | {"value": ["hello to a", "hello to b"]}
    assert (out["once"]["status"], out["once"]["attempts"]) == ("SUCCESSFUL", 2)
    assert out["once"]["errors"] == ["LookupError"]
    assert out["context"]
    assert out["workers"]
    assert out["fails"] == {
        "status": "FAILED",
        "value": None,
        "attempts": 2,
        "errors": ["ZeroDivisionError"] * 2,
    }
    assert out["no_json"]["status"] == "FAILED"
    assert out["no_json"]["errors"] == ["TypeError"] * 2
    assert out["again"] == [
        5,
        "mail",
        {"to": ["a", "b"], "subject": "hello"},
        ["hello to a", "hello to b"],
    ]
    assert out["times"]
    assert out["trace"]


def test_what_a_task_logs_is_logged_once(client, worker):
    """One log, that of the worker program: its process adds nothing, nor does Django's console."""
    told_id = client('out["id"] = ended(tasks.total.enqueue(1)).id')["id"]
    worker.says(f"Task id={told_id} path=tests.jobs.django_site.shop.tasks.total state=SUCCESSFUL")
    # What came later is there, and with it all that there is of the earlier one.
    last_id = client('out["id"] = ended(tasks.total.enqueue(2)).id')["id"]
    worker.says(f"Task id={last_id} path=tests.jobs.django_site.shop.tasks.total state=SUCCESSFUL")
    assert worker.text.count(f"{told_id} path=tests.jobs.django_site.shop.tasks.total") == 2


def test_what_waits_and_what_is_refused(client):
    """A task that is not due waits as it was enqueued; what cannot run is refused."""
    out = client(
        """
later = timezone.now() + timedelta(hours=1)
delayed = tasks.total.using(run_after=later, priority=-7).enqueue(1)
found = default_task_backend.get_result(delayed.id)
out["delayed"] = [str(found.status.value), found.task.run_after == later, found.task.priority]
out["none"] = raised(TaskResultDoesNotExist, default_task_backend.get_result, "nobody")
out["async"] = raised(
    TaskResultDoesNotExist, asyncio.run, default_task_backend.aget_result("nobody")
)
out["other"] = raised(TaskResultMismatch, tasks.fails.get_result, delayed.id)
out["queue"] = raised(InvalidTask, tasks.total.using, queue_name="nowhere")
out["argument"] = raised(TypeError, tasks.total.enqueue, {1, 2})

async def compute():
    pass

from django.tasks import task
compute.__module__ = "tests.jobs.django_site.shop.tasks"
out["coroutine"] = raised(InvalidTask, task, compute)
"""
    )
    assert out == {
        "delayed": ["READY", True, -7],
        "none": "TaskResultDoesNotExist",
        "async": "TaskResultDoesNotExist",
        "other": "TaskResultMismatch",
        "queue": "InvalidTask",
        "argument": "TypeError",
        "coroutine": "InvalidTask",
    }


def test_result_of_another_program_is_found(client, worker):
    """A program that has not imported a task's module yet finds the applications' own."""
    (job_id,) = client("out = [tasks.total.enqueue(4).id]")
    out = client(
        f"""
sys.modules.pop(tasks.__name__)
out = told(ended(default_task_backend.get_result("{job_id}")))
"""
    )
    assert out["value"] == {"total": 4}

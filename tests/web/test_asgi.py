"""`offload.asgi`: what applications of any framework use."""

import json
import logging
import subprocess
import sys

import pytest

from offload import errors
from offload.asgi import answer_to
from offload.errors import (
    ArgumentError,
    ClientDisconnectedError,
    DeadlineError,
    OffloadError,
    PoolClosedError,
    QueueFullError,
    TaskKilledError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from offload.jobs import (
    JobArgumentError,
    JobConflictError,
    JobNotFoundError,
    JobQueueFullError,
    JobsUnavailableError,
    JobTimeoutError,
)
from offload.jobs import _codec_errors as codec_errors
from offload.jobs import _errors as job_errors
from offload.schedules import NotFiredError
from offload.schedules import _errors as schedule_errors

CASES = [
    (QueueFullError("secret", retry_after=2.2), 503, {"Retry-After": "3"}, False, logging.INFO),
    (QueueFullError("secret", retry_after=1e9), 503, {"Retry-After": "3600"}, False, logging.INFO),
    (PoolClosedError("secret", may_have_run=True), 503, {"Retry-After": "1"}, True, logging.INFO),
    (TaskTimeoutError("secret", timeout=1.0), 504, {}, True, logging.WARNING),
    (DeadlineError("secret", deadline=1.0, may_have_run=False), 504, {}, False, logging.INFO),
    (
        ClientDisconnectedError("secret", function="f", may_have_run=True),
        499,
        {},
        True,
        logging.INFO,
    ),
    (WorkerCrashedError("secret", pid=1, may_have_run=True), 500, {}, True, logging.ERROR),
    (ArgumentError("secret", function="f"), 500, {}, False, logging.ERROR),
    (OffloadError("secret"), 500, {}, True, logging.ERROR),
    (
        JobQueueFullError("secret", queue="q", limit=1),
        503,
        {"Retry-After": "1"},
        False,
        logging.INFO,
    ),
    (JobsUnavailableError("secret", location="l"), 503, {"Retry-After": "1"}, False, logging.ERROR),
    (
        JobsUnavailableError("secret", location="l", may_have_happened=True),
        503,
        {"Retry-After": "1"},
        True,
        logging.ERROR,
    ),
    (JobNotFoundError("secret", job_id="1"), 404, {}, True, logging.INFO),
    (JobConflictError("secret", job_id="1", state="active"), 409, {}, True, logging.INFO),
    (JobTimeoutError("secret", job_id="1", timeout=1.0), 504, {}, True, logging.INFO),
    (JobArgumentError("secret"), 500, {}, False, logging.ERROR),
    (NotFiredError("secret", schedule="s"), 503, {"Retry-After": "1"}, False, logging.INFO),
]


@pytest.mark.parametrize("error,status,headers,may_have_run,level", CASES)
def test_answer_says_what_the_client_may_do(error, status, headers, may_have_run, level):
    """Status, when to come back, and whether the work may have been done; nothing else."""
    answer = answer_to(error)
    assert (answer.status, answer.headers, answer.level) == (status, headers, level)
    problem = json.loads(answer.body)
    assert problem["may_have_run"] is may_have_run
    assert (problem["status"], problem["error"]) == (status, type(error).__name__)
    assert problem["title"]
    assert b"secret" not in answer.body


def test_every_error_has_an_answer():
    """An error of ours that nobody thought of here is a 500, never a failure to answer."""
    kinds = [
        kind
        for module in (errors, job_errors, codec_errors, schedule_errors)
        for kind in map(module.__dict__.get, module.__all__)
        if issubclass(kind, OffloadError)
    ]
    assert len(kinds) > 20
    for kind in kinds:
        error = kind.__new__(kind, "text")
        assert answer_to(error).status in {404, 409, 499, 500, 503, 504}


FULL = QueueFullError("secret", retry_after=2.0)
FULLER = QueueFullError("secret", retry_after=7.5)
BROKEN_START = WorkerStartError("secret")
LATE = TaskTimeoutError("secret", timeout=1.0)
NOT_BEGUN = DeadlineError("secret", deadline=1.0, may_have_run=False)
CANCELLED = TaskKilledError("secret", pid=1)
CRASHED = WorkerCrashedError("secret", pid=1, may_have_run=True)
REFUSED = ArgumentError("secret", function="f")
LEFT = ClientDisconnectedError("secret", function="f", may_have_run=False)
GROUPS = [
    ([FULL], "QueueFullError", 503, "2", False, logging.INFO),
    ([FULL, FULLER, FULL], "QueueFullError", 503, "8", False, logging.INFO),
    ([FULLER, BROKEN_START], "WorkerStartError", 503, "8", False, logging.ERROR),
    ([FULL, NOT_BEGUN], "DeadlineError", 504, None, False, logging.INFO),
    ([NOT_BEGUN, BROKEN_START], "DeadlineError", 504, None, False, logging.ERROR),
    ([FULL, NOT_BEGUN, LATE], "TaskTimeoutError", 504, None, True, logging.WARNING),
    ([FULL, LATE, REFUSED], "ArgumentError", 500, None, True, logging.ERROR),
    ([CANCELLED, CRASHED], "WorkerCrashedError", 500, None, True, logging.ERROR),
    ([REFUSED, CRASHED], "ArgumentError", 500, None, True, logging.ERROR),
    (
        [FULL, ExceptionGroup("", [FULL, ExceptionGroup("", [LATE])])],
        "TaskTimeoutError",
        504,
        None,
        True,
        logging.WARNING,
    ),
    ([CRASHED, FULL, LEFT], "ClientDisconnectedError", 499, None, True, logging.ERROR),
    ([LEFT, LEFT], "ClientDisconnectedError", 499, None, False, logging.INFO),
]


@pytest.mark.parametrize("errors,decisive,status,retry_after,may_have_run,level", GROUPS)
def test_group_has_one_answer(errors, decisive, status, retry_after, may_have_run, level):  # noqa: PLR0917 - a row
    """One that left, else the worst decides; and nothing that any of them says is played down."""
    answer = answer_to(ExceptionGroup("secret", errors))
    assert (answer.error, answer.status, answer.level) == (decisive, status, level)
    assert answer.headers.get("Retry-After") == retry_after
    assert answer.may_have_run is may_have_run
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError(),
        ExceptionGroup("", [FULL, ZeroDivisionError()]),
        ExceptionGroup("", [FULL, ExceptionGroup("", [LATE, ZeroDivisionError()])]),
        ExceptionGroup("", [ZeroDivisionError(), CRASHED]),
    ],
)
def test_error_that_is_not_ours_has_no_answer(error):
    """One error of the application in a group makes it the application's business."""
    assert answer_to(error) is None


def test_answer_names_our_class_and_not_the_applications():
    """A subclass of the application is its own affair."""

    class ReportTooLargeForCustomerError(OffloadError):
        pass

    assert answer_to(ReportTooLargeForCustomerError("text")).error == "OffloadError"


def test_needs_no_framework():
    """Who has another framework does not need Starlette for it."""
    code = "import sys, offload.asgi; print('starlette' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "False"

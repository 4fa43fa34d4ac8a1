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
    TaskTimeoutError,
    WorkerCrashedError,
)

CASES = [
    (QueueFullError("secret", retry_after=2.2), 503, {"Retry-After": "3"}, False, logging.INFO),
    (QueueFullError("secret", retry_after=1e9), 503, {"Retry-After": "3600"}, False, logging.INFO),
    (PoolClosedError("secret", started=True), 503, {"Retry-After": "1"}, True, logging.INFO),
    (TaskTimeoutError("secret", timeout=1.0), 504, {}, True, logging.WARNING),
    (DeadlineError("secret", deadline=1.0, started=False), 504, {}, False, logging.INFO),
    (ClientDisconnectedError("secret", function="f", started=True), 499, {}, True, logging.INFO),
    (WorkerCrashedError("secret", pid=1, started=True), 500, {}, True, logging.ERROR),
    (ArgumentError("secret", function="f"), 500, {}, False, logging.ERROR),
    (OffloadError("secret"), 500, {}, True, logging.ERROR),
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
        kind for kind in map(errors.__dict__.get, errors.__all__) if issubclass(kind, OffloadError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind.__new__(kind, "text")
        assert answer_to(error).status in {499, 500, 503, 504}


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

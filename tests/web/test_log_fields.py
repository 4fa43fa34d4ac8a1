"""Log records of `offload.*` carry what they are about as fields, for programs that read logs."""

import logging
import os
import signal

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from offload import ArgumentError, Pool, QueueFullError, WorkerCrashedError
from offload._asgi.log_fields import log_fields
from offload._values.call_record import CallRecord
from offload.errors import ClientDisconnectedError
from offload.starlette import exception_handlers
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.functions import untraced as untraced_functions
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio
FIELDS = ("offload_pool", "offload_function", "offload_pid", "offload_outcome", "offload_status")


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio alone: the records do not depend on the event loop."""
    return "asyncio"


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return our fields of a record."""
    return {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}


CRASH = WorkerCrashedError("it died", pid=7, signal=9)
ARGUMENT = ArgumentError("cannot", function="work:f", parameter="x")
FULL = QueueFullError("full", retry_after=1.0)
LEFT = ClientDisconnectedError("left", function="work:f", may_have_run=True)


@pytest.mark.parametrize(
    "error,status,expected",
    [
        (CRASH, 500, {"offload_outcome": "crashed", "offload_pid": 7}),
        (FULL, 503, {"offload_outcome": "refused"}),
        (ARGUMENT, 500, {"offload_outcome": "failed", "offload_function": "work:f"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_that_became_responses(
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    expected: dict[str, object],
) -> None:
    """What a client was answered is logged with outcome, function, worker and status."""

    async def endpoint(request: object) -> None:
        raise error

    app = Starlette(routes=[Route("/x", endpoint)], exception_handlers=exception_handlers)
    with caplog.at_level(logging.INFO, "offload"), TestClient(app) as client:
        assert client.get("/x").status_code == status
    (record,) = [each for each in caplog.records if each.name == "offload.starlette"]
    assert fields(record) == expected | {"offload_status": status}


@pytest.mark.parametrize(
    "error",
    [LEFT, BaseExceptionGroup("several", [LEFT, LEFT]), RuntimeError("response started")],
    ids=lambda value: type(value).__name__,
)
def test_clients_that_left(error: BaseException) -> None:
    """In whatever the error was wrapped, the record is about the call that was cancelled."""
    if isinstance(error, RuntimeError):
        error.__cause__ = LEFT
    assert log_fields(error) == {"offload_outcome": "cancelled", "offload_function": "work:f"}


async def test_records_of_workers(caplog: pytest.LogCaptureFixture) -> None:
    """What a function logs in a worker arrives with its name and the worker's process id."""
    async with Pool("logging", max_workers=1, os_priority="normal") as pool:
        with caplog.at_level(logging.INFO):
            pid = await pool.run(untraced_functions.warn)
        await pool.run(functions.echo, 1)
    inside.forget("logging")
    (record,) = [each for each in caplog.records if each.name == "of the user"]
    assert fields(record) == {
        "offload_function": "tests.support.functions.untraced:warn",
        "offload_pid": pid,
    }


async def test_workers_that_ended(caplog: pytest.LogCaptureFixture) -> None:
    """An idle worker that ended is told with its pool and process id."""
    async with Pool("ending", max_workers=1, spare_workers=0, os_priority="normal") as pool:
        pid = await pool.run(functions.pid)
        with caplog.at_level(logging.WARNING, "offload"):
            os.kill(pid, signal.SIGKILL)
            with anyio.fail_after(PATIENCE):
                while not caplog.records:  # noqa: ASYNC110 - no event tells of a log record
                    await anyio.sleep(0.01)
    inside.forget("ending")
    (record,) = caplog.records
    assert fields(record) == {"offload_pool": "ending", "offload_pid": pid}


async def test_observers_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """An observer that fails is told with the pool and the function of the call."""

    class Broken:
        def submitted(self, call: CallRecord) -> None:
            raise RuntimeError

        def ended(self, call: CallRecord) -> None:
            pass

    async with Pool("observed", max_workers=1, os_priority="normal") as pool:
        pool.observe(Broken())
        with caplog.at_level(logging.ERROR, "offload"):
            await pool.run(functions.echo, 1)
    inside.forget("observed")
    (record,) = [each for each in caplog.records if each.name == "offload.pool"]
    assert fields(record) == {
        "offload_pool": "observed",
        "offload_function": "tests.support.functions.pool:echo",
    }

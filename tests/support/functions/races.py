"""What workers run for the tests of races: tasks that fork, that fail twice, that log too late."""

import contextlib
import gc
import logging
import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from offload import offload, task_context
from offload._child import context
from offload._child.connection import Connection
from offload._wire.frames import Kind
from offload._wire.page import OUT_FULL
from tests.support.functions.pool import knock, pass_gate


def unsendable_then_failing() -> Iterator[Any]:
    """Yield what cannot be sent, and fail to clean up."""
    try:
        yield lambda: None
    finally:
        raise ValueError("of the cleaning up")


def reply_twice() -> str:
    """Reply by ourselves, and then by returning."""
    (connection,) = (each for each in gc.get_objects() if type(each) is Connection)
    connection.send(Kind.RESULT, pickle.dumps("too early"))
    return "too late"


def buffer_after_child_returned(size: int) -> Any:
    """Fork a child that returns as if it were the worker; tell whether the buffer is taken."""
    child = os.fork()
    if not child:
        return bytes(size)
    os.waitpid(child, 0)
    assert context.process.page is not None
    return context.process.page[OUT_FULL]


def log_later(entered: str, gate: str, size: int) -> None:
    """Leave a thread that logs when it may, and tells when it has."""

    def log() -> None:
        pass_gate(gate)
        logging.getLogger("tests.races").warning("late", extra={"order": "x" * size})
        knock(entered)

    threading.Thread(target=log, daemon=True).start()


def report_later(entered: str, gate: str) -> None:
    """Leave a thread that goes on reporting when it may, and tells when it has."""
    task = task_context()
    assert task is not None

    def report() -> None:
        pass_gate(gate)
        task.progress(1.0, 1.0)
        knock(entered)

    threading.Thread(target=report, daemon=True).start()


def report_after_a_neighbour(entered: str, gate: str) -> None:
    task = task_context()
    assert task is not None
    task.progress(2.0, 2.0)
    knock(entered)
    pass_gate(gate)


@offload(pool="races again")
def echo_again(value: int) -> int:
    return value


def wait_and_tell_whether_wanted(entered: str, gate: str) -> bool:
    knock(entered)
    pass_gate(gate)
    task = task_context()
    assert task is not None
    return not task.cancelled()


def helper_pid() -> int:
    from tests.support.functions.race_helper import helper

    return helper.pid


@contextlib.contextmanager
def enter(_: Mapping[str, str]) -> Iterator[None]:
    """Surround a function, as an observer's carrier asks."""
    yield

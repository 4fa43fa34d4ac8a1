"""What workers run for the tests of seams."""

import logging
import os
import signal
import subprocess
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from offload import task_context
from tests.support.functions.pool import knock, pass_gate

logger = logging.getLogger("tests.seams")

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")

# In a session of its own, with a child that a thread other than the first has started.
_HELPER = """
import subprocess, sys, threading, time
def start():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(sys.argv[1], "wb", buffering=0) as told:
        told.write(child.pid.to_bytes(8, "little"))
    time.sleep(60)
threading.Thread(target=start).start()
"""


def whose(number: int) -> tuple[int, str]:
    return number, tenant.get()


def size(data: bytes, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return len(data)


def take_all(*arguments: Any) -> int:
    return len(arguments)


def start_helper_and_hang(told: str) -> NoReturn:
    helper = subprocess.Popen([sys.executable, "-c", _HELPER, told], start_new_session=True)
    helper.returncode = 0  # left behind by intent: no warning
    while True:
        time.sleep(1.0)


def log_while_logging(entered: str, count: int) -> int:
    """Fill the socket with records, and log in a signal handler that interrupts just that."""
    told = 0

    def tick(*_: object) -> None:
        nonlocal told
        told += 1
        logger.warning("tick")

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    knock(entered)
    try:
        for _ in range(count):
            logger.warning("record", extra={"padding": "x" * 20_000})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    return told


def tidy_up(entered: str, path: str, seconds: float) -> None:
    """Take its time to end when it is asked to."""
    task = task_context()
    assert task is not None
    knock(entered)
    while not task.cancelled():
        time.sleep(0.005)
    time.sleep(seconds)
    Path(path).write_text("tidy")


def tell_progress(entered: str, gate: str) -> None:
    task = task_context()
    assert task is not None
    knock(entered)
    pass_gate(gate)
    task.progress(1.0, 1.0)


def hang(entered: str) -> NoReturn:
    knock(entered)
    while True:
        time.sleep(1.0)


def number_of_process(_: int = 0) -> int:
    return os.getpid()

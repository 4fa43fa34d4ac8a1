"""Functions of jobs, and the `Jobs` that worker programs of tests serve."""

import logging
import os
import signal
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from offload import Pool, offload
from offload.jobs import Jobs, job_context, job_options

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("default", os_priority="normal", max_workers=2)
jobs = Jobs()
logger = logging.getLogger("tests.jobs")


@dataclass(frozen=True)
class Report:
    month: date
    total: int


class OrderError(Exception):
    """An error of an application, made of its text."""


class CodeError(Exception):
    """An error that is not made of its text."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code = code


@offload
def add(first: int, second: int = 0) -> int:
    return first + second


@offload
def report(month: date, *rows: int) -> Report:
    return Report(month, sum(rows))


@offload
def fail(text: str) -> None:
    raise ValueError(text)


@offload
def fail_by_order(text: str) -> None:
    raise OrderError(text)


@offload
def fail_by_code() -> None:
    raise CodeError(7, "here")


@offload
def fail_by_key() -> None:
    raise KeyError("month")


@job_options(max_attempts=3, backoff=0.01)
@offload
def fail_at_first(times: int) -> int:
    context = job_context()
    assert context is not None
    if context.attempt <= times:
        raise ValueError(f"attempt {context.attempt}")
    return context.attempt


@job_options(max_crashes=1, backoff=0.01)
@offload
def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@offload
def returns_wrong() -> int:
    return "no int"  # type: ignore[return-value]


def arrive(entered: str) -> None:
    """Tell the process id."""
    with Path(entered).open("wb", buffering=0) as pipe:
        pipe.write(os.getpid().to_bytes(8, "little"))


@offload
def wait(entered: str, gate: str) -> int:
    """Tell the process id, and wait for the test."""
    arrive(entered)
    with Path(gate).open("rb", buffering=0) as pipe:
        pipe.read(1)
    return os.getpid()


@offload
def spin(entered: str, seconds: float) -> int:
    """Tell the process id, and compute."""
    arrive(entered)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@offload
def spin_on(entered: str, seconds: float) -> int:
    """Compute, whoever asks for an end: only SIGKILL is one."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return spin.__wrapped__(entered, seconds)


@offload
def tell(total: int) -> None:
    context = job_context()
    assert context is not None
    for done in range(total + 1):
        context.progress(done, total)
        logger.warning("step %d of job %s", done, context.id)


@job_options(queue="mail", priority=3, keep=None)
def plain(word: str) -> str:
    return word.upper()


class Shop:
    @staticmethod
    @offload
    def price(of: str) -> int:
        return len(of)

    @classmethod
    @offload
    def named(cls, suffix: str) -> str:
        return cls.__name__ + suffix

    @offload
    def sell(self) -> None: ...


@offload
def generate():
    yield 1


def undecorated() -> None: ...


@offload(timeout=0.2)
def too_long() -> None:
    time.sleep(60)


@offload
def append(path: str, word: str, seconds: float = 0.0) -> str:
    """Write one line that says who ran when; what chaos is judged by."""
    line = f"{word} {os.getpid()} {time.time():.6f}"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"begin {line}\n".encode())
    time.sleep(seconds)
    os.write(descriptor, f"end {line}\n".encode())
    os.close(descriptor)
    return word

"""What workers run for the tests of hostile code: exits in the wrong place, records cut in half."""

import atexit
import io
import logging
import logging.config
import os
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

from offload import task_context
from tests.support.functions.pool import knock

logger = logging.getLogger("tests.hostile")


class Exits:
    """Something that ends the process in which it is unpickled, unless that is its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exit_elsewhere, (os.getpid(),)


def exit_elsewhere(pid: int) -> None:
    if os.getpid() != pid:
        sys.exit(7)


class ExitError(SystemExit, Exception):
    """Both what ends a server and what is raised in it."""


class LargeError(Exception):
    """An exception that carries far too much."""


def return_exit() -> Exits:
    return Exits()


def report_exit() -> str:
    task = task_context()
    assert task is not None
    task.progress(Exits(), 2.0)  # type: ignore[arg-type]
    return "went on"


def raise_both() -> NoReturn:
    raise ExitError("both")


def raise_large(count: int) -> NoReturn:
    raise LargeError([{"row": number, "text": str(number)} for number in range(count)])


def report_then_return() -> str:
    task = task_context()
    assert task is not None
    task.progress(1.0, 2.0)
    return "result"


def report_the_end(count: int) -> None:
    task = task_context()
    assert task is not None
    for _ in range(count):
        task.progress(5.0, 5.0)
    for _ in range(count):
        task.progress(6.0)


def log(level: int, count: int = 1) -> None:
    for number in range(count):
        logger.log(level, "record %d", number)


def log_large(count: int, size: int) -> None:
    for number in range(count):
        logger.warning("record %d", number, extra={"padding": "x" * size})


def cut_a_record(entered: str) -> str:
    """Be interrupted by a signal handler that raises while a record is being sent."""

    def late(*_: object) -> NoReturn:
        raise TimeoutError("too late")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    knock(entered)
    logging.raiseExceptions = False
    while True:  # until the socket is full, and the alarm comes
        try:
            logger.warning("cut", extra={"padding": "z" * 150_000})
        except TimeoutError:
            return "late"


def fork_and_return() -> int:
    """Return in both processes, as code that forgets an `os._exit` does."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return child


class ExitsInText(Exception):  # noqa: N818 - what it does, not what went wrong
    """An exception whose text ends the process."""

    def __str__(self) -> str:
        raise SystemExit(3)


def raise_exit_in_text() -> NoReturn:
    raise ExitsInText


def only_the_first(path: str) -> None:
    """Come up in one process, as an initializer, and in no other."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise RuntimeError("there is one already") from None


def fail_unspeakably() -> NoReturn:
    raise RuntimeError("bad \udcff name")


def start_a_session_and_end_slowly() -> tuple[int, int]:
    """Leave a child in a session of its own, and an exit hook that takes its time."""
    atexit.register(time.sleep, 60.0)
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    child.returncode = 0  # left behind by intent: no warning
    return os.getpid(), child.pid


def log_to_a_file(path: str) -> None:
    """Configure logging for this worker, as an initializer may."""
    logging.basicConfig(force=True, filename=path, level=logging.INFO)


def set_up_logging(how: str, path: str) -> None:
    """Configure logging for this worker in one of the ways that there are."""
    if how == "console":
        logging.basicConfig(force=True, level=logging.INFO)
    elif how == "basicConfig":
        log_to_a_file(path)
    elif how == "dictConfig":
        file = {"class": "logging.FileHandler", "filename": path}
        root = {"handlers": ["file"], "level": "INFO"}
        logging.config.dictConfig({"version": 1, "handlers": {"file": file}, "root": root})
    elif how == "fileConfig":
        text = (
            "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
            "[logger_root]\nlevel=INFO\nhandlers=file\n"
            f"[handler_file]\nclass=FileHandler\nargs=({path!r},)\n"
        )
        logging.config.fileConfig(io.StringIO(text), disable_existing_loggers=False)
    else:
        logging.root.handlers[:] = [logging.FileHandler(path)]
        logging.root.setLevel(logging.INFO)


def say(text: str) -> None:
    """Log a text."""
    logging.getLogger("hostile").warning(text)


class Signals:
    """A result that sends a signal to the process in which it is unpickled."""

    def __init__(self, pid: int, how: str) -> None:
        self.number = signal.SIGTERM if how == "sys.exit" else signal.SIGINT
        self.pid = pid

    def __reduce__(self) -> tuple[Any, ...]:
        return send_elsewhere, (self.pid, int(self.number))


def send_elsewhere(pid: int, number: int) -> None:
    if os.getpid() == pid:
        os.kill(pid, number)


def return_signal(pid: int, how: str) -> Signals:
    return Signals(pid, how)

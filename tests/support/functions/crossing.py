"""What the workers of the crossing, overload and payload tests run."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from offload import task_context
from tests.support.functions.pool import knock, note, pass_gate

# Declared by name, on both sides: that is what a home is.
user: ContextVar[str] = ContextVar("user")
trace: ContextVar[Any] = ContextVar("trace", default="no trace")
undeclared: ContextVar[str] = ContextVar("undeclared", default="not set")
not_a_variable = "user"

_logger = logging.getLogger("tests.crossing")


# --- context variables ---


def seen() -> tuple[Any, Any, str]:
    return user.get("not set"), trace.get(), undeclared.get()


def seen_and_changed(value: str) -> tuple[Any, Any, str]:
    before = seen()
    for variable in (user, trace, undeclared):
        variable.set(value)
    return before


# --- log records ---


class PicklesOneWay:
    """An `extra` that can be sent and not be received."""

    def __reduce__(self) -> tuple[Any, ...]:
        return fail_in_parent, (os.getpid(),)

    def __repr__(self) -> str:
        return "<one way>"


def fail_in_parent(pid: int) -> str:
    if os.getpid() != pid:
        raise RuntimeError("this never unpickles anywhere else")
    return "here"


class FailsToUnpickle:
    """An `extra` that cannot be received anywhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)

    def __repr__(self) -> str:
        return "<unpickles nowhere>"


EXTRAS = {
    "plain": lambda: {"a": [1, 2.5, None]},
    "lock": threading.Lock,
    "lambda": lambda: lambda: None,
    "nowhere": FailsToUnpickle,
    "one way": PicklesOneWay,
    "huge": lambda: "x" * 2_000_000,
}


def log(message: str, *args: Any, level: int = logging.INFO, name: str = "tests.crossing") -> int:
    logging.getLogger(name).log(level, message, *args)
    return os.getpid()


def log_levels_of(name: str, *levels: int) -> None:
    for level in levels:
        logging.getLogger(name).log(level, "level %d", level)


def log_extra(kind: str) -> None:
    _logger.info("with an extra", extra={"order": EXTRAS[kind](), "number": 7})


def log_exception() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        _logger.exception("it went wrong")


def log_stack() -> None:
    _logger.warning("from here", stack_info=True)


def log_huge(size: int) -> int:
    _logger.info("%s", "x" * size)
    return size


def log_in_threads(count: int, each: int) -> None:
    def work(number: int) -> None:
        for index in range(each):
            _logger.info("%d.%d", number, index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_when_initialized(kind: str = "plain") -> None:
    _logger.warning("initialized", extra={"order": EXTRAS[kind]()})


def log_many(count: int) -> int:
    for index in range(count):
        _logger.info("record %d", index)
    return count


# --- progress and the current task ---


def report(steps: int, pause: float = 0.0) -> int:
    task = task_context()
    assert task is not None
    for step in range(1, steps + 1):
        task.progress(step, steps)
        if pause:
            time.sleep(pause)
    return steps


def report_without_total(steps: int) -> int:
    task = task_context()
    assert task is not None
    for step in range(steps):
        task.progress(step)
    return steps


def report_odd(value: Any) -> Any:
    task = task_context()
    assert task is not None
    task.progress(value, value)
    return value


def task_in_thread() -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(task_context()))
    thread.start()
    thread.join()
    return None if found[0] is None else found[0].function


def facts(_: Any = None) -> tuple[str, float | None, bool]:
    task = task_context()
    assert task is not None
    left = None if task.deadline is None else task.deadline - time.monotonic()
    return task.function, left, task.cancelled()


# --- exceptions ---


class Detailed(Exception):  # noqa: N818 - the name is not what is tested
    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.hint = hint


class Large(Exception):  # noqa: N818
    pass


def raise_detailed() -> NoReturn:
    error = Detailed(42, hint="look here")
    error.add_note("a note of the worker")
    raise error


def raise_chained() -> NoReturn:
    try:
        _ = {}["the cause"]
    except KeyError as cause:
        effect = ValueError("the effect", 2)
        raise effect from cause


def raise_group() -> NoReturn:
    raise ExceptionGroup("several", [ValueError("one"), OSError(2, "two")])


def raise_large(size: int) -> NoReturn:
    raise Large("x" * size)


def raise_unpicklable() -> NoReturn:
    raise ValueError(threading.Lock())


# --- deadlines, crashes, shared runs ---


def spin(seconds: float) -> float:
    """Sleep, for the tests of what waits: a worker that sleeps is as busy as one that computes."""
    time.sleep(seconds)
    return seconds


def slow_once(flag: str, seconds: float) -> bool:
    """Take long at the first call only, as one that imports a large library does."""
    if os.path.exists(flag):  # noqa: PTH110
        return False
    os.close(os.open(flag, os.O_CREAT))
    time.sleep(seconds)
    return True


def poison(path: str) -> NoReturn:
    note(path, str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hold_and_crash(entered: str, gate: str) -> NoReturn:
    knock(entered)
    pass_gate(gate)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def crash_times(path: str, times: int) -> int:
    """Crash as often as told, then succeed."""
    note(path, str(os.getpid()))
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        runs = len(file.readlines())
    if runs <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return runs


def crash_times_with(value: bytes, path: str, times: int) -> int:
    return crash_times(path, times) * len(value)


def report_and_hold(entered: str, gate: str) -> str:
    knock(entered)
    pass_gate(gate)
    task = task_context()
    assert task is not None
    task.progress(1, 1)
    return "done"


def run_and_hold(entered: str, gate: str, value: Any) -> Any:
    knock(entered)
    pass_gate(gate)
    return value


def raise_and_hold(entered: str, gate: str) -> NoReturn:
    knock(entered)
    pass_gate(gate)
    raise_detailed()


def make(size: int, entered: str, gate: str) -> tuple[int, list[bytes]]:
    knock(entered)
    pass_gate(gate)
    return os.getpid(), [bytes(size)]


# --- payloads ---


def echo(value: Any, **_: Any) -> Any:
    return value


def echo_all(*values: Any, **named: Any) -> Any:
    return values, named


def size_of(value: Any) -> int:
    return memoryview(value).nbytes


def describe_array(array: Any) -> tuple[Any, ...]:
    return (
        array.dtype.str,
        array.shape,
        bool(array.flags.c_contiguous),
        bool(array.flags.f_contiguous),
        bool(array.flags.writeable),
    )


def write_to(value: Any) -> Any:
    """Write where the caller's value was writable; an error tells where it was not."""
    value[0] = 1
    return value


def make_bytes(size: int) -> bytes:
    return bytes(size)


def make_array(shape: Any, order: str = "C") -> Any:
    count = int(np.prod(shape))
    return np.arange(count, dtype="f8").reshape(shape, order=order)


def is_same_object(pair: list[Any]) -> bool:
    return pair[0] is pair[1]


@dataclass
class Document:
    name: str
    body: bytes
    pages: list[Any] = field(default_factory=list)
    table: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    body: bytearray
    part: Any


class SlowToLoad:
    """Tells the test that it is being unpickled, and waits for its end."""

    def __init__(self, entered: str, body: bytes) -> None:
        self.entered = entered
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return load_slowly, (self.entered, self.body)


def load_slowly(entered: str, body: bytes) -> bytes:
    knock(entered)
    while True:
        time.sleep(3600)


class SlowToDump:
    """A result that tells the test that it is being pickled, and waits for the worker's end."""

    def __init__(self, entered: str) -> None:
        self.entered = entered
        self.body = bytes(8 * 2**20)

    def __getstate__(self) -> Any:
        return self.body, _Knocks(self.entered)


class _Knocks:
    def __init__(self, entered: str) -> None:
        self.entered = entered

    def __reduce__(self) -> NoReturn:
        knock(self.entered)
        while True:
            time.sleep(3600)


def return_slowly(entered: str) -> SlowToDump:
    return SlowToDump(entered)


def forbid_memory() -> None:
    """Make anonymous files impossible in this worker, as when descriptors or memory run out."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    os.memfd_create = refuse


def modules_loaded(*names: str) -> list[bool]:
    return [name in sys.modules for name in names]


class NotFoundWhenPickled:
    def __reduce__(self) -> NoReturn:
        raise FileNotFoundError(2, "No such file", "model.bin")


# --- ways of payloads ---


def megabytes(count: int, step: int = 1) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * (2**20 + step * number)


def noted_length(value: bytearray, path: str) -> int:
    note(path, "ran")
    return len(value)


def keep(first: Any, value: Any) -> int:
    del value
    return 1 if first else 0


def make_list(size: int) -> list[str]:
    return [f"{number:997}" for number in range(size // 1000)]


def lose_memfd(directory: str) -> None:
    tempfile.tempdir = directory
    if hasattr(os, "memfd_create"):
        del os.memfd_create


def has_memfd() -> bool:
    return hasattr(os, "memfd_create")


# --- files and streams ---


def read_all(file: Any) -> tuple[bytes, int]:
    return file.read(), file.size


def read_named(files: dict[Any, Any]) -> list[bytes]:
    found: list[Any] = []
    for value in files.values():
        found += value if isinstance(value, list) else [value]
    return [file.read() for file in found]


def read_slowly(file: Any) -> bytes:
    parts = []
    while part := file.read(10_000):
        parts.append(part)
    return b"".join(parts)


def read_and_crash_once(file: Any, flag: str) -> bytes:
    data = file.read()
    if not Path(flag).exists():
        Path(flag).touch()
        os._exit(3)
    return data


def ignore(file: Any) -> None:
    del file


def length_of(file: Any) -> int:
    return len(file.read())


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def yield_all(items: list[Any]) -> Iterator[Any]:
    yield from items


def make_and_note(count: int, path: str) -> Iterator[bytes]:
    for _ in range(count):
        note(path, "made")
        yield bytes(10_000)


def wait_and_yield(entered: str, gate: str) -> Iterator[bytes]:
    knock(entered)
    pass_gate(gate)
    yield b"late"


def endless(path: str) -> Iterator[bytes]:
    try:
        while True:
            yield bytes(10_000)
    finally:
        note(path, "closed")


def fail_after(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x"
    raise ZeroDivisionError

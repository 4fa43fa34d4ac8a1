"""Functions, methods and classes for workers to run; the tests say what of them counts."""

import asyncio
import concurrent.futures
import enum
import functools
import os
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload import in_worker, offload, task_context

# --- functions ---


@offload
def add(left: int, right: int = 10, *, scale: int = 1) -> int:
    """Add two numbers."""
    return (left + right) * scale


@offload(timeout=30, queue_timeout=30)
def with_options(value):
    return value


@offload(pool="images")
def on_images(value):
    return value, os.getpid()


@offload(pool="pictures")
def on_pictures(value):
    return value, os.getpid()


@offload(pool="no such pool")
def on_missing_pool(value):
    return value


@offload
def echo(value):
    return value


@offload
def many(*args, **kwargs):
    return args, kwargs


@offload
def options_as_keywords(timeout, pool, priority=0):
    return timeout, pool, priority


@offload
def process_id():
    return os.getpid()


@offload
def task_name():
    task = task_context()
    return None if task is None else task.function


def plain_square(value):
    return value * value


def slow_until(path, value):
    until_exists(Path(path))
    return value


@offload
def waiting(path, value=None):
    until_exists(Path(path))
    return value


@offload
def mark_and_wait(started, proceed, value):
    Path(started).touch()
    until_exists(Path(proceed))
    return value


@offload
def fail_or_wait_of(item):
    """Fail for 0, once another call has begun; each of those waits, in vain if 0 fails it."""
    value, started, proceed = item
    if value == 0:
        while not list(started.iterdir()):
            time.sleep(0.005)
        message = "zero"
        raise ValueError(message)
    (started / str(value)).touch()
    until_exists(proceed)
    return value


def until_exists(path, seconds=30.0):
    """Wait for a file that another process makes."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            message = f"{path} did not appear"
            raise TimeoutError(message)
        time.sleep(0.005)


# --- nested ---


async def add_from_inside(left, right):
    return await add(left, right)


@offload
def nested(left, right):
    """Run an offloaded function, a stream and a map inside a worker."""
    here = os.getpid()

    async def all_of_it():
        there = await process_id()
        items = [item async for item in count.stream(3)]
        return there, items, await square.map([1, 2, 3]), await add(left, right)

    return here, in_worker(), asyncio.run(all_of_it())


@offload
def square(value):
    return value * value


@offload
def call_plain(left, right):
    return add.__wrapped__(left, right)


# --- generators ---


@offload
def count(until, *, start=0):
    yield from range(start, until)


@offload
def letters(text: str) -> Iterator[str]:
    """Yield the characters of `text`."""
    yield from text


@offload
def noting(folder, until):
    """Leave a file for each item that was made, and one for the end."""
    folder = Path(folder)
    try:
        for number in range(until):
            (folder / f"made-{number}").touch()
            yield number
    finally:
        (folder / "closed").touch()


@offload
def fails_after(items):
    yield from range(items)
    message = "in the middle"
    raise LookupError(message)


@offload
def fails_when_closed(folder):
    try:
        yield 1
        yield 2
    finally:
        (Path(folder) / "closed").touch()
        message = "on the way out"
        raise RuntimeError(message)


@offload
def never_yields(path):
    until_exists(Path(path))
    yield 1


@offload
def yields_lock():
    yield 1
    yield threading.Lock()


@offload
def task_names():
    for _ in range(3):
        task = task_context()
        yield None if task is None else task.function


@offload
def process_ids(until):
    for _ in range(until):
        yield os.getpid()


@offload
def big_items(size, until):
    for number in range(until):
        yield bytes([number]) * size


# --- methods ---


@dataclass
class Scale:
    factor: int

    @offload
    def times(self, value):
        return self.factor * value

    @offload
    def multiples(self, until):
        for number in range(until):
            yield self.factor * number

    @offload
    @staticmethod
    def static_below(value):
        return "static", value

    @staticmethod
    @offload
    def static_above(value):
        return "static", value

    @offload
    @classmethod
    def class_below(cls, value):
        return cls.__name__, value

    @classmethod
    @offload
    def class_above(cls, value):
        return cls.__name__, value

    @offload
    @classmethod
    def class_items(cls, until):
        for number in range(until):
            yield cls.__name__, number

    class Inner:
        """A class inside a class, whose qualified name has two dots."""

        @offload
        @staticmethod
        def deep(value):
            return "deep", value


class DoubleScale(Scale):
    @offload
    def times(self, value):
        return "double", super().times.__wrapped__(self, 2 * value)


class Unpicklable:
    def __init__(self):
        self.lock = threading.Lock()

    @offload
    def method(self, value):
        return value


class Callable_:  # noqa: N801 - a class whose instances are called
    def __call__(self, value):
        return value


# --- decorators ---


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


def doubled_async(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return 2 * await function(*args, **kwargs)

    return wrapper


@offload
@doubled
def decorated_below(value):
    return value + 1


@doubled_async
@offload
def decorated_above(value):
    return value + 1


@doubled_async
@offload
@doubled
def decorated_around(value):
    return value + 1


@doubled
def decorated_plain(value):
    return value + 1


# --- exceptions ---


class PlainError(Exception):
    pass


class TwoArgumentsError(Exception):
    """Pickles, and does not unpickle: the classic (cpython#79492)."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class BadStrError(Exception):
    def __str__(self):
        message = "no text for you"
        raise RuntimeError(message)


class LocksUpError(Exception):
    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


class OnlyHereError(Exception):
    """Unpickles in a worker only."""

    def __reduce__(self):
        return _only_in_a_worker, self.args


def _only_in_a_worker(*args):
    if not in_worker():
        message = "only in a worker"
        raise RuntimeError(message)
    return OnlyHereError(*args)


@offload
def fail_plainly(text):
    raise PlainError(text, 42)


@offload
def fail_with_notes():
    error = PlainError("noted")
    error.add_note("the first note")
    error.add_note("the second note")
    raise error


@offload
def fail_with_group():
    message = "several"
    raise ExceptionGroup(message, [ValueError("one"), PlainError("two")])


@offload
def fail_from_cause():
    try:
        {}["missing"]
    except KeyError as error:
        message = "outer"
        raise ValueError(message) from error


FAILURES = {
    "TwoArgumentsError": lambda: TwoArgumentsError("one", "two"),
    "LocksUpError": lambda: LocksUpError("locked"),
    "OnlyHereError": lambda: OnlyHereError("here"),
    "BadStrError": BadStrError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "BaseException": lambda: BaseException("base"),
    "StopIteration": lambda: StopIteration(5),
    "StopAsyncIteration": StopAsyncIteration,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("group", [SystemExit(1)]),
    "concurrent.futures.CancelledError": concurrent.futures.CancelledError,
}


@offload
def fail_as(name):
    error = FAILURES[name]()
    raise error


@offload
def yield_then_fail_as(name):
    yield 1
    error = FAILURES[name]()
    raise error


@offload
def exit_by_sys(code):
    sys.exit(code)


# --- values ---


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Slotted:
    inner: Any


class Bag:
    def __init__(self, **values):
        self.__dict__.update(values)


class BreaksOnArrival:
    """Pickles here and does not unpickle in a worker."""

    def __reduce__(self):
        return _break_in_a_worker, ()


def _break_in_a_worker():
    message = "cannot be rebuilt"
    raise RuntimeError(message)


class ExitsOnArrival:
    def __reduce__(self):
        return sys.exit, (7,)


class BreaksWhenPickled:
    def __reduce__(self):
        message = "does not want to travel"
        raise pickle.PicklingError(message)


@offload
def make_lock():
    return threading.Lock()


@offload
def make_arrival_breaker():
    return BreaksOnArrival()


@offload
def module_of(value):
    return type(value).__module__

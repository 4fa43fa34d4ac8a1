"""What workers run for the tests of observers."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

carried: ContextVar[str] = ContextVar("carried", default="nothing")
left: list[str] = []


@contextlib.contextmanager
def enter(carrier: Mapping[str, str]) -> Iterator[None]:
    token = carried.set(carrier["word"])
    try:
        yield
    except ZeroDivisionError:
        left.append("failed")
        raise
    else:
        left.append("returned")
    finally:
        carried.reset(token)


def word() -> str:
    return carried.get()


def fail() -> None:
    raise ZeroDivisionError(carried.get())


def how_it_was_left() -> list[str]:
    return list(left)


def words(count: int) -> Iterator[str]:
    for _ in range(count):
        yield carried.get()

"""What workers run whose pool reads data only: functions that return and raise what they like."""

import datetime as dt
import enum
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.exceptions import HTTPException

from offload import task_context


class Color(enum.Enum):
    RED = "red"


class Spot(NamedTuple):
    x: int
    y: int


class Page(BaseModel):
    number: int
    when: dt.date
    color: Color


@dataclass
class Report:
    pages: list[Page]
    spot: Spot
    total: float


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}: {detail}")
        self.code = code
        self.detail = detail


def echo(value: object) -> object:
    return value


def zeros(count: int) -> list[int]:
    return [0] * count


def page(number: int) -> Page:
    return Page(number=number, when=dt.date(2026, 11, 30), color=Color.RED)


def report(count: int) -> Report:
    return Report([page(number) for number in range(count)], Spot(1, 2), 0.5)


def color() -> Color:
    return Color.RED


def wrong_page() -> list[Page]:
    pages: Any = [page(1), "no page"]
    return pages


def pages(count: int) -> Iterator[Page]:
    for number in range(count):
        yield page(number)


def sizes(*lengths: int) -> Iterator[bytes]:
    for length in lengths:
        yield bytes(length)


def yield_no_data() -> Iterator[object]:
    yield 1
    yield {"a": object()}


class Sub(dict):
    pass


def no_data(kind: str) -> object:
    return {
        "object": {"rows": [1, (object(),)]},
        "subclass": [Sub()],
        "function": print,
        "itself": _inside_itself(),
    }[kind]


def _inside_itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def fail(kind: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("bad value", 3),
        "file": FileNotFoundError(2, "No such file or directory", "nowhere"),
        "own": OwnError(7, detail="own"),
        "http": HTTPException(422, "no", headers={"X-Why": "so"}),
        "group": ExceptionGroup("some", [ValueError(1)]),
        "with an object": ValueError(object()),
        "exit": SystemExit(3),
        "long": ValueError("x" * 300_000),
    }
    raise errors[kind]


def report_progress(done: Any, total: Any) -> None:
    context = task_context()
    assert context is not None
    context.progress(done, total)


def log(text: str, **extra: Any) -> None:
    logging.getLogger("tests.data").warning("%s", text, extra=extra)
    try:
        int(text)
    except ValueError:
        logging.getLogger("tests.data.new").exception("failed")


def key_of_multiprocessing() -> bytes:
    return bytes(multiprocessing.current_process().authkey)

"""Values of the standard library's types whose JSON must not depend on what is installed."""

import datetime as dt
import decimal
import ipaddress
import json
import pathlib
import sys
import uuid
from typing import Any

from offload.jobs._codec_errors import JobArgumentError
from tests.jobs.codec_types import Color, Frozen, IntBox, Options, Point, Tree, signature_of

ID = uuid.UUID(int=1)
NOW = dt.datetime(2026, 11, 30, 9, 0, 0, 5, tzinfo=dt.UTC)
CASES: list[tuple[Any, Any]] = [
    (int, 10**30),
    (float, 1e300),
    (float, float("nan")),
    (str, "é\ud800"),
    (bytes, b"\xff"),
    (dt.datetime, NOW),
    (dt.date, NOW.date()),
    (dt.time, NOW.time()),
    (dt.timedelta, dt.timedelta(1, 2, 3)),
    (uuid.UUID, ID),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (pathlib.Path, pathlib.Path("a/b")),
    (Color, Color.DAY),
    (Point, Point(1)),
    (Options, {"size": 1, "name": "a"}),
    (Frozen | IntBox, Frozen(NOW, ID)),
    (Tree, Tree("a", [Tree("b")])),
    (dict[int, set[str]], {1: {"b", "a", "c"}}),
    (str | uuid.UUID | None, ID),
    (list[Any], [1, {"a": None}]),
]


def texts():
    """Return the JSON of each case."""
    return [signature_of(hint).encode_arguments((value,), {}) for hint, value in CASES]


def show():
    """Print the JSON of each case, and what is said of a type that needs pydantic."""
    error = ""
    try:
        signature_of(ipaddress.IPv4Address).encode_arguments((1,), {})
    except JobArgumentError as found:
        error = str(found)
    json.dump([*texts(), error], sys.stdout)

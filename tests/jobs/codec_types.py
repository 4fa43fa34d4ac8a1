# ruff: noqa: C901, D103, DTZ001, PLR0911, PYI061 - naive times and odd annotations are the subject
"""Types and functions for the codec's tests, and strategies of their values."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import pathlib
import sys
import types
import typing
import uuid
import zoneinfo
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

from hypothesis import strategies as st

from offload.jobs._codec import Signature

T = TypeVar("T")

ZONES = ["America/Sao_Paulo", "Europe/Berlin", "Asia/Kathmandu", "UTC", "Africa/Monrovia"]


class Color(enum.Enum):
    RED = "r"
    BLUE = 2
    NONE = None
    DAY = dt.date(2026, 1, 1)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"
    NO = "no"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Options(TypedDict):
    name: str
    size: NotRequired[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    when: dt.datetime
    key: uuid.UUID | None = None


@dataclasses.dataclass
class Tree:
    label: str
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    content: T
    more: dict[str, T] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class IntBox(Box[int]):
    extra: bool = False


@dataclasses.dataclass
class Sorted:
    """Changes what it is given."""

    items: list[int]
    total: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.items = sorted(self.items)
        self.total = sum(self.items)


def function_of(hint):
    """Return a function whose parameter and result are annotated so."""
    # A new function at each call: the cache of signatures is by function.
    function = types.FunctionType((lambda value: value).__code__, globals(), "function")
    function.__annotations__ = {"value": hint, "return": hint}
    return function


def signature_of(hint):
    """Return the signature of a function that is annotated so."""
    return Signature.of(function_of(hint))


def same(one, other):
    """Tell whether two values are the same to the last detail that a user could see."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        # That NaN has a sign is not kept.
        if math.isnan(one):
            return math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if isinstance(one, enum.Enum):
        return one is other
    if isinstance(one, dict):
        return same([list(pair) for pair in one.items()], [list(pair) for pair in other.items()])
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    if isinstance(one, dt.datetime | dt.time):
        return repr(one.replace(tzinfo=None)) == repr(other.replace(tzinfo=None)) and (
            one.utcoffset() == other.utcoffset() and same_zone(one.tzinfo, other.tzinfo)
        )
    return bool(one == other)


def same_zone(one, other):
    return one == other if isinstance(one, zoneinfo.ZoneInfo) else (one is None) == (other is None)


texts = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\ud800\udc00\x00é"))
offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(dt.timezone)
zones = st.none() | offsets | st.just(dt.UTC) | st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)
folds = st.sampled_from([0, 0, 1])
datetimes = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold),
    st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1)),
    zones,
    folds,
)
times = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.times(), zones, folds
)

# Values of a hashable kind can be keys and items of sets.
HASHABLE: list[tuple[Any, st.SearchStrategy]] = [
    (None, st.none()),
    (bool, st.booleans()),
    (int, st.integers() | st.integers().map(lambda n: n * 10**300)),
    (float, st.floats() | st.integers()),
    (str, texts),
    (bytes, st.binary()),
    (dt.datetime, datetimes),
    (dt.date, st.dates()),
    (dt.time, times),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals().filter(lambda number: not number.is_snan())),
    (pathlib.Path, texts.filter(lambda text: "\0" not in text).map(pathlib.Path)),
    (zoneinfo.ZoneInfo, st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Word, st.sampled_from(Word)),
    (Access, st.sampled_from([*Access, Access(0), Access(3)])),
    (Literal["a", 1, True, None], st.sampled_from(["a", 1, True, None])),
    (Literal[Word.YES, "no"], st.sampled_from([Word.YES, "no"])),
    (Annotated[int, "small"], st.integers()),
    (Point, st.builds(Point, st.integers(), st.floats())),
    (Frozen, st.builds(Frozen, datetimes, st.none() | st.uuids())),
    (typing.NewType("Id", int), st.integers()),
]
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
OTHERS: list[tuple[Any, st.SearchStrategy]] = [
    (Any, plain),
    (object, plain),
    (decimal.Decimal, st.decimals()),
    (bytearray, st.binary().map(bytearray)),
    (
        Options,
        st.fixed_dictionaries({"name": texts}, optional={"size": st.integers()}),
    ),
    (
        Tree,
        st.recursive(
            st.builds(Tree, texts),
            lambda inner: st.builds(Tree, texts, st.lists(inner, max_size=2)),
            max_leaves=4,
        ),
    ),
    (IntBox, st.builds(IntBox, st.integers(), st.dictionaries(texts, st.integers()))),
    (Sorted, st.builds(Sorted, st.lists(st.integers()))),
]


def _compound(inner):
    return st.one_of(
        inner.map(lambda p: (list[p[0]], st.lists(p[1], max_size=4))),
        inner.map(lambda p: (tuple[p[0], ...], st.lists(p[1], max_size=4).map(tuple))),
        inner.map(
            lambda p: (collections.deque[p[0]], st.lists(p[1], max_size=3).map(collections.deque))
        ),
        inner.map(lambda p: (Box[p[0]], st.builds(Box, p[1], st.dictionaries(texts, p[1])))),
        inner.map(lambda p: (p[0] | None if p[0] is not None else None, st.none() | p[1])),
        st.tuples(inner, inner).map(
            lambda p: (tuple[p[0][0], p[1][0]], st.tuples(p[0][1], p[1][1]))
        ),
        st.lists(inner, min_size=2, max_size=4).map(
            lambda ps: (typing.Union[tuple(p[0] for p in ps)], st.one_of([p[1] for p in ps]))  # noqa: UP007
        ),
        st.tuples(st.sampled_from(HASHABLE), inner).map(
            lambda p: (
                dict[p[0][0], p[1][0]],
                st.dictionaries(p[0][1], p[1][1], max_size=4),
            )
        ),
        st.sampled_from(HASHABLE).map(lambda p: (set[p[0]], st.sets(p[1], max_size=4))),
        st.sampled_from(HASHABLE).map(lambda p: (frozenset[p[0]], st.frozensets(p[1], max_size=4))),
    )


hinted = st.recursive(st.sampled_from(HASHABLE + OTHERS), _compound, max_leaves=6)

if sys.version_info < (3, 14):
    # A union with a string in it becomes one of typing's own.
    assert Tree.__annotations__["children"] == "list[Tree]"

"""`offload._wire.data_writer` and `data_reader`: data come back as they were, or not at all."""

import datetime as dt
import decimal
import json
import struct
import sys
from collections import OrderedDict
from enum import IntEnum
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload._wire.data_errors import described, known_errors, made_again
from offload._wire.data_format import BY_ANNOTATION, HEADER, MOST_BITS, MOST_DEPTH, PLAIN
from offload._wire.data_reader import DataError, read_data
from offload._wire.data_writer import NotDataError, encode_data, written
from offload._wire.pickling import MemorySource, TooManyBytes

zones = st.none() | st.integers(-1000, 1000).map(
    lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))
)
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 62, max_value=1 << 70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(["$", "", "[[", '"]\\"[', "\ud800\udc00"])
    | st.just(5000).map("x".__mul__)
)
hashable = (
    plain
    | st.complex_numbers(allow_nan=False)
    | st.binary()
    | st.just(1500).map(bytes)
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
keys = hashable | st.tuples(hashable, plain) | st.frozensets(plain, max_size=3)
values = st.recursive(
    keys | st.integers(0, 2000).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.sets(keys, max_size=4)
    ),
    max_leaves=8,
)


def read(data: bytes) -> object:
    """Return what a payload says."""
    return read_data(MemorySource(data))[1]


def back(value: object) -> object:
    """Return what comes of a value on its way."""
    return read(written(value))


def types_in(value: object) -> object:
    """Return the types of a value, all the way down."""
    if isinstance(value, (list, tuple)):
        return type(value), [types_in(each) for each in value]
    if isinstance(value, dict):
        return dict, [(types_in(key), types_in(each)) for key, each in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(str(types_in(each)) for each in value)
    return type(value)


class Number(IntEnum):
    ONE = 1


LARGE = {
    "empty lists": [[]] * 100_000,
    "empty texts": [""] * 100_000,
    "empty dicts": [{}] * 50_000,
    "list of ints": list(range(100_000)),
    "tuple": tuple(range(50_000)),
    "set": set(range(50_000)),
    "frozenset": frozenset(range(50_000)),
    "floats": [float(n) for n in range(50_000)],
    "dict by int": {n: str(n) for n in range(30_000)},
    "dict by text": {str(n): {"n": [n]} for n in range(30_000)},
    "control characters": ["\x01" * 4000] * 100,
    "brackets in texts": [["[{" * 500, '"\\'] * 10] * 30,
    "long keys": {"\x01" * 4000 + str(n): ["\x01" * 4096] * 3 for n in range(50)},
    "nested": [[[list(range(9000))] * 3] * 3] * 3,
    "rows": [{"id": n, "name": f"name {n}", "tags": ["a", None], "n": {}} for n in range(9000)],
    "rows that differ": [{"id": n, str(n): 1.5} if n % 3 else (n,) for n in range(9000)],
    "rows of which one is long": [[n, "x" * (9000 if n == 700 else 9)] for n in range(1000)],
    "matrix": [[n / 7 for n in range(300)]] * 50,
    "large ints": list(range(-(1 << 63), 1 << 63, 1 << 50)),
    "ints of which one is larger": [*range(5000), 1 << 63, True],
    "bools": [True, False] * 5000,
    "numbers of both types": [1, 1.0] * 5000,
    "tuple of floats": tuple(n / 7 for n in range(9000)),
    "rows with dollars": [{"$": ["B", 0], "x": n} for n in range(9000)],
    "rows by int": [{n: 1} for n in range(9000)],
    "dict of rows": {str(n): [n, (n,) if n == 8000 else ""] for n in range(9000)},
    "text": "é" * 600_000,
    "bytes": b"x" * 3_000_000,
    "many bytes": [b"x" * 2000, bytearray(2000)] * 100,
}


class TestValues:
    """What is data comes back equal and of the same types."""

    @given(values)
    def test_any_value_comes_back(self, value):
        """Equal, of the same types, with dicts in their order."""
        made = back(value)
        assert made == value
        assert types_in(made) == types_in(value)

    @pytest.mark.parametrize(
        "value",
        LARGE.values(),
        ids=LARGE,
    )
    def test_large_values_come_back(self, value):
        """In as many parts as it takes."""
        made = back(value)
        assert made == value
        assert types_in(made) == types_in(value)

    def test_names_count_as_their_values_do(self):
        """Many texts that are six times as long in JSON are in parts that a reader takes."""
        value = {"\x01" * 236 + f"{number:03}": "\x01" * 252 for number in range(64)}
        value["\x01" * 4090] = "\x01" * 16380
        value |= {f"x{number}": "\x01" * 16000 for number in range(70)}
        assert back(value) == value

    def test_parts_are_small(self):
        """No part of a large value holds the GIL for long while it is parsed."""
        parts = encode_data([{"n": n, "text": "\x01" * 50} for n in range(50_000)]).parts
        assert len(parts) > 100
        assert max(map(len, parts[1:])) < 256 * 1024

    def test_deepest_value_comes_back(self):
        """As deep as it may be, whatever it is nested in."""
        for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: {1: x}):
            value: object = list(range(5000))
            for _ in range(MOST_DEPTH):
                value = wrap(value)
            assert back(value) == value

    def test_not_a_number_and_minus_zero_come_back(self):
        """What is not equal to itself, and what is equal to another."""
        assert repr(back([float("nan"), -0.0, float("-inf")])) == "[nan, -0.0, -inf]"
        assert back(decimal.Decimal("sNaN12")).is_snan()
        assert back(dt.time(2, fold=1)).fold == 1

    def test_form_is_told(self):
        """Who reads a value knows how it was made."""
        data = b"".join(encode_data([1], form=BY_ANNOTATION).parts)
        assert read_data(MemorySource(data)) == (BY_ANNOTATION, [1])

    def test_digits_have_a_limit_of_ours(self):
        """Where a program has lifted Python's own, reading numbers takes no more time."""
        most = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            with pytest.raises(DataError, match="digits"):
                read(forged("9" * 5000))
            assert back(7**3000) == 7**3000
        finally:
            sys.set_int_max_str_digits(most)


class TestWhatIsNoData:
    """It is refused where it is, with its path."""

    @pytest.mark.parametrize(
        "value, text",
        [
            (object(), "a object"),
            (Number.ONE, "Number"),
            (np.float64(1), "as float"),
            (np.arange(3), "tolist"),
            (Fraction(1, 2), "fractions.Fraction"),
            (OrderedDict(), "as dict"),
            (dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), "fixed offset"),
            (dt.time(1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")), "name of its own"),
            (1 << MOST_BITS, "bits"),
            (memoryview(b""), "memoryview"),
            (print, "builtin_function"),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
    )
    def test_it_says_where_and_what(self, value, text):
        """The path leads to it, and the text says what it is and what to do."""
        with pytest.raises(NotDataError) as refused:
            encode_data({"a": [0, ({"b": value},)]})
        assert refused.value.path == "['a'][1][0]['b']"
        assert text in f"{refused.value.what} {refused.value.advice}"

    def test_what_is_inside_itself_is_refused(self):
        """It has no end."""
        value: list[object] = []
        value.append(value)
        with pytest.raises(NotDataError, match="deep"):
            encode_data(value)

    def test_more_than_may_be_is_refused(self):
        """Early: what is in a value many times over would never end."""
        value: object = "x" * 1000
        for _ in range(60):
            value = [value, value]
        with pytest.raises(TooManyBytes) as refused:
            encode_data(value, limit=1 << 20)
        assert refused.value.size < 2 << 20


def forged(*segments: object, buffers: tuple[bytes, ...] = ()) -> bytes:
    """Return a payload of these segments: text as it is, anything else as its JSON."""
    parts = [
        each.encode() if isinstance(each, str) else json.dumps(each).encode() for each in segments
    ]
    sizes = [len(each) for each in (*buffers, *parts)]
    head = HEADER.pack(PLAIN, len(parts), len(buffers))
    return head + struct.pack(f"<{len(sizes)}Q", *sizes) + b"".join((*buffers, *parts))


def tagged(*parts: object) -> dict[str, object]:
    """Return what stands for a value that JSON has not."""
    return {"$": [*parts]}


HOSTILE = {
    "nothing": b"",
    "a pickle": b"\x80\x05N.",
    "no segment": forged(),
    "no JSON": forged("{"),
    "a number of 5000 digits": forged("9" * 5000),
    "sizes that do not fit": forged([1]) + b"x",
    "a size of 2**64 - 1": HEADER.pack(0, 1, 0) + b"\xff" * 8,
    "2**32 segments": HEADER.pack(0, 2**32 - 1, 0) + bytes(64),
    "a large segment": forged([0] * 100_000),
    "two values": forged([1], [2]),
    "a part twice": forged([1], tagged("L", [0, 0])),
    "a part that is itself": forged(tagged("L", [0])),
    "a part that is none": forged(tagged("L", [-1])),
    "a part by a float": forged([1], tagged("L", [0.0])),
    "a buffer that is left": forged([1], buffers=(b"x",)),
    "a buffer twice": forged([tagged("B", 0), tagged("B", 0)], buffers=(b"x",)),
    "a buffer by True": forged(tagged("B", True), buffers=(b"x", b"y")),
    "bytes that are no UTF-8": forged(tagged("U", 0), buffers=(b"\xff",)),
    "no tag": forged(tagged()),
    "an unknown tag": forged(tagged("exec", "1")),
    "a tag of a list": forged(tagged([1])),
    "a tag beside a key": forged({"$": ["t", []], "a": 1}),
    "a tag that is no list": forged({"$": "t"}),
    "a list of an object": forged({"a": 1}, tagged("L", [0])),
    "an object of a list": forged([1], tagged("O", [0])),
    "pairs of three": forged(tagged("d", [[1, 2, 3]])),
    "an unhashable key": forged(tagged("d", [[[], 2]])),
    "an unhashable item": forged(tagged("s", [[]])),
    "no hex": forged(tagged("i", "xyz")),
    "a large int": forged(tagged("i", "f" * 40_000)),
    "no base64": forged(tagged("b", "$$")),
    "no instant": forged(tagged("when", "now", 0)),
    "a fold of 7": forged(tagged("when", "2026-01-01", 7)),
    "a long span": forged(tagged("span", 10**10, 0, 0)),
    "no decimal": forged(tagged("dec", "one")),
    "a decimal of a list": forged(tagged("dec", [0, [1], 0])),
    "no UUID": forged(tagged("uuid", "x")),
    "a complex text": forged(tagged("c", "1", 2.0)),
    "deep lists": forged("[" * 5000 + "]" * 5000),
    "deep lists that never end": forged("[" * 5000),
    "brackets that cross": forged("[" * 600 + "]" * 600 + "}"),
    "deep tuples, part by part": forged(
        tagged("t", []), *(tagged("t", [tagged("T", [n])]) for n in range(3000))
    ),
    "texts that hide brackets": forged('["]",' * 600 + "1" + "]" * 600),
    "escapes that hide brackets": forged('["\\"]",' * 600 + "1" + "]" * 600),
    "ints that collide": forged(tagged("s", [n * (2**61 - 1) for n in range(5000)])),
    "tuples that collide": forged(
        tagged(
            "d",
            [[tagged("t", [-1 - (n >> bit & 1) for bit in range(13)]), 0] for n in range(1 << 12)],
        )
    ),
}


class TestHostile:
    """Whatever is sent ends in a value of the known types, or in a `DataError`."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_what_no_worker_writes_is_refused(self, name):
        """Each of these was written by hand."""
        with pytest.raises(DataError):
            read(HOSTILE[name])

    @settings(max_examples=150)
    @given(st.data())
    def test_changed_data_end_in_data_or_an_error(self, data):
        """Any bytes of a payload may be any others."""
        payload = bytearray(written(data.draw(values)))
        for _ in range(data.draw(st.integers(1, 5))):
            place = data.draw(st.integers(0, len(payload) - 1))
            payload[place] = data.draw(st.integers(0, 255))
        try:
            made = read(bytes(payload))
        except DataError:
            return
        encode_data(made)  # nothing but data

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.builds(
                    tagged,
                    st.sampled_from([*"tsfdTSFDLOicbyBYU", "when", "date", "time", "span", "dec"]),
                    inner,
                )
                | st.builds(tagged, st.sampled_from(["c", "when", "time"]), inner, inner)
                | st.dictionaries(st.text("$ab", max_size=1), inner, max_size=2)
            ),
        )
    )
    def test_any_tree_ends_in_data_or_an_error(self, tree):
        """Tags may have anything in them."""
        try:
            made = read(forged([1], tree, buffers=(b"x",)))
        except DataError:
            return
        encode_data(made)


class OwnError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail


class NarrowError(OwnError):
    pass


class OfAValueError(ValueError):
    pass


class WithSlotsError(Exception):
    __slots__ = ("code",)


KNOWN = known_errors([OwnError])


class TestErrors:
    """Exceptions are made again where their class is known, and nowhere else looked for."""

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("text", 3, None),
            KeyError(("a", 1)),
            FileNotFoundError(2, "No such file", "name"),
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
            ModuleNotFoundError("no", name="mod", path="here"),
            OwnError(3, detail="x"),
        ],
        ids=repr,
    )
    def test_known_ones_come_back(self, error):
        """With their arguments, attributes and text."""
        error.add_note("a note")
        made = made_again(back(described(error)), KNOWN)
        assert type(made) is type(error)
        assert made.args == error.args
        assert vars(made) == vars(error)
        assert str(made) == str(error)
        assert getattr(made, "name", None) == getattr(error, "name", None)
        assert getattr(made, "filename", None) == getattr(error, "filename", None)

    def test_subclass_comes_as_the_class_that_is_known(self):
        """A handler of that class handles it."""
        made = made_again(back(described(NarrowError(3, detail="x"))), KNOWN)
        assert type(made) is OwnError
        assert (made.code, made.detail) == (3, "x")

    @pytest.mark.parametrize(
        "error", [OfAValueError("x"), StopIteration(1), ZeroDivisionError(object())]
    )
    def test_others_do_not(self, error):
        """Neither one whose class nobody has named, nor one that is made of no data."""
        assert made_again(described(error), KNOWN) is None

    def test_what_is_in_slots_is_not_lost_in_silence(self):
        """It would come without it."""
        assert described(WithSlotsError("x")) is None

    @pytest.mark.parametrize(
        "sent",
        [
            None,
            (),
            (["ValueError"], (), (), []),
            (["os.system"], ("true",), (), {}),
            (["SystemExit"], (), (), {}),
            (["KeyboardInterrupt"], (), (), {}),
            (["GeneratorExit"], (), (), {}),
            (["StopIteration"], (1,), (1,), {}),
            (["builtins.ValueError"], (), (), {}),
            ([["ValueError"]], (), (), {}),
            (["subprocess.CalledProcessError"], (1, "x"), (1, "x"), {}),
            (["UnicodeDecodeError"], (1, 2), (), {}),
            (["ValueError"], (), (), {"__class__": 1}),
            (["ValueError"], (), (), {1: 2}),
            (["ImportError"], ("x",), ("x",), {"name": ["x"]}),
            (["OSError"], (2, "x"), (2, "x"), {}),
        ],
        ids=repr,
    )
    def test_what_no_worker_says_is_none(self, sent):
        """It ends in an error of ours."""
        assert made_again(sent, KNOWN) is None

# ruff: noqa: DTZ001 - naive times are values like any others
"""`offload.jobs._codec`: arguments and results as JSON by annotation, refused where they differ."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import subprocess
import sys
import threading
import time
import typing
import uuid
import zoneinfo
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar

import msgspec
import pydantic
import pytest

from offload import offload
from offload.errors import OffloadError
from offload.jobs._codec import Signature
from offload.jobs._codec_errors import JobArgumentError, JobResultError
from tests.jobs.codec_types import (
    Box,
    Color,
    Frozen,
    IntBox,
    Options,
    Point,
    Sorted,
    Tree,
    Word,
    function_of,
    same,
    signature_of,
)

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


def encoded(hint, value):
    """Return the JSON of one argument, parsed."""
    return json.loads(signature_of(hint).encode_arguments((value,), {}))["value"]


def decoded(hint, data):
    """Return the value that JSON stands for."""
    (value,), _ = signature_of(hint).decode_arguments(json.dumps({"value": data}))
    return value


def round_trip(hint, value):
    """Return what comes back of an argument."""
    text = signature_of(hint).encode_arguments((value,), {})
    return signature_of(hint).decode_arguments(text)[0][0]


def refusal(hint, value):
    """Return the error that refuses an argument."""
    with pytest.raises(JobArgumentError) as caught:
        signature_of(hint).encode_arguments((value,), {})
    return caught.value


def report(month: str, /, style: int = 1, *rest: float, colour: bool = False, **more: bytes):
    """Have a parameter of each kind."""


class TestArguments:
    def test_are_an_object_by_parameter(self):
        """A reader of the store sees names, and a producer in another language can write them."""
        text = Signature.of(report).encode_arguments(("a", 2, 0.5), {"colour": True, "x": b"x"})
        assert json.loads(text) == {
            "month": "a",
            "style": 2,
            "*rest": [0.5],
            "colour": True,
            "**more": {"x": "eA=="},
        }
        back = Signature.of(report).decode_arguments(text)
        assert back == (("a", 2, 0.5), {"colour": True, "x": b"x"})

    def test_one_call_has_one_text(self):
        """However a call is written, by position or by name, its text is the same."""
        signature = Signature.of(report)
        by_position = signature.encode_arguments(("a", 2), {})
        assert by_position == signature.encode_arguments(("a",), {"style": 2})
        assert by_position == '{"month":"a","style":2}'

    def test_defaults_are_left_to_the_worker(self):
        """A parameter that the caller left out is left out of the text."""
        signature = Signature.of(report)
        text = signature.encode_arguments(("a",), {"colour": True})
        assert signature.decode_arguments(text) == (("a",), {"colour": True})

    def test_keyword_behind_a_gap_stays_a_keyword(self):
        """An argument after one that was left out is passed by name."""

        def function(a: int = 0, b: int = 0, c: int = 0): ...

        signature = Signature.of(function)
        assert signature.decode_arguments('{"a":1,"c":3}') == ((1,), {"c": 3})

    @pytest.mark.parametrize(
        "args,kwargs",
        [((), {}), (("a",), {"month": "b"}), (("a", 1), {"style": 2}), ((), {"month": "a"})],
    )
    def test_unfit_call_has_the_text_of_pythons_own_error(self, args, kwargs):
        """A call that does not fit is refused, with the words of a direct call."""

        def report(month: str, /, style: int = 1): ...

        with pytest.raises(TypeError) as direct:
            report(*args, **kwargs)
        with pytest.raises(JobArgumentError) as caught:
            Signature.of(report).encode_arguments(args, kwargs)
        assert str(caught.value) == str(direct.value)
        assert caught.value.function.endswith("report")

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            "[]",
            "",
            "null",
            '{"month":"a","nope":1}',
            '{"style":1}',
            '{"month":"a","*rest":[1.5]}',
            '{"month":"a","style":"1"}',
            '{"month":"a","style":1,"style":2}',
            '{"month":"a","**more":{"style":"eA=="}}',
        ],
    )
    def test_stored_arguments_that_do_not_fit_are_refused(self, text):
        """A job of another version of the function is an error of ours, at the worker."""
        with pytest.raises(JobArgumentError):
            Signature.of(report).decode_arguments(text)

    def test_fingerprint_is_by_function_and_value(self):
        """Equal calls have equal fingerprints, whatever the order of a dict; others have not."""
        signature = signature_of(dict[str, int])
        one = signature.encode_arguments(({"a": 1, "b": 2},), {})
        other = signature.encode_arguments(({"b": 2, "a": 1},), {})
        assert one != other
        assert signature.fingerprint(one) == signature.fingerprint(other)
        assert signature.fingerprint(one) != signature.fingerprint('{"value":{"a":1}}')
        assert signature.fingerprint(one) != Signature.of(report).fingerprint(one)


class TestErrors:
    def test_names_everything(self):
        """The error says which function, parameter, place, type and expected type."""

        def plan(orders: list[Frozen]): ...

        wrong = Frozen("2026", None)  # type: ignore[arg-type]
        orders = [Frozen(dt.datetime.now(dt.UTC)), wrong]
        with pytest.raises(JobArgumentError) as caught:
            Signature.of(plan).encode_arguments((orders,), {})
        error = caught.value
        assert error.parameter == "orders"
        assert error.path == "orders[1].when"
        assert (error.found, error.expected) == ("str", "datetime.datetime")
        for part in (__name__, "plan", "orders[1].when", "found str", "expected datetime.datetime"):
            assert part in str(error)
        assert isinstance(error, OffloadError)
        assert isinstance(error, TypeError)

    def test_result_is_refused_by_path(self):
        """A result that does not fit is an error of its own class."""
        with pytest.raises(JobResultError) as caught:
            signature_of(dict[str, list[int]]).encode_result({"a": [1, "2"]})
        assert caught.value.path == "result['a'][1]"
        with pytest.raises(JobResultError):
            signature_of(int).decode_result('"1"')
        with pytest.raises(JobResultError):
            signature_of(int).decode_result("nonsense")

    def test_value_is_not_in_the_text(self):
        """A refused argument may be secret: the error has its type only."""
        assert "hunter2" not in str(refusal(int, "hunter2"))

    def test_problems_lists_annotations_without_json(self):
        """A program can be told at its start what could never be enqueued."""

        def function(a: int, b: typing.Callable[[], int], c: threading.Lock) -> type: ...

        found = Signature.of(function).problems()
        assert [getattr(error, "parameter", "result") for error in found] == ["b", "c", "result"]
        assert Signature.of(report).problems() == []


class TestStrictness:
    @pytest.mark.parametrize(
        "hint,value",
        [
            (int, "1"),
            (int, 1.0),
            (int, Word.YES),
            (str, 1),
            (str, Word.YES),
            (bool, 1),
            (float, "1"),
            (float, decimal.Decimal(1)),
            (bytes, bytearray(b"")),
            (dt.date, dt.datetime(2026, 1, 1)),
            (dt.datetime, dt.date(2026, 1, 1)),
            (list[int], (1,)),
            (tuple[int, ...], [1]),
            (tuple[int, int], (1,)),
            (set[int], frozenset()),
            (dict[str, int], collections.OrderedDict()),
            (dict[int, int], {True: 1}),
            (None, 0),
            (Color, "r"),
            (typing.Literal[1], True),
            (Options, {}),
            (Options, {"name": "a", "nope": 1}),
            (Box[int], IntBox(1)),
            (Any, (1,)),
            (Any, {1: 2}),
            (Any, {1}),
            (Any, b""),
            (Any, float("nan")),
            (Any, dt.datetime(2026, 1, 1)),
            (Any, [{"a": (1,)}]),
            (int | str, 1.5),
        ],
    )
    def test_value_of_another_type_is_refused(self, hint, value):
        """Nothing is coerced, not even where the meaning would be clear."""
        assert refusal(hint, value).parameter == "value"

    @pytest.mark.parametrize("value", [1, True, 1.0, -0.0, 10**400])
    def test_what_a_type_checker_takes_for_a_float_stays_what_it_is(self, value):
        """An int or bool for a float is accepted, as in a direct call, and stays one."""
        assert same(round_trip(float, value), value)

    def test_untyped_parameter_takes_plain_json(self):
        """Without an annotation, what comes back is what JSON can hold."""

        def function(value): ...

        value = {"a": [1, 2.5, None, True, "x"]}
        text = Signature.of(function).encode_arguments((value,), {})
        assert same(Signature.of(function).decode_arguments(text)[0][0], value)
        with pytest.raises(JobArgumentError, match="come back as a list"):
            Signature.of(function).encode_arguments(((1, 2),), {})

    def test_object_that_its_own_code_changes_is_refused(self):
        """A dataclass that would not come back equal is refused; one that would is not."""
        kept = Sorted([2, 1])
        assert same(round_trip(Sorted, kept), kept)
        kept.items.append(0)
        assert "come back the same" in str(refusal(Sorted, kept))
        assert kept.items == [1, 2, 0]

    def test_initvar_without_default_is_refused(self):
        """A dataclass that cannot be built from its fields is refused by name of the InitVar."""

        @dataclasses.dataclass
        class Made:
            seed: dataclasses.InitVar[int]
            size: int = 0

        assert "seed" in str(refusal(Made, Made(1)))


class TestTypes:
    @pytest.mark.parametrize(
        "hint,value,data",
        [
            (int, 2**53 + 1, 2**53 + 1),
            (float, float("inf"), "Infinity"),
            (str, "\ud800", "\ud800"),
            (bytes, b"\xff\x00", "/wA="),
            (dt.datetime, dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "2026-01-02T03:00:00Z"),
            (dt.datetime, dt.datetime(2026, 1, 2, 3, 0, 0, 5), "2026-01-02T03:00:00.000005"),
            (
                dt.datetime,
                dt.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("America/Lima")),
                "2026-01-02T00:00:00-05:00[America/Lima]",
            ),
            (dt.datetime, dt.datetime(2026, 1, 2, fold=1), "2026-01-02T00:00:00[_fold=1]"),
            (dt.timedelta, dt.timedelta(days=-1, seconds=1), "-PT23H59M59S"),
            (dt.timedelta, dt.timedelta(0), "PT0S"),
            (decimal.Decimal, decimal.Decimal("1.50"), "1.50"),
            (uuid.UUID, uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (Color, Color.DAY, "2026-01-01"),
            (Color, Color.NONE, None),
            (Point, Point(1), [1, 0.5]),
            (set[str], {"b", "a"}, ["a", "b"]),
            (dict[int, str], {-1: "a"}, {"-1": "a"}),
            (dict[uuid.UUID, int], {}, {}),
            (dict[tuple[int, int], str], {(1, 2): "a"}, [[[1, 2], "a"]]),
            (int | None, None, None),
            (int | str | None, "1", "1"),
            (dt.datetime | None, dt.datetime(2026, 1, 1), "2026-01-01T00:00:00"),
            (str | uuid.UUID, "a", "a"),
            (
                str | uuid.UUID,
                uuid.UUID(int=0),
                {"type": "UUID", "value": "00000000-0000-0000-0000-000000000000"},
            ),
            (Tree | Options, Tree("a"), {"type": "Tree", "value": {"label": "a", "children": []}}),
            (Tree | None, Tree("a"), {"label": "a", "children": []}),
            (Box[dt.date], Box(dt.date(2026, 1, 1)), {"content": "2026-01-01", "more": {}}),
            (IntBox, IntBox(1), {"content": 1, "more": {}, "extra": False}),
            (typing.Sequence[int], [1], [1]),
            (T, [1], [1]),
        ],
    )
    def test_has_the_documented_json(self, hint, value, data):
        """The JSON of each type is as the table says, and the value comes back of it."""
        assert encoded(hint, value) == data
        assert same(round_trip(hint, value), value)

    def test_text_survives_any_encoding(self):
        """Lone surrogates are escaped, so that every store can hold the text; pairs are refused."""
        text = signature_of(str).encode_arguments(("é\ud800",), {})
        assert text.encode().decode() == text
        assert "one character" not in text
        assert "surrogates" in str(refusal(list[str], ["\ud83d\ude00"]))
        assert round_trip(list[str], ["\ud83d", "\ude00"]) == ["\ud83d", "\ude00"]

    def test_changed_zone_keeps_the_instant(self):
        """Where the rules of a zone differ from the writer's, the instant counts."""
        value = decoded(dt.datetime, "2026-01-02T00:00:00-04:00[America/Lima]")
        assert value == dt.datetime(2026, 1, 2, 4, tzinfo=dt.UTC)
        assert value.tzinfo == zoneinfo.ZoneInfo("America/Lima")

    def test_zone_of_another_kind_is_refused(self):
        """A zone with rules that its offset does not tell is refused, with the way out."""

        class Zone(dt.tzinfo):
            def utcoffset(self, when):
                return None if when is None else dt.timedelta(hours=when.month)

        assert "zoneinfo" in str(refusal(dt.datetime, dt.datetime(2026, 1, 1, tzinfo=Zone())))

    def test_missing_field_has_its_default(self):
        """A field that an older job lacks has its default; one that is unknown is an error."""
        assert decoded(Tree, {"label": "a"}) == Tree("a")
        with pytest.raises(JobArgumentError, match="unknown field 'nope'"):
            decoded(Tree, {"label": "a", "nope": 1})
        with pytest.raises(JobArgumentError, match="without field 'label'"):
            decoded(Tree, {})

    def test_enum_that_json_cannot_tell_apart_is_refused(self):
        """Members whose JSON is the same are found when the type is first used."""

        class Mixed(enum.Enum):
            DAY = dt.date(2026, 1, 1)
            TEXT = "2026-01-01"

        assert "same JSON" in str(refusal(Mixed, Mixed.DAY))

    @pytest.mark.parametrize("hint", [threading.Lock, type, typing.Callable, typing.Iterator[int]])
    def test_type_without_json_is_refused(self, hint):
        """A type that nobody knows is refused by name."""
        assert "value" in str(refusal(hint, None))


class TestAnnotations:
    def test_only_what_is_needed_is_evaluated(self):
        """A name that exists for the type checker only harms the parameter that has it."""

        def function(a: "int", b: "Nowhere" = None, *args: "Nowhere") -> "Nowhere": ...  # noqa: F821

        signature = Signature.of(function)
        assert signature.encode_arguments((1,), {}) == '{"a":1}'
        with pytest.raises(JobArgumentError, match="TYPE_CHECKING"):
            signature.encode_arguments((1, 2), {})
        with pytest.raises(JobResultError, match="TYPE_CHECKING"):
            signature.encode_result(1)

    def test_wrapper_has_the_types_of_what_it_wraps(self):
        """Decorators that use functools.wraps do not hide the annotations."""

        def traced(function: typing.Callable[P, R]) -> typing.Callable[P, R]:
            @functools.wraps(function)
            def inner(*args: P.args, **kwargs: P.kwargs) -> R:
                return function(*args, **kwargs)

            return inner

        @traced
        def function(when: dt.date) -> set[int]: ...

        signature = Signature.of(function)
        text = signature.encode_arguments((dt.date(2026, 1, 1),), {})
        assert text == '{"when":"2026-01-01"}'
        assert signature.decode_result("[1]") == {1}

    def test_methods_of_a_class_are_bound(self):
        """A classmethod has no parameter for its class, a staticmethod has all of its own."""

        class Reports:
            @classmethod
            def made(cls, day: dt.date): ...
            @staticmethod
            def kept(day: dt.date): ...

        for method in (Reports.made, Reports.kept):
            text = Signature.of(method).encode_arguments((dt.date(2026, 1, 1),), {})
            assert text == '{"day":"2026-01-01"}'
        assert Signature.of(Reports.made) is Signature.of(Reports.made)

    def test_offloaded_function_is_seen_through(self):
        """What `@offload` made of a function has its annotations."""
        made = offload(decorated)
        assert Signature.of(made).encode_arguments((dt.date(2026, 1, 1),), {}) == (
            '{"day":"2026-01-01"}'
        )
        assert Signature.of(made).function == f"{__name__}:decorated"

    def test_unpacked_typed_dict_types_each_keyword(self):
        """`**options: Unpack[Options]` gives each keyword its own type."""

        def function(**options: typing.Unpack[Options]): ...

        signature = Signature.of(function)
        text = signature.encode_arguments((), {"name": "a", "size": 1})
        assert signature.decode_arguments(text) == ((), {"name": "a", "size": 1})
        with pytest.raises(JobArgumentError):
            signature.encode_arguments((), {"name": 1})

    def test_generic_bases_have_their_arguments(self):
        """A type variable stands for what each subclass says."""

        class Pair(Generic[T]):
            pass

        @dataclasses.dataclass
        class Inner(Pair[T]):
            one: T
            other: list[T]

        @dataclasses.dataclass
        class Outer(Inner[dt.date]):
            third: Inner[int]

        value = Outer(dt.date(2026, 1, 1), [], Inner(1, [2]))
        assert same(round_trip(Outer, value), value)
        refusal(Outer, Outer(dt.date(2026, 1, 1), [], Inner("1", [2])))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
    def test_aliases_of_python_3_12(self):
        """`type` aliases work, generic and recursive ones too."""
        space: dict[str, Any] = {"dt": dt, "__name__": __name__}
        exec(  # noqa: S102 - no syntax of the oldest version that reads this file
            "type Json = dict[str, Json] | list[Json] | str | int | None\n"
            "type Pair[T] = tuple[T, T]\n"
            "def function[T](a: Json, b: Pair[dt.date], c: T) -> T: ...\n",
            space,
        )
        signature = Signature.of(space["function"])
        day = dt.date(2026, 1, 1)
        args = ({"a": [1, {"b": None}]}, (day, day), 1)
        text = signature.encode_arguments(args, {})
        assert json.loads(text)["a"] == args[0]
        assert signature.decode_arguments(text) == (args, {})


def decorated(day: dt.date) -> None:
    """Stand at module level, as functions for workers do."""


class User(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    manager: "User | None" = None
    size: int = pydantic.Field(default=0, alias="theSize")


class Admin(User):
    level: int = 0


class Loose(pydantic.BaseModel):
    anything: Any


@pydantic.dataclasses.dataclass
class Checked:
    size: pydantic.PositiveInt


class Item(msgspec.Struct):
    name: str
    when: dt.datetime | None = None


class TestLibraries:
    @pytest.mark.parametrize(
        "hint,value",
        [
            (User, User(name="a", manager=User(name="b", born=dt.date(2026, 1, 1)))),
            (User | None, User(name="a", theSize=3)),
            (list[User | Admin], [User(name="a"), Admin(name="b", level=1)]),
            (Checked, Checked(size=1)),
            (Item, Item("a", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))),
            (Item | User, Item("a")),
            (dict[str, Item], {"a": Item("b")}),
        ],
    )
    def test_model_comes_back_the_same(self, hint, value):
        """Models of pydantic and Structs of msgspec are data like any others."""
        assert round_trip(hint, value) == value

    @pytest.mark.parametrize(
        "hint,value",
        [
            (User, Admin(name="a")),
            (User, {"name": "a"}),
            (User, User.model_construct(name=1)),
            (Loose, Loose(anything=(1, 2))),
            (Loose, Loose(anything=Word.YES)),
            (Loose, Loose(anything=float("nan"))),
            (Item, Item(1)),
        ],
    )
    def test_model_that_would_come_back_different_is_refused(self, hint, value):
        """What the library would change without a word is refused."""
        refusal(hint, value)

    def test_stored_model_is_validated(self):
        """What does not fit a model is refused at the worker, by path."""
        with pytest.raises(JobArgumentError) as caught:
            decoded(list[User], [{"name": "a"}, {"name": "a", "born": "never"}])
        assert caught.value.path == "value[1].born"
        with pytest.raises(JobArgumentError):
            decoded(Item, {"name": 1})

    def test_alias_of_a_field_is_read_too(self):
        """A producer may write a model by its aliases."""
        assert decoded(User, {"name": "a", "theSize": 2}).size == 2

    def test_pydantic_knows_more_types(self):
        """Types that only pydantic knows work where it is installed."""
        import fractions
        import ipaddress

        address = ipaddress.IPv4Address("127.0.0.1")
        assert encoded(ipaddress.IPv4Address | None, address) == "127.0.0.1"
        assert round_trip(fractions.Fraction, fractions.Fraction(1, 3)) == fractions.Fraction(1, 3)


WITHOUT = """
import sys
sys.modules["pydantic"] = sys.modules["msgspec"] = None
from tests.jobs import codec_cases
codec_cases.show()
"""


class TestInstallation:
    def test_import_brings_no_pydantic(self):
        """`offload.jobs` and the types of the standard library need no other package."""
        code = (
            "import sys, offload.jobs; from tests.jobs import codec_cases\n"
            "codec_cases.texts()\n"
            "assert not {'pydantic', 'msgspec'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_json_is_the_same_without_pydantic(self):
        """A producer and a worker need not have the same packages."""
        from tests.jobs import codec_cases

        found = subprocess.run(
            [sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True
        )
        *texts, error = json.loads(found.stdout)
        assert texts == codec_cases.texts()
        assert "offload[jobs]" in error


class TestHostileText:
    @pytest.mark.parametrize("hint", [Any, list[Any], Tree, int, dict[str, Any], User, Item])
    @pytest.mark.parametrize("opening", ["[", '{"a":', '{"label":"a","children":[', "[{"])
    @pytest.mark.parametrize("depth", [110, 990, 100_000])
    def test_deep_nesting_is_refused(self, hint, opening, depth):
        """Nesting beyond the limit is our error, never a RecursionError."""
        closing = opening.translate({ord("["): "]", ord("{"): "}"})[::-1]
        closing = "".join(each for each in closing if each in "]}")
        for text in (opening * depth, opening * depth + "1" + closing * depth):
            with pytest.raises(JobArgumentError):
                signature_of(hint).decode_arguments(f'{{"value":{text}}}')

    def test_depth_has_one_limit_both_ways(self):
        """What a producer may nest, a worker can read."""
        value: Any = []
        tree = Tree("leaf")
        for _ in range(99):
            value = [value]
            tree = Tree("a", [tree])
        assert round_trip(Any, value) == value
        assert round_trip(Tree, tree) == tree
        for _ in range(9):
            tree = Tree("a", [tree])
        assert "deep" in str(refusal(Any, [[value]]))
        assert "deep" in str(refusal(Tree, tree))

    def test_value_inside_itself_is_refused(self):
        """A circle is refused, whatever it is made of."""
        circle: list[Any] = []
        circle.append(circle)
        refusal(Any, circle)
        tree = Tree("a")
        tree.children.append(tree)
        refusal(Tree, tree)

    @pytest.mark.parametrize("limit", [4300, 0])
    @pytest.mark.parametrize("hint", [int, float, Any, list[int], dict[int, int], decimal.Decimal])
    def test_huge_numbers_cost_nothing(self, hint, limit):
        """A number of millions of digits is refused at once, wherever Python's limit is."""
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(limit)
        try:
            start = time.process_time()
            for number in ("9" * 3_000_000, "[" + "9" * 3_000_000 + "]", '{"' + "9" * 3_000_000):
                with pytest.raises(JobArgumentError):
                    signature_of(hint).decode_arguments(f'{{"value":{number}}}')
            with pytest.raises(JobArgumentError):
                signature_of(int).encode_arguments((1 << 20_000,), {})
            assert time.process_time() - start < 1
        finally:
            sys.set_int_max_str_digits(before)

    @pytest.mark.parametrize(
        "hint",
        [decimal.Decimal, dt.datetime, dt.timedelta, dt.date, uuid.UUID, bytes, float, Color],
    )
    @pytest.mark.parametrize("piece", ["1", "1.", "P1", "A", "=", "2026-01-01T", "[", "é"])
    def test_long_text_takes_no_longer_than_its_length(self, hint, piece):
        """No pattern of ours goes back and forth over a hostile text."""
        start = time.process_time()
        with pytest.raises(JobArgumentError):
            decoded(hint, piece * 300_000 + "!")
        assert time.process_time() - start < 1

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
    @pytest.mark.parametrize("hint", [float, Any, list[float], list[Any], dict[str, Any]], ids=str)
    def test_what_is_no_number_in_json_is_refused(self, hint, text):
        """Python's extensions of JSON and overflowing numbers are refused."""
        for whole in (text, f"[{text}]", f'{{"a":{text}}}'):
            with pytest.raises(JobArgumentError):
                signature_of(hint).decode_arguments(f'{{"value":{whole}}}')

    @pytest.mark.parametrize("hint", [set[int], frozenset[str], dict[tuple[int, int], int], Any])
    def test_doubled_entries_are_refused(self, hint):
        """An entry that would be lost is an error."""
        texts = ["[1,1]", '["a","a"]', "[[[1,2],3],[[1,2],4]]", '{"a":1,"a":2}']
        refused = 0
        for text in texts:
            try:
                signature_of(hint).decode_arguments(f'{{"value":{text}}}')
            except JobArgumentError:
                refused += 1
        assert refused == (1 if hint is Any else 4)

    @pytest.mark.parametrize(
        "zone", ["../../etc/passwd", "/etc/passwd", "os", "America", "A" * 65, "tzdata.zones", ""]
    )
    def test_zone_is_no_path_and_no_module(self, zone):
        """Nothing but a zone's name is looked up."""
        with pytest.raises(JobArgumentError):
            decoded(dt.datetime, f"2026-01-01T00:00:00+00:00[{zone}]")
        with pytest.raises(JobArgumentError):
            decoded(zoneinfo.ZoneInfo, zone)


class TestLimits:
    def test_too_long_arguments_name_the_largest(self):
        """Past `max_bytes` the error says how large, and which parameter it is."""

        def function(a: str, b: str): ...

        with pytest.raises(JobArgumentError, match="b: store it elsewhere") as caught:
            Signature.of(function).encode_arguments(("x", "é" * 50), {}, max_bytes=100)
        assert caught.value.parameter == "b"
        assert "116 bytes" in str(caught.value)
        Signature.of(function).encode_arguments(("x", "é" * 50), {}, max_bytes=116)

    def test_limit_holds_both_ways_and_for_results(self):
        """A text from elsewhere is measured before it is parsed."""
        signature = signature_of(str)
        with pytest.raises(JobArgumentError, match="more than"):
            signature.decode_arguments('{"value":"' + "x" * 100, max_bytes=100)
        with pytest.raises(JobResultError, match="102 bytes"):
            signature.encode_result("x" * 100, max_bytes=101)
        with pytest.raises(JobResultError, match="102 bytes"):
            signature.decode_result('"' + "x" * 100 + '"', max_bytes=101)
        assert signature.encode_result("x", max_bytes=3) == '"x"'


def test_signature_is_made_once():
    """One function has one signature, and a function that is gone leaves none behind."""
    function = function_of(int)
    assert Signature.of(function) is Signature.of(function)
    before = len(Signature._known)
    del function
    assert len(Signature._known) == before - 1


class Movie(TypedDict, total=False):
    title: "typing.Required[str]"
    year: "int"


def test_qualifiers_inside_of_strings_count():
    """Required and NotRequired are seen where annotations are strings."""
    assert round_trip(Movie, {"title": "a"}) == {"title": "a"}
    refusal(Movie, {"year": 1})

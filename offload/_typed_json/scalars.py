"""Coders of single values that are numbers or text in JSON."""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

from offload._typed_json.coder import Coder, MismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from decimal import Decimal

__all__ = ["BOOL", "BYTEARRAY", "BYTES", "FINITE", "FLOAT", "INT", "NONE", "STR", "TextCoder"]
__all__ += ["UUIDS", "decimal_coder", "path_coder"]

# Python's own default limit for text to int, which is quadratic in time
# (https://docs.python.org/3/library/stdtypes.html#int-max-str-digits).
_INT_LIMIT = 10**4300

_STR_KIND = frozenset({"str"})
_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class PlainCoder(Coder):
    """None, bool and str, which JSON has too."""

    __slots__ = ("_exact",)

    def __init__(self, name: str, exact: type, kind: str) -> None:
        kinds = frozenset({kind})
        super().__init__(name, kinds=kinds, plain_kinds=kinds, types=frozenset({exact}))
        self._exact = exact

    def encode(self, value: Any, /) -> Any:
        if type(value) is self._exact:
            return value
        advice = ""
        if isinstance(value, self._exact) and self._exact is str:
            advice = "Annotate its own type, or pass str(…) of it."
        raise self.mismatch(value, advice)

    decode = encode

    def are_plain(self, values: Collection[Any], /) -> bool:
        return set(map(type, values)) <= {self._exact}


class IntCoder(Coder):
    """Ints, and bools as Python's own kind of int."""

    __slots__ = ()

    def __init__(self) -> None:
        kinds = frozenset({"int", "bool"})
        super().__init__("int", kinds=kinds, plain_kinds=kinds, types=frozenset({int, bool}))

    def encode(self, value: Any, /) -> Any:
        if type(value) is int:
            if -_INT_LIMIT < value < _INT_LIMIT:
                return value
            advice = "Pass it as bytes, with int.to_bytes."
            raise MismatchError("int of more than 4300 digits", self.name, advice)
        if type(value) is bool:
            return value
        raise self.mismatch(value)

    decode = encode

    def are_plain(self, values: Collection[Any], /) -> bool:
        return set(map(type, values)) <= {int, bool} and (
            not values or (min(values) > -_INT_LIMIT and max(values) < _INT_LIMIT)
        )


class FloatCoder(Coder):
    """Floats, and ints and bools where a float is expected; they stay what they are."""

    __slots__ = ("_has_names",)

    def __init__(self, *, has_names: bool) -> None:
        plain = frozenset({"int", "float", "bool"})
        kinds = plain | _STR_KIND if has_names else plain
        types = frozenset({int, float, bool})
        super().__init__("float", kinds=kinds, plain_kinds=plain, types=types)
        self._has_names = has_names

    def encode(self, value: Any, /) -> Any:
        if type(value) is float:
            if math.isfinite(value):
                return value
            if self._has_names:
                return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            advice = "JSON has no such number: pass None or a text instead."
            raise MismatchError(str(value), "finite float", advice)
        return self._whole(value)

    def decode(self, value: Any, /) -> Any:
        if type(value) is float and math.isfinite(value):
            return value
        if type(value) is str and self._has_names and value in _NAMES:
            return _NAMES[value]
        return self._whole(value)

    def _whole(self, value: Any) -> Any:
        if type(value) is int or type(value) is bool:
            return INT.encode(value)
        if isinstance(value, float) and type(value) is not float:
            raise self.mismatch(value, "Convert it with float(…).")
        raise self.mismatch(value)

    def are_plain(self, values: Collection[Any], /) -> bool:
        # A sum of finite floats may overflow; that only costs the short cut.
        return set(map(type, values)) <= {float} and math.isfinite(sum(values))


class TextCoder(Coder):
    """Values of one exact type that have a text of their own.

    Args:
        name: as of `Coder`.
        exact: the only type that is accepted.
        write: makes the text; may raise MismatchError.
        read: makes the value of a text; a ValueError or ArithmeticError means that it is none.
    """

    __slots__ = ("_exact", "_read", "_write")

    def __init__(
        self,
        name: str,
        exact: type,
        write: Callable[[Any], str],
        read: Callable[[str], Any],
    ) -> None:
        super().__init__(name, kinds=_STR_KIND, types=frozenset({exact}))
        self._exact = exact
        self._write = write
        self._read = read

    def encode(self, value: Any, /) -> Any:
        if type(value) is self._exact:
            return self._write(value)
        advice = "Convert it to exactly that type." if isinstance(value, self._exact) else ""
        raise self.mismatch(value, advice)

    def decode(self, value: Any, /) -> Any:
        if type(value) is not str:
            raise self.mismatch(value)
        try:
            return self._read(value)
        except (ValueError, ArithmeticError):
            raise MismatchError(f"str that is no {self.name}", self.name) from None


def _write_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _read_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


_UUID_LENGTH = 36


def _read_uuid(text: str) -> UUID:
    # UUID itself also takes braces, "urn:uuid:" and hyphens anywhere.
    if len(text) != _UUID_LENGTH or not text.isascii():
        raise ValueError(text)
    value = UUID(text)
    if str(value) != text.lower():
        raise ValueError(text)
    return value


# Decimal itself also takes spaces, underscores and digits of every script. Each digit can be
# matched in one way only, so that a long text takes no longer than its length.
_DECIMAL = re.compile(
    r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[Ee][+-]?\d+)?|-?s?NaN\d*|-?Inf(?:inity)?", re.ASCII
)


def decimal_coder() -> TextCoder:
    """Return the coder of Decimal, whose module is imported when it is first annotated."""
    from decimal import Decimal

    def read(text: str) -> Decimal:
        if _DECIMAL.fullmatch(text) is None:
            raise ValueError(text)
        return Decimal(text)

    return TextCoder("decimal.Decimal", Decimal, str, read)


def path_coder(cls: type) -> TextCoder:
    """Return the coder of a class of pathlib; Path stands for the class that the system has."""
    exact = type(cls())
    return TextCoder(f"pathlib.{cls.__name__}", exact, str, exact)


NONE = PlainCoder("None", type(None), "null")
BOOL = PlainCoder("bool", bool, "bool")
STR = PlainCoder("str", str, "str")
INT = IntCoder()
FLOAT = FloatCoder(has_names=True)
FINITE = FloatCoder(has_names=False)
BYTES = TextCoder("bytes", bytes, _write_bytes, _read_bytes)
BYTEARRAY = TextCoder(
    "bytearray", bytearray, _write_bytes, lambda text: bytearray(_read_bytes(text))
)
UUIDS = TextCoder("uuid.UUID", UUID, str, _read_uuid)

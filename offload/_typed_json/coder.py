"""What all coders have in common, and the error that travels between them."""

from __future__ import annotations

import dataclasses
import enum
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "KINDS",
    "Coder",
    "MismatchError",
    "UnsupportedTypeError",
    "are_same",
    "kind_of",
    "name_of",
    "name_of_type",
]

# JSON has one type for numbers; Python's parser tells ints from floats, and so do we.
_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
    dict: "object",
}
KINDS = frozenset(_KINDS.values())


def kind_of(value: Any) -> str:
    """Return which of JSON's types a parsed value is of."""
    return _KINDS.get(type(value), "none")


def name_of_type(cls: type) -> str:
    """Return a type's name as the reader of an error knows it."""
    if cls is type(None):
        return "None"
    if cls.__module__ in {"builtins", "__main__"}:
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def name_of(value: Any) -> str:
    """Return the name of a value's type."""
    return name_of_type(type(value))


class MismatchError(Exception):
    """A value is not of the expected type; gathers its path on the way out.

    Attributes:
        found: what was found, as "a str" or "an int of more than 4,300 digits".
        expected: name of the expected type.
        advice: what to do about it, a sentence or "".
        parts: path from the innermost part outwards.
    """

    def __init__(self, found: str, expected: str, advice: str = "") -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected
        self.advice = advice
        self.parts: list[str] = []

    def inside(self, part: str) -> MismatchError:
        """Add the part of the path that is around what is known."""
        self.parts.append(part)
        return self

    @property
    def path(self) -> str:
        """The path as far as it is known, outermost part first."""
        return "".join(reversed(self.parts))


class UnsupportedTypeError(Exception):
    """An annotation has no coder; the text says what it is and what to do."""


class Coder:
    """Encodes and decodes the values of one type.

    Attributes:
        name: the type as an error calls it.
        kinds: the JSON types that its values may have.
        plain_kinds: those of them under which JSON and value are one and the same.
        types: the exact types that it may accept, None where that is not known.
    """

    __slots__ = ("kinds", "name", "plain_kinds", "types")

    def __init__(
        self,
        name: str,
        *,
        kinds: frozenset[str],
        plain_kinds: frozenset[str] = frozenset(),
        types: frozenset[type] | None = None,
    ) -> None:
        self.name = name
        self.kinds = kinds
        self.plain_kinds = plain_kinds
        self.types = types

    @property
    def is_plain(self) -> bool:
        """Whether every value is its own JSON."""
        return self.kinds == self.plain_kinds

    def encode(self, value: Any, /) -> Any:
        """Return JSON for a value, or raise MismatchError."""
        raise NotImplementedError

    def decode(self, value: Any, /) -> Any:
        """Return the value of some JSON, or raise MismatchError."""
        raise NotImplementedError

    def are_plain(self, values: Collection[Any], /) -> bool:  # noqa: ARG002 - for subclasses
        """Tell, at the speed of C, that all values are fine as they are; False if not sure."""
        return False

    def mismatch(self, value: Any, advice: str = "") -> MismatchError:
        """Return the error for a value of another type."""
        return MismatchError(name_of(value), self.name, advice)


# The values that most fields have; equality is all there is to them.
_SIMPLE = frozenset({int, str, bool, bytes, datetime, date, type(None)})


def _parts(value: Any) -> list[Any] | None:  # noqa: PLR0911 - one return for each sort of value
    """Return what a compound value is made of, None for others."""
    # Enum members may have data types as mixins, and are compared by identity.
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return list(value)
    # Asked of the class: an instance of a model has a slow way to say no.
    cls: Any = type(value)
    if hasattr(cls, "__pydantic_fields__") and not dataclasses.is_dataclass(cls):
        extra = value.__pydantic_extra__ or {}
        private = value.__pydantic_private__ or {}
        return [*vars(value).values(), *extra.values(), *private.values()]
    if dataclasses.is_dataclass(cls):
        return [getattr(value, field.name, None) for field in dataclasses.fields(cls)]
    if hasattr(cls, "__struct_fields__"):
        return [getattr(value, name) for name in cls.__struct_fields__]
    return None


def are_same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - one return for each sort of value
    """Tell whether two values are equal and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if type(one) in _SIMPLE:
        return bool(one == other)
    if type(one) is float:
        # Not a number is unequal to itself, but it is the same.
        return bool(one == other or (one != one and other != other))  # noqa: PLR0124
    parts, others = _parts(one), _parts(other)
    if parts is not None and others is not None:
        return len(parts) == len(others) and all(map(are_same, parts, others))
    if isinstance(one, set | frozenset):
        return one == other and {type(x) for x in one} == {type(x) for x in other}
    try:
        # As floats: Decimal has NaNs too.
        return bool(one == other) or (bool(one != one) and bool(other != other))  # noqa: PLR0124
    except Exception:  # noqa: BLE001 - signalling NaNs and arrays refuse to be compared
        return False

"""Coders of lists, tuples, sets and dicts, and of plain JSON without a type."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from offload._typed_json.coder import KINDS, Coder, MismatchError, name_of
from offload._typed_json.scalars import INT, STR
from offload._typed_json.text import MAX_DEPTH, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

__all__ = ["ANY", "ArrayCoder", "DictCoder", "SetCoder", "TupleCoder"]

_ARRAY = frozenset({"array"})
_OBJECT = frozenset({"object"})
# Plain whatever their value; most of what documents are made of.
_EASY = frozenset({str, bool, type(None)})
_INT_TEXT = re.compile(r"0|-?[1-9]\d{0,4299}", re.ASCII)
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep, or inside itself"


class AnyCoder(Coder):
    """Plain JSON: what would not come back as it is gets refused."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("plain JSON", kinds=KINDS, plain_kinds=KINDS)

    def encode(self, value: Any, /) -> Any:
        self._check(value, 0)
        return value

    decode = encode

    def _check(self, value: Any, depth: int) -> None:
        kind = type(value)
        if kind in _EASY:
            return
        if kind is int:
            INT.encode(value)
        elif kind is float:
            if not math.isfinite(value):
                advice = "Annotate it as float, or pass None."
                raise MismatchError(str(value), "finite float", advice)
        elif depth >= MAX_DEPTH:
            raise MismatchError(_TOO_DEEP, self.name)
        elif kind is list:
            self._check_list(value, depth)
        elif kind is dict:
            self._check_dict(value, depth)
        else:
            raise self.mismatch(value, _any_advice(kind))

    def _check_list(self, value: list[Any], depth: int) -> None:
        # Scalars of one kind need no look at each.
        if STR.are_plain(value) or INT.are_plain(value):
            return
        index = 0
        try:
            for index, item in enumerate(value):  # noqa: B007 - for the error
                if type(item) not in _EASY:
                    self._check(item, depth + 1)
        except MismatchError as error:
            raise error.inside(f"[{index}]") from None

    def _check_dict(self, value: dict[Any, Any], depth: int) -> None:
        key = None
        try:
            for key, item in value.items():
                if type(key) is not str:
                    advice = "Annotate the keys, as in dict[int, str], or pass str keys."
                    raise MismatchError(f"{name_of(key)} as a key", "str key", advice)  # noqa: TRY301 - gets its path below
                if type(item) not in _EASY:
                    self._check(item, depth + 1)
        except MismatchError as error:
            raise error.inside(f"[{key!r:.80}]") from None


def _any_advice(kind: type) -> str:
    if kind is tuple:
        return "Without an annotation it would come back as a list: annotate it, or pass a list."
    return "Annotate the parameter, or the result, with this type, so that it can be rebuilt."


class _ItemsCoder(Coder):
    """What arrays have in common: items of one type."""

    __slots__ = ("item",)

    def __init__(self, name: str, exact: Any, item: Coder, *, is_list: bool = False) -> None:
        plain = _ARRAY if is_list and item.is_plain else frozenset[str]()
        super().__init__(name, kinds=_ARRAY, plain_kinds=plain, types=frozenset({exact}))
        self.item = item

    def _each(self, convert: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        out: list[Any] = []
        try:
            for value in values:
                out.append(convert(value))  # noqa: PERF401 - its length is the index of the culprit
        except MismatchError as error:
            raise error.inside(f"[{len(out)}]") from None
        return out

    def _items(self, value: Any) -> list[Any]:
        if type(value) is not list:
            raise self.mismatch(value)
        return value if self.item.are_plain(value) else self._each(self.item.decode, value)


class ArrayCoder(_ItemsCoder):
    """Lists, and tuples and deques of any length.

    Args:
        exact: the only type that is accepted.
        item: coder of the items.
        name: as of `Coder`.
        make: makes the value from a list of items, None for lists.
    """

    __slots__ = ("_exact", "_make")

    def __init__(
        self, name: str, exact: Any, item: Coder, make: Callable[[list[Any]], Any] | None = None
    ) -> None:
        super().__init__(name, exact, item, is_list=make is None)
        self._exact = exact
        self._make = make

    def encode(self, value: Any, /) -> Any:
        if type(value) is not self._exact:
            advice = ""
            if isinstance(value, tuple | list):
                advice = f"Convert it with {self._exact.__name__}(…), or change the annotation."
            raise self.mismatch(value, advice)
        if getattr(value, "maxlen", None) is not None:
            raise MismatchError("deque with a maxlen", self.name, "JSON does not keep it.")
        if self.item.are_plain(value):
            return value if type(value) is list else list(value)
        return self._each(self.item.encode, value)

    def decode(self, value: Any, /) -> Any:
        items = self._items(value)
        return items if self._make is None else self._make(items)


class SetCoder(_ItemsCoder):
    """Sets and frozensets, as arrays in an order that depends on the items alone."""

    __slots__ = ("_exact",)

    def __init__(self, name: str, exact: Any, item: Coder) -> None:
        super().__init__(name, exact, item)
        self._exact = exact

    def encode(self, value: Any, /) -> Any:
        if type(value) is not self._exact:
            raise self.mismatch(value)
        kinds = set(map(type, value))
        if (kinds in ({str}, {int})) and self.item.are_plain(value):
            return sorted(value)
        items = []
        try:
            items = [self.item.encode(item) for item in value]
        except MismatchError as error:
            raise error.inside("{…}") from None
        return sorted(items, key=dump)

    def decode(self, value: Any, /) -> Any:
        items = self._items(value)
        try:
            made = self._exact(items)
        except TypeError:
            raise MismatchError("array with items that a set cannot hold", self.name) from None
        if len(made) != len(items):
            raise MismatchError("array with an item twice", self.name)
        return made


class TupleCoder(Coder):
    """Tuples with a type for each place, and NamedTuples.

    Args:
        name: as of `Coder`.
        exact: the only type that is accepted.
        items: a coder for each place.
        fields: the names of a NamedTuple's items.
        defaults: values of the last places, where JSON may be shorter.
    """

    __slots__ = ("_decodes", "_defaults", "_encodes", "_exact", "_fields")

    def __init__(
        self,
        name: str,
        exact: Any,
        items: list[Coder],
        *,
        fields: tuple[str, ...] = (),
        defaults: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(name, kinds=_ARRAY, types=frozenset({exact}))
        self._exact = exact
        self._encodes = [coder.encode for coder in items]
        self._decodes = [coder.decode for coder in items]
        self._fields = fields
        self._defaults = defaults

    def encode(self, value: Any, /) -> Any:
        if type(value) is not self._exact:
            raise self.mismatch(value)
        if len(value) != len(self._encodes):
            raise MismatchError(f"{name_of(value)} of length {len(value)}", self.name)
        return self._convert(self._encodes, value)

    def decode(self, value: Any, /) -> Any:
        if type(value) is not list:
            raise self.mismatch(value)
        size = len(self._decodes)
        if not size - len(self._defaults) <= len(value) <= size:
            raise MismatchError(f"array of length {len(value)}", self.name)
        items = self._convert(self._decodes, value)
        items += self._defaults[len(self._defaults) - (size - len(items)) :]
        if self._exact is tuple:
            return tuple(items)
        # Not through __new__, which a subclass of a NamedTuple may have changed.
        return tuple.__new__(self._exact, items)

    def _convert(self, converts: list[Callable[[Any], Any]], values: Iterable[Any]) -> list[Any]:
        out: list[Any] = []
        try:
            # JSON may be shorter, where the last items have defaults.
            for convert, value in zip(converts, values, strict=False):
                out.append(convert(value))
        except MismatchError as error:
            place = len(out)
            part = f".{self._fields[place]}" if self._fields else f"[{place}]"
            raise error.inside(part) from None
        return out


class DictCoder(Coder):
    """Dicts: objects where keys are text or ints, else arrays of pairs; in their own order."""

    __slots__ = ("_has_int_keys", "_is_object", "_key", "_value")

    def __init__(self, name: str, key: Coder, value: Coder) -> None:
        self._has_int_keys = key is INT
        self._is_object = key.kinds == frozenset({"str"}) or self._has_int_keys
        kinds = _OBJECT if self._is_object else _ARRAY
        is_plain = key is STR and value.is_plain
        plain = kinds if is_plain else frozenset[str]()
        super().__init__(name, kinds=kinds, plain_kinds=plain, types=frozenset({dict}))
        self._key = key
        self._value = value

    def encode(self, value: Any, /) -> Any:
        if type(value) is not dict:
            raise self.mismatch(value)
        if self._key is STR and STR.are_plain(value) and self._value.are_plain(value.values()):
            return value
        pairs: list[tuple[Any, Any]] = []
        key = None
        try:
            for key, item in value.items():
                pairs.append((self._encode_key(key), self._value.encode(item)))
        except MismatchError as error:
            raise error.inside(f"[{key!r:.80}]") from None
        return self._unique(pairs, value) if self._is_object else [list(pair) for pair in pairs]

    def _encode_key(self, key: Any) -> Any:
        if self._has_int_keys:
            # True and 1 are one key to Python, but two texts.
            if type(key) is not int:
                raise MismatchError(f"{name_of(key)} as a key", "int")
            return str(INT.encode(key))
        return self._key.encode(key)

    def decode(self, value: Any, /) -> Any:
        if not self._is_object:
            return self._unique(self._pairs(value), value)
        if type(value) is not dict:
            raise self.mismatch(value)
        if self._key is STR and self._value.are_plain(value.values()):
            return value
        pairs: list[tuple[Any, Any]] = []
        key = None
        try:
            for key, item in value.items():
                pairs.append((self._decode_key(key), self._value.decode(item)))
        except MismatchError as error:
            raise error.inside(f"[{key!r:.80}]") from None
        return self._unique(pairs, value)

    def _decode_key(self, key: str) -> Any:
        if not self._has_int_keys:
            return self._key.decode(key)
        if _INT_TEXT.fullmatch(key) is None:
            raise MismatchError("key that is no int", "int")
        return int(key)

    def _pairs(self, value: Any) -> list[tuple[Any, Any]]:
        if type(value) is not list:
            raise self.mismatch(value)
        pairs: list[tuple[Any, Any]] = []
        try:
            for pair in value:
                if type(pair) is not list or len(pair) != 2:  # noqa: PLR2004 - a pair
                    raise MismatchError(name_of(pair), "pair of key and value")  # noqa: TRY301 - gets its path below
                pairs.append((self._key.decode(pair[0]), self._value.decode(pair[1])))
        except MismatchError as error:
            raise error.inside(f"[{len(pairs)}]") from None
        return pairs

    def _unique(self, pairs: Collection[tuple[Any, Any]], value: Collection[Any]) -> dict[Any, Any]:
        try:
            made = dict(pairs)
        except TypeError:
            raise MismatchError("key that a dict cannot hold", self.name) from None
        if len(made) != len(value):
            raise MismatchError("key twice", self.name)
        return made


ANY = AnyCoder()

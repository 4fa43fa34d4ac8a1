"""Coders of unions, literals, and types that contain themselves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from offload._typed_json.coder import (
    KINDS,
    Coder,
    MismatchError,
    UnsupportedTypeError,
    kind_of,
    name_of,
)
from offload._typed_json.scalars import FINITE, FLOAT
from offload._typed_json.text import MAX_DEPTH, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LiteralCoder", "RecursiveCoder", "union_of"]

_NATIVE = (type(None), bool, int, float, str)


def union_of(members: Sequence[tuple[str, Coder]]) -> Coder:
    """Return the coder of a union.

    Args:
        members: for each member a tag of its own and its coder, in the order of the annotation.
    """
    if any("str" in coder.kinds for _, coder in members if coder is not FLOAT):
        # Otherwise the text "NaN" could be a number.
        members = [(tag, FINITE if coder is FLOAT else coder) for tag, coder in members]
    coders = [coder for _, coder in members]
    tagged = {
        tag: coder
        for tag, coder in members
        if not coder.is_plain and any(_is_ambiguous(coder, other) for other in coders)
    }
    if tagged:
        tagged |= {tag: coder for tag, coder in members if "object" in coder.kinds}
    return UnionCoder(members, tagged)


def _is_ambiguous(one: Coder, other: Coder) -> bool:
    if one is other:
        return False
    shared = one.kinds & other.kinds
    return not (shared <= one.plain_kinds and shared <= other.plain_kinds)


class UnionCoder(Coder):
    """One of several types.

    A member that JSON alone can tell from the others is written as it is. Members that JSON cannot
    tell apart, such as two dataclasses, or a str and a UUID, are written with a tag, all but those
    that are plain JSON anyway, as the str.

    Args:
        members: tag and coder of each, in the order of the annotation.
        tagged: those that are written with their tag.
    """

    __slots__ = ("_by_kind", "_by_type", "_members", "_tagged")

    def __init__(self, members: Sequence[tuple[str, Coder]], tagged: dict[str, Coder]) -> None:
        coders = [coder for _, coder in members]
        kinds = frozenset[str]().union(*(c.kinds for tag, c in members if tag not in tagged))
        plain = frozenset(
            kind
            for kind in kinds
            if all(kind in c.plain_kinds for c in coders if kind in c.kinds)
            and not (tagged and kind == "object")
        )
        known = [coder.types for coder in coders]
        types = None if None in known else frozenset[type]().union(*(t for t in known if t))
        super().__init__(
            " | ".join(coder.name for coder in coders),
            kinds=kinds | {"object"} if tagged else kinds,
            plain_kinds=plain,
            types=types,
        )
        self._members = list(members)
        self._tagged = tagged
        untagged = [coder for tag, coder in members if tag not in tagged]
        self._by_kind = {k: [c for c in untagged if k in c.kinds] for k in KINDS}
        self._by_type: dict[type, list[tuple[str | None, Coder]]] = {}

    def encode(self, value: Any, /) -> Any:
        candidates = self._by_type.get(type(value))
        if candidates is None:
            candidates = self._candidates(type(value))
        for tag, coder in candidates:
            try:
                encoded = coder.encode(value)
            except MismatchError:
                if len(candidates) == 1:
                    raise
                continue
            return encoded if tag is None else {"type": tag, "value": encoded}
        raise self.mismatch(value)

    def _candidates(self, kind: type) -> list[tuple[str | None, Coder]]:
        found = [
            (tag if tag in self._tagged else None, coder)
            for tag, coder in self._members
            if coder.types is None or kind in coder.types
        ]
        return self._by_type.setdefault(kind, found)

    def decode(self, value: Any, /) -> Any:
        if self._tagged and type(value) is dict:
            return self._decode_tagged(value)
        candidates = self._by_kind.get(kind_of(value), [])
        for coder in candidates:
            try:
                return coder.decode(value)
            except MismatchError:
                if len(candidates) == 1:
                    raise
        raise self.mismatch(value)

    def _decode_tagged(self, value: dict[str, Any]) -> Any:
        tag = value.get("type")
        coder = self._tagged.get(tag) if type(tag) is str else None
        if coder is None or value.keys() != {"type", "value"}:
            tags = ", ".join(self._tagged)
            advice = f'Write {{"type": …, "value": …}} with one of the types {tags}.'
            raise MismatchError("object without a known type", self.name, advice)
        return coder.decode(value["value"])


class LiteralCoder(Coder):
    """The values of a `Literal`, each as its own type's coder writes it."""

    __slots__ = ("_read", "_write")

    def __init__(self, values: Sequence[Any], coder_of: Callable[[Any], Coder]) -> None:
        self._write: dict[tuple[type, Any], Any] = {}
        self._read: dict[tuple[str, str], Any] = {}
        kinds: set[str] = set()
        mixed: set[str] = set()
        for value in values:
            encoded = coder_of(value).encode(value)
            kind = kind_of(encoded)
            kinds.add(kind)
            if type(value) not in _NATIVE:
                mixed.add(kind)
            self._write[type(value), value] = encoded
            key = kind, dump(encoded)
            if key in self._read:
                raise UnsupportedTypeError(
                    f"Literal[{', '.join(map(repr, values))}] has two values that are the same JSON"
                )
            self._read[key] = value
        super().__init__(
            f"Literal[{', '.join(map(repr, values))}]",
            kinds=frozenset(kinds),
            plain_kinds=frozenset(kinds - mixed),
            types=frozenset(kind for kind, _ in self._write),
        )

    def encode(self, value: Any, /) -> Any:
        try:
            return self._write[type(value), value]
        except (KeyError, TypeError):
            raise MismatchError(f"another {name_of(value)}", self.name) from None

    def decode(self, value: Any, /) -> Any:
        kind = kind_of(value)
        if kind in self.kinds:
            found = self._read.get((kind, dump(value)), self)
            if found is not self:
                return found
        raise MismatchError(f"another {name_of(value)}", self.name)


class _Depth(threading.local):
    value = 0


_depth = _Depth()


class RecursiveCoder(Coder):
    """Stands for a type inside itself, and limits how deep values are nested.

    Args:
        name: as of `Coder`.
        kinds: as of `Coder`; those of the whole type must be among them.
    """

    __slots__ = ("target",)

    def __init__(self, name: str, kinds: frozenset[str] = KINDS) -> None:
        super().__init__(name, kinds=kinds)
        self.target: Coder | None = None

    def encode(self, value: Any, /) -> Any:
        assert self.target is not None
        return self._nested(self.target.encode, value)

    def decode(self, value: Any, /) -> Any:
        assert self.target is not None
        return self._nested(self.target.decode, value)

    def _nested(self, convert: Callable[[Any], Any], value: Any) -> Any:
        if _depth.value >= MAX_DEPTH:
            raise MismatchError(f"nested more than {MAX_DEPTH} deep, or inside itself", self.name)
        _depth.value += 1
        try:
            return convert(value)
        finally:
            _depth.value -= 1

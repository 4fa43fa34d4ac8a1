"""Coders of dataclasses, TypedDicts and enums."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from offload._typed_json.coder import (
    Coder,
    MismatchError,
    UnsupportedTypeError,
    are_same,
    kind_of,
    name_of_type,
)
from offload._typed_json.text import TextError, dump, load

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["DataclassCoder", "EnumCoder", "FieldCoder", "TypedDictCoder", "changed"]

_OBJECT = frozenset({"object"})


class FieldCoder(NamedTuple):
    """One field of a record."""

    coder: Coder
    is_required: bool


def _round_trip(coder: Coder, encoded: Any, value: Any) -> None:
    """Raise MismatchError unless JSON comes back as the value that it was made of."""
    try:
        # A copy: what the JSON shares with the value must not reach the class's own code.
        back = coder.decode(load(dump(encoded)))
    except TextError as error:
        raise MismatchError(f"value that JSON cannot hold ({error})", coder.name) from None
    if not are_same(back, value):
        raise changed(coder)


def changed(coder: Coder) -> MismatchError:
    """Return the error for a value that is not the same after a round trip."""
    advice = "Its own code, a private attribute or a field's type changes it on the way."
    return MismatchError("value that would not come back the same", coder.name, advice)


class _FieldsCoder(Coder):
    """Objects with a coder for each key."""

    __slots__ = ("_fields",)

    def __init__(self, cls: type, fields: Mapping[str, FieldCoder]) -> None:
        exact = frozenset({dict if issubclass(cls, dict) else cls})
        super().__init__(name_of_type(cls), kinds=_OBJECT, types=exact)
        self._fields = dict(fields)

    def _decode_fields(self, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise self.mismatch(value)
        out: dict[str, Any] = {}
        name = ""
        try:
            for name, item in value.items():
                field = self._fields.get(name)
                if field is None:
                    raise MismatchError(f"unknown field {name!r:.80}", self.name)  # noqa: TRY301 - gets its path below
                out[name] = field.coder.decode(item)
        except MismatchError as error:
            raise (error.inside(f".{name}") if name in self._fields else error) from None
        self._check_all_there(out)
        return out

    def _check_all_there(self, given: Mapping[str, Any]) -> None:
        for name, field in self._fields.items():
            if field.is_required and name not in given:
                raise MismatchError(f"object without field {name!r}", self.name)


class DataclassCoder(_FieldsCoder):
    """Dataclasses: built by their constructor, from the fields that it takes.

    Where a class has code of its own in that way (`__post_init__`, a constructor, fields that are
    no parameters), each value is decoded again when it is encoded, and refused if it differs.
    """

    __slots__ = ("_cls", "_has_code")

    def __init__(self, cls: type, fields: Mapping[str, FieldCoder]) -> None:
        super().__init__(cls, fields)
        self._cls = cls
        self._has_code = _has_code(cls)

    def encode(self, value: Any, /) -> Any:
        if type(value) is not self._cls:
            advice = "Annotate the subclass." if isinstance(value, self._cls) else ""
            raise self.mismatch(value, advice)
        out: dict[str, Any] = {}
        name = ""
        try:
            for name, field in self._fields.items():
                out[name] = field.coder.encode(getattr(value, name))
        except MismatchError as error:
            raise error.inside(f".{name}") from None
        except AttributeError:
            raise MismatchError("object without this attribute", self.name).inside(
                f".{name}"
            ) from None
        if self._has_code:
            _round_trip(self, out, value)
        return out

    def decode(self, value: Any, /) -> Any:
        fields = self._decode_fields(value)
        try:
            return self._cls(**fields)
        except Exception as error:
            found = f"object that the class refuses ({type(error).__name__}: {error!s:.200})"
            raise MismatchError(found, self.name) from error


def _has_code(cls: Any) -> bool:
    if hasattr(cls, "__post_init__") or cls.__new__ is not object.__new__:
        return True
    maker = next(base for base in cls.__mro__ if "__init__" in vars(base))
    params = vars(maker).get("__dataclass_params__")
    if params is None or not params.init or "__dataclass_fields__" not in vars(cls):
        return True
    if not params.frozen and cls.__setattr__ is not object.__setattr__:
        return True
    return not all(field.init for field in dataclasses.fields(cls))


class TypedDictCoder(_FieldsCoder):
    """TypedDicts: dicts with the annotated keys, in their own order."""

    __slots__ = ()

    def encode(self, value: Any, /) -> Any:
        if type(value) is not dict:
            raise self.mismatch(value)
        out: dict[str, Any] = {}
        key: Any = None
        try:
            for key, item in value.items():
                field = self._fields.get(key)
                if field is None:
                    raise MismatchError("unknown key", self.name)  # noqa: TRY301 - gets its path below
                out[key] = field.coder.encode(item)
        except MismatchError as error:
            raise error.inside(f"[{key!r:.80}]") from None
        self._check_all_there(out)
        return out

    def decode(self, value: Any, /) -> Any:
        return self._decode_fields(value)


class EnumCoder(Coder):
    """Enums, by the value of the member.

    Args:
        cls: the enum.
        coder_of: gives the coder of a member's value.
    """

    __slots__ = ("_by_json", "_cls", "_json")

    def __init__(self, cls: type[enum.Enum], coder_of: Callable[[Any], Coder]) -> None:
        self._cls = cls
        self._json: dict[str, Any] = {}
        self._by_json: dict[str, enum.Enum] = {}
        for name, member in cls.__members__.items():
            # An alias has the name of another member.
            if member.name == name:
                self._add(member, coder_of(member.value))
        kinds = {kind_of(encoded) for encoded in self._json.values()}
        if issubclass(cls, enum.Flag):
            kinds.add("int")
        super().__init__(name_of_type(cls), kinds=frozenset(kinds), types=frozenset({cls}))

    def _add(self, member: enum.Enum, coder: Coder) -> None:
        try:
            encoded = coder.encode(member.value)
        except MismatchError as error:
            raise UnsupportedTypeError(
                f"{self._cls.__qualname__}.{member.name} has a value that JSON cannot hold"
                f" ({error.found}); give it a str or int"
            ) from None
        if self._by_json.setdefault(dump(encoded), member) is not member:
            raise UnsupportedTypeError(
                f"{self._cls.__qualname__}.{member.name} has the same JSON as another member"
            )
        self._json[member.name] = encoded

    def encode(self, value: Any, /) -> Any:
        if type(value) is not self._cls:
            raise self.mismatch(value, f"Pass a member of {self._cls.__qualname__}.")
        if isinstance(value, enum.Flag):
            return value.value
        return self._json[value.name]

    def decode(self, value: Any, /) -> Any:
        if kind_of(value) in self.kinds:
            member = self._by_json.get(dump(value))
            if member is not None:
                return member
            if issubclass(self._cls, enum.Flag) and type(value) is int:
                return self._combined(value)
        raise MismatchError(f"{kind_of(value)} that is no value of it", self.name)

    def _combined(self, value: int) -> Any:
        made: Any
        try:
            made = self._cls(value)
        except ValueError:
            made = None
        if type(made) is not self._cls or made.value != value:
            raise MismatchError("int with bits that it does not have", self.name)
        return made

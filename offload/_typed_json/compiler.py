"""From an annotation to the coder of its values."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import pathlib
import sys
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from offload._typed_json import scalars, times
from offload._typed_json.annotations import Scope, bindings_of, own_annotations, scope_of_class
from offload._typed_json.coder import KINDS, UnsupportedTypeError, name_of_type
from offload._typed_json.containers import ANY, ArrayCoder, DictCoder, SetCoder, TupleCoder
from offload._typed_json.models import is_model, is_struct, model_coder, struct_coder
from offload._typed_json.records import DataclassCoder, EnumCoder, FieldCoder, TypedDictCoder
from offload._typed_json.unions import LiteralCoder, RecursiveCoder, union_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._typed_json.coder import Coder

__all__ = ["Compiler"]

_LEAVES: dict[Any, Coder] = {  # pyright: ignore[reportAssignmentType] - of subclasses
    coder_type: coder
    for coder in (
        *(scalars.NONE, scalars.BOOL, scalars.STR, scalars.BYTES, scalars.BYTEARRAY, scalars.UUIDS),
        *(times.DATETIME, times.DATE, times.TIME, times.DELTA, times.ZONE),
    )
    for coder_type in coder.types or ()
} | {int: scalars.INT, float: scalars.FLOAT, None: scalars.NONE, typing.LiteralString: scalars.STR}

_abc = collections.abc
_LISTS = {list, _abc.Sequence, _abc.MutableSequence, _abc.Iterable, _abc.Collection}
_SETS = {set, _abc.Set, _abc.MutableSet}
_DICTS = {dict, _abc.Mapping, _abc.MutableMapping}
_CONTAINERS = {*_LISTS, *_SETS, *_DICTS, frozenset, collections.deque}
_VARIADIC = {"TypeVarTuple", "Unpack", "_UnpackGenericAlias"}
# Generic types that grow at each turn have no end; nobody nests by hand as deep as this.
_MAX_TYPES = 200


class Compiler:
    """Makes the coder of one annotation.

    One for each annotation, since the JSON of a recursive type may depend on where it is entered.
    """

    def __init__(self) -> None:
        self._open: dict[Any, RecursiveCoder] = {}

    def coder(self, hint: Any, scope: Scope) -> Coder:  # noqa: PLR0911 - one return for each sort of hint
        """Return the coder of a hint.

        Raises:
            UnsupportedTypeError: values of this type cannot be kept as JSON.
        """
        hint, _ = scope.qualified(hint)
        if hint is Any or hint is object:
            return ANY
        try:
            return _LEAVES[hint]
        except (KeyError, TypeError):
            # Hints such as Literal[…] of something mutable do not hash.
            pass
        if hasattr(hint, "__supertype__"):
            return self.coder(hint.__supertype__, scope)
        kind = type(hint).__name__
        if kind in {"TypeVar", "ParamSpecArgs", "ParamSpecKwargs", "TypeVarTuple"}:
            return self._variable(hint, scope)
        origin = get_origin(hint)
        if kind == "TypeAliasType" or type(origin).__name__ == "TypeAliasType":
            return self._alias(hint, origin or hint, scope)
        if origin is Union or origin is types.UnionType:
            return self._union(get_args(hint), scope)
        if origin is Literal:
            return LiteralCoder(get_args(hint), self._of_value)
        cls = origin if origin is not None else hint
        if isinstance(cls, type):
            return self._class(hint, cls, get_args(hint), scope)
        raise UnsupportedTypeError(f"{hint!r:.200} is not a type of values that JSON can hold")

    def _of_value(self, value: Any) -> Coder:
        return self.coder(type(value), Scope({}))

    def _variable(self, hint: Any, scope: Scope) -> Coder:
        default = getattr(hint, "__default__", None)
        if default is not None and default is not getattr(typing, "NoDefault", None):
            return self.coder(default, scope)
        if getattr(hint, "__constraints__", ()):
            return self._union(hint.__constraints__, scope)
        bound = getattr(hint, "__bound__", None)
        return ANY if bound is None else self.coder(bound, scope)

    def _alias(self, hint: Any, alias: Any, scope: Scope) -> Coder:
        args = tuple(scope.resolve(arg) for arg in get_args(hint))
        variables = dict(zip(alias.__type_params__, args, strict=False))

        def make() -> Coder:
            names = vars(sys.modules.get(alias.__module__, typing))
            inner = {p.__name__: p for p in alias.__type_params__}
            try:
                value = alias.__value__
            except NameError as error:
                raise UnsupportedTypeError(
                    f"alias {alias.__name__} names {error.name!r}, which does not exist at run time"
                ) from None
            return self.coder(value, Scope(names, inner, variables=variables))

        return self._recursive((alias, args), alias.__name__, KINDS, make)

    def _union(self, members: tuple[Any, ...], scope: Scope) -> Coder:
        flat: list[Any] = []
        for member in members:
            resolved, _ = scope.qualified(member)
            if get_origin(resolved) in {Union, types.UnionType}:
                flat.extend(get_args(resolved))
            else:
                flat.append(resolved)
        coders: dict[int, Coder] = {}
        for member in flat:
            coder = self.coder(member, scope)
            coders.setdefault(id(coder), coder)
        if len(coders) == 1:
            return next(iter(coders.values()))
        return union_of(_tagged(list(coders.values())))

    def _recursive(
        self, key: Any, name: str, kinds: frozenset[str], make: Callable[[], Coder]
    ) -> Coder:
        if key in self._open:
            return self._open[key]
        if len(self._open) > _MAX_TYPES:
            raise UnsupportedTypeError(f"{name} nests ever new types in itself")
        self._open[key] = stand_in = RecursiveCoder(name, kinds)
        try:
            coder = make()
        finally:
            del self._open[key]
        stand_in.target = coder
        return coder

    def _class(self, hint: Any, cls: type, args: tuple[Any, ...], scope: Scope) -> Coder:  # noqa: PLR0911 - one return for each sort of class
        container = self._container(cls, args, scope)
        if container is not None:
            return container
        if is_model(cls):
            return model_coder(hint)
        if is_struct(cls):
            return struct_coder(hint, cls)
        if issubclass(cls, enum.Enum):
            return EnumCoder(cls, self._of_value)
        record = self._record_maker(cls)
        if record is not None:
            values = tuple(scope.resolve(arg) for arg in args)
            kinds = frozenset({"array" if issubclass(cls, tuple) else "object"})
            key = (cls, values)
            return self._recursive(key, name_of_type(cls), kinds, lambda: record(cls, values))
        if issubclass(cls, pathlib.PurePath):
            return scalars.path_coder(cls)
        if cls.__module__ in {"decimal", "_decimal", "_pydecimal"} and cls.__name__ == "Decimal":
            return scalars.decimal_coder()
        if cls.__module__ in {"collections.abc", "typing", "builtins"}:
            raise UnsupportedTypeError(f"{hint!r:.200} is not a type of values that JSON can hold")
        return model_coder(hint)

    def _container(self, cls: Any, args: tuple[Any, ...], scope: Scope) -> Coder | None:  # noqa: PLR0911 - one return for each sort of container
        if cls is tuple:
            return self._tuple(args, scope)
        if cls not in _CONTAINERS:
            return None
        items = [self.coder(arg, scope) for arg in args]
        first = items[0] if items else ANY
        if cls in _LISTS:
            return ArrayCoder(f"list[{first.name}]", list, first)
        if cls in _SETS:
            return SetCoder(f"set[{first.name}]", set, first)
        if cls is frozenset:
            return SetCoder(f"frozenset[{first.name}]", frozenset, first)
        if cls is collections.deque:
            return ArrayCoder(f"deque[{first.name}]", collections.deque, first, collections.deque)
        key = scalars.STR if first is ANY else first
        value = items[1] if len(items) > 1 else ANY
        return DictCoder(f"dict[{key.name}, {value.name}]", key, value)

    def _tuple(self, args: tuple[Any, ...], scope: Scope) -> Coder:
        if not args or args[-1] is Ellipsis:
            item = self.coder(args[0], scope) if args else ANY
            return ArrayCoder(f"tuple[{item.name}, ...]", tuple, item, tuple)
        if any(type(arg).__name__ in _VARIADIC for arg in args):
            return ArrayCoder("tuple", tuple, ANY, tuple)
        items = [self.coder(arg, scope) for arg in args if arg != ()]
        return TupleCoder(f"tuple[{', '.join(item.name for item in items)}]", tuple, items)

    def _record_maker(self, cls: Any) -> Callable[[Any, tuple[Any, ...]], Coder] | None:
        if dataclasses.is_dataclass(cls):
            return self._dataclass
        if issubclass(cls, dict) and hasattr(cls, "__required_keys__"):
            return self._typed_dict
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return self._named_tuple
        return None

    def _fields(self, cls: Any, args: tuple[Any, ...]) -> dict[str, tuple[Any, Scope]]:
        found: dict[str, tuple[Any, Scope]] = {}
        bindings = bindings_of(cls, args)
        # A TypedDict has its bases in the bindings only.
        order = [base for base in cls.__mro__ if base in bindings]
        order += [base for base in bindings if base not in order]
        for base in reversed(order):
            scope = scope_of_class(base, bindings[base])
            found |= {name: (hint, scope) for name, hint in own_annotations(base).items()}
        return found

    def _dataclass(self, cls: Any, args: tuple[Any, ...]) -> Coder:
        hints = self._fields(cls, args)
        fields: dict[str, FieldCoder] = {}
        for item in dataclasses.fields(cls):
            if not item.init:
                continue
            hint, scope = hints.get(item.name, (item.type, scope_of_class(cls, {})))
            is_required = item.default is item.default_factory is dataclasses.MISSING
            fields[item.name] = FieldCoder(self.coder(hint, scope), is_required)
        for name, item in cls.__dataclass_fields__.items():
            is_pseudo = "InitVar" in repr(item.type) and item not in dataclasses.fields(cls)
            if is_pseudo and item.default is dataclasses.MISSING:
                raise UnsupportedTypeError(
                    f"{name_of_type(cls)} is made with {name}, an InitVar that its objects do not"
                    " keep; give it a default or make it a field"
                )
        return DataclassCoder(cls, fields)

    def _typed_dict(self, cls: Any, args: tuple[Any, ...]) -> Coder:
        fields: dict[str, FieldCoder] = {}
        for name, (hint, scope) in self._fields(cls, args).items():
            # Python does not see the qualifier of an annotation that is a string.
            _, qualifiers = scope.qualified(hint)
            is_required = name in cls.__required_keys__
            if typing.NotRequired in qualifiers or typing.Required in qualifiers:
                is_required = typing.Required in qualifiers
            fields[name] = FieldCoder(self.coder(hint, scope), is_required)
        return TypedDictCoder(cls, fields)

    def _named_tuple(self, cls: Any, args: tuple[Any, ...]) -> Coder:
        hints = self._fields(cls, args)
        nothing: tuple[Any, Scope] = (Any, Scope({}))
        coders = [self.coder(*hints.get(name, nothing)) for name in cls._fields]
        defaults = tuple(cls._field_defaults.values())
        return TupleCoder(name_of_type(cls), cls, coders, fields=cls._fields, defaults=defaults)


def _tagged(coders: list[Coder]) -> list[tuple[str, Coder]]:
    """Give each coder of a union a tag: its short name where that is its own, else the full one."""
    names = [coder.name for coder in coders]
    short = [n if "[" in n or "|" in n else n.rpartition(".")[2] for n in names]
    tags = [s if short.count(s) == 1 else n for s, n in zip(short, names, strict=True)]
    if len(set(tags)) < len(tags):
        raise UnsupportedTypeError(f"union has two members of the same name: {', '.join(tags)}")
    return list(zip(tags, coders, strict=True))

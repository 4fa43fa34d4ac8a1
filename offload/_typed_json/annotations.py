"""What an annotation means where it was written: strings, forward references, type variables."""

from __future__ import annotations

import sys
import typing
from dataclasses import dataclass, field
from typing import Any, ForwardRef, Generic, Protocol, get_args, get_origin

from offload._typed_json.coder import UnsupportedTypeError

if typing.TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping

__all__ = ["Scope", "bindings_of", "own_annotations", "scope_of_class", "signature_of"]

# What says something about a field, and nothing about its type.
_QUALIFIERS = {
    getattr(typing, name)
    for name in ("Annotated", "Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
    if hasattr(typing, name)
}


@dataclass(frozen=True)
class Scope:
    """The names and type variables that are known where an annotation was written.

    Attributes:
        names: the module's names.
        inner: names that come before those of the module, such as type parameters.
        outer: names that come after them, such as those of a class body.
        variables: what type variables stand for.
    """

    names: dict[str, Any]
    inner: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    variables: Mapping[Any, Any] = field(default_factory=dict[Any, Any])

    def resolve(self, hint: Any) -> Any:
        """Return what a hint stands for, with strings evaluated and type variables replaced."""
        while isinstance(hint, str | ForwardRef):
            hint = self._evaluate(hint)
        if type(hint).__name__ == "TypeVar":
            return self.variables.get(hint, hint)
        # A generic class without arguments has parameters too, and they are its own.
        variables = () if get_origin(hint) is None else getattr(hint, "__parameters__", ())
        if any(each in self.variables for each in variables):
            return hint[tuple(self.variables.get(each, each) for each in variables)]
        return hint

    def _evaluate(self, hint: str | ForwardRef) -> Any:
        names = self.names
        text = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        if isinstance(hint, ForwardRef):
            module = getattr(hint, "__forward_module__", None)
            module = sys.modules.get(module) if isinstance(module, str) else module
            names = vars(module) if module is not None else names
        try:
            return self._lookup(text, names)
        except NameError as error:
            raise UnsupportedTypeError(
                f"annotation {text!r} names {error.name!r}, which does not exist at run time;"
                " import it outside of `if TYPE_CHECKING`"
            ) from None
        except Exception as error:
            raise UnsupportedTypeError(
                f"annotation {text!r} cannot be evaluated ({type(error).__name__}: {error})"
            ) from error

    def _lookup(self, text: str, names: dict[str, Any]) -> Any:
        # The code's own annotation, as `typing.get_type_hints` evaluates it.
        inner = dict(self.inner)
        try:
            return eval(text, names, inner)  # noqa: S307
        except NameError:
            if not self.outer:
                raise
        # Last, so that a field or method named as a type does not stand in its way.
        return eval(text, names, {**self.outer, **inner})  # noqa: S307

    def qualified(self, hint: Any) -> tuple[Any, set[Any]]:
        """Return what a hint stands for without qualifiers, and the qualifiers that it had."""
        found: set[Any] = set()
        hint = self.resolve(hint)
        while get_origin(hint) in _QUALIFIERS or hint in _QUALIFIERS_BARE:
            origin = get_origin(hint)
            # Annotated's origin is seen as the class, and its first argument as the type.
            found.add(origin)
            args = get_args(hint)
            hint = self.resolve(args[0] if args else Any)
        return hint, found


_QUALIFIERS_BARE: tuple[Any, ...] = (typing.Final,)


def own_annotations(thing: Any) -> dict[str, Any]:
    """Return a class's own annotations, unevaluated as far as Python allows it."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(thing, format=annotationlib.Format.FORWARDREF)
    return dict(vars(thing).get("__annotations__", {}))


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature, its annotations unevaluated as far as Python allows it."""
    import inspect

    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def scope_of_class(cls: type, variables: Mapping[Any, Any]) -> Scope:
    """Return the scope in which a class's body was written."""
    module = sys.modules.get(cls.__module__)
    inner = {p.__name__: p for p in getattr(cls, "__type_params__", ())}
    outer = {cls.__name__: cls, **vars(cls)}
    return Scope(vars(module) if module is not None else {}, inner, outer, variables)


def bindings_of(cls: Any, args: tuple[Any, ...]) -> dict[type, dict[Any, Any]]:
    """Return for a class and each of its bases what its type variables stand for."""
    found: dict[type, dict[Any, Any]] = {}

    def visit(base: Any, values: tuple[Any, ...]) -> None:
        if base in found:
            return
        bound = dict(zip(getattr(base, "__parameters__", ()), values, strict=False))
        found[base] = bound
        scope = Scope({}, variables=bound)
        for parent in vars(base).get("__orig_bases__", base.__bases__):
            origin = get_origin(parent) or parent
            if isinstance(origin, type) and origin not in {Generic, Protocol, object}:
                visit(origin, tuple(_bound(scope, arg) for arg in get_args(parent)))

    visit(cls, args)
    return found


def _bound(scope: Scope, hint: Any) -> Any:
    # Strings belong to the module of the class, and are evaluated there.
    return hint if isinstance(hint, str | ForwardRef) else scope.resolve(hint)

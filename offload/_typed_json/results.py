"""The coder of what a function returns, or of the items that it yields."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import weakref
from typing import TYPE_CHECKING, Any, get_args, get_origin

from offload._typed_json.annotations import Scope, signature_of
from offload._typed_json.coder import UnsupportedTypeError
from offload._typed_json.compiler import Compiler
from offload._typed_json.containers import ANY

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._typed_json.coder import Coder, MismatchError

__all__ = ["coder_of_result", "innermost", "is_compiled", "is_untyped", "scope_of"]

_ITERATORS = frozenset(
    {collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator}
)
_known: weakref.WeakKeyDictionary[Any, dict[bool, Coder | UnsupportedTypeError]] = (
    weakref.WeakKeyDictionary()
)


def innermost(function: Any) -> Any:
    """Return the plain function below wrappers, partial applications and methods."""
    raw = inspect.unwrap(function)
    while isinstance(raw, functools.partial):
        raw = inspect.unwrap(raw.func)
    return getattr(raw, "__func__", raw)


def scope_of(function: Any) -> Scope:
    """Return the scope in which a function's annotations were written; it is an innermost one."""
    names = getattr(function, "__globals__", {})
    return Scope(names, {p.__name__: p for p in getattr(function, "__type_params__", ())})


def coder_of_result(function: Callable[..., Any], *, is_item: bool) -> Coder:
    """Return the coder of what a function is annotated to return, made once for each function.

    Args:
        function: a plain function.
        is_item: of one item of what it yields.

    Raises:
        UnsupportedTypeError: it has no annotation, or one of which there is no coder.
    """
    made = _known.setdefault(function, {})
    if is_item not in made:
        try:
            made[is_item] = _compiled(function, is_item=is_item)
        except UnsupportedTypeError as error:
            made[is_item] = error
    found = made[is_item]
    if isinstance(found, UnsupportedTypeError):
        # Another one: with its traceback it would keep the frames of the first caller.
        raise UnsupportedTypeError(str(found))
    return found


def is_compiled(function: Callable[..., Any], *, is_item: bool) -> bool:
    """Return whether `coder_of_result` has its answer, and takes no time."""
    return is_item in _known.get(function, {})


def is_untyped(error: MismatchError) -> bool:
    """Return whether a value does not fit since the annotation says nothing of it."""
    return error.expected == ANY.name


def _compiled(function: Callable[..., Any], *, is_item: bool) -> Coder:
    scope = scope_of(innermost(function))
    try:
        hint = signature_of(function).return_annotation
    except (TypeError, ValueError):  # of something that is called without being a function
        hint = inspect.Signature.empty
    if hint is inspect.Signature.empty:
        raise UnsupportedTypeError("the function has no annotation that says what it returns")
    if is_item:
        hint, _ = scope.qualified(hint)
        if get_origin(hint) not in _ITERATORS or not get_args(hint):
            raise UnsupportedTypeError("the function has no annotation that says what it yields")
        hint = get_args(hint)[0]
    try:
        return Compiler().coder(type(None) if hint is None else hint, scope)
    except RecursionError:
        raise UnsupportedTypeError("its annotation has no end") from None

"""Finds a function by `module:qualname`."""

from __future__ import annotations

import importlib
import sys

from offload._wire.lean import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


# Run name of a re-imported `__main__`, the convention of multiprocessing: a guard of the form
# `if __name__ == "__main__":` is false, and pickles made in the worker name this module.
MAIN_ALIAS = "__mp_main__"


class NotFoundError(Exception):
    """The function cannot be imported here; the text says why."""


def guard_imports() -> Callable[[], None]:
    """Note what an import might change; return what undoes that. A worker has one of its own."""
    return lambda: None


def guard_relay() -> Callable[[], None]:
    """Return what has log records go to the server again; a worker has one of its own."""
    return lambda: None


_cache: dict[str, Callable[..., Any]] = {}
# What `@offload` made in this process, by the name of the function that it was put on. Under that
# name in its module may stand something else: a decorator above ours, another function, nothing.
_decorated: dict[str, Any] = {}
# Of functions that are sent by value; each change of what they refer to makes another one.
_by_value: dict[bytes, Callable[..., Any]] = {}
_MOST_BY_VALUE = 16


def resolve(reference: str | bytes) -> Callable[..., Any]:
    """Return the plain function for a reference.

    Args:
        reference: `module:qualname`, or the pickled function itself where its module exists only
            in the parent (a notebook, `python -c`).

    Raises:
        NotFoundError: it cannot be imported, or is not callable.
    """
    if isinstance(reference, bytes):
        function = _by_value.get(reference)
        if function is None:
            function = _load(reference)
            if len(_by_value) >= _MOST_BY_VALUE:
                _by_value.clear()
            _by_value[reference] = function
        return function
    function = _cache.get(reference)
    if function is None:
        function = _cache[reference] = _import(reference)
    return function


def _load(reference: bytes) -> Callable[..., Any]:
    try:
        function = pickle.loads(reference)
    except Exception as error:
        message = f"the function was sent by value and cannot be rebuilt: {error!r}"
        raise NotFoundError(message) from error
    return plain(function)


def _import(reference: str) -> Callable[..., Any]:
    undo = guard_imports()
    try:
        function: Any = _function_at(reference)
    finally:
        undo()
    if not callable(function):
        message = f"{reference!r} is {type(function).__name__!r} in the worker, not a function"
        raise NotFoundError(message)
    return function  # type: ignore[no-any-return]


def _function_at(reference: str) -> Any:
    try:
        found = find(reference)
    except NotFoundError as error:
        # Only where its module was imported, and the name is not there: of one that failed on the
        # way, such as a main module that would start a second server, nothing is run.
        made = decorated_as(reference) if isinstance(error.__cause__, AttributeError) else None
        if made is None:
            raise
        return made.__wrapped__
    made = decorated_in(found)
    if made is None:
        made = decorated_as(reference)
    return made.__wrapped__ if made is not None else plain(found)


def remember(reference: str, decorated: Any) -> None:
    """Note what `@offload` made of the function at `module:qualname`."""
    _decorated[reference] = decorated


def decorated_modules() -> set[str]:
    """Return the modules in which functions were decorated in this process."""
    return {reference.partition(":")[0] for reference in list(_decorated)} - {"__main__"}


def modules_for(pool: str) -> set[str]:
    """Return the modules of the functions that were decorated for a pool of this name."""
    return {
        reference.partition(":")[0]
        for reference, made in list(_decorated.items())
        if made.pool_name == pool
    }


def is_passed_by(function: Any) -> bool:
    """Return whether a function is decorated, and this is the plain one."""
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
    made = decorated_as(name)
    return made is not None and made is not function and made.__wrapped__ is function


def decorated_as(reference: str) -> Any:
    """Return what `@offload` made of the function at `module:qualname`, None if it made nothing."""
    module, _, qualname = reference.partition(":")
    if module == "__main__" and MAIN_ALIAS in sys.modules:
        made = _decorated.get(f"{MAIN_ALIAS}:{qualname}")
        if made is not None:
            return made
    return _decorated.get(reference)


def find(reference: str) -> Any:
    """Return what is at `module:qualname`.

    Raises:
        NotFoundError: it cannot be imported.
    """
    module_name, _, qualname = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except BaseException as error:
        # BaseException: a module that calls sys.exit() when imported must not end the worker.
        message = f"importing {module_name!r} in the worker failed: {error!r}"
        raise NotFoundError(message) from error
    for name in qualname.split("."):
        try:
            found = _attribute(found, name)
        except BaseException as error:
            message = f"{module_name!r} has no {qualname!r} in the worker: {error!r}"
            raise NotFoundError(message) from error
    return found


def _attribute(owner: Any, name: str) -> Any:
    # Statically in classes: a class method must not be bound here, its class comes as argument.
    if isinstance(owner, type):
        for base in owner.__mro__:
            if name in base.__dict__:
                return base.__dict__[name]
    return getattr(owner, name)


def decorated_in(found: Any) -> Any:
    """Return what `@offload` made below other decorators, None if they do not lead to it."""
    for _ in range(100):  # a chain of wrappers is never this long; a cyclic one would not end
        # By its class first: what we made has the attributes of a function and of a method, too.
        if getattr(type(found), "__offload__", False):
            return found
        inner = getattr(found, "__func__", None) or getattr(found, "__wrapped__", None)
        if inner is None:
            return None
        found = inner
    return None


def plain(found: Any) -> Callable[..., Any]:
    """Return the plain function below our decorator, which other decorators may wrap."""
    made = decorated_in(found)
    if made is not None:
        return made.__wrapped__  # type: ignore[no-any-return]
    if isinstance(found, (staticmethod, classmethod)):
        return found.__func__
    return found  # type: ignore[no-any-return]


def apply(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `function`, which was sent pickled because it has no name to be found by."""
    return function(*args, **kwargs)

"""Arguments of a call by parameter and back, with Python's own errors."""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

__all__ = ["MISSING", "Binder", "Bound", "Parameter"]

MISSING: Final[Any] = object()

_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


class Parameter(NamedTuple):
    """One parameter, with the name that it has in JSON: `*args` and `**kwargs` keep their stars."""

    key: str
    name: str
    kind: Any
    annotation: Any


Bound = tuple[Any, ...]


class Binder:
    """Binds calls of one signature.

    A function with the same parameters is compiled, and called: that takes a tenth of the time of
    `inspect.Signature.bind`, and its TypeError is the one that a direct call would raise.

    Args:
        signature: what is bound.
        name: the function's name, for errors.
    """

    def __init__(self, signature: inspect.Signature, name: str) -> None:
        self.parameters = [_parameter(each) for each in signature.parameters.values()]
        self._named = {
            each.name
            for each in self.parameters
            if each.kind in {each.kind.KEYWORD_ONLY, each.kind.POSITIONAL_OR_KEYWORD}
        }
        self.bind = _compiled(signature, name)

    def call_of(self, bound: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments of what is there by the key of parameters.

        Raises:
            TypeError: as the call would.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        has_gap = False
        for key, name, kind, _ in self.parameters:
            value = bound.get(key, MISSING)
            if value is MISSING:
                has_gap = True
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                self._extend(args, value, has_gap=has_gap, name=key)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                self._merge(kwargs, value)
            elif kind in _POSITIONAL and not has_gap:
                args.append(value)
            elif kind is inspect.Parameter.POSITIONAL_ONLY:
                raise TypeError(f"{name!r} is given by position, without those before it")
            else:
                kwargs[name] = value
        self.bind(*args, **kwargs)
        return tuple(args), kwargs

    @staticmethod
    def _extend(args: list[Any], value: Any, *, has_gap: bool, name: str) -> None:
        if value and has_gap:
            raise TypeError(f"{name!r} is given without the parameters before it")
        args.extend(value)

    def _merge(self, kwargs: dict[str, Any], more: dict[str, Any]) -> None:
        # A name of its own would get round its annotation.
        own = more.keys() & self._named
        if own:
            raise TypeError(f"{min(own)!r} is a parameter, and not among the others")
        kwargs |= more


def _parameter(each: inspect.Parameter) -> Parameter:
    stars = "*" if each.kind is each.VAR_POSITIONAL else ""
    stars = "**" if each.kind is each.VAR_KEYWORD else stars
    return Parameter(stars + each.name, each.name, each.kind, each.annotation)


def _compiled(signature: inspect.Signature, name: str) -> Any:
    missing = "_"
    while missing in signature.parameters:
        missing += "_"
    bare = [
        each.replace(
            annotation=inspect.Parameter.empty,
            default=each.default if each.default is each.empty else _Source(missing),
        )
        for each in signature.parameters.values()
    ]
    stub = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    names = "".join(f"{each.name}," for each in bare)
    space: dict[str, Any] = {missing: MISSING, "__builtins__": {}}
    # As namedtuple does it; all that comes from outside are the names of parameters.
    exec(f"def call{stub}:\n return ({names})", space)  # noqa: S102
    space["call"].__qualname__ = name
    return space["call"]


class _Source:
    """A default that is written as the name of `MISSING`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

"""What `@offload` puts in the place of a function: it looks like that function, made `async def`.

Tools ask for one in three ways,
and each has its answer:

- `isinstance(…, FunctionType)` (`inspect.isfunction`; so ask Starlette's routes, pydantic,
  APScheduler and Sphinx). `isinstance` believes `__class__`, which says function, and method where
  it is bound; `type(…)` is ours, by which pickling and copying find their own ways. Neither a
  function itself would do, since a bound one loses what it carries (`.options`, `.map`), nor a
  `functools.partial`, which tools unwrap, and then have lost the name.
- The flags of `__code__` (`inspect.iscoroutinefunction` in every version, for what is a function by
  the first question). `__code__` is that of the user with the flag of `async def`, so that file,
  line and parameters are right too. `inspect.markcoroutinefunction` would need an import of
  `inspect` in each worker, and there is none in Python 3.11.
- Attributes. They are the function's, annotations among them when they are asked for: they may name
  what is defined further below (PEP 649).
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType, MethodType  # pyright: ignore[reportUnusedImport]
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, Unpack

from offload._child.functions import decorated_as, decorated_in, find
from offload._pool.short_cut import Prepared
from offload._values.options import (
    CALL_OPTIONS,
    CallOptions,
    CallOptionsDict,
    nearest,
    unknown_option,
)
from offload.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from offload._definition import Definition

__all__ = ["Annotations", "Decorated", "check_call_options"]

P = ParamSpec("P")
R = TypeVar("R")

# Attributes of functions that this class lacks, with what is shown where the wrapped object lacks
# them, too: it is written in C, or it is an instance that can be called.
_OF_FUNCTION: dict[str, Any] = {
    "__annotate__": None,
    "__closure__": None,
    "__defaults__": None,
    "__globals__": {},
    "__kwdefaults__": None,
    "__type_params__": (),
}


# Keywords of `@offload` that are not options of a call.
_OF_DECORATION = ("pool", "max_concurrency", "jobs")


class Annotations(dict[str, Any]):
    """Annotations of the function, for instances; none, for the class.

    Each subclass has its own: a class that is asked for annotations and has none is given an empty
    dictionary by Python 3.13 and before, and that would hide what its base has for instances.
    """

    def __get__(self, instance: Decorated[Any, Any] | None, owner: type) -> Any:
        """Return those that were set, or those of the function, evaluated only now."""
        if instance is None:
            return {}
        own = vars(instance).get("__annotations__")
        return getattr(instance.__wrapped__, "__annotations__", {}) if own is None else own

    def __set__(self, instance: Decorated[Any, Any], value: Any) -> None:
        """Set them here; the function keeps its own."""
        vars(instance)["__annotations__"] = value


class Decorated(Generic[P, R]):
    """What plain functions and generator functions have in common."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_call",
        "_definition",
        "_options",
        "_prepared",
        "_unbound",
        "bound",
    )

    # By this the worker knows, without importing this module's names, that it must unwrap.
    __offload__ = True
    _is_coroutine_function = True

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str

    def __init__(
        self,
        definition: Definition,
        options: CallOptions,
        *,
        unbound: Self | None = None,
        bound: tuple[Any, ...] = (),
    ) -> None:
        # At each call of a method, too: what can be shared with the unbound one is not made anew.
        self.bound: tuple[Any, ...] = bound
        self._definition: Definition = definition
        self._options: CallOptions = options
        if unbound is None:
            self._unbound: Self = self
            self._prepared = Prepared(definition, options)
            # Those that a class has, too; the others are found when they are asked for.
            function, own = definition.function, self.__dict__
            own.update(getattr(function, "__dict__", {}))
            own.pop("__wrapped__", None)
            own["__module__"] = function.__module__
            own["__doc__"] = function.__doc__
        else:
            self._unbound = unbound
            self._prepared = unbound._prepared  # noqa: SLF001 - of this very class
            self.__dict__ = unbound.__dict__
        self._call = functools.partial(definition.call, self._prepared, *bound)

    def bound_to(self, target: object) -> Self:
        """Return the same function with its first argument given."""
        return type(self)(self._definition, self._options, unbound=self._unbound, bound=(target,))

    def with_options(self, options: CallOptions) -> Self:
        """Return the same function with these options, bound as before."""
        made = type(self)(self._definition, options)
        return made.bound_to(self.bound[0]) if self.bound else made

    if not TYPE_CHECKING:
        __annotations__ = Annotations()

        @property
        def __class__(self) -> type:
            """What `isinstance` believes; see the top of this module."""
            return MethodType if self.bound else FunctionType

        def __getattr__(self, name: str) -> Any:
            """Return what a function or a method has beside what is here."""
            definition = self._definition
            if name in ("__name__", "__qualname__"):
                return getattr(definition.call, name)
            if name == "__code__":
                return definition.code(is_coroutine=self._is_coroutine_function)
            if name in _OF_FUNCTION:
                return getattr(definition.function, name, _OF_FUNCTION[name])
            if self.bound:
                if name == "__self__":
                    return self.bound[0]
                if name == "__func__":
                    return self._unbound
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)

    @property
    def pool_name(self) -> str:
        """The name of its pool, there or not."""
        return self._definition.pool_name

    @property
    def __wrapped__(self) -> Callable[P, Any]:
        """The plain function."""
        return self._definition.function

    def __dir__(self) -> list[str]:
        """List what is here, and what a function has."""
        return sorted({*dir(type(self)), *self.__dict__, *dir(FunctionType)})

    def options(self, **changes: Unpack[CallOptionsDict]) -> Self:
        """Return the same function with other options, for one call or many.

        Args:
            **changes: as for `offload`; what is not given stays.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range.
        """
        self._check_binding()
        check_call_options(changes)
        return self.with_options(self._options.merged(changes))

    def _check_binding(self) -> None:
        """Raise where a class method has lost its class: it would get the first argument instead.

        Up to Python 3.12 `classmethod` binds what it wraps by the `__get__` of that. Since then
        only calls reach us bound: attributes are those of the unbound function (gh-89519).
        """
        if sys.version_info >= (3, 13) and not self.bound and self._definition.is_in_classmethod():
            name = self._definition.function.__qualname__
            message = (
                f"{name} was not called, and knows its class only when it is: write @offload above "
                "@classmethod, not below it, to use .options, .map and .stream"
            )
            raise FunctionError(message)

    def _bind(self, instance: object, owner: type | None) -> Self:
        binds_class = self._definition.binds_class
        if self.bound or binds_class is False or (binds_class is None and instance is None):
            return self
        return self.bound_to((owner or type(instance)) if binds_class else instance)

    def __eq__(self, other: object) -> bool:
        """Compare as methods do: bound to the same object, with the same options."""
        if self is other:
            return True
        if type(other) is not type(self) or not self.bound:
            return False
        assert isinstance(other, Decorated)
        return (
            self._prepared is other._prepared
            and bool(other.bound)
            and self.bound[0] is other.bound[0]
        )

    def __hash__(self) -> int:
        """Hash by identity, as functions and methods do."""
        return hash((id(self._prepared), *map(id, self.bound)))

    def __copy__(self) -> Self:
        """Return itself, as a function is copied."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself, or a method of a copy of its object."""
        if not self.bound:
            return self
        import copy

        return self._unbound.bound_to(copy.deepcopy(self.bound[0], memo))

    def __reduce__(self) -> Any:
        # By name, as a function pickles: the worker finds the same decorated object there.
        reference = self._definition.reference
        if reference.is_by_value:
            return functools.partial, (self._definition.function, *self.bound)
        return _restore, (reference.wire, self._options, self.bound)

    def __repr__(self) -> str:
        definition = self._definition
        return f"<{type(self).__name__} {definition.name} pool={definition.pool_name!r}>"


def _restore(reference: str, options: CallOptions, bound: tuple[Any, ...]) -> Any:
    """Find a decorated function again; the unpickling side of `__reduce__`."""
    found = find(reference)
    made: Any = decorated_in(found) or decorated_as(reference)
    if made is None:
        message = f"{reference} is {found!r:.100} here, and not decorated with @offload"
        raise FunctionError(message)
    if options != made._options:  # noqa: SLF001 - our own class
        made = made.with_options(options)
    return made.bound_to(bound[0]) if bound else made


def check_call_options(given: CallOptionsDict) -> None:
    """Raise for an option that is not one of a call, and say whose it is.

    Raises:
        TypeError: there is one.
    """
    for name in given:
        if name not in CALL_OPTIONS:
            raise unknown_option(name, CALL_OPTIONS, hint=_whose(name))


def _whose(name: str) -> str:
    """Return whose an option is that is not one of a call; nothing if it is nobody's."""
    if name in _OF_DECORATION:
        return f"that is set where the function is decorated, as @offload({name}=…)."
    from offload._values.pool_options import PoolOptions

    of_pool = PoolOptions._fields
    if name in of_pool:
        return f"that is an option of the pool, as Pool('name', {name}=…)."
    near = nearest(name, [*CALL_OPTIONS, *_OF_DECORATION, *of_pool])
    if near in of_pool and near not in CALL_OPTIONS:
        return f"did you mean {near!r}? That is an option of the pool, as Pool('name', {near}=…)."
    return f"did you mean {near!r}?" if near else ""

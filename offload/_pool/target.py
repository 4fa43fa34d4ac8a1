"""The function to call, as it is known on both sides of the process border."""

from __future__ import annotations

import operator
import sys
import types
from typing import TYPE_CHECKING, Any

from offload._values.reference import Reference
from offload.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeGuard

    from offload._values.options import CallOptions

__all__ = [
    "Target",
    "check",
    "is_generator_function",
    "is_offloaded",
    "options_of",
    "reference_of",
    "target_of",
]

# What stands for a name that nobody has used yet, of Python 3.15.
_LAZY_IMPORT: Any = getattr(types, "LazyImportType", None)
_CO_GENERATOR = 0x20
_CO_COROUTINE = 0x80
_CO_ASYNC_GENERATOR = 0x200


class Target:
    """A function that this process can send to a worker, or run itself.

    Attributes:
        function: the plain function.
        reference: what crosses to the worker.
        max_concurrency: how many may run at once in a pool; None: no limit.
        name: `module:qualname`, for people.
        module: the module that a worker imports for it; None if it is sent by value.
        by_value: whether it, its arguments and its result are pickled by value.
    """

    __slots__ = ("by_value", "function", "max_concurrency", "module", "name", "reference")

    def __init__(
        self,
        function: Callable[..., Any],
        reference: Reference,
        *,
        max_concurrency: int | None = None,
    ) -> None:
        self.function: Callable[..., Any] = function
        self.reference: Reference = reference
        self.max_concurrency: int | None = max_concurrency
        # Asked at each call, which would pay for a property.
        self.name: str = reference.name
        self.module: str | None = reference.module
        self.by_value: bool = reference.is_by_value

    def parameters(self) -> list[str]:
        """Return the names of the positional parameters."""
        code = getattr(self.function, "__code__", None)
        return list(code.co_varnames[: code.co_argcount]) if code is not None else []


def pickle_by_value(value: object) -> bytes:
    """Pickle with `cloudpickle`, which sends what has no importable home by value."""
    try:
        import cloudpickle
    except ImportError:
        message = (
            "a function that was typed in (python -c, standard input, a notebook) can only be sent "
            "to a worker by value, which needs cloudpickle: pip install 'offload[interactive]'. "
            "Or put the function into a module"
        )
        raise FunctionError(message) from None
    from io import BytesIO

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is _LAZY_IMPORT:
                # Of `lazy import` in the main module: as what it imports.
                return operator.getitem, ([obj.resolve()], 0)
            # Taken for a function, it would be sent as the coroutine function that it looks like.
            return obj.__reduce__() if is_offloaded(obj) else super().reducer_override(obj)

    file = BytesIO()
    Pickler(file, protocol=5).dump(value)
    return file.getvalue()


def is_offloaded(function: Any) -> TypeGuard[Any]:
    """Return whether `function` was made by our decorator."""
    return bool(getattr(type(function), "__offload__", False))


def plain_function(function: Any) -> Any:
    """Return the function below our decorator, or `function` itself if there is none."""
    return function.__wrapped__ if is_offloaded(function) else function


def bound_arguments(function: Any) -> tuple[Any, ...]:
    """Return what a decorated method is bound to, as its first arguments."""
    return function.bound if is_offloaded(function) else ()


def options_of(function: Any) -> tuple[CallOptions, int | None] | None:
    """Return what a decorator was told: options and `max_concurrency`; None if there is none."""
    if not is_offloaded(function):
        return None
    return function._options, function._definition.max_concurrency  # noqa: SLF001 - our own class


def code_flags(function: Any) -> int:
    """Return the flags of the code that runs when `function` is called."""
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(type(function).__call__, "__code__", None) if callable(function) else None
    return code.co_flags if code is not None else 0


def is_generator_function(function: Any) -> bool:
    """Return whether calling `function` makes a generator."""
    return bool(code_flags(function) & _CO_GENERATOR)


def check(function: Any) -> None:
    """Raise unless `function` is of a kind that can be offloaded.

    Raises:
        FunctionError: it is not, and the text says what to do instead.
    """
    if not callable(function):
        message = f"@offload needs a function, not {function!r}"
        raise FunctionError(message)
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', function)}"
    if isinstance(function, types.MethodType):
        message = (
            f"{name} is bound to {function.__self__!r:.100}; decorate the method where it is "
            "defined, or write a function that takes the object as an argument"
        )
        raise FunctionError(message)
    flags = code_flags(function)
    if flags & (_CO_COROUTINE | _CO_ASYNC_GENERATOR):
        message = (
            f"{name} is async def: it runs on the event loop already, and what needs another "
            "process is the plain, CPU-bound part of it. Put that part into a plain function, "
            "decorate that, and await it here"
        )
        raise FunctionError(message)
    if isinstance(function, type):
        message = f"{name} is a class; write a function that makes what you need, and decorate that"
        raise FunctionError(message)
    qualname = getattr(function, "__qualname__", None)
    if not isinstance(qualname, str) or not isinstance(getattr(function, "__module__", None), str):
        message = (
            f"{function!r} has no module and name by which a worker could import it; "
            "write a plain function that calls it, and decorate that"
        )
        raise FunctionError(message)
    if "<lambda>" in qualname:
        message = f"{name} is a lambda: a worker cannot import it by name; write a def"
        raise FunctionError(message)
    if "<locals>" in qualname:
        if (below := _wrapped_unnamed(function)) is not None:
            maker = qualname.partition(".<locals>")[0]
            message = (
                f"@offload was put on {name}, which the decorator {maker} made of "
                f"{below.__module__}:{below.__qualname__} without giving it that name: a worker "
                f"cannot import it. Write @functools.wraps(…) above the def inside {maker}"
            )
            raise FunctionError(message)
        message = (
            f"{name} is defined inside a function: a worker cannot import it by name; move it to "
            "the top level of its module, and pass variables of the enclosing function as arguments"
        )
        raise FunctionError(message)


def _wrapped_unnamed(function: Any) -> Any:
    """Return the importable function that a decorator has wrapped without `functools.wraps`."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            found = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if isinstance(found, types.FunctionType) and "<" not in found.__qualname__:
            return found
    return None


def target_of(function: Any, *, max_concurrency: int | None = None) -> Target:
    """Return the target for a function, as a worker can find it now.

    Raises:
        FunctionError: a worker could not find it.
    """
    return Target(function, reference_of(function), max_concurrency=max_concurrency)


def reference_of(function: Any) -> Reference:
    """Return what a worker can find a plain function by.

    Raises:
        FunctionError: a worker could not find it.
    """
    check(function)
    # What a worker makes of classes of the main module names them by the module that it ran again;
    # here that is this one.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    module, qualname = function.__module__, function.__qualname__
    name = f"{module}:{qualname}"
    if module in ("__main__", "__mp_main__"):
        from offload._workers.supervisor_client import main_module

        if main_module() is None:
            return Reference(name, pickle_by_value(function))
        module = "__main__"
    return Reference(name, f"{module}:{qualname}")

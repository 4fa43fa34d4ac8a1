"""Functions of jobs by name: which may be enqueued, and which this process knows.

A job names its function as `module:qualname`. No name that comes out of a store is ever imported:
it is looked up among what this process has imported by itself, and only functions that were
decorated for it are found.
"""

from __future__ import annotations

import inspect
import os
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from offload.errors import FunctionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "OPTIONS",
    "TASK",
    "decorated",
    "discover",
    "known",
    "name_of_main",
    "options_of",
    "plain",
    "reference_of",
    "task_of",
]

# Attribute of a plain function: the options of its jobs.
OPTIONS: Final = "__job_options__"
# Attribute of classes whose objects stand for such a function, in `__wrapped__`: Django's tasks.
TASK: Final = "__job_task__"

_MAINS: Final = ("__main__", "__mp_main__")
# A chain of wrappers is never this long; a cyclic one would not end.
_MAX_WRAPPERS: Final = 100


def reference_of(function: Callable[..., Any]) -> str:
    """Return the name under which a worker program finds `function`.

    Raises:
        FunctionError: it cannot be the function of a job, and why.
    """
    inner = decorated(function)
    if inner is None:
        raise FunctionError(
            f"{_described(function)} is not decorated: a worker program only runs functions "
            "with @offload or @job_options"
        )
    raw = plain(inner)
    name = f"{raw.__module__}:{raw.__qualname__}"
    if inspect.isgeneratorfunction(raw):
        raise FunctionError(
            f"{name} is a generator function, and a job has one result: write a function that "
            "returns a list, or that stores the items"
        )
    if inspect.iscoroutinefunction(raw) or inspect.isasyncgenfunction(raw):
        raise FunctionError(f"{name} is async def: a job runs a plain function in a worker process")
    qualname = raw.__qualname__
    if "<locals>" in qualname or "<lambda>" in qualname:
        raise FunctionError(
            f"{name} cannot be imported by a worker program: move it to the top level of a module"
        )
    owner = _owner_of(inner)
    if owner is None:
        return f"{_module_of(raw.__module__, name)}:{qualname}"
    if not isinstance(owner, type):
        raise FunctionError(
            f"{name} is bound to {owner!r:.100}: the data of a job are JSON. Write a function that "
            "takes the id of the object"
        )
    module = _module_of(owner.__module__, name)
    return f"{module}:{owner.__qualname__}.{raw.__name__}"


def _owner_of(inner: Any) -> Any:
    bound = getattr(inner, "bound", ())
    return bound[0] if bound else getattr(inner, "__self__", None)


def decorated(value: Any) -> Any:
    """Return what `@offload` or `@job_options` made, below other decorators; None: nothing."""
    for _ in range(_MAX_WRAPPERS):
        if getattr(type(value), "__offload__", False):
            return value
        if isinstance(value, FunctionType) and OPTIONS in value.__dict__:
            # Other decorators copy the attributes of what they wrap.
            return value if not _wraps_offloaded(value) else _innermost_offloaded(value)
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
            continue
        if inspect.ismethod(value) and decorated(value.__func__) is not None:
            inner: Any = value.__func__
            if getattr(type(inner), "__offload__", False):
                # From Python 3.13 on `classmethod` binds what is below it without asking it.
                return inner.bound_to(value.__self__)
            return value
        value = getattr(value, "__wrapped__", None)
        if value is None:
            return None
    return None


def _wraps_offloaded(value: Any) -> bool:
    return _innermost_offloaded(value) is not None


def _innermost_offloaded(value: Any) -> Any:
    for _ in range(_MAX_WRAPPERS):
        value = getattr(value, "__wrapped__", None)
        if value is None or getattr(type(value), "__offload__", False):
            return value
    return None


def plain(function: Any) -> Any:
    """Return the function as it was written, below every decorator."""
    raw = inspect.unwrap(getattr(function, "__func__", function))
    return getattr(raw, "__func__", raw)


def options_of(function: Any) -> Mapping[str, Any]:
    """Return the options that `@job_options` gave a function."""
    found: Mapping[str, Any] = getattr(plain(function), OPTIONS, {})
    return found


def known(reference: str) -> Any:
    """Return the decorated function of this name, if its module is imported already, else None."""
    found = _named(reference)
    return None if found is None else decorated(found)


def task_of(reference: str) -> Any:
    """Return what stands for the function of this name, as `TASK` says; None: nothing does."""
    found = _named(reference)
    return found if getattr(type(found), TASK, False) else None


def _named(reference: str) -> Any:
    module_name, _, qualname = reference.partition(":")
    found: Any = sys.modules.get(module_name)
    if found is None:
        main = sys.modules.get("__main__")
        if main is None or name_of_main(main) != module_name:
            return None
        found = main
    for name in qualname.split("."):
        # Of modules and classes only, and never by a module's `__getattr__`.
        names = getattr(found, "__dict__", {})
        if name not in names:
            return None
        found = getattr(found, name) if isinstance(found, type) else names[name]
    return found


def discover() -> dict[str, Any]:
    """Return the decorated functions of all modules that are imported, by name."""
    found: dict[str, Any] = {}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if names is None or getattr(module, "__name__", "") in _MAINS:
            continue
        for value in list(names.values()):
            _note(value, found)
            if isinstance(value, type) and value.__module__ == names.get("__name__"):
                for name, member in list(vars(value).items()):
                    if isinstance(member, (staticmethod, classmethod)) or _is_offloaded(member):
                        _note(getattr(value, name, None), found)
    return found


def _is_offloaded(value: Any) -> bool:
    return bool(getattr(type(value), "__offload__", False))


def _note(value: Any, found: dict[str, Any]) -> None:
    # By the class first: there are many names, and a proxy may do anything when asked.
    if (
        not _is_offloaded(value)
        and not getattr(type(value), TASK, False)
        and not (
            isinstance(value, FunctionType)
            and ("__wrapped__" in value.__dict__ or OPTIONS in value.__dict__)
        )
        and not inspect.ismethod(value)
    ):
        return
    inner = decorated(value)
    if inner is None:
        return
    try:
        reference = reference_of(inner)
    except FunctionError:
        return  # of the kinds that have no jobs
    if known(reference) is not None:
        found[reference] = inner


def _module_of(module: str, function: str) -> str:
    if module not in _MAINS:
        return module
    name = name_of_main(sys.modules["__main__"])
    if name is None:
        raise FunctionError(
            f"{function} is in the program's main module, which has no name to import it by: move "
            "the function to a module of its own"
        )
    return name


def name_of_main(main: Any) -> str | None:
    """Return the name by which other programs import the main module; None: by none."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    # `python app.py`: what `offload worker app` in the same folder imports.
    stem, extension = os.path.splitext(os.path.basename(getattr(main, "__file__", None) or ""))
    return stem if extension == ".py" and stem.isidentifier() else None


def _described(function: Any) -> str:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}:{name}" if module and name else repr(function)

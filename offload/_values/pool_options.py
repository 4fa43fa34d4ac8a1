"""Options of a pool: frozen, and checked where they enter.

A new option is a line of `_PoolOptions` (name, type, check and default), one of `PoolOptionsDict`
(name and type, for type checkers), and its meaning in the docstring of `offload.pool.Pool`.

Named tuples and not dataclasses: a worker imports this with the module of a pool, and `dataclasses`
alone takes as long as all of ours.
"""

# Without `from __future__ import annotations`: the checks are read from the annotations.
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self, TypedDict

from offload._values.hardening import Hardening
from offload._values.options import (
    CALL_OPTIONS,
    check_integer,
    check_number,
    check_type,
    unknown_option,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["PoolOptions", "PoolOptionsDict", "name_of"]

_OS_PRIORITIES = ("idle", "low", "normal")
_RESULTS = ("pickle", "data")
_START_METHODS = ("forkserver", "spawn")
_DEFAULT_MAX_QUEUED_BYTES = 256 * 2**20


class PoolOptionsDict(TypedDict, total=False):
    """Keywords of `Pool`."""

    min_workers: int
    max_workers: int | None
    spare_workers: int
    max_queued: int | None
    max_queued_bytes: int | None
    idle_timeout: float | None
    os_priority: Literal["idle", "low", "normal"]
    start_method: Literal["forkserver", "spawn"] | None
    executor: "type[Executor] | Executor | Callable[[], Executor] | None"
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    preload: Iterable[str]
    context_vars: Iterable[str]
    env: Mapping[str, str | None] | None
    max_tasks_per_worker: int | None
    max_worker_memory_bytes: int | None
    timeout: float | None
    queue_timeout: float | None
    max_payload_bytes: int | None
    start_timeout: float
    harden: bool | Hardening
    results: Literal["pickle", "data"]
    raises: Iterable[type[Exception]]
    show_arguments: bool


def _check_names(option: str, names: object) -> None:
    if isinstance(names, str):
        message = f"{option} must be several names, such as [{names!r}], not one str"
        raise TypeError(message)


def _check_environment(_: str, env: Mapping[Any, Any] | None) -> None:
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str | None):
            message = f"env must map names to str or None, not {name!r} to {value!r}"
            raise TypeError(message)
        if not name or "=" in name or "\0" in name + (value or ""):
            message = f"env cannot hold {name!r}: {value!r}"
            raise ValueError(message)
        try:
            os.fsencode(name + (value or ""))
        except UnicodeEncodeError as error:
            message = f"env cannot hold {name!r}: {value!r}: {error}"
            raise ValueError(message) from None


def _check_hardening(name: str, value: object) -> None:
    if not isinstance(value, (bool, Hardening)):
        message = f"{name} must be True, False or a Hardening(…), not {value!r}"
        raise TypeError(message)


def _check_exceptions(name: str, classes: object) -> None:
    if not isinstance(classes, (list, tuple, set, frozenset)):
        message = f"{name} must be several classes of exceptions, not {classes!r}"
        raise TypeError(message)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, Exception):
            message = f"{name} must be classes of exceptions, not {each!r}"
            raise TypeError(message)


def _check_choice(name: str, value: object, *, choices: tuple[object, ...]) -> None:
    if value not in choices:
        message = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
        raise ValueError(message)


def _any(_: str, __: object) -> None:
    """Check nothing: `PoolOptions.checked` looks at it together with others."""


_count = partial(check_integer, minimum=0)
_at_least_one = partial(check_integer, minimum=1, optional=True)
_above_zero = partial(check_number, above=0.0)
_flag = partial(check_type, kind=bool, what="True or False")


class _PoolOptions(NamedTuple):
    min_workers: Annotated[int, _count] = 0
    max_workers: Annotated[int | None, _at_least_one] = None
    spare_workers: Annotated[int, _count] = 1
    max_queued: Annotated[int | None, partial(check_integer, minimum=0, optional=True)] = 1000
    max_queued_bytes: Annotated[int | None, _at_least_one] = _DEFAULT_MAX_QUEUED_BYTES
    idle_timeout: Annotated[float | None, _above_zero] = 60.0
    os_priority: Annotated[str, partial(_check_choice, choices=_OS_PRIORITIES)] = "idle"
    start_method: Annotated[str | None, partial(_check_choice, choices=(None, *_START_METHODS))] = (
        None
    )
    executor: Annotated[Any, _any] = None
    initializer: Annotated[Callable[..., object] | None, _any] = None
    initargs: Annotated[tuple[Any, ...], _any] = ()
    preload: Annotated[Iterable[str], _check_names] = ()
    context_vars: Annotated[Iterable[str], _check_names] = ()
    env: Annotated[Mapping[str, str | None] | None, _check_environment] = None
    max_tasks_per_worker: Annotated[int | None, _at_least_one] = None
    max_worker_memory_bytes: Annotated[int | None, _at_least_one] = None
    timeout: Annotated[float | None, _above_zero] = None
    queue_timeout: Annotated[float | None, partial(check_number, minimum=0.0)] = None
    max_payload_bytes: Annotated[int | None, _at_least_one] = None
    start_timeout: Annotated[float, partial(check_number, above=0.0, optional=False)] = 60.0
    harden: Annotated[bool | Hardening, _check_hardening] = False
    results: Annotated[str, partial(_check_choice, choices=_RESULTS)] = "pickle"
    raises: Annotated[Iterable[type[Exception]], _check_exceptions] = ()
    show_arguments: Annotated[bool, _flag] = False


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    # Evaluated by then: a named tuple keeps its annotations in every version.
    name: annotation.__metadata__[0]
    for name, annotation in _PoolOptions.__annotations__.items()
}


class PoolOptions(_PoolOptions):
    """How a pool works; see `offload.pool.Pool` for the meaning of each option."""

    __slots__ = ()

    @classmethod
    def checked(cls, given: Mapping[str, Any]) -> Self:
        """Return the options that were given, with the defaults of the others.

        Raises:
            TypeError: unknown option, or wrong type.
            ValueError: out of range, or two options that do not go together.
        """
        unknown = sorted(set(given) - set(cls._fields))
        if unknown:
            raise _unknown(unknown[0])
        options = cls(**given)
        for name, check in _CHECKS.items():
            check(name, getattr(options, name))
        workers = options.max_workers
        if workers is not None and options.min_workers > workers:
            message = f"min_workers ({options.min_workers}) must not exceed max_workers ({workers})"
            raise ValueError(message)
        _check_executor(options)
        if options.raises and options.results != "data":
            message = (
                'raises is for results="data": without that, whatever a function raises comes back '
                "as it is"
            )
            raise ValueError(message)
        return options._replace(
            raises=tuple(options.raises),
            preload=tuple(options.preload),
            context_vars=tuple(options.context_vars),
            env=dict(options.env or {}),
        )

    def pickled_initializer(self) -> bytes | None:
        """Return what a worker calls before its first task, pickled.

        Raises:
            TypeError: it does not pickle.
        """
        function: object = self.initializer
        arguments: object = self.initargs
        if function is None:
            return None
        if not callable(function) or not isinstance(arguments, tuple):
            message = (
                "initializer must be a function, and initargs the tuple of its arguments, "
                f"not {function!r} and {arguments!r}"
            )
            raise TypeError(message)
        try:
            return pickle.dumps((function, arguments), 5)
        except Exception as error:
            message = f"initializer and initargs must pickle, to reach the workers: {error}"
            raise TypeError(message) from error


def name_of(executor: Any) -> str:
    """Return what an executor, its class or what makes one is called."""
    name = getattr(executor, "__name__", None)
    return name if isinstance(name, str) else type(executor).__name__


def _unknown(name: str) -> TypeError:
    hint = None
    if name in CALL_OPTIONS or name == "max_concurrency":
        hint = (
            f"it is an option of a function, as @offload({name}=…), "
            f"or of single calls, as pool.options({name}=…).run(…)."
        )
    return unknown_option(name, PoolOptions._fields, what="a pool", hint=hint)


def _check_executor(options: PoolOptions) -> None:
    """Refuse, and not drop, what an executor that is not ours would have to be told."""
    executor = options.executor
    for option, is_asked in (("harden", options.harden), ("results", options.results == "data")):
        if executor is not None and is_asked:
            value = "" if option == "harden" else '="data"'
            message = (
                f"{option}{value} is for worker processes that the pool starts itself: give no "
                f"executor, or no {option}"
            )
            raise ValueError(message)
    if executor is None or name_of(executor) == "ProcessPoolExecutor":
        return
    for option in ("initializer", "env", "preload"):
        if getattr(options, option):
            message = (
                f"{option} is for worker processes that the pool starts; "
                f"give it to the {name_of(executor)} yourself"
            )
            raise ValueError(message)

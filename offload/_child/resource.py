"""Data that every worker reads and none changes: a model, a table, an index.

supervisor:  load ─► gc.freeze ─► fork ─► worker │ worker │ worker      one copy in memory
elsewhere:   the first call that needs it loads it, once in each process
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    T = TypeVar("T")
else:
    # `typing` takes as long to import as all of ours.
    class Generic:
        """Nothing at run time, but `Resource[Model]`."""

        def __class_getitem__(cls, _: object) -> type[Any]:
            return cls

    T = None

_NOT_LOADED: Any = object()


class Resource(Generic[T]):
    """What a function loads, once in a process; made by `resource`.

    Call it to have the object. It stays for as long as the process lives: a new version is there
    when the pool has been closed and opened again. As an argument it crosses as its name, and not
    as the data: the worker's own is what arrives.

    Attributes:
        is_loaded: whether this process has it.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        qualname = function.__qualname__
        if "<" in qualname:  # <lambda>, <locals>
            raise TypeError(
                f"resource() needs a function that a worker can import by name, not {qualname}; "
                "move it to the top level of its module"
            )
        self.__wrapped__: Callable[[], T] = function
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__qualname__ = qualname
        self.__name__: str = function.__name__
        self._value: T = _NOT_LOADED
        # Threads of one task may need it at once. No worker is forked while one of them holds it.
        self._lock = _thread.allocate_lock()

    def __call__(self) -> T:
        """Return the object, loading it if this process has not yet.

        Raises:
            Exception: what the function raises; the next call tries again.
        """
        value = self._value
        if value is _NOT_LOADED:
            with self._lock:
                value = self._value
                if value is _NOT_LOADED:
                    value = self._value = self.__wrapped__()
        return value

    @property
    def is_loaded(self) -> bool:
        """Whether this process has it."""
        return self._value is not _NOT_LOADED

    def clear(self) -> None:
        """Forget it in this process, so that the next call loads it anew; for tests."""
        with self._lock:
            self._value = _NOT_LOADED

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross as the name: there is one of it in every process."""
        return _find, (f"{self.__module__}:{self.__qualname__}",)

    def __repr__(self) -> str:
        """Tell the name, and whether it is loaded here."""
        state = "loaded" if self.is_loaded else "not loaded"
        return f"<resource {self.__module__}:{self.__qualname__} {state}>"


def resource(function: Callable[[], T]) -> Resource[T]:
    """Make a function that loads something large into a `Resource` that workers share.

    `Pool(preload=["app.models:model"])` loads it before any worker is forked (start method
    "forkserver"): once, however many workers there are, and they share its memory until somebody
    writes to it. Reading a Python object writes its reference count, so what is shared for good is
    what its buffers hold: arrays, `bytes`, tables of numbers. With "spawn", each worker loads it
    before its first task; without `preload`, at the first call that needs it. For data that should
    be shared by those as well, return what is mapped: `numpy.load(path, mmap_mode="r")`.

    What is loaded before the fork must not hold connections. If it leaves threads running, which
    would be lost in the fork, each worker loads it for itself instead, and a warning says so.

    Args:
        function: takes nothing, and returns the object; importable by module and name.

    Raises:
        TypeError: a worker could not import it.
    """
    return Resource(function)


def load(reference: str) -> None:
    """Load the resource at `module:qualname`, as `preload` names it.

    Raises:
        TypeError: it is something else.
        Exception: it is not found, or its function raised.
    """
    found = _find(reference)
    if not isinstance(found, Resource):
        raise TypeError(f"{reference} is no resource, but {found!r}; decorate it with @resource")
    found()


def _find(reference: str) -> Any:
    import importlib

    module, _, qualname = reference.partition(":")
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found

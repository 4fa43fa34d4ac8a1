"""Finds a function by `module:qualname`, and the program's `__main__` when it is really needed."""

from __future__ import annotations

import importlib
import os
import sys

from offload._wire.lean import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable
    from typing import Any

if TYPE_CHECKING:
    from types import ModuleType as _Module
else:  # without the import
    _Module = type(sys)

# Run name of a re-imported `__main__`, the convention of multiprocessing: a guard of the form
# `if __name__ == "__main__":` is false, and pickles made in the worker name this module.
MAIN_ALIAS = "__mp_main__"


class NotFoundError(Exception):
    """The function cannot be imported here; the text says why."""


def guard_imports() -> Callable[[], None]:
    """Note what an import might change; return what undoes that. A worker has one of its own."""
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


class LazyMain(_Module):
    """Stands for the program's `__main__` in a worker, and runs it only when asked for a name.

    Most functions live in modules of their own. Running the main script again in each worker would
    repeat all that it does when imported, up to starting a second server.
    """

    def __init__(self, how: str, what: str) -> None:
        super().__init__("__main__")
        self.__dict__["_offload_how"] = how
        self.__dict__["_offload_what"] = what

    def __getattr__(self, name: str) -> Any:
        """Run the main module on the first look at a name that is the program's own."""
        if name.startswith("__"):
            raise AttributeError(name)
        if "_offload_failure" in self.__dict__:
            # Once is enough: what failed had its effects, and may have taken long.
            raise NotFoundError(self.__dict__["_offload_failure"])
        return getattr(load_main(self._offload_how, self._offload_what), name)


def install_main(main: tuple[str, str] | None) -> None:
    """Put a stand-in for the parent's `__main__` into `sys.modules`.

    Args:
        main: ("name", module name), ("path", file), or None where there is nothing to run again.
    """
    if main is not None:
        module = LazyMain(*main)
        sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = module


def load_main(how: str, what: str) -> types.ModuleType:
    """Run the program's main module under the name `__mp_main__`.

    Raises:
        NotFoundError: it failed, or tried to start a server.
    """
    module = _Module(MAIN_ALIAS)
    waiting = sys.modules.get("__main__")
    # As multiprocessing.spawn does: names inside are looked up under both names.
    sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = module
    try:
        with _no_server(what):
            code = _code_of_module(what, module) if how == "name" else _code_of_file(what, module)
            # Not by `runpy`, which returns a copy of the names: what is defined while the module
            # runs must find itself in `sys.modules` already, as dataclasses do.
            exec(code, module.__dict__)  # noqa: S102 - the user's own program
    except BaseException as error:
        if waiting is not None:
            sys.modules["__main__"] = sys.modules[MAIN_ALIAS] = waiting
        message = f"running the main module {what!r} again in the worker failed: {error!r}"
        if isinstance(waiting, LazyMain):
            waiting.__dict__["_offload_failure"] = message
        raise NotFoundError(message) from error
    return module


def _code_of_module(name: str, module: types.ModuleType) -> types.CodeType:
    """Return the code of `python -m name`, and of a folder or an archive (named `__main__`)."""
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    spec = PathFinder.find_spec(name) if name == "__main__" else find_spec(name)
    loader: Any = spec.loader if spec is not None else None
    code = loader.get_code(name) if loader is not None else None
    if spec is None or code is None:
        message = f"there is no code for module {name!r}"
        raise ImportError(message)
    module.__spec__ = spec
    module.__loader__ = loader
    module.__package__ = spec.parent
    module.__file__ = spec.origin
    return code  # type: ignore[no-any-return]


def _code_of_file(path: str, module: types.ModuleType) -> types.CodeType:
    """Return the code of `python path`: of a source file, whatever its name, or a compiled one."""
    from importlib.util import MAGIC_NUMBER

    module.__file__ = path
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(MAGIC_NUMBER):
        import marshal

        return marshal.loads(data[16:])  # type: ignore[no-any-return]
    return compile(data, path, "exec", dont_inherit=True)


def apply(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call `function`, which was sent pickled because it has no name to be found by."""
    return function(*args, **kwargs)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, for a nested call to run right here in the worker.

    Raises:
        RuntimeError: the main module, run again for its definitions, calls it by itself: without
            a guard it would do all of its work a second time.
    """
    if _no_server.active is not None:
        message = (
            f"{_no_server.active!r} calls {function.__qualname__} when it is imported; put what "
            'the program does under `if __name__ == "__main__":`, '
            "or move offloaded functions to a module of their own"
        )
        raise RuntimeError(message)
    return function


def _is_socket(path: Any) -> bool:
    import stat

    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, TypeError, ValueError):
        return False


class _no_server:  # noqa: N801 - reads as a statement
    """While the main module is run again, refuses to bind a network address."""

    active: str | None = None
    _is_hooked = False

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        # An audit hook sees every server there is, whatever library starts it, and cannot be
        # removed: hence one for the process, with a switch.
        if not _no_server._is_hooked:
            sys.addaudithook(self._audit)
            _no_server._is_hooked = True
        _no_server.active = self.what

    def __exit__(self, *_: object) -> None:
        _no_server.active = None

    @staticmethod
    def _audit(event: str, arguments: tuple[Any, ...]) -> None:
        if _no_server.active is None:
            return
        # The socket file that a server removes to put its own in the place is that of the first.
        if event == "socket.bind" or (event == "os.remove" and _is_socket(arguments[0])):
            where = arguments[1] if event == "socket.bind" else arguments[0]
            message = (
                f"{_no_server.active!r} starts a server at {where!r} when it is imported; "
                'put that under `if __name__ == "__main__":`, '
                "or move offloaded functions to a module of their own"
            )
            raise RuntimeError(message)

"""The program's `__main__` in a worker: run again, when a function needs it and not before."""

from __future__ import annotations

import os
import sys

from offload._child.functions import MAIN_ALIAS, NotFoundError
from offload._child.kept_code import kept_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types
    from collections.abc import Callable
    from types import ModuleType as _Module
    from typing import Any
else:  # without the import
    _Module = type(sys)

__all__ = ["LazyMain", "inline", "install_main", "load_main"]


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
    data = kept_source("__main__", path)
    if data is None:
        with open(path, "rb") as file:
            data = file.read()
    is_compiled = data.startswith(MAGIC_NUMBER)
    if sys.version_info >= (3, 15):
        from importlib.machinery import SourceFileLoader, SourcelessFileLoader

        find = SourcelessFileLoader if is_compiled else SourceFileLoader
        module.__dict__["__spec__"] = _ScriptSpec(find(MAIN_ALIAS, path), path)
    if is_compiled:
        import marshal

        return marshal.loads(data[16:])  # type: ignore[no-any-return]
    return compile(data, path, "exec", dont_inherit=True)


class _ScriptSpec:
    """Of a script, which has no spec: says no more than where its source is.

    Without a loader there, `linecache` of Python 3.15 warns of each traceback with a function of a
    module that is not called `__main__`, and under `-W error` nobody could format one.
    """

    # As if there were no spec: multiprocessing and we look here for the name of a module to run,
    # and a relative import for its package.
    name = None
    parent = ""
    submodule_search_locations = cached = None
    has_location = True

    def __init__(self, loader: Any, origin: str) -> None:
        self.loader = loader
        self.origin = origin


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

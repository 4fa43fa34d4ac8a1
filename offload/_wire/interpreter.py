"""How processes of ours are started: with which program, and what they may import before what.

A child imports its own code first, of the standard library and of this package, and takes the
search path of the server only then: a project may have a `types.py`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CHILD",
    "MARK",
    "command_line",
    "search_path",
    "shadowed_modules",
    "take_path",
    "when_frozen",
]

# The first argument of a program that was frozen (PyInstaller, cx_Freeze), and starts itself for
# want of an interpreter.
CHILD = "--offload-child"
# In the environment of a child, until it has come to its first line of ours.
MARK = "OFFLOAD_CHILD"
_LIBRARY = os.path.dirname(os.__file__ or "")
# What code of ours imports later than at the start of a child.
_OURS = frozenset({"atexit", "importlib", "logging", "pickle", "stat", "tempfile", "traceback"})


def command_line(code: str, flags: list[str], *arguments: str) -> list[str]:
    """Return the command that runs `code` in a new interpreter.

    Args:
        code: takes `arguments` from `sys.argv[1:]`; it finds the standard library and this package.
        flags: of the interpreter.
        arguments: what the code takes.
    """
    if when_frozen():
        return [sys.executable, CHILD, code, *arguments]
    ours = [*_library_path(), os.path.dirname(os.path.dirname(os.path.dirname(__file__)))]
    count = len(ours) + 1
    begin = (
        f"import os, sys; os.environ.pop({MARK!r}, None); "
        f"sys.path[:] = sys.argv[1:{count}]; del sys.argv[1:{count}]; "
    )
    return [_executable(), *flags, "-c", begin + code, *ours, *arguments]


def when_frozen() -> bool:
    """Return whether this program has no interpreter beside itself."""
    return bool(getattr(sys, "frozen", False)) or "__compiled__" in globals()


def _executable() -> str:
    """Return the interpreter; not `sys.executable` where that is the program which embeds it."""
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    if spawn is not None:  # `multiprocessing.set_executable` is how users say so
        chosen = spawn.get_executable()
        if chosen and os.fsdecode(chosen) != sys.executable:
            return os.fsdecode(chosen)
    found = sys.executable or ""
    if os.path.basename(found).lower().startswith(("python", "pypy")):
        return found
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for name in (f"python{version}", "python3", "python", "python.exe"):
        for folder in ("bin", ""):
            path = os.path.join(sys.exec_prefix, folder, name)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    return found


def _library_path() -> list[str]:
    """Return the entries of the search path that are the standard library's."""
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    found = [
        entry
        for entry in search_path()
        if entry == _LIBRARY
        or entry == os.path.join(_LIBRARY, "lib-dynload")
        or os.path.basename(entry) == zipped
    ]
    return found if _LIBRARY in found else [*found, _LIBRARY]


def search_path() -> list[str]:
    """Return `sys.path` as it was meant: relative entries from where they were first looked at."""
    found: list[str] = []
    # The import system passes over entries of any other type.
    entries: list[object] = [*sys.path]
    for entry in entries:
        if not isinstance(entry, str):
            continue
        if entry and os.path.isabs(entry):
            found.append(entry)
            continue
        try:
            here = os.getcwd()
        except OSError:  # it was removed
            here = ""
        if not entry:  # wherever the program is, or was, when it imports something
            found += [each for each in (*_homes(entries), here) if each and each not in found]
            continue
        finder = sys.path_importer_cache.get(entry)
        known = getattr(finder, "path", "")
        is_known = isinstance(known, str) and os.path.isabs(known)
        found.append(known if is_known else os.path.join(here, entry))
    return found


def _homes(entries: list[object]) -> list[str]:
    """Return the folders of modules that were found by none of these entries."""
    known = {_LIBRARY, os.path.join(_LIBRARY, "lib-dynload"), *map(str, entries)}
    found: dict[str, None] = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if "." in name or name == "__main__" or not isinstance(path, str):
            continue
        home, file = os.path.split(path)
        if file.startswith("__init__."):
            home = os.path.dirname(home)
        if os.path.isabs(home) and home not in known:
            found[home] = None
    return list(found)


def shadowed_modules(path: list[str]) -> list[str]:
    """Return modules of the standard library in whose place a child would import the program's own.

    The server has imported them before the program's folder was in its search path, as a server
    that is given `app:app` has. Where it has not, its program's own is meant.

    Args:
        path: the search path.
    """
    names: set[str] = set()
    for entry in path:
        if entry == _LIBRARY:
            break
        try:
            names.update(name.partition(".")[0] for name in os.listdir(entry))
        except OSError:
            continue
    return sorted(
        name
        for name in names & sys.stdlib_module_names
        if name in _OURS or _is_of_library(sys.modules.get(name))
    )


def _is_of_library(module: Any) -> bool:
    if module is None:
        return False
    path = getattr(module, "__file__", None)
    return path is None or (isinstance(path, str) and path.startswith(_LIBRARY))


def take_path(settings: dict[str, Any]) -> None:
    """Take the search path of the server, in a child that has imported what it needs."""
    for name in settings["shadowed"]:
        try:
            __import__(name)
        except ImportError:
            continue
    sys.path[:] = settings["path"]

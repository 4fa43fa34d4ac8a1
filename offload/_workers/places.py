"""Where modules are that workers would not find by their names; see `offload._child.places`."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["places_of"]


def places_of(modules: Iterable[str]) -> dict[str, str]:
    """Return the files of those of these modules that no entry of the search path leads to."""
    found: dict[str, str] = {}
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        if isinstance(file, str) and os.path.isfile(file) and not _leads_to(name, file):
            found[name] = file
    return found


def _leads_to(name: str, file: str) -> bool:
    path: list[str] | None = None
    whole = ""
    for part in name.split("."):
        whole = f"{whole}.{part}" if whole else part
        try:
            spec = PathFinder.find_spec(whole, path)
        except (ImportError, OSError, ValueError):
            return True  # of a kind that has its own ways
        if spec is None:
            # Not on the disk under this name: another finder's, unless it is a plain file.
            return not file.endswith((".py", ".pyc"))
        path = list(spec.submodule_search_locations or [])
        if whole == name and spec.origin is not None:  # perhaps another one of this name
            return os.path.realpath(spec.origin) == os.path.realpath(file)
    return True

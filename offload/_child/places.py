"""Modules that no entry of the search path leads to, found where the server has them from.

Whoever loads modules from files, as pytest does with `--import-mode=importlib`, gives them names
that nobody else could import.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["find_there_too"]


def find_there_too(places: dict[str, str]) -> None:
    """Have `import` find modules in files, after all else.

    Args:
        places: the files, by the names of the modules.
    """
    if places:
        sys.meta_path.append(_Places(places))


class _Places:
    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        from importlib.machinery import ModuleSpec
        from importlib.util import spec_from_file_location

        file = self._places.get(name)
        if file is not None:
            return spec_from_file_location(name, file)
        if any(each.startswith(f"{name}.") for each in self._places):
            # A folder without a name of its own: it need not be there.
            return ModuleSpec(name, None, is_package=True)
        return None

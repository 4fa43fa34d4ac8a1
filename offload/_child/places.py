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
    """Have `import` find modules in files, before what else has their names.

    Args:
        places: the files, by the names of the modules.
    """
    if places:
        # Behind what was kept of the same modules, if their files have changed.
        sys.meta_path.insert(1, _Places(places))
        sys.meta_path.append(_Parents(places))


class _Places:
    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        file = self._places.get(name)
        if file is None:
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, file)


class _Parents(_Places):
    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if any(each.startswith(f"{name}.") for each in self._places):
            from importlib.machinery import ModuleSpec

            # A folder without a name of its own: it need not be there.
            return ModuleSpec(name, None, is_package=True)
        return None

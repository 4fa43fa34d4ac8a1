"""Does something as soon as a module has been imported, without importing it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["when_imported"]


def when_imported(name: str, callback: Callable[[], None]) -> None:
    """Call back once: now if the module is there, else right after its own code has run.

    Args:
        name: of a module.
        callback: what it raises is raised by the `import` statement.
    """
    if name in sys.modules:
        callback()
    else:
        # First: whoever finds the module ends the search.
        sys.meta_path.insert(0, _Finder(name, callback))


class _Finder:
    """Finds one module as the other finders do, and has its loader call back."""

    def __init__(self, name: str, callback: Callable[[], None]) -> None:
        self._name = name
        self._callback = callback

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of our module, None of any other."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = None
        for finder in sys.meta_path:
            # A program that was frozen has a finder of its own for what is in it.
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                break
        if spec is None or spec.loader is None:
            return None
        execute, callback = spec.loader.exec_module, self._callback

        def execute_and_call_back(module: Any) -> None:
            execute(module)
            callback()

        # Of this one loader, which has been made for this import.
        spec.loader.exec_module = execute_and_call_back  # type: ignore[method-assign]
        return spec

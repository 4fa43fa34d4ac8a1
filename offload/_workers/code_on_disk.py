"""Notices that the program's code on disk is no longer what this process has imported.

A worker imports what it needs when it starts, which may be long after the server did. If the files
were replaced meanwhile, by a deployment or an editor, the server and its workers run two versions
of one program, and what they send each other may not fit.
"""

from __future__ import annotations

import os
import sys

__all__ = ["CodeOnDisk"]

# The standard library and what is installed: nobody edits that while it runs.
_INSTALLED = tuple(
    os.path.join(prefix, "") for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}
)
_INSTALLED_PARTS = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class CodeOnDisk:
    """The files of the program's own modules, as they were when they were first seen."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}

    def changed(self) -> list[str]:
        """Return the files that were written since, each once; look at those that are new."""
        found: list[str] = []
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if not isinstance(path, str) or _is_installed(path):
                continue
            try:
                status = os.stat(path)
            except (OSError, ValueError):  # a part of an archive, or no file any more
                continue
            now = status.st_mtime_ns, status.st_size
            if self._seen.setdefault(path, now) != now:
                self._seen[path] = now
                found.append(path)
        return found

    def forget(self) -> None:
        """Look at all of them anew: this process has imported them again."""
        self._seen.clear()


def _is_installed(path: str) -> bool:
    return path.startswith(_INSTALLED) or any(part in path for part in _INSTALLED_PARTS)

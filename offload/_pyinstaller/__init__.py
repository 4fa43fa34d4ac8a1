"""What PyInstaller is told of this package, by the entry point `pyinstaller40`."""

from __future__ import annotations

import os

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Return the folders with hooks."""
    return [os.path.dirname(__file__)]

"""Imports what a command names, with an error for the terminal where there is none."""

from __future__ import annotations

import importlib
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ApplicationError", "import_module", "load"]


class ApplicationError(Exception):
    """What was named is not to be had; the text says why."""


def load(reference: str) -> Any:
    """Return what `module:attribute` names.

    Args:
        reference: the attribute may have dots.

    Raises:
        ApplicationError: there is no such thing; with the traceback, if it is of other code.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise ApplicationError(f"{reference!r} is not of the form module:name, such as app:jobs")
    found: Any = import_module(module_name)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ApplicationError(f"{module_name!r} has no {attribute!r}: {error}") from error
    return found


def import_module(name: str) -> ModuleType:
    """Import a module.

    Raises:
        ApplicationError: there is none, or it fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ApplicationError(
                f"there is no module {error.name!r} here: start in the folder that has it, or name "
                "that folder with --app-dir"
            ) from None
        raise ApplicationError(_trace(name, error)) from error
    except BaseException as error:  # a module may call sys.exit()
        raise ApplicationError(_trace(name, error)) from error


def _trace(name: str, error: BaseException) -> str:
    # Without our own frames and those of importlib, which say nothing.
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen importlib") and frame.filename != __file__
    ]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return f"importing {name!r} failed:\n{''.join(lines).rstrip()}"

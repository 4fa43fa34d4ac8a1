"""The log of a program that a command runs."""

from __future__ import annotations

import logging
import sys

from offload._cli.loading import ApplicationError

__all__ = ["set_up_logging"]


def set_up_logging(level: str) -> None:
    """Log to standard error. Before modules are imported: where they configure it, theirs it is.

    Raises:
        ApplicationError: there is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ApplicationError(f"there is no log level {level!r}")
    logging.basicConfig(
        level=number, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )

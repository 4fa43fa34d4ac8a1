"""Django in the processes that run its tasks, with one log for all of them."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import Any

__all__ = ["leave_console_to_program", "set_up_in_worker"]


def set_up_in_worker() -> None:
    """Set Django up in a worker process, but for its logging.

    Records go to the worker program, which has set logging up by the same settings: a handler that
    writes to a file or sends a mail would do so twice, once in each process.
    """
    django: Any = import_module("django")
    conf: Any = import_module("django.conf")
    conf.settings.LOGGING_CONFIG = None
    django.setup()


def leave_console_to_program() -> None:
    """Take the console from Django's own logger where the program shows all records there.

    With DEBUG, Django's logging shows its records by a handler of its own, and passes them on.
    """
    consoles = (sys.stdout, sys.stderr)
    logger = logging.getLogger("django")
    if logger.propagate and any(_stream(each) in consoles for each in logging.root.handlers):
        for handler in logger.handlers[:]:
            if _stream(handler) in consoles:
                logger.removeHandler(handler)


def _stream(handler: logging.Handler) -> object:
    # Not None, which may be what a program without a console has.
    return getattr(handler, "stream", handler)

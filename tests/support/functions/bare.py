"""Functions whose module imports nothing that a worker has not imported anyway."""

import sys


def has_imported(name: str) -> bool:
    return name in sys.modules


def import_and_log(text: str) -> None:
    import logging

    logging.getLogger("tests.crossing").warning(text)

"""Functions whose module imports nothing."""

import sys


def imported(*names: str) -> list[str]:
    return [name for name in names if name in sys.modules]

"""A module that ends whatever worker imports it."""

import sys

from offload import in_worker

if in_worker():
    sys.exit("not here")


def function() -> int:
    """Return, if it is ever called."""
    return 1

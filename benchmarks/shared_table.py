"""The table that workers share in `shared_resource`; not there, since workers import this."""

from __future__ import annotations

import os
import time
from typing import Any

from offload.resources import resource

TABLE_MIB = 256


@resource
def table() -> Any:
    """Make a table of as many MiB as the environment says."""
    import numpy as np

    return np.ones(int(os.environ.get("TABLE_MIB", TABLE_MIB)) * (1 << 20) // 8)


def whole(seconds: float) -> int:
    """Read all of it, stay a while, and tell who we are."""
    found = float(table().sum())
    if found != table().size:
        raise AssertionError(found)
    time.sleep(seconds)
    return os.getpid()

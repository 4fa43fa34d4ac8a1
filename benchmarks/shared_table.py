"""The table that workers share in `shared_resource`; not there, since that is the main module."""

from __future__ import annotations

import os
from typing import Any

from offload.resources import resource


@resource
def table() -> Any:
    """Make a table of as many MiB as the environment says."""
    import numpy as np

    return np.ones(int(os.environ["TABLE_MIB"]) * (1 << 20) // 8)


def total() -> float:
    """Read all of it."""
    return float(table().sum())

"""Percentiles, and how far they can be trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["in_ms", "quantile", "summary"]


def in_ms(seconds: float) -> float:
    # A microsecond is less than any of this is good for; more digits are only more bytes.
    return round(seconds * 1e3, 3)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the value of sorted ones that this fraction does not exceed; nan of none.

    The nearest rank: it is one of the values, and a maximum stays one.
    """
    if not ordered:
        return math.nan
    return ordered[min(max(math.ceil(len(ordered) * fraction) - 1, 0), len(ordered) - 1)]


def summary(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p99 and maximum in milliseconds."""
    ordered = sorted(seconds)
    names = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: in_ms(quantile(ordered, fraction)) if ordered else None
        for name, fraction in names.items()
    }

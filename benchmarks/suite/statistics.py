"""Percentiles and ratios with intervals, from repetitions of a measurement.

What is drawn anew is what was drawn in the first place: repetitions (the machine has good and bad
minutes), and within each of them stretches of neighbouring requests (a stall hits neighbours).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Positions = NDArray[np.int64]

# 0.25 s of requests at 200/s; a stall that lasts longer is seen by the draw of repetitions.
_BLOCK = 50
# Of few values shorter ones: a single stretch of all of them is no draw.
_LEAST_STRETCHES = 10
_DRAWS = 500
_SEED = 20_260_101


class Interval(NamedTuple):
    """A value and between which bounds it lies, at the confidence that was asked for."""

    value: float
    low: float
    high: float


class Estimate:
    """Statistics of one quantity, with the draws that their intervals come from.

    Args:
        repetitions: of each repetition its values, in the order of time; or its one value.
        fractions: the quantiles wanted. Of repetitions of one value each it is their median, and
            these are ignored.
    """

    def __init__(
        self, repetitions: Sequence[Sequence[float]], fractions: Sequence[float] = (0.5,)
    ) -> None:
        self.repetitions = [np.asarray(each, dtype=float) for each in repetitions if len(each)]
        self._is_scalar = all(len(each) == 1 for each in self.repetitions)
        self._fractions = (0.5,) if self._is_scalar else tuple(fractions)
        if not self.repetitions:
            raise ValueError("nothing was measured")
        pooled = np.concatenate(self.repetitions)
        self._values = self._reduce(np.sort(pooled))
        self._draws = self._draw()

    def value(self, fraction: float = 0.5) -> float:
        """Return the statistic."""
        return float(self._values[self._index(fraction)])

    def interval(self, fraction: float = 0.5, *, confidence: float = 0.95) -> Interval:
        """Return the statistic with its interval; of one repetition of one value there is none."""
        return _interval(self.value(fraction), self.draws(fraction), confidence)

    def draws(self, fraction: float = 0.5) -> Array:
        """Return the statistic of each draw."""
        return self._draws[:, self._index(fraction)]

    def _index(self, fraction: float) -> int:
        return 0 if self._is_scalar else self._fractions.index(fraction)

    def _reduce(self, ordered: Array) -> Array:
        if self._is_scalar:
            return np.asarray([np.median(ordered)])
        return ordered[self._ranks(len(ordered))]

    def _ranks(self, count: int) -> list[int]:
        # The nearest rank: one of the values, and a maximum stays one.
        return [max(math.ceil(count * each) - 1, 0) for each in self._fractions]

    def _draw(self) -> Array:
        random = np.random.default_rng(_SEED)
        count = len(self.repetitions)
        if self._is_scalar:
            values = np.concatenate(self.repetitions)
            chosen = random.integers(count, size=(_DRAWS, count))
            draws = np.median(values[chosen], axis=1, keepdims=True)
            if count == 1:
                return np.full((_DRAWS, 1), math.nan)
            return _stretched(draws, self._values[0], math.sqrt(count / (count - 1)))
        length = min(len(each) for each in self.repetitions)
        # All draws at once: a row for each. Repetitions differ in length by a few requests at most.
        values = np.stack([each[:length] for each in self.repetitions])
        chosen = random.integers(count, size=(_DRAWS, count, 1))
        sample = values[chosen, _stretches(random, (_DRAWS, count), length)].reshape(_DRAWS, -1)
        ranks = self._ranks(sample.shape[1])
        sample.partition(sorted(set(ranks)), axis=1)
        return sample[:, ranks]


def ratio(
    first: Estimate, second: Estimate, fraction: float = 0.5, *, confidence: float = 0.95
) -> Interval:
    """Return how many times the first the second is, with its interval."""
    # By nothing something is infinitely more, and nothing is as much: none of it is unknown.
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = second.draws(fraction) / first.draws(fraction)
        value = float(np.float64(second.value(fraction)) / first.value(fraction))
    draws[(second.draws(fraction) == 0) & (first.draws(fraction) == 0)] = 1.0
    return _interval(1.0 if math.isnan(value) else value, draws, confidence)


def _stretched(draws: Array, middle: float, factor: float) -> Array:
    """Widen draws: few repetitions, drawn from themselves, vary too little, by this factor."""
    if middle > 0 and draws.min() > 0:
        # By ratio: what cannot be below zero does not get there.
        found: Array = middle * (draws / middle) ** factor
        return found
    wide = middle + (draws - middle) * factor
    return np.maximum(wide, 0.0) if draws.min() >= 0 else wide


def _stretches(random: np.random.Generator, shape: tuple[int, int], length: int) -> Positions:
    """Draw positions of values in stretches of neighbours, as many as there are values."""
    size = max(1, min(_BLOCK, length // _LEAST_STRETCHES))
    starts = random.integers(length, size=(*shape, math.ceil(length / size), 1))
    positions = (starts + np.arange(size)).reshape(*shape, -1)[..., :length]
    found: Positions = positions % length
    return found


def _interval(value: float, draws: Array, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    usable = draws[~np.isnan(draws)]
    if not len(usable):
        return Interval(value, math.nan, math.nan)
    # One of the draws, not between two of them: infinity has no middle.
    low, high = np.quantile(usable, [tail, 1 - tail], method="inverted_cdf")
    # A draw in stretches may miss an extreme that the value itself has.
    return Interval(value, min(float(low), value), max(float(high), value))

"""`offload._values.histogram`: constant memory, exact counts, quantiles within nine percent."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload._values.histogram import Histogram, HistogramSnapshot
from tests.support import inside

RESOLUTION = 2 ** (1 / 8)
# One microsecond to one day.
seconds = st.floats(1e-6, 86400.0)
fractions = st.floats(0.0, 1.0)


def snapshot(values):
    """Return the snapshot of a histogram of these values."""
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram.snapshot()


class TestQuantile:
    @given(st.lists(seconds, min_size=1, max_size=700), fractions)
    def test_is_at_most_nine_percent_above(self, values, fraction):
        """Each quantile is never below the true one, and above it by one bucket at most."""
        rank = max(1, math.ceil(fraction * len(values)))
        true = sorted(values)[rank - 1]
        found = snapshot(values).quantile(fraction)
        assert true * (1 - 1e-9) <= found <= true * RESOLUTION * (1 + 1e-9)

    @given(st.lists(seconds, min_size=1), st.lists(fractions, min_size=2))
    def test_rises_with_the_fraction(self, values, fractions):
        """A higher quantile is never below a lower one, and none is outside of what was seen."""
        frozen = snapshot(values)
        found = [frozen.quantile(fraction) for fraction in sorted(fractions)]
        assert found == sorted(found)
        assert min(values) <= found[0]
        assert found[-1] <= max(values)

    @given(seconds, st.integers(1, 600), fractions)
    def test_of_equal_values_is_exact(self, value, count, fraction):
        """Where all values are equal every quantile is that value itself."""
        assert snapshot([value] * count).quantile(fraction) == value

    @given(st.lists(seconds, min_size=1))
    def test_last_is_the_maximum(self, values):
        """The 100th percentile is the largest value, exactly."""
        assert snapshot(values).quantile(1.0) == max(values)

    def test_of_nothing_is_zero(self):
        """Where nothing was recorded there is nothing to say but zero."""
        frozen = Histogram().snapshot()
        assert [frozen.quantile(fraction) for fraction in (0.0, 0.5, 1.0)] == [0.0] * 3

    @pytest.mark.parametrize("fraction", [-0.1, 1.1, 99, math.nan])
    def test_fraction_is_checked(self, fraction):
        """99 is no fraction: a percentile by its number is refused, not misread."""
        with pytest.raises(ValueError, match="fraction must be between"):
            Histogram().snapshot().quantile(fraction)


class TestSnapshot:
    @given(st.lists(seconds, max_size=700))
    def test_counts_are_exact(self, values):
        """Count, total, mean, minimum and maximum are those of the values, not of buckets."""
        frozen = snapshot(values)
        assert frozen.count == len(values)
        assert frozen.total == pytest.approx(math.fsum(values))
        assert frozen.mean == pytest.approx(math.fsum(values) / max(len(values), 1))
        assert frozen.minimum == min(values, default=0.0)
        assert frozen.maximum == max(values, default=0.0)

    @given(st.lists(seconds, max_size=700))
    def test_buckets_hold_each_value_once(self, values):
        """Buckets ascend, are not empty, and each has as many values as lie within it."""
        buckets = snapshot(values).buckets
        bounds = [bound for bound, _ in buckets]
        assert bounds == sorted(set(bounds))
        assert sum(count for _, count in buckets) == len(values)
        for bound, count in buckets:
            # A value on a bound may be taken for one just above it.
            within = sum(bound / RESOLUTION * 1.000001 < v < bound * 0.999999 for v in values)
            near = sum(bound / RESOLUTION * 0.999999 < v < bound * 1.000001 for v in values)
            assert count > 0
            assert within <= count <= near or bound == 1e-6

    @pytest.mark.parametrize("value", [0.0, 1e-9, -1.0])
    def test_less_than_a_microsecond_is_in_the_first_bucket(self, value):
        """What no clock can tell from nothing is counted, and never negative."""
        frozen = snapshot([value])
        assert frozen.buckets == ((1e-6, 1),)
        assert frozen.minimum == frozen.maximum == max(value, 0.0)

    def test_memory_is_constant(self):
        """However many and however different the values are, the buckets stay a few hundred."""
        histogram = Histogram()
        for power in range(-300, 300):
            for mantissa in range(20):
                histogram.record((1 + mantissa / 20) * 2.0**power)
        assert len(histogram.snapshot().buckets) <= 8 * 37 + 1
        assert inside.pending_values(histogram) == 0

    def test_very_long_is_in_the_last_bucket(self):
        """What exceeds the range is counted, with its true maximum."""
        assert snapshot([1e9]).quantile(0.5) == 1e9

    def test_is_frozen(self):
        """A snapshot does not change with what is recorded later, nor by hand."""
        histogram = Histogram()
        histogram.record(1.0)
        frozen = histogram.snapshot()
        histogram.record(2.0)
        assert frozen.count == 1
        assert histogram.snapshot().count == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.count = 5

    def test_is_a_plain_value(self):
        """Two histograms of the same values have equal snapshots."""
        assert snapshot([1.0, 2.0]) == snapshot([2.0, 1.0])
        assert isinstance(snapshot([]), HistogramSnapshot)


class TestRecord:
    # Few: each example has to be longer than what is held back.
    @settings(max_examples=25)
    @given(st.lists(seconds, min_size=257, max_size=600), st.sets(st.integers(0, 600)))
    def test_when_it_is_folded_does_not_matter(self, values, looks):
        """Looking in between changes nothing of what is counted in the end."""
        histogram = Histogram()
        for number, value in enumerate(values):
            histogram.record(value)
            if number in looks:
                histogram.snapshot()
        looked, unlooked = histogram.snapshot(), snapshot(values)
        assert looked.buckets == unlooked.buckets
        assert looked.total == pytest.approx(unlooked.total)

    def test_extremes_are_those_of_all_values(self):
        """The smallest and the largest value are remembered, however many came since."""
        frozen = snapshot([1.0, 9.0, *[5.0] * 1000])
        assert (frozen.minimum, frozen.maximum) == (1.0, 9.0)

    def test_pending_values_are_bounded(self):
        """A histogram that nobody looks at folds by itself."""
        histogram = Histogram()
        for _ in range(10_000):
            histogram.record(1.0)
            assert inside.pending_values(histogram) < 256

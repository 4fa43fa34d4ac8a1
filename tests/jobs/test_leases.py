"""The leases of a worker program: by example, and beside a model through any history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.jobs._values import Claim, Extended
from offload.jobs._worker.leases import Leases, extend_period, max_grace, stop_margin
from offload.jobs._worker.pulse import Pulse

ONE = Claim("1", "default", "a")
TWO = Claim("2", "default", "b")


def leases(*claims, lease=10.0, at=0.0):
    """Return leases with claims asked for at an instant."""
    made = Leases(lease)
    for claim in claims:
        made.claimed(claim, at)
    return made


def test_lease_counts_from_when_it_was_asked_for():
    """A claim runs out a margin before the lease is over, counted from before it was asked for."""
    held = leases(ONE, at=5.0)
    assert held.run_out(13.9) == []
    assert held.run_out(14.0) == [ONE]


def test_attempt_with_a_grace_is_told_to_stop_that_much_sooner():
    """It has its grace within the lease, and not beside its successor."""
    held = Leases(10.0)
    held.claimed(ONE, 0.0, grace=2.5)
    held.claimed(TWO, 0.0)
    assert held.run_out(6.4) == []
    assert held.run_out(6.5) == [ONE]
    assert held.run_out(9.0) == [ONE, TWO]
    assert not held.may_begin(ONE, 6.5)
    assert held.may_begin(TWO, 6.5)


def test_extension_counts_from_when_it_was_asked_for():
    """An extension moves the end, and an older answer that comes late does not move it back."""
    held = leases(ONE)
    assert held.extended([ONE], 8.0, Extended()) == []
    assert held.extended([ONE], 4.0, Extended()) == []
    assert held.run_out(16.9) == []
    assert held.run_out(17.0) == [ONE]


def test_lost_claim_is_held_no_longer():
    """What the engine calls lost is to stop, and is not extended any more."""
    held = leases(ONE, TWO)
    assert held.extended([ONE, TWO], 1.0, Extended(lost=frozenset({ONE}))) == [ONE]
    assert held.held() == [TWO]
    assert not held.is_held(ONE)
    assert held.run_out(1000.0) == [TWO]


def test_cancelled_claim_is_told_once():
    """A cancelled job is to stop, told once; its claim is held until that is reported."""
    held = leases(ONE)
    answer = Extended(cancelled=frozenset({ONE}))
    assert held.extended([ONE], 1.0, answer) == [ONE]
    assert held.extended([ONE], 2.0, answer) == []
    assert held.is_held(ONE)
    assert held.is_cancelled(ONE)


def test_claim_that_ended_meanwhile_is_not_stopped():
    """An answer about a claim that is over by now changes nothing."""
    held = leases(ONE)
    held.over(ONE)
    assert held.extended([ONE], 1.0, Extended(lost=frozenset({ONE}))) == []
    assert len(held) == 0


def test_nothing_begins_once_its_lease_has_run_out():
    """A claim that has run out, is over or never was is none to begin with."""
    held = leases(ONE, at=5.0)
    assert held.may_begin(ONE, 13.9)
    assert not held.may_begin(ONE, 14.0)
    assert not held.may_begin(TWO, 5.0)
    held.over(ONE)
    assert not held.may_begin(ONE, 5.0)


@pytest.mark.parametrize("lease", [2.0, 3.0, 10.0, 600.0])
def test_several_extensions_fit_into_a_lease(lease):
    """Two extensions may fail before an attempt is stopped, at the least."""
    assert extend_period(lease) <= 0.5
    assert 3 * extend_period(lease) <= lease
    assert 2 * extend_period(lease) < lease - stop_margin(lease)
    assert extend_period(lease) < lease - stop_margin(lease) - max_grace(lease)


def test_pulse_tells_the_longest_stand_still_of_late():
    """What a busy loop is late by is not told, nor what is long ago."""
    pulse = Pulse()
    pulse.beat(1.0, 3.0)
    pulse.beat(3.1, 3.3)
    pulse.beat(4.0, 5.0)
    assert pulse.longest(since=0.0) == 2.0
    assert pulse.longest(since=3.1) == 1.0
    assert pulse.longest(since=5.1) == 0.0


CLAIMS = [Claim(str(number), "default", str(number)) for number in range(4)]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "extend", "lose", "cancel", "over", "outage"]),
        st.sets(st.sampled_from(CLAIMS), min_size=1),
        st.floats(0.0, 4.0),
        st.floats(0.0, 4.0),
    ),
    max_size=40,
)


@given(STEPS)
def test_never_later_than_the_engine(steps):
    """Through any history, what this program holds as valid is no longer valid for an engine.

    The model is an engine with a clock: it counts a lease from when it handles a request, which is
    some time after that was sent.
    """
    lease, now = 5.0, 0.0
    held, valid_until = Leases(lease), {}
    for step, claims, before, after in steps:
        asked_at = now
        now += before  # the request is under way
        handled = dict.fromkeys(claims, now + lease)
        now += after  # the answer is
        if step == "claim":
            for claim in claims - valid_until.keys():
                held.claimed(claim, asked_at)
                valid_until[claim] = handled[claim]
        elif step == "over":
            for claim in claims:
                held.over(claim)
                valid_until.pop(claim, None)
        elif step in ("extend", "lose", "cancel"):
            known = [claim for claim in claims if claim in valid_until]
            lost = frozenset(known if step == "lose" else ())
            cancelled = frozenset(known if step == "cancel" else ())
            held.extended(known, asked_at, Extended(lost=lost, cancelled=cancelled))
            for claim in known:
                if step == "lose":
                    del valid_until[claim]
                else:
                    valid_until[claim] = max(valid_until[claim], handled[claim])
        assert set(held.held()) == valid_until.keys()
        run_out = held.run_out(now)
        for claim, until in valid_until.items():
            # Whatever is not told to stop is still valid, for the margin at least.
            assert claim in run_out or now + stop_margin(lease) < until + 1e-9

"""`offload.jobs._decisions`: what becomes of a job."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.jobs._decisions import (
    Standing,
    after_crash,
    after_error,
    backoff_delay,
    cancel_outcome,
    expire,
    forget_at,
    is_expired,
    lapse,
    settle,
)
from offload.jobs._values import (
    AttemptOutcome,
    Backoff,
    CancelOutcome,
    Fail,
    JobState,
    Retry,
)
from tests.jobs.values import BOOM

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FIXED = Backoff(initial=10.0, factor=1.0, jitter=0.0)

fractions = st.floats(0.0, 1.0)
backoffs = st.builds(
    Backoff,
    initial=st.floats(0.0, 1e6),
    factor=st.floats(1.0, 1e6),
    maximum=st.floats(0.0, 1e7),
    jitter=fractions,
)


@pytest.mark.parametrize("failures, delay", [(1, 1.0), (2, 2.0), (3, 4.0), (6, 30.0), (999, 30.0)])
def test_delays_grow_up_to_the_maximum(failures, delay):
    """Each delay is a multiple of the one before, until the limit."""
    assert backoff_delay(Backoff(1.0, 2.0, 30.0, jitter=0.0), failures, 0.9) == delay


@given(backoff=backoffs, failures=st.integers(1, 10**9), draw=st.floats(0.0, 1.0, exclude_max=True))
def test_delay_is_within_its_jitter(backoff, failures, draw):
    """A delay is finite, and between the undrawn one and that less its jitter."""
    delay = backoff_delay(backoff, failures, draw)
    whole = backoff_delay(backoff, failures, 0.0)
    assert math.isfinite(delay)
    assert whole * (1.0 - backoff.jitter) <= delay <= whole <= backoff.maximum


@given(backoff=backoffs, failures=st.integers(1, 10**6))
def test_later_delay_is_no_shorter(backoff, failures):
    """Without jitter, delays never shrink."""
    assert backoff_delay(backoff, failures, 0.0) <= backoff_delay(backoff, failures + 1, 0.0)


def test_error_is_retried_until_the_last_attempt():
    """`max_attempts` counts the first attempt, and is reached exactly."""
    for attempts, expected in enumerate((Retry(BOOM, 10.0), Retry(BOOM, 10.0), Fail(BOOM))):
        job = Standing(attempts=attempts, crashes=9, max_attempts=3, backoff=FIXED)
        assert after_error(job, BOOM, now=NOW, draw=0.5) == expected


def test_crash_is_retried_until_there_are_too_many():
    """`max_crashes` may happen; one more and the job has failed. Attempts do not matter."""
    crashed = AttemptOutcome.CRASHED
    for crashes, expected in enumerate((Retry(BOOM, 10.0, crashed), Fail(BOOM, crashed))):
        job = Standing(attempts=9, crashes=crashes, max_crashes=1, backoff=FIXED)
        assert after_crash(job, BOOM, now=NOW, draw=0.5) == expected


@pytest.mark.parametrize("decide", [after_error, after_crash])
def test_retry_that_would_be_late_is_not_made(decide):
    """With a deadline before the next attempt the job fails now, with the error that it had."""
    late = Standing(max_attempts=9, backoff=FIXED, deadline=NOW + timedelta(seconds=10))
    early = Standing(max_attempts=9, backoff=FIXED, deadline=NOW + timedelta(seconds=11))
    assert isinstance(decide(late, BOOM, now=NOW, draw=0.0), Fail)
    assert isinstance(decide(early, BOOM, now=NOW, draw=0.0), Retry)


def test_zero_crashes_means_none_is_survived():
    """With `max_crashes=0` the first lapsed lease fails the job."""
    assert lapse(Standing(max_crashes=0), "w").state is JobState.FAILED
    assert lapse(Standing(max_crashes=1), "w").state is JobState.WAITING


def test_lapse_names_the_worker():
    """The history tells who has not extended its claim."""
    error = lapse(Standing(), "host-1:42").error
    assert error is not None
    assert "host-1:42" in error.message


def test_retry_without_delay_is_waiting():
    """Only a delay makes a job delayed, and it is due that much later."""
    now = settle(Standing(), Retry(BOOM), now=NOW)
    assert (now.state, now.due_at) == (JobState.WAITING, None)
    later = settle(Standing(), Retry(BOOM, 1.5), now=NOW)
    assert (later.state, later.due_at) == (JobState.DELAYED, NOW + timedelta(seconds=1.5))


def test_deadline_is_past_when_it_comes():
    """At the deadline itself it is too late; without one, never."""
    assert is_expired(NOW, NOW)
    assert not is_expired(NOW, NOW - timedelta(microseconds=1))
    assert not is_expired(None, NOW)


def test_expired_job_keeps_its_last_error():
    """The text names the deadline, and what the last attempt failed of."""
    assert expire(NOW, None).type == "offload.errors.DeadlineError"
    assert "builtins.ValueError: boom" in expire(NOW, BOOM).message


def test_cancel_depends_on_the_state():
    """Only an active job needs its worker program's help."""
    assert {state: cancel_outcome(state) for state in JobState} == {
        JobState.WAITING: CancelOutcome.REMOVED,
        JobState.DELAYED: CancelOutcome.REMOVED,
        JobState.ACTIVE: CancelOutcome.ASKED,
        JobState.COMPLETED: CancelOutcome.OVER,
        JobState.FAILED: CancelOutcome.OVER,
        JobState.CANCELLED: CancelOutcome.OVER,
    }


@pytest.mark.parametrize(
    "keep, instant", [(None, None), (0.0, NOW), (60.0, NOW + timedelta(minutes=1)), (1e300, None)]
)
def test_retention_counts_from_the_end(keep, instant):
    """A job may be forgotten `keep` seconds after its end; None, or for ages: never."""
    assert forget_at(NOW, keep) == instant

"""What became of a call: the one list of words that statistics, metrics, logs and tools share."""

from __future__ import annotations

import enum

__all__ = ["Outcome"]


class Outcome(enum.StrEnum):
    """How a call ended. Every call has exactly one, given where its caller gets the result."""

    COMPLETED = "completed"
    """The function returned, and its caller has the result."""

    FAILED = "failed"
    """The function raised, was not found, or its arguments or its result did not cross."""

    REFUSED = "refused"
    """The queue was full, and the call was refused at once."""

    NOT_STARTED = "not_started"
    """It waited, and did not run: queue timeout, deadline, a closed pool, no worker that starts."""

    TIMED_OUT = "timed_out"
    """It ran longer than its timeout, or past its deadline, and was stopped."""

    CANCELLED = "cancelled"
    """Its caller or the client of its request left, or somebody stopped it by hand."""

    CRASHED = "crashed"
    """Its worker died."""

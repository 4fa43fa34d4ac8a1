"""How long runs take, going by those of late."""

from __future__ import annotations

__all__ = ["RunTime"]

# An average that follows a change of load within some ten runs; arbitrary, not critical.
_MEMORY_RUNS = 10
# What a refusal by estimate leaves of the estimate. Arbitrary, does not matter much.
_TRUST = 0.95


class RunTime:
    """How long tasks took of late: a mean in seconds, 0.0 where none has ended."""

    __slots__ = ("_count", "mean")

    def __init__(self) -> None:
        self.mean = 0.0
        self._count = 0

    def add(self, seconds: float) -> None:
        """Count one run."""
        count = self._count = self._count + 1
        if count == 2 and seconds < self.mean:  # noqa: PLR2004 - the second one
            # The first run of a function imports what it needs, and says little of the others.
            self.mean = seconds
        else:
            self.mean += (seconds - self.mean) / min(count, _MEMORY_RUNS)

    def add_stopped(self, seconds: float) -> None:
        """Count a run that was stopped after so long.

        How long it would have taken nobody knows: longer. Without this, attempts that end at their
        deadline would let the estimate only ever sink.
        """
        if self.mean:
            self.mean += (2.0 * seconds - self.mean) / _MEMORY_RUNS

    def distrust(self) -> None:
        """Trust the mean a little less, after a refusal that rested on it.

        Else a function whose one measured run was slow would be refused for ever, and never be
        measured again.
        """
        self.mean *= _TRUST

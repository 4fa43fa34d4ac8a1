"""What became of calls, function by function, and the last ones that failed."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from offload._decisions.dispatch import Lane
from offload._pool.outcome import outcome_of
from offload._values.histogram import Histogram
from offload._values.outcome import Outcome
from offload._values.statistics import FailureRecord, FunctionStatistics
from offload.errors import RemoteTraceback, WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FOLD_AT", "Account", "Failures", "totals"]

# How many times to keep before they are counted: few enough not to hold an event loop.
FOLD_AT = 256
_KEPT_FAILURES = 50
_MESSAGE_CHARACTERS = 2000
_TRACEBACK_CHARACTERS = 8000
_COUNTERS = ("completed", "failed", "refused", "timed_out", "cancelled", "crashed")


class Account(Lane):
    """The lane of one function, with what became of its calls."""

    __slots__ = (*_COUNTERS, "_run", "_wait", "name", "times")

    def __init__(self, name: str, limit: int | None) -> None:
        super().__init__(limit)
        self.name = name
        self.completed = 0
        self.failed = 0
        self.refused = 0
        self.timed_out = 0
        self.cancelled = 0
        self.crashed = 0
        # (queued, started, ended), to be counted some hundred at a time: what runs once after a
        # system call finds every cache cold, so the path of a call only appends.
        self.times: list[tuple[float, float, float]] = []
        self._wait = Histogram()
        self._run = Histogram()

    def fold(self) -> None:
        """Count the times that were noted."""
        times, self.times = self.times, []
        if times:
            self._wait.extend([started - queued for queued, started, _ in times])
            self._run.extend([ended - started for _, started, ended in times])

    def statistics(self) -> FunctionStatistics:
        """Return what is known now."""
        self.fold()
        return FunctionStatistics(
            name=self.name,
            running=self.running,
            queued=self.waiting,
            max_concurrency=self.limit,
            completed=self.completed,
            failed=self.failed,
            refused=self.refused,
            timed_out=self.timed_out,
            cancelled=self.cancelled,
            crashed=self.crashed,
            wait=self._wait.snapshot(),
            run=self._run.snapshot(),
        )


def totals(functions: Iterable[FunctionStatistics]) -> dict[str, int]:
    """Return the sum of each counter."""
    functions = list(functions)
    return {name: sum(getattr(each, name) for each in functions) for name in _COUNTERS}


class Failures:
    """The last calls that ended in an error."""

    def __init__(self) -> None:
        self._records: deque[FailureRecord] = deque(maxlen=_KEPT_FAILURES)

    def note(self, function: str, error: Exception, pid: int | None) -> None:
        """Keep what is to be known of an error; not the error, which holds its caller's frames."""
        kind = outcome_of(error)
        if kind is Outcome.CANCELLED:
            return
        text = ""
        if isinstance(error.__cause__, RemoteTraceback):
            text = error.__cause__.args[0]
        elif isinstance(error, WorkerStartError):
            text = error.detail
        try:
            message = str(error)
        except BaseException as failure:  # noqa: BLE001 - whatever the class of a user does
            message = f"its text cannot be had: {type(failure).__name__}"
        self._records.append(
            FailureRecord(
                at=time.time(),
                function=function,
                kind=kind,
                error=type(error).__qualname__,
                message=message[:_MESSAGE_CHARACTERS],
                traceback=text[-_TRACEBACK_CHARACTERS:],
                pid=pid,
            )
        )

    def records(self) -> tuple[FailureRecord, ...]:
        """Return them, the oldest first."""
        return tuple(self._records)

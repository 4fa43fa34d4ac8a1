"""The books of a pool: what became of each call, function by function, and the last failures.

Every call is counted once, where its caller gets the result: by `Accounts.ended`, or by
`FunctionAccount.call_ended` where the short cut knows that there was no error. Attempts, which
are tasks of a worker, are counted apart: a call that is retried has several, one that was refused
has none. The books are the pool's, so that they survive its closing and opening.

Threads: calls end on any event loop. The path of a call only appends to a deque, which is atomic;
whatever is there is counted some hundred at a time, under a lock of the books' own. Code that runs
once after a system call finds every cache cold, so that a histogram would cost it microseconds.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from offload._pool.call_errors import outcome_of
from offload._pool.window import Window
from offload._values.histogram import Histogram
from offload._values.outcome import Outcome
from offload._values.statistics import FailureRecord, FunctionStatistics
from offload.errors import OffloadError, RemoteTraceback, WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from offload._decisions.story import Transition
    from offload._decisions.words import Lane
    from offload._pool.window import WindowStatistics

__all__ = ["FOLD_AT", "Accounts", "FunctionAccount"]

T = TypeVar("T")

# How many entries to keep before they are counted: few enough not to hold an event loop.
FOLD_AT = 256
_KEPT_FAILURES = 50
_MESSAGE_CHARACTERS = 2000
# Deep enough for whatever people write; a hundred thousand frames are folded by Python itself.
_TRACEBACK_CHARACTERS = 32_000


class FunctionAccount:
    """What became of the calls of one function.

    Attributes:
        ended: the outcome of each call, to be counted.
        attempts: of each attempt that got a reply, when it was queued, started and ended. Whoever
            appends calls `fold_if_free` from `FOLD_AT` entries on.
    """

    __slots__ = (
        "_attempts",
        "_counts",
        "_crashes",
        "_lock",
        "_run",
        "_wait",
        "_window",
        "attempts",
        "ended",
        "lost",
        "name",
    )

    def __init__(self, name: str, lock: threading.Lock, window: Window) -> None:
        self.name = name
        self.ended: deque[Outcome] = deque()
        self.attempts: deque[tuple[float, float, float]] = deque()
        # Of each attempt without a reply, whether its worker died; others were stopped.
        self.lost: deque[bool] = deque()
        self._lock = lock
        self._window = window
        self._counts: Counter[Outcome] = Counter()
        self._attempts = 0
        self._crashes = 0
        self._wait = Histogram()
        self._run = Histogram()

    def call_ended(self, outcome: Outcome) -> None:
        """Count a call."""
        self.ended.append(outcome)
        if len(self.ended) >= FOLD_AT:
            self.fold_if_free()

    def attempt_lost(self, *, crashed: bool) -> None:
        """Count an attempt that was stopped, or whose worker died."""
        self.lost.append(crashed)

    def fold_if_free(self) -> None:
        """Count what was appended, unless somebody has the lock.

        That may be this very thread: the collector, which runs at any allocation, closes calls.
        """
        if self._lock.acquire(blocking=False):
            try:
                self.fold()
            finally:
                self._lock.release()

    def fold(self) -> None:
        """Count what was appended; under the lock."""
        times = list(_taken(self.attempts))
        wait = [started - queued for queued, started, _ in times]
        run = [ended - started for _, started, ended in times]
        self._wait.extend(wait)
        self._run.extend(run)
        lost = list(_taken(self.lost))
        self._attempts += len(times) + len(lost)
        self._crashes += sum(lost)
        outcomes = list(_taken(self.ended))
        self._counts.update(outcomes)
        if self._window.is_kept:
            self._window.add(outcomes, wait, run)

    def statistics(self, lane: Lane | None) -> FunctionStatistics:
        """Return what is known now.

        Args:
            lane: the function's tasks in the pool that is open; None if it has none.
        """
        with self._lock:
            self.fold()
            return FunctionStatistics(
                name=self.name,
                running=0 if lane is None else lane.running,
                queued=0 if lane is None else lane.waiting,
                max_concurrency=None if lane is None else lane.limit,
                attempts=self._attempts,
                crashes=self._crashes,
                wait=self._wait.snapshot(),
                run=self._run.snapshot(),
                **{outcome.value: self._counts[outcome] for outcome in Outcome},
            )


def _taken(entries: deque[T]) -> Iterator[T]:
    # Not by iterating: other threads append meanwhile.
    while entries:
        yield entries.popleft()


class Accounts:
    """The books of one pool.

    Args:
        pool: its name.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._window = Window()
        # By name: what is sent by value has another reference each time that a global changes.
        self._functions: dict[str, FunctionAccount] = {}
        self._failures: deque[_Failure] = deque(maxlen=_KEPT_FAILURES)
        self.recycled = 0
        # Written by the keeper's thread alone.
        self.starved_seconds = 0.0
        self.throttled_seconds = 0.0

    def of(self, function: str) -> FunctionAccount:
        """Return the account of a function, as `module:qualname`."""
        account = self._functions.get(function)
        if account is None:
            # setdefault: two threads may be here at once.
            account = self._functions.setdefault(
                function, FunctionAccount(function, self._lock, self._window)
            )
        return account

    def ended(
        self,
        function: str,
        error: BaseException | None = None,
        pid: int | None = None,
        story: Callable[[], tuple[Transition, ...]] = tuple,
    ) -> Outcome:
        """Count a call, where its caller gets the result or the error.

        Args:
            function: as `module:qualname`.
            error: what it ended with; it is told its function and its pool, if it is one of ours.
            pid: process id of its last worker.
            story: returns what happened to the pool of late, to be kept with a failure.

        Returns:
            Its outcome.
        """
        outcome = Outcome.COMPLETED if error is None else outcome_of(error)
        self.of(function).call_ended(outcome)
        if isinstance(error, Exception):
            if isinstance(error, OffloadError) and not isinstance(error.__cause__, RemoteTraceback):
                error.function = error.function or function
                error.pool = error.pool or self._pool
            if outcome is not Outcome.CANCELLED:
                message, traceback = _texts(error)
                self._failures.append(
                    _Failure(
                        time.time(),
                        time.monotonic(),
                        function,
                        outcome,
                        type(error).__qualname__,
                        message,
                        traceback,
                        pid,
                        story(),
                    )
                )
        return outcome

    def statistics(self, lanes: Mapping[str, Lane]) -> tuple[FunctionStatistics, ...]:
        """Return what is known of each function, by name.

        Args:
            lanes: the functions' tasks in the pool that is open.
        """
        # A copy: another thread may be calling a function for the first time.
        accounts = sorted(self._functions.copy().items())
        return tuple(account.statistics(lanes.get(name)) for name, account in accounts)

    def take_window(self) -> WindowStatistics:
        """Return what has ended since this was called last; at the first call, nothing."""
        with self._lock:
            for account in self._functions.copy().values():
                account.fold()
            return self._window.taken()

    @staticmethod
    def totals(functions: Iterable[FunctionStatistics]) -> dict[str, Any]:
        """Return the sum of each counter of a pool, by the name of its statistics."""
        functions = list(functions)
        names = [*(outcome.value for outcome in Outcome), "attempts", "crashes"]
        return {name: sum(getattr(each, name) for each in functions) for name in names}

    def failures(self) -> tuple[FailureRecord, ...]:
        """Return the last failures, the oldest first."""
        return tuple(failure.record() for failure in tuple(self._failures))


class _Failure(NamedTuple):
    """A failure as it is kept: it is put into words when somebody asks, for a refusal is cheap."""

    at: float
    at_monotonic: float
    function: str
    outcome: Outcome
    error: str
    message: str
    traceback: str
    pid: int | None
    story: tuple[Transition, ...]

    def record(self) -> FailureRecord:
        """Return it in words."""
        return FailureRecord(
            at=self.at,
            function=self.function,
            kind=self.outcome,
            error=self.error,
            message=self.message,
            traceback=self.traceback,
            pid=self.pid,
            story=tuple(
                f"{self.at_monotonic - each.at:.3f} s before: {each}" for each in self.story
            ),
        )


def _texts(error: Exception) -> tuple[str, str]:
    """Return the message and the traceback of an error, which itself holds its caller's frames."""
    text = ""
    if isinstance(error.__cause__, RemoteTraceback):
        text = error.__cause__.args[0]
    elif isinstance(error, WorkerStartError):
        text = error.detail
    try:
        message = str(error)
    except BaseException as failure:  # noqa: BLE001 - whatever the class of a user does
        message = f"its text cannot be had: {type(failure).__name__}"
    if (left_out := len(text) - _TRACEBACK_CHARACTERS) > 0:
        text = f"… ({left_out:,} characters before this)\n{text[-_TRACEBACK_CHARACTERS:]}"
    return message[:_MESSAGE_CHARACTERS], text

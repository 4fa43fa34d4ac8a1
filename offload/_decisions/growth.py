"""How many workers there should be, and when a start that failed is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._decisions.words import Phase

if TYPE_CHECKING:
    from offload._decisions.roster import Roster
    from offload._decisions.wait_queue import WaitQueue
    from offload._decisions.words import Limits, Worker

__all__ = ["Growth"]

_BACKOFF_FIRST_SECONDS = 0.1
_BACKOFF_MAX_SECONDS = 30.0
# Starting may fail once for a passing reason (EAGAIN); three times in a row is a broken pool.
_FAILED_STARTS_UNTIL_REFUSAL = 3
_SOON_SECONDS = 0.001


class Growth:
    """The workers that are starting, the starts that failed, and how many workers to keep.

    Attributes:
        starting: how many workers are on their way.
        failed_starts: how many starts have failed since one succeeded.
        floor: how many to keep alive whatever the load: `min_workers`, at least one while a pool
            opens.
    """

    __slots__ = (
        "_early_deaths",
        "_failing",
        "_hold_until",
        "_is_held_back",
        "_queue",
        "_retry_start_at",
        "_roster",
        "failed_starts",
        "floor",
        "limits",
        "starting",
    )

    def __init__(self, limits: Limits, queue: WaitQueue, roster: Roster) -> None:
        self.limits = limits
        self._queue = queue
        self._roster = roster
        self.starting = 0
        self.failed_starts = 0
        self.floor = limits.min_workers
        # How many of the workers that are starting were so when the last one failed.
        self._failing = 0
        self._retry_start_at = 0.0
        # Whether workers are missing that were not started, since that time had not come.
        self._is_held_back = False
        self._early_deaths = 0
        self._hold_until = 0.0

    # --- what has happened ---

    def started(self) -> None:
        """A worker that was starting is ready."""
        self.starting -= 1
        self.failed_starts = self._failing = 0
        self._retry_start_at = self._hold_until
        self.floor = self.limits.min_workers

    def failed(self, now: float) -> None:
        """A worker that was starting did not come up: the next attempt waits a little."""
        self.starting -= 1
        if self._failing:
            self._failing -= 1
        else:
            # One cause, such as the end of their supervisor, may fail all that were on their way.
            self._failing = self.starting
            self.failed_starts += 1
        self._retry_start_at = max(self._retry_start_at, now + _backoff(self.failed_starts))

    def died(self, now: float, tasks_done: int) -> None:
        """A worker died that nobody had stopped.

        One that comes up and dies before its first task has failed to start, only later: else it
        would be replaced, and its task put back, in a tight loop for ever. `started` does not reset
        this count, since each of them was ready.
        """
        if tasks_done:
            self._early_deaths = 0
            return
        if now >= self._hold_until + _BACKOFF_MAX_SECONDS:
            # The last one was long ago: this is news, not a loop.
            self._early_deaths = 0
        self._early_deaths += 1
        self._hold_until = now + _backoff(self._early_deaths)
        self._retry_start_at = max(self._retry_start_at, self._hold_until)

    def left(self, tasks_done: int) -> None:
        """A worker was stopped by us."""
        if tasks_done:
            self._early_deaths = 0

    def want_first(self) -> None:
        """Somebody wants the pool warm: keep at least one worker until one is ready.

        Also where no task waits. Otherwise a first start that fails would not be tried again, and
        whoever opens the pool would wait for ever.
        """
        self.floor = max(self.limits.min_workers, 1)

    def keep_as_many(self) -> None:
        """Keep as many workers as there are, also where nothing has been asked of them for long."""
        self.floor = max(self.floor, self.starting + self._roster.up)

    def forget_floor(self) -> None:
        """Keep no more than `min_workers` beyond what the load asks for."""
        self.floor = self.limits.min_workers

    # --- how many workers to have ---

    @property
    def has_failed_often(self) -> bool:
        """Whether several workers in a row could not be started."""
        return max(self.failed_starts, self._early_deaths) >= _FAILED_STARTS_UNTIL_REFUSAL

    @property
    def is_failing(self) -> bool:
        """Whether no worker lives, and several in a row could not be started."""
        return self.has_failed_often and not (self.starting or self._roster.up)

    def is_surplus(self) -> bool:
        """Return whether more workers are alive than may ever be needed at once."""
        most = self._roster.max_workers + self.limits.spare_workers
        return self.starting + self._roster.up > most

    def start(self, now: float, phase: Phase) -> int:
        """Return how many workers to start now; they count as starting from here on."""
        if phase is Phase.CLOSED:
            return 0
        roster = self._roster
        wanted = min(roster.busy + self._queue.runnable, roster.capacity)
        if phase is Phase.OPEN:
            if wanted:
                wanted += self.limits.spare_workers
            wanted = max(wanted, min(self.floor, roster.max_workers))
        missing = wanted - roster.up - self.starting
        if missing <= 0:
            return 0
        if now < self._retry_start_at:
            self._is_held_back = True
            return 0
        if self.failed_starts:
            # Probe with one worker; the others follow when it has come up.
            missing = 0 if self.starting else 1
        self.starting += missing
        return missing

    # --- time ---

    def not_needed(self, now: float) -> list[Worker]:
        """Return the idle workers that the load since the last tick has not needed.

        To retire workers by idle time alone would stop and start the spare of a steadily loaded
        pool for ever.
        """
        timeout = self.limits.idle_timeout
        if timeout is None:
            return []
        roster, limits = self._roster, self.limits
        peak = min(roster.peak_busy, roster.max_workers)
        least = min(limits.min_workers, roster.max_workers)
        keep = max(least, peak + limits.spare_workers if peak else 0)
        surplus = max(self.starting + roster.up - keep, 0)
        return [worker for worker in roster.idle if worker.idle_since + timeout <= now][:surplus]

    def end_window(self) -> None:
        """A tick has come: measure the load anew, and let starts that were held back be tried."""
        self._roster.peak_busy = self._roster.busy
        self._is_held_back = False

    def wait_to_retry(self, now: float) -> float | None:
        """Return seconds until a failed start may be tried again; None: nothing waits for that."""
        if self._retry_start_at > now:
            return self._retry_start_at - now
        # Whoever asks is late.
        return _SOON_SECONDS if self._is_held_back else None

    def wait_to_retire(self, now: float) -> float | None:
        """Return seconds until an idle worker may have to retire; None: none will."""
        timeout, roster = self.limits.idle_timeout, self._roster
        if timeout is None or self.starting + roster.up <= self.limits.min_workers:
            return None
        # A worker that is busy now, or kept because of a recent peak, is looked at again one window
        # later.
        oldest = min((worker.idle_since for worker in roster.idle), default=now)
        wait = oldest + timeout - now
        return wait if wait > 0 else timeout


def _backoff(failures: int) -> float:
    """Return the seconds to wait after a failure, the `failures`-th in a row."""
    return min(_BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16), _BACKOFF_MAX_SECONDS)

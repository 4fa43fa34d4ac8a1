"""How long a newcomer would wait, going by the runs of late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._decisions.run_time import RunTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offload._decisions.roster import Roster
    from offload._decisions.wait_queue import WaitQueue
    from offload._decisions.words import Task

__all__ = ["Estimates"]

# What a refused caller is told before anything has been measured.
_UNKNOWN_RETRY_SECONDS = 1.0


class Estimates:
    """Answers of when, from measured runs, the queue and the workers.

    Attributes:
        run_time: of the tasks of all functions.
    """

    __slots__ = ("_queue", "_roster", "run_time")

    def __init__(self, queue: WaitQueue, roster: Roster) -> None:
        self.run_time = RunTime()
        self._queue = queue
        self._roster = roster

    def retry_after(self, now: float, running: Iterable[Task] = ()) -> float:
        """Return seconds until a newcomer would be served.

        All the work that is there, of which each function's runs take as long as they did of late,
        over the workers (Little's law).

        Args:
            now: monotonic seconds.
            running: the tasks that run.
        """
        work = 0.0
        # Where nothing was measured: a run takes as long again as the longest one has until now.
        unmeasured = self.run_time.mean
        for task in running:
            elapsed = now - task.started_at
            mean = task.lane.run_time.mean
            if not mean:
                mean = self.run_time.mean
                unmeasured = max(unmeasured, elapsed)
            # One that takes longer than usual has no end in sight.
            work += mean - elapsed if mean > elapsed else elapsed - mean
        for lane in self._queue.lanes():
            work += lane.waiting * (lane.run_time.mean or unmeasured)
        return work / self._roster.max_workers or unmeasured or _UNKNOWN_RETRY_SECONDS

    def is_too_late(self, task: Task, deadline: float, now: float) -> bool:
        """Return whether a newcomer could not end by its deadline."""
        run = task.lane.run_time
        if deadline > now + self._wait(task) + run.mean:
            return False
        if deadline > now:
            run.distrust()  # an estimate says so, and no clock
        return True

    def _wait(self, task: Task) -> float:
        """Return seconds that a newcomer would wait."""
        queue, roster = self._queue, self._roster
        if roster.takes_at_once(task):
            return 0.0
        # The rest of a function that is at its limit is behind whatever may run.
        overall = self.run_time.mean
        work = sum(lane.claim * (lane.run_time.mean or overall) for lane in queue.lanes())
        ahead = queue.ahead_of(task.priority)
        share = min(ahead / queue.runnable, 1.0) if queue.runnable else 0.0
        wait = work * share / roster.max_workers
        lane = task.lane
        if lane.limit is None:
            return wait
        # The newcomer also waits for the tasks of its own function, as far as that is limited.
        return max(wait, min(lane.waiting, ahead) * lane.run_time.mean / lane.limit)

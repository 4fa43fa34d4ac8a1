"""The tasks that wait: in order of priority and arrival, functions at their limit put aside.

    put ──► ready heap ──► next() ──► a worker
                │  ▲
   (lane full)  ▼  │  (a task of the lane left the heap or a worker)
             parked, a heap for each lane

Invariants, which `tests/unit/test_dispatcher_machine.py` counts anew after each event:
1. `count`, `size_bytes` and `by_priority` are those of the tasks in state QUEUED or PARKED.
2. `lane.claim` is how many ready tasks of the lane could run now; `runnable` is their sum.
3. A lane with parked tasks and room to run has at least one task in the ready heap.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from offload._decisions.words import Full, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._decisions.words import Lane, Limits, Task

__all__ = ["WaitQueue"]

# Withdrawn tasks stay in their heap until they surface; rebuild it when they are most of it.
_STALE_WORTH_A_REBUILD = 64


class WaitQueue:
    """The tasks that wait, and the counters that follow from them.

    Args:
        limits: how long it may become.
        on_expired: is given each task that is taken out because its `start_by` has passed.

    Attributes:
        limits: the same; what waits when they are lowered stays.
    """

    __slots__ = (
        "_by_priority",
        "_lanes",
        "_on_expired",
        "_parking",
        "count",
        "heap",
        "limits",
        "runnable",
        "size_bytes",
        "stale",
    )

    def __init__(self, limits: Limits, on_expired: Callable[[Task], object]) -> None:
        self.limits = limits
        self._on_expired = on_expired
        self.count = 0
        self.size_bytes = 0
        self.runnable = 0
        self.heap: list[tuple[int, int, Task]] = []
        # How many entries of the heap were withdrawn.
        self.stale = 0
        # Lanes with parked tasks, and those that had a task waiting when they were looked at last.
        self._parking: set[Lane] = set()
        self._lanes: set[Lane] = set()
        self._by_priority: dict[int, int] = {}

    def is_full(self, free: int) -> bool:
        """Return whether no more tasks may wait.

        Args:
            free: how many workers may be busy beside those that are. As many of those that wait do
                not count as queued, since they wait only for a worker that is starting: else a
                pool with max_queued=0 could never take its first call.
        """
        most = self.limits.max_queued
        return most is not None and self.count >= most + free

    def check_room(self, task: Task, free: int) -> None:
        """Raise unless there is room for one more task.

        Args:
            task: the newcomer.
            free: as for `is_full`.

        Raises:
            Full: there is none.
        """
        if self.is_full(free):
            limit = "max_queued"
            raise Full(limit)
        most = self.limits.max_queued_bytes
        # One that is larger than the whole limit may wait alone, or it could never run.
        if most is not None and self.count and self.size_bytes + task.size_bytes > most:
            limit = "max_queued_bytes"
            raise Full(limit)

    def put(self, task: Task) -> None:
        """Have a task wait, in its place by priority and arrival."""
        self.count += 1
        self.size_bytes += task.size_bytes
        self._by_priority[task.priority] = self._by_priority.get(task.priority, 0) + 1
        self._make_ready(task)

    def withdraw(self, task: Task) -> bool:
        """Take a waiting task out; False if it is not waiting."""
        lane = task.lane
        if task.state is TaskState.QUEUED:
            task.state = TaskState.DONE
            self._leave_ready(lane)
            self._leave(task)
            self.unpark(lane)
            self.stale += 1
            if self.stale > _STALE_WORTH_A_REBUILD and self.stale * 2 > len(self.heap):
                self.heap = _without_stale(self.heap)
                self.stale = 0
        elif task.state is TaskState.PARKED:
            task.state = TaskState.DONE
            self._leave(task)
            lane.stale += 1
            if lane.stale > _STALE_WORTH_A_REBUILD and lane.stale * 2 > len(lane.parked):
                lane.parked = _without_stale(lane.parked)
                lane.stale = 0
        else:
            return False
        return True

    def next(self, now: float) -> Task | None:
        """Take out the first task that may run; None if there is none.

        Tasks whose `start_by` has passed are taken out on the way, those whose function is at its
        limit are parked.
        """
        while self.heap:
            _, _, task = heappop(self.heap)
            if task.state is not TaskState.QUEUED:
                self.stale -= 1
                continue
            lane = task.lane
            self._leave_ready(lane)
            if task.start_by is not None and task.start_by <= now:
                self._leave(task)
                task.state = TaskState.DONE
                self._on_expired(task)
                self.unpark(lane)
            elif lane.is_full:
                task.state = TaskState.PARKED
                heappush(lane.parked, (-task.priority, task.sequence, task))
                self._parking.add(lane)
            else:
                self._leave(task)
                return task
        return None

    def entries(self) -> list[tuple[int, int, Task]]:
        """Return a copy of the heaps: the smallest entry is served first.

        Tasks that were withdrawn may be among them; they are in no state of waiting.
        """
        return [*self.heap, *(entry for lane in self._parking for entry in lane.parked)]

    def clear(self) -> list[Task]:
        """Take all tasks out, and return them in order of arrival."""
        waiting = [task for _, _, task in self.heap if task.state is TaskState.QUEUED]
        for lane in self._parking:
            waiting += [task for _, _, task in lane.parked if task.state is TaskState.PARKED]
            lane.parked.clear()
            lane.stale = 0
        self._parking.clear()
        self.heap.clear()
        self.stale = 0
        waiting.sort(key=lambda task: task.sequence)
        for task in waiting:
            if task.state is TaskState.QUEUED:
                self._leave_ready(task.lane)
            self._leave(task)
            task.state = TaskState.DONE
        return waiting

    def recount(self, lane: Lane) -> None:
        """Count anew how many tasks of a lane could run, after what runs or may run has changed."""
        claim = lane.ready
        if lane.limit is not None:
            claim = min(claim, max(lane.limit - lane.running, 0))
        self.runnable += claim - lane.claim
        lane.claim = claim

    def unpark(self, lane: Lane) -> None:
        """Make the first parked task of a lane ready: one has left the ready heap, or a worker.

        Always: the heap then restores the order among it and later arrivals.
        """
        while lane.parked:
            _, _, task = heappop(lane.parked)
            if task.state is TaskState.PARKED:
                self._make_ready(task)
                return
            lane.stale -= 1
        self._parking.discard(lane)

    def lanes(self) -> list[Lane]:
        """Return the lanes that have a task waiting."""
        self._lanes = {lane for lane in self._lanes if lane.waiting}
        return list(self._lanes)

    def ahead_of(self, priority: int) -> int:
        """Return how many tasks wait that go before a newcomer of this priority."""
        return sum(count for each, count in self._by_priority.items() if each >= priority)

    def _make_ready(self, task: Task) -> None:
        task.state = TaskState.QUEUED
        heappush(self.heap, (-task.priority, task.sequence, task))
        task.lane.ready += 1
        self._lanes.add(task.lane)
        self.recount(task.lane)

    def _leave_ready(self, lane: Lane) -> None:
        lane.ready -= 1
        self.recount(lane)

    def _leave(self, task: Task) -> None:
        self.count -= 1
        self.size_bytes -= task.size_bytes
        left = self._by_priority[task.priority] - 1
        if left:
            self._by_priority[task.priority] = left
        else:  # priorities may be of any number
            del self._by_priority[task.priority]


def _without_stale(heap: list[tuple[int, int, Task]]) -> list[tuple[int, int, Task]]:
    live = [entry for entry in heap if entry[2].state is not TaskState.DONE]
    heapify(live)
    return live

"""All schedules of a scheduler, and which of them is due next: events in, actions out.

```
 add, change, remove ──►┌────────┐
 pause, resume ────────►│        ├──► Fire            run the function
 run_now, ended ───────►│ Agenda ├──► Cancel          stop that run, then tell `ended`
 advance(now) ─────────►│        ├──► Missed, SkippedOverlap, Finished      tell observers
                        └────────┘
      ▲                     │
      └── one timer ◄── next_due()
```

Guarantees:

1. Each fire time of an active schedule is decided exactly once: by a `Fire`, or by a `Missed`, a
   `SkippedOverlap` or the end of the schedule. (One that was `Missed` may still fire if the clock
   is set back to before it.)
2. The same fire has the same id, in every process and after every restart. A process that dies
   before it has kept a snapshot decides the same fire times again, under the same ids.
3. Fire times do not depend on when they are looked for: nothing drifts.
4. To find what is due is no scan: a heap, with entries that are left behind and skipped when a
   schedule changes, and built anew when more than half are such. Adding, changing and removing one
   of n schedules takes O(log n), amortised. At rest, nothing runs but one timer.
"""

from __future__ import annotations

import heapq
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from offload.schedules._decisions import ScheduleState
from offload.schedules._errors import ScheduleError
from offload.schedules._records import Action, Policy, Snapshot, Span
from offload.schedules._zones import to_utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload.schedules._fire_times import FireTimes

__all__ = ["Agenda"]

# Not worth a rebuild below this many stale entries; arbitrary, does not matter much.
_STALE_WORTH_A_REBUILD = 1000
_DEFAULTS = Policy()
_TICK = timedelta(microseconds=1)
_NOTHING: tuple[tuple[Span, ...], float] = ((), 0.0)


class Agenda:
    """Schedules by name, in the order in which they are due.

    `now` is handed in, aware, and may go back. No method blocks; the caller serialises calls.
    """

    def __init__(self) -> None:
        self._states: dict[str, ScheduleState] = {}
        self._heap: list[tuple[datetime, int, ScheduleState]] = []
        self._tickets = 0
        self._stale = 0
        self._seen = datetime.min.replace(tzinfo=UTC)
        # What was passed over of which schedules and how far that reaches, and a heap of these
        # instants, the latest first: what a clock that is set back finds.
        self._passed_over: dict[str, tuple[tuple[Span, ...], float]] = {}
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, name: object) -> bool:
        return name in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __getitem__(self, name: str) -> ScheduleState:
        """Return a schedule, to be read only.

        Raises:
            KeyError: there is none of that name.
        """
        return self._states[name]

    def __repr__(self) -> str:
        due = self.next_due()
        return f"<Agenda: {len(self)} schedules, next due {due.isoformat() if due else 'never'}>"

    def next_due(self) -> datetime | None:
        """Return the instant in UTC at which to call `advance`; None if there is none.

        It may lie in the past: then the time has come.
        """
        heap = self._heap
        while heap and heap[0][2].ticket != heap[0][1]:
            heapq.heappop(heap)
            self._stale -= 1
        return heap[0][0] if heap else None

    def advance(self, now: datetime, max_schedules: int | None = None) -> list[Action]:
        """Decide all that is due, in the order in which it is due.

        Args:
            now: the instant that it is.
            max_schedules: decide no more schedules than that; the rest stays due. None: all.

        Returns:
            What is to be done, in this order.
        """
        now = self._look_back(now)
        actions: list[Action] = []
        decided = 0
        while max_schedules is None or decided < max_schedules:
            due = self.next_due()
            if due is None or due > now:
                break
            state = heapq.heappop(self._heap)[2]
            state.ticket = 0
            actions += state.advance(now)
            self._keep(state)
            decided += 1
        return actions

    def add(
        self,
        name: str,
        fire_times: FireTimes,
        policy: Policy | None = None,
        *,
        now: datetime,
        snapshot: Snapshot | None = None,
    ) -> list[Action]:
        """Add a schedule.

        Args:
            name: of the schedule; part of the ids of its fires.
            fire_times: when it fires.
            policy: how it deals with lateness, overlap and limits; None: the defaults.
            now: the instant that it is. Without a snapshot, nothing fires for what lies before.
            snapshot: what was kept of it when it last ran; fire times since then are due.

        Returns:
            `Finished`, if it will never fire; else nothing. What is due is decided by `advance`.

        Raises:
            ScheduleError: there is one of that name already.
        """
        if not name:
            raise ScheduleError("a schedule needs a name")
        if name in self._states:
            raise ScheduleError(
                f"there is a schedule {name!r} already; change() it, or choose another name"
            )
        now = self._look_back(now)
        policy = policy or _DEFAULTS
        if snapshot is None:
            # A start that is now is to be seen, too.
            is_first = policy.start == now
            snapshot = Snapshot(handled_until=now - _TICK if is_first else now)
        state = self._states[name] = ScheduleState(name, fire_times, policy, snapshot)
        return self._after(state, state.begin(now))

    def remove(self, name: str) -> ScheduleState:
        """Remove a schedule and return what it was; what it runs is the caller's to cancel."""
        state = self._states.pop(name)
        self._passed_over.pop(name, None)
        state.passed_over, state.due = (), None
        self._keep(state)
        return state

    def change(
        self,
        name: str,
        fire_times: FireTimes | None = None,
        policy: Policy | None = None,
        *,
        now: datetime,
    ) -> list[Action]:
        """Give a schedule other fire times or another policy (None: as before), from now on."""
        state, now = self._states[name], self._look_back(now)
        fire_times, policy = fire_times or state.fire_times, policy or state.policy
        return self._after(state, state.change(fire_times, policy, now))

    def pause(self, name: str, *, now: datetime) -> list[Action]:
        """Let a schedule fire no more; what it runs goes on."""
        state, now = self._states[name], self._look_back(now)
        return self._after(state, state.pause(now))

    def resume(self, name: str, *, now: datetime) -> list[Action]:
        """Let a paused schedule fire again, from now on."""
        state, now = self._states[name], self._look_back(now)
        return self._after(state, state.resume(now))

    def run_now(self, name: str, *, now: datetime) -> list[Action]:
        """Run a schedule at once, whatever its phase, and leave its fire times as they are."""
        state, now = self._states[name], self._look_back(now)
        return self._after(state, state.run_now(now))

    def ended(self, name: str, fire: str) -> list[Action]:
        """Note that a run has ended, in whatever way, or that another process has it.

        Args:
            name: of the schedule; one that has been removed is ignored.
            fire: id of the fire.
        """
        state = self._states.get(name)
        return [] if state is None else self._after(state, state.ended(fire))

    def _after(self, state: ScheduleState, actions: list[Action]) -> list[Action]:
        self._keep(state)
        return actions

    def _keep(self, state: ScheduleState) -> None:
        # Puts a schedule into the heap by what it is due at; its former entry, if any, is stale.
        if state.ticket:
            self._stale += 1
        state.ticket = 0
        if state.due is not None:
            self._tickets += 1
            state.ticket = self._tickets
            heapq.heappush(self._heap, (state.due, state.ticket, state))
        if state.passed_over != self._passed_over.get(state.name, _NOTHING)[0]:
            self._note_passed_over(state)
        if self._stale > max(_STALE_WORTH_A_REBUILD, len(self._heap) // 2):
            self._heap = [entry for entry in self._heap if entry[2].ticket == entry[1]]
            heapq.heapify(self._heap)
            self._stale = 0

    def _note_passed_over(self, state: ScheduleState) -> None:
        reach = state.reach()
        if reach is None:
            self._passed_over.pop(state.name, None)
            return
        self._passed_over[state.name] = state.passed_over, reach.timestamp()
        heapq.heappush(self._ends, (-reach.timestamp(), state.name))
        if len(self._ends) > _STALE_WORTH_A_REBUILD + 2 * len(self._passed_over):
            noted = self._passed_over.items()
            self._ends = [(-reaches_to, name) for name, (_, reaches_to) in noted]
            heapq.heapify(self._ends)

    def _look_back(self, now: datetime) -> datetime:
        # Has the clock been set back to where something was passed over? Returns `now` in UTC.
        now = to_utc(now)
        if now < self._seen:
            reached = now.timestamp()
            while self._ends and -self._ends[0][0] > reached:
                name = heapq.heappop(self._ends)[1]
                if name in self._passed_over:
                    state = self._states[name]
                    state.set_back(now)
                    self._keep(state)
        self._seen = now
        return now

"""A scheduler while it runs: one timer over the agenda, and what carries its actions out."""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

from offload._workers.logs import log_safely
from offload.schedules._agenda import Agenda
from offload.schedules._memory import policy_here
from offload.schedules._records import FireReason, SkippedOverlap
from offload.schedules._runs import Runs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from datetime import datetime

    from anyio.abc import TaskGroup

    from offload.schedules._events import ScheduleEvent, Teller
    from offload.schedules._fires import ScheduleView
    from offload.schedules._records import Action, Fire, Snapshot
    from offload.schedules._runs import Waiter
    from offload.schedules._store import ScheduleStore

__all__ = ["RunningScheduler"]

_logger: Final = logging.getLogger("offload.schedules")

# Timers do not follow the wall clock, which may be set, and the machine may sleep. It is looked at
# at least this often, in seconds: a fire is at most that late then, and nothing is lost.
_LOOK_SECONDS: Final = 1.0
# How long the event loop may be held at a time, in seconds.
_TURN_SECONDS: Final = 0.0005
# For what was stopped at the end to tell so.
_STOP_SECONDS: Final = 5.0

_Duty = "Callable[[], Coroutine[Any, Any, None]]"


class RunningScheduler:
    """What there is of a scheduler between its start and its end. A `RunsHost` for runs.

    Args:
        teller: of events.
        now: the clock.

    Attributes:
        agenda: what is due next.
    """

    def __init__(self, teller: Teller, now: Callable[[], datetime]) -> None:
        self.agenda: Final = Agenda()
        self.now: Final = now
        self._teller: Final = teller
        self._runs: Final[dict[str, Runs]] = {}
        self._schedules: Final[dict[str, tuple[ScheduleView, ScheduleStore | None]]] = {}
        self._changed = anyio.Event()
        self._at_work = 0
        self._idle = anyio.Event()
        self._work: TaskGroup | None = None
        self._side: TaskGroup | None = None

    # Life

    @asynccontextmanager
    async def running(self, drain: float) -> AsyncGenerator[None]:
        """Fire while entered; at the end wait so long, in seconds, for what runs in memory."""
        failure: Exception | None = None
        async with anyio.create_task_group() as work:
            self._work = work
            try:
                async with anyio.create_task_group() as side:
                    self._side = side
                    side.start_soon(self._fire_what_is_due)
                    try:
                        yield
                    except Exception as error:  # noqa: BLE001 - raised below, not in a group
                        failure = error
                    side.cancel_scope.cancel()
                if failure is None:
                    with anyio.move_on_after(drain):
                        await self._worked()
            finally:
                for runs in self._runs.values():
                    runs.cancel_all(and_jobs=False)
                with anyio.move_on_after(_STOP_SECONDS, shield=True):
                    await self._worked()
                work.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _worked(self) -> None:
        while self._at_work:
            self._idle = anyio.Event()
            await self._idle.wait()

    # As the host of runs

    def start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that the scheduler waits for when it ends."""
        assert self._work is not None
        self._at_work += 1
        self._work.start_soon(self._do_work, function)

    async def _do_work(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await self._guarded(function)
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._idle.set()

    def follow(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that ends with the scheduler."""
        assert self._side is not None
        self._side.start_soon(self._guarded, function)

    def keep(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that goes on while the scheduler drains, and ends after that."""
        assert self._work is not None
        self._work.start_soon(self._guarded, function)

    async def _guarded(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await function()
        except Exception:  # noqa: BLE001 - one of ours; all other schedules go on
            log_safely(_logger, logging.CRITICAL, "a scheduler's own error", exc_info=True)

    def tell(self, event: ScheduleEvent) -> None:
        """Tell of an event."""
        self._teller.tell(event)

    def ended(self, schedule: str, fire: str) -> None:
        """Note that a fire has ended, and do what that makes due."""
        self.carry_out(self.agenda.ended(schedule, fire))

    def executions(self, schedule: str) -> int:
        """Return how often a schedule has run."""
        return self.agenda[schedule].executions if schedule in self.agenda else 0

    # Firing

    async def _fire_what_is_due(self) -> None:
        while True:
            self._changed = anyio.Event()
            try:
                await self._decide()
                due = self.agenda.next_due()
            except Exception:  # noqa: BLE001 - as in `_guarded`
                log_safely(_logger, logging.CRITICAL, "a scheduler's own error", exc_info=True)
                due = None
            patience = _LOOK_SECONDS
            if due is not None:
                patience = min(max((due - self.now()).total_seconds(), 0.0), _LOOK_SECONDS)
            with anyio.move_on_after(patience):
                await self._changed.wait()

    async def _decide(self) -> None:
        """Decide all that is due, a few at a time: after a downtime that may be a lot."""
        turn = time.perf_counter()
        while True:
            now = self.now()
            actions = self.agenda.advance(now, 1)
            self.carry_out(actions)
            due = self.agenda.next_due()
            if due is None or due > now:
                return
            if time.perf_counter() - turn > _TURN_SECONDS:
                await anyio.lowlevel.checkpoint()
                turn = time.perf_counter()

    def carry_out(self, actions: list[Action]) -> None:
        """Do what the agenda has decided."""
        for action in actions:
            runs = self.runs_of(action.schedule)
            if runs is not None:
                runs.take(action)

    def changed(self) -> None:
        """Look at the agenda again: something may be due earlier than it was."""
        self._changed.set()

    # Schedules

    def add(self, schedule: ScheduleView, store: ScheduleStore | None, snapshot: Snapshot) -> None:
        """Have a schedule fire."""
        name = schedule.name
        self._schedules[name] = schedule, store
        self.carry_out(
            self.agenda.add(
                name,
                schedule.fire_times,
                policy_here(schedule, store),
                now=self.now(),
                snapshot=snapshot,
            )
        )
        self.changed()

    def remove(self, name: str, *, stops_runs: bool = True) -> None:
        """Have a schedule fire no more, and stop what it runs, if that is wanted."""
        if name not in self.agenda:
            return
        if stops_runs:
            self.stop_runs(name)
        self.agenda.remove(name)
        runs = self._runs.get(name)
        if runs is not None:
            runs.settle_waiters(lambda _: False)
        self._schedules.pop(name)
        self._runs.pop(name, None)

    def runs_of(self, name: str) -> Runs | None:
        """Return the runs of a schedule, made when it first has some; None: it was removed."""
        runs = self._runs.get(name)
        if runs is None and name in self._schedules:
            schedule, store = self._schedules[name]
            runs = self._runs[name] = Runs(schedule, self, store)
        return runs

    def seen_runs(self, name: str) -> Runs | None:
        """Return the runs of a schedule that has had some; None: it has not."""
        return self._runs.get(name)

    def all_runs(self) -> list[tuple[str, Runs]]:
        """Return the runs of all schedules that have had some; on any thread."""
        return list(self._runs.items())

    def pause(self, name: str, *, is_paused: bool) -> None:
        """Pause a schedule here, or resume it."""
        act = self.agenda.pause if is_paused else self.agenda.resume
        self.carry_out(act(name, now=self.now()))
        runs = self._runs.get(name)
        if runs is not None:
            if is_paused:
                runs.cancel_waiting()
            runs.settle_waiters(lambda fire: self._is_known(name, fire))
        self.changed()

    def stop_runs(self, name: str) -> None:
        """Stop what a schedule runs, its jobs too."""
        runs = self._runs.get(name)
        if runs is not None:
            runs.cancel_all(and_jobs=True)

    def _is_known(self, name: str, fire: str) -> bool:
        state = self.agenda[name]
        queued = state.queued is not None and state.queued.id == fire
        return queued or any(each.id == fire for each in state.running)

    def execute(self, name: str) -> tuple[Runs, str, Waiter]:
        """Run a schedule now; return its runs, the id of the fire, and who is told of its end."""
        state, runs = self.agenda[name], self.runs_of(name)
        assert runs is not None
        before = {each.id for each in state.running}
        actions = self.agenda.run_now(name, now=self.now())
        mine = [each for each in state.running if each.id not in before]
        if mine:
            fire = mine[-1].id
        elif state.queued is not None and state.queued.reason is FireReason.MANUAL:
            fire = state.queued.id
        else:
            # Skipped: that is the only action there is.
            fire = next(each.id for each in actions if isinstance(each, SkippedOverlap))
        waiter = runs.waiter(fire)
        self.carry_out(actions)
        self.changed()
        return runs, fire, waiter

    def adopt(self, fire: Fire, job: Any) -> None:
        """Follow a job of a schedule that was enqueued before this began."""
        runs = self.runs_of(fire.schedule)
        if runs is not None:
            runs.adopt(fire, job)

"""Makes the decisions of one pool, under its lock, and has them carried out without it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from offload._decisions.words import (
    Assign,
    Phase,
    Refuse,
    StartWorker,
    StopReason,
    StopWorker,
)
from offload._pool.ticker import Ticker
from offload._pool.waiters import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._decisions.dispatcher import Dispatcher
    from offload._decisions.words import Action, Refusal
    from offload._pool.task import PoolTask
    from offload._pool.waiters import Waiters
    from offload._workers.backend import PoolWorker

__all__ = ["Decider", "Effects"]

T = TypeVar("T")


class Effects(Protocol):
    """Carries out what was decided; called without the lock, on the thread of the event."""

    def dispatch(self, task: PoolTask) -> None:
        """Let a task begin that was assigned to a worker."""
        ...

    def refuse(self, task: PoolTask, refusal: Refusal) -> None:
        """Tell the caller of a task that it did not run."""
        ...

    def start_worker(self) -> None:
        """Start one worker."""
        ...

    def recycled(self) -> None:
        """Count a worker that is replaced by plan."""
        ...


class Decider:
    """The dispatcher behind its lock.

    Attributes:
        lock: held around every look at the dispatcher that must be exact, and every change of it.
        dispatcher: the pure decisions.
        waiters: who waits for the pool to open or to drain.
    """

    def __init__(self, dispatcher: Dispatcher, waiters: Waiters, effects: Effects) -> None:
        self.lock = threading.Lock()
        self.dispatcher = dispatcher
        self.waiters = waiters
        self._effects = effects
        self._ticker = Ticker(dispatcher, self.lock, self._tick)

    def act(self, decide: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Make one decision under the lock, and carry out what follows from it."""
        with self.lock:
            result = decide(*arguments, **keywords)
            actions = self.take_actions()
            settled = self.waiters.take_settled() if self.waiters.anybody else ()
        self.carry_out(actions)
        for future, error in settled:
            settle(future, error)
        return result

    def take_actions(self) -> list[Action]:
        """Return what the dispatcher has decided since, under the lock."""
        actions = self.dispatcher.actions
        if actions:
            self.dispatcher.actions = []
        return actions

    def carry_out(self, actions: list[Action]) -> None:
        """Carry out what was decided, in its order, without the lock."""
        effects = self._effects
        for action in actions:
            match action:
                case Assign(task=task):
                    effects.dispatch(cast("PoolTask", task))
                case StartWorker():
                    effects.start_worker()
                case StopWorker(worker=worker, reason=reason, grace=grace):
                    if reason is StopReason.RECYCLE:
                        effects.recycled()
                    if reason is not StopReason.DEAD:
                        cast("PoolWorker", worker).stop(reason, grace)
                case Refuse(task=task, refusal=refusal):
                    effects.refuse(cast("PoolTask", task), refusal)
        self._ticker.schedule()

    def stop_ticking(self) -> None:
        """Do nothing more by the clock."""
        self._ticker.stop()

    def _tick(self) -> None:
        if self.dispatcher.phase is not Phase.CLOSED:
            self.act(self.dispatcher.tick, time.monotonic())

"""The shell around the decisions: carries out what the dispatcher says, on event loops.

                 ┌───────────────── one lock ─────────────────┐
    calls ──────►│ Dispatcher: events in, actions out (pure) │──────► backend: start workers
    workers ────►│                                            │──────► workers: send, stop
    a clock ────►└────────────────────────────────────────────┘──────► tasks: begin, fail

The worker that becomes free is given the next task of the same loop straight from the reader
callback, so that it does not idle while the event loop comes round to waking somebody.

Threads: a task lives on the thread of its event loop. The dispatcher, which all of them share, is
behind one lock; nothing that can block, wake or call back is done while it is held.
"""

from __future__ import annotations

import time
from asyncio import events
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from offload._decisions.dispatcher import Dispatcher
from offload._decisions.words import (
    Cancelled,
    Closed,
    Full,
    Refusal,
    StopReason,
    TaskState,
    WorkerState,
)
from offload._pool.accounts import FOLD_AT
from offload._pool.admission import Admission
from offload._pool.call_errors import closed_error, deadline_error, start_error
from offload._pool.cpu_watch import CpuWatch
from offload._pool.decider import Decider
from offload._pool.event_loops import call_soon_on_loop_of, do_soon
from offload._pool.lane import FunctionLane
from offload._pool.progress import tell_progress
from offload._pool.task import PoolTask
from offload._pool.time_limits import TimeLimits
from offload._pool.waiters import Waiters, settle
from offload._pool.worker_reports import WorkerReports
from offload._wire.frames import Flag, Kind
from offload._workers.backend import Revoked
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from offload._decisions.words import Limits, Task
    from offload._pool.accounts import Accounts
    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions
    from offload._wire.frames import Frame
    from offload._wire.payload import Request
    from offload._workers.backend import PoolWorker, WorkerBackend, WorkerOwner

__all__ = ["Shell"]

_monotonic = time.monotonic
# How many tasks that nobody wants are passed over before the loop turns: about 10 us each.
_MOST_UNWANTED = 50


class Shell:
    """The tasks and workers of one open period of a pool.

    Args:
        pool: name of the pool.
        limits: the numbers that decisions depend on, but for what the backend can do.
        new_backend: makes the workers' backend.
        modules: what a new worker imports before its first task.
        accounts: the pool's books.

    Attributes:
        lanes: the tasks of each function.
        backend: starts workers, and knows them.
        decider: the decisions.
        admission: refuses what will not fit into the queue.
        cpu_watch: sees that workers get no CPU time.
    """

    def __init__(
        self,
        pool: str,
        limits: Limits,
        new_backend: Callable[[WorkerOwner], WorkerBackend],
        modules: set[str],
        accounts: Accounts,
    ) -> None:
        self.pool = pool
        self.lanes: dict[str, FunctionLane] = {}
        self._modules = modules
        self._accounts = accounts
        keeper.hold()
        reports = WorkerReports(pool, modules)
        self.backend = backend = new_backend(reports)
        dispatcher = Dispatcher(replace(limits, can_stop=backend.can_stop))
        self.dispatcher = dispatcher
        self.decider = Decider(dispatcher, Waiters(pool, dispatcher), self)
        self.admission = Admission(pool, dispatcher, self.decider.lock, self.running)
        self.cpu_watch = CpuWatch(pool, backend, accounts)
        self._time_limits = TimeLimits(
            pool,
            stop=self.stop,
            retry_after=self._retry_after,
            running=self.running,
            has_queue=lambda: dispatcher.queue.count > 0,
            look_at_workers=self.cpu_watch.look,
            can_stop=backend.can_stop,
        )
        self._overdue = self._time_limits.overdue
        reports.decider = self.decider
        reports.replied = self.replied
        reports.ended_elsewhere = self.ended_elsewhere
        reports.wait_again = self._time_limits.start_waiting

    # --- tasks begin; on the thread of the task's loop ---

    def submit(
        self,
        target: Target,
        request: Request,
        options: ResolvedOptions,
        items: deque[Frame] | None = None,
        may_start: Callable[[], bool] | None = None,
    ) -> PoolTask:
        """Admit a task, and send it to a worker if one is idle.

        Raises:
            PoolClosedError: the pool accepts nothing any more.
            QueueFullError: the queue is at a limit.
            DeadlineError: it could not end in time.
        """
        now = _monotonic()
        lane = self.lanes.get(target.name) or self._new_lane(target)
        if lane.limit != target.max_concurrency:
            self._adopt_limit(lane, target)
        task = PoolTask(lane, request, options, now)
        if items is not None:
            task.items = items
        if may_start is not None:
            task.may_start = may_start
        dispatcher = self.dispatcher
        with self.decider.lock:
            deadline = task.deadline
            if deadline is not None and dispatcher.estimates.is_too_late(task, deadline, now):
                raise deadline_error(task.function, deadline, may_have_run=False)
            try:
                worker = dispatcher.submit(task, now)
            except Full as full:
                raise self.admission.full_error(task.function, full.limit) from None
            except Closed:
                raise closed_error(task.function, self.pool) from None
            actions = self.decider.take_actions() if dispatcher.actions else None
        if worker is not None and (following := self._begin(task)) is not None:
            self.dispatch(following)
        if actions:
            self.decider.carry_out(actions)
        if worker is None:
            self._time_limits.start_waiting(task)
        return task

    def _new_lane(self, target: Target) -> FunctionLane:
        """Return the lane of a function that is called for the first time."""
        account = self._accounts.of(target.name)
        # setdefault: two threads may be here at once, and the limit is one.
        lane = self.lanes.setdefault(target.name, FunctionLane(account, target.max_concurrency))
        if target.module is not None:
            self._modules.add(target.module)
        return lane

    def _adopt_limit(self, lane: FunctionLane, target: Target) -> None:
        """Have a function's limit be that of its present definition.

        It may have been defined anew, or `Pool.run` been first, which knows no limit.
        """
        if target.by_value or (lane.limit is None and target.max_concurrency is not None):
            self.decider.act(self.dispatcher.set_limit, lane, target.max_concurrency, _monotonic())

    def dispatch(self, task: PoolTask) -> None:
        """Let a task begin on the thread of its loop: now, if that is this one.

        If nobody wants it any more, the next one, and so on: of a thousand clients that waited all
        may have left. Not by recursion, nor for longer than a loop may be held.
        """
        for _ in range(_MOST_UNWANTED):
            if events._get_running_loop() is task.loop:  # noqa: SLF001 - documented for this use
                following = self._begin(task)
            elif call_soon_on_loop_of(task, self.dispatch, task):
                return
            else:  # its loop is no more
                following = self._pass_over(task)
            if following is None:
                return
            task = following
        call_soon_on_loop_of(task, self.dispatch, task)

    def _begin(self, task: PoolTask) -> PoolTask | None:
        """Send a task to the worker that it was assigned to.

        Returns:
            The task that the worker is given instead, if nobody wants this one any more.
        """
        worker = task.worker
        if task.timer is not None:
            task.stop_timer()
        # Since the assignment the caller may have left, the worker died, or the task been assigned
        # to another worker, and even sent by way of that.
        if task.state is not TaskState.ASSIGNED or worker is None or worker.task is not task:
            return None
        if task.may_start is not None:
            may_start, task.may_start = task.may_start, None
            if not may_start():
                return self._pass_over(task)
        task.state = TaskState.RUNNING
        if worker.task is not task:
            # Another thread has ended it since the last look. It sets the two in the other order,
            # so that one of us sees what the other has done, and "done" stands in the end.
            task.state = TaskState.DONE
            return None
        if not worker.send(task):
            self.decider.act(self._not_received, worker, task)
            self._time_limits.start_waiting(task)
            return None
        if task.timeout is not None or task.deadline is not None:
            self._time_limits.start_running(task)
        elif not self._overdue.is_watching:
            self._overdue.watch()
        return None

    def _not_received(self, worker: PoolWorker, task: PoolTask) -> None:
        """The worker was dead before the task reached it: the task goes to another."""
        task.stop_at = None
        if worker.task is task:
            self.dispatcher.requeue(task, _monotonic())

    def _pass_over(self, task: PoolTask) -> PoolTask | None:
        """Drop the task that a worker has and does not run; return the one that it has instead."""
        return cast("PoolTask | None", self.decider.act(self._free, task))

    def _free(self, task: PoolTask) -> Task | None:
        worker = task.worker
        if worker is None or worker.task is not task:
            return None
        return self.dispatcher.finish(worker, _monotonic(), returned=False)

    # --- tasks end ---

    def stop(self, task: PoolTask, reason: StopReason) -> bool | None:
        """End a task that is not to go on: out of the queue, or by stopping its worker.

        Returns:
            Whether its function may have run; None if the task has ended, or another thread was
            faster.
        """
        was_sent = task.state is not TaskState.ASSIGNED
        grace = task.grace if was_sent and self.backend.can_ask else 0.0
        cancel = self.dispatcher.cancel
        cancelled = self.decider.act(cancel, task, reason, _monotonic(), grace=grace)
        if cancelled is Cancelled.TOO_LATE:
            return None
        if cancelled in (Cancelled.WITHDRAWN, Cancelled.UNUSED):
            return False
        worker = task.worker
        assert worker is not None
        # After it was told to stop, so that it cannot enter the function in between.
        revoked = worker.revoke(task) if was_sent else Revoked.UNSTARTED
        if cancelled is Cancelled.STOPPED:
            task.lane.account.attempt_lost(crashed=False)
        elif revoked is not Revoked.NO and (following := self._pass_over(task)) is not None:
            self.dispatch(following)  # the worker was not stopped, and is free
        return revoked is not Revoked.UNSTARTED

    def leave(self, task: PoolTask) -> None:
        """Give up a task whose caller is gone."""
        task.stop_timer()
        task.drop_frame()
        self.stop(task, StopReason.CANCEL)

    def leave_stream(self, task: PoolTask) -> None:
        """Give up a stream: its generator is closed politely, if it listens."""
        worker = task.worker
        if task.state is TaskState.RUNNING and worker is not None:
            # A generator that waits for credit is closed politely; `grace` bounds the wait.
            worker.send_more(Kind.CLOSE, b"")
            task.grace = max(task.grace, 0.1)
        self.leave(task)

    def drop(self, task: PoolTask, then: Callable[[], None]) -> None:
        """Give up a task whose coroutine is closed, and not cancelled: as a rule by the collector.

        That runs at any allocation, on any thread, which may have the lock, or be one of stdlib's.
        So this only has somebody else do it: nothing here waits for anything.

        Args:
            task: the task.
            then: called after that, such as to close its files.
        """

        def leave() -> None:
            self.leave(task)
            then()

        do_soon(task, leave)

    def _finish(self, task: PoolTask, *, recycle: bool) -> None:
        """The worker has replied, and is given the next task."""
        now, decider, dispatcher = _monotonic(), self.decider, self.dispatcher
        actions = settled = None
        # Not by `act`, as all others: this is on the path of each task.
        with decider.lock:
            worker = task.worker
            if worker is None or worker.task is not task:
                return
            following = dispatcher.finish(worker, now, recycle=recycle)
            if dispatcher.actions:
                actions = decider.take_actions()
            if decider.waiters.anybody:
                settled = decider.waiters.take_settled()
        attempts = task.lane.account.attempts
        attempts.append((task.queued_at, task.started_at, now))
        if len(attempts) >= FOLD_AT:
            task.lane.account.fold_if_free()
        if following is not None:
            self.dispatch(cast("PoolTask", following))
        if actions:
            self.decider.carry_out(actions)
        for future, error in settled or ():
            settle(future, error)

    # --- what workers report ---

    def replied(self, task: PoolTask, frame: Frame) -> bool:
        """Accept a frame of a task, on the thread of its loop; False: it cannot be of the task."""
        if frame.kind < Kind.ITEM:
            task.frame = frame
            self._finish(task, recycle=bool(frame.flags & Flag.RECYCLE))
            # `PoolTask.wake`, without the call.
            if task.timer is not None:
                task.stop_timer()
            if not task.future.done():
                task.future.set_result(None)
        elif frame.kind == Kind.ITEM:
            items = task.items
            if items is None or len(items) == items.maxlen:
                return False  # it is no generator, or has no credit: items would fill our memory
            items.append(frame)
            task.wake()
        elif frame.kind == Kind.PROGRESS:
            tell_progress(task, frame)
        else:
            return False
        return True

    def ended_elsewhere(
        self, task: PoolTask, frame: Frame | None, error: BaseException | None = None
    ) -> None:
        """Accept the end of a task on another thread than its loop's, which may be no more."""
        task.frame = frame
        if error is not None:
            task.error = error
        self._finish(task, recycle=frame is not None and bool(frame.flags & Flag.RECYCLE))
        call_soon_on_loop_of(task, task.wake)

    def running(self) -> list[PoolTask]:
        """Return the tasks that workers have."""
        return [
            cast("PoolTask", task)
            for worker in self.backend.workers()
            if (task := worker.task) is not None and worker.state is WorkerState.BUSY
        ]

    # --- what was decided ---

    def refuse(self, task: PoolTask, refusal: Refusal) -> None:
        """Tell the caller of a task that it did not run."""
        error: Exception
        if refusal is Refusal.TOO_LATE:
            error = self._time_limits.waiting_error(task, self._retry_after())
        elif refusal is Refusal.CLOSED:
            error = closed_error(task.function, self.pool)
        else:
            error = start_error(task.function, self.pool, self.decider.waiters.start_error)
        call_soon_on_loop_of(task, task.fail, error)

    def start_worker(self) -> None:
        """Start one worker."""
        self.backend.start()
        self._overdue.watch()

    def recycled(self) -> None:
        """Count a worker that is replaced by plan."""
        self._accounts.recycled += 1

    def _retry_after(self) -> float:
        with self.decider.lock:
            return self.admission.retry_after()

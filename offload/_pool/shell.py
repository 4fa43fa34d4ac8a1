"""The shell around the decisions: carries out what the dispatcher says, on event loops.

                 ┌───────────────── one lock ─────────────────┐
    calls ──────►│ Dispatcher: events in, actions out (pure) │──────► crew: start, stop workers
    workers ────►│                                            │──────► calls: begin, fail
    a clock ────►└────────────────────────────────────────────┘

The worker that becomes free is given the next call of the same loop straight from the reader
callback, so that it does not idle while the event loop comes round to waking somebody.

Threads: a call lives on the thread of its event loop. The dispatcher, which all of them share, is
behind one lock; nothing that can block, wake or call back is done while it is held.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from asyncio import events
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar, cast

from offload._decisions.dispatch import (
    WAITING,
    Assign,
    Closed,
    Dispatcher,
    Full,
    Phase,
    Refusal,
    Refuse,
    StartWorker,
    StopWorker,
    TaskState,
    WorkerState,
)
from offload._decisions.words import StopReason
from offload._pool.accounts import FOLD_AT, Account, Failures, totals
from offload._pool.call import Call
from offload._pool.codec import close_request
from offload._pool.outcome import crash_error, deadline_error, task_killed_error
from offload._values.histogram import merge
from offload._values.statistics import PoolStatistics, WorkerStatistics
from offload._wire.frames import Kind
from offload._workers.backend import Revoked
from offload._workers.keeper import keeper
from offload._workers.logs import log_safely
from offload.errors import PoolClosedError, QueueFullError, QueueTimeoutError, WorkerStartError

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable
    from typing import Self

    from offload._decisions.dispatch import Limits, Worker
    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions
    from offload._wire.frames import Frame
    from offload._wire.payload import Request
    from offload._workers.backend import Exit, PoolWorker, WorkerBackend
    from offload.errors import DeadlineError

__all__ = ["Shell"]

T = TypeVar("T")

_logger = logging.getLogger("offload.pool")
_monotonic = time.monotonic
# Between looks at whether a busy worker's event loop has been closed, while calls wait, or is late;
# such loops are rare, and a look costs a microsecond for each worker.
_LOOK_SECONDS = 1.0
# A timer of an event loop that is later than this has been held up.
_LATE_SECONDS = 0.25
# How many calls that nobody wants any more are passed over before the event loop turns: about ten
# microseconds each.
_MOST_UNWANTED = 50


def settle(future: Future[None], error: Exception | None = None) -> None:
    """Complete a future, unless whoever waited for it has cancelled it."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Shell:
    """The workers, the queue and the books of one open period of a pool."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        new_crew: Callable[[Self], WorkerBackend],
        modules: set[str],
    ) -> None:
        self.name = name
        self.dispatcher = Dispatcher(limits)
        # By name: what is sent by value has another reference each time that a global changes.
        self.lanes: dict[str, Account] = {}
        self.failures = Failures()
        self._opened_at = time.time()
        self._recycled = 0
        self._lock = threading.Lock()
        # Calls that are being pickled, and how large they are at the least.
        self._arriving = 0
        self._arriving_bytes = 0
        self._modules = modules
        self._start_error = ""
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = float("inf")
        # Who waits for so many workers, and who for the last call to end.
        self._openers: list[tuple[int, Future[None]]] = []
        self._drained: list[Future[None]] = []
        self._closed: Future[None] | None = None
        self._is_looking = False
        # Whether the keeper looks for tasks whose time is over.
        self.is_watching = False
        self._watch_timer: asyncio.TimerHandle | None = None
        keeper.hold()
        self.crew = new_crew(self)
        self.has_descriptors = self.crew.has_descriptors

    # --- calls come and go ---

    def new_lane(self, target: Target) -> Account:
        """Return the lane of a function that is called for the first time."""
        # setdefault: two threads may be here at once, and the limit is one.
        lane = self.lanes.setdefault(target.name, Account(target.name, target.max_concurrency))
        if target.module is not None:
            self._modules.add(target.module)
        return lane

    def adopt_limit(self, lane: Account, target: Target) -> None:
        """Have a function's limit be that of its present definition.

        One that is sent by value may have been defined anew; of another, `Pool.run` may have been
        first, which knows no limit.
        """
        if target.by_value or (lane.limit is None and target.max_concurrency is not None):
            self._act(self.dispatcher.set_limit, lane, target.max_concurrency, _monotonic())

    def modules(self) -> list[str]:
        """Return what a new worker should import before its first task."""
        return sorted(self._modules - {"__main__"})

    def refuse_early(self, target: Target) -> None:
        """Refuse before arguments are pickled, which may be dear; `submit` has the last word.

        Raises:
            PoolClosedError: the pool accepts nothing any more.
            QueueFullError: the queue is at its limit.
        """
        dispatcher = self.dispatcher
        if dispatcher.phase is not Phase.OPEN:
            raise self._closed_error(target.name)
        if dispatcher.is_full and not (dispatcher.idle and dispatcher.busy < dispatcher.capacity):
            raise self._refused(target, "max_queued")

    def reserve(self, target: Target, size_bytes: int) -> int:
        """Refuse early what will not fit into the queue; else count it as on its way there.

        Until it is pickled a call is not in the queue, and a thousand at once would all be.

        Returns:
            How many bytes to `release` when it is pickled.
        """
        dispatcher = self.dispatcher
        limits = dispatcher.limits
        if limits.max_queued_bytes is None or not size_bytes:
            return 0
        with self._lock:
            waiting = dispatcher.queued + self._arriving
            free = max(dispatcher.capacity - dispatcher.busy, 1)
            together = dispatcher.queued_bytes + self._arriving_bytes + size_bytes
            if waiting < free or together <= limits.max_queued_bytes:
                self._arriving += 1
                self._arriving_bytes += size_bytes
                return size_bytes
        raise self._refused(target, "max_queued_bytes")

    def release(self, size_bytes: int) -> None:
        """Take back what `reserve` has counted."""
        if not size_bytes:
            return
        # Not by waiting for the lock: the collector may be finalizing this call, on a thread that
        # has the lock (see `dropped`).
        if not self._lock.acquire(blocking=False):
            keeper.post(self.release, size_bytes)
            return
        try:
            self._arriving -= 1
            self._arriving_bytes -= size_bytes
        finally:
            self._lock.release()

    def submit(
        self,
        target: Target,
        request: Request,
        options: ResolvedOptions,
        items: deque[Frame] | None = None,
        started: Callable[[], object] | None = None,
    ) -> Call:
        """Admit a call, and send it to a worker if one is idle.

        Raises:
            PoolClosedError: the pool accepts nothing any more.
            QueueFullError: the queue is at a limit.
            DeadlineError: it could not end in time.
        """
        now = _monotonic()
        call = Call(self, target, request, options, now)
        if items is not None:
            call.items = items
        if started is not None:
            call.started = started
        dispatcher = self.dispatcher
        with self._lock:
            if call.deadline is not None and dispatcher.is_too_late(call, call.deadline, now):
                raise deadline_error(call.function, call.deadline, started=False)
            try:
                worker = dispatcher.submit(call, now)
            except Full as full:
                call.lane.refused += 1
                raise self._full_error(call.function, full.limit) from None
            except Closed:
                raise self._closed_error(call.function) from None
            actions = self._take_actions() if dispatcher.actions else None
        if worker is not None and (following := call.begin()) is not None:
            self._dispatch(following)
        if actions:
            self._carry_out(actions)
        if worker is None and call.state in WAITING:
            call.wait_in_queue()
            if not self._is_looking:
                self._is_looking = True
                keeper.post(self._look_for_closed_loops)
        return call

    def leave(self, call: Call) -> None:
        """Give a call up, whose caller is gone: out of the queue, or its worker stopped."""
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        call.drop_reply()
        if self.withdraw(call):
            call.lane.cancelled += 1
        elif call.state is TaskState.RUNNING and not call.is_counted:
            if call.is_sent:
                call.lane.cancelled += 1
                self.abandon(call, "cancel")
            elif (following := self.unused(call)) is not None:
                self._dispatch(following)

    def dropped(self, call: Call, request: Request | None = None) -> None:
        """Give a call up whose coroutine is closed, and not cancelled: as a rule by the collector.

        That runs at any allocation, on whichever thread, and that thread may be one that has the
        lock, or one of stdlib's. So this only has somebody else do it: nothing here waits for
        anything.

        Args:
            call: the call.
            request: what it sends, if there may be a file to close.
        """

        def leave() -> None:
            self.leave(call)
            if request is not None:
                close_request(request)

        self.have_done(call, leave)

    def have_done(self, call: Call, action: Callable[[], None]) -> None:
        """Have something done soon, on the loop of a call, or the keeper's if that was closed."""
        if not self._on_loop(call, action):
            keeper.post(action)

    def leave_stream(self, call: Call) -> None:
        """Give a stream up: its generator is closed politely, if it listens."""
        worker = call.worker
        if call.state is TaskState.RUNNING and worker is not None:
            # A generator that waits for credit is closed politely; `grace` bounds the wait.
            worker.send_more(Kind.CLOSE, b"")
            call.grace = max(call.grace, 0.1)
        self.leave(call)

    # --- what happens to calls; on the thread of the call's loop ---

    def finished(self, call: Call, *, recycle: bool = False) -> None:
        """Take note that the worker has replied, and give it the next call."""
        now = _monotonic()
        worker = call.worker
        dispatcher = self.dispatcher
        actions = drained = None
        # Not by `_act`, as all others: this is on the path of each call.
        with self._lock:
            if worker is None or worker.task is not call:
                return
            lane = call.lane
            times = lane.times
            times.append((call.queued_at, call.started_at, now))
            if len(times) >= FOLD_AT:
                lane.fold()
            reply = call.reply
            if reply is not None and reply.kind in (Kind.RESULT, Kind.END):
                lane.completed += not call.is_counted
            else:
                lane.failed += not call.is_counted
            following: Any = dispatcher.finish(worker, now, recycle=recycle)
            if dispatcher.actions:
                actions = self._take_actions()
            if self._drained:
                drained = self._take_drained()
        if following is not None:
            self._dispatch(following)
        if actions:
            self._carry_out(actions)
        if drained:
            for future in drained:
                settle(future)

    def withdraw(self, call: Call) -> bool:
        """Take a waiting call out of the queue."""
        return self._act(self.dispatcher.withdraw, call)

    def abandon(self, call: Call, reason: str) -> bool:
        """Stop a running call that nobody waits for any more; False if it does not run."""
        worker = call.worker
        if not self._act(self._abandon, call, reason, grace=call.grace):
            return False
        # After it was told to stop, so that it cannot enter the function in between.
        assert worker is not None
        revoked = worker.revoke(call) if call.is_sent else Revoked.UNSTARTED
        call.is_revoked = revoked is Revoked.UNSTARTED
        if revoked is not Revoked.NO and not self.crew.can_stop:
            following = self.unused(call)  # it was not stopped, and is free
            if following is not None:
                self._dispatch(following)
        return True

    def _abandon(self, call: Call, reason: str) -> bool:
        worker = call.worker
        if worker is None or worker.task is not call:
            return False
        now = _monotonic()
        # They held a worker as others do: who is refused must be told so.
        seconds = now - call.started_at
        self.dispatcher.run_time.add(seconds)
        if reason == "timeout":
            call.lane.timed_out += 1
            call.lane.run_time.add_stopped(seconds)
        if self.crew.can_stop:
            is_given_time = call.grace > 0 and call.is_sent and self.crew.can_ask
            self.dispatcher.abandon(worker, now, reason, is_given_time=is_given_time)
        else:
            call.is_counted = True
        return True

    def unused(self, call: Call) -> Any:
        """Nobody wants the call that a worker was just assigned.

        Returns:
            What the worker is given instead, to be dispatched; None if there is nothing.
        """
        return self._act(self._unused, call)

    def _unused(self, call: Call) -> Any:
        worker = call.worker
        if worker is None or worker.task is not call:
            return None
        call.lane.cancelled += not call.is_counted
        return self.dispatcher.finish(worker, _monotonic(), returned=False)

    def not_received(self, worker: Worker, call: Call) -> None:
        """The worker was dead before the call reached it: the call goes to another."""
        self._act(self._not_received, worker, call)

    def _not_received(self, worker: Worker, call: Call) -> None:
        if worker.task is call:
            self.dispatcher.requeue(call, _monotonic())

    # --- what workers report; on any thread ---

    def replied(self, task: Any, frame: Frame) -> None:
        """Report a frame that belongs to a task, on the thread of the task's loop."""
        task.take(frame)

    def ended_elsewhere(
        self, task: Any, frame: Frame | None, error: BaseException | None = None
    ) -> None:
        """Report the end of a task of an executor, on any thread."""
        task.take_on_thread(frame, error)

    def worker_ready(self, worker: Worker) -> None:
        """Report that a worker can take tasks."""
        self._act(self.dispatcher.ready, worker, _monotonic())

    def worker_failed(self, worker: Worker, detail: str) -> None:
        """Report that a worker did not come up."""
        is_news = self.dispatcher.phase is Phase.OPEN
        self._start_error = detail
        self._act(self.dispatcher.start_failed, worker, _monotonic())
        if is_news:
            log_safely(
                _logger,
                logging.ERROR,
                "a worker of pool %r did not start: %s",
                self.name,
                detail,
                extra={"offload_pool": self.name},
            )

    def worker_recovered(self, worker: Worker) -> None:
        """Report that an abandoned worker ended its task by itself."""
        if worker.task is None:
            self._act(self.dispatcher.recovered, worker, _monotonic())

    def worker_gone(self, worker: Worker, how: Exit) -> None:
        """Report that a worker, once ready, has ended."""
        was, task = self._act(self._gone, worker, how)
        if isinstance(task, Call):
            if how.received:
                self._on_loop(task, task.fail, crash_error(task.function, how))
            else:
                self._on_loop(task, task.wait_in_queue)
        elif was is WorkerState.IDLE:
            log_safely(
                _logger,
                logging.WARNING,
                "an idle worker of pool %r ended: %s",
                self.name,
                how,
                extra={"offload_pool": self.name, "offload_pid": how.pid},
            )

    def _gone(self, worker: Worker, how: Exit) -> tuple[WorkerState, Any]:
        was = worker.state
        task = worker.task
        if was is WorkerState.GONE:  # told twice, by two threads: its loop's and the keeper's
            return was, None
        if was is WorkerState.BUSY and task is not None and not how.received:
            self._start_error = f"a worker came up, and ended before it took a task: {how}"
            if isinstance(task, Call):
                task.is_sent = False
                task.stop_at = None
            self.dispatcher.requeue(task, _monotonic())
        elif isinstance(task, Call):
            task.lane.crashed += 1
        self.dispatcher.gone(worker, _monotonic())
        return was, task

    def _look_for_closed_loops(self) -> None:
        """Free workers whose event loop was closed under their call, while others wait for one.

        Nobody reads the sockets of such workers any more: nothing tells that their task has ended.
        """
        for call in self._running():
            if call.loop.is_closed():
                self.abandon(call, "cancel")
        with self._lock:
            self._is_looking = self.dispatcher.queued > 0
        if self._is_looking:
            keeper.loop.call_later(_LOOK_SECONDS, self._look_for_closed_loops)

    def watch(self) -> None:
        """Stop tasks whose time is over, also if their event loop is held or does not run.

        As a rule a timer of that loop does it, which costs next to nothing; this comes when that
        is late.
        """
        self.is_watching = True
        keeper.post(self._look_for_overdue)

    def _look_for_overdue(self) -> None:
        if self._watch_timer is not None:
            self._watch_timer.cancel()
            self._watch_timer = None
        now = _monotonic()
        try:
            for call in self._running():
                if call.stop_at is not None and call.stop_at + _LATE_SECONDS < now:
                    error = call.stop_late()
                    if error is not None:
                        self._on_loop(call, call.fail, error)
        finally:
            # In this order: a call that begins now sees the one, or we see it.
            self.is_watching = False
            if any(call.stop_at is not None for call in self._running()):
                self.is_watching = True
                self._watch_timer = keeper.loop.call_later(_LOOK_SECONDS, self._look_for_overdue)

    # --- life; on any thread ---

    def open(self) -> Future[None]:
        """Accept calls and start the first workers; the future is done when they are ready.

        It fails with `WorkerStartError` if none comes up.
        """
        future: Future[None] = Future()
        self._act(self._open, future)
        return future

    def _open(self, future: Future[None]) -> None:
        dispatcher = self.dispatcher
        dispatcher.open(_monotonic())
        self._openers.append((max(dispatcher.limits.min_workers, 1), future))

    def _take_opened(self) -> list[tuple[Future[None], WorkerStartError | None]]:
        """Return whoever waits for the pool to open and now knows."""
        if not self._openers:
            return []
        dispatcher = self.dispatcher
        ready = len(dispatcher.idle) + dispatcher.busy
        error: WorkerStartError | None = None
        if dispatcher.is_failing or dispatcher.phase is Phase.CLOSED:
            error = WorkerStartError(
                f"pool {self.name!r} cannot start workers. The last attempt said: "
                f"{self._start_error or 'the pool was closed meanwhile'}",
                detail=self._start_error,
            )
        # Fewer than wanted, and the others do not come up: the pool works, and goes on trying.
        is_short = ready > 0 and dispatcher.has_failed_often
        opened = [
            (future, None if ready >= wanted or is_short else error)
            for wanted, future in self._openers
            if ready >= wanted or is_short or error is not None
        ]
        done = {id(future) for future, _ in opened}
        self._openers = [opener for opener in self._openers if id(opener[1]) not in done]
        return opened

    def drain(self) -> Future[None]:
        """Accept nothing more; the future is done when no call is left."""
        future: Future[None] = Future()
        self._act(self._drain, future)
        return future

    def _drain(self, future: Future[None]) -> None:
        self.dispatcher.close()
        self._drained.append(future)

    def kill(self) -> Future[None]:
        """End everything now; the future is done when nothing is left."""
        # A signal handler runs on a thread that may have the lock: then the keeper does it.
        if not self._lock.acquire(blocking=False):
            if self._closed is not None:
                return self._closed
            later: Future[None] = Future()
            keeper.post(lambda: self.kill_at_last().add_done_callback(lambda _: settle(later)))
            return later
        self._lock.release()
        return self.kill_at_last()

    def kill_at_last(self) -> Future[None]:
        """As `kill`, waiting for the lock."""
        running, closed, is_first = self._act(self._kill)
        for call, worker in running:
            started = call.is_sent and worker.revoke(call) is not Revoked.UNSTARTED
            self._on_loop(call, call.fail, self._closed_error(call.function, started=started))
        if is_first:
            closed.add_done_callback(lambda _: keeper.release())
            if self._tick is not None:
                keeper.post(self._tick.cancel)
            # Last: once it has been told, the keeper lets go of workers as they end.
            self.crew.close().add_done_callback(lambda _: settle(closed))
        return closed

    def _kill(self) -> tuple[list[tuple[Call, PoolWorker]], Future[None], bool]:
        if self._closed is not None:
            return [], self._closed, False
        now = _monotonic()
        self.dispatcher.close(kill=True)
        running = [(call, call.worker) for call in self._running() if call.worker is not None]
        for _, worker in running:
            self.dispatcher.abandon(worker, now, "close under load")
        self._closed = Future()
        return running, self._closed, True

    def kill_task(self, pid: int) -> bool:
        """Stop the task of a worker; its caller is told. False if there is none."""
        call = next((call for call in self._running() if call.pid == pid), None)
        if call is None or not self.abandon(call, "cancel"):
            return False
        call.lane.cancelled += 1
        error = task_killed_error(call.function, pid, started=not call.is_revoked)
        self._on_loop(call, call.fail, error)
        return True

    def recycle(self, pid: int) -> bool:
        """Replace a worker, after its task if it has one. False if there is no such worker."""
        for worker in self.crew.workers():
            if worker.pid == pid:
                return self._act(self.dispatcher.recycle, worker, _monotonic())
        return False

    def _running(self) -> list[Call]:
        return [
            task
            for worker in self.crew.workers()
            if isinstance(task := worker.task, Call) and worker.state is WorkerState.BUSY
        ]

    def statistics(self, max_workers: int) -> PoolStatistics:
        """Return the state, the counters and the histograms of this instant."""
        now = _monotonic()
        with self._lock:
            dispatcher = self.dispatcher
            limits = dispatcher.limits
            workers = tuple(
                WorkerStatistics(
                    pid=worker.pid,
                    state=worker.state.value,
                    function=task.function if isinstance(task := worker.task, Call) else None,
                    tasks_done=worker.tasks_done,
                    run_seconds=now - task.started_at if task is not None else None,
                    recycling=worker.is_recycled,
                )
                for worker in self.crew.workers()
                if worker.state is not WorkerState.GONE
            )
            functions = tuple(
                sorted(
                    # A copy: another thread may be calling a function for the first time.
                    (lane.statistics() for lane in tuple(self.lanes.values())),
                    key=lambda function: function.name,
                )
            )
            return PoolStatistics(
                name=self.name,
                state=dispatcher.phase.value,
                max_workers=max_workers,
                starting=dispatcher.starting,
                idle=len(dispatcher.idle),
                busy=dispatcher.busy,
                leaving=dispatcher.leaving,
                queued=dispatcher.queued,
                queued_bytes=dispatcher.queued_bytes,
                running_bytes=sum(
                    worker.task.size_bytes
                    for worker in self.crew.workers()
                    if isinstance(worker.task, Call)
                ),
                wait=merge(function.wait for function in functions),
                run=merge(function.run for function in functions),
                workers=workers,
                functions=functions,
                failures=self.failures.records(),
                recycled=self._recycled,
                opened_at=self._opened_at,
                max_queued=limits.max_queued,
                max_queued_bytes=limits.max_queued_bytes,
                **totals(functions),
            )

    # --- inside ---

    def _act(self, decide: Callable[..., T], *arguments: Any, grace: float = 0.0) -> T:
        """Make one decision under the lock, and carry out what follows from it."""
        with self._lock:
            result = decide(*arguments)
            actions = self._take_actions()
            drained = self._take_drained()
            opened = self._take_opened()
        self._carry_out(actions, grace)
        for future in drained:
            settle(future)
        for future, error in opened:
            settle(future, error)
        return result

    def _take_actions(self) -> list[Any]:
        actions = self.dispatcher.actions
        if actions:
            self.dispatcher.actions = []
        return actions

    def _take_drained(self) -> list[Future[None]]:
        if self._drained and self.dispatcher.is_drained:
            drained, self._drained = self._drained, []
            return drained
        return []

    def _carry_out(self, actions: list[Any], grace: float = 0.0) -> None:
        for action in actions:
            match action:
                case Assign(task=task):
                    self._dispatch(task)
                case StartWorker():
                    self.crew.start()
                case StopWorker(worker=worker, reason=reason):
                    if reason == "recycle":
                        self._recycled += 1
                    if reason != "dead":
                        cast("PoolWorker", worker).stop(StopReason(reason), grace)
                case Refuse(task=Call() as call, refusal=refusal):
                    self._on_loop(call, call.fail, self._refusal_error(call, refusal))
                case _:
                    raise AssertionError(action)
        self._schedule_tick()

    def _dispatch(self, call: Any) -> None:
        """Let a call begin on the thread of its loop: now, if that is this one.

        If nobody wants it any more, the next one, and so on: of a thousand clients that waited all
        may have left. Not by recursion, nor for longer than a loop may be held.
        """
        for _ in range(_MOST_UNWANTED):
            if events._get_running_loop() is call.loop:  # noqa: SLF001 - documented for this use
                following = call.begin()
            elif self._on_loop(call, self._dispatch, call):
                return
            else:  # its loop is no more
                following = self.unused(call)
            if following is None:
                return
            call = following
        self._on_loop(call, self._dispatch, call)

    def _on_loop(self, call: Any, callback: Callable[..., object], *arguments: Any) -> bool:
        try:
            call.loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # Its loop was closed with the call waiting: there is nobody to tell.
            return False
        return True

    def _schedule_tick(self) -> None:
        now = _monotonic()
        wait = self.dispatcher.next_tick(now)
        if wait is not None and now + wait < self._tick_at - 0.001:
            keeper.post(self._arm_tick)

    def _arm_tick(self) -> None:
        # Only the keeper's thread sets the time of the next tick, from what is due now: two threads
        # that did so could have the later one win, and a failed start be tried again a minute late.
        now = _monotonic()
        with self._lock:
            wait = self.dispatcher.next_tick(now)
        if wait is None or now + wait >= self._tick_at - 0.001:
            return
        if self._tick is not None:
            self._tick.cancel()
        self._tick_at = now + wait
        self._tick = keeper.loop.call_later(wait, self._on_tick)

    def _on_tick(self) -> None:
        self._tick_at = float("inf")
        if self.dispatcher.phase is not Phase.CLOSED:
            self._act(self.dispatcher.tick, _monotonic())

    # --- errors ---

    def _refused(self, target: Target, limit: str) -> QueueFullError:
        lane = self.lanes.get(target.name) or self.new_lane(target)
        with self._lock:
            lane.refused += 1
            return self._full_error(target.name, limit)

    def _full_error(self, function: str, limit: str) -> QueueFullError:
        retry_after = self._retry_after()
        return QueueFullError(
            f"{function} was refused: the queue of pool {self.name!r} is full "
            f"({self.dispatcher.queued} waiting, {limit}); it did not run. "
            f"Try again in about {retry_after:.2g} s",
            retry_after=retry_after,
            limit=limit,
        )

    def _retry_after(self) -> float:
        """Return seconds until a newcomer is likely to be served; under the lock."""
        return self.dispatcher.retry_after(_monotonic(), self._running())

    def _closed_error(self, function: str, *, started: bool = False) -> PoolClosedError:
        what = "was stopped, having run in part" if started else "did not run"
        return PoolClosedError(
            f"{function} {what}: pool {self.name!r} is closed. A pool that was closed can be "
            "opened again with `await pool.open()`",
            may_have_run=started,
        )

    def too_late_error(self, call: Call) -> QueueTimeoutError | DeadlineError:
        """Return the error of a call that waited too long."""
        deadline, timeout = call.deadline, call.queue_timeout
        # By which comes first, not by the clock: timers of uvloop are a little early.
        latest = call.start_by or 0.0
        if deadline is not None and (timeout is None or latest < call.queued_at + timeout):
            return deadline_error(call.function, deadline, started=False)
        timeout = timeout or 0.0
        with self._lock:
            retry_after = self._retry_after()
        return QueueTimeoutError(
            f"{call.function} waited longer than its queue_timeout of {timeout:g} s for a worker "
            f"of pool {self.name!r}; it did not run",
            timeout=timeout,
            retry_after=retry_after,
        )

    def _refusal_error(self, call: Call, refusal: Refusal) -> Exception:
        if refusal is Refusal.DEADLINE:
            return self.too_late_error(call)
        if refusal is Refusal.CLOSED:
            return self._closed_error(call.function)
        return WorkerStartError(
            f"{call.function} did not run: no worker of pool {self.name!r} can be started. "
            f"The last attempt said: {self._start_error}",
            detail=self._start_error,
        )

"""The shell around the decisions: carries out what the dispatcher says, on event loops.

    await ─► run() ─ encode ─► admit ──► [queue] ──► assigned ──► sent ──► replied ─► value
                                 │           ╲                      │
                           QueueFullError   withdraw              abandon
                                        (cancel, timeout)    (cancel, timeout)

One engine is one open period of a pool. The waiting asyncio task drives its own call; the worker
that becomes free is given the next call of the same loop straight from the reader callback, so that
it does not idle while the event loop comes round to waking somebody.

Threads: a call lives on the thread of its event loop. The dispatcher, which all of them share, is
behind one lock; nothing that can block, wake or call back is done while it is held.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import time
from asyncio import events
from collections import deque
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from offload._child.wire import Flag, Kind, pack_header
from offload._core.dispatch import (
    Assign,
    Closed,
    Dispatcher,
    Full,
    Lane,
    Phase,
    Refusal,
    Refuse,
    StartWorker,
    StopWorker,
    TaskState,
    WorkerState,
)
from offload._core.histogram import Histogram
from offload._core.statistics import PoolStatistics, WorkerStatistics
from offload._engine.call import Call
from offload._engine.codec import (
    Request,
    close_file,
    decode_reply,
    encode_request,
    glance_bytes,
    is_small,
)
from offload._engine.flights import Flights
from offload._engine.outcome import (
    bad_result,
    crash_error,
    deadline_error,
    has_started,
    raise_reply,
)
from offload._workers.keeper import keeper
from offload.errors import (
    OffloadError,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Callable
    from contextvars import ContextVar

    from offload._core.dispatch import Limits, Worker
    from offload._core.options import ResolvedOptions
    from offload._engine.target import Target
    from offload._workers.base import Crew, Exit, Reply
    from offload.errors import DeadlineError

__all__ = ["Engine"]

_logger = logging.getLogger("offload.pool")
_monotonic = time.monotonic
# Between looks at whether a busy worker's event loop has been closed, while calls wait; such loops
# are rare, and a look costs a microsecond for each worker.
_LOOK_SECONDS = 1.0
_UNSET: Any = object()
# What a refusal by estimate leaves of the estimate. Arbitrary, does not matter much.
_TRUST = 0.95


def settle(future: Future[None], error: Exception | None = None) -> None:
    """Complete a future, unless whoever waited for it has cancelled it."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Engine:
    """The workers, the queue and the counters of one open pool."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        new_crew: Callable[[Engine], Crew],
        modules: set[str],
        variables: dict[str, ContextVar[Any]],
    ) -> None:
        self.name = name
        self._variables = variables
        self._flights = Flights()
        self.dispatcher = Dispatcher(limits)
        self.wait_histogram = Histogram()
        self.run_histogram = Histogram()
        self.counts = dict.fromkeys(
            ("failed", "refused", "timed_out", "cancelled", "crashed", "recycled"), 0
        )
        self.completed = 0
        self._lock = threading.Lock()
        self.lanes: dict[str | bytes, Lane] = {}
        # Calls that are being pickled, and how large they are at the least.
        self._arriving = 0
        self._arriving_bytes = 0
        self._modules = modules
        self._drained: list[Future[None]] = []
        self._start_error = ""
        self._tick: asyncio.TimerHandle | None = None
        self._tick_at = float("inf")
        self._openers: list[tuple[int, Future[None]]] = []
        keeper.hold()
        self.crew = new_crew(self)
        self.has_descriptors = self.crew.has_descriptors
        self._closed: Future[None] | None = None
        self._is_looking = False

    # --- calls ---

    async def run(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        started: Callable[[], object] | None = None,
    ) -> Any:
        """Run one call on a worker and return its result.

        Args:
            target: the function.
            arguments: its arguments.
            keywords: its keyword arguments.
            options: how the call is treated.
            started: called when a worker is given the call; False: it is not wanted any more.
        """
        self._refuse_early(target)
        meta = self._meta(options)
        # Values of context variables are of any size, and may not pickle.
        if target.by_value or self._variables or not is_small(arguments, keywords):
            size_bytes = self._reserve(target, arguments, keywords)
            try:
                request = await encode_request(
                    target, arguments, keywords, meta, has_descriptors=self.has_descriptors
                )
            finally:
                self._release(size_bytes)
        else:
            data = pickle.dumps((target.reference, arguments, keywords, meta), 5)
            if self.has_descriptors:
                data = pack_header(len(data), Kind.CALL, 0, 0) + data
            request = (data, None, len(data))
        if options.coalesce and request[1] is None:
            kind, flags, body, descriptor = await self._flights.join(
                request[0], lambda: self._exchange(target, request, options, None)
            )
        else:
            kind, flags, body, descriptor = await self._exchange(target, request, options, started)
        if kind == Kind.RESULT and not flags & Flag.NOT_INLINE and not target.by_value:
            try:
                return pickle.loads(body)
            except Exception as error:
                raise bad_result(target, error) from error
        value = await decode_reply(body, flags, descriptor, target)
        if kind != Kind.RESULT:
            raise_reply(kind, value, target)
        return value

    async def _exchange(
        self,
        target: Target,
        request: Request,
        options: ResolvedOptions,
        started: Callable[[], object] | None,
    ) -> Reply:
        """Have a request run, again where its worker dies and that is wanted; return the reply."""
        crashes_left = options.retry_on_crash
        crash: WorkerCrashedError | None = None
        try:
            while True:
                call = self._submit(target, request, options, started=started)
                started = None  # a future is set running once, however often it is tried
                try:
                    await call.future
                except BaseException:
                    self._leave(call)
                    raise
                if call.error is None:
                    assert call.reply is not None
                    return call.reply
                if crashes_left <= 0 or not isinstance(call.error, WorkerCrashedError):
                    try:
                        raise call.error
                    finally:
                        call.error = None  # it refers to this frame by way of its traceback
                crashes_left -= 1
                if call.error.started:
                    crash = call.error
        except OffloadError as error:
            # It ran in part before: no error of a later attempt may say that it did not.
            if crash is not None and not has_started(error):
                raise crash from error
            raise
        finally:
            crash = None  # as above
            if request[1] is not None:
                close_file(request[1], request[2])

    def _meta(self, options: ResolvedOptions, window: int | None = None) -> dict[str, Any] | None:
        """Return what a worker must know of a call beside its function and arguments."""
        timeout, deadline = options.timeout, options.deadline
        if timeout is None and deadline is None and window is None and not self._variables:
            return None
        meta: dict[str, Any] = {"timeout": timeout}
        if deadline is not None:
            if self.has_descriptors:  # a process of this host, which has the same clock
                meta["deadline"] = deadline
            else:
                left = max(deadline - _monotonic(), 0.0)
                meta["timeout"] = left if timeout is None else min(left, timeout)
        if window is not None:
            meta["window"] = window
        if self._variables:
            meta["context"] = {
                home: value
                for home, variable in self._variables.items()
                if (value := variable.get(_UNSET)) is not _UNSET
            }
        return meta

    async def stream(  # noqa: C901, PLR0912 - one loop, with what must be undone around it
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        window: int,
    ) -> AsyncGenerator[Any, None]:
        """Run a generator function on a worker and yield its items as the consumer takes them."""
        self._refuse_early(target)
        meta = self._meta(options, window)
        request = await encode_request(target, arguments, keywords, meta, has_descriptors=True)
        items: deque[Reply] = deque()
        taken = 0
        try:
            call = self._submit(target, request, options, items)
            try:
                while True:
                    if not items and call.reply is None and call.error is None:
                        await call.future
                        call.future = call.loop.create_future()
                        continue
                    if items:
                        _, flags, body, descriptor = items.popleft()
                        value = await decode_reply(body, flags, descriptor, target)
                        taken += 1
                        # In batches of half a window: the worker never runs dry, and is not sent
                        # a frame for each item.
                        if taken * 2 >= window and call.reply is None and call.worker is not None:
                            self.crew.more(call.worker, Kind.CREDIT, taken.to_bytes(4, "little"))
                            taken = 0
                        yield value
                        continue
                    break
            except BaseException:
                call.drop_reply()
                raise
            finally:
                if call.state is not TaskState.DONE:
                    self._leave_stream(call)
                for _, _, _, descriptor in items:
                    if descriptor is not None:
                        os.close(descriptor)
        finally:
            if request[1] is not None:
                close_file(request[1], request[2])
        if call.error is not None:
            raise call.error
        assert call.reply is not None
        kind, flags, body, descriptor = call.reply
        if kind != Kind.END:
            raise_reply(kind, await decode_reply(body, flags, descriptor, target), target)

    def new_lane(self, target: Target) -> Lane:
        """Return the lane of a function that is called for the first time."""
        # setdefault: two threads may be here at once, and the limit is one.
        lane = self.lanes.setdefault(target.reference, Lane(target.max_concurrency))
        if target.module is not None:
            self._modules.add(target.module)
        return lane

    def modules(self) -> list[str]:
        """Return what a new worker should import before its first task."""
        return sorted(self._modules - {"__main__"})

    def _refuse_early(self, target: Target) -> None:
        # Before arguments are pickled, which may be dear; `submit` has the last word.
        dispatcher = self.dispatcher
        if dispatcher.phase is not Phase.OPEN:
            raise self._closed_error(target)
        if dispatcher.is_full and not (
            dispatcher.idle and dispatcher.busy < dispatcher.limits.max_workers
        ):
            with self._lock:
                self.counts["refused"] += 1
            raise self._full_error(target, "max_queued")

    def _reserve(self, target: Target, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> int:
        """Refuse early what will not fit into the queue; else count it as on its way there.

        Until it is pickled a call is not in the queue, and a thousand at once would all be.
        """
        dispatcher = self.dispatcher
        limits = dispatcher.limits
        if limits.max_queued_bytes is None:
            return 0
        size_bytes = glance_bytes(arguments, keywords)
        if not size_bytes:
            return 0
        with self._lock:
            waiting = dispatcher.queued + self._arriving
            free = max(limits.max_workers - dispatcher.busy, 1)
            together = dispatcher.queued_bytes + self._arriving_bytes + size_bytes
            if waiting < free or together <= limits.max_queued_bytes:
                self._arriving += 1
                self._arriving_bytes += size_bytes
                return size_bytes
            self.counts["refused"] += 1
        raise self._full_error(target, "max_queued_bytes")

    def _release(self, size_bytes: int) -> None:
        if size_bytes:
            with self._lock:
                self._arriving -= 1
                self._arriving_bytes -= size_bytes

    def _submit(  # noqa: C901 - what happens under the lock is one decision
        self,
        target: Target,
        request: Request,
        options: ResolvedOptions,
        items: deque[Reply] | None = None,
        started: Callable[[], object] | None = None,
    ) -> Call:
        now = _monotonic()
        call = Call(self, target, request, options, now)
        if items is not None:
            call.items = items
        if started is not None:
            call.started = started
        dispatcher = self.dispatcher
        error: Exception | None = None
        worker: Worker | None = None
        with self._lock:
            try:
                if call.deadline is not None and self._is_too_late(call, now):
                    error = deadline_error(call.function, call.deadline, started=False)
                else:
                    worker = dispatcher.submit(call, now)
            except Full as full:
                error = self._full_error(target, full.limit)
                self.counts["refused"] += 1
            except Closed:
                error = self._closed_error(target)
            actions = self._take_actions() if dispatcher.actions else None
        if worker is not None:
            call.begin()
        if actions:
            self._carry_out(actions)
        if worker is None:
            if error is not None:
                raise error
            if call.state is TaskState.QUEUED:
                call.wait_in_queue()
                if not self._is_looking:
                    self._is_looking = True
                    keeper.post(self._look_for_closed_loops)
        return call

    def _is_too_late(self, call: Call, now: float) -> bool:
        """Return whether the call would wait past the last instant at which it can start."""
        assert call.deadline is not None
        dispatcher, lane = self.dispatcher, call.lane
        wait = dispatcher.queued * dispatcher.mean_run / dispatcher.limits.max_workers
        if call.deadline > now + wait + lane.mean_run:
            return False
        if call.deadline > now:
            # An estimate says so. Trust it a little less each time: else a function whose one
            # measured run was slow would be refused for ever, and never be measured again.
            lane.mean_run *= _TRUST
        return True

    def _leave(self, call: Call) -> None:
        """The caller is gone: take the call out of the queue, or stop its worker."""
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        call.drop_reply()
        if self.withdraw(call):
            self.counts["cancelled"] += 1
        elif call.state is TaskState.RUNNING:
            self.counts["cancelled"] += 1
            self.abandon(call, "cancel")

    def _leave_stream(self, call: Call) -> None:
        worker = call.worker
        if call.state is TaskState.RUNNING and worker is not None:
            # A generator that waits for credit is closed politely; `grace` bounds the wait.
            self.crew.more(worker, Kind.CLOSE, b"")
            call.grace = max(call.grace, 0.1)
        self._leave(call)

    # --- what happens to calls; on the thread of the call's loop ---

    def finished(self, call: Call, *, recycle: bool = False) -> None:
        """Take note that the worker has replied, and give it the next call."""
        now = _monotonic()
        worker = call.worker
        dispatcher = self.dispatcher
        actions = drained = None
        with self._lock:
            if worker is None or worker.task is not call:
                return
            started_at = call.started_at
            self.wait_histogram.record(started_at - call.queued_at)
            self.run_histogram.record(now - started_at)
            following: Any = dispatcher.finish(worker, now, recycle=recycle)
            reply = call.reply
            if reply is not None and (reply[0] == Kind.RESULT or reply[0] == Kind.END):
                self.completed += 1
            else:
                self.counts["failed"] += 1
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
        with self._lock:
            is_withdrawn = self.dispatcher.withdraw(call)
            drained = self._take_drained()
        for future in drained:
            settle(future)
        return is_withdrawn

    def abandon(self, call: Call, reason: str) -> None:
        """Stop a running call that nobody waits for any more."""
        worker = call.worker
        with self._lock:
            if worker is None or worker.task is not call:
                return
            now = _monotonic()
            # They held a worker as others do: who is refused must be told so.
            self.dispatcher.measure(now - call.started_at)
            if reason == "timeout":
                self.counts["timed_out"] += 1
                if mean := call.lane.mean_run:
                    # How long it would have taken nobody knows: longer. Without this, attempts
                    # that end at their deadline would let the estimate only ever sink.
                    call.lane.mean_run = mean + (2.0 * (now - call.started_at) - mean) * 0.1
            if self.crew.can_stop:
                self.dispatcher.abandon(worker, now, reason)
            actions = self._take_actions()
            drained = self._take_drained()
        self._carry_out(actions, grace=call.grace)
        for future in drained:
            settle(future)

    def unused(self, call: Call) -> None:
        """Nobody wants the call that a worker was just assigned: the worker takes the next one."""
        worker = call.worker
        following: Any = None
        with self._lock:
            if worker is None or worker.task is not call:
                return
            following = self.dispatcher.finish(worker, _monotonic(), returned=False)
            actions = self._take_actions()
            drained = self._take_drained()
        if following is not None:
            self._dispatch(following)
        self._carry_out(actions)
        for future in drained:
            settle(future)

    def not_received(self, worker: Worker, call: Call) -> None:
        """The worker was dead before the call reached it: the call goes to another."""
        with self._lock:
            if worker.task is not call:
                return
            self.dispatcher.requeue(call, _monotonic())
            actions = self._take_actions()
        self._carry_out(actions)

    # --- what workers report; on any thread ---

    def worker_ready(self, worker: Worker) -> None:
        """Report that a worker can take tasks."""
        self._event(self.dispatcher.ready, worker)

    def worker_failed(self, worker: Worker, detail: str) -> None:
        """Report that a worker did not come up."""
        if self.dispatcher.phase is Phase.OPEN:
            _logger.error("a worker of pool %r did not start: %s", self.name, detail)
        self._start_error = detail
        self._event(self.dispatcher.start_failed, worker)

    def worker_recovered(self, worker: Worker) -> None:
        """Report that an abandoned worker ended its task by itself."""
        if worker.task is None:
            self._event(self.dispatcher.recovered, worker)

    def worker_gone(self, worker: Worker, how: Exit) -> None:
        """Report that a worker, once ready, has ended."""
        with self._lock:
            was = worker.state
            task = worker.task
            if was is WorkerState.BUSY and task is not None and not how.received:
                self.dispatcher.requeue(task, _monotonic())
                task = None
            self.dispatcher.gone(worker, _monotonic())
            if task is not None:
                self.counts["crashed"] += 1
            actions = self._take_actions()
            drained = self._take_drained()
        if isinstance(task, Call):
            self._on_loop(task, task.fail, crash_error(task.function, how))
        elif was is WorkerState.IDLE:
            _logger.warning("an idle worker of pool %r ended: %s", self.name, how)
        self._carry_out(actions)
        for future in drained:
            settle(future)

    def _event(self, event: Callable[[Worker, float], Any], worker: Worker) -> None:
        with self._lock:
            event(worker, _monotonic())
            actions = self._take_actions()
            opened = self._take_opened()
        self._carry_out(actions)
        for future, error in opened:
            settle(future, error)

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

    # --- life ---

    def open(self) -> Future[None]:
        """Start the first workers; the future is done when they are ready.

        It fails with `WorkerStartError` if none comes up.
        """
        future: Future[None] = Future()
        with self._lock:
            dispatcher = self.dispatcher
            dispatcher.open(_monotonic())
            self._openers.append((max(dispatcher.limits.min_workers, 1), future))
            actions = self._take_actions()
            opened = self._take_opened()
        self._carry_out(actions)
        for each, _ in opened:
            settle(each)
        return future

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
        opened = [
            (future, None if ready >= wanted else error)
            for wanted, future in self._openers
            if ready >= wanted or error is not None
        ]
        done = {id(future) for future, _ in opened}
        self._openers = [opener for opener in self._openers if id(opener[1]) not in done]
        return opened

    def drain(self) -> Future[None]:
        """Accept nothing more; the future is done when no call is left."""
        future: Future[None] = Future()
        with self._lock:
            self.dispatcher.close()
            self._drained.append(future)
            drained = self._take_drained()
        for each in drained:
            settle(each)
        return future

    def kill(self) -> Future[None]:
        """End everything now; the future is done when nothing is left."""
        with self._lock:
            if self._closed is not None:
                return self._closed
            now = _monotonic()
            self.dispatcher.close(kill=True)
            running = list(self._running())
            for call in running:
                assert call.worker is not None
                self.dispatcher.abandon(call.worker, now, "close under load")
            actions = self._take_actions()
            drained, self._drained = self._drained, []
            opened = self._take_opened()
            closed = self._closed = self.crew.close()
        for call in running:
            self._on_loop(call, call.fail, self._closed_error(call, started=True))
        self._carry_out(actions)
        for future in drained:
            settle(future)
        for future, error in opened:
            settle(future, error)
        closed.add_done_callback(lambda _: keeper.release())
        if self._tick is not None:
            keeper.post(self._tick.cancel)
        return closed

    def _running(self) -> list[Call]:
        return [
            worker.task
            for worker in self.crew.workers()
            if isinstance(worker.task, Call) and worker.state is WorkerState.BUSY
        ]

    def statistics(self, max_workers: int) -> PoolStatistics:
        """Return the state, the counters and the histograms of this instant."""
        now = _monotonic()
        with self._lock:
            dispatcher = self.dispatcher
            workers = tuple(
                WorkerStatistics(
                    pid=worker.pid,
                    state=worker.state.value,
                    function=worker.task.function if worker.task is not None else None,
                    tasks_done=worker.tasks_done,
                    run_seconds=now - worker.task.started_at if worker.task is not None else None,
                )
                for worker in self.crew.workers()
                if worker.state is not WorkerState.GONE
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
                wait=self.wait_histogram.snapshot(),
                run=self.run_histogram.snapshot(),
                workers=workers,
                completed=self.completed,
                **self.counts,
            )

    # --- inside ---

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
                        self.counts["recycled"] += 1
                    if reason != "dead":
                        self.crew.stop(worker, reason, grace)
                case Refuse(task=Call() as call, refusal=refusal):
                    self._on_loop(call, call.fail, self._refusal_error(call, refusal))
                case _:
                    raise AssertionError(action)
        self._schedule_tick()

    def _dispatch(self, call: Any) -> None:
        """Let a call begin on the thread of its loop: now, if that is this one."""
        if events._get_running_loop() is call.loop:  # noqa: SLF001 - documented for this use
            call.begin()
        elif not self._on_loop(call, call.begin):
            self.unused(call)

    def _on_loop(self, call: Any, callback: Callable[..., object], *arguments: Any) -> bool:
        try:
            call.loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # Its loop was closed with the call waiting: there is nobody to tell.
            return False
        return True

    def _schedule_tick(self) -> None:
        wait = self.dispatcher.next_tick(_monotonic())
        if wait is not None and _monotonic() + wait < self._tick_at - 0.001:
            self._tick_at = _monotonic() + wait
            keeper.post(self._arm_tick)

    def _arm_tick(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
        self._tick = keeper.loop.call_later(max(self._tick_at - _monotonic(), 0.0), self._on_tick)

    def _on_tick(self) -> None:
        self._tick_at = float("inf")
        with self._lock:
            if self.dispatcher.phase is Phase.CLOSED:
                return
            self.dispatcher.tick(_monotonic())
            actions = self._take_actions()
        self._carry_out(actions)

    # --- errors ---

    def _full_error(self, target: Target, limit: str) -> QueueFullError:
        retry_after = self.dispatcher.retry_after()
        return QueueFullError(
            f"{target.name} was refused: the queue of pool {self.name!r} is full "
            f"({self.dispatcher.queued} waiting, {limit}); it did not run. "
            f"Try again in about {retry_after:.2g} s",
            retry_after=retry_after,
            limit=limit,
        )

    def _closed_error(self, target: Any, *, started: bool = False) -> PoolClosedError:
        name = target.function if isinstance(target, Call) else target.name
        what = "was stopped, having run in part" if started else "did not run"
        return PoolClosedError(
            f"{name} {what}: pool {self.name!r} is closed. A pool that was closed can be "
            "opened again with `await pool.open()`",
            started=started,
        )

    def too_late_error(self, call: Call) -> QueueTimeoutError | DeadlineError:
        """Return the error of a call that waited too long."""
        deadline, timeout = call.deadline, call.queue_timeout
        # By which comes first, not by the clock: timers of uvloop are a little early.
        latest = call.start_by or 0.0
        if deadline is not None and (timeout is None or latest < call.queued_at + timeout):
            return deadline_error(call.function, deadline, started=False)
        timeout = timeout or 0.0
        return QueueTimeoutError(
            f"{call.function} waited longer than its queue_timeout of {timeout:g} s for a worker "
            f"of pool {self.name!r}; it did not run",
            timeout=timeout,
            retry_after=self.dispatcher.retry_after(),
        )

    def _refusal_error(self, call: Call, refusal: Refusal) -> Exception:
        if refusal is Refusal.DEADLINE:
            return self.too_late_error(call)
        if refusal is Refusal.CLOSED:
            return self._closed_error(call)
        return WorkerStartError(
            f"{call.function} did not run: no worker of pool {self.name!r} can be started. "
            f"The last attempt said: {self._start_error}",
            detail=self._start_error,
        )

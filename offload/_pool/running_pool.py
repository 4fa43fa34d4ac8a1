"""One open period of a pool, as the pool's façade and its callers see it.

The usual call (small arguments, nothing that surrounds it) takes a short cut: `begin` has sent it
when it returns, the caller awaits its future, and `value_of` makes the result. On an idle core all
of this runs with cold caches, where each Python frame costs about a microsecond. Every other call
is a `Call`.
"""

from __future__ import annotations

import pickle
import time
from asyncio import events
from typing import TYPE_CHECKING, Any, cast

from offload._decisions.words import WAITING, StopReason, TaskState, WorkerState
from offload._pool.call import Call, PoolParts, decode_value, raise_error_of
from offload._pool.call_errors import task_killed_error
from offload._pool.codec import is_small
from offload._pool.event_loops import call_soon_on_loop_of
from offload._pool.life import PoolLife
from offload._pool.outlasting import worker_left
from offload._pool.request_meta import is_plain, request_meta
from offload._pool.shell import Shell
from offload._pool.single_flight import SingleFlight
from offload._pool.stream_call import StreamCall
from offload._pool.task_list import (
    find_task,
    progress_of,
    task_id_of,
    task_told,
    tasks_of,
)
from offload._values.histogram import merge
from offload._values.outcome import Outcome
from offload._values.statistics import PoolStatistics, TaskStatistics, WorkerStatistics
from offload._wire.frames import Kind, pack_header
from offload._wire.payload import Request
from offload.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextvars import ContextVar

    from offload._decisions.story import Transition
    from offload._decisions.words import Limits
    from offload._pool.accounts import Accounts
    from offload._pool.invocation import Invocation
    from offload._pool.target import Target
    from offload._pool.task import PoolTask
    from offload._values.call_record import Observer
    from offload._values.options import ResolvedOptions
    from offload._workers.backend import PoolWorker, WorkerBackend, WorkerOwner

__all__ = ["RunningPool"]

_dumps = pickle.dumps
# What a failure keeps of the story: enough to see what led to it.
_LAST_TRANSITIONS = 12


class RunningPool:
    """One open period of a pool.

    Args:
        pool: name of the pool.
        limits: the numbers that decisions depend on.
        new_backend: makes the workers' backend.
        modules: what a new worker imports before its first task; it grows.
        accounts: the pool's books.
        variables: context variables whose value crosses with each call, by "module:name".
        observers: who is told of each call.
        shows_arguments: whether those who look at tasks may see their arguments.
        results: how what workers say is read, "pickle" or "data".

    Attributes:
        life: opens, drains and ends it.
        takes_short_cut: whether `begin` may be tried at all.
    """

    def __init__(
        self,
        pool: str,
        limits: Limits,
        new_backend: Callable[[WorkerOwner], WorkerBackend],
        modules: set[str],
        accounts: Accounts,
        *,
        variables: dict[str, ContextVar[Any]],
        observers: tuple[Observer, ...],
        shows_arguments: bool = False,
        results: str = "pickle",
    ) -> None:
        self._results = results
        self._opened_at = time.time()
        # Numbers of tasks begin anew with each period, and a page may be of the one before.
        self._period = f"{int(self._opened_at * 1000):x}"
        self._accounts = accounts
        self.shell = Shell(pool, limits, new_backend, modules, accounts)
        self.life = PoolLife(self.shell)
        self._parts = PoolParts(
            self.shell, accounts, SingleFlight(), variables, self._last_transitions
        )
        self._parts.shows_arguments = shows_arguments
        self.takes_short_cut = False
        self.observe(observers)

    def observe(self, observers: tuple[Observer, ...]) -> None:
        """Tell these of all calls that are made from now on."""
        parts = self._parts
        parts.observers = observers
        self.takes_short_cut = (
            self.shell.backend.has_descriptors
            and not parts.variables
            and not observers
            and not parts.shows_arguments
        )

    # --- the short cut ---

    # The loop of this thread, None under trio and in plain threads. Here for who must not import
    # asyncio: workers import the decorator.
    running_loop = staticmethod(events._get_running_loop)  # noqa: SLF001 - documented for this use

    def begin(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        may_start: Callable[[], bool] | None = None,
    ) -> PoolTask | None:
        """Begin a call of the usual kind; None: it is of another kind, and `run` takes it.

        Raises:
            OffloadError: it was not admitted.
        """
        if options.max_payload_bytes is not None or target.by_value:
            return None
        if (arguments or keywords) and not is_small(arguments, keywords):
            return None
        meta = None
        if options.timeout is not None or options.deadline is not None:
            meta = request_meta(options, {}, same_clock=True)
        data = _dumps((target.reference.wire, arguments, keywords, meta), 5)
        size = len(data)
        request = Request(pack_header(size, Kind.CALL, 0, 0, 0) + data, None, size)
        try:
            return self.shell.submit(target, request, options, None, may_start)
        except OffloadError as error:
            self._ended(target, error, None)
            raise

    async def value_of(self, task: PoolTask, target: Target) -> Any:
        """Return the result of a call that has ended, or raise what it ended with."""
        try:
            if task.error is not None:
                raise_error_of(task)
            assert task.frame is not None
            value = await decode_value(task.frame, target)
        except BaseException as error:
            self._ended(target, error, task.pid)
            raise
        task.lane.account.call_ended(Outcome.COMPLETED)
        return value

    def leave(self, task: PoolTask) -> None:
        """Give up a call that has taken the short cut, and whose caller is cancelled."""
        self.shell.leave(task)
        task.lane.account.call_ended(Outcome.CANCELLED)

    def drop(self, task: PoolTask) -> None:
        """Give up a call that has taken the short cut, and whose coroutine is closed."""
        self.shell.drop(task, lambda: task.lane.account.call_ended(Outcome.CANCELLED))

    def _ended(self, target: Target, error: BaseException, pid: int | None) -> None:
        self._accounts.ended(target.name, error, pid, self._last_transitions)

    # --- calls of other kinds, and from elsewhere ---

    async def run(self, invocation: Invocation, may_start: Callable[[], bool] | None = None) -> Any:
        """Run one call on a worker and return its result.

        Args:
            invocation: what to run.
            may_start: asked right before a worker is sent it; False drops it.
        """
        target, arguments, keywords, options, outlasts_worker = invocation
        task = None
        if self.takes_short_cut and is_plain(options):
            task = self.begin(target, arguments, keywords, options, may_start)
        if task is None:
            return await self.run_long(invocation, may_start)
        try:
            await task.future
        except GeneratorExit:
            self.drop(task)
            raise
        except BaseException:
            self.leave(task)
            if outlasts_worker:
                await worker_left(self.shell.decider, task)
            raise
        if task.error is not None and outlasts_worker:
            await worker_left(self.shell.decider, task)
        return await self.value_of(task, target)

    async def run_long(
        self, invocation: Invocation, may_start: Callable[[], bool] | None = None
    ) -> Any:
        """As `run`, for a call that does not take the short cut."""
        return await Call(self._parts, invocation).run(may_start)

    def stream(self, invocation: Invocation, window: int) -> AsyncGenerator[Any, None]:
        """Run a generator function on a worker and yield its items as the consumer takes them."""
        return StreamCall(self._parts, invocation, window).items()

    # --- by hand; from any thread ---

    def kill_task(self, pid: int) -> bool:
        """Stop the task of a worker; its caller is told. False if there is none."""
        task = next((task for task in self.shell.running() if task.pid == pid), None)
        return task is not None and self._stop_by_hand(task)

    def stop_task(self, task_id: str) -> bool:
        """Stop a task that waits or runs; its caller is told. False if there is none."""
        task = find_task(self.shell, self._period, task_id)
        return task is not None and self._stop_by_hand(task)

    def _stop_by_hand(self, task: PoolTask) -> bool:
        pid = None if task.state in WAITING else task.pid
        may_have_run = self.shell.stop(task, StopReason.KILL)
        if may_have_run is None:
            return False
        error = task_killed_error(task.function, pid, may_have_run=may_have_run)
        call_soon_on_loop_of(task, task.fail, error)
        return True

    def recycle(self, pid: int) -> bool:
        """Replace a worker, after its task if it has one. False if there is no such worker."""
        decider = self.shell.decider
        for worker in self.shell.backend.workers():
            if worker.pid == pid:
                return decider.act(decider.dispatcher.recycle, worker, time.monotonic())
        return False

    def renew(self) -> None:
        """Have all later calls run on workers that are started from now on."""
        decider, backend = self.shell.decider, self.shell.backend
        backend.renew()
        decider.act(decider.dispatcher.renew, backend.workers(), time.monotonic())

    def set_limits(self, max_workers: int, max_queued: int | None) -> None:
        """Change how many tasks may run at once, and how many may wait."""
        decider = self.shell.decider
        decider.act(decider.dispatcher.set_limits, max_workers, max_queued, time.monotonic())

    # --- what it is ---

    def tasks(self, limit: int) -> tuple[TaskStatistics, ...]:
        """Return the tasks that run, and so many of those that wait, in their order."""
        return tasks_of(self.shell, self._period, limit)

    def task(self, task_id: str) -> TaskStatistics | None:
        """Return one task that waits or runs; None if there is none of this id."""
        task = find_task(self.shell, self._period, task_id)
        return None if task is None else task_told(task, self._period, time.monotonic())

    def load(self) -> tuple[int, int, int]:
        """Return how many workers are up, are busy, and how many tasks wait; without the lock."""
        dispatcher = self.shell.dispatcher
        return dispatcher.roster.up, dispatcher.roster.busy, dispatcher.queue.count

    def story(self) -> tuple[str, ...]:
        """Return the last transitions, the oldest first, and then what runs now; a line each."""
        decider, now = self.shell.decider, time.monotonic()
        with decider.lock:
            transitions = decider.dispatcher.story.transitions()
            running = self.shell.running()
        lines = [f"{now - each.at:9.3f} s ago  {each}" for each in transitions]
        for task in running:
            worker = task.worker
            what = "assigned, not sent" if task.state is TaskState.ASSIGNED else task.state.value
            who = "" if worker is None else f" on worker {worker.number} (pid {worker.pid})"
            lines.append(f"{now - task.started_at:9.3f} s      {task.function} is {what}{who}")
        return tuple(lines)

    def _last_transitions(self) -> tuple[Transition, ...]:
        # Without the lock: a tuple is made of the story at once.
        return self.shell.dispatcher.story.transitions()[-_LAST_TRANSITIONS:]

    def statistics(self) -> PoolStatistics:
        """Return the state, the counters and the histograms of this instant."""
        shell = self.shell
        functions = self._accounts.statistics(dict(shell.lanes))
        with shell.decider.lock:
            dispatcher = shell.dispatcher
            roster, queue, limits = dispatcher.roster, dispatcher.queue, dispatcher.limits
            workers = [
                (worker, worker.state.value, cast("PoolTask | None", worker.task))
                for worker in shell.backend.workers()
                if worker.state is not WorkerState.GONE
            ]
            now: dict[str, Any] = {
                "state": dispatcher.phase.value,
                "max_workers": roster.max_workers,
                "starting": dispatcher.growth.starting,
                "idle": len(roster.idle),
                "busy": roster.busy,
                "leaving": roster.leaving,
                "queued": queue.count,
                "queued_bytes": queue.size_bytes,
                "running_bytes": sum(task.size_bytes for task in shell.running()),
                "max_queued": limits.max_queued,
                "max_queued_bytes": limits.max_queued_bytes,
            }
        # Without the lock: what functions have reported is unpickled.
        told = tuple(self._told(*each) for each in workers)
        return PoolStatistics(
            name=shell.pool,
            wait=merge(function.wait for function in functions),
            run=merge(function.run for function in functions),
            workers=told,
            functions=functions,
            failures=self._accounts.failures(),
            recycled=self._accounts.recycled,
            starved_workers=sum(worker.starved for worker in told),
            starved_seconds=self._accounts.starved_seconds,
            throttled_seconds=self._accounts.throttled_seconds,
            opened_at=self._opened_at,
            missing_walls=shell.backend.missing_walls,
            results=self._results,
            **now,
            **self._accounts.totals(functions),
        )

    def _told(self, worker: PoolWorker, state: str, task: PoolTask | None) -> WorkerStatistics:
        return WorkerStatistics(
            pid=worker.pid,
            state=state,
            function=None if task is None else task.function,
            tasks_done=worker.tasks_done,
            run_seconds=None if task is None else time.monotonic() - task.started_at,
            recycling=worker.is_recycled,
            starved=self.shell.cpu_watch.is_starved(worker),
            task_id=None if task is None else task_id_of(task, self._period),
            progress=None if task is None else progress_of(task),
        )

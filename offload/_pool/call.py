"""One call: where its caller waits, and what its worker is given."""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from asyncio import CancelledError, events
from contextvars import copy_context
from typing import TYPE_CHECKING, Protocol

from offload._decisions.dispatch import WAITING, Task, TaskState
from offload._pool.outcome import deadline_error, task_timeout_error
from offload._wire.frames import Flag, Kind
from offload._wire.pickling import without_exits
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable

    from offload._decisions.dispatch import Worker
    from offload._pool.accounts import Account
    from offload._pool.target import Target
    from offload._values.options import Progress, ResolvedOptions
    from offload._wire.frames import Frame
    from offload._wire.payload import Request
    from offload._workers.backend import PoolWorker, WorkerBackend

__all__ = ["Call", "Calls", "in_this_context"]

# For an event loop to come to a reply that is there.
_REPLY_SECONDS = 1.0

_logger = logging.getLogger("offload.pool")


def in_this_context(on_progress: Progress) -> Progress:
    """Return a callback that runs as its caller does: an event loop is in nobody's context."""
    context = copy_context()

    def tell(done: float, total: float | None) -> None:
        context.run(on_progress, done, total)

    return tell


class Calls(Protocol):
    """The engine, as a call sees it."""

    crew: WorkerBackend
    lanes: dict[str, Account]
    is_watching: bool

    def watch(self) -> None:
        """Stop tasks whose time is over, also if their event loop is held or does not run."""
        ...

    def new_lane(self, target: Target) -> Account:
        """Return the lane of a function that is called for the first time."""
        ...

    def adopt_limit(self, lane: Account, target: Target) -> None:
        """Have a function's limit be that of its present definition."""
        ...

    def finished(self, call: Call, *, recycle: bool = False) -> None:
        """Take note that the worker has replied."""
        ...

    def unused(self, call: Call) -> Call | None:
        """Take note that nobody wants the call that was about to begin; return the next one."""
        ...

    def not_received(self, worker: Worker, call: Call) -> None:
        """Take note that the worker was dead before the call reached it."""
        ...

    def withdraw(self, call: Call) -> bool:
        """Take a waiting call out of the queue; False if it does not wait."""
        ...

    def abandon(self, call: Call, reason: str) -> bool:
        """Stop a running call that nobody waits for any more; False if it does not run."""
        ...

    def too_late_error(self, call: Call) -> Exception:
        """Return the error of a call that waited too long."""
        ...


class Call(Task):
    """One call: where its caller waits, and what its worker gets."""

    # Defaults in the class, not in slots: most calls never set them, and setting a dozen of them
    # to None is a good part of what making a call costs.
    lane: Account
    worker: PoolWorker | None  # pyright: ignore[reportIncompatibleVariableOverride]
    queue_timeout: float | None = None
    deadline: float | None = None
    timer: asyncio.TimerHandle | None = None
    reply: Frame | None = None
    error: BaseException | None = None
    items: deque[Frame] | None = None
    started: Callable[[], object] | None = None
    # Whether it is in the books already, its worker being one that cannot be stopped and will
    # report its end when nobody waits for it any more.
    is_counted: bool = False
    # Whether a worker has been sent it, and not only been given it.
    is_sent: bool = False
    # Whether its reply is waited for once more, its time being over.
    is_overtime: bool = False
    # When its time is over, and its worker is to be stopped.
    stop_at: float | None = None
    # Whether its worker was stopped before it came to the function.
    is_revoked: bool = False

    def __init__(
        self, engine: Calls, target: Target, request: Request, options: ResolvedOptions, now: float
    ) -> None:
        # What Task.__init__ sets, without the call.
        lane = self.lane = engine.lanes.get(target.name) or engine.new_lane(target)
        if lane.limit != target.max_concurrency:
            engine.adopt_limit(lane, target)
        self.request = request
        self.size_bytes = request.size_bytes
        self.priority = options.priority
        self.timeout = options.timeout
        self.grace = options.grace
        self.on_progress = options.on_progress and in_this_context(options.on_progress)
        queue_timeout, deadline = options.queue_timeout, options.deadline
        self.start_by = None
        if queue_timeout is not None:
            self.queue_timeout = queue_timeout
            self.start_by = now + queue_timeout
        if deadline is not None:
            self.deadline = deadline
            # As late as it may start and still end in time, going by how long it took of late.
            latest = deadline - self.lane.run_time.mean
            self.start_by = latest if self.start_by is None else min(latest, self.start_by)
        self.state = TaskState.NEW
        self.worker = None
        self.started_at = 0.0
        self.engine = engine
        self.function = target.name
        self.loop = events.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    @property
    def pid(self) -> int | None:
        """Process id of its worker, None where it has none or it is unknown."""
        return getattr(self.worker, "pid", None)

    # All of the following happen on the thread of the loop.

    def wait_in_queue(self) -> None:
        """Start the clock of the queue timeout and the deadline."""
        if self.timer is not None:  # of an attempt that its worker did not live to receive
            self.timer.cancel()
            self.timer = None
        if self.start_by is not None and self.state in WAITING:
            wait = max(self.start_by - time.monotonic(), 0.0)
            self.timer = self.loop.call_later(wait, self._queue_timed_out)

    def begin(self) -> Call | None:
        """Send the call to the worker that it was assigned to.

        Returns:
            The call that the worker is given instead, if nobody wants this one any more.
        """
        engine, worker = self.engine, self.worker
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        # While the way here was under way the caller may have gone, or the worker died. It may even
        # have been assigned to another since, and have been sent by way of the first assignment.
        if (
            self.state is not TaskState.RUNNING
            or worker is None
            or worker.task is not self
            or self.is_sent
        ):
            return None
        if self.started is not None:
            is_wanted, self.started = self.started(), None
            if not is_wanted:
                return engine.unused(self)
        self.is_sent = True
        if not worker.send(self):
            self.is_sent = False
            self.stop_at = None
            engine.not_received(worker, self)
            self.wait_in_queue()
            return None
        seconds = self.timeout
        if self.deadline is not None:
            left = max(self.deadline - time.monotonic(), 0.0)
            seconds = left if seconds is None else min(seconds, left)
        if seconds is not None:
            self.timer = self.loop.call_later(seconds, self._timed_out)
            self.stop_at = time.monotonic() + seconds
            if not engine.is_watching:
                engine.watch()
        return None

    def take(self, reply: Frame) -> None:
        """Accept a frame from the worker."""
        if reply.kind >= Kind.ITEM:
            self._take_news(reply)
            return
        self.reply = reply
        self.engine.finished(self, recycle=bool(reply.flags & Flag.RECYCLE))
        self._wake()

    def _take_news(self, reply: Frame) -> None:
        if reply.kind == Kind.ITEM:
            if self.items is not None:
                self.items.append(reply)
                self._wake()
        elif self.on_progress is not None:
            try:
                done, total = without_exits(pickle.loads, reply.body)
                self.on_progress(done, total)
            except (Exception, CancelledError):  # noqa: BLE001 - it is logged
                # What came with it is still to be told, the result perhaps, whatever handlers do.
                log_safely(
                    _logger,
                    logging.ERROR,
                    "on_progress of %s failed",
                    self.function,
                    exc_info=True,
                    extra={"offload_function": self.function},
                )

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        self.error = error
        self._wake()

    def take_on_thread(self, reply: Frame | None, error: BaseException | None = None) -> None:
        """Accept the end of the task on another thread than the loop's, which may be no more."""
        self.reply = reply
        if error is not None:
            self.error = error
        self.engine.finished(self, recycle=bool(reply and reply.flags & Flag.RECYCLE))
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self.timer is not None and self.state is TaskState.DONE:
            self.timer.cancel()
            self.timer = None
        if not self.future.done():
            self.future.set_result(None)

    def _queue_timed_out(self) -> None:
        self.timer = None
        if self.engine.withdraw(self):
            self.fail(self.engine.too_late_error(self))

    def _timed_out(self) -> None:
        self.timer = None
        if self._has_replied() and not self.is_overtime:
            # It is in the socket, or about to be: this loop was held up, or comes to timers first.
            self.is_overtime = True
            self.timer = self.loop.call_later(_REPLY_SECONDS, self._timed_out)
            return
        error = self.stop_late(even_if_replied=True)
        if error is not None:
            self.fail(error)

    def _has_replied(self) -> bool:
        worker = self.worker
        return worker is not None and worker.has_replied(self)

    def stop_late(self, *, even_if_replied: bool = False) -> Exception | None:
        """Stop the task, whose time is over; on any thread.

        Args:
            even_if_replied: not only if its worker has not replied in time.

        Returns:
            What the caller is to be told; None if it has ended, or another thread was faster.
        """
        engine, deadline, timeout = self.engine, self.deadline, self.timeout
        if self.is_counted or not self.is_sent:
            return None
        if not even_if_replied and self._has_replied():
            return None
        if not engine.abandon(self, "timeout"):
            return None
        started, is_stopped = not self.is_revoked, engine.crew.can_stop
        # By which comes first, not by the clock: timers of uvloop are a little early.
        if deadline is not None and (timeout is None or deadline < self.started_at + timeout):
            return deadline_error(self.function, deadline, started=started, is_stopped=is_stopped)
        return task_timeout_error(
            self.function, timeout or 0.0, started=started, is_stopped=is_stopped
        )

    def drop_reply(self) -> None:
        """Free a reply that nobody will read."""
        if self.reply is not None and self.reply.descriptor is not None:
            self.reply.close()
            self.reply = None

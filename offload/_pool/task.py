"""One attempt at a call on one worker: where its caller waits, and what the worker is sent."""

from __future__ import annotations

import time
from asyncio import events
from contextvars import copy_context
from typing import TYPE_CHECKING

from offload._decisions.words import Task, TaskState

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from offload._pool.lane import FunctionLane
    from offload._values.options import Progress, ResolvedOptions
    from offload._wire.frames import Frame
    from offload._wire.payload import Request
    from offload._workers.backend import PoolWorker

__all__ = ["PoolTask", "in_this_context"]


def in_this_context(on_progress: Progress) -> Progress:
    """Return a callback that runs in the caller's context: an event loop runs in nobody's."""
    context = copy_context()

    def tell(done: float, total: float | None) -> None:
        context.run(on_progress, done, total)

    return tell


class PoolTask(Task):
    """One attempt at a call. Passive: `Shell` acts on it, its worker reads it.

    It lives on the thread of its caller's event loop; another thread may only read it, or change it
    through the dispatcher, under the pool's lock.

    It has more attributes than most classes: what the caller asked for, what the worker is sent,
    and what has come of it. Those that most tasks never set have their defaults in the class, since
    to set a dozen of them is a good part of what making a task costs.
    """

    lane: FunctionLane
    worker: PoolWorker | None
    queue_timeout: float | None = None
    max_cpu_seconds: float | None = None
    deadline: float | None = None
    # Of the queue timeout or the deadline while it waits, of the timeout while it runs.
    timer: asyncio.TimerHandle | None = None
    # When its time is over and its worker is to be stopped, in monotonic seconds.
    stop_at: float | None = None
    # What it ended with: the last frame of its worker, or an error of ours.
    frame: Frame | None = None
    error: BaseException | None = None
    # The items of a stream that its consumer has not taken yet.
    items: deque[Frame] | None = None
    # Asked right before it is sent; False drops it.
    may_start: Callable[[], bool] | None = None
    # What its function has reported last, as it came: few look.
    progress: Frame | None = None
    # Where the pool may show them.
    arguments: tuple[Sequence[Any], Mapping[str, Any]] | None = None

    def __init__(
        self, lane: FunctionLane, request: Request, options: ResolvedOptions, now: float
    ) -> None:
        # What Task.__init__ sets, without the call.
        self.lane = lane
        self.request = request
        self.size_bytes = request.size_bytes
        self.priority = options.priority
        self.timeout = options.timeout
        self.grace = options.grace
        self.on_progress = options.on_progress and in_this_context(options.on_progress)
        if options.max_cpu_seconds is not None:
            self.max_cpu_seconds = options.max_cpu_seconds
        queue_timeout, deadline = options.queue_timeout, options.deadline
        self.start_by = None
        if queue_timeout is not None:
            self.queue_timeout = queue_timeout
            self.start_by = now + queue_timeout
        if deadline is not None:
            self.deadline = deadline
            # Latest start that still meets the deadline, given the recent mean run time.
            latest = deadline - lane.run_time.mean
            self.start_by = latest if self.start_by is None else min(latest, self.start_by)
        self.state = TaskState.NEW
        self.worker = None  # pyright: ignore[reportIncompatibleVariableOverride] - those of its pool
        self.started_at = 0.0
        # Of its caller, in which its request and its trace are found if somebody asks. A copy takes
        # no longer than a look into it.
        self.context = copy_context()
        self.loop = events.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    @property
    def function(self) -> str:
        """The function as `module:qualname`."""
        return self.lane.name

    @property
    def pid(self) -> int | None:
        """Process id of its worker, None where it has none or it is unknown."""
        return self.worker.pid if self.worker is not None else None

    def run_limit(self) -> float | None:
        """Return the seconds that it may run from now on; None: no limit."""
        if self.deadline is None:
            return self.timeout
        left = max(self.deadline - time.monotonic(), 0.0)
        return left if self.timeout is None else min(self.timeout, left)

    def stop_timer(self) -> None:
        """Cancel the timer, if there is one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    # On the thread of its loop.

    def wake(self) -> None:
        """Wake the caller."""
        if self.timer is not None and self.state is TaskState.DONE:
            self.timer.cancel()
            self.timer = None
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, error: BaseException) -> None:
        """End the caller's wait with an error."""
        self.error = error
        self.wake()

    def drop_frame(self) -> None:
        """Free a reply that nobody will read."""
        frame, self.frame = self.frame, None
        if frame is not None:
            frame.close()

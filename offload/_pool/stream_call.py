"""One call of a generator function, whose items are taken as they are made.

    worker ── ITEM, ITEM, … ──► frames ──► consumer
       ▲                                      │
       └───────── CREDIT, in half windows ────┘

The worker runs at most a window ahead of the consumer and then waits. Leaving early closes the
generator: politely, if it waits; else its worker is stopped.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from offload._decisions.words import TaskState
from offload._pool.call import Call, decode_value, raise_error_of
from offload._pool.codec import close_request, decode_reply
from offload._pool.event_loops import do_soon
from offload._wire.frames import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from offload._pool.call import PoolParts
    from offload._pool.invocation import Invocation
    from offload._pool.task import PoolTask
    from offload._wire.frames import Frame
    from offload._wire.payload import Request

__all__ = ["StreamCall"]


class StreamCall(Call):
    """A call that has items on the way to its end.

    Args:
        parts: of the pool.
        invocation: what to run.
        window: how many items the worker may be ahead of the consumer.
    """

    def __init__(self, parts: PoolParts, invocation: Invocation, window: int) -> None:
        super().__init__(parts, invocation)
        self._window = window
        self._request: Request | None = None
        self._task: PoolTask | None = None
        # No more than a window: the worker has credit for no more.
        self._frames: deque[Frame] = deque(maxlen=window)
        # Items that were taken, and for which the worker has not been given credit yet.
        self._taken = 0
        # Whether it waits for a worker or a thread, and not for the consumer.
        self._is_waiting = False

    async def items(self) -> AsyncGenerator[Any, None]:
        """Run it on a worker and yield its items as the consumer takes them."""
        error: BaseException | None = None
        try:
            target = self.invocation.target
            limit = self.invocation.options.max_payload_bytes
            self.parts.shell.admission.refuse_early(target.name)
            self._request = await self.encode(window=self._window)
            task = self._task = self.submit(self._request, self.invocation.options, self._frames)
            while (frame := await self._next_frame(task)) is not None:
                self._is_waiting = True
                value = await decode_reply(frame, target, limit)
                self._is_waiting = False
                self._give_credit(task)
                yield value
            if task.error is not None:
                raise_error_of(task)
            assert task.frame is not None
            if task.frame.kind != Kind.END:
                await decode_value(task.frame, target, limit)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._close(error)
            self.end(error)
            error = None  # its traceback refers to this frame

    async def _next_frame(self, task: PoolTask) -> Frame | None:
        """Return the next item, None when the generator has ended."""
        while not self._frames:
            if task.frame is not None or task.error is not None:
                return None
            self._is_waiting = True
            await task.future
            self._is_waiting = False
            task.future = task.loop.create_future()
        return self._frames.popleft()

    def _give_credit(self, task: PoolTask) -> None:
        # In batches of half a window: the worker never runs dry, and is not sent a frame for each
        # item.
        self._taken += 1
        worker = task.worker
        if self._taken * 2 >= self._window and task.frame is None and worker is not None:
            worker.send_more(Kind.CREDIT, self._taken.to_bytes(4, "little"))
            self._taken = 0

    def _close(self, error: BaseException | None) -> None:
        """Free what the stream has, and its worker."""
        task = self._task
        if task is None:
            if self._request is not None:
                close_request(self._request)
            return
        self.note_attempt(task)
        # Dropped while it waits: that is the collector, from Python 3.13 on, on any thread.
        if self._is_waiting and isinstance(error, GeneratorExit):
            do_soon(task, self._free)
            return
        self._free()

    def _free(self) -> None:
        task, request = self._task, self._request
        assert task is not None
        assert request is not None
        if task.state is not TaskState.DONE:
            self.parts.shell.leave_stream(task)
        task.drop_frame()
        while self._frames:
            self._frames.popleft().close()
        close_request(request)

"""One call from beginning to end: pickled, admitted, sent, awaited, unpickled; run again at need.

    run() ─ encode ─► admit ──► [queue] ──► assigned ──► sent ──► replied ─► value
                        │           ╲                      │
                  QueueFullError   withdrawn             stopped
                               (cancel, timeout)     (cancel, timeout)

A call is what its caller awaits. Each of its attempts is a `PoolTask`: one, as a rule; more where
its worker dies and `max_crash_retries` allows it. The waiting asyncio task drives its own call.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from offload._pool.call_errors import check_reply, limits_error, raise_reply
from offload._pool.codec import (
    close_request,
    decode_error,
    decode_reply,
    encode_request,
    glance_bytes,
)
from offload._pool.observers import tell_ended, tell_submitted
from offload._pool.outlasting import worker_left
from offload._pool.request_meta import has_limits, request_meta
from offload._values.call_record import CallRecord
from offload._wire.frames import Kind
from offload._wire.payload import Request
from offload.errors import OffloadError, WorkerCrashedError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from contextvars import ContextVar

    from offload._decisions.story import Transition
    from offload._pool.accounts import Accounts
    from offload._pool.invocation import Invocation
    from offload._pool.shell import Shell
    from offload._pool.single_flight import SingleFlight
    from offload._pool.target import Target
    from offload._pool.task import PoolTask
    from offload._values.call_record import Observer
    from offload._values.options import ResolvedOptions
    from offload._wire.frames import Frame

__all__ = ["Call", "PoolParts", "decode_value", "raise_error_of"]


class PoolParts:
    """What the calls of an open pool share.

    Attributes:
        shell: its tasks and workers.
        accounts: its books.
        single_flight: the runs that identical calls share.
        variables: context variables whose value crosses with each call, by "module:name".
        observers: who is told of each call.
        story: returns what happened to the pool of late.
        shows_arguments: whether those who look at tasks may see their arguments.
    """

    __slots__ = (
        "accounts",
        "observers",
        "shell",
        "shows_arguments",
        "single_flight",
        "story",
        "variables",
    )

    def __init__(
        self,
        shell: Shell,
        accounts: Accounts,
        single_flight: SingleFlight,
        variables: dict[str, ContextVar[Any]],
        story: Callable[[], tuple[Transition, ...]],
    ) -> None:
        self.shell = shell
        self.accounts = accounts
        self.single_flight = single_flight
        self.variables = variables
        self.story = story
        self.observers: tuple[Observer, ...] = ()
        self.shows_arguments = False


class Call:
    """One call of an invocation, with its record, its observers and its attempts.

    Args:
        parts: of the pool.
        invocation: what to run.
    """

    def __init__(self, parts: PoolParts, invocation: Invocation) -> None:
        self.parts = parts
        self.invocation = invocation
        shell = parts.shell
        self.record = CallRecord(invocation.target.name, shell.pool, time.monotonic(), time.time())
        # As they are now: one that comes later is not told the end of what it was not told of.
        self._observers = parts.observers
        self._carriers = tell_submitted(self._observers, self.record) if self._observers else []

    def end(self, error: BaseException | None) -> None:
        """Count the call and tell observers: its caller gets the result, or this error."""
        record, parts = self.record, self.parts
        record.outcome = parts.accounts.ended(
            record.function, error, record.worker_pid, parts.story
        )
        if self._observers:
            record.error = error
            record.ended_at = time.monotonic()
            tell_ended(self._observers, record)
            record.error = None  # its traceback refers to the caller's frames

    async def run(self, may_start: Callable[[], bool] | None = None) -> Any:
        """Run it on a worker and return its result.

        Args:
            may_start: asked right before a worker is sent it; False drops it.
        """
        try:
            value = await self._run(may_start)
        except BaseException as error:
            self.end(error)
            raise
        self.end(None)
        return value

    async def _run(self, may_start: Callable[[], bool] | None) -> Any:
        invocation = self.invocation
        target, options = invocation.target, invocation.options
        if not options.single_flight:  # to share a run takes no place
            self.parts.shell.admission.refuse_early(target.name)
        request = await self.encode(self._carriers)
        if options.single_flight and request.descriptor is None:
            key = request.payload
            if self._carriers:
                # Identical calls stay identical, each within a trace of its own.
                key = (await self.encode([])).payload
            frame = await self.parts.single_flight.join(
                key, options, lambda shared: self._attempts(request, shared, None)
            )
        else:
            frame = await self._attempts(request, options, may_start)
        return await decode_value(frame, target, options.max_payload_bytes)

    async def encode(
        self, carriers: list[dict[str, str]] | None = None, window: int | None = None
    ) -> Request:
        """Pickle the invocation, counting it as on its way to the queue meanwhile.

        Args:
            carriers: what observers want the worker to be told; None: what they have said.
            window: how many items a stream may be ahead of its consumer.
        """
        invocation, shell = self.invocation, self.parts.shell
        same_clock = has_descriptors = shell.backend.has_descriptors
        if not has_descriptors and has_limits(invocation.options):
            raise limits_error(invocation.target.name, shell.pool)
        size_bytes = shell.admission.reserve(
            invocation.target.name, glance_bytes(invocation.arguments, invocation.keywords)
        )
        try:
            meta = request_meta(
                invocation.options,
                self.parts.variables,
                same_clock=same_clock,
                window=window,
                carriers=self._carriers if carriers is None else carriers,
            )
            return await encode_request(invocation, meta, has_descriptors=has_descriptors)
        finally:
            shell.admission.release(size_bytes)

    async def _attempts(
        self,
        request: Request,
        options: ResolvedOptions,
        may_start: Callable[[], bool] | None,
    ) -> Frame:
        """Have a request run, again where its worker dies and that is wanted; return the reply."""
        retries_left = options.max_crash_retries
        crash: WorkerCrashedError | None = None
        shell = self.parts.shell
        try:
            while True:
                task = self.submit(request, options, may_start=may_start)
                may_start = None  # a future is set running once, however often it is tried
                try:
                    await task.future
                except GeneratorExit:
                    # With its file: it may be sent before somebody comes to take it back.
                    dropped, request = request, Request(b"", None, 0)
                    shell.drop(task, partial(close_request, dropped))
                    raise
                except BaseException:
                    shell.leave(task)
                    await self._outlast(task)
                    raise
                finally:
                    self.note_attempt(task)
                if task.error is None:
                    assert task.frame is not None
                    return task.frame
                await self._outlast(task)
                if retries_left <= 0 or not isinstance(task.error, WorkerCrashedError):
                    raise_error_of(task)
                retries_left -= 1
                if task.error.may_have_run:
                    crash = task.error
        except OffloadError as error:
            # It ran in part before: no error of a later attempt may say that it did not.
            if crash is not None and not error.may_have_run:
                raise crash from error
            raise
        finally:
            crash = None  # its traceback refers to this frame
            close_request(request)

    async def _outlast(self, task: PoolTask) -> None:
        if self.invocation.outlasts_worker:
            await worker_left(self.parts.shell.decider, task)

    def submit(
        self,
        request: Request,
        options: ResolvedOptions,
        items: deque[Frame] | None = None,
        may_start: Callable[[], bool] | None = None,
    ) -> PoolTask:
        """Admit one attempt at it; see `Shell.submit`."""
        invocation = self.invocation
        task = self.parts.shell.submit(invocation.target, request, options, items, may_start)
        if self.parts.shows_arguments:
            task.arguments = invocation.arguments, invocation.keywords
        return task

    def note_attempt(self, task: PoolTask) -> None:
        """Record an attempt that a worker was given."""
        if task.started_at:
            self.record.attempts += 1
            self.record.started_at = task.started_at
            self.record.worker_pid = task.pid


def raise_error_of(task: PoolTask) -> NoReturn:
    """Raise what a task ended with."""
    assert task.error is not None
    try:
        raise task.error
    finally:
        task.error = None  # it refers to this frame by way of its traceback


async def decode_value(frame: Frame, target: Target, limit: int | None = None) -> Any:
    """Return the result that a frame holds, or raise what it says instead; see `decode_reply`."""
    value = await decode_reply(frame, target, limit)
    if frame.kind != Kind.RESULT:
        check_reply(frame.kind, value, target)
        is_error = frame.kind == Kind.RAISED and value[0] is not None
        raised = await decode_error(value[0]) if is_error else None
        try:
            raise_reply(frame.kind, value, target, raised)
        finally:
            # Its traceback refers to this frame, and by way of the callers' to their arguments.
            raised = value = None
    return value

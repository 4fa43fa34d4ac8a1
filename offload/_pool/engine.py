"""Calls from beginning to end: pickled, admitted, sent, awaited, unpickled.

    await ─► run() ─ encode ─► admit ──► [queue] ──► assigned ──► sent ──► replied ─► value
                                 │           ╲                      │
                           QueueFullError   withdraw              abandon
                                        (cancel, timeout)    (cancel, timeout)

One engine is one open period of a pool. The waiting asyncio task drives its own call.

The usual call (small arguments, nothing that surrounds it) takes a short cut: `begin` has sent it
when it returns, the caller awaits its future, and `value_of` makes the result. On an idle core all
of this runs with cold caches, where each Python frame costs about a microsecond.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from asyncio import events
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from offload._decisions.dispatch import TaskState
from offload._pool.codec import (
    Request,
    close_file,
    decode_error,
    decode_reply,
    encode_request,
    glance_bytes,
    is_small,
)
from offload._pool.outcome import bad_result, outcome_of, raise_reply
from offload._pool.shell import Shell
from offload._pool.single_flight import Flights
from offload._values.call_record import CallRecord
from offload._wire.frames import Flag, Kind, pack_header
from offload._wire.pickling import is_of_signal
from offload._workers.logs import log_safely
from offload.errors import OffloadError, WorkerCrashedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextvars import ContextVar
    from typing import Self

    from offload._decisions.dispatch import Limits
    from offload._pool.call import Call
    from offload._pool.target import Target
    from offload._values.call_record import Observer
    from offload._values.options import ResolvedOptions
    from offload._workers.backend import Crew, Reply

__all__ = ["Engine"]

_logger = logging.getLogger("offload.pool")
_monotonic = time.monotonic
_dumps = pickle.dumps
_loads = pickle.loads
_UNSET: Any = object()


class Engine(Shell):
    """One open period of a pool, as its callers see it."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        new_crew: Callable[[Self], Crew],
        modules: set[str],
        *,
        variables: dict[str, ContextVar[Any]],
        observers: tuple[Observer, ...],
    ) -> None:
        super().__init__(name, limits, new_crew, modules)
        self._variables = variables
        self._observers: tuple[Observer, ...] = ()
        self._flights = Flights()
        # Whether `begin` may be tried at all.
        self.takes_short_cut = False
        self.observe(observers)

    def observe(self, observers: tuple[Observer, ...]) -> None:
        """Tell these of all calls that are made from now on."""
        self._observers = observers
        self.takes_short_cut = self.has_descriptors and not self._variables and not self._observers

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
    ) -> Call | None:
        """Begin a call of the usual kind; None: it is of another kind, and `run` takes it.

        Raises:
            OffloadError: it was not admitted.
        """
        if options.max_payload_bytes is not None or target.by_value:
            return None
        if (arguments or keywords) and not is_small(arguments, keywords):
            return None
        if options.timeout is None and options.deadline is None:
            data = _dumps((target.reference.wire, arguments, keywords, None), 5)
        else:
            data = _dumps((target.reference.wire, arguments, keywords, self._meta(options)), 5)
        size = len(data)
        try:
            return self.submit(
                target, (pack_header(size, Kind.CALL, 0, 0, 0) + data, None, size), options
            )
        except OffloadError as error:
            self.failures.note(target.name, error, None)
            raise

    async def value_of(self, call: Call, target: Target) -> Any:
        """Return the result of a call that has ended, or raise what it ended with."""
        try:
            if call.error is not None:
                self._raise(call)
            assert call.reply is not None
            return await self._decode(call.reply, target)
        except Exception as error:
            self.failures.note(target.name, error, call.pid)
            raise

    # --- every other call ---

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
        record = CallRecord(target.name, self.name, _monotonic(), time.time())
        observers = self._observers
        carriers = [] if not observers else self._tell_submitted(observers, record)
        try:
            return await self._run(
                target,
                arguments,
                keywords,
                options,
                started=started,
                record=record,
                carriers=carriers,
            )
        except BaseException as error:
            record.error = error
            if isinstance(error, Exception):
                self.failures.note(target.name, error, record.worker_pid)
            raise
        finally:
            if observers:
                self._tell_ended(observers, record)
            record.error = None  # its traceback refers to this frame

    async def _run(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        *,
        started: Callable[[], object] | None,
        record: CallRecord,
        carriers: list[dict[str, str]],
    ) -> Any:
        if not options.single_flight:  # to share a run takes no place
            self.refuse_early(target)
        meta = self._meta(options, carriers=carriers)
        request = await self._encode(target, arguments, keywords, meta)
        if options.single_flight and request[1] is None:
            key = request[0]
            if carriers:
                # Who wants the same, each within a trace of his own, wants the same.
                key, _, _ = await self._encode(target, arguments, keywords, self._meta(options))
            reply = await self._flights.join(
                key,
                options,
                lambda shared: self._exchange(target, request, shared, None, record),
            )
        else:
            reply = await self._exchange(target, request, options, started, record)
        return await self._decode(reply, target)

    async def _encode(
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        meta: dict[str, Any] | None,
    ) -> Request:
        size_bytes = self.reserve(target, glance_bytes(arguments, keywords))
        try:
            return await encode_request(
                target, arguments, keywords, meta, has_descriptors=self.has_descriptors
            )
        finally:
            self.release(size_bytes)

    async def _decode(self, reply: Reply, target: Target) -> Any:
        kind, flags, body, descriptor = reply
        if kind == Kind.RESULT and not flags & Flag.NOT_INLINE and not target.by_value:
            try:
                return _loads(body)
            except BaseException as error:
                # As `tamed` does, without its frame: this is on the path of each call.
                if not isinstance(error, Exception) and is_of_signal(error):
                    raise
                raise bad_result(target, error) from error
        value = await decode_reply(body, flags, descriptor, target)
        if kind != Kind.RESULT:
            await self._raise_reply(kind, value, target)
        return value

    @staticmethod
    async def _raise_reply(kind: int, detail: Any, target: Target) -> NoReturn:
        is_error = kind == Kind.RAISED and detail[0] is not None
        raise_reply(kind, detail, target, await decode_error(detail[0]) if is_error else None)

    async def _exchange(
        self,
        target: Target,
        request: Request,
        options: ResolvedOptions,
        started: Callable[[], object] | None,
        record: CallRecord,
    ) -> Reply:
        """Have a request run, again where its worker dies and that is wanted; return the reply."""
        crashes_left = options.max_crash_retries
        crash: WorkerCrashedError | None = None
        try:
            while True:
                call = self.submit(target, request, options, started=started)
                started = None  # a future is set running once, however often it is tried
                try:
                    await call.future
                except GeneratorExit:
                    # With its file: it may be sent before somebody comes to take it back.
                    self.dropped(call, request)
                    request = request[0], None, request[2]
                    raise
                except BaseException:
                    self.leave(call)
                    raise
                finally:
                    _note_attempt(record, call)
                if call.error is None:
                    assert call.reply is not None
                    return call.reply
                if crashes_left <= 0 or not isinstance(call.error, WorkerCrashedError):
                    self._raise(call)
                crashes_left -= 1
                if call.error.may_have_run:
                    crash = call.error
        except OffloadError as error:
            # It ran in part before: no error of a later attempt may say that it did not.
            if crash is not None and not error.may_have_run:
                raise crash from error
            raise
        finally:
            crash = None  # its traceback refers to this frame
            if request[1] is not None:
                close_file(request[1], request[2])

    @staticmethod
    def _raise(call: Call) -> NoReturn:
        assert call.error is not None
        try:
            raise call.error
        finally:
            call.error = None  # it refers to this frame by way of its traceback

    def _meta(
        self,
        options: ResolvedOptions,
        window: int | None = None,
        carriers: list[dict[str, str]] | None = None,
    ) -> dict[str, Any] | None:
        """Return what a worker must know of a call beside its function and arguments."""
        timeout, deadline, limit = options.timeout, options.deadline, options.max_payload_bytes
        if (
            timeout is None
            and deadline is None
            and limit is None
            and window is None
            and not carriers
            and not self._variables
        ):
            return None
        meta: dict[str, Any] = {"timeout": timeout}
        if deadline is not None:
            if self.has_descriptors:  # a process of this host, which has the same clock
                meta["deadline"] = deadline
            else:
                left = max(deadline - _monotonic(), 0.0)
                meta["timeout"] = left if timeout is None else min(left, timeout)
        if limit is not None:
            meta["max_payload_bytes"] = limit
        if window is not None:
            meta["window"] = window
        if carriers:
            meta["carriers"] = carriers
        if self._variables:
            meta["context"] = {
                home: value
                for home, variable in self._variables.items()
                if (value := variable.get(_UNSET)) is not _UNSET
            }
        return meta

    # --- streams ---

    async def stream(  # noqa: C901, PLR0912, PLR0915 - one loop, with what must be undone around it
        self,
        target: Target,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        options: ResolvedOptions,
        window: int,
    ) -> AsyncGenerator[Any, None]:
        """Run a generator function on a worker and yield its items as the consumer takes them."""
        record = CallRecord(target.name, self.name, _monotonic(), time.time())
        observers = self._observers
        carriers = [] if not observers else self._tell_submitted(observers, record)
        items: deque[Reply] = deque()
        taken = 0
        is_waiting = is_dropped = False
        try:
            self.refuse_early(target)
            meta = self._meta(options, window, carriers)
            request = await self._encode(target, arguments, keywords, meta)
            try:
                call = self.submit(target, request, options, items)
                try:
                    while items or (call.reply is None and call.error is None):
                        if not items:
                            is_waiting = True
                            await call.future
                            is_waiting = False
                            call.future = call.loop.create_future()
                            continue
                        _, flags, body, descriptor = items.popleft()
                        is_waiting = True
                        value = await decode_reply(body, flags, descriptor, target)
                        is_waiting = False
                        taken += 1
                        # In batches of half a window: the worker never runs dry, and is not sent
                        # a frame for each item.
                        if taken * 2 >= window and call.reply is None and call.worker is not None:
                            self.crew.more(call.worker, Kind.CREDIT, taken.to_bytes(4, "little"))
                            taken = 0
                        yield value
                except BaseException as error:
                    # While an item is awaited it comes of the collector, from Python 3.13 on.
                    is_dropped = is_waiting and isinstance(error, GeneratorExit)
                    call.drop_reply()
                    raise
                finally:
                    _note_attempt(record, call)
                    if is_dropped:
                        self.have_done(call, partial(self._end_stream, call, items, request))
                        # After that: a reply may have come in between.
                        self.have_done(call, call.drop_reply)
                        request = request[0], None, request[2]
                    else:
                        self._end_stream(call, items, (b"", None, 0))
            finally:
                if request[1] is not None:
                    close_file(request[1], request[2])
            if call.error is not None:
                self._raise(call)
            assert call.reply is not None
            kind, flags, body, descriptor = call.reply
            if kind != Kind.END:
                detail = await decode_reply(body, flags, descriptor, target)
                await self._raise_reply(kind, detail, target)
        except BaseException as error:
            record.error = error
            if isinstance(error, Exception):
                self.failures.note(target.name, error, record.worker_pid)
            raise
        finally:
            if observers:
                self._tell_ended(observers, record)
            record.error = None  # its traceback refers to this frame

    def _end_stream(self, call: Call, items: deque[Reply], request: Request) -> None:
        """Free what a stream has, and its worker."""
        if call.state is not TaskState.DONE:
            self.leave_stream(call)
        for _, _, _, descriptor in items:
            if descriptor is not None:
                os.close(descriptor)
        if request[1] is not None:
            close_file(request[1], request[2])

    # --- observers ---

    def _tell_submitted(
        self, observers: tuple[Observer, ...], record: CallRecord
    ) -> list[dict[str, str]]:
        carriers: list[dict[str, str]] = []
        for observer in observers:
            try:
                carrier = observer.submitted(record)
                if carrier:
                    carriers.append(dict(carrier))
            except Exception:  # noqa: BLE001 - it is logged
                log_safely(
                    _logger,
                    logging.ERROR,
                    "an observer of pool %r failed",
                    self.name,
                    exc_info=True,
                    extra={"offload_pool": self.name, "offload_function": record.function},
                )
        return carriers

    def _tell_ended(self, observers: tuple[Observer, ...], record: CallRecord) -> None:
        record.ended_at = _monotonic()
        record.outcome = "completed" if record.error is None else outcome_of(record.error)
        for observer in observers:
            try:
                observer.ended(record)
            except Exception:  # noqa: BLE001 - it is logged
                log_safely(
                    _logger,
                    logging.ERROR,
                    "an observer of pool %r failed",
                    self.name,
                    exc_info=True,
                    extra={"offload_pool": self.name, "offload_function": record.function},
                )


def _note_attempt(record: CallRecord, call: Call) -> None:
    if call.started_at:
        record.attempts += 1
        record.started_at = call.started_at
        record.worker_pid = call.pid

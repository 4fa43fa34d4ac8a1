"""A worker at work: receives a request, runs it, replies, one at a time; ends with its socket."""

from __future__ import annotations

import gc
import os
import sys

from offload._child import context
from offload._child.import_hook import when_imported
from offload._child.task import Failure, leave, prepare, raised
from offload._wire.exceptions import summary, trace
from offload._wire.frames import Flag, Frame, Kind
from offload._wire.large import decode_with_files, encode_large
from offload._wire.lean import contextvars, pickle
from offload._wire.page import CANCEL, RECEIVED, REPLIED, STARTED
from offload._wire.pickling import TooManyBytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from offload._child.connection import Connection
    from offload._child.limits import Limits
    from offload._child.logs import RelayHandler
    from offload._wire.shared_buffers import SharedBuffers

# Room for the header and the pickle's own overhead below the size of a frame.
INLINE_BYTES = 60 * 1024
# This much of an error is told, whatever `max_payload_bytes` is.
LEAST_ERROR_BYTES = 4096
_NONE = pickle.dumps(None, 5)
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Serving:
    """The loop of one worker; see `offload._child.data_serving` for one which sends data only."""

    # What a reply is that nobody reads.
    _nothing = _NONE
    _prepare = staticmethod(prepare)
    _raised = staticmethod(raised)

    def __init__(
        self,
        connection: Connection,
        page: memoryview,
        buffers: SharedBuffers,
        levels: dict[str, int],
        memory_limit_bytes: int | None,
    ) -> None:
        self._connection = connection
        self._levels = levels
        self._relay: RelayHandler | None = None
        context.process.report = self._report
        when_imported("logging", self._relay_logs)
        self._page = page
        self._buffers = buffers
        self._memory_limit_bytes = memory_limit_bytes
        # Whether the server shows on a console what it logs.
        self.has_console = False

    def _relay_logs(self) -> None:
        """Relay what is logged in this process: somebody has imported `logging`."""
        from offload._child.logs import install

        self._relay = install(
            lambda record: self._connection.send_news(Kind.LOG, record), self._levels
        )

    def guard_imports(self) -> Callable[[], None]:
        """Note where log records go; return what undoes what a module has made of that."""
        logging = sys.modules.get("logging")
        before = None if logging is None or self._relay is None else logging.root.handlers[:]

        def undo() -> None:
            if self._relay is not None:
                from offload._child.logs import restore

                restore(self._relay, before)

        return undo

    def guard_relay(self) -> Callable[[], None]:
        """Return what has records go to the server again, whatever an initializer has made of it.

        Handlers of the worker's own stay, but for those that would show on the console what the
        server shows there.
        """

        def undo() -> None:
            if self._relay is not None:
                from offload._child.logs import keep

                keep(self._relay, is_shown=self.has_console)

        return undo

    def _report(self, done: float, total: float | None) -> None:
        body = pickle.dumps((done, total), 5)
        if len(body) > INLINE_BYTES:
            raise ValueError("progress takes one or two numbers, and these are not numbers")
        self._connection.send_news(Kind.PROGRESS, body)

    def run(self) -> None:
        """Serve until the parent closes the socket."""
        while True:
            request = self._connection.receive()
            # CREDIT and CLOSE of a stream that has just ended by itself come late: no answer.
            if request.kind in (Kind.CALL, Kind.STREAM):
                self._serve(request)

    def _serve(self, request: Frame) -> None:  # noqa: C901, PLR0912 - on the path of each task
        page, kind = self._page, request.kind
        number = self._connection.task = self._connection.task + 1
        page[RECEIVED] = number
        load: Callable[[bytes], Any] = pickle.loads
        if request.flags:
            load = self._buffers.load if request.descriptor is None else self._opener(request)
        by_value = False
        limit: int | None = None
        limits: Limits | None = None
        try:
            scope, function, arguments, keywords, meta = self._prepare(load, request.body)
            if meta is not None:
                by_value = "by_value" in meta
                limit = meta.get("max_payload_bytes")
                if "limits" in meta:
                    from offload._child.limits import Limits

                    limits = Limits(*meta["limits"])
            page[STARTED] = number
            # STARTED is written before CANCEL is read, and the parent writes CANCEL before it reads
            # STARTED (`revoke`): if it has told the caller that the function did not run, because
            # STARTED was not set, then CANCEL is seen here, and the function is not entered.
            if page[CANCEL]:
                leave(scope, meta, None)
                self._send(Kind.RESULT, self._nothing)
                return
            try:
                result = scope.run(function, *arguments, **keywords)
            except BaseException as error:
                leave(scope, meta, error)
                raise self._raised(error) from None
            finally:
                # Not one reference more than needed: what the function got and made is freed
                # before the next request, not with it.
                del arguments, keywords
            if kind == Kind.STREAM:
                assert meta is not None
                try:
                    self._stream(scope, result, meta["window"], limit, by_value=by_value)
                finally:
                    leave(scope, meta, sys.exception())
                return
            if meta is not None:
                leave(scope, meta, None)
            self._reply(Kind.RESULT, result, limit, by_value=by_value)
        except Failure as failure:
            if limits is not None:
                limits.lift()
                failure = limits.reply_for(failure)
            self._fail(failure, limit)
        finally:
            if limits is not None:
                limits.lift()

    @staticmethod
    def _opener(request: Frame) -> Callable[[bytes], Any]:
        fd, files = request.take_descriptor(), request.take_files()
        assert fd is not None

        def load(body: bytes) -> Any:
            # The collector would look through a large graph again and again while it grows. Safe
            # here: the function has not been entered, and what there is of it is ours.
            is_collecting = gc.isenabled()
            gc.disable()
            try:
                return decode_with_files(body, fd, files)
            finally:
                if is_collecting:
                    gc.enable()

        return load

    def _stream(
        self,
        scope: contextvars.Context,
        items: Iterator[Any],
        credit: int,
        limit: int | None,
        *,
        by_value: bool,
    ) -> None:
        close: Callable[[], None] = getattr(items, "close", lambda: None)
        try:
            self._send_items(scope, items, credit, limit, by_value=by_value)
        except BaseException:
            # One reply ends a task: a second one, for what the cleaning up raises, would be taken
            # for that of the next task, and the next one's for that of the one after it.
            try:
                scope.run(close)
            except BaseException:  # noqa: S110 - what went wrong first is told
                pass
            raise
        try:
            scope.run(close)
        except BaseException as error:
            raise self._raised(error) from None
        self._send(Kind.END)

    def _send_items(
        self,
        scope: contextvars.Context,
        items: Iterator[Any],
        credit: int,
        limit: int | None,
        *,
        by_value: bool,
    ) -> None:
        is_wanted = True
        while is_wanted:
            try:
                item = scope.run(next, items)
            except StopIteration:
                break
            except BaseException as error:
                raise self._raised(error) from None
            self._reply(Kind.ITEM, item, limit, by_value=by_value)
            del item
            credit -= 1
            while is_wanted and (found := self._news(wait=not credit)) is not None:
                is_wanted = found.kind != Kind.CLOSE
                credit += int.from_bytes(found.body, "little")

    def _news(self, *, wait: bool) -> Frame | None:
        return self._connection.receive() if wait else self._connection.poll()

    def _reply(self, kind: int, value: Any, limit: int | None, *, by_value: bool) -> None:
        """Send a result or an item.

        Raises:
            Failure: it cannot be sent; nothing was.
        """
        try:
            if by_value:
                import cloudpickle

                body, flags, fd = self._buffers.pack_bytes(cloudpickle.dumps(value, 5), limit)
            elif value is None:
                body, flags, fd = _NONE, 0, None
            else:
                body, flags, fd = self._buffers.pack(value, limit)
        except TooManyBytes as error:
            raise Failure(Kind.RESULT_TOO_LARGE, (error.size, limit)) from None
        except BaseException as error:
            failure = Failure(Kind.BAD_RESULT, (summary(error), trace(error)))
            failure.of = type(error)
            raise failure from None
        try:
            self._send(kind, body, flags, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _fail(self, failure: Failure, limit: int | None) -> None:
        # Where memory was short, the memory of this process is in pieces at best.
        flags = Flag.RECYCLE if failure.kind == Kind.OVER_MEMORY else 0
        body = pickle.dumps(failure.detail, 5)
        if limit is not None and len(body) > max(limit, LEAST_ERROR_BYTES):
            body = _shortened(failure, min(max(limit, LEAST_ERROR_BYTES), INLINE_BYTES))
        if len(body) <= INLINE_BYTES:
            self._send(failure.kind, body, flags)
            return
        try:
            body, fd, _ = encode_large(failure.detail)
        except OSError:  # no room for all of it
            self._send(failure.kind, _shortened(failure, INLINE_BYTES), flags)
            return
        try:
            self._send(failure.kind, body, flags | Flag.LARGE, fd)
        finally:
            os.close(fd)

    def _send(self, kind: int, body: bytes = b"", flags: int = 0, fd: int | None = None) -> None:
        limit = self._memory_limit_bytes
        if limit is not None and kind != Kind.ITEM and resident_bytes() > limit:
            flags |= Flag.RECYCLE
        if kind != Kind.ITEM:
            self._page[REPLIED] = self._connection.task
        self._connection.send(kind, body, flags, fd)


def _shortened(failure: Failure, size: int) -> bytes:
    """Return the pickle of texts only, cut; of a traceback, the end says most."""
    texts = [part if isinstance(part, (str, int)) else None for part in failure.detail]
    # Four texts at most, of characters that take four bytes at most.
    most = size // 16
    cut = tuple(part[-most:] if isinstance(part, str) else part for part in texts)
    return pickle.dumps(cut, 5)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, 0 where it cannot be told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0

"""The worker process: receives a request, runs it, replies, one at a time; ends with its socket."""

from __future__ import annotations

import _thread
import gc
import mmap
import os
import sys
import time
from collections import deque

from offload._child import context, functions
from offload._child.functions import install_main
from offload._child.import_hook import when_imported
from offload._child.task import Failure, leave, prepare, raised
from offload._wire.exceptions import summary, trace
from offload._wire.frames import (
    DONT_WAIT,
    SOCKET_BUFFER_BYTES,
    Assembler,
    Flag,
    Kind,
    frame,
    pack_descriptors,
)
from offload._wire.large import decode_with_files, encode_large
from offload._wire.lean import contextvars, pickle, signal, socket
from offload._wire.page import CANCEL, PAGE_BYTES, RECEIVED, REPLIED, STARTED
from offload._wire.payload import Trays
from offload._wire.pickling import TooManyBytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from offload._child.logs import RelayHandler

# Room for the header and the pickle's own overhead below the size of a frame.
_INLINE_BYTES = 60 * 1024
_NONE = pickle.dumps(None, 5)
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


# A worker that is fed call after call looks for the next one for so long before it sleeps. To be
# woken takes 30 to 80 microseconds on an idle core, and costs the event loop's thread, which has to
# send an interrupt to that core, about as much as all else that it does for a call: with this, the
# round trip of a no-op takes a third of the time. It burns nothing where calls come more slowly
# than that, and at the default priority nobody who wants the core waits for it.
_LOOK_SECONDS = 100e-6
_STREAK_SECONDS = 150e-6


class _Gone(BaseException):
    """The parent closed the socket: there is nobody left to work for."""


class Connection:
    """The worker's end of its socket."""

    def __init__(self, endpoint: socket.socket) -> None:
        endpoint.setblocking(True)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self._socket = endpoint
        self._frames = Assembler()
        # A function's own threads log while its result is sent.
        self._lock = _thread.allocate_lock()
        # Those that hold the lock, or wait for it. What such a thread has to tell meanwhile, in a
        # signal handler or a finalizer that logs, is told when it has let go.
        self._senders: set[int] = set()
        self._later: deque[tuple[int, bytes]] = deque()
        self._is_ours = True
        self._is_sending = False
        # How many tasks have come; each frame that we send says so.
        self.task = 0
        # Whether the last frame was not long in coming.
        self._is_fed = False
        os.register_at_fork(after_in_child=self.leave_to_parent)

    def close(self) -> None:
        """Close our end; what is logged by exit hooks goes nowhere."""
        self._is_ours = False
        self._frames.close()
        self._socket.close()

    def receive(self) -> tuple[int, int, bytes, int | None]:
        """Wait for the next frame.

        Raises:
            _Gone: the stream ended.
        """
        found = self._frames.take()
        if found is not None:
            return found
        began = time.monotonic()
        if self._is_fed:
            found = self._look(began + _LOOK_SECONDS)
        while found is None:
            try:
                if not self._frames.receive(self._socket):
                    raise _Gone
            except ConnectionError:
                raise _Gone from None
            found = self._frames.take()
        self._is_fed = time.monotonic() - began < _STREAK_SECONDS
        return found

    def _look(self, end: float) -> tuple[int, int, bytes, int | None] | None:
        receive, take, endpoint, monotonic = (
            self._frames.receive,
            self._frames.take,
            self._socket,
            time.monotonic,
        )
        while monotonic() < end:
            try:
                if not receive(endpoint, DONT_WAIT):
                    raise _Gone
            except BlockingIOError:
                continue
            except ConnectionError:
                raise _Gone from None
            if (found := take()) is not None:
                return found
        return None

    def poll(self) -> tuple[int, int, bytes, int | None] | None:
        """Return the next frame if one has arrived."""
        if (found := self._frames.take()) is not None:
            return found
        try:
            if not self._frames.receive(self._socket, DONT_WAIT):
                raise _Gone
        except BlockingIOError:
            return None
        except ConnectionError:
            raise _Gone from None
        return self._frames.take()

    def files(self) -> list[int]:
        """Return the descriptors beside the frame that was received last; its receiver's now."""
        files, self._frames.files = self._frames.files, []
        return files

    def send(self, kind: int, body: bytes = b"", flags: int = 0, fd: int | None = None) -> None:
        """Send one frame whole, with a descriptor beside it if there is one."""
        if not self._is_ours:
            # A child that the function has forked, and that returned from it as well.
            raise _Gone
        data = frame(kind, body, flags, task=self.task)
        thread = _thread.get_ident()
        self._senders.add(thread)
        try:
            with self._lock:
                self._is_sending = True
                if fd is None:
                    self._socket.sendall(data)
                else:
                    sent = self._socket.sendmsg([data], pack_descriptors(fd))
                    if sent < len(data):
                        self._socket.sendall(data[sent:])
                self._is_sending = False
        except ConnectionError:
            raise _Gone from None
        except BaseException:
            # Of a signal handler that the function has installed. If part of the frame was sent,
            # whatever followed would be taken for the rest of it: better to end.
            if self._is_sending:
                self._socket.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            self._senders.discard(thread)
        while self._later:
            try:
                news = self._later.popleft()
            except IndexError:  # another thread was faster
                return
            self.send(*news)

    def send_news(self, kind: int, body: bytes) -> None:
        """Send what is no reply; nothing in a process that the function has forked."""
        if not self._is_ours:
            return
        if _thread.get_ident() in self._senders:
            self._later.append((kind, body))
        else:
            self.send(kind, body)

    def leave_to_parent(self) -> None:
        """Let go of the socket: this is a forked child of the worker, and speaks for nobody."""
        self._is_ours = False
        self._socket.close()


class Serving:
    """The loop of one worker."""

    def __init__(
        self,
        connection: Connection,
        page: memoryview,
        trays: Trays,
        levels: dict[str, int],
        memory_limit_bytes: int | None,
    ) -> None:
        self._connection = connection
        self._levels = levels
        self._relay: RelayHandler | None = None
        context.process.report = self._report
        when_imported("logging", self._relay_logs)
        self._page = page
        self._trays = trays
        self._memory_limit_bytes = memory_limit_bytes

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

    def _report(self, done: float, total: float | None) -> None:
        self._connection.send_news(Kind.PROGRESS, pickle.dumps((done, total), 5))

    def run(self) -> None:
        """Serve until the parent closes the socket."""
        while True:
            kind, flags, body, fd = self._connection.receive()
            # CREDIT and CLOSE of a stream that has just ended by itself come late: no answer.
            if kind in (Kind.CALL, Kind.STREAM):
                self._serve(kind, body, flags, fd)

    def _serve(self, kind: int, body: bytes, flags: int, fd: int | None) -> None:
        page = self._page
        number = self._connection.task = self._connection.task + 1
        page[RECEIVED] = number
        load: Callable[[bytes], Any] = pickle.loads
        if flags:
            load = self._trays.load if fd is None else self._opener(fd)
        by_value = False
        limit: int | None = None
        try:
            scope, function, arguments, keywords, meta = prepare(load, body)
            if meta is not None:
                by_value = "by_value" in meta
                limit = meta.get("max_payload_bytes")
            page[STARTED] = number
            # In this order: see `revoke` of the parent, which has told the caller that it did not
            # run if it has set the one and not found the other.
            if page[CANCEL]:
                leave(scope, meta, None)
                self._send(Kind.RESULT, _NONE)
                return
            try:
                result = scope.run(function, *arguments, **keywords)
            except BaseException as error:
                leave(scope, meta, error)
                raise raised(error) from None
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
            self._fail(failure)

    def _opener(self, fd: int) -> Callable[[bytes], Any]:
        files = self._connection.files()

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
            raise raised(error) from None
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
                raise raised(error) from None
            self._reply(Kind.ITEM, item, limit, by_value=by_value)
            del item
            credit -= 1
            while is_wanted and (found := self._news(wait=not credit)) is not None:
                kind, _, body, _ = found
                is_wanted = kind != Kind.CLOSE
                credit += int.from_bytes(body, "little")

    def _news(self, *, wait: bool) -> tuple[int, int, bytes, int | None] | None:
        return self._connection.receive() if wait else self._connection.poll()

    def _reply(self, kind: int, value: Any, limit: int | None, *, by_value: bool) -> None:
        """Send a result or an item.

        Raises:
            Failure: it cannot be sent; nothing was.
        """
        try:
            if by_value:
                import cloudpickle

                body, flags, fd = self._trays.pack_bytes(cloudpickle.dumps(value, 5), limit)
            elif value is None:
                body, flags, fd = _NONE, 0, None
            else:
                body, flags, fd = self._trays.pack(value, limit)
        except TooManyBytes as error:
            raise Failure(Kind.RESULT_TOO_LARGE, (error.size, limit)) from None
        except BaseException as error:
            raise Failure(Kind.BAD_RESULT, (summary(error), trace(error))) from None
        try:
            self._send(kind, body, flags, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _fail(self, failure: Failure) -> None:
        body = pickle.dumps(failure.detail, 5)
        if len(body) <= _INLINE_BYTES:
            self._send(failure.kind, body)
            return
        try:
            body, fd, _ = encode_large(failure.detail)
        except OSError:
            # No room for all of it: its text, of which the end says most.
            texts = [part if isinstance(part, str) else "" for part in failure.detail]
            cut = tuple(text[-_INLINE_BYTES // 16 :] or None for text in texts)
            self._send(failure.kind, pickle.dumps(cut, 5))
            return
        try:
            self._send(failure.kind, body, Flag.LARGE, fd)
        finally:
            os.close(fd)

    def _send(self, kind: int, body: bytes = b"", flags: int = 0, fd: int | None = None) -> None:
        limit = self._memory_limit_bytes
        if limit is not None and kind != Kind.ITEM and resident_bytes() > limit:
            flags |= Flag.RECYCLE
        if kind != Kind.ITEM:
            self._page[REPLIED] = self._connection.task
        self._connection.send(kind, body, flags, fd)


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes, 0 where it cannot be told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def reset_signals() -> None:
    """Make signals what a worker needs, whatever the parent made of them."""
    # A wakeup descriptor that came with a fork would tell the *parent's* loop of our signals
    # (bpo-43064: terminating a child shut the server down).
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in ("SIGCHLD", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(socket_fd: int, page_fd: int, settings: dict[str, Any]) -> None:
    """Serve one parent over an inherited socket, then run exit hooks and return.

    Args:
        socket_fd: our end of the socketpair.
        page_fd: a file of one page, shared with the parent.
        settings: what the supervisor was given for its workers.
    """
    reset_signals()
    connection = Connection(socket.socket(fileno=socket_fd))
    shared = mmap.mmap(page_fd, 0)
    page = memoryview(shared)[:PAGE_BYTES].cast("Q")
    os.close(page_fd)
    context.process.is_worker = True
    context.process.page = page
    try:
        try:
            if settings["preload_error"]:
                connection.send(
                    Kind.START_FAILED, settings["preload_error"].encode(errors="backslashreplace")
                )
                return
            _, _, body, _ = connection.receive()
            modules, levels = pickle.loads(body)
            serving = Serving(
                connection, page, Trays(shared, page), levels, settings["max_memory_bytes"]
            )
            functions.guard_imports = serving.guard_imports
            prepare_process(settings, modules)
        except _Gone:
            raise
        except BaseException as error:
            connection.send(
                Kind.START_FAILED, trace(error).encode(errors="backslashreplace")[-32768:]
            )
            return
        connection.send(Kind.READY, os.getpid().to_bytes(8, "little"))
        serving.run()
    except _Gone:
        pass
    finally:
        connection.close()


def prepare_process(settings: dict[str, Any], modules: list[str]) -> None:
    """Run the initializer and import what the pool's functions need."""
    install_main(settings["main"])
    if settings["initializer"] is not None:
        initializer, arguments = pickle.loads(settings["initializer"])
        initializer(*arguments)
    import importlib

    undo = functions.guard_imports()
    for module in modules:
        # Warmth only: one that fails to import fails the calls that need it, with its reason.
        try:
            if ":" in module:
                from offload._child.resource import load

                load(module)
            else:
                importlib.import_module(module)
        except BaseException:  # sys.exit() included
            sys.modules.pop(module, None)
    undo()

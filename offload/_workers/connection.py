"""One worker process as its parent sees it: its socket, its page of memory, its place on a loop."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import struct
import threading
from typing import TYPE_CHECKING, Any, Protocol

from offload._decisions.dispatch import Worker
from offload._wire.frames import Assembler, Flag, Kind, pack_descriptors
from offload._wire.payload import take_tray
from offload._workers.keeper import keeper
from offload._workers.logs import log_safely, relay

if TYPE_CHECKING:
    import asyncio
    import mmap
    import socket
    from collections.abc import Sequence

    from offload._workers.backend import Reply

    class Crew(Protocol):
        """Whose worker it is; called on the keeper's thread."""

        def lost(self, worker: ProcessWorker) -> None:
            """Take note that a worker's socket has ended."""
            ...

        def recovered(self, worker: ProcessWorker) -> None:
            """Take note that an abandoned worker has ended its task by itself."""
            ...

        def kill(self, worker: ProcessWorker) -> None:
            """End a worker that cannot be relied upon."""
            ...


__all__ = ["Binding", "ProcessWorker"]

_logger = logging.getLogger("offload.workers")

_WORD = struct.Struct("=Q")


class ProcessWorker(Worker):
    """One worker process: its process, its socket, its page of shared memory."""

    __slots__ = (
        "binding",
        "endpoint",
        "frames",
        "has_ended",
        "has_ended_task",
        "is_closing",
        "is_told",
        "last",
        "number",
        "page",
        "pid",
        "reading",
        "sent",
        "timer",
        "why",
    )

    def __init__(self, number: int, endpoint: socket.socket, page: mmap.mmap) -> None:
        super().__init__()
        self.number = number
        self.endpoint = endpoint
        self.page = page
        self.pid: int | None = None
        self.binding: Binding | None = None
        # Of the worker, not of a binding: a thread of a function logs when it likes, and a record
        # may be half read when the worker goes to another loop.
        self.frames = Assembler()
        self.reading = threading.Lock()
        self.sent = 0
        # The call that was sent last: `task` is set before that, on another thread than the one
        # that may be about to report the worker's end.
        self.last: Any = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_closing = False
        # Whether it has ended, so that its process id may be another's; its report is on its way.
        self.has_ended = False
        # Whether the stop of its abandoned task has come to the keeper, and whether that task has
        # ended before it did.
        self.is_told = False
        self.has_ended_task = False
        # Why we kill it, if that is for its own fault or ours.
        self.why = ""

    def __repr__(self) -> str:
        return f"<worker {self.number} pid={self.pid} {self.state.value}>"

    def word(self, mark: int) -> int | None:
        """Return a word of the page; None if another thread has closed that."""
        try:
            return int(_WORD.unpack_from(self.page, mark * _WORD.size)[0])
        except ValueError:
            return None

    def set_word(self, mark: int, value: int) -> None:
        """Set a word of the page, unless another thread has closed that: the worker has ended."""
        # Of a closed page, `pack_into` raises TypeError where `unpack_from` raises ValueError.
        with contextlib.suppress(ValueError, TypeError):
            _WORD.pack_into(self.page, mark * _WORD.size, value)

    def has_reached(self, mark: int) -> bool:
        """Return whether the worker has passed a mark of its task."""
        number = self.word(mark)
        return number is not None and bool(self.last is self.task and number >= self.sent > 0)


class Binding:
    """A worker's socket on one event loop: a persistent reader, and a writer when it must be."""

    __slots__ = ("crew", "endpoint", "is_open", "loop", "pending", "worker")

    def __init__(self, crew: Crew, worker: ProcessWorker, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = False  # if the next lines fail
        self.crew = crew
        self.worker = worker
        self.loop = loop
        # A descriptor of its own, so that each loop registers and unregisters a number that no
        # other loop has in its books when a worker moves from one loop to another.
        self.endpoint = worker.endpoint.dup()
        self.pending = b""
        self.is_open = True
        # A handle has the context that it was made in: that of the first call, for the worker's
        # life, with all that its request holds.
        contextvars.Context().run(loop.add_reader, self.endpoint.fileno(), self._read)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send without blocking; what does not fit follows when there is room.

        Raises:
            ConnectionError: the worker is dead.
        """
        if self.pending:
            if descriptors:
                # It would be lost: what follows later is bytes only. An idle worker has an empty
                # socket, so this one cannot be idle.
                raise ConnectionAbortedError
            self.pending += data
            return
        try:
            if not descriptors:
                sent = self.endpoint.send(data)
            else:
                sent = self.endpoint.sendmsg([data], pack_descriptors(*descriptors))
        except BlockingIOError:
            if descriptors:
                raise ConnectionAbortedError from None
            sent = 0
        if sent < len(data):
            self.pending = data[sent:]
            self.loop.add_writer(self.endpoint.fileno(), self._write)

    def _write(self) -> None:
        try:
            sent = self.endpoint.send(self.pending)
        except BlockingIOError:
            return
        except OSError:
            self.pending = b""
        else:
            self.pending = self.pending[sent:]
        if not self.pending:
            self.loop.remove_writer(self.endpoint.fileno())

    def _read(self) -> bool:  # noqa: C901, PLR0912 - on the path of each reply: a call costs more
        """Read once and hand over what came; False if there was nothing to read."""
        worker = self.worker
        replies: list[tuple[Reply, int]] = []
        with worker.reading:
            # What comes now may be for the loop that the worker has moved to. A loop that handles
            # its events before its callbacks (uvloop) comes here before it comes to `close`.
            if not self.is_open or worker.binding is not self:
                return False
            frames = worker.frames
            failure: OSError | None = None
            try:
                is_alive = frames.receive(self.endpoint)
            except BlockingIOError:
                return False
            except OSError as error:
                is_alive, failure = False, error
            else:
                while (reply := frames.take()) is not None:
                    if reply[1] & Flag.TRAY:
                        # Now: the worker that is given its next call may put something else there,
                        # and the keeper closes the page of one that has ended.
                        reply = (*reply[:2], take_tray(worker.page, reply[2]), None)
                    replies.append((reply, frames.task))
        if not is_alive:
            self.close()
            keeper.post(self.crew.lost, worker)
            if failure is not None:
                # A dead worker; or our own limit of open files, which cost us a descriptor.
                log_safely(
                    _logger,
                    logging.DEBUG if isinstance(failure, ConnectionError) else logging.ERROR,
                    "the socket of %r failed and is given up: %r",
                    worker,
                    failure,
                    extra={"offload_pid": worker.pid},
                )
            return False
        records: list[bytes] | None = None
        for reply, number in replies:
            task: Any = worker.task
            if reply[0] == Kind.LOG:
                records = [] if records is None else records
                records.append(reply[2])
            elif task is not None and number == worker.sent:
                task.take(reply)
                if self.worker.last is task and reply[0] < Kind.ITEM:
                    self.worker.last = None  # an idle worker keeps no megabytes, nor open files
            else:
                self._discard(reply)
        if records is not None:
            # Not here: handlers write to files and sockets. And together: each post to another
            # thread lets that have the GIL, for milliseconds at a time.
            keeper.post(relay.post, records)
        return True

    def drain(self) -> None:
        """Read what a worker that has ended still left in its socket."""
        # Until there is nothing, not until the end of the stream: a grandchild may hold the other
        # end open.
        while self._read():
            pass

    def _discard(self, reply: Reply) -> None:
        """Drop what is not for the worker's task, if it has one."""
        kind, _, _, descriptor = reply
        if descriptor is not None:
            os.close(descriptor)
        if kind >= Kind.ITEM:
            return
        if self.worker.task is None:
            keeper.post(self.crew.recovered, self.worker)
        else:
            # A second reply to an earlier task: by code of that task, or by a slip of ours. The
            # caller of the present one gets no other's result; it gets that its worker has died.
            keeper.post(self.crew.kill, self.worker)
            log_safely(
                _logger,
                logging.ERROR,
                "%r replied twice to one task, and is killed",
                self.worker,
                extra={"offload_pid": self.worker.pid},
            )

    def close(self) -> None:
        """Leave the loop; on the loop's thread, or after the loop was closed."""
        if not self.is_open:
            return
        self.is_open = False
        if self.worker.binding is self:
            self.worker.binding = None
        if not self.loop.is_closed():
            self.loop.remove_reader(self.endpoint.fileno())
            self.loop.remove_writer(self.endpoint.fileno())
        self.endpoint.close()

    def __del__(self) -> None:
        """Close what was to be closed on a loop that was closed itself before it came to that."""
        if self.is_open and self.loop.is_closed():
            self.close()

    def close_from_anywhere(self) -> None:
        """Leave the loop, from any thread."""
        if self.loop.is_closed():
            self.close()
            return
        try:
            self.loop.call_soon_threadsafe(self.close)
        except RuntimeError:
            self.close()

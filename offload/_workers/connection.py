"""A worker's socket, and its place on the event loop that used the worker last.

A worker serves any event loop of the process, one after the other. Its socket has one persistent
reader, on the loop of its last task; when a task of another loop comes, the socket moves there.

Two threads may be at it meanwhile: that of the new loop, which has just sent, and that of the old
one, which comes to `close` when it comes to that and may see the socket readable before. Hence the
lock: whoever reads holds it, and reads only if the socket is still his. The bytes of a frame that
was half read on the one loop are kept by the socket, and read on on the other.
"""

from __future__ import annotations

import contextlib
import contextvars
import socket as sockets
import struct
import threading
from typing import TYPE_CHECKING

from offload._wire.frames import Flag, pack_descriptors
from offload._wire.shared_buffers import read_reply

if TYPE_CHECKING:
    import asyncio
    import mmap
    from collections.abc import Callable, Sequence

    from offload._wire.frames import Frame
    from offload._workers.wary_assembler import WaryAssembler

    Deliver = Callable[[list[Frame]], None]
    Lost = Callable[["OSError | None"], None]

__all__ = ["WorkerConnection", "WorkerPage", "WorkerSocket"]

_WORD = struct.Struct("=Q")
# How many frames are taken before the event loop turns: three microseconds each, where a worker
# has sent thousands of small ones at once.
_MOST_FRAMES = 200


class WorkerPage:
    """The memory that a worker shares with us. The keeper closes it when the worker has ended."""

    __slots__ = ("memory",)

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory

    def word(self, mark: int) -> int | None:
        """Return a word; None if another thread has closed the page."""
        try:
            return int(_WORD.unpack_from(self.memory, mark * _WORD.size)[0])
        except ValueError:
            return None

    def set_word(self, mark: int, value: int) -> None:
        """Set a word, unless another thread has closed the page: the worker has ended."""
        # Of a closed page, `pack_into` raises TypeError where `unpack_from` raises ValueError.
        with contextlib.suppress(ValueError, TypeError):
            _WORD.pack_into(self.memory, mark * _WORD.size, value)


class WorkerSocket:
    """Our end of a worker's socket; `connection` is its place on a loop, if it has one."""

    __slots__ = ("connection", "endpoint", "frames", "page", "reading")

    def __init__(self, endpoint: sockets.socket, page: WorkerPage, frames: WaryAssembler) -> None:
        self.endpoint = endpoint
        self.page = page
        self.connection: WorkerConnection | None = None
        # Here and not in the connection: a thread that a function has left behind logs when it
        # likes, and its record may be half read when the worker goes to another loop.
        self.frames = frames
        self.reading = threading.Lock()

    def connect(
        self, loop: asyncio.AbstractEventLoop, deliver: Deliver, lost: Lost
    ) -> WorkerConnection:
        """Move to the loop of this thread.

        Raises:
            OSError: we may not open more descriptors.
        """
        if self.connection is not None:
            self.connection.close_from_anywhere()
        with self.reading:
            connection = self.connection = WorkerConnection(self, loop, deliver, lost)
        return connection

    def shut(self) -> None:
        """Show the worker the end of the stream, which is its sign to end."""
        # Not close: another descriptor of the same socket may be open, on an event loop.
        with contextlib.suppress(OSError):
            self.endpoint.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and the page, which nobody reads from then on, on whatever thread."""
        with self.reading:
            connection, self.connection = self.connection, None
            self.frames.close()
            self.endpoint.close()
            self.page.memory.close()
        if connection is not None:
            connection.close_from_anywhere()

    def forget(self) -> None:
        """Close our descriptors, in a forked copy of this process.

        They would keep the worker from seeing the end of the process that it works for.
        """
        if self.connection is not None:
            self.connection.endpoint.close()
        self.endpoint.close()


class WorkerConnection:
    """A worker's socket on one event loop: a persistent reader, and a writer when it must be."""

    __slots__ = (
        "_deliver",
        "_is_behind",
        "_lost",
        "endpoint",
        "is_open",
        "loop",
        "pending",
        "socket",
    )

    def __init__(
        self, socket: WorkerSocket, loop: asyncio.AbstractEventLoop, deliver: Deliver, lost: Lost
    ) -> None:
        self.is_open = False  # if the next lines fail
        # Whether more frames came than were taken at once.
        self._is_behind = False
        self.socket = socket
        self.loop = loop
        self._deliver = deliver
        self._lost = lost
        # A descriptor of its own, so that each loop registers and unregisters a number that no
        # other loop has in its books when a worker moves from one loop to another.
        self.endpoint = socket.endpoint.dup()
        self.pending = b""
        self.is_open = True
        # A handle runs in the context that it was made in. Without this it would be that of the
        # first call, with all that its request holds, for the worker's life.
        contextvars.Context().run(loop.add_reader, self.endpoint.fileno(), self.read)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send without blocking; what does not fit follows when there is room.

        Raises:
            ConnectionError: the worker is dead.
        """
        if self.pending:
            if descriptors:
                # They would be lost: what follows later is bytes only. An idle worker has an empty
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

    def read(self) -> bool:
        """Read once and deliver what came; False if there was nothing to read."""
        socket = self.socket
        received: list[Frame] = []
        failure: OSError | None = None
        with socket.reading:
            # What comes now may be for the loop that the worker has moved to. A loop that handles
            # its events before its callbacks (uvloop) comes here before it comes to `close`.
            if not self.is_open or socket.connection is not self:
                return False
            frames = socket.frames
            try:
                is_alive = self._is_behind or frames.receive(self.endpoint)
                self._is_behind = False
                while (frame := frames.take()) is not None:
                    if frame.flags & Flag.SHARED:
                        # At once: the worker that is given its next task may put something else
                        # there, and the keeper closes the page of one that has ended.
                        frame.body = read_reply(socket.page.memory, frame.body)
                    received.append(frame)
                    if not frames.buffer and not frames.fds:
                        break  # nearly always: one reply, and nothing after it
                    if len(received) >= _MOST_FRAMES:
                        self._is_behind = True
                        self.loop.call_soon(self.read)
                        break
            except BlockingIOError:
                return False
            except OSError as error:
                is_alive, failure = False, error
        if not is_alive:
            for frame in received:
                frame.close()
            self.close()
            self._lost(failure)
            return False
        self._deliver(received)
        return True

    def drain(self) -> None:
        """Read what a worker that has ended still left in its socket."""
        # Until there is nothing, not until the end of the stream: a grandchild may hold the other
        # end open.
        while self.read():
            pass

    def close(self) -> None:
        """Leave the loop; on the loop's thread, or after the loop was closed."""
        if not self.is_open:
            return
        self.is_open = False
        if self.socket.connection is self:
            self.socket.connection = None
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

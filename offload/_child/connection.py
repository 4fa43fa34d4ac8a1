"""The worker's end of its socket."""

from __future__ import annotations

import _thread
import os
import time
from collections import deque

from offload._wire.frames import (
    DONT_WAIT,
    SOCKET_BUFFER_BYTES,
    Assembler,
    Frame,
    pack_descriptors,
    pack_frame,
)
from offload._wire.lean import socket

__all__ = ["Connection", "Gone"]

# How long a busy worker looks for its next call before it sleeps. To be woken takes 30 to 80
# microseconds on an idle core, and costs the event loop's thread, which has to send an interrupt to
# that core, about as much as all else that it does for a call: without the sleep, the round trip of
# a no-op takes a third of the time. Where calls come more slowly than that it costs nothing, and at
# the default priority no other process waits for it.
_LOOK_SECONDS = 100e-6
_STREAK_SECONDS = 150e-6


class Gone(BaseException):
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
        # The threads that hold the lock, or wait for it. A signal handler or a finalizer may log on
        # such a thread, which would then wait for itself: its record is sent when the thread has
        # let the lock go.
        self._senders: set[int] = set()
        self._later: deque[tuple[int, bytes, int]] = deque()
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

    def receive(self) -> Frame:
        """Wait for the next frame.

        Raises:
            Gone: the stream ended.
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
                    raise Gone
            except ConnectionError:
                raise Gone from None
            found = self._frames.take()
        self._is_fed = time.monotonic() - began < _STREAK_SECONDS
        return found

    def _look(self, end: float) -> Frame | None:
        receive, take, endpoint, monotonic = (
            self._frames.receive,
            self._frames.take,
            self._socket,
            time.monotonic,
        )
        while monotonic() < end:
            try:
                if not receive(endpoint, DONT_WAIT):
                    raise Gone
            except BlockingIOError:
                continue
            except ConnectionError:
                raise Gone from None
            if (found := take()) is not None:
                return found
        return None

    def poll(self) -> Frame | None:
        """Return the next frame if one has arrived."""
        if (found := self._frames.take()) is not None:
            return found
        try:
            if not self._frames.receive(self._socket, DONT_WAIT):
                raise Gone
        except BlockingIOError:
            return None
        except ConnectionError:
            raise Gone from None
        return self._frames.take()

    def send(self, kind: int, body: bytes = b"", flags: int = 0, fd: int | None = None) -> None:
        """Send one frame whole, with a descriptor beside it if there is one."""
        if not self._is_ours:
            # A child that the function has forked, and that returned from it as well.
            raise Gone
        data = pack_frame(kind, body, flags, task=self.task)
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
            raise Gone from None
        except BaseException:
            # A signal handler that the function has installed has raised. If part of the frame was
            # sent, the next one would be taken for the rest of it: the worker must end instead.
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

    def send_news(self, kind: int, body: bytes, flags: int = 0) -> bool:
        """Send what is no reply; nothing, and False, in a process that the function has forked."""
        if not self._is_ours:
            return False
        if _thread.get_ident() in self._senders:
            self._later.append((kind, body, flags))
        else:
            self.send(kind, body, flags)
        return True

    def leave_to_parent(self) -> None:
        """Let go of the socket: this is a forked child of the worker, and speaks for nobody."""
        self._is_ours = False
        self._socket.close()

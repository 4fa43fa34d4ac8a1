"""Who waits for jobs or events is told after each commit: in this process, and in all others.

Each process that listens has datagram sockets in a directory beside the file; whoever commits
sends to all of them. Nothing depends on a datagram: claimers also look by themselves, if seldom,
and an event is a hint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import socket
import stat
import tempfile
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._sqlite.replies import TimedOut, new_reply
from offload.jobs._sqlite.transaction import ANY_FUNCTION
from offload.jobs._values import EventKind, JobEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Self

    from offload.jobs._sqlite.replies import Reply
    from offload.jobs._values import Wanted

__all__ = ["Bell", "Hub", "Listener", "Ringer", "bell_directory"]

CLAIMS: Final = ".claims"
EVENTS: Final = ".events"

HAS_SOCKETS: Final = hasattr(socket, "AF_UNIX") and os.name == "posix"
# Of a path in an address: 108 with its zero on Linux, 104 elsewhere. A name of ours takes 32.
_MAX_DIRECTORY: Final = 103 - 33
# Far below what a socket takes at once.
_MAX_DATAGRAM: Final = 32 << 10
_EVENTS_PER_DATAGRAM: Final = 64
_MAX_BUFFERED: Final = 10_000
_FOR_EVER: Final = 86_400.0
# What `recv` returns once the socket is shut down.
_STOP: Final = b""
# All may have changed.
_ANYTHING: Final = b"*"

_logger = logging.getLogger("offload.jobs")


def bell_directory(path: str) -> str:
    """Return where the sockets are of those who have the file open; it need not exist.

    Beside the file, so that containers which share its volume share them; where that makes a path
    that is too long for a socket, in the directory for temporary files.
    """
    path = os.path.realpath(path)
    directory = path + "-bells"
    if len(os.fsencode(directory)) <= _MAX_DIRECTORY:
        return directory
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return os.path.join(tempfile.gettempdir(), f"offload-bells-{digest}")


class Hub:
    """Those who wait in this process, on any loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimers: dict[Reply[None], Wanted] = {}
        self._listeners: set[Listener] = set()
        self.is_closed = False

    def ring(self, rings: Collection[tuple[str, str]] | None) -> None:
        """Wake claimers that want jobs of these queues and functions; None: all of them."""
        with self._lock:
            if not self._claimers:
                return
            woken = [
                reply
                for reply, wanted in self._claimers.items()
                if rings is None or any(_is_wanted(wanted, *ring) for ring in rings)
            ]
        for reply in woken:
            reply.post(None, None)

    def tell(self, events: Iterable[JobEvent] | None) -> None:
        """Give events to listeners; None: some were missed."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener.tell((JobEvent(EventKind.MISSED),) if events is None else events)

    def close(self) -> None:
        """Wake everybody for good."""
        with self._lock:
            self.is_closed = True
            listeners = tuple(self._listeners)
        self.ring(None)
        for listener in listeners:
            listener.close()

    def add_listener(self, listener: Listener) -> None:
        """Give events to `listener`."""
        with self._lock:
            self._listeners.add(listener)
            is_closed = self.is_closed
        if is_closed:
            # Closed while the caller was on its way here: nobody else would end it.
            listener.close()

    def remove_listener(self, listener: Listener) -> None:
        """Give it no more."""
        with self._lock:
            self._listeners.discard(listener)

    def new_claimer(self, wanted: Wanted) -> Claimer:
        """Return a context in which rings for `wanted` are heard."""
        return Claimer(self, wanted)

    def expect(self, reply: Reply[None], wanted: Wanted) -> None:
        """Have `reply` posted at the next ring for `wanted`."""
        with self._lock:
            self._claimers[reply] = wanted

    def forget(self, reply: Reply[None]) -> None:
        """Expect it no more."""
        with self._lock:
            self._claimers.pop(reply, None)


class Claimer:
    """One who waits for jobs. A ring between entering and `wait` is not missed."""

    def __init__(self, hub: Hub, wanted: Wanted) -> None:
        self._hub = hub
        self._wanted = wanted
        self._reply: Reply[None] = new_reply()

    def __enter__(self) -> Self:
        self._hub.expect(self._reply, self._wanted)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.forget(self._reply)

    async def wait(self, seconds: float) -> None:
        """Wait for a ring, or for `seconds`."""
        if self._hub.is_closed:
            return
        with contextlib.suppress(TimedOut):
            await self._reply.wait(seconds)


class Listener:
    """One who listens to events: an async iterator."""

    def __init__(self, ids: Collection[str] | None) -> None:
        self._ids = None if ids is None else frozenset(ids)
        self._lock = threading.Lock()
        self._events: deque[JobEvent] = deque()
        self._reply: Reply[None] | None = None
        self._is_closed = False

    def tell(self, events: Iterable[JobEvent]) -> None:
        """Take those events that it listens to; on any thread."""
        wanted = [
            event
            for event in events
            if self._ids is None or event.id in self._ids or event.kind is EventKind.MISSED
        ]
        if not wanted:
            return
        with self._lock:
            if len(self._events) + len(wanted) > _MAX_BUFFERED:
                self._events.clear()
                wanted = [JobEvent(EventKind.MISSED)]
            self._events.extend(wanted)
            reply, self._reply = self._reply, None
        if reply is not None:
            reply.post(None, None)

    def close(self) -> None:
        """End the iteration once it has returned what there is; on any thread."""
        with self._lock:
            self._is_closed = True
            reply, self._reply = self._reply, None
        if reply is not None:
            reply.post(None, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        while True:
            with self._lock:
                if self._events:
                    return self._events.popleft()
                if self._is_closed:
                    raise StopAsyncIteration
                reply = self._reply = new_reply()
            with contextlib.suppress(TimedOut):
                await reply.wait(_FOR_EVER)


def _is_wanted(wanted: Wanted, queue: str, function: str) -> bool:
    return queue in wanted.queues and (function == ANY_FUNCTION or function in wanted.functions)


class Bell:
    """One socket of this process, and the thread that listens to it."""

    def __init__(
        self,
        directory: str,
        suffix: str,
        heard: Callable[[bytes], None],
        own: Callable[[str], None],
    ) -> None:
        self._heard = heard
        name = f"{os.getpid()}-{secrets.token_hex(6)}{suffix}"
        own(name)
        self._path = os.path.join(directory, name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(self._path)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._run, name="offload-jobs-bell", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                datagram = self._socket.recv(_MAX_DATAGRAM * 2)
            except OSError:
                return
            if datagram == _STOP:
                return
            try:
                self._heard(datagram)
            except Exception:
                _logger.debug("a datagram made no sense: %r", datagram[:100], exc_info=True)

    def close(self) -> None:
        """End the thread and remove the socket."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        # Closing a socket does not wake a thread that reads from it; this does.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._thread.join(1.0)
        self._socket.close()

    def close_inherited(self) -> None:
        """Close what a forked child has of the parent's socket."""
        self._socket.close()


class Ringer:
    """Tells this process and all others what was committed; used by the writer thread only."""

    def __init__(self, path: str, hub: Hub) -> None:
        self._hub = hub
        self._path = path
        self.directory = bell_directory(path)
        self._own: set[str] = set()
        self._socket: socket.socket | None = None
        # Those who could not take a datagram: they are told that they have missed some.
        self._owed: set[str] = set()

    def add_own(self, name: str) -> None:
        """Do not send to this socket of our own; any thread."""
        self._own.add(name)

    def ring(self, rings: Collection[tuple[str, str]], events: list[JobEvent]) -> None:
        """Tell what has changed."""
        if not rings and not events:
            return
        # Other processes first: for them it takes longer.
        if HAS_SOCKETS:
            self._ring_others(rings, events)
        if rings:
            self._hub.ring(rings)
        if events:
            self._hub.tell(events)

    def _ring_others(self, rings: Collection[tuple[str, str]], events: list[JobEvent]) -> None:
        if not is_trusted(self.directory, self._path):  # or nobody listens
            return
        try:
            names = os.listdir(self.directory)
        except OSError:
            return
        datagrams: dict[str, list[bytes]] = {}
        for name in names:
            suffix = os.path.splitext(name)[1]
            if name in self._own or suffix not in (CLAIMS, EVENTS):
                continue
            if suffix not in datagrams:
                datagrams[suffix] = _encode(rings if suffix == CLAIMS else events)
            for datagram in datagrams[suffix]:
                self._send(name, datagram)

    def ring_again(self) -> bool:
        """Tell those whose sockets were full, and return whether some still are."""
        owed, self._owed = self._owed, set()
        for name in owed:
            self._send(name, _ANYTHING)
        return bool(self._owed)

    def _send(self, name: str, datagram: bytes) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        path = os.path.join(self.directory, name)
        try:
            self._socket.sendto(datagram, path)
        except ConnectionRefusedError:
            # Its process was killed.
            with contextlib.suppress(OSError):
                os.unlink(path)
        except BlockingIOError:
            self._owed.add(name)
        except OSError:
            return

    def close(self) -> None:
        """Close the socket for sending; when the writer thread has ended."""
        # Only if it is empty; whoever listens next makes it anew.
        with contextlib.suppress(OSError):
            os.rmdir(self.directory)
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def is_trusted(directory: str, path: str) -> bool:
    """Return whether the directory is there, and of somebody who may use the file anyway.

    In the directory for temporary files, anybody may have made it.
    """
    try:
        owner = os.stat(directory, follow_symlinks=False).st_uid
        return owner in (os.geteuid(), os.stat(path).st_uid)
    except OSError:
        return False


def make_directory(directory: str, path: str) -> None:
    """Make the directory for sockets, for those who may use the file."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    # Who may read the file may enter.
    mode |= (mode & 0o444) >> 2
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, mode)
        os.chmod(directory, mode)
    if not is_trusted(directory, path):
        raise PermissionError(f"{directory} belongs to somebody else")


def _encode(things: Collection[Any]) -> list[bytes]:
    """Return datagrams that are not too large."""
    items = [list(thing) if isinstance(thing, tuple) else _plain(thing) for thing in things]
    datagrams: list[bytes] = []
    for start in range(0, len(items), _EVENTS_PER_DATAGRAM):
        datagram = json.dumps(items[start : start + _EVENTS_PER_DATAGRAM]).encode()
        datagrams.append(datagram if len(datagram) <= _MAX_DATAGRAM else _ANYTHING)
    return datagrams


def _plain(event: JobEvent) -> list[str]:
    return [event.kind.value, event.id, event.queue]


def hear_claims(hub: Hub, datagram: bytes) -> None:
    """Pass on what a socket for claims has received."""
    if datagram == _ANYTHING:
        hub.ring(None)
    else:
        hub.ring([(queue, function) for queue, function in json.loads(datagram)])


def hear_events(hub: Hub, datagram: bytes) -> None:
    """Pass on what a socket for events has received."""
    if datagram == _ANYTHING:
        hub.tell(None)
    else:
        hub.tell(
            [
                JobEvent(EventKind(kind), job_id, queue)
                for kind, job_id, queue in json.loads(datagram)
            ]
        )

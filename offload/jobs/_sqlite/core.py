"""What an open engine has: its threads, its bells, and those who wait."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final

from offload.jobs._sqlite.bells import (
    CLAIMS,
    EVENTS,
    HAS_SOCKETS,
    Bell,
    Hub,
    Ringer,
    hear_claims,
    hear_events,
    make_directory,
)
from offload.jobs._sqlite.thread import Reader, Writer

if TYPE_CHECKING:
    from offload.jobs._sqlite.clock import Clock
    from offload.jobs._sqlite.location import Location

__all__ = ["Core"]

# How often claimers look by themselves, in seconds: behind bells that may miss, or instead of them.
_POLL_BEHIND: Final = 1.0
_POLL_ALONE: Final = 0.02

_HEARD: Final = {CLAIMS: hear_claims, EVENTS: hear_events}

_logger = logging.getLogger("offload.jobs")
_cores: weakref.WeakSet[Core] = weakref.WeakSet()


class Core:
    """Threads of one process. A forked child needs a core of its own."""

    def __init__(self, location: Location, clock: Clock) -> None:
        self.pid = os.getpid()
        self.hub = Hub()
        self._path = location.path
        self._ringer = Ringer(location.path, self.hub)
        self.writer = Writer(location, clock, self._ringer)
        self.reader = Reader(location)
        self._lock = threading.Lock()
        self._bells: dict[str, Bell | None] = {}
        self.writer.start()
        self.reader.start()
        _cores.add(self)

    def is_listening(self, suffix: str) -> bool:
        """Return whether `listen` has been called for it."""
        return suffix in self._bells

    def listen(self, suffix: str) -> None:
        """Hear what other processes commit, from now on; blocks for a moment."""
        with self._lock:
            if suffix in self._bells or self.hub.is_closed:
                return
            bell = None
            try:
                bell = self._new_bell(suffix)
            except OSError as error:
                _logger.warning(
                    "cannot listen in %s (%s): jobs of other processes are looked for every %d ms",
                    self._ringer.directory,
                    error,
                    _POLL_ALONE * 1000,
                )
            self._bells[suffix] = bell

    def _new_bell(self, suffix: str) -> Bell:
        if not HAS_SOCKETS:
            raise OSError("this system has no datagram sockets between processes")
        heard = partial(_HEARD[suffix], self.hub)
        while True:
            make_directory(self._ringer.directory, self._path)
            try:
                return Bell(self._ringer.directory, suffix, heard, self._ringer.add_own)
            except FileNotFoundError:
                # Removed in between, by somebody who was the last one there.
                continue

    def poll_seconds(self) -> float:
        """Return after how long a claimer shall look by itself."""
        return _POLL_BEHIND if self._bells.get(CLAIMS) is not None else _POLL_ALONE

    def close(self, timeout: float) -> bool:
        """End all threads, and return whether they have; blocks."""
        self.hub.close()
        self.reader.stop()
        with self._lock:
            for bell in self._bells.values():
                if bell is not None:
                    bell.close()
        # One after the other: SQLite empties the write-ahead log when the last connection closes,
        # and of two that close at once each takes the other for one that stays.
        has_ended = self.reader.join(timeout)
        self.writer.stop()
        has_ended = self.writer.join(timeout) and has_ended
        if has_ended:
            self._ringer.close()
        _cores.discard(self)
        return has_ended

    def close_inherited(self) -> None:
        """Close the descriptors that a forked child must not keep open."""
        self.writer.close_inherited()
        for bell in self._bells.values():
            if bell is not None:
                bell.close_inherited()


def _after_fork() -> None:
    for core in tuple(_cores):
        with contextlib.suppress(OSError):
            core.close_inherited()
    _cores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""The ways to watch a loop: around an ASGI application, or around any async code."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from offload._heartbeat import running_loop
from offload._values.options import check_number
from offload.watchdog._ledger import ledger
from offload.watchdog._requests import current_scope
from offload.watchdog._watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, MutableMapping

    # As Starlette spells them: what passes its type checks passes ours.
    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Watchdog", "watch", "watching"]

# What a human notices, and ten times what a healthy loop shows.
_THRESHOLD = 0.1


class Watchdog:
    """ASGI middleware: names what holds the event loop while the application runs.

    For the whole application: `Starlette(middleware=[Middleware(Watchdog)])`, `watch(app)`, or
    around any ASGI application: `app = Watchdog(app)`. The loop is watched from the startup of the
    application to its shutdown; under a server without the lifespan protocol, from the first
    request until the loop ends. Each request is noted in a context variable, so that child tasks
    and threads that it starts are known to work for it.

    Args:
        app: the ASGI application.
        threshold: seconds that the loop may be late. A block is found for sure from 1.5 times
            that on.

    Raises:
        TypeError: `threshold` is not a number.
        ValueError: `threshold` is below 0.01 or not finite.
    """

    def __init__(self, app: App, *, threshold: float = _THRESHOLD) -> None:
        _check_threshold(threshold)
        self.app = app
        self._threshold = threshold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note a request while it runs; begin and end to watch with the application."""
        if scope["type"] == "lifespan":
            with watching(threshold=self._threshold):
                await self.app(scope, receive, send)
            return
        if not _here.is_watched():
            # No lifespan: the watcher ends by itself when the loop has been closed.
            _here.begin(self._threshold)
        token = current_scope.set(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            current_scope.reset(token)


def watch(app: Any, *, threshold: float = _THRESHOLD) -> None:
    """Watch the loop of a Starlette or FastAPI application that exists already.

    Args:
        app: the application; it has not served anything yet.
        threshold: as in `Watchdog`.

    Raises:
        TypeError: the application takes no middleware: use `Watchdog(app)` in its place.
        RuntimeError: the application has started.
    """
    add = getattr(app, "add_middleware", None)
    if add is None:
        raise TypeError(
            f"{type(app).__name__} has no add_middleware; serve offload.watchdog.Watchdog(app) "
            "in its place"
        )
    _check_threshold(threshold)
    add(Watchdog, threshold=threshold)


@contextmanager
def watching(*, threshold: float = _THRESHOLD) -> Generator[None]:
    """Watch the event loop that runs in this thread, inside the block.

    On asyncio, uvloop and trio; for programs that are no ASGI applications. Watches may be nested:
    the threshold of the outermost holds.

    Args:
        threshold: as in `Watchdog`.

    Raises:
        RuntimeError: no loop runs in this thread.
    """
    _check_threshold(threshold)
    _here.begin(threshold)
    try:
        yield
    finally:
        _here.end()


class _Here(threading.local):
    """The watch over the loop of this thread, and how many want it."""

    watcher: Watcher | None = None
    wanted: int = 0

    def is_watched(self) -> bool:
        """Return whether the loop that runs in this thread is being watched."""
        return self.watcher is not None and not self.watcher.is_over()

    def begin(self, threshold: float) -> None:
        """Want a watch."""
        if not self.is_watched():
            self.wanted = 0
            self.watcher = Watcher(running_loop(), threshold, ledger)
            self.watcher.start()
        self.wanted += 1

    def end(self) -> None:
        """Want it no more."""
        self.wanted -= 1
        if self.wanted == 0 and self.watcher is not None:
            self.watcher.stop()
            self.watcher = None


_here = _Here()


def _check_threshold(threshold: float) -> None:
    # Below, the heartbeat and the looks would themselves be a load.
    check_number("threshold", threshold, minimum=0.01, optional=False)

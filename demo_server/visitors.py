"""Who else is here: the page plays a round by itself only for a visitor who is alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PAGE_HEADER", "Visitors"]

# A page asks /fast eight times a second: one that was not heard of for so long is gone.
_STAYS_SECONDS = 3.0
# What a page names itself by, a number of its own choice.
PAGE_HEADER = "x-demo-page"
_NAME = PAGE_HEADER.encode()
_LONGEST_NAME = 32
_MOST = 100
# What those ask for who want something of the server. The page itself, health and metrics are none.
_ASKED = ("/fast", "/heavy", "/burst", "/thumbnail", "/csv")


class Visitors:
    """Middleware that notes who asks for work.

    Args:
        app: the application.
        clock: returns monotonic seconds.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        # By the name of the page, b"" for programs, in the order in which they were heard of.
        self._heard: dict[bytes, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note who asks, and pass the request on."""
        if scope["type"] == "http":
            if scope["path"].startswith(_ASKED):
                self._note(page_of(scope))
            scope["demo_visitors"] = self
        await self._app(scope, receive, send)

    def is_alone(self, scope: Scope) -> bool:
        """Return whether the page that asks is the only visitor."""
        page, now = page_of(scope), self._clock()
        others = (at for name, at in self._heard.items() if name != page)
        return page in self._heard and all(now - at > _STAYS_SECONDS for at in others)

    def _note(self, page: bytes) -> None:
        self._heard.pop(page, None)
        self._heard[page] = self._clock()
        while len(self._heard) > _MOST:
            del self._heard[next(iter(self._heard))]


def page_of(scope: Scope) -> bytes:
    """Return the name of the page that asks; b"" if it is a program."""
    for name, value in scope["headers"]:
        if name == _NAME:
            found: bytes = value[:_LONGEST_NAME]
            return found
    return b""

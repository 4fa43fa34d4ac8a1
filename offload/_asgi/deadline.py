"""Middleware for clients in a hurry: a request header says by when they want their answer."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from offload._asgi.messages import is_last
from offload._pool.scope import CallScope, current_scope
from offload._values.options import check_number

if TYPE_CHECKING:
    from offload._asgi.messages import App, Message, Receive, Scope, Send

__all__ = ["DeadlineFromHeader"]

_logger = logging.getLogger("offload.starlette")

# Decimal seconds and nothing else: float() also takes "inf", "1e9", "1_0" and " 1 ".
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class DeadlineFromHeader:
    """ASGI middleware: a request header says within how many seconds the client wants its answer.

    All offloaded calls that are made to answer the request inherit the deadline, which counts from
    the arrival of the request here: one that cannot end in time is not started, one that still runs
    is stopped, and both raise `DeadlineError` (504 by `exception_handlers`). What is called once
    the response has been sent whole, as by background tasks, has no part in it.

    The header is a decimal number such as `2` or `0.25`. Anything else is ignored, with a record at
    DEBUG: that a client cannot say how long it waits is no reason not to answer it.

    Args:
        app: the ASGI application.
        header: name of the header.
        maximum: seconds that a client can ask for at most; None: any. Clients that ask for nothing
            have no deadline.

    Raises:
        TypeError: `maximum` is not a number.
        ValueError: `maximum` is not above 0, or not finite.
    """

    def __init__(
        self, app: App, *, header: str = "x-request-timeout", maximum: float | None = None
    ) -> None:
        check_number("maximum", maximum, above=0.0)
        self.app = app
        self._header = header.lower().encode("latin-1")
        self._maximum = maximum

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; anything else than HTTP is passed through."""
        seconds = self._seconds(scope) if scope["type"] == "http" else None
        if seconds is None:
            await self.app(scope, receive, send)
            return
        calls = CallScope(deadline=time.monotonic() + seconds)

        async def tell(message: Message) -> None:
            if is_last(message):
                calls.end()
            await send(message)

        token = current_scope.set(calls)
        try:
            await self.app(scope, receive, tell)
        finally:
            calls.end()
            current_scope.reset(token)

    def _seconds(self, scope: Scope) -> float | None:
        asked = None
        for name, value in scope["headers"]:
            if name != self._header:
                continue
            if _SECONDS.fullmatch(value) is None:
                _logger.debug("%s %r is no number of seconds", self._header.decode(), value)
                continue
            # Of several, the one that helps the client most in a hurry.
            seconds = float(value)
            asked = seconds if asked is None else min(asked, seconds)
        if asked is None or self._maximum is None:
            return asked
        return min(asked, self._maximum)

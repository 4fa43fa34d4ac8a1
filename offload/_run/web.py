"""The role web: an application, served by uvicorn."""

from __future__ import annotations

import logging
import math
import os
import signal
from typing import TYPE_CHECKING, Any, Final

import uvicorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["serve"]

_logger: Final = logging.getLogger("offload.roles")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            _logger.info("serving %s (process %d)", _address(sockets[0]), os.getpid())
            self._ready()


def serve(
    app: Any,
    listener: socket.socket,
    *,
    factory: bool,
    access_log: bool,
    drain: float,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: an ASGI application, or what makes it.
        listener: a bound socket; closed at the end.
        factory: whether `app` is what makes it.
        access_log: whether requests are logged.
        drain: seconds that requests under way are given at the end.
        ready: called when requests are answered.

    Raises:
        SystemExit: the application could not start.
    """
    config = uvicorn.Config(
        app,
        factory=factory,
        # Ours, which has been set up, goes for uvicorn's loggers as well.
        log_config=None,
        access_log=access_log,
        timeout_graceful_shutdown=math.ceil(drain),
    )
    # uvicorn ends in order, and then sends itself the signal again: an orderly end is status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _Server(config, ready).run(sockets=[listener])


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""Runs the application under uvicorn."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from functools import partial
from typing import TYPE_CHECKING

import anyio
import uvicorn

from demo_server.app import create_app
from demo_server.work import POOL
from offload import Pool

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from demo_server.settings import Settings

__all__ = ["serve"]


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, drain: float) -> None:
        super().__init__(config)
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Only here is it ready, with its pool, and is the port known that stands for port 0.
        if self.started and sockets:
            _announce(sockets[0])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # The second Ctrl+C cuts everything short, and uvicorn would tell of each piece.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # At the same time: uvicorn ends the lifespan, and with it the pool, only when the last
        # request has been answered, and would cut those that take too long. So they are answered
        # by the pool, with the result or, when the drain is over, with a 503.
        async with anyio.create_task_group() as group:
            group.start_soon(partial(Pool.named(POOL).aclose, drain=self._drain))
            await super().shutdown(sockets)
            # Nobody waits any more, least of all after a second Ctrl+C.
            group.cancel_scope.cancel()


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal ends it.

    Args:
        settings: how the server is set up.
        listener: the bound socket to take connections from; it is closed at the end.

    Raises:
        KeyboardInterrupt: Ctrl+C has ended it, in order.
        SystemExit: the application could not start.
    """
    config = uvicorn.Config(
        create_app(settings),
        # A pool that cannot be opened must end the start, not only be mentioned.
        lifespan="on",
        # uvloop where it is installed.
        loop="auto",
        access_log=settings.access_log,
        # Its access log is at INFO; all the rest at that level is told better by the banner.
        log_level="info" if settings.access_log else "warning",
        # Clients that read their answer slowly, or not at all, get this much more than the drain.
        timeout_graceful_shutdown=math.ceil(settings.drain) + 1,
    )
    _Server(config, settings.drain).run(sockets=[listener])


def _announce(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
    # Flushed, since whoever has started the server through a pipe waits for this line.
    print(  # noqa: T201 - a program tells its user where it is
        f"Demo server on {base} (process {os.getpid()}, {loop}). Ctrl+C ends it.\n"
        "Open it in a browser, or try:\n"
        f"  curl {base}/fast\n"
        f"  curl {base}/heavy\n"
        f"  curl -F file=@photo.jpg -o thumbnail.jpg '{base}/thumbnail?size=200'\n"
        f"  curl -F file=@table.csv {base}/csv\n"
        f"  curl {base}/stats",
        flush=True,
    )

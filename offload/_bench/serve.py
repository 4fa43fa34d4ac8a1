"""The server of an application under test: uvicorn, with a beat on its loop that notes each delay.

    python -m offload._bench.serve module:app [--factory]

Started by `offload._bench.subject`, which reads what it tells, one JSON object a line, on what was
standard output: first `{"ready": {…}}`, then `{"beats": [[at, lag_ms, cpu_ms], …]}` about ten times
a second. Whatever else is printed, by the application for one, goes to standard error. The server
ends in order when its standard input does: whatever ends the command ends it too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

import uvicorn

from offload._bench.subject import BEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_BATCH = 10
_DRAIN_SECONDS = 5


class _Beat:
    """A timer on the loop; how late it comes is the event-loop lag."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._seen: list[tuple[float, float, float]] = []

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._cpu = time.thread_time()
        self._due = self._loop.time() + BEAT_SECONDS
        self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now, cpu = self._loop.time(), time.thread_time()
        # Of one clock for all processes where it matters: asyncio's and uvloop's time is this one.
        lag, spent = now - self._due, cpu - self._cpu
        self._seen.append((round(time.monotonic(), 4), round(lag * 1e3, 3), round(spent * 1e3, 3)))
        if len(self._seen) >= _BATCH:
            self._tell({"beats": self._seen})
            self._seen = []
        # From now, not from when it was due: after a delay it does not catch up.
        self._cpu, self._due = cpu, now + BEAT_SECONDS
        self._loop.call_at(self._due, self._beat)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(config)
        self._tell = tell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            loop = asyncio.get_running_loop()
            self._tell(
                {
                    "ready": {
                        "port": sockets[0].getsockname()[1],
                        "uvicorn": uvicorn.__version__,
                        "loop": type(loop).__module__.partition(".")[0],
                    }
                }
            )
            _Beat(self._tell).start()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m offload._bench.serve")
    parser.add_argument("app")
    parser.add_argument("--factory", action="store_true")
    arguments = parser.parse_args()
    channel: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(message, separators=(",", ":")) + "\n")
        except OSError:
            server.should_exit = True  # Nobody listens any more.

    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        arguments.app,
        factory=arguments.factory,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config, tell)

    def wait_for_end() -> None:
        # Not through sys.stdin: its lock, held by this thread for ever, ends the interpreter with
        # a fatal error where the server ends first.
        while os.read(0, 4096):
            pass
        server.should_exit = True

    threading.Thread(target=wait_for_end, daemon=True).start()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()

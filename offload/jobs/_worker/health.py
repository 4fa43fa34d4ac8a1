"""Health of a worker program for its supervisor: over HTTP, or by touching a file."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from offload.jobs._worker.program import WorkerProgram

    Page = Callable[[Mapping[str, str]], Awaitable[tuple[int, str, bytes]]]

__all__ = ["HealthFile", "HealthServer"]

_TOUCH_SECONDS: Final = 1.0
_REQUEST_SECONDS: Final = 5.0
_MAX_REQUEST: Final = 16 * 1024
_JSON: Final = "application/json"
_REASONS: Final = {
    200: "OK",
    404: "Not Found",
    405: "Method Not Allowed",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class HealthServer:
    """Answers `GET /healthz` (it lives), `/readyz` (it claims jobs), `/statistics` (numbers).

    Args:
        program: whose health it is.
        address: `port` or `host:port`; the host is 127.0.0.1 unless given.
        pages: what else it answers to GET, by path: a function of the request's headers, with
            lower-case names, that returns status, media type and body.

    Raises:
        ValueError: this is no address.
    """

    def __init__(
        self, program: WorkerProgram, address: str, pages: Mapping[str, Page] | None = None
    ) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - of TCP
            raise ValueError(f"{address!r} is not a port, or host:port")
        self._program = program
        self._pages = dict(pages or {})
        self._host = host.strip("[]") or "127.0.0.1"
        self._port = int(port)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._serve, self._host, self._port, limit=_MAX_REQUEST
        )

    async def aclose(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                method, _, rest = first.partition(" ")
                path = rest.split(" ")[0].split("?")[0]
                page = self._pages.get(path) if method in ("GET", "HEAD") else None
                if page is not None:
                    status, kind, body = await page(_headers(lines))
                else:
                    (status, body), kind = self._answer(method, path), _JSON
                writer.write(
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
                    f"Content-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # Whoever asks so has no answer.
        finally:
            writer.close()

    def _answer(self, method: str, path: str) -> tuple[int, bytes]:
        program = self._program
        if method not in ("GET", "HEAD"):
            return 405, b"{}"
        if path == "/statistics":
            return 200, json.dumps(asdict(program.statistics())).encode()
        checks = {"/healthz": program.is_healthy, "/readyz": program.is_ready}
        if path not in checks:
            return 404, b"{}"
        body = json.dumps({"state": program.state}).encode()
        return (200 if checks[path] else 503), body


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


class HealthFile:
    """Touches a file every second while the program is ready, and removes it at the end.

    Args:
        program: whose health it is.
        path: of the file, in a folder that exists.
    """

    def __init__(self, program: WorkerProgram, path: str) -> None:
        self._program = program
        self._path = path
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to touch the file."""
        self._task = asyncio.create_task(self._touch())

    async def aclose(self) -> None:
        """Remove the file."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return

    async def _touch(self) -> None:
        while True:
            if self._program.is_ready:
                # A small file on a local disk, once a second; this loop serves no requests.
                with open(self._path, "a", encoding="utf-8"):  # noqa: ASYNC230
                    os.utime(self._path)
            await asyncio.sleep(_TOUCH_SECONDS)

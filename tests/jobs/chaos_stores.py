"""Stores for chaos: each a server, or a disk, of its own, that can be harmed.

A server stands behind a proxy, so that it can also be cut off, and connections go silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Protocol

import psutil

from tests.jobs.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future
    from pathlib import Path

_DISK_BYTES = 192 << 20


class Store(Protocol):
    """Where the jobs of one run are.

    Attributes:
        url: for programs.
        outages: what makes it unusable until `repair`, by name.
        blips: what costs its users a connection or a moment, and no more.
    """

    url: str
    outages: dict[str, Callable[[], None]]
    blips: dict[str, Callable[[], None]]

    def repair(self) -> None:
        """End an outage, and return when it can be used again."""
        ...

    def close(self) -> None:
        """End it, with all that is stored."""
        ...


class Proxy:
    """Passes connections on to a server, as long as it is told to; on a thread of its own.

    Attributes:
        port: where it listens.
        accepted: how many connections there have been.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self._is_cut = False
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._start())

    def _do(self, what: Coroutine[object, object, None]) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(what, self._loop)
        done.result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = Link((reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def cut(self) -> None:
        """Close all connections, and accept none."""
        self._is_cut = True
        self.reset()

    def mend(self) -> None:
        """Accept connections again."""
        self._is_cut = False

    def reset(self) -> None:
        """Close all connections; those that come after are accepted."""

        async def reset() -> None:
            for link in tuple(self._links):
                link.abort()

        self._do(reset())

    def silence(self) -> None:
        """Let nothing pass any more on the connections that there are, as a dead router does."""

        async def silence() -> None:
            for link in self._links:
                link.is_silent = True

        self._do(silence())

    def close(self) -> None:
        """End."""

        async def close() -> None:
            assert self._server is not None
            self._server.close()
            for link in tuple(self._links):
                link.abort()
            await asyncio.sleep(0)

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """Both ends of one connection."""

    def __init__(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._near, self._far = near, far
        self.is_silent = False

    async def run(self) -> None:
        """Pass on what comes, until one end is closed."""
        pumps = [
            asyncio.create_task(self._pump(self._near[0], self._far[1])),
            asyncio.create_task(self._pump(self._far[0], self._near[1])),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.abort()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self.is_silent:
                    writer.write(data)
                    await writer.drain()

    def abort(self) -> None:
        """Close both ends at once."""
        self._near[1].transport.abort()
        self._far[1].transport.abort()


class Disk:
    """A file system of its own, which can be filled; only root can make one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES},mode=711", "tmpfs")
        self._filler = folder / "filler"

    def _mount(self, *words: str) -> None:
        subprocess.run([*words, str(self.folder)], check=True, capture_output=True, timeout=30)

    @classmethod
    def on(cls, folder: Path) -> Disk | None:
        """Return one, mounted on a new folder; None: that is not permitted here."""
        try:
            return cls(folder)
        except (subprocess.CalledProcessError, FileNotFoundError):
            return None

    def fill(self) -> None:
        """Leave no byte."""
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x")

    def clear(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        self._mount("umount", "-l")


class SqliteStore:
    """A file, on a disk of its own if that can be had."""

    def __init__(self, folder: Path) -> None:
        self._disk = Disk.on(folder / "disk")
        place = folder if self._disk is None else self._disk.folder
        self.url = f"sqlite:///{place}/jobs.sqlite3"
        self.outages: dict[str, Callable[[], None]] = {}
        self.blips: dict[str, Callable[[], None]] = {}
        if self._disk is not None:
            self.outages["disk filled"] = self._disk.fill

    def repair(self) -> None:
        if self._disk is not None:
            self._disk.clear()

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()


class _Served:
    """What Redis and Postgres have in common."""

    def __init__(self, server: RedisServer | PostgresServer) -> None:
        self._server = server
        server.start()
        self._proxy = Proxy(server.port)
        self.url = server.url.replace(f":{server.port}/", f":{self._proxy.port}/")
        self.outages: dict[str, Callable[[], None]] = {
            "killed": self._kill,
            "frozen": self._freeze,
            "cut off": self._proxy.cut,
        }
        self.blips: dict[str, Callable[[], None]] = {
            "connections reset": self._proxy.reset,
            "connections silent": self._proxy.silence,
        }

    def _processes(self) -> list[psutil.Process]:
        assert self._server.process is not None
        first = psutil.Process(self._server.process.pid)
        return [first, *first.children(recursive=True)]

    def _freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _kill(self) -> None:
        self._server.stop()

    def repair(self) -> None:
        self._proxy.mend()
        if self._server.process is None:
            self._server.start()
        else:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.repair()
        self._proxy.close()
        self._server.stop()


class RedisStore(_Served):
    """A Redis that syncs its append-only file at each command."""

    def __init__(self, folder: Path) -> None:
        super().__init__(RedisServer(folder))


class PostgresStore(_Served):
    """A Postgres."""

    def __init__(self, folder: Path) -> None:
        super().__init__(PostgresServer(folder))
        self.outages["backend killed"] = self._kill_backend

    def _kill_backend(self) -> None:
        # The server then ends all connections, and recovers by itself.
        for process in self._processes()[1:]:
            if "127.0.0.1" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                return

    def repair(self) -> None:
        super().repair()
        self._server.wait()


class GivenStore:
    """One that somebody else looks after, and that is not harmed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.outages: dict[str, Callable[[], None]] = {}
        self.blips: dict[str, Callable[[], None]] = {}

    def repair(self) -> None: ...

    def close(self) -> None: ...


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": SqliteStore,
    "redis": RedisStore,
    "postgres": PostgresStore,
}

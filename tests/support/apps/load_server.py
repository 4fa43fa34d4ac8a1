"""A server that misbehaves by path, for the load generator and for `offload bench`."""

import asyncio
import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

# Seconds after which a test says that something hangs.
PATIENCE = 60.0
FREEZE = 1.0


class Server:
    """Answers by path, on a thread of its own; `/freeze` holds everything up, once."""

    def __init__(self):
        self.requests = []
        self.freezes = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    async def _serve(self):
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        self._tasks = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._done.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                length = head.lower().partition("content-length:")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                self.requests.append((method, path, head, body))
                answer = await self._answer(urlsplit(path).path)
                if answer is None:
                    return
                writer.write(answer)

    async def _answer(self, path):
        match path:
            case "/freeze" if not self.freezes:
                begin = time.monotonic()
                time.sleep(FREEZE)  # noqa: ASYNC251 - the freeze
                self.freezes.append((begin, time.monotonic()))
            case "/never":
                await self._done.wait()
            case "/breaks":
                return None
            case "/chunked":
                return (
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"5;name=value\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: 1\r\n\r\n"
                )
            case "/nonsense":
                return b"220 mail.example ESMTP\r\n\r\n"
            case "/missing" | "/busy":
                status = "404 Not Found" if path == "/missing" else "503 Service Unavailable"
                later = "Retry-After: 7\r\n" if path == "/busy" else ""
                return f"HTTP/1.1 {status}\r\n{later}Content-Length: 0\r\n\r\n".encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def unused_port():
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]

"""What of a request crosses to a worker: the question, not the server, and its body as a file."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
import threading
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from offload._child.import_hook import when_imported
from offload._wire.pickling import register_reducer
from offload._wire.shared_file import SharedFile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import IO, NoReturn

__all__ = ["SharedFile", "receive_file", "spool_upload"]

# This much of a body is gathered before a thread writes it: a hop costs a tenth of that write.
_WRITE_BYTES = 1 << 20
# Buffers that one writev(2) takes (IOV_MAX is 1024 on Linux and macOS, and at least 16 by POSIX).
_MAX_PARTS = 512
# Of `Content-Length` (RFC 9110, section 8.6). Not `isdigit`, which is true of "²", too; and not of
# any length, since int() refuses more than 4300 digits (cpython#95778). Eighteen are an exabyte.
_LENGTH = re.compile("[0-9]{1,18}")
# What a client may send at the least, on average, after its first seconds (as Apache's
# mod_reqtimeout has it): who sends a byte now and then holds a connection and a file for ever.
_LEAST_BYTES_PER_SECOND = 500


class _Room:
    """The room on disk that the uploads of this process take together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, fd: int, size: int, most: int | None) -> None:
        """Count what is about to be written.

        Args:
            fd: where.
            size: how many bytes.
            most: how many there may be; None: half of what the disk has free without them.

        Raises:
            OSError: there would be more.
        """
        with self._lock:
            if most is None:
                most = _free_bytes(fd, self._taken)
            if most is not None and self._taken + size > most:
                raise OSError(errno.ENOSPC, "the uploads of this server have no more room")
            self._taken += size

    def give_back(self, size: int) -> None:
        """Count what is not there any more."""
        with self._lock:
            self._taken -= size


def _free_bytes(fd: int, taken: int) -> int | None:
    if not hasattr(os, "fstatvfs"):
        return None
    status = os.fstatvfs(fd)
    return (status.f_bavail * status.f_frsize + taken) // 2


_room = _Room()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_room.__init__)  # type: ignore[misc]


async def receive_file(
    request: Request,
    *,
    max_bytes: int,
    directory: str | os.PathLike[str] | None = None,
    stall_timeout: float | None = 20.0,
    max_total_bytes: int | None = None,
) -> SharedFile:
    """Receive the body of a request into a file without a name, for a function to read.

    No more than a megabyte of it is in the memory of the server at once, and nothing of it is
    written on the event loop. Give the file to a decorated function: it crosses as a descriptor,
    whatever its size. Close it, with `with`, when it has been used.

    Args:
        request: one whose body has not been read.
        max_bytes: limit for the body, kept while it arrives.
        directory: where the file is, without a name; None: where the system keeps temporary files.
        stall_timeout: seconds that may be waited for the client, and one more for each 500 bytes
            that it has sent; None: no limit.
        max_total_bytes: limit for the files that this process has received and not closed; None:
            half of what is free on the disk without them.

    Returns:
        The file, at its beginning.

    Raises:
        HTTPException: 408 for a body that does not go on, 413 for one that is larger, 507 where
            there is no room for it.
        ClientDisconnect: the client left before the end of the body.

    Cancellation: closes the file.
    """
    # `Connection: close`, since the server would otherwise have to take in the rest of the body
    # before the next request, whatever its size (RFC 9110, section 15.5.14).
    too_large = HTTPException(
        413,
        f"The body is larger than the limit of {max_bytes} bytes.",
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "")
    # Anything else is the server's affair; the limit holds while the body arrives.
    if _LENGTH.fullmatch(declared) and int(declared) > max_bytes:
        raise too_large
    limiter = anyio.CapacityLimiter(1)  # our own: never behind what the application does in threads

    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)
        except OSError as error:
            raise HTTPException(507, "There is no room for the body.") from error

    # If this is cancelled, what the thread makes is closed with the last reference to it.
    file: IO[bytes] = await in_thread(_new_file, directory)
    room: list[int] = []  # what it takes, by and by
    try:
        size, waiting = 0, 0
        parts: list[bytes] = []
        async with aclosing(_chunks(request, stall_timeout)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                parts.append(chunk)
                waiting += len(chunk)
                if waiting >= _WRITE_BYTES or len(parts) >= _MAX_PARTS:
                    await in_thread(_write_in_room, file.fileno(), parts, room, max_total_bytes)
                    parts, waiting = [], 0
        if waiting:
            await in_thread(_write_in_room, file.fileno(), parts, room, max_total_bytes)
        received = SharedFile(
            os.dup(file.fileno()), size, closed=partial(_room.give_back, sum(room))
        )
        room.clear()
        return received
    finally:
        file.close()
        _room.give_back(sum(room))


async def _chunks(request: Request, stall_timeout: float | None) -> AsyncGenerator[bytes, None]:
    """Yield the parts of a body, as long as they go on coming.

    Raises:
        HTTPException: 408 if they do not.
    """
    size, waited = 0, 0.0
    async with aclosing(request.stream()) as chunks:
        while True:
            allowed = None
            if stall_timeout is not None:
                allowed = max(stall_timeout + size / _LEAST_BYTES_PER_SECOND - waited, 0.0)
            began = anyio.current_time()
            chunk: bytes | None = None
            # Not around the `yield`: what is done with a part is no fault of the client's.
            with anyio.move_on_after(allowed) as scope:
                chunk = await anext(chunks, None)
            if scope.cancelled_caught:
                raise HTTPException(
                    408,
                    "The body did not go on.",
                    headers={"Connection": "close"},
                )
            if chunk is None:
                return
            waited += anyio.current_time() - began
            size += len(chunk)
            yield chunk


async def spool_upload(upload: UploadFile) -> SharedFile:
    """Return a file of a form, as `request.form()` gives it, in a form that crosses to a worker.

    What is still in memory is written to disk by a thread; what is there already is not copied.

    Raises:
        HTTPException: 507 where there is no room for it.
    """

    def spool() -> SharedFile:
        # fileno() moves a `SpooledTemporaryFile` to disk.
        file = upload.file
        descriptor = file.fileno()
        file.flush()
        return SharedFile(os.dup(descriptor), os.fstat(descriptor).st_size)

    try:
        return await anyio.to_thread.run_sync(spool, limiter=anyio.CapacityLimiter(1))
    except OSError as error:
        raise HTTPException(507, "There is no room for the file.") from error


def _new_file(directory: str | os.PathLike[str] | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=directory, buffering=0)


def _write_in_room(fd: int, parts: list[bytes], room: list[int], most: int | None) -> None:
    size = sum(map(len, parts))
    _room.take(fd, size, most)
    room.append(size)
    _write(fd, parts)


def _write(fd: int, parts: list[bytes]) -> None:
    written = os.writev(fd, parts) if hasattr(os, "writev") else 0
    if written == sum(map(len, parts)):
        return
    # Full, or a signal: what is left says which.
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        rest = rest[os.write(fd, rest) :]


# What a scope says about the client's question: plain data by the ASGI specification, apart from
# `path_params`, which is what the route's convertors make. The rest (the application, `state`, the
# channels to the client, what middleware adds) belongs to the server and stays there.
_CROSSING = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "app_root_path",
    "headers",
    "client",
    "server",
    "path_params",
)


def _reduce_request(request: Request) -> tuple[type[Request], tuple[dict[str, Any]]]:
    """Let a request cross to a worker, for decorated functions that are endpoints themselves.

    The copy knows method, URL, headers, cookies, path parameters and the client's address. It has
    no body: a plain function could not await it here either.
    """
    return Request, ({key: request.scope[key] for key in _CROSSING if key in request.scope},)


# Of its subclasses, which may hold anything, nothing is assumed.
register_reducer(Request, _reduce_request)


def _refuse_upload(_: UploadFile) -> NoReturn:
    """Say how an upload crosses, whatever its size: a small one would be copied, a large one not.

    Raises:
        TypeError: always.
    """
    message = (
        "the file of an UploadFile cannot leave the server: make the endpoint `async def`, and "
        "give the function `await file.read()`, or, for large files, "
        "`await offload.starlette.spool_upload(file)`"
    )
    raise TypeError(message)


def _refuse_uploads_of_fastapi() -> None:
    register_reducer(sys.modules["fastapi.datastructures"].UploadFile, _refuse_upload)


register_reducer(UploadFile, _refuse_upload)
when_imported("fastapi.datastructures", _refuse_uploads_of_fastapi)

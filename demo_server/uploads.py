"""Takes a posted file, as the body itself or as multipart/form-data, within a limit of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from offload.starlette import receive_file, spool_upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import Message

    from offload.starlette import SharedFile

__all__ = ["Upload", "read_upload", "size_text"]

_FORM = "multipart/form-data"
# Between two parts of what a client sends.
_KIB = 1024
_STALL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A posted file.

    Attributes:
        file: it, with at least one byte; to be closed.
        charset: the character encoding that the client declared, or None.
    """

    file: SharedFile
    charset: str | None


async def read_upload(request: Request, *, max_bytes: int, media_types: Sequence[str]) -> Upload:
    """Read the file that a request brings into a file of ours, for a worker to read.

    Args:
        request: one whose body has not been read.
        max_bytes: limit for the whole body. It is kept while the body arrives, so that no client
            can make the server hold more.
        media_types: what the file may be, such as "text/csv" or "image/*". A file without a type
            or with that of any bytes (application/octet-stream) is let through.

    Raises:
        HTTPException: 400 for no file, an empty one or a broken form, 413 for a body that is too
            large, 415 for another type, 501 where forms cannot be read for want of a package, 507
            where there is no room for it, 408 for one that does not go on.
    """
    media_type, _ = _content_type(request.headers.get("content-type", ""))
    if media_type == _FORM:
        return await _read_form(_limit(request, max_bytes), media_types)
    charset = _check(request.headers.get("content-type", ""), media_types)
    return _filled(await receive_file(request, max_bytes=max_bytes), charset)


async def _read_form(request: Request, media_types: Sequence[str]) -> Upload:
    try:
        from python_multipart.exceptions import FormParserError
    except ModuleNotFoundError:
        raise HTTPException(
            501,
            "Forms cannot be read: pip install python-multipart on the server, "
            "or post the file as the body itself.",
        ) from None
    try:
        # Starlette answers 400 to more than this.
        async with request.form(max_files=1, max_fields=10) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(400, "The form has no file; with curl: -F file=@its-name")
            charset = _check(files[0].content_type or "", media_types)
            return _filled(await spool_upload(files[0]), charset)
    except OSError as error:
        # Parts of more than a megabyte are written to a temporary file as they come.
        raise HTTPException(507, "There is no room for the form.") from error
    except FormParserError as error:
        # Newer versions of Starlette answer this themselves.
        raise HTTPException(400, "The form is broken.") from error


def _limit(request: Request, max_bytes: int) -> Request:
    # `Connection: close`, since the server would otherwise have to take in the rest of the body
    # before the next request, whatever its size (RFC 9110, section 15.5.14).
    too_large = HTTPException(
        413,
        f"The body is larger than the limit of {size_text(max_bytes)}.",
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        try:
            with anyio.fail_after(_STALL_SECONDS):
                message = await request.receive()
        except TimeoutError as error:
            headers = {"Connection": "close"}
            raise HTTPException(408, "The form did not go on.", headers=headers) from error
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


def size_text(count: int) -> str:
    """Return a number of bytes in the largest unit in which it is a whole number."""
    units = ["bytes", "KiB", "MiB", "GiB"]
    while count and not count % _KIB and len(units) > 1:
        count //= _KIB
        del units[0]
    return f"{count} {units[0]}"


def _content_type(header: str) -> tuple[str, str | None]:
    media_type, _, rest = header.partition(";")
    for parameter in rest.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return media_type.strip().lower(), value.strip().strip('"') or None
    return media_type.strip().lower(), None


def _check(header: str, media_types: Sequence[str]) -> str | None:
    media_type, charset = _content_type(header)
    group = media_type.partition("/")[0] + "/*"
    if not {media_type, group} & {"", "application/octet-stream", *media_types}:
        # curl sends application/x-www-form-urlencoded where nothing is said; to take that for a
        # file would hide a mistake of every other client.
        raise HTTPException(
            415,
            f"Content-Type {media_type[:100]} is not one of {', '.join(media_types)}, {_FORM}.",
            headers={"Accept": ", ".join([*media_types, _FORM])},
        )
    return charset


def _filled(file: SharedFile, charset: str | None) -> Upload:
    if not file.size:
        file.close()
        raise HTTPException(400, "The file is empty.")
    return Upload(file, charset)

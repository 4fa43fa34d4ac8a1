"""Invocations to requests and replies to values; large ones by way of a thread and a file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._pool.call_errors import bad_result
from offload._pool.pickling_errors import raise_argument_error, raise_size_error
from offload._pool.target import pickle_by_value
from offload._wire.exceptions import may_be_raised
from offload._wire.frames import INLINE_BYTES, Flag, Kind
from offload._wire.large import decode_large, dumps_with_files
from offload._wire.page import BUFFER_BYTES
from offload._wire.payload import Request, request_here, request_in_thread
from offload._wire.pickling import (
    TooLarge,
    TooManyBytes,
    dump_without_exits,
    encode,
    in_pieces,
    loads_releasing_gil,
    without_exits,
)
from offload._workers.keeper import threads
from offload.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from offload._pool.invocation import Invocation
    from offload._pool.target import Target
    from offload._wire.frames import Frame

__all__ = [
    "close_request",
    "decode_error",
    "decode_reply",
    "encode_request",
    "glance_bytes",
    "is_small",
]

# Pickling takes about two microseconds an element here, and the loop's budget is 1 ms.
_LARGE_LENGTH = 400
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})
_SCALARS = frozenset({int, float, bool, complex, type(None)})
_STRINGS = frozenset({str, bytes})
_TEXTS = frozenset({str, bytes, bytearray})
# Together less than what a frame holds.
_SMALL_LENGTH = 4096
_FEW = 10
_SLOW_CLOSE_BYTES = 4 << 20
# What the kernel says when memory, the disk or descriptors have run out.
_NO_ROOM = frozenset(
    {errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}
)


def is_small(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Return whether all arguments are scalars or short strings, so that pickling takes no time."""
    for argument in arguments:
        kind = type(argument)
        if kind not in _SCALARS and (kind not in _STRINGS or len(argument) > _SMALL_LENGTH):
            return False
    for argument in keywords.values():
        kind = type(argument)
        if kind not in _SCALARS and (kind not in _STRINGS or len(argument) > _SMALL_LENGTH):
            return False
    return len(arguments) + len(keywords) < _FEW


def looks_large(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bool:
    """Return whether pickling an argument would hold the loop, as far as a glance can tell.

    Only what costs nothing to ask: a large value deeper inside is found out by its size, after the
    pickler's first 64 KiB of what is no buffer.
    """
    for argument in arguments:
        if _looks_large(argument):
            return True
    if keywords:
        for argument in keywords.values():
            if _looks_large(argument):
                return True
    return False


def _looks_large(argument: Any) -> bool:
    kind = type(argument)
    if kind in _CONTAINERS:
        return len(argument) > _LARGE_LENGTH
    if kind in _TEXTS:
        size = len(argument)
        # To make UTF-8 takes twenty times as long as to copy, which is all that ASCII needs.
        return size > INLINE_BYTES and (
            size > BUFFER_BYTES or (kind is str and not argument.isascii())
        )
    size = getattr(argument, "nbytes", 0)
    return type(size) is int and size > INLINE_BYTES and not _is_quick(argument, size)


def _is_quick(argument: Any, size: int) -> bool:
    """Return whether an array or a view is in one piece that fits the shared buffer."""
    if size > BUFFER_BYTES:
        return False
    try:
        with memoryview(argument) as view:
            # An array of objects is a graph like any other.
            return view.contiguous and view.format != "O"
    except (TypeError, ValueError, BufferError):
        return False


def glance_bytes(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> int:
    """Return the size of buffers and strings among the arguments: what they take, at the least."""
    total = 0
    for argument in (*arguments, *keywords.values()):
        if type(argument) in _TEXTS:
            total += len(argument)
        else:
            size = getattr(argument, "nbytes", 0)
            total += size if type(size) is int else 0
    return total


def close_request(request: Request) -> None:
    """Close the file of a request, if it has one, off the event loop where that takes long."""
    # The last one to close it waits for its memory to be freed: 64 MiB take 5 ms.
    request.close(os.close if request.size_bytes < _SLOW_CLOSE_BYTES else _close_in_thread)


def _close_in_thread(descriptor: int) -> None:
    with contextlib.suppress(RuntimeError):  # the interpreter ends: no more threads
        threads.submit(os.close, descriptor)
        return
    os.close(descriptor)


async def encode_request(
    invocation: Invocation, meta: dict[str, Any] | None, *, has_descriptors: bool
) -> Request:
    """Pickle a call, off the event loop where that would hold it.

    Raises:
        ArgumentError: an argument does not pickle, or there is no room for it, or the arguments are
            larger than `max_payload_bytes`.
    """
    target, arguments, keywords, *_ = invocation
    kind = Kind.STREAM if meta is not None and "window" in meta else Kind.CALL
    payload: tuple[Any, ...] = (target.reference.wire, arguments, keywords, meta)
    limit: int | None = meta.get("max_payload_bytes") if meta is not None else None
    try:
        if target.by_value:
            meta = {"timeout": None} | (meta or {}) | {"by_value": True, "name": target.name}
            data = dump_without_exits(pickle_by_value, (arguments, keywords))
            payload = (target.reference.wire, data, {}, meta)
        request = None
        if not looks_large(arguments, keywords):
            request = _encode_here(payload, kind, has_descriptors=has_descriptors)
        if request is None and not has_descriptors:
            body = await threads.run(dump_without_exits, dumps_with_files, payload)
            request = Request(body, None, len(body))
    except Exception as error:
        await threads.run(raise_argument_error, invocation, meta, error)
        raise
    if request is None:
        request = await _encode_large(invocation, payload, kind)
    elif limit is not None and request.size_bytes > limit:
        fail = partial(raise_size_error, has_descriptors=has_descriptors)
        await threads.run(fail, invocation, limit)
    return request


def _encode_here(payload: tuple[Any, ...], kind: int, *, has_descriptors: bool) -> Request | None:
    """Pickle a call on the event loop; None: it is too large for that."""
    if has_descriptors:
        made: Request | None = dump_without_exits(request_here, payload, kind)
        return made
    try:
        body = dump_without_exits(encode, payload)
    except TooLarge:
        return None
    return Request(body, None, len(body))


async def _encode_large(invocation: Invocation, payload: tuple[Any, ...], kind: int) -> Request:
    target, arguments, keywords, *_ = invocation
    if not target.by_value:
        reference, _, _, meta = payload
        whole = tuple(map(in_pieces, arguments))
        payload = (reference, whole, {k: in_pieces(v) for k, v in keywords.items()}, meta)
    limit: int | None = payload[3].get("max_payload_bytes") if payload[3] is not None else None
    try:
        encoding = threads.submit(dump_without_exits, request_in_thread, payload, kind, limit)
    except RuntimeError as error:
        raise _no_room(target, error) from error
    try:
        request: Request = await asyncio.wrap_future(encoding)
    except (asyncio.CancelledError, GeneratorExit):
        # The thread goes on; what it makes must be closed when it is made.
        if not encoding.cancel():
            encoding.add_done_callback(_close_unwanted)
        raise
    except TooManyBytes:
        assert limit is not None
        fail = partial(raise_size_error, has_descriptors=True)
        await threads.run(fail, invocation, limit)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            # Not the fault of an argument, and no time to pickle them all again to find one.
            raise _no_room(target, error) from error
        await threads.run(raise_argument_error, invocation, payload[3], error)
        raise
    return request


def _no_room(target: Target, error: Exception) -> ArgumentError:
    message = (
        f"{target.name} did not run: there is no room for its arguments, for want of memory, "
        f"space, descriptors or threads ({error})"
    )
    return ArgumentError(message, function=target.name)


async def decode_reply(frame: Frame, target: Target, limit: int | None = None) -> Any:
    """Unpickle what a worker replied, off the event loop where that would hold it.

    Args:
        frame: the reply, or an item.
        target: the function.
        limit: how many bytes a result may have that is data, and no pickle.

    Raises:
        ResultError: it does not unpickle here.
    """
    if frame.flags & Flag.DATA:
        from offload._pool.data_replies import data_value

        return await data_value(frame, target, limit)
    body, flags, descriptor = frame.body, frame.flags, frame.take_descriptor()
    try:
        if descriptor is not None:
            try:
                decoding = threads.submit(without_exits, decode_large, body, descriptor)
            except RuntimeError:  # no more threads
                os.close(descriptor)
                raise
            try:
                value = await asyncio.wrap_future(decoding)
            except asyncio.CancelledError:
                if decoding.cancel():  # no thread has come to it, nor to closing the file
                    os.close(descriptor)
                raise
            # A value that was pickled by value is bytes inside a large payload; what a worker
            # says of an error never is.
            is_by_value = target.by_value and isinstance(value, bytes)
            return without_exits(pickle.loads, value) if is_by_value else value
        if flags & Flag.RAW:
            return (
                body
                if not target.by_value
                else await threads.run(without_exits, pickle.loads, body)
            )
        if flags & Flag.SLOW:
            return await threads.run(without_exits, pickle.loads, body)
        return without_exits(pickle.loads, body)
    except Exception as error:
        raise bad_result(target, error) from error


async def decode_error(data: bytes) -> Exception | None:
    """Unpickle what a function raised, off the event loop if it is large.

    Returns:
        None if it does not unpickle here, or is nothing to be raised in a server.
    """
    try:
        if len(data) <= INLINE_BYTES:
            error = without_exits(pickle.loads, data)
        else:
            error = await threads.run(without_exits, loads_releasing_gil, data)
    except Exception:  # noqa: BLE001 - its class may not exist here
        return None
    return error if may_be_raised(error) else None


def _close_unwanted(encoding: Future[Request]) -> None:
    if not encoding.cancelled() and encoding.exception() is None:
        encoding.result().close()

"""Calls to bytes and replies to values; what is large goes through a thread and a file."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._pool.outcome import bad_result
from offload._pool.pickling_errors import fail_argument, fail_size
from offload._pool.target import pickle_by_value
from offload._wire.exceptions import may_be_raised
from offload._wire.frames import INLINE_BYTES, Flag, Kind, frame
from offload._wire.large import decode_large, dumps_with_files, encode_with_files
from offload._wire.payload import TRAY_BYTES, Parcel, has_trays, pack
from offload._wire.pickling import (
    TooLarge,
    TooManyBytes,
    encode,
    in_pieces,
    in_turns,
    tamed,
)
from offload._workers.keeper import threads
from offload.errors import ArgumentError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from offload._pool.target import Target

__all__ = [
    "Request",
    "close_file",
    "decode_error",
    "decode_reply",
    "encode_request",
    "glance_bytes",
    "is_small",
]

# A pickled call: its bytes, or what takes their place; the descriptor of the anonymous file that a
# large one is in, or None; its size in bytes. A tuple, not a class: this is on the path of each
# call.
Request = tuple["bytes | Parcel", "int | None", int]

# Pickling takes about two microseconds an element here, and the loop's budget is 1 ms.
_LARGE_LENGTH = 400
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})
_SCALARS = frozenset({int, float, bool, complex, type(None)})
_STRINGS = frozenset({str, bytes})
_TEXTS = frozenset({str, bytes, bytearray})
# Together less than what a frame holds.
_SMALL_LENGTH = 4096
_FEW = 8
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
            size > TRAY_BYTES or (kind is str and not argument.isascii())
        )
    size = getattr(argument, "nbytes", 0)
    return type(size) is int and size > INLINE_BYTES and not _is_quick(argument, size)


def _is_quick(argument: Any, size: int) -> bool:
    """Return whether an array or a view is in one piece that fits a tray."""
    if size > TRAY_BYTES:
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


def close_file(descriptor: int, size_bytes: int) -> None:
    """Close the file of a payload, off the event loop where that takes long."""
    # The last one to close it waits for its memory to be freed: 64 MiB take 5 ms.
    if size_bytes >= _SLOW_CLOSE_BYTES:
        with contextlib.suppress(RuntimeError):  # the interpreter ends: no more threads
            threads.submit(os.close, descriptor)
            return
    os.close(descriptor)


async def encode_request(
    target: Target,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    meta: dict[str, Any] | None,
    *,
    has_descriptors: bool,
) -> Request:
    """Pickle a call, off the event loop where that would hold it.

    Raises:
        ArgumentError: an argument does not pickle, or there is no room for it, or the arguments are
            larger than `max_payload_bytes`.
    """
    kind = Kind.STREAM if meta is not None and "window" in meta else Kind.CALL
    payload: tuple[Any, ...] = (target.reference.wire, arguments, keywords, meta)
    limit: int | None = meta.get("max_payload_bytes") if meta is not None else None
    try:
        if target.by_value:
            meta = {"timeout": None} | (meta or {}) | {"by_value": True, "name": target.name}
            payload = (target.reference.wire, pickle_by_value((arguments, keywords)), {}, meta)
        request = None
        if not looks_large(arguments, keywords):
            request = _encode_here(payload, kind, has_descriptors=has_descriptors)
        if request is None and not has_descriptors:
            body = await threads.run(dumps_with_files, payload)
            request = body, None, len(body)
    except Exception as error:
        await threads.run(fail_argument, target, arguments, keywords, meta, error)
        raise
    if request is None:
        request = await _encode_large(target, arguments, keywords, payload, kind)
    elif limit is not None and request[2] > limit:
        fail = partial(fail_size, has_descriptors=has_descriptors)
        await threads.run(fail, target, arguments, keywords, limit)
    return request


def _encode_here(payload: tuple[Any, ...], kind: int, *, has_descriptors: bool) -> Request | None:
    """Pickle a call on the event loop; None: it is too large for that."""
    try:
        if not has_descriptors:
            body = encode(payload)
            return body, None, len(body)
        packed = pack(payload) if has_trays() else encode(payload)
    except TooLarge:
        return None
    if isinstance(packed, bytes):
        return frame(kind, packed), None, len(packed)
    packed.kind = kind
    return packed, None, packed.size


async def _encode_large(
    target: Target,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    payload: tuple[Any, ...],
    kind: int,
) -> Request:
    if not target.by_value:
        reference, _, _, meta = payload
        whole = tuple(map(in_pieces, arguments))
        payload = (reference, whole, {k: in_pieces(v) for k, v in keywords.items()}, meta)
    limit: int | None = payload[3].get("max_payload_bytes") if payload[3] is not None else None
    try:
        encoding = threads.submit(encode_with_files, payload, limit)
    except RuntimeError as error:
        raise _no_room(target, error) from error
    try:
        body, descriptor, size, files = await asyncio.wrap_future(encoding)
    except (asyncio.CancelledError, GeneratorExit):
        # The thread goes on; what it makes must be closed when it is made.
        if not encoding.cancel():
            encoding.add_done_callback(_close_unwanted)
        raise
    except TooManyBytes:
        assert limit is not None
        fail = partial(fail_size, has_descriptors=True)
        await threads.run(fail, target, arguments, keywords, limit)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            # Not the fault of an argument, and no time to pickle them all again to find one.
            raise _no_room(target, error) from error
        await threads.run(fail_argument, target, arguments, keywords, payload[3], error)
        raise
    if not files:
        return frame(kind, body, Flag.LARGE), descriptor, size
    parcel = Parcel([], size)
    parcel.kind, parcel.body, parcel.files = kind, body, files
    return parcel, descriptor, size


def _no_room(target: Target, error: Exception) -> ArgumentError:
    message = (
        f"{target.name} did not run: there is no room for its arguments on the way to the "
        f"worker: {error}. Free memory, descriptors or threads, or send less at once"
    )
    return ArgumentError(message, function=target.name)


async def decode_reply(body: bytes, flags: int, descriptor: int | None, target: Target) -> Any:
    """Unpickle what a worker replied, off the event loop where that would hold it.

    Raises:
        ResultError: it does not unpickle here.
    """
    try:
        if descriptor is not None:
            try:
                decoding = threads.submit(tamed, decode_large, body, descriptor)
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
            return tamed(pickle.loads, value) if is_by_value else value
        if flags & Flag.RAW:
            return body if not target.by_value else await threads.run(tamed, pickle.loads, body)
        if flags & Flag.SLOW:
            return await threads.run(tamed, pickle.loads, body)
        return tamed(pickle.loads, body)
    except Exception as error:
        raise bad_result(target, error) from error


async def decode_error(data: bytes) -> Exception | None:
    """Unpickle what a function raised, off the event loop if it is large.

    Returns:
        None if it does not unpickle here, or is nothing to be raised in a server.
    """
    try:
        if len(data) <= INLINE_BYTES:
            error = tamed(pickle.loads, data)
        else:
            error = await threads.run(tamed, in_turns, data)
    except Exception:  # noqa: BLE001 - its class may not exist here
        return None
    return error if may_be_raised(error) else None


def _close_unwanted(encoding: Future[tuple[bytes, int, int, list[Any]]]) -> None:
    if not encoding.cancelled() and encoding.exception() is None:
        os.close(encoding.result()[1])

"""What workers reply whose pool has `results="data"`: read, and checked, and nothing unpickled.

Whoever comes here has a frame with `Flag.DATA`; a pool of that kind takes no others (see
`offload._workers.wary_assembler`).
"""

from __future__ import annotations

import asyncio
import os
import pickle
from itertools import product
from typing import TYPE_CHECKING, Any

from offload._pool.call_errors import FORGERY_ADVICE, check_reply, raise_reply
from offload._typed_json.coder import MismatchError
from offload._typed_json.results import coder_of_result, is_compiled
from offload._wire.data_errors import made_again
from offload._wire.data_format import BY_ANNOTATION, MOST_BYTES
from offload._wire.data_reader import DataError, read_data
from offload._wire.exceptions import summary
from offload._wire.frames import Kind
from offload._wire.large import layout_of
from offload._wire.pickling import MemorySource, without_exits
from offload._wire.source import FileSource
from offload._workers.keeper import threads
from offload.errors import ResultError

if TYPE_CHECKING:
    from offload._pool.target import Target
    from offload._wire.frames import Frame

__all__ = ["data_value", "numbers_in"]

# What is read on the event loop: some hundred microseconds at the worst, whatever it is.
_LOOP_BYTES = 8 * 1024
# Two numbers and what is around them.
_NUMBERS_BYTES = 256
_BY_ANNOTATION = bytes([BY_ANNOTATION])
_NUMBERS = frozenset(product((int, float), (int, float, type(None))))


async def data_value(frame: Frame, target: Target, limit: int | None) -> Any:
    """Return the result or the item that a frame holds, or raise what it says instead.

    Args:
        frame: of a worker that sends data.
        target: the function.
        limit: how many bytes the function may return; None: `MOST_BYTES`.

    Raises:
        ResultError: it is no data, for which the worker is killed; or it cannot be sent.
        Exception: what the function raised.
    """
    kind, sender = frame.kind, frame.sender
    body, descriptor = frame.body, frame.take_descriptor()
    most = MOST_BYTES if limit is None else limit
    try:
        if descriptor is not None:
            value = await _in_thread(_read_file, descriptor, body, most, kind, target)
        elif len(body) > _LOOP_BYTES or not _is_quick(body, kind, target):
            value = await threads.run(_read_body, body, kind, target)
        else:
            value = _read_body(body, kind, target)
    except DataError as error:
        sender.refuse(f"it sent what is no data: {error}")
        message = (
            f"{target.name} ran, but its worker sent what is no data, and is killed: {error}. "
            f"{FORGERY_ADVICE}"
        )
        raise ResultError(message, function=target.name) from None
    except Exception as error:
        message = f"{target.name} ran, but its result cannot be read here: {summary(error)}"
        raise ResultError(message, function=target.name) from error
    if kind in (Kind.RESULT, Kind.ITEM):
        return value
    try:
        _check(kind, value, target)
    except ResultError:
        sender.refuse("it sent a reply that no worker sends")
        raise
    try:
        _raise(kind, value, target, sender.errors)
    finally:
        value = None  # what it is raised as refers to this frame


def _is_quick(body: bytes, kind: int, target: Target) -> bool:
    """Return whether what is small can be made here: to compile an annotation takes long."""
    return body[:1] != _BY_ANNOTATION or is_compiled(target.function, is_item=kind == Kind.ITEM)


async def _in_thread(read: Any, descriptor: int, *arguments: Any) -> Any:
    try:
        reading = threads.submit(read, descriptor, *arguments)
    except RuntimeError:  # no more threads
        os.close(descriptor)
        raise
    try:
        return await asyncio.wrap_future(reading)
    except asyncio.CancelledError:
        if reading.cancel():  # no thread has come to it, nor to closing the file
            os.close(descriptor)
        raise


def _read_file(descriptor: int, body: bytes, most: int, kind: int, target: Target) -> Any:
    try:
        try:
            size, layout, _ = layout_of(body, descriptor)
        except pickle.UnpicklingError as error:
            raise DataError(str(error)) from None
        if size > most or layout:
            raise DataError(f"it has {size:,} bytes, more than {most:,}")
        return _made(*read_data(FileSource(descriptor, size)), kind, target)
    finally:
        os.close(descriptor)


def _read_body(body: bytes, kind: int, target: Target) -> Any:
    return _made(*read_data(MemorySource(body)), kind, target)


def _made(form: int, value: Any, kind: int, target: Target) -> Any:
    """Make what was sent the value that the function has returned."""
    if form != BY_ANNOTATION:
        return value
    if kind not in (Kind.RESULT, Kind.ITEM):
        raise DataError("only results are of a type")
    coder = coder_of_result(target.function, is_item=kind == Kind.ITEM)
    try:
        return without_exits(coder.decode, value)
    except MismatchError as error:
        place = "item" if kind == Kind.ITEM else "result"
        message = f"{place}{error.path} is {error.found}, not {error.expected}"
        raise TypeError(message) from None


def _check(kind: int, detail: Any, target: Target) -> None:
    """Check what came instead of a result, as `check_reply` does.

    Raises:
        ResultError: it is not what a worker says.
    """
    if type(detail) is tuple:
        if kind == Kind.RAISED:
            # Of the exception itself, `made_again` sees what it is.
            detail = None, *detail[1:]
        elif kind == Kind.RESULT_TOO_LARGE and detail[1:] == (None,):
            detail = detail[0], 0
    check_reply(kind, detail, target)


def _raise(kind: int, detail: Any, target: Target, known: dict[str, type[Exception]]) -> None:
    if kind == Kind.NOT_DATA:
        message = f"{target.name} ran, but its result cannot be sent back as data: {detail[0]}"
        raise ResultError(message, function=target.name)
    if kind == Kind.RESULT_TOO_LARGE and detail[1] is None:
        message = (
            f"{target.name} ran, but its result takes more than the {MOST_BYTES:,} bytes that are "
            'taken with results="data" unless max_payload_bytes says otherwise. Give it that, or '
            "return less, or in parts (`.stream`)"
        )
        raise ResultError(message, function=target.name)
    error = made_again(detail[0], known) if kind == Kind.RAISED else None
    try:
        raise_reply(kind, detail, target, error)
    finally:
        error = None  # its traceback refers to this frame


def numbers_in(frame: Frame) -> tuple[float, float | None]:
    """Return what a function has reported as its progress.

    Raises:
        DataError: it is none, for which the worker is killed.
    """
    try:
        return _numbers(frame.body)
    except DataError as error:
        frame.sender.refuse(f"it sent progress that is none: {error}")
        raise


def _numbers(body: bytes) -> tuple[float, float | None]:
    if len(body) > _NUMBERS_BYTES:
        raise DataError(f"it has {len(body):,} bytes")
    _, value = read_data(MemorySource(body))
    if type(value) is not tuple or tuple(map(type, value)) not in _NUMBERS:
        raise DataError("it is not two numbers")
    done, total = value
    return done, total

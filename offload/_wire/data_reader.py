"""Reads what `offload._wire.data_writer` writes, whoever has written it: nothing in it is believed.

What is made of it are values of the standard types that are named there, by this module. A segment
is parsed by `json`, which makes lists, dicts, texts and numbers; everything else by `_MAKERS`, one
function for each tag. Bounded are the size of a segment (the GIL is held meanwhile), the depth of
the whole (tuples are hashed without a look at the stack), how often a part is used (once: nothing
grows), ints, and keys of sets and dicts that collide.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import struct
import sys
import time
import uuid
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from offload._wire.data_format import HEADER, MOST_BITS, MOST_DEPTH, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from offload._wire.source import Source

__all__ = ["DataError", "read_data"]

_SIZE = struct.Struct("<Q")
# A writer of ours makes them a tenth as large.
_MOST_SEGMENT_BYTES = 256 * 1024
# Of JSON in one go. More than is ever read on an event loop, where nothing must wait for the GIL.
_UNBROKEN_BYTES = 12 * 1024
# Of brackets in JSON: up to four for a level of values.
_MOST_NESTED = 4 * (MOST_DEPTH + 2)
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_TEXT_BYTES = 256 * 1024
_NUMBERS_BYTES = 64 * 1024
# Fewer keys cost nothing, however they collide.
_FEW_KEYS = 256
_MOST_DIGITS = 4300
_MISSING: Any = object()


class DataError(Exception):
    """This is no data: a worker of ours would not have sent it."""


def read_data(source: Source) -> tuple[int, Any]:
    """Return the form and the value that `encode_data` was given.

    Raises:
        DataError: this is none.
    """
    try:
        return _read(source)
    except (RecursionError, MemoryError):
        raise  # of this process
    except DataError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, struct.error) as error:
        raise DataError(f"{type(error).__name__}: {error!s:.200}") from None


def _read(source: Source) -> tuple[int, Any]:
    form, segments, buffers = HEADER.unpack(source.read(HEADER.size))
    table = source.read(_SIZE.size * (segments + buffers))
    sizes = [size for (size,) in _SIZE.iter_unpack(table)]
    if len(sizes) != segments + buffers or sum(sizes) != source.end - source.position:
        raise DataError("its parts are not as large as it says")
    reader = _Reader([source.read(size) for size in sizes[:buffers]])
    value: Any = _MISSING
    unbroken = 0
    for size in sizes[buffers:]:
        if size > _MOST_SEGMENT_BYTES:
            raise DataError(f"a part of it has {size:,} bytes")
        value = reader.segment(source.read(size))
        unbroken += size
        if unbroken > _UNBROKEN_BYTES:
            time.sleep(0)  # let others have the GIL, if they wait for it
            unbroken = 0
    if value is _MISSING or reader.unused():
        raise DataError("there is no value in it, or more than one")
    return form, value


def _depth_of(data: bytes) -> int:
    """Return how deep brackets are nested in some JSON."""
    # A text may have brackets as well, and quotes that are escaped. (A backslash outside of texts
    # is an error to the parser, which comes to nothing behind it.)
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most texts are two quotes now, without which what is in other texts is still between quotes.
    brackets = data.translate(None, _NO_MARKS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    depth = 0
    while brackets:
        depth += 1
        if depth > _MOST_NESTED:
            break
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(brackets):
            raise DataError("it has brackets that do not match")
        brackets = inner
    return depth


class _Reader:
    """The parts that were read, each of which is used once."""

    def __init__(self, buffers: list[bytes]) -> None:
        self._buffers: list[Any] = list(buffers)
        self._left = len(buffers)
        self._pieces: list[Any] = []
        # How deep each of them is nested.
        self._depths: list[int] = []
        self._deepest = 0
        has_limit = 0 < sys.get_int_max_str_digits() <= _MOST_DIGITS
        self._parse = json.JSONDecoder(
            object_hook=self._made, parse_int=None if has_limit else _int_of
        ).decode

    def segment(self, data: bytes) -> Any:
        """Parse a segment; its value may be part of that of a later one."""
        self._deepest = 0
        # Before it is parsed. What it refers to adds to it, which is known after that.
        depth = _depth_of(data)
        if depth > _MOST_NESTED:
            raise DataError("it is nested too deeply")
        value = self._parse(str(data, "utf-8", "surrogatepass"))
        if depth + self._deepest > _MOST_NESTED:
            raise DataError("it is nested too deeply")
        self._pieces.append(value)
        self._depths.append(depth + self._deepest)
        self._left += 1
        return value

    def unused(self) -> bool:
        """Return whether anything is in no value, but for the last segment."""
        return self._left != 1

    def _made(self, found: dict[str, Any]) -> Any:
        if "$" not in found:
            return found
        tag, *arguments = found["$"]
        if len(found) != 1 or type(found["$"]) is not list:
            raise DataError("it has a tag beside something else")
        return _MAKERS[tag](self, *arguments)

    def pieces(self, numbers: Any) -> Iterable[Any]:
        """Return the values of some segments, for good."""
        if type(numbers) is not list:
            raise DataError("it refers to what is no part of it")
        for number in numbers:
            yield self._taken(self._pieces, number)
            self._deepest = max(self._deepest, self._depths[number])

    def buffer(self, number: Any) -> bytes:
        """Return a buffer, for good."""
        data: bytes = self._taken(self._buffers, number)
        return data

    def _taken(self, parts: list[Any], number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(parts):
            raise DataError("it refers to what is no part of it")
        taken, parts[number] = parts[number], _MISSING
        if taken is _MISSING:
            raise DataError("it uses a part twice")
        self._left -= 1
        return taken


def _int_of(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise DataError(f"a number has more than {_MOST_DIGITS} digits")
    return int(text)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise DataError(f"it has a {type(value).__name__} for a {kind.__name__}")
    return value


def _joined(reader: _Reader, numbers: Any) -> list[Any]:
    made: list[Any] = []
    for piece in reader.pieces(numbers):
        made += _of(list, piece)
    return made


def _checked(keys: list[Any]) -> list[Any]:
    """Return keys whose hashes differ, as those do that nobody has made on purpose."""
    if len(keys) > _FEW_KEYS and len(set(map(hash, keys))) * 4 < len(keys):
        raise DataError("it has keys that collide")
    return keys


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    keys = _checked([key for key, _ in pairs])
    return dict(zip(keys, [value for _, value in pairs], strict=True))


def _object_of(reader: _Reader, numbers: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for piece in reader.pieces(numbers):
        made |= _of(dict, piece)
    return made


def _int(_: _Reader, text: Any) -> int:
    if len(_of(str, text)) > MOST_BITS // 4 + 1:
        raise DataError("an int is too large")
    return int(text, 16)


def _complex(_: _Reader, real: Any, imaginary: Any) -> complex:
    return complex(_of(float, real), _of(float, imaginary))


def _text_at(reader: _Reader, number: Any) -> str:
    data = reader.buffer(number)
    if len(data) <= _TEXT_BYTES:
        return str(data, "utf-8", "surrogatepass")
    # In pieces, so that the GIL goes round.
    from codecs import getincrementaldecoder

    decoder = getincrementaldecoder("utf-8")("surrogatepass")
    view = memoryview(data)
    starts = range(0, len(data), _TEXT_BYTES)
    texts = [decoder.decode(view[at : at + _TEXT_BYTES]) for at in starts]
    texts.append(decoder.decode(b"", final=True))
    return "".join(texts)


def _numbers_at(reader: _Reader, number: Any, form: str) -> list[Any]:
    data = reader.buffer(number)
    if len(data) % _SIZE.size:
        raise DataError("it has part of a number")
    made: list[Any] = []
    # In pieces, as texts are.
    for at in range(0, len(data), _NUMBERS_BYTES):
        count = min(_NUMBERS_BYTES, len(data) - at) // _SIZE.size
        made += struct.unpack_from(f"<{count}{form}", data, at)
    return made


def _datetime(_: _Reader, text: Any, fold: Any) -> dt.datetime:
    return dt.datetime.fromisoformat(_of(str, text)).replace(fold=_of(int, fold))


def _time(_: _Reader, text: Any, fold: Any) -> dt.time:
    return dt.time.fromisoformat(_of(str, text)).replace(fold=_of(int, fold))


def _delta(_: _Reader, *parts: Any) -> dt.timedelta:
    days, seconds, microseconds = (_of(int, part) for part in parts)
    return dt.timedelta(days, seconds, microseconds)


_MAKERS: dict[str, Callable[..., Any]] = {
    Tag.TUPLE: lambda _, items: tuple(_of(list, items)),
    Tag.SET: lambda _, items: set(_checked(_of(list, items))),
    Tag.FROZENSET: lambda _, items: frozenset(_checked(_of(list, items))),
    Tag.DICT: lambda _, pairs: _dict(_of(list, pairs)),
    Tag.LIST_OF: _joined,
    Tag.TUPLE_OF: lambda reader, numbers: tuple(_joined(reader, numbers)),
    Tag.SET_OF: lambda reader, numbers: set(_checked(_joined(reader, numbers))),
    Tag.FROZENSET_OF: lambda reader, numbers: frozenset(_checked(_joined(reader, numbers))),
    Tag.DICT_OF: lambda reader, numbers: _dict(_joined(reader, numbers)),
    Tag.OBJECT_OF: _object_of,
    Tag.INT: _int,
    Tag.COMPLEX: _complex,
    Tag.BYTES: lambda _, text: b64decode(_of(str, text), validate=True),
    Tag.BYTEARRAY: lambda _, text: bytearray(b64decode(_of(str, text), validate=True)),
    Tag.BYTES_AT: lambda reader, number: reader.buffer(number),
    Tag.BYTEARRAY_AT: lambda reader, number: bytearray(reader.buffer(number)),
    Tag.TEXT_AT: _text_at,
    Tag.FLOATS_AT: lambda reader, number: _numbers_at(reader, number, "d"),
    Tag.INTS_AT: lambda reader, number: _numbers_at(reader, number, "q"),
    Tag.DATETIME: _datetime,
    Tag.DATE: lambda _, text: dt.date.fromisoformat(_of(str, text)),
    Tag.TIME: _time,
    Tag.DELTA: _delta,
    Tag.DECIMAL: lambda _, text: decimal.Decimal(_of(str, text)),
    Tag.UUID: lambda _, text: uuid.UUID(hex=_of(str, text)),
}

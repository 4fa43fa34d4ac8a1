"""Writes values as data; see `offload._wire.data_format`."""

from __future__ import annotations

import datetime as dt
import json
import sys
from base64 import b64encode

from offload._wire.data_format import HEADER, MOST_BITS, MOST_BYTES, MOST_DEPTH, PLAIN, Tag
from offload._wire.data_plain import (
    LEAST_CHARACTERS,
    LONG_LIST,
    LONG_TEXT,
    NUMBER_CHARACTERS,
    PLAIN_INT,
    are_names,
    number_format,
    plain_size,
)
from offload._wire.lean import struct
from offload._wire.not_data import NotDataError, check_zone, described, shown
from offload._wire.pickling import TooManyBytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

__all__ = ["Encoded", "NotDataError", "encode_data", "written"]

# Characters of JSON, about, before what there is of a container is made a segment.
_SEGMENT_CHARACTERS = 16 * 1024
# More bytes are buffers.
_INLINE_BYTES = 1024
_TAG_CHARACTERS = 16
# Of one container. What lists them is a segment itself.
_MOST_SEGMENTS = 30_000
_TOO_MANY = "of more values than one container may have", "Return it in parts, or as bytes."
# Below this it takes longer to ask of all at once than to look at each of them.
_FEW = 8
# How many values are asked of at once: at first, and at most.
_FIRST_RUN = 64
_LONGEST_RUN = 4096
# How many numbers are packed at once.
_NUMBERS = 8192

_to_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class Encoded:
    """A value as data: the parts to send, one after the other."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: list[bytes], size: int) -> None:
        self.parts = parts
        self.size = size


def encode_data(value: object, *, form: int = PLAIN, limit: int = MOST_BYTES) -> Encoded:
    """Write a value as data.

    Args:
        value: anything.
        form: `PLAIN` or `BY_ANNOTATION`.
        limit: how many bytes it may be.

    Raises:
        NotDataError: it is none, or something in it.
        TooManyBytes: it takes more; of how many it would take, so much was written.
    """
    writer = _Writer(limit)
    tree = writer.tree(value, 0)
    writer.flush(tree)
    segments, buffers = writer.segments, writer.buffers
    head = HEADER.pack(form, len(segments), len(buffers))
    sizes = [len(part) for part in (*buffers, *segments)]
    head += struct.pack(f"<{len(sizes)}Q", *sizes)
    size = len(head) + writer.written
    if size > limit:
        raise TooManyBytes(size)
    return Encoded([head, *buffers, *segments], size)


def written(value: object) -> bytes:
    """Return a small value as data, in one piece."""
    return b"".join(encode_data(value).parts)


class _Writer:
    """Makes of a value what JSON can hold, and segments and buffers beside it."""

    def __init__(self, limit: int) -> None:
        self.segments: list[bytes] = []
        self.buffers: list[bytes] = []
        self.written = 0
        self._limit = limit
        # Characters of JSON, about, of what is in no segment yet.
        self._pending = 0

    def tree(self, value: Any, depth: int) -> Any:
        """Return what stands for a value in JSON."""
        kind = type(value)
        if kind is str:
            if len(value) > LONG_TEXT:
                return self._buffer(Tag.TEXT_AT, value.encode("utf-8", "surrogatepass"))
            self._pending += len(value) + LEAST_CHARACTERS
            return value
        if kind is float or kind is bool or value is None:
            self._pending += NUMBER_CHARACTERS
            return value
        if kind is int:
            self._pending += NUMBER_CHARACTERS
            return value if -PLAIN_INT <= value < PLAIN_INT else self._int(value)
        write = _WRITERS.get(kind) or _late_writer(kind)
        if write is None:
            raise NotDataError(described(value), _advice(kind))
        if depth > MOST_DEPTH:
            raise NotDataError(f"nested more than {MOST_DEPTH} deep", "Is it inside itself?")
        self._pending += LEAST_CHARACTERS
        return write(self, value, depth + 1)

    def flush(self, tree: Any) -> int:
        """Make a segment; return its number."""
        data = _to_json(tree).encode("utf-8", "surrogatepass")
        self._count(len(data))
        self.segments.append(data)
        return len(self.segments) - 1

    def _count(self, size: int) -> None:
        self.written += size
        if self.written > self._limit:
            raise TooManyBytes(self.written)

    def _buffer(self, tag: str, data: bytes) -> Any:
        self._count(len(data))
        self.buffers.append(data)
        return self._tagged(tag, len(self.buffers) - 1)

    def _tagged(self, tag: str, *arguments: Any) -> Any:
        self._pending += _TAG_CHARACTERS
        return {"$": [tag, *arguments]}

    def _segment(self, items: Any, numbers: list[int], start: int) -> None:
        """Make a segment of part of a container; `start`: of what is before the container."""
        numbers.append(self.flush(items))
        if len(numbers) > _MOST_SEGMENTS:
            raise NotDataError(*_TOO_MANY)
        self._pending = start + _TAG_CHARACTERS * len(numbers)

    def _items(self, values: list[Any], depth: int) -> tuple[list[Any], list[int]]:
        """Return what stands for the last items, and the segments of those before them."""
        start, tree = self._pending, self.tree
        numbers: list[int] = []
        items: list[Any] = []
        end = index = 0
        try:
            for run, is_plain in self._runs(values, depth):
                end += len(run)
                if is_plain:
                    items += run
                    if self._pending - start > _SEGMENT_CHARACTERS:
                        self._segment(items, numbers, start)
                        items = []
                    continue
                for index, value in enumerate(run, end - len(run)):  # noqa: B007 - for the path
                    items.append(tree(value, depth))
                    if self._pending - start > _SEGMENT_CHARACTERS:
                        self._segment(items, numbers, start)
                        items = []
        except NotDataError as error:
            raise error.within(f"[{index}]") from None
        if numbers and items:
            self._segment(items, numbers, start)
        return items, numbers

    def _runs(
        self, values: list[Any], depth: int, names: list[str] | None = None
    ) -> Iterator[tuple[list[Any], bool]]:
        """Yield values as runs, and of each whether JSON holds it as it is; count such a run.

        With the names of the values, these are counted as well.
        """
        if len(values) <= _FEW:
            yield values, False
            return
        at, step = 0, _FIRST_RUN
        while at < len(values):
            run = values[at : at + step]
            size = plain_size(run, _SEGMENT_CHARACTERS, MOST_DEPTH - depth)
            if size is not None and names is not None:
                size += len(run) * LEAST_CHARACTERS + sum(map(len, names[at : at + step]))
            if size is not None and size > _SEGMENT_CHARACTERS and len(run) > 1:
                step = max(len(run) // 4, 1)
                continue
            is_plain = size is not None and size <= _SEGMENT_CHARACTERS
            if is_plain:
                assert size is not None
                self._pending += size
                # So that a run is about a segment.
                step = min(max(len(run) * _SEGMENT_CHARACTERS // max(size, 1), 1), _LONGEST_RUN)
            at += len(run)
            yield run, is_plain

    def write_list(self, value: list[Any], depth: int) -> Any:
        """Write a list."""
        if len(value) > LONG_LIST and (form := number_format(value)):
            return self._numbers(value, form)
        items, numbers = self._items(value, depth)
        return self._tagged(Tag.LIST_OF, numbers) if numbers else items

    def _numbers(self, value: list[Any], form: str) -> Any:
        """Write numbers of one type as what they are in memory."""
        starts = range(0, len(value), _NUMBERS)
        runs = (value[start : start + _NUMBERS] for start in starts)
        data = b"".join([struct.pack(f"<{len(run)}{form}", *run) for run in runs])
        return self._buffer(Tag.FLOATS_AT if form == "d" else Tag.INTS_AT, data)

    def _list_of(self, value: Iterable[Any], depth: int) -> tuple[list[Any], list[int]]:
        """As `_items`, for what is no list itself."""
        values = list(value)
        if len(values) > LONG_LIST and (form := number_format(values)):
            return [], [self.flush(self._numbers(values, form))]
        return self._items(values, depth)

    def write_tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        """Write a tuple."""
        items, numbers = self._list_of(value, depth)
        return self._tagged(Tag.TUPLE_OF, numbers) if numbers else self._tagged(Tag.TUPLE, items)

    def write_set(self, value: set[Any], depth: int) -> Any:
        """Write a set."""
        items, numbers = self._list_of(value, depth)
        return self._tagged(Tag.SET_OF, numbers) if numbers else self._tagged(Tag.SET, items)

    def write_frozenset(self, value: frozenset[Any], depth: int) -> Any:
        """Write a frozenset."""
        items, numbers = self._list_of(value, depth)
        if numbers:
            return self._tagged(Tag.FROZENSET_OF, numbers)
        return self._tagged(Tag.FROZENSET, items)

    def write_dict(self, value: dict[Any, Any], depth: int) -> Any:
        """Write a dict: as an object if its keys are short texts, else as pairs."""
        if are_names(value):
            return self._object(value, depth)
        start, tree = self._pending, self.tree
        numbers: list[int] = []
        pairs: list[Any] = []
        key: Any = None
        try:
            for key, inner in value.items():
                pairs.append((tree(key, depth), tree(inner, depth)))
                if self._pending - start > _SEGMENT_CHARACTERS:
                    self._segment(pairs, numbers, start)
                    pairs = []
        except NotDataError as error:
            raise error.within(f"[{shown(key)}]") from None
        if not numbers:
            return self._tagged(Tag.DICT, pairs)
        if pairs:
            self._segment(pairs, numbers, start)
        return self._tagged(Tag.DICT_OF, numbers)

    def _object(self, value: dict[str, Any], depth: int) -> Any:
        start, tree = self._pending, self.tree
        numbers: list[int] = []
        made: dict[str, Any] = {}
        names = list(value)
        end = 0
        key = ""
        try:
            for run, is_plain in self._runs(list(value.values()), depth, names):
                entries = zip(names[end : end + len(run)], run, strict=True)
                end += len(run)
                if is_plain:
                    made.update(entries)
                    if self._pending - start > _SEGMENT_CHARACTERS:
                        self._segment(made, numbers, start)
                        made = {}
                    continue
                for key, inner in entries:
                    self._pending += len(key) + LEAST_CHARACTERS
                    made[key] = tree(inner, depth)
                    if self._pending - start > _SEGMENT_CHARACTERS:
                        self._segment(made, numbers, start)
                        made = {}
        except NotDataError as error:
            raise error.within(f"[{shown(key)}]") from None
        if not numbers:
            return made
        if made:
            self._segment(made, numbers, start)
        return self._tagged(Tag.OBJECT_OF, numbers)

    def write_bytes(self, value: bytes, _: int) -> Any:
        """Write bytes."""
        if len(value) > _INLINE_BYTES:
            return self._buffer(Tag.BYTES_AT, value)
        return self._base64(Tag.BYTES, value)

    def write_bytearray(self, value: bytearray, _: int) -> Any:
        """Write a bytearray."""
        if len(value) > _INLINE_BYTES:
            return self._buffer(Tag.BYTEARRAY_AT, bytes(value))
        return self._base64(Tag.BYTEARRAY, value)

    def _base64(self, tag: str, value: bytes | bytearray) -> Any:
        text = b64encode(value).decode("ascii")
        self._pending += len(text)
        return self._tagged(tag, text)

    def _int(self, value: int) -> Any:
        if value.bit_length() > MOST_BITS:
            raise NotDataError(f"an int of more than {MOST_BITS:,} bits")
        text = f"{value:x}"
        self._pending += len(text)
        return self._tagged(Tag.INT, text)

    def write_complex(self, value: complex, _: int) -> Any:
        """Write a complex number."""
        self._pending += 2 * NUMBER_CHARACTERS
        return self._tagged(Tag.COMPLEX, value.real, value.imag)

    def write_datetime(self, value: dt.datetime, _: int) -> Any:
        """Write an instant, or a time of a day."""
        check_zone(value.tzinfo)
        self._pending += 2 * NUMBER_CHARACTERS
        return self._tagged(Tag.DATETIME, value.isoformat(), value.fold)

    def write_date(self, value: dt.date, _: int) -> Any:
        """Write a day."""
        return self._tagged(Tag.DATE, value.isoformat())

    def write_time(self, value: dt.time, _: int) -> Any:
        """Write a time of day."""
        check_zone(value.tzinfo)
        self._pending += 2 * NUMBER_CHARACTERS
        return self._tagged(Tag.TIME, value.isoformat(), value.fold)

    def write_timedelta(self, value: dt.timedelta, _: int) -> Any:
        """Write a duration."""
        self._pending += 2 * NUMBER_CHARACTERS
        return self._tagged(Tag.DELTA, value.days, value.seconds, value.microseconds)

    def write_decimal(self, value: Any, depth: int) -> Any:
        """Write a decimal number."""
        return self._tagged(Tag.DECIMAL, self.tree(str(value), depth))

    def write_uuid(self, value: Any, _: int) -> Any:
        """Write a UUID."""
        self._pending += 2 * NUMBER_CHARACTERS
        return self._tagged(Tag.UUID, value.hex)


_WRITERS: dict[type, Callable[[_Writer, Any, int], Any]] = {
    list: _Writer.write_list,
    tuple: _Writer.write_tuple,
    dict: _Writer.write_dict,
    set: _Writer.write_set,
    frozenset: _Writer.write_frozenset,
    bytes: _Writer.write_bytes,
    bytearray: _Writer.write_bytearray,
    complex: _Writer.write_complex,
    dt.datetime: _Writer.write_datetime,
    dt.date: _Writer.write_date,
    dt.time: _Writer.write_time,
    dt.timedelta: _Writer.write_timedelta,
}
# Of modules that are imported only where somebody uses them.
_LATE_WRITERS: dict[tuple[str, str], Callable[[_Writer, Any, int], Any]] = {
    ("decimal", "Decimal"): _Writer.write_decimal,
    ("uuid", "UUID"): _Writer.write_uuid,
}


def _late_writer(kind: type) -> Callable[[_Writer, Any, int], Any] | None:
    for (module, name), write in _LATE_WRITERS.items():
        if getattr(sys.modules.get(module), name, None) is kind:
            _WRITERS[kind] = write
            return write
    return None


def _advice(kind: type) -> str:
    for base in kind.__mro__:
        if base in _WRITERS or base in (str, int, float, bool):
            return f"Return {_described_type(base)}, as {base.__name__}(value) makes it."
    if hasattr(kind, "tolist") and hasattr(kind, "tobytes"):
        return "Return value.tolist(), or value.tobytes() with what its reader must know."
    return ""


def _described_type(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'aeiou' else 'a'} {kind.__name__}"

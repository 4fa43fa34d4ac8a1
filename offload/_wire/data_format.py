"""Values as data: what workers of a pool with `results="data"` say, and their server reads.

    │ form │ segments │ buffers │ sizes of buffers, then of segments │ buffers │ segments │

A segment is JSON of some 16 KiB, the last one the value itself, the others parts of its large
containers: so whoever reads it gives up the GIL in between, and what is large is read in a thread.
Long texts, large `bytes` and many numbers of one type are buffers, which are copied and not parsed.
What JSON has not is an object of one key, `{"$": [tag, …]}`; a dict that has such a key itself is
written as pairs.

    values:  None, bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset,
             dict, datetime, date, time, timedelta, Decimal, UUID; of exactly these types

What comes back is equal and of the same types. Objects that are in a value twice come back as two.

Nothing is imported, looked up or called by a name from the data, and whatever is sent ends in a
value of these types or in a `DataError`: see `offload._wire.data_reader`.
"""

from __future__ import annotations

from offload._wire.lean import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["BY_ANNOTATION", "HEADER", "MOST_BITS", "MOST_BYTES", "MOST_DEPTH", "PLAIN", "Tag"]

# The form, for who reads the value; how many segments and buffers there are. After it the size of
# each, as 8 bytes.
HEADER = struct.Struct("<BII")
PLAIN = 0
# The value is JSON of `offload._typed_json`, by the annotation of the function that returned it.
BY_ANNOTATION = 1
# How deep values may be nested. Deep enough for any document, and far from the interpreter's limit.
MOST_DEPTH = 100
# Of an int. More than anybody computes with by mistake, and quick to read.
MOST_BITS = 1 << 17
# Where nobody has said `max_payload_bytes`: what is read takes up to twenty times as much memory.
MOST_BYTES = 256 << 20


class Tag:
    """What stands for a value that JSON has not; where it is made of segments, in upper case."""

    TUPLE: Final = "t"
    SET: Final = "s"
    FROZENSET: Final = "f"
    # Pairs of keys and values.
    DICT: Final = "d"
    TUPLE_OF: Final = "T"
    SET_OF: Final = "S"
    FROZENSET_OF: Final = "F"
    DICT_OF: Final = "D"
    LIST_OF: Final = "L"
    # Objects of JSON.
    OBJECT_OF: Final = "O"
    INT: Final = "i"
    COMPLEX: Final = "c"
    BYTES: Final = "b"
    BYTEARRAY: Final = "y"
    # The number of a buffer.
    BYTES_AT: Final = "B"
    BYTEARRAY_AT: Final = "Y"
    TEXT_AT: Final = "U"
    # Of numbers, 8 bytes each.
    FLOATS_AT: Final = "R"
    INTS_AT: Final = "Z"
    DATETIME: Final = "when"
    DATE: Final = "date"
    TIME: Final = "time"
    DELTA: Final = "span"
    DECIMAL: Final = "dec"
    UUID: Final = "uuid"

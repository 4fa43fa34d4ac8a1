"""What workers run that sends pickles, or what no worker sends, to a server that reads data only.

It imports little: its workers die of it, and others take their place.
"""

import enum
import gc
import mmap
import os
import pickle
import sys
import time
from collections.abc import Iterator
from typing import Any

from offload._wire.data_writer import encode_data, written
from offload._wire.frames import Flag, Kind, pack_descriptors
from offload._wire.memory_file import anonymous_file, seal
from offload._wire.page import BUFFER_BYTES, FROM_WORKER
from tests.support.functions.intruders import END_SECONDS, frame, own_socket


class Color(enum.Enum):
    RED = "red"


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def bomb(path: str) -> bytes:
    """Return a pickle that makes a file."""
    return pickle.dumps((Touch(path), None), 5)


def _file_of(data: bytes) -> int:
    fd = anonymous_file()
    os.write(fd, data)
    seal(fd)
    return fd


def _large_body(size: int) -> bytes:
    return size.to_bytes(8, "little") + bytes(8)


def _in_frame(kind: int, data: bytes, flags: int) -> None:
    own_socket().sendall(frame(kind, data, flags))


def _in_file(kind: int, data: bytes, flags: int) -> None:
    fd = _file_of(data)
    own_socket().sendmsg(
        [frame(kind, _large_body(len(data)), flags | Flag.LARGE)], pack_descriptors(fd)
    )


def _in_buffer(kind: int, data: bytes, flags: int) -> None:
    # As code that looks through the memory of its process finds it.
    (shared,) = [
        each
        for each in gc.get_objects()
        if type(each) is mmap.mmap and not each.closed and len(each) > BUFFER_BYTES
    ]
    shared[FROM_WORKER : FROM_WORKER + len(data)] = data
    own_socket().sendall(frame(kind, len(data).to_bytes(4, "little"), flags | Flag.SHARED))


_WAYS = {"frame": _in_frame, "file": _in_file, "buffer": _in_buffer}


def forge(kind: int, way: str, flags: int, path: str) -> None:
    """Send a pickle as a frame of some kind, by some way, and wait to be ended for it."""
    _WAYS[way](kind, bomb(path), flags)
    time.sleep(END_SECONDS)


def forge_within_data(path: str) -> None:
    """Reply with an exception as pools send it that read pickles, in what is data as a whole."""
    detail = bomb(path), "builtins.ValueError", "text", "traceback"
    _in_frame(Kind.RAISED, written(detail), Flag.DATA)
    time.sleep(END_SECONDS)


def forge_stream(path: str, flags: int) -> Iterator[int]:
    """Yield an item, and send another that is a pickle."""
    yield 1
    _in_frame(Kind.ITEM, bomb(path), flags)
    time.sleep(END_SECONDS)


def forge_value(kind: int, detail: Any) -> None:
    """Reply with data that no worker replies with."""
    _in_frame(kind, written(detail), Flag.DATA)
    time.sleep(END_SECONDS)


def forge_typed(value: Any) -> None:
    """Return something as if the annotation said how it is to be made."""
    _in_frame(Kind.RESULT, b"".join(encode_data(value, form=1).parts), Flag.DATA)
    time.sleep(END_SECONDS)


def forge_typed_color(value: Any) -> Color:
    """As `forge_typed`, where the annotation says something."""
    forge_typed(value)
    return Color.RED


def reply_more_than_allowed(size: int) -> None:
    """Reply with more than the caller takes."""
    _in_file(Kind.RESULT, written(bytes(size)), Flag.DATA)
    time.sleep(END_SECONDS)


def reply_text_more_than_allowed() -> None:
    """Reply as an attempt of a job does, with more than a store takes."""
    _in_file(Kind.RESULT, written(('"' + "x" * (4 << 20) + '"', 0)), Flag.DATA)
    time.sleep(END_SECONDS)


def log_forged(path: str, flags: int) -> None:
    """Send a pickle as a log record."""
    _in_frame(Kind.LOG, bomb(path), flags)
    time.sleep(END_SECONDS)


def log_fields(fields: dict[str, Any]) -> None:
    """Send a log record that is data, and no record that a worker makes."""
    _in_frame(Kind.LOG, written(fields), Flag.DATA)


def forge_at_start(path: str, flags: int) -> None:
    """Be an initializer that sends a pickle as a log record before its worker is ready."""
    _in_frame(Kind.LOG, bomb(path), flags)
    if "offload._child.data_serving" in sys.modules:
        time.sleep(END_SECONDS)

"""What a server takes of what its workers send: nothing that they say is believed.

What runs in a worker is code of others, which has the worker's socket: it may send anything. Taken
is what one of our workers would send, and of that no more than keeps an event loop busy for less
than a millisecond. Anything else ends the connection, and the worker.
"""

from __future__ import annotations

import errno
import socket as sockets
import struct
from typing import TYPE_CHECKING, Any, Final

from offload._wire.frames import HEADER, WORKER_BODY_BYTES, Assembler, Flag, Frame, Kind
from offload._wire.memory_file import can_seal, sealed_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BrokenProtocolError", "DataAssembler", "WaryAssembler"]

_HEADER_BYTES = HEADER.size
_unpack_header = HEADER.unpack_from
_UNANNOUNCED = "it sent descriptors that it had not announced"


class BrokenProtocolError(OSError):
    """A worker has sent what none of ours sends; it is not listened to any more."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EPROTO, what)


# Replies that are no values.
_OTHER_REPLIES = (
    Kind.RESULT_TOO_LARGE,
    Kind.OVER_MEMORY,
    Kind.RAISED,
    Kind.BAD_ARGUMENT,
    Kind.BAD_RESULT,
    Kind.NOT_FOUND,
)
# What does not end a task.
_NEWS = (Kind.PROGRESS, Kind.LOG)


def _flags() -> tuple[frozenset[int], ...]:
    """Return, by kind, the flags with which a worker may send a frame; of most kinds, none."""
    nothing = frozenset({0})
    values = frozenset(
        {
            0,
            Flag.LARGE,
            Flag.SHARED,
            Flag.SLOW,
            Flag.SLOW | Flag.SHARED,
            Flag.RAW | Flag.SHARED,
        }
    )
    replies = dict.fromkeys(_OTHER_REPLIES, frozenset({0, Flag.LARGE}))
    replies |= {Kind.RESULT: values, Kind.END: nothing}
    known = _may_recycle(replies)
    known |= {Kind.ITEM: values}
    known |= dict.fromkeys((*_NEWS, Kind.TRACK), nothing)
    return _by_kind(known)


def _data_flags() -> tuple[frozenset[int], ...]:
    """Return the same for a worker that sends data: what may be no pickle says that it is none."""
    nothing = frozenset({Flag.DATA})
    values = frozenset({Flag.DATA, Flag.DATA | Flag.LARGE, Flag.DATA | Flag.SHARED})
    replies = dict.fromkeys((*_OTHER_REPLIES, Kind.NOT_DATA, Kind.RESULT), values)
    replies |= {Kind.END: nothing}
    known = _may_recycle(replies)
    known |= {Kind.ITEM: values}
    known |= dict.fromkeys(_NEWS, nothing)
    known |= {Kind.TRACK: frozenset({0})}
    return _by_kind(known)


def _may_recycle(replies: dict[int, frozenset[int]]) -> dict[int, frozenset[int]]:
    return {
        kind: flags | {each | Flag.RECYCLE for each in flags} for kind, flags in replies.items()
    }


def _by_kind(known: dict[int, frozenset[int]]) -> tuple[frozenset[int], ...]:
    return tuple(known.get(kind, frozenset()) for kind in range(256))


_FLAGS: Final = _flags()
_DATA_FLAGS: Final = _data_flags()
_AT_START = dict.fromkeys((Kind.TRACK, Kind.READY, Kind.START_FAILED), frozenset({0}))
_FLAGS_AT_START: Final = _by_kind(_AT_START | {Kind.LOG: frozenset({0})})
_DATA_FLAGS_AT_START: Final = _by_kind(_AT_START | {Kind.LOG: frozenset({Flag.DATA})})


class WaryAssembler(Assembler):
    """Makes frames of what a worker sends, as long as that is what workers send.

    A frame is of a kind that there is, with flags that go with it, and no larger than
    `WORKER_BODY_BYTES`. A descriptor comes only where one is announced, and is that of a file in
    memory that nobody can make shorter.
    """

    __slots__ = ("_flags",)

    # For one, and not for thousands.
    _ancillary_bytes = (
        sockets.CMSG_SPACE(struct.calcsize("=i")) if hasattr(sockets, "CMSG_SPACE") else 0
    )

    def __init__(self) -> None:
        super().__init__()
        self._flags = _FLAGS_AT_START

    def expect_replies(self) -> None:
        """Take note that the worker is ready: it replies to tasks from now on, and only that."""
        self._flags = _FLAGS

    def take(self) -> Frame | None:
        """As `Assembler.take`.

        Raises:
            BrokenProtocolError: it is nothing that a worker sends.
        """
        buffer, start = self.buffer, self._start
        came = len(buffer) - start
        if came < _HEADER_BYTES:
            if len(self.fds) > (came > 0):
                raise BrokenProtocolError(_UNANNOUNCED)
            return None
        size, kind, flags, files, task = _unpack_header(buffer, start)
        if flags not in self._flags[kind] or size > WORKER_BODY_BYTES or files:
            what = f"it sent a frame of kind {kind} with flags {flags}, {size} bytes, {files} files"
            raise BrokenProtocolError(what)
        more = came - _HEADER_BYTES - size
        if more or self.fds or flags & Flag.LARGE:
            self._check_descriptors(flags, more)
            return super().take()
        # Nearly always: one frame, whole, and nothing beside or after it. On the path of each task.
        self.buffer = b""
        self._start = 0
        return Frame(kind, flags, buffer[start + _HEADER_BYTES :], None, task)

    def _check_descriptors(self, flags: int, more: int) -> None:
        """Check the descriptors that there are; `more`: how many bytes follow the first frame."""
        fds = self.fds
        if not flags & Flag.LARGE:
            if not fds:
                return
            # It may be that of the next frame. The kernel ends what it delivers at a descriptor, so
            # that there is never a second one.
            if more <= 0 or len(fds) > 1:
                raise BrokenProtocolError(_UNANNOUNCED)
        elif not fds:
            if more >= 0:
                raise BrokenProtocolError("it sent no descriptor, and had announced one")
        elif can_seal() and sealed_size(fds[0]) is None:
            raise BrokenProtocolError("it sent a descriptor of what may become shorter")

    def _truncated(self, *, came: bool) -> None:
        if came:
            raise BrokenProtocolError(_UNANNOUNCED)
        super()._truncated(came=came)


class DataAssembler(WaryAssembler):
    """Makes frames of what a worker sends that is to send data, and nothing that is unpickled.

    Here alone it is seen to that a frame which may be a pickle never comes to those who read
    frames: each that could be one says `Flag.DATA`, by which all of them read it as data.

    Attributes:
        refuse: has the worker killed, told why.
        errors: the exceptions that it may have raised here, by name.
    """

    __slots__ = ("errors", "refuse")

    def __init__(
        self, refuse: Callable[[str], object], errors: Mapping[str, type[Exception]]
    ) -> None:
        super().__init__()
        self.refuse = refuse
        self.errors = errors
        self._flags = _DATA_FLAGS_AT_START

    def expect_replies(self) -> None:
        """As `WaryAssembler.expect_replies`."""
        self._flags = _DATA_FLAGS

    def take(self) -> Frame | None:
        """As `WaryAssembler.take`."""
        frame = super().take()
        if frame is not None:
            frame.sender = self
        return frame

    def close(self) -> None:
        """Close descriptors that nobody took, and let go of the worker."""
        super().close()
        self.refuse = _ignore


def _ignore(_: Any) -> None:
    """Kill nobody: the worker has ended."""

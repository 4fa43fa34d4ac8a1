"""The loop of a worker whose server reads data only: nothing that this sends is a pickle."""

from __future__ import annotations

import os
from functools import partial

from offload._child.task import Failure, prepare, raised
from offload._child.worker import INLINE_BYTES, LEAST_ERROR_BYTES, Serving
from offload._wire.data_errors import described
from offload._wire.data_format import BY_ANNOTATION, MOST_BYTES
from offload._wire.data_writer import Encoded, NotDataError, encode_data, written
from offload._wire.exceptions import summary, trace
from offload._wire.frames import Flag, Kind
from offload._wire.pickling import TooManyBytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["DataServing"]

_NOTHING = written(None)
# Of the traceback of an error that is too large to be sent.
_LEAST_CHARACTERS = 1024
_LARGE = 1 << 63


class DataServing(Serving):
    """The loop of one worker that sends data."""

    _nothing = _NOTHING
    _raised = staticmethod(partial(raised, cross=described))

    # The function of the present task.
    _function: Callable[..., Any] | None = None

    def _prepare(self, load: Callable[[bytes], Any], body: bytes) -> Any:
        prepared = prepare(load, body)
        self._function = prepared[1]
        return prepared

    def _relay_logs(self) -> None:
        from offload._child.logs import dump_fields, install

        self._relay = install(
            lambda record: self._connection.send_news(Kind.LOG, record, Flag.DATA),
            self._levels,
            partial(dump_fields, dump=written),
        )

    def _report(self, done: float, total: float | None) -> None:
        try:
            body = written((_number(done), None if total is None else _number(total)))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                "progress takes one or two numbers, and these are not numbers"
            ) from error
        self._connection.send_news(Kind.PROGRESS, body, Flag.DATA)

    def _reply(self, kind: int, value: Any, limit: int | None, *, by_value: bool) -> None:
        del by_value  # what it is made of is data in any case
        try:
            encoded = self._encoded(value, limit, is_item=kind == Kind.ITEM)
        except TooManyBytes as error:
            raise Failure(Kind.RESULT_TOO_LARGE, (error.size, limit)) from None
        except NotDataError as error:
            place = "item" if kind == Kind.ITEM else "result"
            text = f"{place}{error.path} is {error.what}. {error.advice}"
            raise Failure(Kind.NOT_DATA, (text.strip(),)) from None
        except BaseException as error:
            failure = Failure(Kind.BAD_RESULT, (summary(error), trace(error)))
            failure.of = type(error)
            raise failure from None
        self._send_parts(kind, encoded)

    def _encoded(self, value: Any, limit: int | None, *, is_item: bool) -> Encoded:
        """Return a result as data: as it is, or as the annotation of the function says."""
        most = MOST_BYTES if limit is None else limit
        try:
            return encode_data(value, limit=most)
        except NotDataError as error:
            found = error
        # Imported only now: most results are data.
        from offload._typed_json.coder import MismatchError, UnsupportedTypeError
        from offload._typed_json.results import coder_of_result, is_untyped

        assert self._function is not None
        verb = "yields" if is_item else "returns"
        try:
            tree = coder_of_result(self._function, is_item=is_item).encode(value)
        except UnsupportedTypeError as error:
            found.advice = found.advice or (
                f"Return plain data, or annotate what the function {verb} (now: {error})."
            )
            raise found from None
        except MismatchError as error:
            if is_untyped(error):
                found.advice = found.advice or (
                    f"Return plain data, or annotate what it is in what the function {verb}."
                )
                raise found from None
            what = f"{error.found}, where the annotation says {error.expected}"
            raise NotDataError(what, error.advice).within(error.path) from None
        return encode_data(tree, form=BY_ANNOTATION, limit=most)

    def _fail(self, failure: Failure, limit: int | None) -> None:
        flags = Flag.RECYCLE if failure.kind == Kind.OVER_MEMORY else 0
        detail = tuple(map(_plain, failure.detail))
        most = MOST_BYTES if limit is None else max(limit, LEAST_ERROR_BYTES)
        try:
            self._send_parts(failure.kind, encode_data(detail, limit=most), flags)
        except (TooManyBytes, OSError):  # OSError: no room for all of it
            short = min(most // 16, INLINE_BYTES // 16)
            cut = tuple(
                part[-short:] if type(part) is str else part if type(part) is int else None
                for part in detail
            )
            self._send_parts(failure.kind, encode_data(cut), flags)

    def _send_parts(self, kind: int, encoded: Encoded, flags: int = 0) -> None:
        body, way, fd = self._buffers.pack_parts(encoded.parts, encoded.size)
        try:
            self._send(kind, body, flags | way, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _send(self, kind: int, body: bytes = b"", flags: int = 0, fd: int | None = None) -> None:
        super()._send(kind, body, flags | Flag.DATA, fd)


def _number(value: Any) -> float:
    if type(value) is int and abs(value) < _LARGE:
        return value
    return float(value)


def _plain(part: Any) -> Any:
    """Return a text as one of exactly that type: what an exception says may be of another."""
    return str.__str__(part) if isinstance(part, str) else part

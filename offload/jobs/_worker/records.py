"""Log records of attempts, on their way from the handlers of this process to the engine."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Final

from offload.jobs._attempt import JOB_FIELD
from offload.jobs._values import LogLine

__all__ = ["RecordKeeper"]

_MAX_CHARACTERS: Final = 4096
# That wait to be stored, of one attempt: the engine keeps a thousand or so.
_MAX_WAITING: Final = 5000


class _Kept:
    __slots__ = ("count", "lines")

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.count = 0


class RecordKeeper(logging.Handler):
    """Collects the records that attempts make, until they are taken; called on any thread."""

    def __init__(self) -> None:
        super().__init__()
        # None: there is none yet, as of most attempts.
        self._kept: dict[str, _Kept | None] = {}
        self._changed = threading.Lock()

    def begin(self, key: str) -> None:
        """Collect the records of an attempt from now on."""
        with self._changed:
            self._kept[key] = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, if it is of an attempt."""
        key = getattr(record, JOB_FIELD, None)
        if key is None:
            return
        text = record.getMessage()
        if record.exc_text:
            text = f"{text}\n{record.exc_text}"
        if len(text) > _MAX_CHARACTERS:
            text = text[:_MAX_CHARACTERS] + " … (cut)"
        line = LogLine(datetime.fromtimestamp(record.created, UTC), record.levelno, text)
        with self._changed:
            if key in self._kept:
                kept = self._kept[key] = self._kept[key] or _Kept()
                kept.count += 1
                if len(kept.lines) < _MAX_WAITING:
                    kept.lines.append(line)

    def has_any(self, key: str) -> bool:
        """Return whether records of an attempt have come."""
        return self._kept.get(key) is not None

    def take(self, key: str) -> list[LogLine]:
        """Return what has come since the last time."""
        with self._changed:
            kept = self._kept.get(key)
            if kept is None or not kept.lines:
                return []
            lines, kept.lines = kept.lines, []
            return lines

    def put_back(self, key: str, lines: list[LogLine]) -> None:
        """Have lines taken again that could not be stored."""
        with self._changed:
            kept = self._kept.get(key)
            if kept is not None:
                kept.lines[:0] = lines

    def count(self, key: str) -> int:
        """Return how many records have come."""
        kept = self._kept.get(key)
        return 0 if kept is None else kept.count

    def end(self, key: str) -> None:
        """Collect no more records of an attempt."""
        with self._changed:
            self._kept.pop(key, None)

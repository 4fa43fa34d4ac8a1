"""What attempts say of themselves, in texts such as every store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["JobError", "LogLine", "storable"]


@dataclass(frozen=True, slots=True)
class JobError:
    """What an attempt, or a job, failed of.

    Attributes:
        type: qualified name of the exception's class, `module.Name`; bare for builtins.
        message: its text.
        traceback: formatted by the process that raised it; empty where there is none.
    """

    type: str
    message: str
    traceback: str = ""

    def __post_init__(self) -> None:
        """Make its texts such as every store holds."""
        for name in ("type", "message", "traceback"):
            object.__setattr__(self, name, storable(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record kept with a job.

    Attributes:
        at: when it was logged.
        level: as in `logging`.
        message: formatted.
    """

    at: datetime
    level: int
    message: str

    def __post_init__(self) -> None:
        """Make its text such as every store holds."""
        object.__setattr__(self, "message", storable(self.message))


def storable(text: str) -> str:
    """Return a text as every store holds it: lone surrogates and U+0000 as escapes.

    SQLite and Redis have UTF-8, and Postgres has no U+0000 either. A report with one of these would
    never be stored, nor would those that go in the same statement.
    """
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\\x00") if "\0" in text else text

"""Arguments of a call as a short text for people, made without running any code of theirs."""

from __future__ import annotations

import enum
from reprlib import Repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["argument_text"]

_MOST_CHARACTERS = 1000
# Their texts are short and made by the standard library; by the names of modules, which nobody has
# to import for that.
_PLAIN = (bool, float, complex, type(None), type(...), range)
_PLAIN_MODULES = ("datetime", "decimal", "fractions", "pathlib", "pathlib._local", "uuid")
_CONTAINERS = (str, int, list, tuple, dict, set, frozenset)


class _Short(Repr):
    """Texts of values of the standard types, cut; of every other value, its type.

    A text of one's own may ask a database, take seconds, or lock what its own thread has locked:
    it is made on a thread that nobody has thought of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = 120
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 12
        self.maxlevel = 4

    def repr1(self, x: Any, level: int) -> str:
        """Return the text of one value."""
        kind = type(x)
        if kind in (bytes, bytearray):
            return f"{x[:40]!r}" if len(x) <= 40 else f"{x[:40]!r}… ({len(x):,} bytes)"  # noqa: PLR2004
        if kind in _PLAIN or kind.__module__ in _PLAIN_MODULES:
            return repr(x)
        if kind in _CONTAINERS:
            return super().repr1(x, level)
        if isinstance(x, enum.Enum):
            return f"{kind.__qualname__}.{x._name_}"
        return f"<{kind.__module__}.{kind.__qualname__}>"


_short = _Short()


def argument_text(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    """Return the arguments as they would be written, at most 1,000 characters of it."""
    try:
        parts = [_short.repr(value) for value in arguments]
        parts += [f"{name}={_short.repr(value)}" for name, value in keywords.items()]
    except Exception as error:  # noqa: BLE001 - they are somebody else's, who may be changing them
        return f"(cannot be shown: {type(error).__name__})"
    text = ", ".join(parts)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"

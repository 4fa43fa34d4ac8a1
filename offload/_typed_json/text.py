"""JSON as text, both ways: strict, canonical, and within limits."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "TextError", "dump", "load"]

# Of nested data that have no type of their own, and of types that contain themselves. Deep enough
# for any document, and far from the interpreter's limit wherever it is called.
MAX_DEPTH = 100

# As in scalars: Python's own default limit of digits.
_MAX_DIGITS = 4300

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class TextError(Exception):
    """A text is no JSON that we read, or some JSON cannot be written; says why."""


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_ascii_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dump(value: Any) -> str:
    """Return compact JSON that survives every encoding that a store may choose.

    Raises:
        TextError: the value is nested too deeply, or holds two surrogates that a reader of the
            text would take for one character.
    """
    try:
        text = _encoder.encode(value)
    except (RecursionError, ValueError) as error:
        raise TextError(_why(error)) from None
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # Lone surrogates, as in file names that are not UTF-8, exist in JSON as escapes only.
        if _PAIR.search(text) is not None:
            raise TextError(
                "text has a character as two surrogates, which would come back as one"
            ) from None
        return _ascii_encoder.encode(value)
    return text


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if "Circular" in str(error):
        return "an object is inside itself"
    return str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise TextError("an object has a key twice")
    return made


def _constant(name: str) -> NoReturn:
    raise TextError(f"{name} is no JSON")


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS + 1:
        raise TextError(f"a number has more than {_MAX_DIGITS} digits")
    return int(text)


# Each int through a function of ours takes time, and is needed only where the interpreter's own
# limit was raised or lifted.
_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_careful_decoder = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_int
)


def load(text: str) -> Any:
    """Return the value of some JSON.

    Raises:
        TextError: it is no JSON, is nested too deeply, has a key twice or a number too long.
    """
    has_limit = 0 < sys.get_int_max_str_digits() <= _MAX_DIGITS
    decoder = _decoder if has_limit else _careful_decoder
    try:
        return decoder.decode(text)
    except RecursionError:
        raise TextError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise TextError(f"no JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise TextError(f"a number has more than {_MAX_DIGITS} digits") from None

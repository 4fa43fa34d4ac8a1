"""Options, errors and traces as JSON text, for engines to keep.

What has its default is left out, and unknown names are ignored: programs of two versions may use
one store during a deploy.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._values import DEFAULT_BACKOFF, Backoff, JobError, JobOptions, Unique

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "decode_error",
    "decode_options",
    "decode_trace",
    "encode_error",
    "encode_options",
    "encode_trace",
    "headers_of",
]

_DEFAULT: Final = JobOptions()
_PLAIN: Final = ("priority", "max_attempts", "max_crashes", "timeout", "keep", "max_logs")
_WHOLE: Final = frozenset({"priority", "max_attempts", "max_crashes", "max_logs"})
_OPTIONAL: Final = frozenset({"timeout", "keep"})
# What can be added to an instant as seconds, and counted: some 30,000 years.
_MOST: Final = 10**12
_BACKOFF: Final = ("initial", "factor", "maximum", "jitter")
# Most jobs of a function have the same options, to the letter.
_CACHE_SIZE: Final = 1024
_NO_ERROR: Final = JobError("ValueError", "the store has an error that cannot be read")


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@lru_cache(_CACHE_SIZE)
def encode_options(options: JobOptions) -> str:
    """Return options as JSON text."""
    data: dict[str, Any] = {
        name: value
        for name in _PLAIN
        if (value := getattr(options, name)) != getattr(_DEFAULT, name)
    }
    if options.backoff != DEFAULT_BACKOFF:
        data["backoff"] = {name: getattr(options.backoff, name) for name in _BACKOFF}
    if options.deadline is not None:
        data["deadline"] = options.deadline.isoformat()
    if options.unique is not None:
        data["unique"] = [options.unique.key, options.unique.lifetime]
    return _dumps(data)


@lru_cache(_CACHE_SIZE)
def decode_options(text: str) -> JobOptions:
    """Return the options that `encode_options` made `text` of.

    Raises:
        ValueError: somebody else has made it.
    """
    try:
        return _options_of(json.loads(text))
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the options {text!r:.80} cannot be read: {error}") from None


def _options_of(data: Any) -> JobOptions:
    if type(data) is not dict:
        raise ValueError("they are no object")
    values: dict[str, Any] = {name: data[name] for name in _PLAIN if name in data}
    for name, value in values.items():
        _check(name, value, int if name in _WHOLE else float, optional=name in _OPTIONAL)
    if "backoff" in data:
        parts = {name: data["backoff"][name] for name in _BACKOFF}
        for name, value in parts.items():
            _check(name, value, float)
        values["backoff"] = Backoff(**parts)
    if "deadline" in data:
        values["deadline"] = deadline = datetime.fromisoformat(data["deadline"])
        if deadline.tzinfo is None:
            raise ValueError("deadline has no time zone")
    if "unique" in data:
        key, lifetime = data["unique"]
        _check("unique", lifetime, float, optional=True)
        if type(key) is not str:
            raise ValueError(f"unique is {key!r:.50}")
        values["unique"] = Unique(key, lifetime)
    return JobOptions(**values)


def _check(name: str, value: object, kind: type, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    # An int is as good as a float, and no bool.
    if type(value) is not int and not (kind is float and type(value) is float):
        raise ValueError(f"{name} is {value!r:.50}")
    assert isinstance(value, (int, float))
    if not -_MOST <= value <= _MOST:
        raise ValueError(f"{name} is {value:g}")


def encode_error(error: JobError | None) -> str | None:
    """Return an error as JSON text."""
    if error is None:
        return None
    return _dumps([error.type, error.message, error.traceback])


def decode_error(text: str | None) -> JobError | None:
    """Return the error that `encode_error` made `text` of; of any other text, that it is none."""
    if text is None:
        return None
    try:
        kind, message, traceback = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return _NO_ERROR
    if not (type(kind) is type(message) is type(traceback) is str):
        return _NO_ERROR
    return JobError(kind, message, traceback)


def encode_trace(trace: Mapping[str, str]) -> str:
    """Return headers as JSON text."""
    return _dumps(dict(trace)) if trace else ""


def decode_trace(text: str) -> Mapping[str, str]:
    """Return the headers that `encode_trace` made `text` of; none of any other text."""
    if not text:
        return {}
    try:
        return headers_of(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return {}


def headers_of(data: object) -> Mapping[str, str]:
    """Return what of an object may be headers."""
    if not isinstance(data, dict):
        return {}
    return {name: value for name, value in data.items() if type(name) is type(value) is str}

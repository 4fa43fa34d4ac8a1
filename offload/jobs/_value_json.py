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
]

_DEFAULT: Final = JobOptions()
_PLAIN: Final = ("priority", "max_attempts", "max_crashes", "timeout", "keep", "max_logs")
_BACKOFF: Final = ("initial", "factor", "maximum", "jitter")
# Most jobs of a function have the same options, to the letter.
_CACHE_SIZE: Final = 1024


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
    """Return the options that `encode_options` made `text` of."""
    data: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = {name: data[name] for name in _PLAIN if name in data}
    if "backoff" in data:
        values["backoff"] = Backoff(**{name: data["backoff"][name] for name in _BACKOFF})
    if "deadline" in data:
        values["deadline"] = datetime.fromisoformat(data["deadline"])
    if "unique" in data:
        values["unique"] = Unique(*data["unique"])
    return JobOptions(**values)


def encode_error(error: JobError | None) -> str | None:
    """Return an error as JSON text."""
    if error is None:
        return None
    return _dumps([error.type, error.message, error.traceback])


def decode_error(text: str | None) -> JobError | None:
    """Return the error that `encode_error` made `text` of."""
    return None if text is None else JobError(*json.loads(text))


def encode_trace(trace: Mapping[str, str]) -> str:
    """Return headers as JSON text."""
    return _dumps(dict(trace)) if trace else ""


def decode_trace(text: str) -> Mapping[str, str]:
    """Return the headers that `encode_trace` made `text` of."""
    return json.loads(text) if text else {}

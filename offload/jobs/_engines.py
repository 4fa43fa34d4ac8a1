"""Which engine a URL names."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from offload.jobs._engine import Engine

__all__ = ["DEFAULT_URL", "ENVIRONMENT", "engine_of", "url_of"]

ENVIRONMENT: Final = "OFFLOAD_JOBS"
DEFAULT_URL: Final = "sqlite://"

# By scheme: module and what makes an engine there, and the extra that it needs.
_ENGINES: Final = {
    "sqlite": ("offload.jobs._sqlite", "SqliteEngine", None),
    "redis": ("offload.jobs._bullmq", "new_engine", "redis"),
    "rediss": ("offload.jobs._bullmq", "new_engine", "redis"),
    "postgresql": ("offload.jobs._bullmq", "new_engine", "postgres"),
    "postgres": ("offload.jobs._bullmq", "new_engine", "postgres"),
}


def url_of(url: str | os.PathLike[str] | None) -> str:
    """Return the URL that is meant: as given, of the environment, or the default file."""
    if url is None:
        return os.environ.get(ENVIRONMENT) or DEFAULT_URL
    if isinstance(url, str):
        return url
    if isinstance(url, os.PathLike):
        return f"sqlite:///{quote(os.fspath(url))}"
    raise TypeError(f"url must be a URL, or the path of an SQLite file, not {url!r}")


def engine_of(url: str) -> Engine:
    """Return a new engine for a URL, not open yet.

    Raises:
        ValueError: there is no engine of this kind, or the URL is wrong.
        ModuleNotFoundError: what the engine needs is not installed.
    """
    scheme = urlsplit(url).scheme
    found = _ENGINES.get(scheme)
    if found is None:
        known = ", ".join(f"{each}://" for each in _ENGINES)
        example = "jobs.db" if scheme or not url else url
        raise ValueError(
            f"{_without_secrets(url)!r} names no engine for jobs: the URL begins with one of "
            f"{known}; for a file, write sqlite:///{example}"
        )
    module, name, extra = found
    try:
        made: Any = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        raise ModuleNotFoundError(
            f"jobs at {scheme}:// need more packages ({error}): pip install 'offload[{extra}]'",
            name=error.name,
        ) from error
    engine: Engine = made(url)
    return engine


def _without_secrets(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"…@{tail}" if at and head else url

"""Where the server is, from a URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["RedisLocation", "parse_redis_url", "seconds"]

_OPTIONS: Final = ("prefix", "timeout")
_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """What a URL says.

    Attributes:
        host: name or address.
        port: of TCP.
        database: number.
        username: empty: the default user.
        password: empty: none.
        is_encrypted: whether to use TLS, with the system's certificates.
        prefix: what all keys begin with, as in BullMQ's option of that name.
        timeout: seconds after which an operation gives up.
    """

    host: str
    port: int
    database: int = 0
    username: str = ""
    password: str = ""
    is_encrypted: bool = False
    prefix: str = "bull"
    timeout: float = 5.0

    @property
    def url(self) -> str:
        """The location as others may read it."""
        scheme = "rediss" if self.is_encrypted else "redis"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{self.database}"

    def tls(self) -> ssl.SSLContext | None:
        """Return how to encrypt; None: not at all."""
        return ssl.create_default_context() if self.is_encrypted else None


def parse_redis_url(url: str) -> RedisLocation:
    """Read `redis://user:password@host:6379/0`, or `rediss://` for TLS.

    Options: `?prefix=bull`, BullMQ's own default; `timeout=5`, in seconds.

    Raises:
        ValueError: this is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"{parts.scheme}:// is no URL of a Redis server; write redis://host:6379")
    try:
        port = parts.port or _PORT
        database = int(parts.path.strip("/") or 0)
    except ValueError:
        raise ValueError("a URL of Redis is redis://host:port/number-of-the-database") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r} of Redis; known: {', '.join(_OPTIONS)}")
    return RedisLocation(
        parts.hostname or "localhost",
        port,
        database,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.scheme == "rediss",
        options.get("prefix") or "bull",
        seconds(options.get("timeout", "5")),
    )


def seconds(text: str) -> float:
    """Read a time limit."""
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout <= 60:  # noqa: PLR2004 - beyond a minute it is a hang
        raise ValueError(f"timeout must be seconds above 0, up to 60, not {text!r}")
    return timeout

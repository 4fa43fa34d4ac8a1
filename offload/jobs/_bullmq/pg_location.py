"""Where a Postgres server is, from a URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from offload.jobs._bullmq.location import seconds

__all__ = ["PostgresLocation", "parse_postgres_url"]

_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}").fullmatch


@dataclass(frozen=True, slots=True)
class PostgresLocation:
    """What a URL says.

    Attributes:
        conninfo: the URL as libpq reads it.
        url: the location as others may read it.
        schema: with BullMQ's tables, as in BullMQ's option of that name.
        timeout: seconds after which an operation gives up.
    """

    conninfo: str
    url: str
    schema: str = "bullmq"
    timeout: float = 5.0


def parse_postgres_url(url: str) -> PostgresLocation:
    """Read `postgresql://user:password@host:5432/database`, with libpq's options.

    Options of our own: `?schema=bullmq`, BullMQ's default; `timeout=5`, in seconds.

    Raises:
        ValueError: this is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(
            f"{parts.scheme}:// is no URL of a Postgres server; write postgresql://host/database"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = options.pop("schema", "bullmq")
    if not _SCHEMA(schema):
        raise ValueError(f"schema must be a plain name, not {schema!r}")
    patience = seconds(options.pop("timeout", "5"))
    conninfo = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))
    place = parts.netloc.rpartition("@")[2] or "localhost"
    return PostgresLocation(conninfo, f"postgresql://{place}{parts.path}", schema, patience)

"""The engines that the conformance suite runs over, and how a test has several on one store.

To add one: a class with `new`, which returns an engine that is not open yet on a store that is
empty when the test begins, and an entry in `PLACES`.
"""

from pathlib import Path
from typing import Protocol

from offload.jobs._engine import Engine
from offload.jobs._sqlite import SqliteEngine
from tests.jobs.servers import PostgresServer, RedisServer

Server = RedisServer | PostgresServer


class Place(Protocol):
    """One store, for one test; with the server that tests of its kind share, if any."""

    def __init__(self, directory: Path, server: Server | None) -> None: ...

    def new(self) -> Engine:
        """Return another engine on the store, as another process would have it."""
        ...


class SqlitePlace:
    def __init__(self, directory: Path, server: Server | None) -> None:
        self.path = directory / "jobs.sqlite3"

    def new(self) -> Engine:
        return SqliteEngine(f"sqlite:///{self.path}")


class RedisPlace:
    def __init__(self, directory: Path, server: Server | None) -> None:
        assert server is not None
        server.empty()
        self.url = server.url

    def new(self) -> Engine:
        from offload.jobs._bullmq.redis_engine import RedisEngine

        return RedisEngine(self.url)


class PostgresPlace:
    def __init__(self, directory: Path, server: Server | None) -> None:
        assert server is not None
        server.empty()
        self.url = server.url

    def new(self) -> Engine:
        from offload.jobs._bullmq.postgres_engine import PostgresEngine

        return PostgresEngine(self.url)


PLACES: dict[str, type[Place]] = {
    "sqlite": SqlitePlace,
    "redis": RedisPlace,
    "postgres": PostgresPlace,
}

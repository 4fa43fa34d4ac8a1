"""The engines that the conformance suite runs over, and how a test has several on one store.

To add one: a class with `new`, which returns an engine that is not open yet on a store that is
empty when the test begins, and an entry in `PLACES`.
"""

from pathlib import Path
from typing import Protocol

from offload.jobs._engine import Engine
from offload.jobs._sqlite import SqliteEngine


class Place(Protocol):
    """One store, for one test."""

    def __init__(self, directory: Path) -> None: ...

    def new(self) -> Engine:
        """Return another engine on the store, as another process would have it."""
        ...


class SqlitePlace:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "jobs.sqlite3"

    def new(self) -> Engine:
        return SqliteEngine(f"sqlite:///{self.path}")


PLACES: dict[str, type[Place]] = {"sqlite": SqlitePlace}

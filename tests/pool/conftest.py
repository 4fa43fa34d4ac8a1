"""Fixtures that the tests of the pool share."""

import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offload import Pool
from tests.support import inside
from tests.support.functions import hostile as hostile_functions
from tests.support.processes import Fifo

_numbers = itertools.count()


@pytest.fixture
async def one_worker() -> AsyncIterator[Pool]:
    """A pool of one worker: what one call spoils, the next one meets."""
    async with Pool("one worker", max_workers=1, spare_workers=0, os_priority="normal") as pool:
        yield pool


@pytest.fixture
def new_pool() -> Iterator[Callable[..., Pool]]:
    """Makes pools, and forgets them when the test has closed them."""
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        # At normal priority: these tests are about other things than who goes first.
        made.append(Pool(f"test {next(_numbers)}", **{"os_priority": "normal"} | options))
        return made[-1]

    yield make
    for pool in made:
        inside.forget_if_known(pool.name)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Callable[[str], Fifo]]:
    """Makes named pipes."""
    made = []

    def make(name: str) -> Fifo:
        made.append(Fifo(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


class Handler(logging.Handler):
    """Handles the records of the hostile functions in some way, and keeps them."""

    def __init__(self, act: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.act = act
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.act(record)


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], Handler]]:
    """Installs a handler for the records of the hostile functions."""
    installed = []

    def install(act: Callable[[logging.LogRecord], object]) -> Handler:
        handler = Handler(act)
        installed.append(handler)
        hostile_functions.logger.addHandler(handler)
        return handler

    hostile_functions.logger.setLevel(logging.INFO)
    hostile_functions.logger.propagate = False
    yield install
    hostile_functions.logger.setLevel(logging.NOTSET)
    hostile_functions.logger.propagate = True
    for handler in installed:
        hostile_functions.logger.removeHandler(handler)

"""Resources, and what reads them in workers."""

import os
import threading
import time
from typing import Any

import numpy as np

from offload.resources import Resource, resource
from tests.support.functions.pool import note

MIB = 2**20


@resource
def table() -> tuple[int, Any]:
    """Load a table of numbers, and tell who did."""
    note(os.environ["RESOURCE_NOTES"], f"loaded {os.getpid()}")
    return os.getpid(), np.ones(32 * MIB // 8)


@resource
def broken() -> None:
    note(os.environ["RESOURCE_NOTES"], "tried")
    raise LookupError("the model is not there")


@resource
def slow() -> None:
    note(os.environ["RESOURCE_NOTES"], str(os.getpid()))
    time.sleep(300)


not_a_resource = 5


def loader() -> tuple[int, int, bool]:
    was_loaded = table.is_loaded
    return table()[0], os.getpid(), was_loaded


def loader_of(given: Resource[Any]) -> tuple[int, int]:
    return given()[0], os.getpid()


def load_in_threads() -> int:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(table())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len({id(each) for each in found})


def total() -> float:
    return float(table()[1].sum())


def add(value: float) -> float:
    numbers = table()[1]
    numbers[:1000] += value
    return float(numbers[0])


def use_broken() -> None:
    broken()

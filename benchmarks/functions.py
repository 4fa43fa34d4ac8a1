"""What the benchmarks run in workers."""

from __future__ import annotations

import os
import time

from offload import Pool, offload

pool = Pool("benchmark", max_workers=2)


def noop() -> None:
    """Do nothing."""


def burn(loops: int) -> int:
    """Keep one core busy."""
    total = 0
    for number in range(loops):
        total += number & 7
    return total


@offload(pool=pool)
def offloaded_noop() -> None:
    """Do nothing."""


def echo(value: object) -> object:
    """Return what came."""
    return value


def fail() -> None:
    """Raise."""
    raise LookupError("by intent")


def crash() -> None:
    """Die."""
    os._exit(3)


def hold(seconds: float, *, is_busy: bool = True) -> float:
    """Hold a worker for so long, computing or asleep."""
    if not is_busy:
        time.sleep(seconds)
        return seconds
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        burn(1000)
    return seconds

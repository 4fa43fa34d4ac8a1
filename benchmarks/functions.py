"""What the benchmarks run in workers. Imports next to nothing: every worker pays for it."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def noop() -> None:
    """Do nothing."""


def burn(loops: int) -> int:
    """Keep one core busy."""
    total = 0
    for number in range(loops):
        total += number & 7
    return total


def echo(value: object) -> object:
    """Return what came."""
    return value


def fail() -> None:
    """Raise."""
    raise LookupError("by intent")


def crash() -> None:
    """Die."""
    os._exit(3)


def hold(seconds: float, is_busy: bool = True) -> float:  # noqa: FBT001, FBT002 - not all pools take keywords
    """Hold a worker for so long, computing or asleep."""
    if not is_busy:
        time.sleep(seconds)
        return seconds
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        burn(1000)
    return seconds


def note(path: str, slot: int, seconds: float) -> None:
    """Use so many seconds of CPU; note in the slot of a file how many have been used so far."""
    import mmap

    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as used:  # noqa: PTH123 - as cheap as it gets
        cells = memoryview(used).cast("d")
        start = time.thread_time()
        while (done := time.thread_time() - start) < seconds:
            cells[slot] = done
        cells[slot] = done
        cells.release()


def digest(upload: Any) -> bytes:
    """Read what was uploaded, as bytes or a file, and return as many bytes: its hash, repeated."""
    import hashlib

    data = upload if isinstance(upload, bytes) else upload.read()
    found = hashlib.sha256(data).digest()
    return found * (len(data) // len(found))


def import_numpy(seconds: float) -> float:
    """Import numpy, then hold a worker: what a worker with a usual library weighs."""
    import numpy as np

    return hold(seconds) + float(np.zeros(1)[0])


async def awaited(function: Callable[..., Any], *args: Any) -> Any:
    """Run a plain function, for a pool that takes coroutine functions only."""
    return function(*args)


def hold_and_echo(value: bytes, seconds: float) -> bytes:
    """Return what came, after so long."""
    if seconds:
        time.sleep(seconds)
    return value

"""What all queues run, and the file in which each run leaves a mark.

So that when a job began is known of every queue in the same way, and nobody asks a store for it
while it is measured: a mark is one write of 24 bytes, at the end of a file that all have open.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.functions import burn

ENVIRONMENT = "BENCHMARK_MARKS"
_MARK = struct.Struct("<qdd")
SIZE = _MARK.size


class Mark(NamedTuple):
    """One run of a job: its number, and when it began and ended, as `time.time()`."""

    number: int
    began: float
    ended: float


@functools.cache
def _file() -> int:
    return os.open(os.environ[ENVIRONMENT], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def mark(number: int, loops: int) -> None:
    """Compute for so many loops, and leave a mark."""
    began = time.time()
    burn(loops)
    os.write(_file(), _MARK.pack(number, began, time.time()))


def count() -> int:
    """Return how many marks there are."""
    try:
        return Path(os.environ[ENVIRONMENT]).stat().st_size // SIZE
    except FileNotFoundError:
        return 0


def read(path: Path) -> list[Mark]:
    """Return all marks of a file, in the order in which the runs ended."""
    data = path.read_bytes()
    return [Mark(*each) for each in _MARK.iter_unpack(data[: len(data) // SIZE * SIZE])]

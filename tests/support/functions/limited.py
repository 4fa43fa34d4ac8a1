"""What workers run for the tests of limits: tasks that take too much, and fail at length."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path


def take_memory(size_bytes: int) -> int:
    """Take memory, a mebibyte at a time; return how much that was."""
    taken = [bytearray(os.urandom(4096) * 256) for _ in range(size_bytes >> 20)]
    return len(taken) << 20


def take_memory_and_catch(size_bytes: int) -> str:
    """Take memory, and make something of one's own of the end of it."""
    try:
        take_memory(size_bytes)
    except MemoryError:
        return "caught"
    return "enough"


def return_objects(count: int) -> list[list[int]]:
    """Return what takes a lot of memory."""
    return [[0] for _ in range(count)]


def yield_memory(size_bytes: int) -> Iterator[int]:
    """Yield once, and then take memory."""
    yield 1
    yield take_memory(size_bytes)


def take_cpu(seconds: float) -> float:
    """Compute for so many seconds of CPU time."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass
    return seconds


def limits_of_process() -> tuple[object, object, int]:
    """Return the limits of this process, and its process id."""
    data, cpu = resource.getrlimit(resource.RLIMIT_DATA), resource.getrlimit(resource.RLIMIT_CPU)
    return data, cpu, os.getpid()


def oom_score() -> int:
    """Return how much the kernel prefers this process when memory runs out."""
    return int(Path("/proc/self/oom_score_adj").read_text())


def fail_at_length(size: int) -> None:
    """Raise an exception with a long text."""
    raise ValueError("A" * size)


def fail_with(value: object) -> None:
    """Raise, whatever the argument."""
    del value
    raise ValueError("no")

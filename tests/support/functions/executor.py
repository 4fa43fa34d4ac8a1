"""Plain functions for `tests.pool.test_executor`; both executors find them by name."""

import os
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from offload import Pool


def square(value):
    return value * value


def add(left, right=10, *, scale=1):
    return (left + right) * scale


def process_id():
    return os.getpid()


def fail(text):
    raise ValueError(text)


def wait_for(path, value=None):
    """Wait for a file that the test makes, having made one that the test waits for."""
    path = Path(path)
    (path.parent / f"{path.name}-{value}-began").touch()
    deadline = time.monotonic() + 60
    while not path.exists():
        if time.monotonic() > deadline:
            message = f"{path} did not appear"
            raise TimeoutError(message)
        time.sleep(0.005)
    return value


class Account:
    def __init__(self, balance):
        self.balance = balance

    def plus(self, amount):
        return self.balance + amount

    def __call__(self, amount):
        return self.balance - amount


def nested(depth):
    """Return what a call of a call of … a call returns, each by way of an executor."""
    if depth == 0:
        return "leaf"
    return Pool.named().executor().submit(nested, depth - 1).result(5)


def nested_map(count):
    """Return squares, each by way of an executor."""
    executor = Pool.named().executor()
    return list(executor.map(square, range(count), timeout=5))


kept = {}


def keep(**things):
    """Keep what an initializer is given."""
    kept.update(things)


def keep_lock_and_queue(lock, queue):
    """Keep a lock and a queue of multiprocessing."""
    keep(lock=lock, queue=queue)


def put_under_lock(item):
    """Put an item into the queue that was kept."""
    with kept["lock"]:
        kept["queue"].put(item)


def put(queue, item):
    """Put an item into a queue, or a proxy of one."""
    queue.put(item)


def first_byte(memory):
    """Return what is in a segment of shared memory."""
    return memory.buf[0]


def new_segment(value):
    """Return a new segment of shared memory, which this process leaves to its caller."""
    memory = SharedMemory(create=True, size=16)
    memory.buf[0] = value
    return memory

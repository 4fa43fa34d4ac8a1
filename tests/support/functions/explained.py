"""Functions for `offload explain`: each is of another kind."""

import hashlib
import threading
import time

from offload import Pool, offload

_MEBIBYTE = bytes(2**20)
pool = Pool("explained", max_workers=1)


def quick(value):
    return value


@offload(pool=pool)
def slow(seconds):
    """Compute for so many seconds of CPU, wherever it runs."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def digest(size_mib):
    """Compute in native code, which lets go of the GIL."""
    digest = hashlib.sha256()
    for _ in range(size_mib):
        digest.update(_MEBIBYTE)
    return digest.hexdigest()


def keeps(seconds):
    """Compute in Python for so many seconds."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


def waits(seconds):
    time.sleep(seconds)


def swap(pair, *, key):
    pair[0], pair[1] = pair[1], pair[0]
    return {key: pair}


def numbers(count):
    yield from range(count)


@offload(pool="nowhere at all")
def homeless():
    return 1


def divide(one, other):
    return one / other


def unpicklable():
    return threading.Lock()


async def on_the_loop():
    return 1


anonymous = lambda: 1  # noqa: E731 - it is what it is

"""What workers run while the watchdog looks on: a module that imports little."""

import time


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))

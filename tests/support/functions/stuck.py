"""A module that, preloaded, lets a test have the supervisor hang."""

import signal
import time

from offload import in_worker

HANG = signal.SIGRTMIN + 3


def _hang(*_: object) -> None:
    while True:
        time.sleep(60)


if in_worker():
    signal.signal(HANG, _hang)

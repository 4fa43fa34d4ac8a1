"""Functions for workers that get no CPU time."""

import os
import threading

from tests.support.functions.pool import tell


def compute(entered: str) -> None:
    """Tell that it runs, and then compute until it is stopped."""
    tell(entered, os.getpid())
    while True:
        pass


def compute_in_thread(entered: str) -> None:
    """Compute in another thread, as numeric libraries do, while the function waits for it."""
    thread = threading.Thread(target=compute, args=(entered,), daemon=True)
    thread.start()
    thread.join()

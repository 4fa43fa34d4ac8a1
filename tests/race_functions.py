"""What workers run for the tests of races: tasks that fork, and streams that fail twice."""

import os
from collections.abc import Iterator
from typing import Any

from offload._child import context


def unsendable_then_failing() -> Iterator[Any]:
    """Yield what cannot be sent, and fail to clean up."""
    try:
        yield lambda: None
    finally:
        raise ValueError("of the cleaning up")


def tray_after_child_returned(size: int) -> Any:
    """Fork a child that returns as if it were the worker; tell whether the out-tray is taken."""
    child = os.fork()
    if not child:
        return bytes(size)
    os.waitpid(child, 0)
    assert context.process.page is not None
    return context.process.page[context.OUT_FULL]

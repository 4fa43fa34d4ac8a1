"""What workers run whose pool preloads a module with threads."""

import os
import sys

from offload import offload


@offload(pool="threaded", timeout=20)
def doubled(number: int) -> int:
    from tests.support.preloaded import threaded

    return threaded.doubled(number)


@offload(pool="threaded")
def threads_of_supervisor() -> int:
    return len(os.listdir(f"/proc/{os.getppid()}/task"))  # noqa: PTH208 - a count is all


@offload(pool="threaded")
def loaded_by() -> dict[str, int]:
    """Return the worker's process, its supervisor, and who has imported a module of `preload`."""
    module = sys.modules["tests.support.preloaded.quiet"]
    return {"worker": os.getpid(), "supervisor": os.getppid(), "importer": module.LOADED_BY}

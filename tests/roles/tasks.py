"""Functions and jobs of a code base, apart from its application."""

import atexit
import json
import os
import sys
from pathlib import Path

from offload import Pool, in_worker, offload
from offload.jobs import Jobs
from offload.roles import current_role

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("default", os_priority="normal", max_workers=1)
jobs = Jobs()


@offload
def add(first: int, second: int) -> int:
    """Add."""
    return first + second


@offload
def where() -> list[str]:
    """Return the role of this worker process, as the code of the application sees it."""
    return [str(current_role()), os.environ.get("WEB_CONCURRENCY", "")]


@offload
def wait(entered: str, gate: str) -> None:
    """Tell the process id, and wait for the test."""
    with Path(entered).open("wb", buffering=0) as pipe:
        pipe.write(os.getpid().to_bytes(8, "little"))
    with Path(gate).open("rb", buffering=0) as pipe:
        pipe.read(1)


def _leave_word() -> None:
    """Write what this program had imported, for the test that asked for it."""
    folder = os.environ.get("ROLES_FOLDER")
    if folder and not in_worker():
        Path(folder, str(current_role())).write_text(json.dumps(sorted(sys.modules)))


atexit.register(_leave_word)

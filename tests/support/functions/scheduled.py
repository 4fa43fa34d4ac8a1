"""Functions for schedules to run."""

import os
import signal
import time
from pathlib import Path

from offload import Pool, offload
from offload.schedules import FireContext
from tests.support.functions.pool import knock, pass_gate

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("schedules", max_workers=2, os_priority="normal")

# Closed by the application that has it.
own = Pool("schedules-of-an-application", max_workers=1, os_priority="normal")


@offload(pool=pool)
def double(number: int) -> int:
    return 2 * number


@offload(pool=pool)
def tell(fire: FireContext) -> tuple[str, str, str, str, int]:
    return fire.schedule, fire.id, fire.fire_time.isoformat(), fire.reason.value, fire.attempt


@offload(pool=pool)
def fail(text: str) -> None:
    raise ValueError(text)


@offload(pool=pool)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@offload(pool=pool)
def hold(entered: str, gate: str) -> int:
    """Tell that it runs, and wait at the gate."""
    knock(entered)
    pass_gate(gate)
    return 1


@offload(pool=pool)
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@offload(pool=pool)
def note(path: str, fire: FireContext | None = None) -> None:
    """Write down the fire, in one piece."""
    with Path(path).open("a") as file:
        file.write(f"{fire.id if fire else 'by hand'}\n")

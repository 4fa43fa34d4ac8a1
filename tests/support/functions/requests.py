"""What clients ask for, and do not wait for: held at a FIFO, or burning CPU that is counted."""

import mmap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload import Pool, offload
from tests.support.functions.pool import knock, pass_gate

_DOUBLE = 8

pool = Pool("requests", max_workers=2)
small = Pool("requests-small", max_workers=1)


@offload(pool=pool)
def hold(entered: str, gate: str, value: Any = None) -> Any:
    """Tell that it runs, and wait at the gate."""
    knock(entered)
    pass_gate(gate)
    return value


@offload(pool=pool)
def hold_pair(held: tuple[str, str]) -> None:
    """Do as `hold`, with one argument."""
    knock(held[0])
    pass_gate(held[1])


@offload(pool=pool, cancel_on_disconnect=False)
def hold_on(entered: str, gate: str, value: Any = None) -> Any:
    """Do as `hold`, whoever leaves."""
    knock(entered)
    pass_gate(gate)
    return value


@offload(pool=small)
def hold_small(entered: str, gate: str, value: Any = None) -> Any:
    """Do as `hold`, on the only worker of its pool."""
    knock(entered)
    pass_gate(gate)
    return value


@offload(pool=pool, single_flight=True)
def hold_together(entered: str, gate: str, value: Any = None) -> Any:
    """Do as `hold`, once for all who ask at the same time."""
    knock(entered)
    pass_gate(gate)
    return value


@offload(pool=pool)
def echo(value: Any) -> Any:
    return value


@offload(pool=pool)
def trace(path: str) -> None:
    """Leave a trace of having run."""
    Path(path).touch()


@offload(pool=pool)
def count_held(entered: str, gate: str) -> Iterator[int]:
    """Make one item at once, and the next ones when the gate opens."""
    yield 0
    knock(entered)
    pass_gate(gate)
    yield 1


@offload(pool=pool)
def endless() -> Iterator[int]:
    """Make more items than anybody takes."""
    number = 0
    while True:
        yield number
        number += 1


@offload(pool=pool)
def burn(path: str, slot: int, seconds: float) -> int:
    """Use so many seconds of CPU, and write into the slot of a file how many were used so far."""
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as used:
        cells = memoryview(used).cast("d")
        before = cells[slot]
        start = time.process_time()
        while (done := time.process_time() - start) < seconds:
            cells[slot] = before + done
        cells[slot] = before + done
        cells.release()
    return slot


def slots(path: Path, count: int) -> None:
    """Make the file for `burn`."""
    path.write_bytes(bytes(_DOUBLE * count))


def used_seconds(path: Path) -> list[float]:
    """Return what `burn` wrote, by slot."""
    return list(memoryview(path.read_bytes()).cast("d"))

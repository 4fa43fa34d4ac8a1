"""What has to be done in time."""

from collections.abc import Iterator
from typing import Any

from offload import Pool, offload
from tests.pool_functions import knock, pass_gate

pool = Pool("deadlines", max_workers=2)


@offload(pool=pool)
def echo(value: Any) -> Any:
    return value


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


@offload(pool=pool, coalesce=True)
def hold_together(entered: str, gate: str, value: Any = None) -> Any:
    """Do as `hold`, once for all who ask at the same time."""
    knock(entered)
    pass_gate(gate)
    return value


@offload(pool=pool)
def count_held(entered: str, gate: str) -> Iterator[int]:
    """Make one item at once, and the next one when the gate opens."""
    yield 0
    knock(entered)
    pass_gate(gate)
    yield 1

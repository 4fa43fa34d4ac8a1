"""What the parts of a worker program share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload.jobs._engine import Engine
    from offload.jobs._worker.connection import Connection
    from offload.jobs._worker.leases import Leases
    from offload.jobs._worker.pulse import Pulse
    from offload.jobs._worker.records import RecordKeeper
    from offload.jobs._worker.statistics import Counters

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What consumers need of their program.

    Attributes:
        engine: open.
        worker: identity of the program.
        queues: which it serves.
        lease: seconds of a claim.
        max_bytes: size that a result may have as JSON; None: no limit.
        leases: claims of all consumers.
        connection: whether the engine answers.
        records: log records of attempts.
        counters: of all consumers.
        pulse: whether the program stood still.
    """

    engine: Engine
    worker: str
    queues: frozenset[str]
    lease: float
    max_bytes: int | None
    leases: Leases
    connection: Connection
    records: RecordKeeper
    counters: Counters
    pulse: Pulse

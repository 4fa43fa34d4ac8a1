"""How an engine does: one of the values that cross the seam."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Health"]


@dataclass(frozen=True, slots=True)
class Health:
    """The state of an engine, for readiness checks, `offload doctor` and the dashboard.

    Attributes:
        engine: `sqlite`, `redis` or `postgres`.
        version: of its library or server.
        location: where its data are, without secrets.
        round_trip: seconds that the check took.
        problems: what its operator should change, each a sentence; empty: none.
        details: further facts, for people to read.
        clock_ahead: seconds by which its clock is ahead of this machine's, to within the round
            trip; None: it has the same one.
    """

    engine: str
    version: str
    location: str
    round_trip: float
    problems: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    clock_ahead: float | None = None

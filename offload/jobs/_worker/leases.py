"""Which claims still hold, as far as this program can know: no I/O, and no clock of its own.

An engine counts a lease from when it handled the request, this program from before it was sent:
so it stops too early, if at all, and never too late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from offload.jobs._values import Claim, Extended

__all__ = ["Leases", "extend_period", "max_grace", "stop_margin"]

_MAX_PERIOD = 0.5
_MAX_MARGIN = 1.0


def extend_period(lease: float) -> float:
    """Return the seconds between two extensions: a cancel arrives with them, too."""
    return min(lease / 3, _MAX_PERIOD)


def stop_margin(lease: float) -> float:
    """Return the seconds before the end of a lease at which attempts are stopped.

    The pool has ended a process a second later.
    """
    return min(lease / 4, _MAX_MARGIN)


def max_grace(lease: float) -> float:
    """Return the seconds that a function may have to stop, at most: its lease goes on meanwhile."""
    return lease / 4


@dataclass(slots=True)
class _Held:
    until: float
    margin: float
    is_cancelled: bool = False


class Leases:
    """The claims that this program holds.

    Args:
        lease: seconds for which a claim is made and extended.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._margin = stop_margin(lease)
        self._held: dict[Claim, _Held] = {}

    def __len__(self) -> int:
        """Return how many claims are held."""
        return len(self._held)

    def claimed(self, claim: Claim, asked_at: float, grace: float = 0.0) -> None:
        """Hold a claim that was asked for at this instant.

        Args:
            claim: what was claimed.
            asked_at: when that was asked for.
            grace: seconds that the attempt has to stop, at most `max_grace`.
        """
        self._held[claim] = _Held(asked_at + self._lease, self._margin + grace)

    def over(self, claim: Claim) -> None:
        """Hold a claim no longer: its end was stored, it was fenced or given up."""
        self._held.pop(claim, None)

    def held(self) -> list[Claim]:
        """Return the claims to extend."""
        return list(self._held)

    def extended(self, asked: Collection[Claim], asked_at: float, answer: Extended) -> list[Claim]:
        """Note what came of an extension, and return the claims whose attempts are to stop.

        Args:
            asked: the claims that were to be extended.
            asked_at: when that was asked for.
            answer: what the engine said.
        """
        stop: list[Claim] = []
        for claim in asked:
            held = self._held.get(claim)
            if held is None:
                continue  # over meanwhile
            if claim in answer.lost:
                del self._held[claim]
                stop.append(claim)
                continue
            held.until = max(held.until, asked_at + self._lease)
            if claim in answer.cancelled and not held.is_cancelled:
                held.is_cancelled = True
                stop.append(claim)
        return stop

    def is_held(self, claim: Claim) -> bool:
        """Return whether the claim is held, as far as is known."""
        return claim in self._held

    def may_begin(self, claim: Claim, now: float) -> bool:
        """Return whether there is still time to begin: one that has run out may be another's."""
        held = self._held.get(claim)
        return held is not None and now < held.until - held.margin

    def is_cancelled(self, claim: Claim) -> bool:
        """Return whether somebody has cancelled the job."""
        held = self._held.get(claim)
        return held is not None and held.is_cancelled

    def run_out(self, now: float) -> list[Claim]:
        """Return the claims that were not extended in time: their attempts are to stop."""
        return [claim for claim, held in self._held.items() if now >= held.until - held.margin]

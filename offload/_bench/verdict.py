"""Whether the limit is kept, and in either case why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload._bench.result import counted

if TYPE_CHECKING:
    from offload._bench.result import Result, Side

__all__ = ["Verdict", "judge"]

# An idle server that stalls this often, in every round, is no baseline: half as many as a fault
# that comes once a second, and more than the housekeeping of a healthy one.
_STALLS_PER_SECOND = 0.5
# Of all heavy requests. One that fails may cost the server next to nothing, as when a pool is
# broken: then there is no load. To refuse is no failure, but how a server sheds it.
_HEAVY_FAILED = 0.05
_REFUSED = ("429", "503")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a CI job goes by.

    Attributes:
        reasons: why it fails; empty if it does not.
        notes: what a reader should know besides, whatever the outcome.
    """

    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_passed(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


def judge(result: Result) -> Verdict:
    """Judge a result by its limit; without one nothing fails, and the same is noted."""
    limit, ratio, path = result.settings.max_ratio, result.ratio, result.settings.fast.path
    found: list[str] = []
    if limit is not None and ratio.value > limit:
        found.append(
            f"the p99 of {path} under load is {ratio.value:.2f} times its idle p99 "
            f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f}), more than the limit of {limit:g}"
        )
    found += _faults(result)
    notes = [] if limit is not None else found
    reasons = found if limit is not None else []
    if limit is not None and not result.is_decided:
        notes.append(
            f"the interval of the ratio, {ratio.low:.2f} to {ratio.high:.2f}, has the limit in it: "
            "more --rounds or --seconds, or a quieter machine, would tell for sure"
        )
    if reasons and result.is_disturbed:
        notes.append(
            "the machine was disturbed meanwhile, which may be why it fails: measure again on a "
            "quieter one"
        )
    if result.dropped:
        notes.append(f"{result.dropped} more rounds were disturbed, and left out")
    return Verdict(tuple(reasons), (*notes, *_held(result), *result.disturbances))


def _faults(result: Result) -> list[str]:
    """Return what makes the ratio meaningless."""
    path, heavy = result.settings.fast.path, result.settings.heavy.path
    found: list[str] = []
    for name, side in (("idle", result.idle), ("under load", result.loaded)):
        if side.failures:
            found.append(
                f"{path} {name}: {sum(side.failures.values()):,} of {side.requests:,} requests "
                f"failed ({counted(side.failures)})"
            )
    if not result.heavy_per_second:
        failures = counted(result.heavy_failures) or "each takes longer than a round"
        found.append(f"no request of {heavy} was completed, so there was no load: {failures}")
    failed = {kind: n for kind, n in result.heavy_failures.items() if kind not in _REFUSED}
    count = sum(failed.values())
    total = result.heavy_completed + count
    if result.heavy_completed and count > _HEAVY_FAILED * total:
        found.append(
            f"{count:,} of {total:,} requests of {heavy} failed ({counted(failed)}), so the load "
            "was not what it seems"
        )
    idle = result.idle
    rates = [each.stalls_per_second for each in (idle.each or [idle])]
    if min(rates) >= _STALLS_PER_SECOND:
        found.append(
            f"idle is no baseline: without any load, {path} stalls {idle.stalls_per_second:.1f} "
            f"times a second, for {idle.stall_ms:.0f} ms; {_suspect(idle)}"
        )
    return found


def _suspect(side: Side) -> str:
    if side.own_stalls is None:
        return "something holds the event loop, or the machine"
    if side.own_stalls * 2 >= len(side.stalls):
        return "code on the event loop computes for that long"
    return "the event loop's thread was waiting, or the machine was busy elsewhere"


def _held(result: Result) -> list[str]:
    """Say what held the loop under load, where that is known."""
    side = result.loaded
    if not side.own_stalls:
        return []
    often = side.own_stalls / side.seconds
    text = (
        f"under load, code on the event loop computed for 10 ms or more in one turn {often:.1f} "
        "times a second: that is what the other requests wait for"
    )
    return [text]

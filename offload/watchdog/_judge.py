"""Why a loop was late: decided from figures alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from offload.watchdog._records import Cause

__all__ = ["Facts", "Verdict", "is_asking", "judge"]

# A cause must explain at least so much of the time.
_MOST = 0.5
# Of the wake-ups that a wait for the GIL must show. They come at least that far apart; on a busy
# machine each is late by itself.
_WAKE_UPS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured of one late heartbeat. Seconds; None where unknown.

    Attributes:
        late: how late it was.
        threshold: from which on that matters.
        cpu: what the loop's thread computed meanwhile.
        waited: how long it could have run and was not let.
        switches: how often it gave up the CPU by itself.
        process: what all threads computed; needed where `waited` is unknown.
        collected: how long the garbage collector ran, on whichever thread.
        gil_busy: how long the watching thread wanted the GIL and did not get it.
        stopped: how long the watching thread did not run and did not want anything.
        others_waited: the longest that one other thread could have run and was not let.
        pressure: how long some process of the machine waited for a CPU.
        throttled: how long a CPU quota stopped our cgroup.
        is_idle: whether the loop was never seen at anything but waiting for events.
        switch_interval: seconds after which a thread that wants the GIL asks for it again.
    """

    late: float
    threshold: float
    cpu: float
    waited: float | None = None
    switches: int | None = None
    process: float | None = None
    collected: float = 0.0
    gil_busy: float = 0.0
    stopped: float = 0.0
    others_waited: float = 0.0
    pressure: float | None = None
    throttled: float | None = None
    is_idle: bool = False
    switch_interval: float = 0.005


@dataclass(frozen=True, slots=True)
class Verdict:
    """The cause of a block.

    Attributes:
        cause: `cpu`, `blocking` and `gil` still have to be told from `offload`, by the stack.
        seconds: how long the code held the loop; of `starved`, how late the loop was.
        detail: of `starved`: "quota", "others" or "stopped"; of `blocking`: "gil" if the call kept
            the GIL meanwhile, so that every thread was held; else "".
    """

    cause: Cause
    seconds: float
    detail: Literal["", "gil", "quota", "others", "stopped"] = ""


def judge(facts: Facts) -> Verdict | None:
    """Return the cause; None if nothing held the loop for the threshold."""
    waited = min(facts.waited or 0.0, facts.late)
    if facts.throttled is not None and facts.throttled > waited:
        # The kernel may count a throttled thread as one that sleeps.
        waited = min(facts.throttled, facts.late)
    held = facts.late - waited
    if held < facts.threshold:
        return _starved(facts) if waited >= facts.late * _MOST else None
    if facts.collected >= held * _MOST:
        return Verdict("gc", held)
    if facts.cpu >= held * _MOST:
        return Verdict("cpu", held)
    if facts.stopped >= held * _MOST:
        return Verdict("starved", facts.late, "stopped")
    if facts.gil_busy >= held * _MOST or (facts.is_idle and _asks(facts, held)):
        return _without_gil(facts, held)
    # Whoever wanted the GIL got it: the loop's thread sat in a call that had given it up.
    return None if facts.is_idle else Verdict("blocking", held)


def _asks(facts: Facts, held: float) -> bool:
    return is_asking(facts.switches, held, facts.switch_interval, unknown=False)


def _without_gil(facts: Facts, held: float) -> Verdict:
    """Return the cause of a block in which the loop did not compute and nobody got the GIL."""
    asks = is_asking(facts.switches, held, facts.switch_interval, unknown=facts.is_idle)
    # Where the waits of threads are not counted: without any computation there was no holder.
    if asks and facts.process is not None and facts.process < held * _MOST:
        return _starved(facts)
    # Whoever had the GIL would have given it back sooner, had it been let run.
    held -= facts.others_waited
    if held < facts.threshold:
        return _starved(facts)
    return Verdict("gil", held) if asks else Verdict("blocking", held, "gil")


def is_asking(switches: int | None, seconds: float, interval: float, *, unknown: bool) -> bool:
    """Return whether a thread that did not run for some seconds was waiting for the GIL.

    It wakes up each interval to ask again (`take_gil` in CPython's ceval_gil.c); one that sleeps
    in a call, or has been stopped, does not.

    Args:
        switches: how often it gave up the CPU meanwhile.
        seconds: how long.
        interval: `sys.getswitchinterval()`.
        unknown: the answer where `switches` is None.
    """
    return unknown if switches is None else switches >= _WAKE_UPS * seconds / interval


def _starved(facts: Facts) -> Verdict:
    enough = facts.late * _MOST
    if (facts.throttled or 0.0) >= enough / 2:
        return Verdict("starved", facts.late, "quota")
    is_waiting = max(facts.waited or 0.0, facts.pressure or 0.0, facts.others_waited) >= enough
    return Verdict("starved", facts.late, "others" if is_waiting else "stopped")

"""What the watchdog tells: one block, one place that blocks, and the whole of it. Frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from offload._values.histogram import HistogramSnapshot

__all__ = [
    "CAUSES",
    "Block",
    "Cause",
    "CauseStatistics",
    "PlaceStatistics",
    "RouteStatistics",
    "WatchdogStatistics",
]

Cause = Literal["offload", "cpu", "blocking", "gc", "gil", "starved"]
"""Why a loop was late.

- `offload`: code of this library held it.
- `cpu`: the loop's thread computed, in Python or in native code.
- `blocking`: the loop's thread sat in a call that waits: a sleep, a socket, a file, a lock.
- `gc`: the garbage collector ran, on whichever thread.
- `gil`: another thread held the GIL.
- `starved`: the machine gave the process no CPU, or had stopped it: no code is to blame.
"""

CAUSES: tuple[Cause, ...] = ("offload", "cpu", "blocking", "gc", "gil", "starved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One time that an event loop was late by the threshold or more.

    Attributes:
        at: when it ended, as `time.time()`.
        seconds: how long the code held the loop: the time that the kernel kept the thread waiting
            for a CPU is not in it. For the cause `starved`, how late the loop was.
        cause: why, see `Cause`.
        what: what it was in particular, such as "sleep", "socket", "JSON", "subprocess".
        route: method and template of the request, such as `GET /report/{id}`; its path where the
            template is not known; "" if the code ran for no request.
        function: the innermost function of the application on the stack, as `module:qualname`; that
            of a library where there is none of the application; "" if the loop only waited for
            events, and it is not known which thread had the GIL.
        file: its file.
        line: the line seen most often.
        code: the expression that was being evaluated when it was last seen there.
        advice: what to do about it.
        stack: the stack, as text, outermost first; that of the thread which held the GIL if the
            cause is `gil`.
        thread: name of the thread that was at work, "" for the loop's own.
        late: seconds that the heartbeat was late, waiting included.
        cpu: seconds that the loop's thread computed; None where unknown.
        waited: seconds that the loop's thread waited for a CPU; None where unknown.
        collected: seconds that the garbage collector ran.
        is_over: False if the loop was still being held when this was noted.
        has_template: False if `route` has a path that a client chose.
    """

    at: float
    seconds: float
    cause: Cause
    what: str
    route: str
    function: str
    file: str
    line: int
    code: str
    advice: str
    stack: str
    thread: str = ""
    late: float = 0.0
    cpu: float | None = None
    waited: float | None = None
    collected: float = 0.0
    is_over: bool = True
    has_template: bool = True

    def __str__(self) -> str:
        """Tell it in one sentence."""
        held = "was late by" if self.cause == "starved" else "was held for"
        if not self.is_over:
            held = "has been held for"
        whom = f" by {self.route}" if self.route else ""
        where = f": {self.function} at {self.file}:{self.line}" if self.function else ""
        how = f"{self.what} in thread {self.thread}" if self.thread else self.what
        code = f": {self.code}" if self.code else ""
        ms = self.seconds * 1e3
        return f"the event loop {held} {ms:.0f} ms{whom}{where} ({self.cause}: {how}){code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceStatistics:
    """One place that has blocked the loop, and how often.

    Attributes:
        cause: as in `Block`; so are `what`, `route`, `function`, `file`, `line`, `code`,
            `advice` and `thread`: those of its last block.
        count: blocks at this place.
        total: seconds of all of them.
        longest: seconds of the longest.
        last_at: when the last one ended, as `time.time()`.
        stack: of the last one.
    """

    cause: Cause
    what: str
    route: str
    function: str
    file: str
    line: int
    code: str
    advice: str
    thread: str
    count: int
    total: float
    longest: float
    last_at: float
    stack: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseStatistics:
    """All blocks of one cause; the counters only grow.

    Attributes:
        cause: which.
        count: blocks.
        seconds: of all of them.
    """

    cause: Cause
    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatistics:
    """All blocks of one route and one cause; the counters only grow.

    Attributes:
        route: as in `Block`; "other" for requests whose template is not known, whose paths are
            without number, and for all routes after the first few hundred.
        cause: which.
        count: blocks.
        seconds: of all of them.
    """

    route: str
    cause: Cause
    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogStatistics:
    """What is known of the event loops of this process.

    Attributes:
        is_watching: whether a loop is being watched now.
        threshold: seconds from which a late loop counts as blocked; 0.0 if none was ever watched.
        since: when the first watching began, as `time.time()`; 0.0 if none was.
        lag: seconds by which each heartbeat was late (event-loop lag); about a millisecond of it
            is the timer's own.
        now: seconds by which the heartbeat is late at this instant, the worst of all loops.
        causes: one entry for each cause that there is, those that never happened included.
        routes: one entry for each route and cause that has blocked; bounded.
        places: the places that have blocked, most seconds first; bounded.
        places_dropped: places that were forgotten to stay within the bound.
        recent: the latest blocks, oldest first; bounded.
    """

    is_watching: bool
    threshold: float
    since: float
    lag: HistogramSnapshot
    now: float
    causes: tuple[CauseStatistics, ...]
    routes: tuple[RouteStatistics, ...]
    places: tuple[PlaceStatistics, ...]
    places_dropped: int
    recent: tuple[Block, ...]

    @property
    def blocks(self) -> int:
        """Blocks of every cause but `starved`."""
        return sum(each.count for each in self.causes if each.cause != "starved")

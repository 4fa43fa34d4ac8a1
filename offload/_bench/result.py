"""What was measured, and what it says: cells, rounds, and both sides of the comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from offload._bench.numbers import (
    BLOCK_MS,
    Comparison,
    Estimate,
    Stall,
    blocks,
    compare,
    quantile,
    stalls,
)
from offload._bench.subject import BEAT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from offload._bench.client import Target
    from offload._bench.subject import Beat

__all__ = ["Cell", "Result", "Round", "Settings", "Side", "counted"]

# A request that waited this long stands for a stall, unless the path itself is slower than that.
_STALL_MS = 10.0
_STALL_TO_P50 = 5.0
# A beat this late, while the loop's own thread computed for the time of a stall, is its own doing.
_LATE_MS = 5.0
_OWN_SHARE = 0.25
# A sample of few blocks would pretend that it is certain; shorter ones are the lesser evil.
_LEAST_BLOCKS = 10
_FAILED = 400
_LAGS = {"p50": 0.5, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and how.

    Attributes:
        fast: the path that shall stay fast.
        heavy: the path that computes.
        clients: heavy clients at a time.
        rate: requests of `fast` a second.
        rounds: of idle and loaded, at least.
        max_rounds: of them at most, where some are disturbed or the limit is undecided.
        seconds: of each of the two.
        warm_up: seconds before each of the two.
        timeout: seconds for one request.
        max_ratio: the limit of p99 under load to p99 idle, or None.
        heavy_body: the file with the body of the heavy request, or None.
    """

    fast: Target
    heavy: Target
    clients: int
    rate: float
    rounds: int
    max_rounds: int
    seconds: float
    warm_up: float
    timeout: float
    max_ratio: float | None = None
    heavy_body: str | None = None


@dataclass(slots=True, eq=False)
class Cell:
    """What one run of the generator found.

    Attributes:
        clients: heavy ones.
        load: the generator's output.
        beats: of the server's loop meanwhile; None where they are not known.
        memory_bytes: of the server's processes at the end (PSS), or None.
    """

    clients: int
    load: dict[str, Any]
    beats: list[Beat] | None = None
    memory_bytes: int | None = None

    @property
    def times(self) -> list[tuple[float, float]]:
        """(intended, latency) of what was answered or timed out, in milliseconds."""
        fast = self.load["fast"][0]
        pairs = zip(fast["intended_ms"], fast["latency_ms"], strict=True)
        return [(intended, latency) for intended, latency in pairs if latency is not None]

    @property
    def lags(self) -> list[tuple[float, float]]:
        """(since the start, event-loop lag) of each beat, in milliseconds."""
        start = self.load["started_monotonic"]
        return [((beat.at - start) * 1e3, beat.lag_ms) for beat in self.beats or ()]

    @property
    def is_disturbed(self) -> bool:
        """Whether somebody else had the CPUs; late requests may be the server's own doing."""
        return not {"others", "steal"}.isdisjoint(self.load["health"]["causes"])

    def failures(self) -> dict[str, int]:
        """Return requests of the fast path that failed, by status or error."""
        fast = self.load["fast"][0]
        statuses: dict[str, int] = fast["statuses"]
        errors: dict[str, int] = fast["errors"]
        found = {each: n for each, n in statuses.items() if int(each) >= _FAILED}
        return found | errors


@dataclass(slots=True, eq=False)
class Round:
    """One cell of each kind."""

    idle: Cell
    loaded: Cell

    @property
    def is_disturbed(self) -> bool:
        """Whether one of them was."""
        return self.idle.is_disturbed or self.loaded.is_disturbed


@dataclass(slots=True, eq=False)
class Side:
    """All cells of one kind, summed up.

    Attributes:
        requests: of the fast path that count.
        failures: of these, by status or error.
        stalls: of the fast path.
        seconds: measured in all.
        own_stalls: of the event loop, in which its own thread was what computed; None: not known.
        lag: event-loop lag in milliseconds, by percentile; None: not known.
        memory_bytes: the median, or None.
        each: the same of each cell alone; empty where this is one.
    """

    requests: int
    failures: dict[str, int]
    stalls: list[Stall]
    seconds: float
    own_stalls: int | None
    lag: dict[str, float] | None
    memory_bytes: int | None
    each: list[Side]

    @property
    def stalls_per_second(self) -> float:
        """How often the fast path stalled."""
        return len(self.stalls) / self.seconds

    @property
    def stall_ms(self) -> float:
        """How long a stall was, the median; nan without one."""
        return median(each.longest_ms for each in self.stalls) if self.stalls else math.nan


@dataclass(slots=True, eq=False)
class Result:
    """What came of it.

    Attributes:
        settings: what was asked for.
        name: of the subject.
        facts: what is known of server and machine.
        started_at: `time.time()`.
        rounds: those that the numbers are made of, in order of time.
        dropped: rounds that were disturbed, and replaced by others.
        alone_ms: how long one heavy request took with nothing else going on.
    """

    settings: Settings
    name: str
    facts: dict[str, str]
    started_at: float
    rounds: list[Round]
    dropped: int
    alone_ms: float
    threshold_ms: float = field(init=False)
    table: Comparison = field(init=False)
    idle: Side = field(init=False)
    loaded: Side = field(init=False)

    def __post_init__(self) -> None:
        """Compute what the rounds say together."""
        idle = [each.idle for each in self.rounds]
        loaded = [each.loaded for each in self.rounds]
        whole_ms = self.settings.seconds * len(self.rounds) * 1e3
        block_ms = min(BLOCK_MS, whole_ms / _LEAST_BLOCKS)
        self.table = compare(
            [block for cell in idle for block in blocks(cell.times, block_ms=block_ms)],
            [block for cell in loaded for block in blocks(cell.times, block_ms=block_ms)],
        )
        self.threshold_ms = max(_STALL_MS, _STALL_TO_P50 * self.table.before["p50"].value)
        self.idle = self._side(idle)
        self.loaded = self._side(loaded)

    def _side(self, cells: Sequence[Cell]) -> Side:
        failures: dict[str, int] = {}
        for cell in cells:
            for kind, count in cell.failures().items():
                failures[kind] = failures.get(kind, 0) + count
        beats = [beat for cell in cells for beat in cell.beats or ()]
        lags = sorted(_with_omitted(beat.lag_ms for beat in beats))
        memory = [cell.memory_bytes for cell in cells if cell.memory_bytes is not None]
        return Side(
            requests=sum(len(cell.load["fast"][0]["intended_ms"]) for cell in cells),
            failures=failures,
            stalls=[
                stall
                for cell in cells
                for stall in stalls(cell.times, threshold_ms=self.threshold_ms)
            ],
            seconds=self.settings.seconds * len(cells),
            own_stalls=sum(_is_own(beat) for beat in beats) if beats else None,
            lag={name: quantile(lags, fraction) for name, fraction in _LAGS.items()}
            if lags
            else None,
            memory_bytes=int(median(memory)) if memory else None,
            each=[self._side([cell]) for cell in cells] if len(cells) > 1 else [],
        )

    @property
    def ratio(self) -> Estimate:
        """The p99 of the fast path under load, to that of it idle."""
        return self.table.ratio["p99"]

    @property
    def is_decided(self) -> bool:
        """Whether the whole interval of the ratio is on one side of the limit, if there is one."""
        limit = self.settings.max_ratio
        return limit is None or self.ratio.high <= limit or self.ratio.low > limit

    @property
    def heavy_completed(self) -> int:
        """Heavy requests completed."""
        completed: list[int] = [each.loaded.load["heavy"]["completed"] for each in self.rounds]
        return sum(completed)

    @property
    def heavy_per_second(self) -> float:
        """Heavy requests completed a second."""
        return self.heavy_completed / (self.settings.seconds * len(self.rounds))

    @property
    def heavy_round_trip_ms(self) -> dict[str, float]:
        """Percentiles of the heavy clients' round trips."""
        ordered = sorted(
            took for each in self.rounds for took in each.loaded.load["heavy"]["round_trip_ms"]
        )
        return {"p50": quantile(ordered, 0.5), "p99": quantile(ordered, 0.99)}

    @property
    def heavy_failures(self) -> dict[str, int]:
        """Heavy requests that failed, by status or error."""
        found: dict[str, int] = {}
        for each in self.rounds:
            heavy = each.loaded.load["heavy"]
            statuses = {key: n for key, n in heavy["statuses"].items() if int(key) >= _FAILED}
            for kind, count in (statuses | heavy["errors"]).items():
                found[kind] = found.get(kind, 0) + count
        return found

    @property
    def is_disturbed(self) -> bool:
        """Whether somebody else had the CPUs in a round that counts."""
        return any(each.is_disturbed for each in self.rounds)

    @property
    def disturbances(self) -> list[str]:
        """What disturbed the rounds that count: each cause once, at its worst."""
        cells = [cell for each in self.rounds for cell in (each.idle, each.loaded)]
        worst: dict[str, tuple[float, str]] = {}
        counts: dict[str, int] = {}
        for cell in cells:
            health = cell.load["health"]
            sizes = {
                "others": health["others_share"],
                "steal": health["steal_share"],
                "lateness": health["lateness_ms"]["p99"],
            }
            for cause, text in zip(health["causes"], health["disturbed"], strict=True):
                counts[cause] = counts.get(cause, 0) + 1
                worst[cause] = max(worst.get(cause, (0.0, "")), (sizes[cause], text))
        return [
            f"{counts[cause]} of {len(cells)} measurements were disturbed; at worst, {text}"
            for cause, (_, text) in worst.items()
        ]


def _is_own(beat: Beat) -> bool:
    # The loop was held, and by its own thread: not by a neighbour who had the CPU so long that much
    # work had piled up when the thread got it back.
    is_busy = beat.cpu_ms >= _STALL_MS and beat.cpu_ms >= _OWN_SHARE * beat.lag_ms
    return is_busy and beat.lag_ms >= _LATE_MS


def _with_omitted(lags: Iterable[float]) -> Iterator[float]:
    """Yield lags, and those of the beats that did not come because of them.

    A beat that comes late stands for all that should have come before it, as a slow request stands
    for those behind it.
    """
    for lag in lags:
        yield max(lag, 0.0)
        left = lag - BEAT_SECONDS * 1e3
        while left > 0:
            yield left
            left -= BEAT_SECONDS * 1e3


def counted(failures: dict[str, int]) -> str:
    """Return counts by kind as text: `timeout 3, 503 12`."""
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(failures.items()))

"""How many jobs have ended per minute over the last day, by what became of them.

The store knows it for a day (`Engine.ended`), whoever has looked; what it has told is kept here, so
that it is asked for all of it once, and then only for what is new.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

from offload.dashboard._history import SPANS, Ring

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.jobs._ended import Ended
    from offload.jobs._engine import Engine

__all__ = ["EndedHistory"]

_STATES: Final = ("completed", "failed", "cancelled")
_ENTRIES: Final = 360
# Of one store; of the others only the sum is kept.
_MOST_QUEUES: Final = 50
# A store is asked for at most one part in so many of the time, and has so many seconds to answer.
_SHARE: Final = 20
_PATIENCE: Final = 5.0
_AT_ONCE: Final = 10


class EndedHistory:
    """The numbers of one store: of each queue, and of all together, per minute.

    Args:
        clock: the monotonic one, unless a test has another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._queues: dict[str, dict[int, Ring]] = {"": _new_rings()}
        # Of each step: end of the last entry, in seconds since the epoch; None: there is none yet.
        self._known: dict[int, int | None] = dict.fromkeys(SPANS.values())
        # How far the store's clock is ahead of the monotonic one.
        self._ahead = 0.0
        self._rest_until = 0.0
        self._is_too_much = False

    async def look(self, engine: Engine) -> None:
        """Ask the store for what is new.

        Raises:
            JobsUnavailableError: it cannot be reached.
        """
        if self._clock() < self._rest_until:
            return
        begin = self._clock()
        for step in self._known:
            if not (steps := self._wanted(step)):
                continue
            with anyio.move_on_after(_PATIENCE) as scope:
                ended = await engine.ended(step, steps)
                scope.deadline = math.inf
                await self._note(step, steps, ended)
                continue
            # To count a day takes too long: what is known begins with the next steps.
            self._is_too_much = True
        now = self._clock()
        self._rest_until = now + _SHARE * (now - begin)

    def _wanted(self, step: int) -> int:
        """Return how many steps to ask the store for, that of now included; 0: none is new."""
        known = self._known[step]
        if known is None:
            return 2 if self._is_too_much else _ENTRIES + 1
        new = int(self._clock() + self._ahead - known) // step
        return min(new + 1, _ENTRIES + 1) if new > 0 else 0

    async def _note(self, step: int, steps: int, ended: Ended) -> None:
        """Make entries of the steps that are over and not yet known."""
        self._ahead = ended.now - self._clock()
        known = self._known[step] or 0
        last = int(ended.now) // step * step
        first = max(last - (steps - 1) * step, known)
        counts: dict[str, dict[int, dict[str, float]]] = {"": {}}
        for each in ended.counts:
            for name in (each.queue, ""):
                of_step = counts.setdefault(name, {}).setdefault(each.at, dict.fromkeys(_STATES, 0))
                of_step[each.state] += each.count * 60 / step
        for name in counts:
            if name not in self._queues and len(self._queues) <= _MOST_QUEUES:
                self._queues[name] = _new_rings()
        nothing: dict[str, float] = dict.fromkeys(_STATES, 0.0)
        for number, at in enumerate(range(first, last, step)):
            if number % _AT_ONCE == 0:
                # The first look makes some hundred entries of each queue: not in one go.
                await anyio.lowlevel.checkpoint()
            self._known[step] = at + step
            for name, rings in self._queues.items():
                rings[step].add(at + step, counts.get(name, {}).get(at, nothing))

    def told(self, queue: str, step: int) -> dict[str, Any]:
        """Return the entries of a queue ("": of all), for one step of `SPANS`."""
        rings = self._queues.get(queue)
        if rings is not None:
            return rings[step].told()
        if len(self._queues) > _MOST_QUEUES:
            return {"at": []}
        # No job of it has ended.
        at = self._queues[""][step].told()["at"]
        return {"at": at, **{state: [0.0] * len(at) for state in _STATES}}

    @property
    def queues(self) -> list[str]:
        """Names of the queues that it has."""
        return [name for name in self._queues if name]

    @property
    def size_bytes(self) -> int:
        """How much memory its numbers take."""
        return sum(ring.size_bytes for each in self._queues.values() for ring in each.values())


def _new_rings() -> dict[int, Ring]:
    return {step: Ring(_STATES, _ENTRIES) for step in SPANS.values()}

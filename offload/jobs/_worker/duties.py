"""What a worker program does all the time, besides running jobs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from offload.jobs._errors import JobsUnavailableError
from offload.jobs._worker.attempt import Stop
from offload.jobs._worker.leases import extend_period

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs._values import Claim
    from offload.jobs._worker.attempt import RunningAttempt
    from offload.jobs._worker.consumer import Consumer
    from offload.jobs._worker.parts import Parts

__all__ = ["Duties"]

_logger: Final = logging.getLogger("offload.jobs")

_SWEEP_SECONDS: Final = 0.5
_PRUNE_SECONDS: Final = 60.0
_TELL_SECONDS: Final = 0.2
_WATCH_SECONDS: Final = 0.1
# Between two lines in the log: of one long attempt, and of what was done meanwhile.
_LONG_SECONDS: Final = 60.0


class Duties:
    """Each method goes on until it is cancelled.

    Args:
        parts: of the program.
        consumers: whose attempts are looked after.
        max_over: how many jobs that are over are kept in the store; None: no limit.
    """

    def __init__(
        self, parts: Parts, consumers: Sequence[Consumer], *, max_over: int | None
    ) -> None:
        self._parts = parts
        self._consumers = consumers
        self._max_over = max_over

    async def extend(self) -> None:
        """Extend all claims, and stop the attempts of those that are lost or cancelled."""
        parts, leases = self._parts, self._parts.leases
        period = extend_period(parts.lease)
        while True:
            await asyncio.sleep(period)
            held = leases.held()
            if not held:
                continue
            asked_at = time.monotonic()
            try:
                answer = await parts.engine.extend(held, parts.lease)
            except JobsUnavailableError as error:
                parts.connection.failed(error)
                continue
            parts.connection.succeeded()
            for claim in leases.extended(held, asked_at, answer):
                is_cancelled = leases.is_cancelled(claim)
                self._stop(claim, Stop.CANCELLED if is_cancelled else Stop.LOST)

    async def watch(self) -> None:
        """Stop attempts in time whose lease is not extended; hand back what waits in vain."""
        parts = self._parts
        while True:
            due_at = time.monotonic() + _WATCH_SECONDS
            await asyncio.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            parts.pulse.beat(due_at, now)
            for claim in parts.leases.run_out(now):
                self._stop(claim, Stop.LOST)
            for consumer in self._consumers:
                consumer.look_after()

    async def tell(self) -> None:
        """Have progress and log records kept, and say in the log what takes long."""
        parts, told = self._parts, dict[str, float]()
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            attempts = self._attempts()
            try:
                for attempt in attempts:
                    if attempt.ended_at is None:
                        await attempt.tell(parts.engine)
            except JobsUnavailableError as error:
                parts.connection.failed(error)
            told = _log_long(attempts, told)

    async def care(self) -> None:
        """Sweep and prune the store, as every worker program does."""
        parts = self._parts
        prune_at = time.monotonic() + random.uniform(1.0, _PRUNE_SECONDS)  # noqa: S311
        while True:
            # Not all programs at the same moment.
            await asyncio.sleep(_SWEEP_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                swept = await parts.engine.sweep()
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + _PRUNE_SECONDS
                    await parts.engine.prune(max_over=self._max_over)
            except JobsUnavailableError as error:
                parts.connection.failed(error)
                continue
            # Also those whose deadline had passed while they waited are among the failed.
            parts.counters.swept += len(swept.retried) + len(swept.cancelled) + len(swept.failed)
            if swept.retried or swept.failed:
                _logger.warning(
                    "leases ran out: %d jobs wait again, %d have failed",
                    len(swept.retried),
                    len(swept.failed),
                )

    def _stop(self, claim: Claim, reason: Stop) -> None:
        for consumer in self._consumers:
            attempt = consumer.attempts.get(claim.token)
            if attempt is not None:
                attempt.stop(reason)

    def _attempts(self) -> list[RunningAttempt]:
        return [attempt for consumer in self._consumers for attempt in consumer.attempts.values()]


def _log_long(attempts: Sequence[RunningAttempt], told: dict[str, float]) -> dict[str, float]:
    """Say what takes long; return when that was said, by the token of the claim."""
    now = time.monotonic()
    said: dict[str, float] = {}
    for attempt in attempts:
        key, job = attempt.claimed.claim.token, attempt.claimed.job
        last = told.get(key, attempt.claimed_at)
        if now - last >= _LONG_SECONDS:
            last = now
            progress = attempt.progress or "not told"
            seconds = attempt.run_seconds
            _logger.info(
                "%s %s runs for %.0f s, progress: %s", job.function, job.id, seconds, progress
            )
        said[key] = last
    return said

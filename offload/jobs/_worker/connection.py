"""The engine as a worker program sees it: there, or away for a while."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from offload.jobs._errors import JobsUnavailableError

__all__ = ["Connection"]

_logger: Final = logging.getLogger("offload.jobs")

_FIRST_DELAY: Final = 0.1
_MAX_DELAY: Final = 5.0


class Connection:
    """Whether the engine answers; says so once, and not at each try.

    Attributes:
        is_up: whether the last round trip succeeded.
        outages: how often it has gone away.
    """

    def __init__(self) -> None:
        self.is_up = True
        self.outages = 0

    def failed(self, error: JobsUnavailableError) -> None:
        """Note that the engine could not be reached."""
        if self.is_up:
            self.is_up = False
            self.outages += 1
            _logger.warning("the engine does not answer, trying again: %s", error)

    def succeeded(self) -> None:
        """Note that the engine has answered."""
        if not self.is_up:
            self.is_up = True
            _logger.warning("the engine answers again")

    @staticmethod
    async def pause(tries: int) -> None:
        """Wait before the next try; longer each time, and each program differently."""
        delay = min(_FIRST_DELAY * 2.0 ** min(tries, 10), _MAX_DELAY)
        await anyio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

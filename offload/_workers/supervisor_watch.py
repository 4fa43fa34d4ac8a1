"""Notices a supervisor that does not answer: it is stopped, or hangs.

Nothing is asked of it while nothing is expected of it. Each command is followed by a ping, whose
answer tells that the command was done. Without an answer in time, what the kernel says of the
process decides: one that was stopped is told to go on, which costs nobody anything; one that waits
for something else, or does not go on, is killed, and its workers with it.

Everything here happens on the keeper's thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from offload._wire import supervision
from offload._workers.keeper import keeper
from offload._workers.logs import log_safely
from offload._workers.watch import Doing, doing

if TYPE_CHECKING:
    import asyncio

__all__ = ["SupervisorWatch"]

_logger = logging.getLogger("offload.workers")

# For an answer.
_ANSWER_SECONDS = 0.5
# For what was stopped to go on; and between two looks at one that waits for something else, since
# it may have been about to answer at the first.
_LOOK_SECONDS = 0.2
_LOOKS = 3
# For one that computes, or waits for a core: on a machine that is busy enough that takes long.
_SLOW_SECONDS = 10.0
# If our own thread comes to its timer so late, this process was stopped as well.
_LATE_SECONDS = 0.5


class Watched(Protocol):
    """The supervisor, as it is watched."""

    @property
    def pid(self) -> int | None:
        """Its process id."""
        ...

    def resume(self) -> None:
        """Have it go on."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def read(self) -> None:
        """Take what it has said and nobody has read."""
        ...


class SupervisorWatch:
    """Whether the supervisor of one pool answers.

    Args:
        pool: name of the pool.
        watched: the supervisor.
    """

    def __init__(self, pool: str, watched: Watched) -> None:
        self._pool = pool
        self._watched = watched
        self._timer: asyncio.TimerHandle | None = None
        self._asked = 0
        self._asked_at = 0.0
        self._is_loading = True
        self._was_resumed = False
        self._looks = 0

    def begin(self) -> None:
        """Take note that it loads what its workers share, and answers only after that."""
        self._is_loading = True

    def loaded(self) -> None:
        """Take note that it serves."""
        self._is_loading = False
        if self._timer is not None:
            self._asked_at = keeper.loop.time()

    def ping(self) -> bytes:
        """Return the question to send; its answer is awaited from now on."""
        self._asked = (self._asked + 1) & 0x7FFFFFFF
        if self._timer is None:
            self._asked_at = keeper.loop.time()
            self._was_resumed = False
            self._looks = 0
            self._wait(_ANSWER_SECONDS)
        return supervision.COMMAND.pack(supervision.PING, self._asked, 0)

    def answered(self, number: int) -> None:
        """Take note of an answer."""
        self._asked_at = keeper.loop.time()
        if number == self._asked:
            self.end()

    def end(self) -> None:
        """Expect nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        self._timer = keeper.loop.call_later(
            seconds, self._unanswered, keeper.loop.time() + seconds
        )

    def _unanswered(self, due: float) -> None:
        now = keeper.loop.time()
        waited = now - self._asked_at
        if now - due > _LATE_SECONDS or waited < _ANSWER_SECONDS:
            self._wait(_ANSWER_SECONDS)
            return
        state = doing(self._watched.pid)
        # In this order: one that waits for the next command has answered this one before.
        self._watched.read()
        if self._timer is None:
            return
        if state is Doing.STOPPED and not self._was_resumed:
            self._was_resumed = True
            self._log("is stopped, and is told to go on")
            self._watched.resume()
            self._wait(_LOOK_SECONDS)
        elif state in (Doing.COMPUTING, Doing.UNKNOWN) and waited < _SLOW_SECONDS:
            self._looks = 0
            self._wait(_ANSWER_SECONDS)
        elif self._is_loading and state is not Doing.STOPPED:
            self._wait(_ANSWER_SECONDS)  # each of its workers has its `start_timeout`
        elif state is Doing.WAITING and self._looks + 1 < _LOOKS:
            self._looks += 1
            self._wait(_LOOK_SECONDS)
        else:
            self._timer = None
            self._log(f"does not answer ({state.value}), and is replaced; its workers with it")
            self._watched.kill()

    def _log(self, what: str) -> None:
        log_safely(
            _logger,
            logging.ERROR,
            "the supervisor process %s of pool %r %s",
            self._watched.pid,
            self._pool,
            what,
            extra={"offload_pool": self._pool},
        )

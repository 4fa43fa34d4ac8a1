"""What becomes of the programs of one `offload run`: events in, actions out.

              begin           ready            ended
    (start) ───────► STARTING ─────► RUNNING ─────────► WAITING ── a second or more ─► STARTING
                        │ ended                            │
                        ▼                                  │
                 all are stopped ─────────► ENDED ◄────────┘ stop

Guarantees:

1. A program that ends before it was ready ends all, with its exit status: it would fail in the same
   way again, and whoever has started them sees it at once.
2. One that ends later is started again, alone: the first time after a second, then after twice as
   long each time, up to half a minute; one that went well for a minute begins anew.
3. One that says that there is nothing for it to do, and ends, is missed by nobody. When no other is
   left, it is over.
4. The first `stop` asks all programs to end, in order; the second tells them to hurry; the third
   kills. Whoever has not ended `kill_after` seconds after the first is killed.
5. It is over when all have ended, and nothing is left to be started.

This is what supervisors of web servers do (uvicorn's, gunicorn's); foreman and honcho end all
whenever one ends, which suits a terminal, and not a server.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Action", "Say", "Send", "Start", "State", "Supervision", "exit_status"]

_FIRST_DELAY: Final = 1.0
_MAX_DELAY: Final = 30.0
# Of service after which a program that ends is not taken for one that ends again and again.
_WELL_SECONDS: Final = 60.0
# Of the first stop, the second, and all further ones.
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
# As shells have it: 128 and the number of the signal.
_OF_SIGNALS: Final = 128


class State(Enum):
    """Where a program is."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a program."""

    name: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a program a signal."""

    name: str
    number: signal.Signals


@dataclass(frozen=True, slots=True)
class Say:
    """Tell whoever looks at the terminal."""

    text: str


Action = Start | Send | Say


class _Program:
    """What is known of one program."""

    def __init__(self) -> None:
        self.state = State.ENDED
        self.is_needed = True
        self.ready_at = 0.0
        self.delay = _FIRST_DELAY
        self.due = 0.0


class Supervision:
    """Decides for all programs of one tree of processes.

    Args:
        names: of the programs.
        kill_after: seconds that they have to end.
    """

    def __init__(self, names: Iterable[str], *, kill_after: float) -> None:
        self._programs = {name: _Program() for name in names}
        self._kill_after = kill_after
        self._stops = 0
        self._kill_at: float | None = None
        self._status = 0

    def state(self, name: str) -> State:
        """Return where a program is."""
        return self._programs[name].state

    @property
    def is_stopping(self) -> bool:
        """Whether nothing is started any more."""
        return self._stops > 0

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.is_stopping and all(
            each.state is State.ENDED for each in self._programs.values()
        )

    @property
    def status(self) -> int:
        """The exit status of the whole: 0, or that of what went wrong first."""
        return self._status

    def next_due(self) -> float | None:
        """Return the instant at which to call `advance`, None if there is none."""
        dues = [each.due for each in self._programs.values() if each.state is State.WAITING]
        if self._kill_at is not None and not self.is_over:
            dues.append(self._kill_at)
        return min(dues, default=None)

    # Events

    def begin(self) -> list[Action]:
        """Start all of them."""
        return [self._start(name) for name in self._programs]

    def started(self, name: str) -> list[Action]:
        """Note that a program has a process, which may have been wanted to end before it had."""
        if not self.is_stopping or self.state(name) is State.ENDED:
            return []
        return [Send(name, self._signal())]

    def ready(self, name: str, now: float) -> list[Action]:
        """Note that a program does what it is for."""
        program = self._programs[name]
        if program.state is State.STARTING:
            program.state = State.RUNNING
            program.ready_at = now
        return []

    def unneeded(self, name: str) -> None:
        """Note that there is nothing for a program to do."""
        self._programs[name].is_needed = False

    def ended(self, name: str, status: int, now: float) -> list[Action]:
        """Note the end of a program.

        Args:
            name: which.
            status: its exit status; negative: the signal that has killed it.
            now: the instant.
        """
        program = self._programs[name]
        was, program.state = program.state, State.ENDED
        if self.is_stopping:
            return self._ended_at_the_end(name, status)
        if not program.is_needed:
            said = Say(f"there is nothing for {name} to do")
            return [said] if self._alive() or self._waiting() else [said, *self._stop(now)]
        if was is State.STARTING:
            self._status = exit_status(status) or 1
            text = f"{name} {_described(status)} before it was ready: all end"
            return [Say(text), *self._stop(now)]
        if now - program.ready_at >= _WELL_SECONDS:
            program.delay = _FIRST_DELAY
        program.state = State.WAITING
        program.due = now + program.delay
        text = f"{name} {_described(status)}, and is started again in {program.delay:g} s"
        program.delay = min(program.delay * 2.0, _MAX_DELAY)
        return [Say(text)]

    def stop(self, now: float) -> list[Action]:
        """Be told to end."""
        if not self.is_stopping:
            return self._stop(now)
        self._stops += 1
        return self._send()

    def advance(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = [
            self._start(name)
            for name, program in self._programs.items()
            if program.state is State.WAITING and program.due <= now
        ]
        if self._kill_at is not None and self._kill_at <= now and not self.is_over:
            actions += self._overdue()
        return actions

    # Steps

    def _start(self, name: str) -> Start:
        self._programs[name].state = State.STARTING
        return Start(name)

    def _stop(self, now: float) -> list[Action]:
        self._stops = 1
        self._kill_at = now + self._kill_after
        for program in self._programs.values():
            if program.state is State.WAITING:
                program.state = State.ENDED
        return self._send()

    def _overdue(self) -> list[Action]:
        self._kill_at = None
        self._stops = len(_SIGNALS)
        self._status = self._status or 1
        left = ", ".join(self._alive())
        return [Say(f"{left}: not ended after {self._kill_after:g} s, killed"), *self._send()]

    def _ended_at_the_end(self, name: str, status: int) -> list[Action]:
        # By a signal: one of ours, which came before the program had its handlers.
        if status > 0 and not self._status:
            self._status = status
            return [Say(f"{name} {_described(status)}")]
        return []

    def _waiting(self) -> bool:
        return any(each.state is State.WAITING for each in self._programs.values())

    def _alive(self) -> list[str]:
        alive = (State.STARTING, State.RUNNING)
        return [name for name, each in self._programs.items() if each.state in alive]

    def _send(self) -> list[Action]:
        return [Send(name, self._signal()) for name in self._alive()]

    def _signal(self) -> signal.Signals:
        """Return what as many stops as there were come to."""
        return _SIGNALS[min(self._stops, len(_SIGNALS)) - 1]


def exit_status(status: int) -> int:
    """Return the exit status, as a shell has it, of a process; negative: killed by that signal."""
    return status if status >= 0 else _OF_SIGNALS - status


def _described(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"

"""The life of a worker process: one state, and one table of what each event makes of it.

    STARTING ─ready──► RUNNING ◄─task ended─ ASKED ─grace over──► TERMINATING ─┐
        │                │ └── told to stop ──▲ └─ no grace ───────────▲       │ time over
        │ failed         │ told to end, or the pool closes                     ▼
        ▼                ├────────────────────► CLOSING ───── time over ──► KILLED
      FAILED             └─ socket lost ──────► LOST ──────── time over ──────▲
        │                                                                      │
        └────────────── exited ──► GONE ◄─ reported ─ ENDED ◄──── exited ──────┘  (from any)

Pure: no process, no clock, no I/O. `offload._workers.process_worker` carries the steps out, all of
them on the keeper's thread, so that no two events of a worker happen at once. Events come in the
order in which threads post them, which is not the order in which things happened: what the table
ignores, it ignores since the worker's end is under way already, or has been reported.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

__all__ = ["IGNORED", "IMPOSSIBLE", "STEPS", "Event", "ProcessState", "Step", "Tell", "next_step"]

# For exit hooks of a worker whose socket was closed for it to end.
_EXIT_SECONDS = 5.0
# The same when the pool closes, and its user waits for that.
CLOSE_SECONDS = 1.0
# Between SIGTERM and SIGKILL. Guarantee 7 gives a second for everything.
_TERMINATE_SECONDS = 0.5
# Between the end of a worker's socket and the supervisor's report of its exit; between that and the
# report to the pool, which waits for the event loop that has the worker's socket.
REPORT_SECONDS = 1.0


class ProcessState(enum.Enum):
    """What a worker process is doing, as the keeper knows it."""

    STARTING = "starting"
    """Its process is being started, and has not said that it is ready."""

    FAILED = "failed"
    """It did not come up, which has been reported; its process, if any, is being killed."""

    RUNNING = "running"
    """It takes tasks."""

    EARLY = "early"
    """Its cancelled task has ended before the keeper was told to stop that."""

    ASKED = "asked"
    """Its task was asked to stop, and has time to do so."""

    LOST = "lost"
    """Its socket has ended; its exit should be reported any moment."""

    CLOSING = "closing"
    """Its socket was closed for it to end; it runs its exit hooks."""

    TERMINATING = "terminating"
    """It was sent SIGTERM."""

    KILLED = "killed"
    """It was sent SIGKILL."""

    ENDED = "ended"
    """Its process has ended, which is being reported to the pool."""

    GONE = "gone"
    """Nothing of it is left."""


class Event(enum.Enum):
    """What happens to a worker process."""

    READY = "it says that it can take tasks"
    FAILURE = "it does not come up"
    NOT_STARTED = "no process could be started for it"
    STOP_IDLE = "it is to end, having no task"
    STOP_WITH_GRACE = "its task is to end, and has time to do so by itself"
    STOP_NOW = "its task is to end at once"
    TASK_ENDED = "its cancelled task has ended by itself"
    SOCKET_LOST = "nothing can be sent to it or received from it"
    MISBEHAVIOUR = "it has sent what no worker sends"
    POOL_CLOSED = "its pool is closed"
    TIME_OVER = "the time of its present state is over"
    EXITED = "its process has ended"
    REPORTED = "the pool has been told of its end"


class Tell(enum.Enum):
    """What the pool is told, or let go of, in a step."""

    NOTHING = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()
    RECOVERED = enum.auto()
    ENDED = enum.auto()
    # Nobody: what the worker had is freed.
    FREE = enum.auto()
    FAILED_AND_FREE = enum.auto()


@dataclass(frozen=True, slots=True)
class Step:
    """What follows from an event.

    Attributes:
        after: the state from then on.
        signal: what its process is sent.
        seconds: the time of that state; 0.0: it has no end; None: the event says.
        is_capped: a time that runs already stays, if it is over before.
        closes_socket: whether the worker is shown the end of its socket.
        tell: what the pool is told.
        reason: why it is killed, if that is no caller's wish; {} is what the event tells.
    """

    after: ProcessState
    signal: int | None = None
    seconds: float | None = 0.0
    is_capped: bool = False
    closes_socket: bool = False
    tell: Tell = Tell.NOTHING
    reason: str = ""


_TERMINATE = Step(ProcessState.TERMINATING, signal=SIGTERM, seconds=_TERMINATE_SECONDS)
_KILL = Step(ProcessState.KILLED, signal=SIGKILL)
_MISBEHAVED = Step(ProcessState.KILLED, signal=SIGKILL, reason="{}")
_CLOSE = Step(ProcessState.CLOSING, seconds=_EXIT_SECONDS, closes_socket=True)
_RECOVER = Step(ProcessState.RUNNING, tell=Tell.RECOVERED)
_AWAIT_EXIT = Step(ProcessState.LOST, seconds=REPORT_SECONDS)
_END = Step(ProcessState.ENDED, seconds=REPORT_SECONDS, tell=Tell.ENDED)
_FREE = Step(ProcessState.GONE, tell=Tell.FREE)
_FAIL = Step(ProcessState.FAILED, signal=SIGKILL, tell=Tell.FAILED)
_FAIL_AND_FREE = Step(ProcessState.GONE, tell=Tell.FAILED_AND_FREE)


def _close_soon(state: ProcessState) -> Step:
    """Return the step of a worker that has no more than the pool's last second."""
    return Step(state, seconds=CLOSE_SECONDS, is_capped=True, closes_socket=True)


STEPS: dict[ProcessState, dict[Event, Step]] = {
    ProcessState.STARTING: {
        Event.READY: Step(ProcessState.RUNNING, tell=Tell.READY),
        Event.FAILURE: _FAIL,
        Event.NOT_STARTED: _FAIL_AND_FREE,
        Event.TIME_OVER: _FAIL,
        Event.POOL_CLOSED: _FAIL,
        Event.EXITED: _FAIL_AND_FREE,
    },
    ProcessState.FAILED: {
        # The command to kill it came to a supervisor that had not begun to start it.
        Event.NOT_STARTED: _FREE,
        Event.EXITED: _FREE,
    },
    ProcessState.RUNNING: {
        Event.STOP_IDLE: _CLOSE,
        Event.STOP_WITH_GRACE: Step(ProcessState.ASKED, seconds=None),
        Event.STOP_NOW: _TERMINATE,
        # Who stops the task, on another thread, has decided to and has not come to the keeper yet.
        # If the worker were free now, the stop would meet its next task.
        Event.TASK_ENDED: Step(ProcessState.EARLY),
        Event.SOCKET_LOST: _AWAIT_EXIT,
        Event.MISBEHAVIOUR: _MISBEHAVED,
        Event.POOL_CLOSED: _close_soon(ProcessState.CLOSING),
        Event.EXITED: _END,
    },
    ProcessState.EARLY: {
        Event.STOP_IDLE: _CLOSE,
        Event.STOP_WITH_GRACE: _RECOVER,
        Event.STOP_NOW: _RECOVER,
        Event.SOCKET_LOST: _AWAIT_EXIT,
        Event.MISBEHAVIOUR: _MISBEHAVED,
        Event.POOL_CLOSED: _close_soon(ProcessState.CLOSING),
        Event.EXITED: _END,
    },
    ProcessState.ASKED: {
        Event.STOP_NOW: _TERMINATE,
        Event.TASK_ENDED: _RECOVER,
        Event.TIME_OVER: _TERMINATE,
        Event.SOCKET_LOST: _AWAIT_EXIT,
        Event.MISBEHAVIOUR: _MISBEHAVED,
        Event.POOL_CLOSED: _close_soon(ProcessState.CLOSING),
        Event.EXITED: _END,
    },
    ProcessState.LOST: {
        # What it computes can reach nobody: it needs no grace.
        Event.STOP_WITH_GRACE: _TERMINATE,
        Event.STOP_NOW: _TERMINATE,
        Event.TIME_OVER: Step(
            ProcessState.KILLED,
            signal=SIGKILL,
            reason="nothing can be sent to it or received from it any more",
        ),
        Event.POOL_CLOSED: _close_soon(ProcessState.LOST),
        Event.EXITED: _END,
    },
    ProcessState.CLOSING: {
        Event.TIME_OVER: _KILL,
        # One that was told to end before, as it retired, has no more time than the others.
        Event.POOL_CLOSED: _close_soon(ProcessState.CLOSING),
        Event.EXITED: _END,
    },
    ProcessState.TERMINATING: {
        Event.MISBEHAVIOUR: _MISBEHAVED,
        Event.TIME_OVER: _KILL,
        Event.POOL_CLOSED: _close_soon(ProcessState.TERMINATING),
        Event.EXITED: _END,
    },
    ProcessState.KILLED: {
        Event.EXITED: _END,
    },
    ProcessState.ENDED: {
        # The loop that has its socket was closed, or stands still.
        Event.TIME_OVER: _END,
        Event.REPORTED: _FREE,
    },
    ProcessState.GONE: {},
}

_ALL = frozenset(Event)
_STOPS = frozenset({Event.STOP_IDLE, Event.STOP_WITH_GRACE, Event.STOP_NOW})
# What a worker says, or is seen to say, that has been ready.
_NEWS = frozenset({Event.TASK_ENDED, Event.SOCKET_LOST, Event.MISBEHAVIOUR})

# Events that come, and change nothing: by state, with the reason.
IGNORED: dict[ProcessState, dict[frozenset[Event], str]] = {
    ProcessState.STARTING: {},
    ProcessState.FAILED: {
        frozenset({Event.READY, Event.FAILURE}): "it says so too late",
        frozenset({Event.POOL_CLOSED}): "it is being killed",
    },
    ProcessState.RUNNING: {},
    ProcessState.EARLY: {frozenset({Event.TASK_ENDED}): "a second reply to the same task"},
    ProcessState.ASKED: {
        frozenset({Event.STOP_IDLE}): "it has a task, whose time runs",
        frozenset({Event.STOP_WITH_GRACE}): "its time runs",
    },
    ProcessState.LOST: {
        frozenset({Event.STOP_IDLE}): "it has ended, or is killed soon",
        _NEWS: "it has ended, or is killed soon",
    },
    ProcessState.CLOSING: {
        _STOPS: "its end is under way",
        _NEWS: "its end is under way, and its socket was closed by us",
    },
    ProcessState.TERMINATING: {
        _STOPS: "its end is under way",
        frozenset({Event.TASK_ENDED, Event.SOCKET_LOST}): "its end is under way",
    },
    ProcessState.KILLED: {
        _STOPS | _NEWS | {Event.POOL_CLOSED}: "it is being killed",
    },
    ProcessState.ENDED: {
        _STOPS | _NEWS: "it has ended",
        frozenset({Event.POOL_CLOSED}): "its report is on its way",
        frozenset({Event.EXITED}): "it is known",
    },
    ProcessState.GONE: {_ALL: "what was posted before it was freed"},
}

# Events that cannot come, and are a mistake of ours if they do: by state, with the reason.
IMPOSSIBLE: dict[ProcessState, dict[frozenset[Event], str]] = {
    ProcessState.STARTING: {
        _STOPS: "the pool knows no worker that is not ready",
        _NEWS: "it is given no task before it is ready",
        frozenset({Event.REPORTED}): "it has not ended",
    },
    ProcessState.FAILED: {
        _STOPS | _NEWS: "it was given no task, and the pool has been told that it failed",
        frozenset({Event.TIME_OVER}): "it has no time",
        frozenset({Event.REPORTED}): "its end is not reported",
    },
    **{
        state: {
            frozenset({Event.READY, Event.FAILURE, Event.NOT_STARTED}): "it has been ready",
            frozenset({Event.REPORTED}): "it has not ended",
            **(
                {frozenset({Event.TIME_OVER}): "it has no time"}
                if state in (ProcessState.RUNNING, ProcessState.EARLY, ProcessState.KILLED)
                else {}
            ),
        }
        for state in (
            ProcessState.RUNNING,
            ProcessState.EARLY,
            ProcessState.ASKED,
            ProcessState.LOST,
            ProcessState.CLOSING,
            ProcessState.TERMINATING,
            ProcessState.KILLED,
        )
    },
    ProcessState.ENDED: {
        frozenset({Event.READY, Event.FAILURE, Event.NOT_STARTED}): "it has been ready"
    },
    ProcessState.GONE: {},
}


def next_step(state: ProcessState, event: Event) -> Step | None:
    """Return what follows from an event; None if it changes nothing.

    Raises:
        AssertionError: it cannot happen in this state.
    """
    step = STEPS[state].get(event)
    if step is None:
        for events, reason in IMPOSSIBLE[state].items():
            assert event not in events, f"{event} in {state}: {reason}"
    return step

"""The table of a worker's life says of every event in every state what follows from it."""

import itertools
from signal import SIGKILL, SIGTERM

import pytest

from offload._workers.process_state import (
    IGNORED,
    IMPOSSIBLE,
    STEPS,
    Event,
    ProcessState,
    Tell,
    next_step,
)

PAIRS = list(itertools.product(ProcessState, Event))
ALIVE = [
    ProcessState.RUNNING,
    ProcessState.EARLY,
    ProcessState.ASKED,
    ProcessState.LOST,
    ProcessState.CLOSING,
    ProcessState.TERMINATING,
]


def reason(table: dict, state: ProcessState, event: Event) -> list[str]:
    """Return the reasons that a table has for a pair."""
    return [text for events, text in table[state].items() if event in events]


def walk(state: ProcessState, *events: Event) -> ProcessState:
    """Return the state after some events."""
    for event in events:
        step = next_step(state, event)
        state = state if step is None else step.after
    return state


@pytest.mark.parametrize("state,event", PAIRS, ids=lambda each: each.name)
def test_every_pair_is_decided_exactly_once(state: ProcessState, event: Event) -> None:
    """An event leads on, is ignored or is impossible: one of the three, and for one reason."""
    found = [
        *([state] if event in STEPS[state] else []),
        *reason(IGNORED, state, event),
        *reason(IMPOSSIBLE, state, event),
    ]
    assert len(found) == 1
    if reason(IMPOSSIBLE, state, event):
        with pytest.raises(AssertionError, match=event.name):
            next_step(state, event)
    else:
        assert next_step(state, event) is STEPS[state].get(event)


@pytest.mark.parametrize(
    "state", [state for state in ProcessState if state is not ProcessState.GONE]
)
def test_exit_is_reported_in_every_state_or_was(state: ProcessState) -> None:
    """However a worker ends, the pool is told: that it ended, or that it did not start."""
    step = next_step(state, Event.EXITED)
    if state is ProcessState.ENDED:
        assert step is None
    elif state is ProcessState.STARTING:
        assert step is not None
        assert (step.after, step.tell) == (ProcessState.GONE, Tell.FAILED_AND_FREE)
    elif state is ProcessState.FAILED:
        assert step is not None
        assert (step.after, step.tell) == (ProcessState.GONE, Tell.FREE)
    else:
        assert step is not None
        assert (step.after, step.tell) == (ProcessState.ENDED, Tell.ENDED)
        assert walk(step.after, Event.REPORTED) is ProcessState.GONE


def test_pool_is_told_once_of_a_start() -> None:
    """A worker is reported ready or failed, never both, and neither twice."""
    told = (Tell.READY, Tell.FAILED, Tell.FAILED_AND_FREE)
    for state, event in PAIRS:
        step = STEPS[state].get(event)
        if step is not None and step.tell in told:
            assert state is ProcessState.STARTING
            assert step.after is not ProcessState.STARTING


@pytest.mark.parametrize("state", ALIVE)
def test_closing_pool_ends_every_worker_by_itself(state: ProcessState) -> None:
    """Once the pool is closed, time alone leads to SIGKILL, each state within a second."""
    for _ in range(len(ProcessState)):
        event = Event.POOL_CLOSED if state in ALIVE and _ == 0 else Event.TIME_OVER
        step = next_step(state, event)
        assert step is not None
        assert step.seconds is not None
        assert step.seconds <= 1.0
        state = step.after
        if step.signal == SIGKILL:
            break
    assert state is ProcessState.KILLED


def test_task_without_grace_meets_sigterm_and_then_sigkill() -> None:
    """A second is enough for both."""
    first = next_step(ProcessState.RUNNING, Event.STOP_NOW)
    assert first is not None
    assert first.signal == SIGTERM
    second = next_step(first.after, Event.TIME_OVER)
    assert second is not None
    assert second.signal == SIGKILL
    assert first.seconds is not None
    assert first.seconds < 1.0


@pytest.mark.parametrize("stop", [Event.STOP_NOW, Event.STOP_WITH_GRACE])
def test_stop_that_comes_after_its_task_stops_nobody(stop: Event) -> None:
    """Whichever thread is faster, the worker is free again exactly once both have come."""
    early = next_step(ProcessState.RUNNING, Event.TASK_ENDED)
    assert early is not None
    assert early.tell is Tell.NOTHING
    late = next_step(early.after, stop)
    assert late is not None
    assert (late.after, late.tell, late.signal) == (ProcessState.RUNNING, Tell.RECOVERED, None)


def test_stopped_worker_is_never_free_again() -> None:
    """A worker that was signalled or shown the end of its socket takes no task any more."""
    ending = {
        step.after
        for steps in STEPS.values()
        for step in steps.values()
        if step.signal is not None or step.closes_socket
    }
    reached, seen = set(ending), set()
    while reached:
        state = reached.pop()
        seen.add(state)
        reached |= {step.after for step in STEPS[state].values()} - seen
    assert not seen & {
        ProcessState.STARTING,
        ProcessState.RUNNING,
        ProcessState.EARLY,
        ProcessState.ASKED,
    }

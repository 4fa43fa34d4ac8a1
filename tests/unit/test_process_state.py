"""The table of a worker's life says of every event in every state what follows from it."""

import itertools
from signal import SIGKILL, SIGTERM

import pytest

from offload._workers.worker_life import (
    IGNORED,
    IMPOSSIBLE,
    STEPS,
    Event,
    Life,
    Tell,
    next_step,
)

PAIRS = list(itertools.product(Life, Event))
ALIVE = [Life.RUNNING, Life.EARLY, Life.ASKED, Life.LOST, Life.CLOSING, Life.TERMINATING]


def reason(table: dict, life: Life, event: Event) -> list[str]:
    """Return the reasons that a table has for a pair."""
    return [text for events, text in table[life].items() if event in events]


def walk(life: Life, *events: Event) -> Life:
    """Return the state after some events."""
    for event in events:
        step = next_step(life, event)
        life = life if step is None else step.life
    return life


@pytest.mark.parametrize("life,event", PAIRS, ids=lambda each: each.name)
def test_every_pair_is_decided_exactly_once(life: Life, event: Event) -> None:
    """An event leads on, is ignored or is impossible: one of the three, and for one reason."""
    found = [
        *([life] if event in STEPS[life] else []),
        *reason(IGNORED, life, event),
        *reason(IMPOSSIBLE, life, event),
    ]
    assert len(found) == 1
    if reason(IMPOSSIBLE, life, event):
        with pytest.raises(AssertionError, match=event.name):
            next_step(life, event)
    else:
        assert next_step(life, event) is STEPS[life].get(event)


@pytest.mark.parametrize("life", [life for life in Life if life is not Life.GONE])
def test_exit_is_reported_in_every_state_or_was(life: Life) -> None:
    """However a worker ends, the pool is told: that it ended, or that it did not start."""
    step = next_step(life, Event.EXITED)
    if life is Life.ENDED:
        assert step is None
    elif life is Life.STARTING:
        assert step is not None
        assert (step.life, step.tell) == (Life.GONE, Tell.FAILED_AND_FREE)
    elif life is Life.FAILED:
        assert step is not None
        assert (step.life, step.tell) == (Life.GONE, Tell.FREE)
    else:
        assert step is not None
        assert (step.life, step.tell) == (Life.ENDED, Tell.ENDED)
        assert walk(step.life, Event.REPORTED) is Life.GONE


def test_pool_is_told_once_of_a_start() -> None:
    """A worker is reported ready or failed, never both, and neither twice."""
    told = (Tell.READY, Tell.FAILED, Tell.FAILED_AND_FREE)
    for life, event in PAIRS:
        step = STEPS[life].get(event)
        if step is not None and step.tell in told:
            assert life is Life.STARTING
            assert step.life is not Life.STARTING


@pytest.mark.parametrize("life", ALIVE)
def test_closing_pool_ends_every_worker_by_itself(life: Life) -> None:
    """Once the pool is closed, time alone leads to SIGKILL, each state within a second."""
    for _ in range(len(Life)):
        event = Event.POOL_CLOSED if life in ALIVE and _ == 0 else Event.TIME_OVER
        step = next_step(life, event)
        assert step is not None
        assert step.seconds is not None
        assert step.seconds <= 1.0
        life = step.life
        if step.signal == SIGKILL:
            break
    assert life is Life.KILLED


def test_task_without_grace_meets_sigterm_and_then_sigkill() -> None:
    """A second is enough for both."""
    first = next_step(Life.RUNNING, Event.STOP_NOW)
    assert first is not None
    assert first.signal == SIGTERM
    second = next_step(first.life, Event.TIME_OVER)
    assert second is not None
    assert second.signal == SIGKILL
    assert first.seconds is not None
    assert first.seconds < 1.0


@pytest.mark.parametrize("stop", [Event.STOP_NOW, Event.STOP_WITH_GRACE])
def test_stop_that_comes_after_its_task_stops_nobody(stop: Event) -> None:
    """Whichever thread is faster, the worker is free again exactly once both have come."""
    early = next_step(Life.RUNNING, Event.TASK_ENDED)
    assert early is not None
    assert early.tell is Tell.NOTHING
    late = next_step(early.life, stop)
    assert late is not None
    assert (late.life, late.tell, late.signal) == (Life.RUNNING, Tell.RECOVERED, None)


def test_stopped_worker_is_never_free_again() -> None:
    """A worker that was signalled or shown the end of its socket takes no task any more."""
    ending = {
        step.life
        for steps in STEPS.values()
        for step in steps.values()
        if step.signal is not None or step.closes_socket
    }
    reached, seen = set(ending), set()
    while reached:
        life = reached.pop()
        seen.add(life)
        reached |= {step.life for step in STEPS[life].values()} - seen
    assert not seen & {Life.STARTING, Life.RUNNING, Life.EARLY, Life.ASKED}

"""From a verdict and what was seen to a block that can be told."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from offload.watchdog._advice import advise
from offload.watchdog._records import Block
from offload.watchdog._requests import has_template, package_of, route_of
from offload.watchdog._stack import is_ours, is_waiting, own_call, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offload.watchdog._judge import Facts, Verdict
    from offload.watchdog._records import Cause
    from offload.watchdog._samples import Other, Sample
    from offload.watchdog._stack import Call, Stack

__all__ = ["holder", "report"]


def report(
    verdict: Verdict,
    facts: Facts,
    samples: Sequence[Sample],
    held_by: Other | None,
    *,
    is_over: bool,
) -> Block:
    """Return a block.

    Args:
        verdict: why.
        facts: the figures.
        samples: the looks at the loop's thread; one at least has a stack.
        held_by: the thread that had the GIL, where that is the cause and it is known.
        is_over: whether the loop is free again.
    """
    cause: Cause = verdict.cause
    thread = ""
    stack, scope = _most_seen(samples)
    if held_by is not None:
        thread, stack, scope = held_by.name, held_by.stack, held_by.scope or scope
    own = own_call(stack, package_of(scope))
    if cause in ("cpu", "blocking", "gil") and is_ours(stack):
        cause = "offload"
    call = _most_seen_call(samples, stack[own])
    text = call.text
    what, advice = advise(verdict, cause, stack, own, text)
    # Where the loop only waited for events, no line of it has anything to do with the matter.
    has_place = held_by is not None or not all(each.is_idle for each in samples)
    return Block(
        at=time.time(),
        seconds=verdict.seconds,
        cause=cause,
        what=what,
        route=route_of(scope),
        has_template=has_template(scope),
        function=call.function if has_place else "",
        file=call.file if has_place else "",
        line=call.line if has_place else 0,
        code=text if has_place else "",
        advice=advice,
        stack=text_of(stack),
        thread=thread,
        late=facts.late,
        cpu=facts.cpu,
        waited=facts.waited,
        collected=facts.collected,
        is_over=is_over,
    )


def holder(
    others: Sequence[Other],
    used: Mapping[int, tuple[float, float]],
    places: set[tuple[int, int]],
    seconds: float,
) -> Other | None:
    """Return the thread that had the GIL, as far as that can be told.

    Args:
        others: where the threads were when somebody had just given it up.
        used: seconds on CPU and seconds waited for one of each, for at least as long.
        places: where threads were before that.
        seconds: for how long it was held.
    """

    def likelihood(other: Other) -> tuple[bool, bool, bool]:
        return (
            used.get(other.thread, (0.0, 0.0))[0] >= seconds / 2,
            not is_waiting(other.stack),
            other.place not in places,
        )

    best = max(others, key=likelihood, default=None)
    return best if best is not None and any(likelihood(best)[:2]) else None


def _most_seen(samples: Sequence[Sample]) -> tuple[Stack, Mapping[str, Any] | None]:
    """Return the stack of the place that was seen most often, and its request."""
    busy = [each for each in samples if each.stack and not each.is_idle]
    busy = busy or [each for each in samples if each.stack]
    places = [_place(each) for each in busy]
    (place, _), *_ = Counter(places).most_common(1)
    # The last one: by then the request has its route.
    sample = busy[len(places) - 1 - places[::-1].index(place)]
    return sample.stack, sample.scope


def _place(sample: Sample) -> tuple[object, str]:
    own = own_call(sample.stack, package_of(sample.scope))
    return sample.stack[own].code, route_of(sample.scope)


def _most_seen_call(samples: Sequence[Sample], call: Call) -> Call:
    """Return a call of the same function, at the line that was seen most often."""
    calls = [
        found
        for each in samples
        if (found := next((one for one in each.stack if one.code is call.code), None))
    ]
    if not calls:
        return call
    (line, _), *_ = Counter(each.line for each in calls).most_common(1)
    return next(each for each in calls if each.line == line)

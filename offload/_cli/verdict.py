"""What was measured of a call, and the rule by which it is judged."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Measurement", "Verdict", "Way", "judge", "milliseconds"]

# What a server does not notice, once.
_UNNOTICED_SECONDS = 0.001
# Of its time a function computes at least so much, or it mostly waits.
_COMPUTING_SHARE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run the call. All values are seconds.

    Attributes:
        calls: how many were measured.
        seconds: from the call to its result; the median.
        held: how long the event loop was held at a stretch; the longest of all calls.
        loop_cpu: what the thread of the event loop computed for each call; the mean.
    """

    calls: int
    seconds: float
    held: float
    loop_cpu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a call takes in both ways.

    Attributes:
        function: `module:qualname`.
        pool: the pool's name; what the function is decorated with, or one with default options.
        inline: run by the event loop itself.
        threaded: run in a thread.
        lets_go: whether the event loop goes on while it runs in a thread, because it lets go of
            the GIL; None where it is over too soon to tell.
        offloaded: run by a warm worker.
        empty: a warm worker that is asked to do nothing.
        worker_seconds: how long the function runs in a warm worker; the median.
        cold_seconds: from the first call of a new pool to its answer, with nothing to do.
        first_seconds: the first call of the function on a worker, which imports its module.
        computing: share of the inline time in which it computed, and did not wait.
        argument_bytes: size of its pickled arguments.
        argument_seconds: what pickling and unpickling them takes.
        result_bytes: size of its pickled result; 0 for a generator, whose items go one by one.
        result_seconds: what pickling and unpickling that takes.
        items: how many items the generator made; None if it is none.
        starved: share of the inline time in which the machine had no CPU for it.
    """

    function: str
    pool: str
    inline: Way
    threaded: Way
    lets_go: bool | None
    offloaded: Way
    empty: Way
    worker_seconds: float
    cold_seconds: float
    first_seconds: float
    computing: float
    argument_bytes: int
    argument_seconds: float
    result_bytes: int
    result_seconds: float
    items: int | None = None
    starved: float = 0.0

    @property
    def overhead(self) -> float:
        """Seconds that a call takes longer on a warm worker than the function runs there."""
        return max(self.offloaded.seconds - self.worker_seconds, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Is offloading worth it?

    Attributes:
        answer: "yes", "hardly", "no" or "thread".
        why: in words, with the figures.
        break_even: run time in seconds above which the event loop has less to do with a call that
            is offloaded than with one that runs inline.
    """

    answer: str
    why: str
    break_even: float


def judge(found: Measurement) -> Verdict:
    """Return whether offloading is worth it, by what it saves the event loop."""
    run, cost = found.inline.seconds, found.offloaded.loop_cpu
    break_even = cost
    even = f"The break-even for this payload is a run time of {milliseconds(break_even)}"
    if run <= cost:
        answer = "no"
        why = (
            f"It runs for {milliseconds(run)}; handing it to a worker keeps the event loop busy "
            f"for {milliseconds(cost)}. Run it inline. {even}."
        )
    elif found.computing < _COMPUTING_SHARE and run > _UNNOTICED_SECONDS:
        answer = "thread"
        why = (
            f"It computes only {found.computing:.0%} of the time and waits for the rest: a thread "
            "is enough, and cheaper: await anyio.to_thread.run_sync(…)."
        )
    elif run < _UNNOTICED_SECONDS:
        answer = "hardly"
        why = (
            f"It holds the event loop for {milliseconds(run)}, which nobody notices unless it is "
            f"called very often; offloaded, the loop spends {milliseconds(cost)} on it, and the "
            f"call takes {milliseconds(found.overhead)} longer than it runs. {even}."
        )
    else:
        answer = "yes"
        why = (
            f"Inline, every other request waits for {milliseconds(found.inline.held or run)}; "
            f"offloaded, the event loop spends {milliseconds(cost)} on it, "
            f"{run / max(cost, 1e-9):,.0f} times less, and the call takes "
            f"{milliseconds(found.overhead)} longer than it runs. {even}."
        )
        if found.lets_go:
            why += (
                " It releases the GIL while it computes, so a thread keeps the loop free as "
                "well, as long as it need not be stopped and the CPUs are not all taken."
            )
        if found.offloaded.held > max(5 * _UNNOTICED_SECONDS, 0.1 * run):
            why += (
                f" Its payload still holds the loop for up to {milliseconds(found.offloaded.held)}:"
                " send less, or bytes instead of many small objects."
            )
    return Verdict(answer=answer, why=why, break_even=break_even)


def milliseconds(seconds: float) -> str:
    """Return a duration for people: three figures, in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs"

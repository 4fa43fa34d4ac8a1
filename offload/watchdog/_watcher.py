"""The thread beside a loop: looks at what holds it while its heartbeat is late."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import sys
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from offload.watchdog import _kernel
from offload.watchdog._advice import advise
from offload.watchdog._judge import Facts, is_asking, judge
from offload.watchdog._records import Block
from offload.watchdog._requests import (
    context_of_thread,
    package_of,
    route_of,
    scope_of_context,
    scope_of_stack,
)
from offload.watchdog._stack import (
    is_loop_waiting,
    is_ours,
    is_waiting,
    own_call,
    stack_of,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import CodeType, FrameType

    from offload._heartbeat import Loop
    from offload.watchdog._judge import Verdict
    from offload.watchdog._kernel import Figures, Machine, Reading
    from offload.watchdog._ledger import Ledger
    from offload.watchdog._records import Cause
    from offload.watchdog._stack import Call, Stack

__all__ = ["Watcher"]

_logger = logging.getLogger("offload.watchdog")
_numbers = itertools.count()

# How often the loop notes the time, as a part of the threshold.
_BEATS_PER_THRESHOLD = 4
# Seconds between looks at what all threads have used, while all is well. With many threads they are
# farther apart: a look costs about ten microseconds for each.
_ROUND = 0.25
_ROUND_PER_THREAD = 0.01
# Looks at a loop that stays blocked get rarer, down to one a second.
_LOOKS_PER_AGE = 10
_LONGEST_LOOK = 1.0
# A loop that has been held for so long is told of before it is free: it may never be.
_HANG = 5.0
# Shorter collections explain no block.
_SHORT_COLLECTION = 0.001
_MAX_SAMPLES = 200
# A watcher that is late by no more was not kept waiting for anything in particular.
_PUNCTUAL = 0.01


class _Beat(NamedTuple):
    """One heartbeat.

    Attributes:
        due: when it was due.
        at: when it came.
        reading: what the loop's thread had used by then.
        others: where the other threads were, if it was late.
    """

    due: float
    at: float
    reading: Reading
    others: tuple[_Other, ...] = ()


class _Sample(NamedTuple):
    """One look at the loop's thread.

    Attributes:
        at: when.
        stack: where it was; empty if the loop was not running.
        is_idle: whether it only waited for events.
        scope: the request that it worked for.
        others: where the other threads were, if somebody else had the GIL.
    """

    at: float
    stack: Stack
    is_idle: bool
    scope: Mapping[str, Any] | None
    others: tuple[_Other, ...]


class _Other(NamedTuple):
    thread: int
    name: str
    stack: Stack
    scope: Mapping[str, Any] | None
    place: tuple[int, int]


class _Round(NamedTuple):
    """A look at all threads, and at the machine, while all was well."""

    at: float
    used: dict[int, tuple[float, float]]
    places: dict[int, tuple[int, int]]
    machine: Machine


class _Wait(NamedTuple):
    """A wait of the watcher that took longer than it should have."""

    begin: float
    end: float
    gil: float
    stopped: float


class Watcher:
    """Watches the loop that runs in this thread, until it is stopped or the loop has ended.

    Args:
        loop: the loop.
        threshold: seconds that it may be late.
        ledger: where blocks are counted.
        tell: called with each block as well, on the watcher's thread.
    """

    def __init__(
        self,
        loop: Loop,
        threshold: float,
        ledger: Ledger,
        tell: Callable[[Block], None] | None = None,
    ) -> None:
        self.threshold = threshold
        self._loop = loop
        self._ledger = ledger
        self._tell = tell
        self._interval = threshold / _BEATS_PER_THRESHOLD
        self._number = next(_numbers)
        self._loop_thread = 0
        self._loop_task = 0  # its native id
        self._meter: _kernel.Meter | None = None
        self._own_meter: _kernel.Meter | None = None
        # Held while the watcher is to go on: it sleeps in the acquisition.
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="offload-watchdog", daemon=True)
        # Written by the loop's thread, read by the watcher.
        self._due = 0.0
        self._beats: deque[_Beat] = deque()
        self._caller: CodeType | None = None
        # Written by whatever thread the collector runs on: begin, end.
        self._collections: deque[tuple[float, float]] = deque(maxlen=64)
        self._collecting_since = 0.0
        # The watcher's own.
        self._last = _Beat(0.0, 0.0, _kernel.Reading(0.0, b"", None, None))
        self._samples: deque[_Sample] = deque(maxlen=_MAX_SAMPLES)
        self._waits: deque[_Wait] = deque(maxlen=_MAX_SAMPLES)
        self._rounds: deque[_Round] = deque(maxlen=2)
        self._hang_told = 0.0

    def start(self) -> None:
        """Begin; on the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._loop_task = threading.get_native_id()
        self._meter = _kernel.Meter(self._loop_task)
        now = time.perf_counter()
        self._last = _Beat(now, now, self._meter.read())
        self._due = now + self._interval
        gc.callbacks.append(self._on_collection)
        self._running.acquire()
        self._ledger.begin(self._number, self.threshold, self.lag)
        self._loop.start(self._interval, self._beat)
        self._thread.start()

    def stop(self) -> None:
        """End, after judging what there is; on the loop's thread."""
        if self._loop.is_running():
            # What began since the last beat counts, though the loop does not come round any more.
            self._beat()
        self._loop.stop()
        self._running.release()
        self._thread.join()

    def is_over(self) -> bool:
        """Return whether the loop will never run again."""
        return self._loop.is_over()

    def lag(self) -> float:
        """Return how late the heartbeat is now, in seconds; on any thread."""
        return max(time.perf_counter() - self._due, 0.0) if self._loop.is_running() else 0.0

    # --- on the loop's thread ---

    def _beat(self) -> None:
        now = time.perf_counter()
        due = self._due
        others: tuple[_Other, ...] = ()
        if now - due >= self.threshold:
            # If the loop was waiting for the GIL, whoever had it is still where it was.
            others = self._others(_frames())
        assert self._meter is not None
        self._beats.append(_Beat(due, now, self._meter.read(), others))
        self._due = now + self._interval
        # That of `Loop.start` is between us and what has called it.
        self._caller = sys._getframe(2).f_code  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented

    # --- on any thread, with the GIL ---

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        del info
        if phase == "start":
            self._collecting_since = time.perf_counter()
        else:
            now = time.perf_counter()
            if now - self._collecting_since > _SHORT_COLLECTION:
                self._collections.append((self._collecting_since, now))

    def _others(self, frames: dict[int, FrameType]) -> tuple[_Other, ...]:
        """Return where the threads are that are neither the loop's nor the watcher's."""
        known = {thread.ident: thread for thread in threading.enumerate()}
        found: list[_Other] = []
        for number, frame in frames.items():
            if number in (self._loop_thread, self._thread.ident):
                continue
            thread = known.get(number)
            name = str(number) if thread is None else thread.name
            native = (None if thread is None else thread.native_id) or 0
            scope = scope_of_stack(frame) or scope_of_context(context_of_thread(frame))
            place = (id(frame), frame.f_lasti)
            found.append(_Other(native, name, stack_of(frame), scope, place))
        return tuple(found)

    # --- on the watcher's thread ---

    def _watch(self) -> None:
        self._own_meter = _kernel.Meter(threading.get_native_id())
        try:
            self._go_round()
            is_last = False
            while not is_last:
                is_last = self._sleep() or self.is_over()
                self._turn()
        finally:
            with contextlib.suppress(ValueError):
                gc.callbacks.remove(self._on_collection)
            self._ledger.end(self._number)
            self._own_meter.close()
            assert self._meter is not None
            # The loop does not beat any more: it has been stopped, or has ended.
            self._meter.close()

    def _sleep(self) -> bool:
        """Sleep until it is time to look, and look; return whether to stop."""
        assert self._own_meter is not None
        before = self._own_meter.read()
        asleep = time.perf_counter()
        delay = self._delay(asleep)
        is_stopped = self._running.acquire(timeout=delay)
        now = time.perf_counter()
        late = 0.0 if is_stopped else now - asleep - delay
        # First of all: whoever had the GIL has just let go of it, and is still where it was. So
        # nothing before this may give it up, as every reading of a file does.
        beats = self._beats
        if now - self._due >= self._interval or (beats and self._is_late(beats[-1])):
            self._look(now, was_kept=late > _PUNCTUAL)
        if late > _PUNCTUAL:
            self._waits.append(self._kept(asleep + delay, now, before.parsed()))
        return is_stopped

    def _is_late(self, beat: _Beat) -> bool:
        return beat.at - beat.due >= self.threshold

    def _kept(self, begin: float, end: float, before: Figures) -> _Wait:
        """Return what the watcher was kept waiting for: the GIL, or nothing that shows."""
        assert self._own_meter is not None
        after = self._own_meter.read().parsed()
        seconds = end - begin - _less(after.waited, before.waited)
        switches = _difference(after.switches, before.switches)
        if is_asking(switches, seconds, sys.getswitchinterval(), unknown=True):
            return _Wait(begin, end, gil=seconds, stopped=0.0)
        return _Wait(begin, end, gil=0.0, stopped=seconds)

    def _delay(self, now: float) -> float:
        overdue = now - self._due
        if overdue < self._interval:
            return self._interval - overdue
        if not self._loop.is_running():
            return _LONGEST_LOOK
        return min(max(self._interval, overdue / _LOOKS_PER_AGE), _LONGEST_LOOK)

    def _turn(self) -> None:
        beats = [self._beats.popleft() for _ in range(len(self._beats))]
        for beat in beats:
            if self._is_late(beat):
                self._conclude(beat, beat.reading.parsed(), is_over=True)
            self._last = beat
        self._ledger.beats(max(beat.at - beat.due, 0.0) for beat in beats)
        now = time.perf_counter()
        overdue = now - self._due
        if overdue < self._interval:
            self._forget()
            self._go_round()
        elif overdue > _HANG and self._hang_told != self._due and self._loop.is_running():
            self._hang_told = self._due
            assert self._meter is not None
            figures = self._meter.seen_from_outside()
            if figures is not None:
                self._conclude(_Beat(self._due, now, self._last.reading), figures, is_over=False)

    def _forget(self) -> None:
        """Drop what happened before the last beat: nothing later can have to do with it."""
        at = self._last.at
        self._samples = deque((each for each in self._samples if each.at > at), _MAX_SAMPLES)
        while self._waits and self._waits[0].end < at:
            self._waits.popleft()
        while self._collections and self._collections[0][1] < at:
            self._collections.popleft()

    def _go_round(self) -> None:
        """Note what all threads have used, now and then."""
        now = time.perf_counter()
        if self._rounds:
            last = self._rounds[-1]
            if now - last.at < max(_ROUND, _ROUND_PER_THREAD * len(last.used)):
                return
        places = {thread: (id(frame), frame.f_lasti) for thread, frame in _frames().items()}
        self._rounds.append(_Round(now, _kernel.threads(), places, _kernel.machine()))

    def _look(self, now: float, *, was_kept: bool) -> None:
        """Note where the loop's thread is, and the others if they had the GIL."""
        frames = _frames()
        frame = frames.get(self._loop_thread)
        if frame is None or not self._loop.is_turning(frame):
            # Between two runs of a loop, as a test runner has them, nothing is being held.
            self._samples.append(_Sample(now, (), is_idle=True, scope=None, others=()))
            return
        stack = stack_of(frame)
        context = self._loop.context(frame)
        scope = scope_of_stack(frame) or scope_of_context(context)
        # uvloop waits in C: the innermost Python frame is then the one that has called the loop.
        is_called = stack[0].code is self._caller and stack[0].module != "asyncio.events"
        is_idle = context is None and (is_called or is_loop_waiting(stack))
        others = self._others(frames) if was_kept else ()
        self._samples.append(_Sample(now, stack, is_idle, scope, others))

    def _conclude(self, beat: _Beat, figures: Figures, *, is_over: bool) -> None:
        """Judge a late heartbeat, and pass on what comes of it."""
        due, at = beat.due, beat.at
        inside = [each for each in self._samples if due <= each.at <= at]
        seen = inside or list(self._samples)[-1:]
        if sum(not each.stack for each in seen) * 2 > len(seen):
            return
        facts = self._facts(due, at, figures, is_idle=all(each.is_idle for each in inside))
        verdict = judge(facts)
        if verdict is None:
            return
        others = next((each.others for each in inside if each.others), beat.others)
        block = self._block(verdict, facts, seen, others, is_over=is_over)
        if not is_over:
            _logger.warning("%s, and still is. %s\n%s", block, block.advice, block.stack)
            return
        warning = self._ledger.add(block)
        if warning is not None:
            _logger.warning("%s", warning)
        if self._tell is not None:
            self._tell(block)

    def _facts(self, due: float, at: float, figures: Figures, *, is_idle: bool) -> Facts:
        was = self._last.reading.parsed()
        early = due - self._last.at
        rounds = [each for each in self._rounds if each.at <= due] or list(self._rounds)[:1]
        machine = _kernel.machine()
        return Facts(
            late=at - due,
            threshold=self.threshold,
            # What it computed before the heartbeat was due is part of the figure, or not: the
            # lesser is sure.
            cpu=max(figures.cpu - was.cpu - early, 0.0),
            waited=_difference(figures.waited, was.waited),
            switches=_difference(figures.switches, was.switches),
            process=_difference(figures.process, was.process),
            collected=_overlap(self._collections, due, at),
            gil_busy=sum(_share(each, due, at) * each.gil for each in self._waits),
            stopped=sum(_share(each, due, at) * each.stopped for each in self._waits),
            others_waited=max(
                (waited for _, waited in self._used_since(rounds[-1]).values()), default=0.0
            ),
            pressure=_difference(machine.pressure, rounds[-1].machine.pressure),
            throttled=_difference(machine.throttled, rounds[-1].machine.throttled),
            is_idle=is_idle,
            switch_interval=sys.getswitchinterval(),
        )

    def _used_since(self, start: _Round) -> dict[int, tuple[float, float]]:
        """Return what each other thread has used since then: seconds on CPU, seconds waited."""
        mine = threading.get_native_id()
        return {
            thread: (cpu - start.used[thread][0], waited - start.used[thread][1])
            for thread, (cpu, waited) in _kernel.threads().items()
            if thread in start.used and thread not in (mine, self._loop_task)
        }

    def _block(
        self,
        verdict: Verdict,
        facts: Facts,
        seen: list[_Sample],
        others: tuple[_Other, ...],
        *,
        is_over: bool,
    ) -> Block:
        cause: Cause = verdict.cause
        thread = ""
        stack, scope = _most_seen(seen)
        if cause == "gil":
            other = self._holder(others, verdict.seconds)
            if other is not None:
                thread, stack, scope = other.name, other.stack, other.scope or scope
        own = own_call(stack, package_of(scope))
        if cause in ("cpu", "blocking", "gil") and is_ours(stack):
            cause = "offload"
        call = _most_seen_call(seen, stack[own])
        text = call.text
        what, advice = advise(verdict, cause, stack, own, text)
        return Block(
            at=time.time(),
            seconds=verdict.seconds,
            cause=cause,
            what=what,
            route=route_of(scope),
            function=call.function,
            file=call.file,
            line=call.line,
            code=text,
            advice=advice,
            stack=text_of(stack),
            thread=thread,
            late=facts.late,
            cpu=facts.cpu,
            waited=facts.waited,
            collected=facts.collected,
            is_over=is_over,
        )

    def _holder(self, others: tuple[_Other, ...], seconds: float) -> _Other | None:
        """Return the thread that had the GIL, as far as that can be told."""
        if not others:
            return None
        start = self._rounds[0]
        used = self._used_since(start)

        def likelihood(other: _Other) -> tuple[bool, bool, bool]:
            return (
                used.get(other.thread, (0.0, 0.0))[0] >= seconds / 2,
                not is_waiting(other.stack),
                other.place not in start.places.values(),
            )

        best = max(others, key=likelihood)
        return best if any(likelihood(best)[:2]) else None


def _frames() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by its ident."""
    return sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented


def _most_seen(samples: list[_Sample]) -> tuple[Stack, Mapping[str, Any] | None]:
    """Return the stack of the place that was seen most often, and its request."""
    busy = [each for each in samples if each.stack and not each.is_idle]
    busy = busy or [each for each in samples if each.stack]
    places = [_place(each) for each in busy]
    (place, _), *_ = Counter(places).most_common(1)
    # The last one: by then the request has its route.
    sample = busy[len(places) - 1 - places[::-1].index(place)]
    return sample.stack, sample.scope


def _place(sample: _Sample) -> tuple[object, str]:
    own = own_call(sample.stack, package_of(sample.scope))
    return sample.stack[own].code, route_of(sample.scope)


def _most_seen_call(samples: list[_Sample], call: Call) -> Call:
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


def _difference(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before


def _less(after: float | None, before: float | None) -> float:
    return 0.0 if after is None or before is None else after - before


def _overlap(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    return sum(max(min(last, end) - max(first, begin), 0.0) for first, last in tuple(spans))


def _share(wait: _Wait, begin: float, end: float) -> float:
    """Return which part of a wait was within a time."""
    return _overlap([(wait.begin, wait.end)], begin, end) / (wait.end - wait.begin)

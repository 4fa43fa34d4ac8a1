"""The thread beside a loop: looks at what holds it while its heartbeat is late."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from offload.watchdog import _kernel
from offload.watchdog._judge import Facts, is_asking, judge
from offload.watchdog._report import holder, report
from offload.watchdog._samples import Looker, look_round

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType

    from offload._heartbeat import Loop
    from offload.watchdog._ledger import Ledger
    from offload.watchdog._records import Block
    from offload.watchdog._samples import Other, Round, Sample

__all__ = ["Watcher"]

_logger = logging.getLogger("offload.watchdog")
_numbers = itertools.count()

# Seconds between looks at what all threads have used, while all is well. With many threads they are
# farther apart: a look costs some thirty microseconds for each.
_ROUND = 0.5
_ROUND_PER_THREAD = 0.05
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
    reading: _kernel.Reading
    others: tuple[Other, ...] = ()


class _Wait(NamedTuple):
    """A wait of the watcher that took longer than it should have.

    Attributes:
        begin: when it should have ended.
        end: when it did.
        gil: seconds of it in which somebody else had the GIL.
        stopped: seconds of it in which nothing at all happened.
    """

    begin: float
    end: float
    gil: float
    stopped: float


class Watcher:
    """Watches the loop that runs in this thread, until it is stopped or the loop has ended.

    While all is well, a beat and half a look come per interval: that is what the watchdog costs,
    since a thread that wakes up finds every cache cold.

    Args:
        loop: the loop.
        threshold: seconds that it may be late.
        ledger: where blocks are counted.
        beats: heartbeats per threshold. A block that begins just after one is found if it is longer
            than the threshold by the interval between them.
        tell: called with each block on the watcher's thread, instead of a warning in the log.
    """

    def __init__(
        self,
        loop: Loop,
        threshold: float,
        ledger: Ledger,
        *,
        beats: int = 2,
        tell: Callable[[Block], None] | None = None,
    ) -> None:
        self.threshold = threshold
        self._loop = loop
        self._ledger = ledger
        self._tell = tell
        self._interval = threshold / beats
        # How overdue a heartbeat is when it is first looked at.
        self._grace = self._interval / 2
        self._number = next(_numbers)
        # Held while the watcher is to go on: it sleeps in the acquisition.
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="offload-watchdog", daemon=True)
        self._looker = Looker(loop, threading.get_ident(), self._thread)
        self._loop_task = threading.get_native_id()
        self._meter = _kernel.Meter(self._loop_task)
        # Set by the watcher when nobody reads what the loop writes any more.
        self._has_ended = False
        # Written by the loop's thread, read by the watcher.
        now = time.perf_counter()
        self._due = now + self._interval
        self._beats: deque[_Beat] = deque()
        self._caller: CodeType | None = None
        # Written by whatever thread the collector runs on: begin, end.
        self._collections: deque[tuple[float, float]] = deque(maxlen=64)
        self._collecting_since = 0.0
        # The watcher's own.
        self._last = _Beat(now, now, self._meter.read())
        self._samples: deque[Sample] = deque(maxlen=_MAX_SAMPLES)
        self._waits: deque[_Wait] = deque(maxlen=_MAX_SAMPLES)
        self._rounds: deque[Round] = deque(maxlen=2)
        self._hang_told = 0.0

    def start(self) -> None:
        """Begin; on the loop's thread."""
        gc.callbacks.append(self._on_collection)
        self._running.acquire()
        self._ledger.begin(self._number, self.threshold, self.lag)
        self._loop.start(self._interval, self._beat)
        self._thread.start()

    def stop(self, *, was_running: bool = False) -> None:
        """End, after judging what there is; on the loop's thread.

        Args:
            was_running: whether the loop has been running until now.
        """
        if was_running or self._loop.is_running():
            # What began since the last beat counts, though the loop does not come round any more.
            self._beat()
        self._loop.stop()
        self._running.release()
        self._thread.join()

    def is_over(self) -> bool:
        """Return whether the loop will never run again, or nobody watches it any more."""
        return self._has_ended or self._loop.is_over()

    def lag(self) -> float:
        """Return how late the heartbeat is now, in seconds; on any thread."""
        return max(time.perf_counter() - self._due, 0.0) if self._loop.is_running() else 0.0

    # --- on the loop's thread ---

    def _beat(self) -> None:
        if self._has_ended:
            return
        now = time.perf_counter()
        due = self._due
        # If the loop was waiting for the GIL, whoever had it is still where it was.
        others = self._looker.others() if now - due >= self.threshold else ()
        self._beats.append(_Beat(due, now, self._meter.read(), others))
        self._due = now + self._interval
        # That of `Loop.start` is between us and what has called it.
        self._caller = sys._getframe(2).f_code  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented

    # --- on any thread, with the GIL ---

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        del info
        if phase == "start":
            self._collecting_since = time.perf_counter()
            return
        now = time.perf_counter()
        if now - self._collecting_since > _SHORT_COLLECTION:
            self._collections.append((self._collecting_since, now))

    # --- on the watcher's thread ---

    def _watch(self) -> None:
        meter = _kernel.Meter(threading.get_native_id())
        try:
            is_last = False
            while not is_last:
                self._go_round()
                is_last = self._sleep(meter) or self.is_over()
                self._turn()
        except Exception:
            # Whatever is wrong with it, the server has nothing to do with that.
            _logger.exception("the watchdog has failed and watches no more")
        finally:
            self._has_ended = True
            self._beats.clear()
            with contextlib.suppress(ValueError):
                gc.callbacks.remove(self._on_collection)
            self._ledger.end(self._number)
            meter.close()
            # The loop does not beat any more: it has been stopped, or has ended.
            self._meter.close()

    def _sleep(self, meter: _kernel.Meter) -> bool:
        """Sleep until it is time to look, and look; return whether to stop."""
        before = meter.read()
        asleep = time.perf_counter()
        delay = self._delay(asleep)
        is_stopped = self._running.acquire(timeout=delay)
        now = time.perf_counter()
        late = 0.0 if is_stopped else now - asleep - delay
        # First of all: whoever had the GIL has just let go of it, and is still where it was. So
        # nothing before this may give it up, as every reading of a file does.
        if now - self._due >= self._grace or any(map(self._is_late, tuple(self._beats))):
            self._samples.append(self._looker.look(now, self._caller, was_kept=late > _PUNCTUAL))
        if late > _PUNCTUAL:
            self._waits.append(_wait(asleep + delay, now, before, meter.read()))
        return is_stopped

    def _delay(self, now: float) -> float:
        overdue = now - self._due
        if overdue < self._grace:
            # Not after each beat but after every other: a block of the threshold is seen anyway.
            return self._interval + self._grace - overdue
        if not self._loop.is_running():
            return _LONGEST_LOOK
        return min(max(self._grace, overdue / _LOOKS_PER_AGE), _LONGEST_LOOK)

    def _is_late(self, beat: _Beat) -> bool:
        return beat.at - beat.due >= self.threshold

    def _turn(self) -> None:
        """Count the beats that have come, and judge those that were late."""
        beats = [self._beats.popleft() for _ in range(len(self._beats))]
        for beat in beats:
            if self._is_late(beat):
                self._conclude(beat, is_over=True)
            self._last = beat
        self._ledger.beats(max(beat.at - beat.due, 0.0) for beat in beats)
        now = time.perf_counter()
        overdue = now - self._due
        if overdue < self._grace:
            self._forget()
        elif overdue > _HANG and self._hang_told != self._due and self._loop.is_running():
            self._hang_told = self._due
            reading = self._meter.seen_from_outside()
            if reading is not None:
                self._conclude(_Beat(self._due, now, reading), is_over=False)

    def _forget(self) -> None:
        """Drop what happened before the last beat: nothing later can have to do with it."""
        at = self._last.at
        if self._samples:
            self._samples = deque((each for each in self._samples if each.at > at), _MAX_SAMPLES)
        while self._waits and self._waits[0].end < at:
            self._waits.popleft()
        while self._collections and self._collections[0][1] < at:
            self._collections.popleft()

    def _go_round(self) -> None:
        """Note what all threads have used, now and then, while all is well."""
        now = time.perf_counter()
        if self._rounds:
            last = self._rounds[-1]
            if now - self._due >= self._grace or now - last.at < max(
                _ROUND, _ROUND_PER_THREAD * len(last.used)
            ):
                return
        self._rounds.append(look_round(now))

    def _conclude(self, beat: _Beat, *, is_over: bool) -> None:
        """Judge a late heartbeat, and pass on what comes of it."""
        inside = [each for each in self._samples if beat.due <= each.at <= beat.at]
        # A watcher that came too late knows at least whether the loop is running.
        seen = inside or list(self._samples)[-1:]
        seen = seen or [self._looker.look(beat.at, self._caller, was_kept=False)]
        if sum(not each.stack for each in seen) * 2 >= len(seen):
            return
        start = next((each for each in reversed(self._rounds) if each.at <= beat.due), None)
        start = start or self._rounds[0]
        used = self._used_since(start)
        facts = self._facts(beat, start, used, is_idle=all(each.is_idle for each in inside))
        verdict = judge(facts)
        if verdict is None:
            return
        held_by = None
        if verdict.cause == "gil":
            others = next((each.others for each in inside if each.others), beat.others)
            held_by = holder(others, used, start.places, verdict.seconds)
        block = report(verdict, facts, seen, held_by, is_over=is_over)
        if is_over:
            warning = self._ledger.add(block)
        else:
            warning = f"{block}, and still is. {block.advice}\n{block.stack}"
        if self._tell is None:
            if warning is not None:
                _logger.warning("%s", warning)
        elif is_over:
            self._tell(block)

    def _facts(
        self, beat: _Beat, start: Round, used: dict[int, tuple[float, float]], *, is_idle: bool
    ) -> Facts:
        was, figures = self._last.reading.parsed(), beat.reading.parsed()
        machine = _kernel.machine()
        due, at = beat.due, beat.at
        return Facts(
            late=at - due,
            threshold=self.threshold,
            # What it computed before the heartbeat was due is part of the figure, or not: the
            # lesser is sure.
            cpu=max(figures.cpu - was.cpu - (due - self._last.at), 0.0),
            waited=_difference(figures.waited, was.waited),
            switches=_difference(figures.switches, was.switches),
            process=_difference(figures.process, was.process),
            collected=_overlap(self._collections, due, at),
            gil_busy=sum(_share(each, due, at) * each.gil for each in self._waits),
            stopped=sum(_share(each, due, at) * each.stopped for each in self._waits),
            others_waited=max((waited for _, waited in used.values()), default=0.0),
            pressure=_difference(machine.pressure, start.machine.pressure),
            throttled=_difference(machine.throttled, start.machine.throttled),
            is_idle=is_idle,
            switch_interval=sys.getswitchinterval(),
        )

    def _used_since(self, start: Round) -> dict[int, tuple[float, float]]:
        """Return what each other thread has used since then: seconds on CPU, seconds waited."""
        mine = threading.get_native_id()
        return {
            thread: (cpu - start.used[thread][0], waited - start.used[thread][1])
            for thread, (cpu, waited) in _kernel.threads().items()
            if thread in start.used and thread not in (mine, self._loop_task)
        }


def _wait(begin: float, end: float, was: _kernel.Reading, now: _kernel.Reading) -> _Wait:
    """Tell what a thread was kept waiting for: the GIL, or nothing that shows."""
    before, after = was.parsed(), now.parsed()
    seconds = end - begin - (_difference(after.waited, before.waited) or 0.0)
    switches = _difference(after.switches, before.switches)
    if is_asking(switches, seconds, sys.getswitchinterval(), unknown=True):
        return _Wait(begin, end, gil=seconds, stopped=0.0)
    return _Wait(begin, end, gil=0.0, stopped=seconds)


def _difference(after: Any, before: Any) -> Any:
    return None if after is None or before is None else after - before


def _overlap(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    return sum(max(min(last, end) - max(first, begin), 0.0) for first, last in tuple(spans))


def _share(wait: _Wait, begin: float, end: float) -> float:
    """Return which part of a wait was within a time."""
    return _overlap([(wait.begin, wait.end)], begin, end) / (wait.end - wait.begin)

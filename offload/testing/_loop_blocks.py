"""What holds the event loop, and which line it is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from offload._cpu_time import stolen_seconds
from offload._heartbeat import Loop, frames_of_others, running_loop

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["LoopBlock", "LoopBlockDetector", "LoopBlockedError"]

# How often the loop notes the time, as a part of the threshold: a block that begins just after that
# is seen that much shorter than it is.
_BEATS_PER_THRESHOLD = 5
# How long steal time, which takes the kernel a quarter of a millisecond to tell, is taken as known.
_STEAL_SECONDS = 0.5


class LoopBlockedError(AssertionError):
    """The event loop was held longer than the threshold of a `LoopBlockDetector`.

    Attributes:
        blocks: each time that it happened.
    """

    def __init__(self, blocks: list[LoopBlock]) -> None:
        super().__init__("\n".join(map(str, blocks)))
        self.blocks = blocks


@dataclass(frozen=True, slots=True)
class LoopBlock:
    """One time that the event loop was held.

    Attributes:
        seconds: how long, without the time in which the machine kept the program waiting.
        cpu_seconds: how long the loop's thread was computing; the rest of `seconds` it sat in a
            blocking call, or waited for another thread to give up the GIL. None where unknown.
        stack: where the loop's thread was, as seen most often meanwhile; outermost first. If it
            was only waiting for events, another thread had the GIL.
        threads: where the other threads were, by name.
    """

    seconds: float
    cpu_seconds: float | None
    stack: traceback.StackSummary
    threads: dict[str, traceback.StackSummary] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The innermost line, as `file:line in function`."""
        frame = self.stack[-1]
        return f"{frame.filename}:{frame.lineno} in {frame.name}"

    def __str__(self) -> str:
        """Tell how long, by what, and how control got there."""
        cpu = "" if self.cpu_seconds is None else f", {self.cpu_seconds * 1e3:.0f} ms of it on CPU"
        return (
            f"the event loop was held for {self.seconds * 1e3:.0f} ms{cpu}, by {self.line}\n"
            + "".join(self.stack.format())
        )


class LoopBlockDetector:
    """Finds out whether something holds the event loop, and which line it is.

    A context manager for async code on asyncio, uvloop or trio. A timer on the loop notes the time,
    several times per threshold; while it is overdue, a thread of our own looks at the stack of the
    loop's thread.

    A starved machine is no false alarm. That the timer is late can have two reasons: the loop is
    held, by a computation or a blocking call, or the machine has other things to do and lets this
    process wait. Linux counts the second for each thread (`schedstat`: time spent runnable, but
    not running), and what all threads of this process waited is taken off: all of them, because
    one that is not let run may hold the GIL that the loop waits for. What the host of a virtual
    machine has kept from it (steal time) is taken off as well. So the figure errs on the side of
    silence. Where there is no such count, a late timer counts if the loop's thread was
    computing for half the threshold, or if the watching thread itself was never late.

    Args:
        threshold: seconds that the loop may be held. A block is found for sure from 1.2 times that.
        raises: whether leaving the context raises `LoopBlockedError`; else look at `blocks`.

    Attributes:
        blocks: what was found; complete when the context is left.

    Source:
        proc_pid_schedstat(5): the second number is the time spent waiting on a runqueue, in ns.
        proc_stat(5): the eighth is steal time, of all CPUs, in clock ticks.
    """

    def __init__(self, threshold: float = 0.05, *, raises: bool = True) -> None:
        self.threshold = threshold
        self.blocks: list[LoopBlock] = []
        self._raises = raises
        self._interval = threshold / _BEATS_PER_THRESHOLD
        self._stopping = threading.Event()
        self._watcher = threading.Thread(
            target=self._watch, name="loop-block-detector", daemon=True
        )
        self._loop_thread = 0
        self._loop: Loop = Loop()
        self._cpu_clock: int | None = None
        self._beat_at = 0.0
        # What ran the loop at the last beat.
        self._runner: FrameType | None = None
        # Written by the loop's thread, read by the watcher: of beats that were late, when they were
        # due, when they came, and whether the loop had run without a break.
        self._late: deque[tuple[float, float, bool]] = deque()
        # The watcher's own.
        self._samples: list[_Sample] = []
        self._figures: deque[_Figures] = deque()
        self._stolen = 0.0, 0.0  # when it was read, and what it was

    def __enter__(self) -> Self:
        """Begin to watch the event loop that runs in this thread.

        Raises:
            RuntimeError: none does.
        """
        self._loop = running_loop()
        self._loop_thread = threading.get_ident()
        if hasattr(time, "pthread_getcpuclockid"):
            self._cpu_clock = time.pthread_getcpuclockid(self._loop_thread)
        self._figures.append(self._measure(0.0, is_judged=True))
        self._beat_at = time.perf_counter()
        self._runner = self._loop.runner(_this_frame())
        self._loop.start(self._interval, self._beat)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching.

        Raises:
            LoopBlockedError: the loop was held, and no other exception passes.
        """
        if threading.get_ident() == self._loop_thread and self._loop.is_running():
            # What began since the last beat counts, though the loop does not come round any more.
            self._beat()
        self._loop.stop()
        self._runner = None
        self._stopping.set()
        self._watcher.join()
        if self.blocks and self._raises and kind is None:
            raise LoopBlockedError(self.blocks)

    def _beat(self) -> None:
        """Note the time; on the loop's thread."""
        now = time.perf_counter()
        due = self._beat_at + self._interval
        before, self._runner = self._runner, self._loop.runner(_this_frame())
        if now - due >= self.threshold:
            self._late.append((due, now, before is self._runner))
        self._beat_at = now

    # --- on the watcher's thread ---

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            asleep = time.perf_counter()
            is_last = self._stopping.wait(self._interval)
            now = time.perf_counter()
            beat_at = self._beat_at
            # First of all: whoever had the GIL has just let go of it, and is still where it was.
            if now - beat_at > 2 * self._interval or self._late:
                self._look(now)
            # What is judged now must have ended before the figures are taken: the kernel counts a
            # thread's wait when that is over.
            late = [self._late.popleft() for _ in range(len(self._late))]
            lateness = 0.0 if is_last else now - asleep - self._interval
            self._figures.append(self._measure(lateness, is_judged=bool(late)))
            for due, at, is_one_run in late:
                self._judge(due, at, is_one_run=is_one_run)
            # By the beat as it was above: a later one may be late, and needs what came before it.
            while len(self._figures) > 1 and self._figures[1].at < beat_at:
                self._figures.popleft()
            self._samples = [each for each in self._samples if each.at >= beat_at]

    def _look(self, now: float) -> None:
        """Note where the loop's thread is, and the others."""
        frames = frames_of_others()
        frame = frames.pop(self._loop_thread, None)
        if frame is None or not self._loop.is_turning(frame):
            # Between two runs of a loop, as a test runner has them, nothing is being held.
            self._samples.append(_Sample(now))
            return
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        others = {names.get(each, str(each)): _stack(frames[each]) for each in frames}
        self._samples.append(_Sample(now, _stack(frame), others))

    def _judge(self, due: float, at: float, *, is_one_run: bool) -> None:
        """Decide whether a late beat was a block of the loop."""
        seen = [each for each in self._samples if due <= each.at <= at]
        if not is_one_run:
            # The loop was stopped meanwhile: it can be held from when it was seen to run again.
            due = next((each.at for each in seen if each.stack is not None), at)
            seen = [each for each in seen if due <= each.at]
            if at - due < self.threshold - self._interval:
                return
        elif not seen:
            # A watcher that had to wait for the GIL looked once, when it was over.
            seen = self._samples[-1:]
        before = next(each for each in reversed(self._figures) if each.at <= due)
        after = self._figures[-1]
        stacks = [each.stack for each in seen if each.stack is not None]
        if not stacks or len(stacks) * 2 < len(seen):
            return
        seconds = at - due
        computed = None if before.cpu is None or after.cpu is None else after.cpu - before.cpu
        if before.waited is not None and after.waited is not None:
            between = [each for each in self._figures if before.at <= each.at]
            seconds -= sum(map(_waited_between, between, between[1:]))
            # Of what the thread has computed, so much at least was in between. This holds even if
            # the threads of this process waited for each other as well as for the machine.
            seconds = max(seconds, (computed or 0.0) - (due - before.at) - (after.at - at))
            seconds -= after.stolen - before.stolen
        else:
            lateness = max(each.lateness for each in self._figures if each.at > due)
            if lateness > self._interval and (computed or 0.0) < self.threshold / 2:
                return
        if seconds >= self.threshold:
            lines = Counter((stack[-1].filename, stack[-1].lineno) for stack in stacks)
            (most_seen, _), *_ = lines.most_common()
            stack = next(s for s in stacks if (s[-1].filename, s[-1].lineno) == most_seen)
            self.blocks.append(LoopBlock(seconds, computed, stack, seen[0].threads))

    def _measure(self, lateness: float, *, is_judged: bool) -> _Figures:
        cpu = None if self._cpu_clock is None else time.clock_gettime(self._cpu_clock)
        now = time.perf_counter()
        if is_judged or now - self._stolen[0] > _STEAL_SECONDS:
            self._stolen = now, stolen_seconds()
        return _Figures(now, _waited_for_cpu(), cpu, lateness, self._stolen[1])


@dataclass(frozen=True, slots=True)
class _Figures:
    """What the kernel says at one instant."""

    at: float
    waited: dict[str, float] | None  # by thread
    cpu: float | None
    lateness: float
    stolen: float = 0.0  # from the whole machine, by its host


@dataclass(frozen=True, slots=True)
class _Sample:
    """One look at the stacks; the loop's is None if the loop was not running."""

    at: float
    stack: traceback.StackSummary | None = None
    threads: dict[str, traceback.StackSummary] = field(default_factory=dict)


def _this_frame() -> FrameType:
    return sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented


def _stack(frame: FrameType) -> traceback.StackSummary:
    # The source lines are read when somebody wants to see them.
    walk = reversed(list(traceback.walk_stack(frame)))
    return traceback.StackSummary.extract(walk, lookup_lines=False)


def _waited_between(before: _Figures, after: _Figures) -> float:
    """Return the seconds that our threads waited for a CPU in between."""
    # Of each thread by itself: one that has ended takes its whole past with it, and would be taken
    # for time that the others have not waited.
    past = before.waited or {}
    return sum(
        max(waited - past.get(thread, 0.0), 0.0) for thread, waited in (after.waited or {}).items()
    )


def _waited_for_cpu() -> dict[str, float] | None:
    """Return the seconds that each of our threads was runnable and not run, None where unknown."""
    waited: dict[str, float] = {}
    try:
        for thread in os.listdir("/proc/self/task"):
            # A thread may end under our eyes.
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/self/task/{thread}/schedstat", "rb") as file,
            ):
                waited[thread] = int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
    # Where nobody ever waited, nobody counts.
    return waited if any(waited.values()) else None

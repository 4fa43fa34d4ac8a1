"""Which workers get next to no CPU time, and when that is worth a word.

    look: what each worker that has something to do has had ──► starved? ──► told once an episode

At priority "idle" a worker gives way to every busy process of normal priority in its session or
cgroup. Nothing fails then: calls only take for ever. Measured on two CPUs, of the time that it
could have used, a worker beside four busy processes got 0.0 to 1.4 % at "idle", 0.1 to 4.6 % at
"low" (nice 19), and a fair share at "normal".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["BusyWorker", "Starvation", "ThreadTime", "Verdict"]

# Of the time that it could have used. A call takes twenty times as long then; by fair shares alone
# it comes to that with more than twenty busy processes for each CPU.
_STARVED_SHARE = 0.05
# It says nothing that a worker which wants a CPU for a moment waits for that moment.
_LEAST_WAIT_SECONDS = 0.5
# Of the time between two looks: a quota stops the server's event loop, too.
_THROTTLED_SHARE = 0.25
# Looks further apart than this had nothing to look at in between.
_LONGEST_LOOK_SECONDS = 3.0
# Whatever comes again within this time is the same episode.
_QUIET_SECONDS = 60.0


class ThreadTime(NamedTuple):
    """What one thread has had of the CPUs, up to one instant.

    Attributes:
        ran: seconds on a CPU.
        waited: seconds in which it could have run and was not let, until it last ran.
        sleeps: how often it gave up the CPU by itself; None where unknown.
        is_runnable: whether it runs, or could.
    """

    ran: float
    waited: float
    sleeps: int | None
    is_runnable: bool


@dataclass(frozen=True, slots=True)
class BusyWorker:
    """A worker that has something to do: it runs a task, or starts.

    Attributes:
        number: which one it is.
        pid: its process.
        function: what it runs; None if it is starting.
        since: when its task began, in monotonic seconds; None if it is starting.
        threads: of those threads of its process that may compute.
    """

    number: int
    pid: int
    function: str | None
    since: float | None
    threads: Mapping[int, ThreadTime]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look has come to.

    Attributes:
        starved: the workers that got next to no CPU time since the last look.
        ran: seconds that these were on a CPU.
        waited: seconds that they waited for one.
        throttled: seconds in which a CPU quota stopped everything.
        is_news: whether starvation has begun, and is to be told.
        is_quota_news: the same of the quota.
    """

    starved: tuple[BusyWorker, ...] = ()
    ran: float = 0.0
    waited: float = 0.0
    throttled: float = 0.0
    is_news: bool = False
    is_quota_news: bool = False


@dataclass(slots=True)
class _Seen:
    time: ThreadTime
    # What the kernel will count only when the thread has run again, and we have counted already.
    counted_ahead: float = 0.0


class Starvation:
    """Judges the workers of one pool, look by look.

    Attributes:
        starved: the numbers of the workers that were starved at the last look.
    """

    def __init__(self) -> None:
        self.starved: frozenset[int] = frozenset()
        self._looked_at: float | None = None
        # By worker and thread.
        self._seen: dict[tuple[int, int], _Seen] = {}
        self._throttled: float | None = None
        self._quiet_until = float("-inf")
        self._quota_quiet_until = float("-inf")

    def look(
        self,
        workers: Sequence[BusyWorker],
        now: float,
        *,
        alive: Collection[int] = (),
        throttled: float | None = None,
    ) -> Verdict:
        """Judge what is seen now by what was seen before.

        Args:
            workers: those that have something to do.
            now: monotonic seconds.
            alive: the numbers of all workers. What was seen of one holds until it is busy again:
                meanwhile it sleeps.
            throttled: seconds in which a CPU quota has stopped the cgroup, ever; None if unknown.
        """
        last, self._looked_at = self._looked_at, now
        self._seen = {key: seen for key, seen in self._seen.items() if key[0] in alive}
        starved: list[BusyWorker] = []
        ran = waited = 0.0
        for worker in workers:
            has_run, has_waited = self._change(worker, last, now)
            wanted = has_run + has_waited
            if has_waited >= _LEAST_WAIT_SECONDS and has_run < wanted * _STARVED_SHARE:
                starved.append(worker)
                ran += has_run
                waited += has_waited
        self.starved = frozenset(each.number for each in starved)
        stopped, is_quota = self._stopped(throttled, last, now)
        if not workers:
            stopped, is_quota = 0.0, False
        is_quota_news, is_news = False, False
        if is_quota:
            # Whoever starves then, starves by it.
            is_quota_news = now >= self._quota_quiet_until
            self._quota_quiet_until = now + _QUIET_SECONDS
        elif starved:
            is_news = now >= self._quiet_until
            self._quiet_until = now + _QUIET_SECONDS
        return Verdict(tuple(starved), ran, waited, stopped, is_news, is_quota_news)

    def _change(self, worker: BusyWorker, last: float | None, now: float) -> tuple[float, float]:
        """Return seconds that a worker ran, and that it waited, since it was seen before."""
        ran = waited = 0.0
        for thread, time in worker.threads.items():
            key = worker.number, thread
            before = self._seen.get(key)
            if before is None or time.ran < before.time.ran:  # it is new, as its number may be
                self._seen[key] = _Seen(time)
                ran += time.ran
                waited += time.waited
                continue
            has_run = time.ran - before.time.ran
            told = time.waited - before.time.waited
            has_waited = max(told - before.counted_ahead, 0.0)
            ahead = max(before.counted_ahead - told, 0.0)
            if time.is_runnable and time.sleeps is not None and time.sleeps == before.time.sleeps:
                # It has not slept, so that it waited whenever it did not run. The kernel counts a
                # wait when it is over: one that has not run at all has not waited, by its figures.
                begin = max(each for each in (last, worker.since, 0.0) if each is not None)
                rest = now - begin - has_run - has_waited
                if rest > 0.0:
                    has_waited += rest
                    ahead += rest
            self._seen[key] = _Seen(time, ahead)
            ran += has_run
            waited += has_waited
        return ran, waited

    def _stopped(
        self, throttled: float | None, last: float | None, now: float
    ) -> tuple[float, bool]:
        """Return seconds that a quota has stopped us since the last look; whether they are many."""
        before, self._throttled = self._throttled, throttled
        if throttled is None or before is None or last is None:
            return 0.0, False
        seconds = now - last
        if not 0.0 < seconds < _LONGEST_LOOK_SECONDS:
            return 0.0, False
        stopped = max(throttled - before, 0.0)
        return stopped, stopped >= seconds * _THROTTLED_SHARE

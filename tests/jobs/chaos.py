"""Jobs while worker programs are killed, stopped and told to end, and their store is harmed.

One question: does every job end exactly once, and does a job run twice only where its worker
program, or the store for longer than a moment, was harmed? Varied is who is harmed, how and when;
held are lease and jobs. It would be refuted by a job that is lost, that ends twice, or that runs
again though nobody was harmed.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio

from offload.jobs import AttemptOutcome, Jobs, JobState, JobsUnavailableError
from tests.jobs import job_functions as functions
from tests.jobs.programs import Program, Programs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from offload.jobs import Attempt, Job, JobStatus
    from tests.jobs.chaos_stores import Store

LEASE = 3.0
PROGRAMS = 3
_LONG = "long"
_READY = "worker program"
# At a low priority on a busy machine, four interpreters take minutes to come up.
_START_SECONDS = 300.0
# Leases outlast an outage of the store that is over before this, in seconds.
_MOMENT = 0.75
# Attempts end so, with another one after them, where somebody was harmed or told to end.
_HARMED = {AttemptOutcome.LAPSED, AttemptOutcome.CRASHED}


@dataclass
class Harm:
    """What was done to one program.

    Attributes:
        at: when.
        how: `kill`, `stop` or `end`.
    """

    at: datetime
    how: str


@dataclass
class Report:
    """What came of it.

    Attributes:
        jobs: how many there were.
        harms: what was done, by name of the program.
        twice: jobs that ran more than once.
        outcomes: of all attempts.
        delays: seconds from the harm to the end of each attempt that lapsed.
        faults: what must not be, each a sentence.
        stops: when programs stood still.
        outages: when the store could not be used, and how that was brought about.
        blips: what else was done to the store.
        logs: what the programs wrote, by name.
    """

    jobs: int = 0
    harms: dict[str, list[Harm]] = field(default_factory=dict)
    twice: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    stops: list[tuple[datetime, datetime]] = field(default_factory=list)
    outages: list[tuple[datetime, datetime, str]] = field(default_factory=list)
    blips: Counter[str] = field(default_factory=Counter)
    logs: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Tell it in a few lines."""
        hows = Counter(harm.how for harms in self.harms.values() for harm in harms)
        delays = sorted(self.delays) or [0.0]
        outages = Counter(how for _, _, how in self.outages)
        return (
            f"{self.jobs} jobs; programs: {dict(hows)}; store: {dict(outages + self.blips)}; "
            f"attempts: {dict(self.outcomes)}; {self.twice} jobs ran more than once; "
            f"from harm to lapse: p50 {delays[len(delays) // 2]:.2f} s, at most {delays[-1]:.2f} s"
            "\n" + "\n".join(self.faults)
        )


class Chaos:
    """One run of it.

    Args:
        store: where the jobs are.
        path: of a file that attempts write to.
        seed: of the harms.
    """

    def __init__(self, store: Store, path: Path, seed: int) -> None:
        self._store = store
        self._url = store.url
        self._path = path
        self._random = random.Random(seed)
        self._report = Report()
        self._alive: dict[str, Program] = {}
        self._programs: dict[str, Program] = {}

    async def run(self, jobs_count: int, seconds: float) -> Report:
        """Enqueue jobs for some time, with harms all the while, and return what came of it."""
        with Programs(self._url) as programs:
            async with Jobs(self._url) as jobs:
                await anyio.to_thread.run_sync(self._start_all, programs)
                long = await jobs.options(queue=_LONG, max_crashes=1000).enqueue(
                    functions.append, str(self._path), "long", 5 * LEASE
                )
                async with anyio.create_task_group() as group:
                    group.start_soon(self._harm, programs, seconds)
                    group.start_soon(self._harm_store, seconds)
                    made = await self._enqueue(jobs, jobs_count, seconds)
                with anyio.move_on_after(seconds + 120.0):
                    for job in [long, *made]:
                        await _ended(job)
                ended = [await job.status() for job in [long, *made]]
            self._judge_programs()
            logs = {name: program.text for name, program in self._programs.items()}
        self._judge(ended)
        wrong = [name for name, text in logs.items() if "Traceback" in text]
        self._report.faults += [f"{name} wrote {logs[name]}" for name in wrong]
        self._report.logs = logs
        return self._report

    async def _enqueue(self, jobs: Jobs, count: int, seconds: float) -> list:
        made = []
        for number in range(count):
            word, pause = f"job-{number}", self._random.uniform(0.0, 0.1)
            options = jobs.options(id=word, max_crashes=1000, backoff=0.05, max_attempts=1)
            made.append(
                await _accepted(options.enqueue, functions.append, str(self._path), word, pause)
            )
            # Spread over half of the time, so that there is always something to harm.
            await anyio.sleep(seconds / 2 / count)
        return made

    def _start(self, programs: Programs, name: str, *arguments: str) -> Program:
        common = ("--lease", str(LEASE), "--drain", "0.5", "--name", name)
        program = self._programs[name] = programs.start(*common, *arguments)
        return program

    def _start_all(self, programs: Programs) -> None:
        self._start(programs, "healthy", "--queues", _LONG)
        self._fill_up(programs)
        for program in self._programs.values():
            program.says(_READY, _START_SECONDS)

    def _fill_up(self, programs: Programs) -> None:
        while len(self._alive) < PROGRAMS:
            name = f"program-{len(self._programs)}"
            self._alive[name] = self._start(programs, name)

    async def _harm(self, programs: Programs, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with anyio.create_task_group() as group:
            while time.monotonic() < end:
                self._fill_up(programs)
                await anyio.sleep(self._random.uniform(0.2, 1.0))
                # One that has not begun has nothing to lose.
                ready = [name for name, each in self._alive.items() if each.has_said(_READY)]
                if not ready:
                    continue
                name = self._random.choice(ready)
                program = self._alive[name]
                how = self._random.choices(["kill", "stop", "end"], [3, 3, 1])[0]
                self._report.harms.setdefault(name, []).append(Harm(datetime.now(UTC), how))
                if how == "stop":
                    group.start_soon(self._stop, name, program)
                else:
                    del self._alive[name]
                    number = signal.SIGKILL if how == "kill" else signal.SIGTERM
                    program.signal(number)
        self._fill_up(programs)

    async def _harm_store(self, seconds: float) -> None:
        store, draw = self._store, self._random
        if not store.outages:
            return
        end = time.monotonic() + seconds
        while True:
            pause = draw.uniform(1.0, max(seconds / 30.0, 3.0))
            if time.monotonic() + pause >= end:
                return
            await anyio.sleep(pause)
            if store.blips and draw.random() < 0.5:
                how = draw.choice(list(store.blips))
                self._report.blips[how] += 1
                await anyio.to_thread.run_sync(store.blips[how])
                continue
            how = draw.choice(list(store.outages))
            begin = datetime.now(UTC)
            await anyio.to_thread.run_sync(store.outages[how])
            await anyio.sleep(draw.choice([0.1, draw.uniform(0.5, 2 * LEASE)]))
            await anyio.to_thread.run_sync(store.repair)
            self._report.outages.append((begin, datetime.now(UTC), how))

    async def _stop(self, name: str, program: Program) -> None:
        # Not to be chosen again meanwhile, and one more is started in its place.
        del self._alive[name]
        begin = datetime.now(UTC)
        program.signal(signal.SIGSTOP)
        await anyio.sleep(LEASE + self._random.uniform(0.5, 2.0))
        program.signal(signal.SIGCONT)
        self._report.stops.append((begin, datetime.now(UTC)))
        self._alive[name] = program

    def _judge_programs(self) -> None:
        for name, program in self._programs.items():
            if program.process.poll() is not None and name not in self._report.harms:
                self._report.faults.append(f"{name} ended, which nobody had harmed")

    def _judge(self, ended: Iterable[JobStatus]) -> None:
        report = self._report
        lines = Counter(tuple(line.split()[:2]) for line in self._path.read_text().splitlines())
        for status in ended:
            report.jobs += 1
            word = "long" if status.queue == _LONG else status.result and status.result.strip('"')
            outcomes = [attempt.outcome for attempt in status.history]
            report.outcomes.update(outcomes)
            if status.state is not JobState.COMPLETED:
                report.faults.append(f"{status.id} is {status.state}: {status.error}")
                continue
            if outcomes.count(AttemptOutcome.COMPLETED) != 1 or outcomes[-1] != "completed":
                report.faults.append(f"{status.id} ended more than once: {outcomes}")
            if lines["end", word] == 0:
                report.faults.append(f"{status.id} completed, but {word} has not run to its end")
            # The first run, and one more after each attempt whose program was harmed.
            harmed = sum(map(self._may_have_run, status.history[:-1]))
            if lines["begin", word] > 1 + harmed:
                report.faults.append(f"{status.id} ran again though nobody was harmed: {outcomes}")
            report.twice += lines["begin", word] > 1
            self._judge_attempts(status)

    def _judge_attempts(self, status: JobStatus) -> None:
        for attempt in status.history:
            if attempt.outcome not in _HARMED:
                continue
            before = self._harms_before(attempt)
            if not before and not self._was_out(attempt):
                self._report.faults.append(
                    f"{status.id} {attempt.outcome} on {attempt.worker}, which nobody had harmed"
                )
            elif attempt.outcome is AttemptOutcome.LAPSED and not self._was_out(attempt):
                harmed_at = before[-1].at
                others = [
                    stop for stop in self._report.stops if harmed_at < stop[0] <= attempt.ended_at
                ]
                if not others:  # as above: one of them may have held up the sweep
                    self._report.delays.append((attempt.ended_at - harmed_at).total_seconds())

    def _was_out(self, attempt: Attempt) -> bool:
        """Return whether the store was away for long enough that leases could not be extended."""
        slack = timedelta(seconds=LEASE)  # programs need a moment to find that it is back
        return any(
            begin <= attempt.ended_at and attempt.started_at <= end + slack
            for begin, end, _ in self._report.outages
            if (end - begin).total_seconds() > _MOMENT
        )

    def _may_have_run(self, attempt: Attempt) -> bool:
        if self._was_out(attempt):
            return True
        if attempt.outcome is AttemptOutcome.RELEASED:
            # A program that stands still in the middle of a transaction holds all others up: an
            # SQLite file has one writer at a time. They cannot extend, and stop what they run.
            for begin, end in self._report.stops:
                if begin <= attempt.ended_at and attempt.started_at <= end:
                    return True
        return bool(self._harms_before(attempt))

    def _harms_before(self, attempt: Attempt) -> list[Harm]:
        harms = self._report.harms.get(attempt.worker, [])
        return [harm for harm in harms if harm.at <= attempt.ended_at]


async def _accepted(enqueue: Any, *arguments: Any) -> Job[Any]:
    """Enqueue a job that has an id of its own, as often as it takes."""
    while True:
        try:
            return await enqueue(*arguments)
        except JobsUnavailableError:
            await anyio.sleep(0.1)


async def _ended(job: Job[Any]) -> JobStatus:
    while True:
        try:
            status = await job.status()
        except JobsUnavailableError:
            continue
        if status.state.is_over:
            return status
        await anyio.sleep(0.1)

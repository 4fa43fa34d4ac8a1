"""The SQLite engine and the decisions beside a model: a week in a minute.

Any history of producers, worker programs, crashes, outages, reboots and set clocks, on a simulated
clock. The model is a list of jobs that is searched and counted anew each time; it has no index, no
counter and none of the functions that it judges.
"""

import math
import sqlite3
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offload.jobs._decisions import Standing, after_crash, after_error
from offload.jobs._errors import JobConflictError, JobQueueFullError
from offload.jobs._sqlite import care, claims, producers, reads
from offload.jobs._sqlite.clock import from_seconds
from offload.jobs._sqlite.schema import migrate
from offload.jobs._sqlite.transaction import Transaction
from offload.jobs._values import (
    Backoff,
    Cancel,
    CancelOutcome,
    Claim,
    Complete,
    Fail,
    JobOptions,
    JobState,
    NewJob,
    Query,
    Release,
    Retry,
    Swept,
    Unique,
    Wanted,
)
from tests.jobs.values import BOOM

QUEUES = ("a", "b")
FUNCTIONS = ("m:f", "m:g")
EPOCH = 1_800_000_000.0
HOUR = 3600.0

W, D, A = JobState.WAITING, JobState.DELAYED, JobState.ACTIVE
C, F, X = JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED


class Clock:
    wall = EPOCH
    up = 100_000.0

    def now(self):
        return self.wall

    def monotonic(self):
        return self.up


@dataclass
class Model:
    """One job."""

    id: str
    queue: str
    function: str
    priority: int
    max_attempts: int
    max_crashes: int
    keep: float | None
    deadline: float | None
    unique: Unique | None
    state: JobState
    due: float | None
    order: float
    arrival: int
    attempts: int = 0
    crashes: int = 0
    starts: int = 0
    token: str | None = None
    until: float = 0.0
    lease: float = 0.0
    cancel_asked: bool = False
    ended: float | None = None
    outcomes: list[str] = field(default_factory=list)


short = st.sampled_from((0.0, 1.0, 2.0, 5.0))
any_of = st.integers(0, 10**6)


class JobsMachine(RuleBasedStateMachine):
    """Whatever may happen to jobs."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        migrate(self.connection, "memory")
        self.jobs = []
        self.gone = set()
        self.keys = {}
        self.paused = set()
        self.number = 0
        # Every claim that there ever was: the last one of a job may be valid, no other is.
        self.claims = []

    def teardown(self):
        self.connection.close()

    @initialize()
    def begin(self):
        self.clock = Clock()

    # --- carrying out ---

    def do(self, run, *arguments):
        """Run an operation in a transaction, and check what it tells others."""
        self.connection.execute("BEGIN IMMEDIATE")
        transaction = Transaction(self.connection, self.clock)
        try:
            return run(transaction, *arguments)
        finally:
            transaction.save_counts()
            self.connection.execute("COMMIT")

    def find(self, job_id):
        return next((job for job in self.jobs if job.id == job_id), None)

    def pick(self, which, *states):
        found = [job for job in self.jobs if not states or job.state in states]
        return found[which % len(found)] if found else None

    def next_order(self):
        self.number += 1
        return self.number

    # --- the model's rules ---

    def end(self, job, state):
        job.state, job.ended, job.token, job.cancel_asked, job.due = (
            state,
            self.clock.wall,
            None,
            False,
            None,
        )
        key = (job.queue, job.unique.key) if job.unique else None
        if key and self.keys.get(key) == (job.id, math.inf):
            del self.keys[key]

    def wait(self, job, *, last):
        job.state, job.token, job.cancel_asked, job.due = W, None, False, None
        if last:
            job.order = self.next_order()

    def promote(self, queues, functions):
        due = [
            job
            for job in self.jobs
            if job.state is D
            and job.due <= self.clock.wall
            and job.queue in queues
            and job.function in functions
        ]
        for job in sorted(due, key=lambda job: (job.due, job.order)):
            self.wait(job, last=True)

    def expired(self, job):
        return job.deadline is not None and job.deadline <= self.clock.wall

    def lapsed(self, job):
        # A lease of before a reboot began at a time that has not come yet. Should it have, by
        # chance, the lease lapses as any other does: at most its own length later.
        began = job.until - job.lease
        return job.state is A and (job.until <= self.clock.up or began > self.clock.up + 1.0)

    # --- producers ---

    @rule(
        queue=st.sampled_from(QUEUES),
        function=st.sampled_from(FUNCTIONS),
        priority=st.integers(-1, 1),
        max_attempts=st.integers(1, 3),
        max_crashes=st.integers(0, 2),
        keep=st.sampled_from((None, 0.0, 100.0)),
        deadline=st.sampled_from((None, None, None, 5.0, 50.0)),
        delay=st.sampled_from((None, None, -5.0, 0.0, 3.0, 30.0)),
        unique=st.sampled_from(
            (None, None, Unique("k"), Unique("k", 0.0), Unique("k", 10.0), Unique("l"))
        ),
        again=st.booleans(),
        which=any_of,
        max_queued=st.sampled_from((None, None, None, 2)),
    )
    def put(  # noqa: PLR0917 - by keyword, from Hypothesis
        self,
        queue,
        function,
        priority,
        max_attempts,
        max_crashes,
        keep,
        deadline,
        delay,
        unique,
        again,
        which,
        max_queued,
    ):
        now = self.clock.wall
        known = self.pick(which) if again else None
        job_id = known.id if known else f"job-{self.next_order()}"
        backoff = Backoff(initial=2.0, factor=2.0, maximum=8.0, jitter=0.5)
        options = JobOptions(
            priority=priority,
            max_attempts=max_attempts,
            backoff=backoff,
            max_crashes=max_crashes,
            deadline=None if deadline is None else from_seconds(now + deadline),
            keep=keep,
            unique=unique,
        )
        due = None if delay is None else now + delay
        job = NewJob(
            job_id,
            function,
            "[]",
            queue,
            options,
            due_at=None if due is None else from_seconds(due),
        )
        holder = self.keys.get((queue, unique.key)) if unique else None
        taken = holder is not None and holder[1] > now
        length = sum(job.queue == queue and job.state in (W, D) for job in self.jobs)
        adds = known is None and not taken
        try:
            (answer,) = self.do(producers.put, [job], max_queued)
        except JobQueueFullError:
            assert max_queued is not None
            assert length + adds > max_queued
            return
        assert max_queued is None or length + adds <= max_queued
        if not adds:
            assert answer == (known.id if known else holder[0])
            return
        assert answer == job_id
        if unique:
            until = math.inf if unique.lifetime is None else now + unique.lifetime
            self.keys[queue, unique.key] = (job_id, until)
        is_delayed = due is not None and due > now
        order = self.next_order()
        self.jobs.append(
            Model(
                job_id,
                queue,
                function,
                priority,
                max_attempts,
                max_crashes,
                keep,
                None if deadline is None else now + deadline,
                unique,
                D if is_delayed else W,
                due if is_delayed else None,
                order,
                order,
            )
        )

    @precondition(lambda self: self.jobs)
    @rule(which=any_of)
    def cancel(self, which):
        job = self.pick(which)
        outcome = self.do(producers.cancel, job.id)
        if job.state in (W, D):
            assert outcome is CancelOutcome.REMOVED
            self.end(job, X)
        elif job.state is A:
            assert outcome is CancelOutcome.ASKED
            job.cancel_asked = True
        else:
            assert outcome is CancelOutcome.OVER

    @precondition(lambda self: self.jobs)
    @rule(which=any_of)
    def requeue(self, which):
        job = self.pick(which, F, X) or self.pick(which)
        try:
            self.do(producers.requeue, job.id)
        except JobConflictError:
            assert job.state not in (F, X)
            return
        assert job.state in (F, X)
        if self.expired(job):
            job.deadline = None
        job.attempts = job.crashes = 0
        job.ended = None
        self.wait(job, last=True)
        if job.unique and job.unique.lifetime is None:
            self.keys.setdefault((job.queue, job.unique.key), (job.id, math.inf))

    @rule(queue=st.sampled_from(QUEUES))
    def pause(self, queue):
        self.do(care.pause, queue)
        self.paused.add(queue)

    @precondition(lambda self: self.paused)
    @rule(which=any_of)
    def resume(self, which):
        queue = sorted(self.paused)[which % len(self.paused)]
        self.do(care.resume, queue)
        self.paused.remove(queue)

    # --- worker programs ---

    def expect_claimed(self, claimed, wanted):
        """Check claims against the model, which claims by itself."""
        queues = wanted.queues - self.paused
        self.promote(queues, wanted.functions)
        expected = []
        while len(expected) < wanted.limit:
            waiting = [
                job
                for job in self.jobs
                if job.state is W and job.queue in queues and job.function in wanted.functions
            ]
            if not waiting:
                break
            job = min(waiting, key=lambda job: (-job.priority, job.order))
            if self.expired(job):
                self.end(job, F)
                continue
            job.state, job.until = A, self.clock.up + wanted.lease
            job.lease = wanted.lease
            job.starts += 1
            expected.append(job)
        assert [each.job.id for each in claimed] == [job.id for job in expected]
        tokens = {each.token for each, _ in self.claims}
        for each, job in zip(claimed, expected, strict=True):
            assert each.claim.token not in tokens
            assert each.job.state is A
            job.token = each.claim.token
            self.claims.append((each.claim, job))

    @rule(
        queues=st.sampled_from((QUEUES, QUEUES, ("a",))),
        functions=st.sampled_from((FUNCTIONS, FUNCTIONS, ("m:g",))),
        lease=st.sampled_from((5.0, 30.0)),
        limit=st.integers(1, 3),
    )
    def claim(self, queues, functions, lease, limit):
        wanted = Wanted(frozenset(queues), frozenset(functions), "worker", lease, limit)
        due, is_there = claims.glance(self.connection, wanted, self.clock.wall)
        claimed = self.do(claims.claim, wanted)
        # What waits may turn out to have expired.
        assert is_there or not claimed
        if due is not None and not is_there:
            assert due > self.clock.wall
        self.expect_claimed(claimed, wanted)

    @precondition(lambda self: self.claims)
    @rule(
        reports=st.lists(
            st.tuples(
                any_of,
                st.sampled_from(
                    ("complete", "complete", "error", "error", "crash", "release", "cancel")
                ),
                st.sampled_from((0.0, 0.5)),
            ),
            min_size=1,
            max_size=4,
        ),
        follows=st.booleans(),
        recent=st.booleans(),
    )
    def finish(self, reports, follows, recent):
        among = self.claims[-3:] if recent else self.claims
        made = [self.report(*among[-1 - which % len(among)], *rest) for which, *rest in reports]
        wanted = Wanted(frozenset(QUEUES), frozenset(FUNCTIONS), "worker", 10.0)
        finished = self.do(
            claims.finish,
            [(held, ending) for held, _, _, ending in made],
            wanted if follows else None,
        )
        stored = []
        for held, job, how, ending in made:
            # A claim that is reported twice at once ends once.
            is_valid = job.state is A and job.token == held.token
            stored.append(is_valid)
            if is_valid:
                self.settle(job, how, ending)
        assert finished.stored == tuple(stored)
        if follows:
            self.expect_claimed(finished.claimed, wanted)
        else:
            assert finished.claimed == ()

    def report(self, held, job, how, draw):
        now = from_seconds(self.clock.wall)
        standing = Standing(
            attempts=job.attempts,
            crashes=job.crashes,
            max_attempts=job.max_attempts,
            max_crashes=job.max_crashes,
            backoff=Backoff(initial=2.0, factor=2.0, maximum=8.0, jitter=0.5),
            deadline=None if job.deadline is None else from_seconds(job.deadline),
        )
        ending = {
            "complete": Complete("1"),
            "error": after_error(standing, BOOM, now=now, draw=draw),
            "crash": after_crash(standing, BOOM, now=now, draw=draw),
            "release": Release(),
            "cancel": Cancel(),
        }[how]
        return held, job, how, ending

    def settle(self, job, how, ending):
        job.attempts += how in ("complete", "error")
        job.crashes += how == "crash"
        if how == "complete":
            self.end(job, C)
        elif how == "cancel":
            self.end(job, X)
        elif isinstance(ending, Fail):
            assert job.attempts >= job.max_attempts or job.crashes > job.max_crashes or job.deadline
            self.end(job, F)
        elif job.cancel_asked:
            self.end(job, X)
        elif how == "release":
            self.wait(job, last=False)
        else:
            assert isinstance(ending, Retry)
            assert job.attempts < job.max_attempts or how == "crash"
            assert 1.0 <= ending.delay <= 8.0
            self.wait(job, last=True)
            job.state, job.due = D, self.clock.wall + ending.delay

    @precondition(lambda self: self.claims)
    @rule(count=st.integers(1, 6), lease=st.sampled_from((5.0, 30.0)))
    def extend(self, count, lease):
        recent = self.claims[-count:]
        extended = self.do(claims.extend, [held for held, _ in recent], lease)
        valid = [(held, job) for held, job in recent if job.state is A and job.token == held.token]
        assert extended.lost == {held for held, _ in recent} - {held for held, _ in valid}
        assert extended.cancelled == {held for held, job in valid if job.cancel_asked}
        for _, job in valid:
            job.until, job.lease = self.clock.up + lease, lease

    @rule(which=any_of)
    def report_for_an_invented_claim(self, which):
        job = self.pick(which, A)
        forged = Claim(job.id if job else "nobody", "a", "0" * 24)
        assert not self.do(claims.finish, [(forged, Complete("0"))], None).is_stored
        assert not self.do(claims.progress, forged, "0")

    # --- time ---

    @rule(seconds=st.sampled_from((0.5, 1.0, 4.0, 10.0, 60.0, 6 * HOUR)))
    def let_time_pass(self, seconds):
        """A quiet time; or one in which every worker program is stopped or cut off."""
        self.clock.wall += seconds
        self.clock.up += seconds

    @rule(seconds=st.sampled_from((-HOUR, -1.0, 1.0, HOUR)))
    def set_clock(self, seconds):
        """Somebody sets the time of day. No lease is any shorter or longer for it."""
        self.clock.wall += seconds

    @rule()
    def reboot(self):
        """The machine starts anew: nobody who had a claim is there any more."""
        self.clock.wall += 30.0
        self.clock.up = 10.0 if self.clock.up > HOUR else self.clock.up + 2 * HOUR

    @rule()
    def sweep(self):
        needed = care.needs_sweep(self.connection, self.clock.wall, self.clock.up)
        swept = self.do(care.sweep)
        retried, failed, cancelled = set(), set(), set()
        for job in self.jobs:
            if self.lapsed(job):
                job.crashes += 1
                if job.cancel_asked:
                    self.end(job, X)
                    cancelled.add(job.id)
                elif job.crashes > job.max_crashes:
                    self.end(job, F)
                    failed.add(job.id)
                else:
                    self.wait(job, last=False)
                    retried.add(job.id)
        for job in self.jobs:
            if job.state in (W, D) and self.expired(job):
                self.end(job, F)
                failed.add(job.id)
                retried.discard(job.id)
        self.promote(QUEUES, FUNCTIONS)
        self.keys = {
            key: holder for key, holder in self.keys.items() if holder[1] > self.clock.wall
        }
        assert set(swept.retried) == retried
        assert set(swept.failed) == failed
        assert set(swept.cancelled) == cancelled
        assert needed or swept == Swept()
        assert not care.needs_sweep(self.connection, self.clock.wall, self.clock.up)

    @rule(max_over=st.sampled_from((None, None, 0, 3)))
    def prune(self, max_over):
        count = self.do(care.prune, max_over)
        over = [job for job in self.jobs if job.state in (C, F, X)]
        forgotten = [
            job for job in over if job.keep is not None and job.ended + job.keep <= self.clock.wall
        ]
        if max_over is not None:
            left = sorted(
                (job for job in over if job not in forgotten), key=lambda job: job.arrival
            )
            forgotten += left[: max(len(left) - max_over, 0)]
        assert count == len(forgotten)
        for job in forgotten:
            self.jobs.remove(job)
            self.gone.add(job.id)

    # --- what always holds ---

    @invariant()
    def records_are_as_the_model_says(self):
        records = reads.get(self.connection, [job.id for job in self.jobs])
        for job, record in zip(self.jobs, records, strict=True):
            assert record is not None
            assert (record.state, record.attempts, record.crashes, record.starts) == (
                job.state,
                job.attempts,
                job.crashes,
                job.starts,
            )
            assert record.is_cancel_asked == job.cancel_asked
            assert (record.ended_at is not None) == job.state.is_over
            assert (record.due_at is not None) == (job.state is D)
            assert (record.result is not None) == (job.state is C)
            # Each start has ended in one way, or goes on.
            assert len(record.history) == job.starts - (job.state is A)
        assert all(record is None for record in reads.get(self.connection, sorted(self.gone)))

    @invariant()
    def counts_are_those_of_the_jobs(self):
        counts = reads.counts(self.connection, None)
        assert {(each.queue, each.function, each.state): each.count for each in counts} == Counter(
            (job.queue, job.function, job.state) for job in self.jobs
        )

    @invariant()
    def every_job_is_found_by_its_state(self):
        for state in JobState:
            page = reads.find(self.connection, Query(frozenset({state}), is_oldest_first=True))
            expected = sorted(
                (job for job in self.jobs if job.state is state), key=lambda job: job.arrival
            )
            assert [job.id for job in page.jobs] == [job.id for job in expected][:100]

    @invariant()
    def one_claim_of_a_job_is_valid_at_most(self):
        rows = self.connection.execute("SELECT id, token FROM jobs WHERE token IS NOT NULL")
        assert dict(rows) == {job.id: job.token for job in self.jobs if job.state is A}

    @invariant()
    def limits_hold(self):
        for job in self.jobs:
            assert job.attempts <= job.max_attempts
            assert job.crashes <= job.max_crashes + 1
            if not job.state.is_over:
                assert job.attempts < job.max_attempts
                assert job.crashes <= job.max_crashes

    @invariant()
    def nothing_is_left_of_what_is_forgotten(self):
        for table in ("bodies", "attempts", "logs"):
            (count,) = self.connection.execute(
                f"SELECT count(*) FROM {table} WHERE seq NOT IN (SELECT seq FROM jobs)"  # noqa: S608
            ).fetchone()
            assert count == 0


TestJobsMachine = JobsMachine.TestCase
TestJobsMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)

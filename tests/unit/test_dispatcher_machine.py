"""The dispatcher beside a model: its guarantees hold through any history of events.

The model keeps plain lists and counts them anew after each event. It has no heap, no claims and no
fast path, so that it cannot share a mistake with what it judges.
"""

import math
from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import Phase as Phases
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from offload._decisions import wait_queue
from offload._decisions.dispatcher import Dispatcher
from offload._decisions.words import (
    Assign,
    Cancelled,
    Closed,
    Full,
    Lane,
    Limits,
    Phase,
    Refusal,
    Refuse,
    StartWorker,
    StopReason,
    StopWorker,
    Task,
    TaskState,
    Worker,
    WorkerState,
)

FAILURES_UNTIL_REFUSAL = 3
# Less than what the dispatcher has, so that a short history gets to a rebuild.
STALE_WORTH_A_REBUILD = 2
BACKOFF_MAX_SECONDS = 30.0

limits = st.builds(
    Limits,
    min_workers=st.sampled_from((0, 0, 1, 2)),
    max_workers=st.integers(2, 4),
    spare_workers=st.sampled_from((1, 1, 0, 2)),
    max_queued=st.sampled_from((None, 1000, 0, 1, 3)),
    max_queued_bytes=st.sampled_from((None, None, 20)),
    idle_timeout=st.sampled_from((10.0, 10.0, 0.05, None)),
    max_tasks_per_worker=st.sampled_from((None, None, 1, 3)),
    can_stop=st.sampled_from((True, True, True, False)),
) | st.just(Limits())
# Mostly a limited lane beside a free one: only then tasks step aside for others.
lane_limits = st.sampled_from(((1, None), (1, None), (1, 2, None), (1, 1), (None,)))


def backoff(failures):
    """Return the seconds between a failure, the `failures`-th in a row, and the next start."""
    return min(0.1 * 2 ** min(failures - 1, 16), BACKOFF_MAX_SECONDS)


class DispatcherMachine(RuleBasedStateMachine):
    """Any event that a shell can report, at any time at which it can report it."""

    def __init__(self):
        super().__init__()
        self.patch = mock.patch.object(wait_queue, "_STALE_WORTH_A_REBUILD", STALE_WORTH_A_REBUILD)
        self.patch.start()
        self.now = 1000.0
        self.timer = math.inf
        self.phase = Phase.OPEN
        # Tasks: waiting, or running, or ended; and how often each one has ended.
        self.waiting = []
        self.running = {}
        self.endings = Counter()
        self.accepted = []
        self.arrival = {}
        # Workers: starting ones have no identity yet, then idle, busy (running), leaving, or gone.
        self.starting = 0
        self.idle_since = {}
        self.leaving = {}
        self.can_recover = set()
        self.to_recycle = set()
        self.tasks_done = Counter()
        # Growth.
        self.floor = None
        self.failed_starts = 0
        self.same_failure = 0
        self.early_deaths = 0
        self.retry_at = 0.0
        self.hold_until = 0.0
        self.peak = 0
        # Workers whose cancelled task is given time to end, and the lane of that.
        self.lingering = {}
        # Tasks that run on for nobody.
        self.unwanted = set()
        # How many may be busy beyond the capacity: they were so when it was made smaller.
        self.allowed = 0

    @initialize(limits=limits, lanes=lane_limits, workers=st.integers(0, 3))
    def build(self, limits, lanes, workers):
        self.limits = limits
        self.max_workers = limits.max_workers
        self.dispatcher = Dispatcher(limits)
        self.lanes = [Lane(limit) for limit in lanes]
        if workers:
            for _ in range(workers):
                self.submit(-1, 0, 1, None)
            self.come_up()

    # --- the model's view ---

    @property
    def busy(self):
        return len(self.running)

    @property
    def capacity(self):
        """How many may be busy."""
        return self.max_workers - len(self.lingering)

    @property
    def alive(self):
        return self.starting + len(self.idle_since) + self.busy

    def free(self, lane):
        """Return how many more tasks of the lane may run."""
        if lane.limit is None:
            return math.inf
        lanes = [task.lane for task in self.running.values()] + list(self.lingering.values())
        return lane.limit - lanes.count(lane)

    def runnable(self):
        """Return how many of the waiting tasks could run, were there workers enough."""
        waiting = Counter(task.lane for task in self.waiting)
        return sum(min(count, self.free(lane)) for lane, count in waiting.items())

    def following(self):
        """Return the task that is to be assigned next, None if none may."""
        if self.busy >= self.capacity:
            return None
        return min(
            (
                task
                for task in self.waiting
                if self.free(task.lane) > 0 and (task.start_by is None or task.start_by > self.now)
            ),
            key=lambda task: (-task.priority, self.arrival[task]),
            default=None,
        )

    def wanted(self):
        """Return how many workers there should be."""
        if self.phase is Phase.CLOSED:
            return 0
        wanted = min(self.busy + self.runnable(), self.capacity)
        if self.phase is Phase.OPEN:
            if wanted:
                wanted += self.limits.spare_workers
            wanted = max(wanted, min(self.floor or 0, self.max_workers))
        return wanted

    def limit_hit(self, size_bytes):
        """Return the limit that a newcomer that must wait would hit."""
        limits = self.limits
        room = max(self.capacity - self.busy, 0)
        if limits.max_queued is not None and len(self.waiting) >= limits.max_queued + room:
            return "max_queued"
        queued_bytes = sum(task.size_bytes for task in self.waiting)
        if (
            limits.max_queued_bytes is not None
            and self.waiting
            and queued_bytes + size_bytes > limits.max_queued_bytes
        ):
            return "max_queued_bytes"
        return None

    # --- what happens to the model ---

    def end(self, task):
        self.endings[task] += 1

    def run(self, task, worker, *, is_sent=True):
        self.running[worker] = task
        if is_sent:
            task.state = TaskState.RUNNING
        self.peak = max(self.peak, self.busy)

    def rest(self, worker):
        self.idle_since[worker] = self.now

    def leave(self, worker):
        self.leaving[worker] = False  # its StopWorker has not been seen yet
        if self.tasks_done[worker]:
            self.early_deaths = 0

    def die_early(self, worker):
        if self.tasks_done[worker]:
            self.early_deaths = 0
            return
        if self.now >= self.hold_until + BACKOFF_MAX_SECONDS:
            self.early_deaths = 0
        self.early_deaths += 1
        self.hold_until = self.now + backoff(self.early_deaths)
        self.retry_at = max(self.retry_at, self.hold_until)

    def is_failing(self):
        failures = max(self.failed_starts, self.early_deaths)
        return not self.alive and failures >= FAILURES_UNTIL_REFUSAL

    def settle(self, *, refuses=None):
        """Carry out what was decided, in its order, and judge each decision.

        Args:
            refuses: the refusal that must have met every task that waits.
        """
        actions, self.dispatcher.actions = self.dispatcher.actions, []
        must_refuse = list(self.waiting) if refuses is not None else []
        started = 0
        for action in actions:
            match action:
                case Assign(task=task, worker=worker):
                    assert task is self.following(), "out of order, or not allowed to run"
                    self.waiting.remove(task)
                    del self.idle_since[worker]
                    self.run(task, worker)
                case Refuse(task=task, refusal=refusal):
                    assert task in self.waiting
                    self.waiting.remove(task)
                    self.end(task)
                    if refusal is Refusal.TOO_LATE:
                        assert task.start_by is not None
                        assert task.start_by <= self.now
                    else:
                        assert refusal is refuses
                        must_refuse.remove(task)
                case StopWorker(worker=worker):
                    assert self.leaving[worker] is False, "stopped twice, or not leaving"
                    self.leaving[worker] = True
                case StartWorker():
                    started += 1
        assert not must_refuse
        if started:
            assert self.now >= self.retry_at, "started during back-off"
            self.starting += started
            assert self.alive <= self.wanted(), "more workers than wanted"
            assert not self.failed_starts or self.starting == 1, "more than one probe"
        wait = self.dispatcher.next_tick(self.now)
        if wait is not None:
            assert wait > 0, "a hot loop"
            self.timer = min(self.timer, self.now + wait)

    # --- events: tasks ---

    @precondition(lambda self: self.phase is Phase.OPEN)
    @rule(
        lane=st.integers(0, 2),
        priority=st.sampled_from((0, 0, 0, 1, -1)),
        size_bytes=st.sampled_from((0, 1, 15, 30)),
        patience=st.sampled_from((None, None, 0.0, 1.0, 20.0)),
    )
    def submit(self, lane, priority, size_bytes, patience):
        lane = self.lanes[lane % len(self.lanes)]
        start_by = None if patience is None else self.now + patience
        task = Task(lane, priority, size_bytes, start_by)
        is_served = self.idle_since and self.free(lane) > 0 and self.busy < self.capacity
        if not is_served and (limit := self.limit_hit(size_bytes)):
            with pytest.raises(Full) as caught:
                self.dispatcher.submit(task, self.now)
            assert caught.value.limit == limit
            assert task.state is TaskState.NEW
            return
        self.arrival[task] = len(self.arrival)
        self.accepted.append(task)
        self.floor = max(self.floor or 0, self.limits.min_workers)
        worker = self.dispatcher.submit(task, self.now)
        if is_served:
            del self.idle_since[worker]
            self.run(task, worker)
        else:
            assert worker is None
            self.waiting.append(task)
        self.settle()

    @precondition(lambda self: self.phase is Phase.OPEN)
    @rule(random=st.randoms(use_true_random=True), count=st.integers(1, 60))
    def traffic(self, random, count):
        """Plain days of a pool, which lead to the deep states that single events seldom reach."""
        for _ in range(count):
            self.come_up()
            match random.choices(("submit", "reply", "withdraw"), (7, 5, 2)):
                case ["submit"]:
                    priority, patience = random.choice((0, 0, 1)), random.choice((None, None, 0.0))
                    self.submit(random.randrange(3), priority, 1, patience)
                case ["reply"] if self.running:
                    self.reply(random.choice(list(self.running)))
                case ["withdraw"] if self.waiting:
                    self.cancel(random.choice(self.waiting))
            self.check()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data):
        ended = [task for task in self.accepted[:1] if self.endings[task]]
        self.cancel(data.draw(st.sampled_from([*self.waiting, *ended])))

    def cancel(self, task):
        is_waiting = task in self.waiting
        is_parked = task.state is TaskState.PARKED
        if is_waiting:
            self.waiting.remove(task)
            self.end(task)
        cancelled = self.dispatcher.cancel(task, StopReason.CANCEL, self.now)
        assert (cancelled is Cancelled.WITHDRAWN) is is_waiting
        if is_waiting:
            # What was withdrawn is dropped before it is most of what is kept.
            entries, stale = self.heap(task.lane if is_parked else None)
            assert stale <= STALE_WORTH_A_REBUILD or stale * 2 <= len(entries)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), recycle=st.booleans(), returned=st.booleans())
    def finish(self, data, recycle, returned):
        self.reply(data.draw(st.sampled_from(list(self.running))), recycle, returned)

    def reply(self, worker, recycle=False, returned=True):  # noqa: FBT002 - as they are drawn
        task = self.running.pop(worker)
        self.unwanted.discard(task)
        self.end(task)
        self.tasks_done[worker] += returned
        following = self.dispatcher.finish(worker, self.now, recycle=recycle, returned=returned)
        maximum = self.limits.max_tasks_per_worker
        is_used_up = maximum is not None and self.tasks_done[worker] >= maximum
        if recycle or is_used_up or worker in self.to_recycle or self.phase is Phase.CLOSED:
            assert following is None
            self.leave(worker)
        else:
            assert following is self.following(), "out of order, or not allowed to run"
            if following is None:
                self.rest(worker)
            else:
                self.waiting.remove(following)
                self.run(following, worker)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        reason=st.sampled_from((StopReason.CANCEL, StopReason.TIMEOUT, StopReason.KILL)),
        grace=st.sampled_from((0.0, 1.0)),
    )
    def stop(self, data, reason, grace):
        """A running task is not to go on."""
        worker = data.draw(st.sampled_from(list(self.running)))
        task = self.running[worker]
        cancelled = self.dispatcher.cancel(task, reason, self.now, grace=grace)
        if task in self.unwanted:
            assert cancelled is Cancelled.TOO_LATE
        elif not self.limits.can_stop:
            assert cancelled is Cancelled.UNSTOPPABLE
            self.unwanted.add(task)
        else:
            assert cancelled is Cancelled.STOPPED
            self.halt(worker, grace)
        self.settle()

    def halt(self, worker, grace):
        """The worker's task has ended, and the worker is told to stop."""
        task = self.running.pop(worker)
        self.end(task)
        self.leave(worker)
        self.can_recover.add(worker)
        if grace:
            self.lingering[worker] = task.lane

    @precondition(lambda self: self.phase is Phase.OPEN and self.idle_since)
    @rule(lane=st.integers(0, 2))
    def leave_unsent(self, lane):
        """The caller leaves before its task, which was assigned, has been sent."""
        task = Task(self.lanes[lane % len(self.lanes)])
        if not (self.free(task.lane) > 0 and self.busy < self.capacity):
            return
        self.arrival[task] = len(self.arrival)
        self.accepted.append(task)
        worker = self.dispatcher.submit(task, self.now)
        del self.idle_since[worker]
        self.run(task, worker, is_sent=False)
        self.settle()
        assert task.state is TaskState.ASSIGNED
        assert self.dispatcher.cancel(task, StopReason.CANCEL, self.now) is Cancelled.UNUSED
        self.end(self.running.pop(worker))
        if worker in self.to_recycle or self.phase is Phase.CLOSED:
            self.leave(worker)
        else:
            self.rest(worker)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def requeue(self, data):
        """The worker was dead before it received its task."""
        worker = data.draw(st.sampled_from(list(self.running)))
        task = self.running.pop(worker)
        self.unwanted.discard(task)
        self.waiting.append(task)
        self.leave(worker)
        self.die_early(worker)
        refuses = Refusal.START_FAILED if self.is_failing() else None
        if self.phase is Phase.CLOSED:
            refuses = Refusal.CLOSED
        if refuses is not None:
            self.floor = self.limits.min_workers
        self.dispatcher.requeue(task, self.now)
        self.settle(refuses=refuses)

    # --- events: workers ---

    @precondition(lambda self: self.starting)
    @rule()
    def ready(self):
        worker = Worker()
        self.starting -= 1
        self.failed_starts = self.same_failure = 0
        self.retry_at = self.hold_until
        if self.phase is Phase.CLOSED:
            self.leave(worker)
        else:
            self.rest(worker)
            self.floor = self.limits.min_workers
        self.dispatcher.ready(worker, self.now)
        self.settle()

    @precondition(lambda self: self.starting)
    @rule()
    def start_failed(self):
        self.starting -= 1
        # Of those that were on their way when one failed, the others belong to the same failure.
        if self.same_failure:
            self.same_failure -= 1
        else:
            self.same_failure = self.starting
            self.failed_starts += 1
        self.retry_at = max(self.retry_at, self.now + backoff(self.failed_starts))
        refuses = Refusal.START_FAILED if self.is_failing() else None
        if refuses is not None:
            self.floor = self.limits.min_workers
        self.dispatcher.start_failed(Worker(), self.now)
        self.settle(refuses=refuses)

    @precondition(lambda self: self.idle_since or self.running or self.leaving)
    @rule(data=st.data())
    def gone(self, data):
        workers = [*self.idle_since, *self.running, *self.leaving]
        worker = data.draw(st.sampled_from(workers))
        task = self.running.pop(worker, None)
        refuses = None
        if task is not None:
            self.unwanted.discard(task)
            self.end(task)
        if self.idle_since.pop(worker, None) is not None:
            self.die_early(worker)
            if self.is_failing():
                refuses = Refusal.START_FAILED
                self.floor = self.limits.min_workers
        self.leaving.pop(worker, None)
        self.lingering.pop(worker, None)
        self.can_recover.discard(worker)
        assert self.dispatcher.gone(worker, self.now) is task
        assert worker.state is WorkerState.GONE
        self.settle(refuses=refuses)

    @precondition(lambda self: self.can_recover)
    @rule(data=st.data())
    def recovered(self, data):
        workers = [worker for worker in self.leaving if worker in self.can_recover]
        worker = data.draw(st.sampled_from(workers))
        if self.phase is Phase.CLOSED:
            self.leaving[worker] = False  # its end was called off, so it is told again
        else:
            del self.leaving[worker]
            self.lingering.pop(worker, None)
            self.rest(worker)
            self.floor = self.limits.min_workers
            most = self.max_workers + self.limits.spare_workers
            if self.following() is None and self.alive > most:
                # Another was started in its place.
                del self.idle_since[worker]
                self.leave(worker)
        self.can_recover.discard(worker)
        self.dispatcher.recovered(worker, self.now)
        self.settle()

    @precondition(lambda self: self.idle_since or self.running or self.leaving)
    @rule(data=st.data())
    def recycle(self, data):
        """By hand: at once if idle, after its task if busy."""
        workers = [*self.idle_since, *self.running, *self.leaving]
        worker = data.draw(st.sampled_from(workers))
        alive = self.alive
        if self.idle_since.pop(worker, None) is not None:
            self.leave(worker)
            self.floor = max(self.floor or 0, self.limits.min_workers, alive)
        elif worker in self.running:
            self.to_recycle.add(worker)
        is_leaving = worker in self.leaving and alive == self.alive
        assert self.dispatcher.recycle(worker, self.now) is not is_leaving
        self.settle()

    # --- events: the pool and time ---

    @precondition(lambda self: self.phase is not Phase.CLOSED)
    @rule(what=st.sampled_from(("open",) * 18 + ("close", "kill")))
    def pool(self, what):
        if what == "open":
            self.phase = Phase.OPEN  # a drain is taken back
            if not self.idle_since and not self.running:
                self.floor = max(self.limits.min_workers, 1)
            self.dispatcher.open(self.now)
            self.settle()
        elif what == "close":
            self.phase = Phase.DRAINING
            self.dispatcher.close(self.now)
            self.settle()
        else:
            self.close_now()

    @rule(count=st.integers(1, 5), max_queued=st.sampled_from((None, 1000, 0, 1, 3)))
    def set_limits(self, count, max_queued):
        self.max_workers = count
        self.limits = replace(self.limits, max_workers=count, max_queued=max_queued)
        self.allowed = max(self.allowed, self.busy)
        self.floor = max(self.floor or 0, self.limits.min_workers)
        idle = list(self.idle_since)  # in the order in which they came to rest
        self.dispatcher.set_limits(count, max_queued, self.now)
        if self.phase is not Phase.CLOSED:
            while idle and self.alive > count + self.limits.spare_workers:
                worker = idle.pop(0)
                assert worker.state is WorkerState.LEAVING
                del self.idle_since[worker]
                self.leave(worker)
        self.settle()

    def close_now(self):
        self.phase = Phase.CLOSED
        for worker in self.idle_since:
            self.leave(worker)
        self.idle_since.clear()
        self.dispatcher.close(self.now, kill=True)
        self.settle(refuses=Refusal.CLOSED)

    def come_up(self):
        while self.starting:
            self.ready()

    @rule(seconds=st.sampled_from((0.01, 0.1, 1.0, 10.0, 45.0)))
    def advance(self, seconds):
        """Let time pass, and tick when the dispatcher asked for it, as the shell does."""
        until = self.now + seconds
        ticks = 0
        while self.timer <= until:
            self.now, self.timer = max(self.now, self.timer), math.inf
            self.tick()
            ticks += 1
        self.now = until
        # One for each worker and one for a start that is due, else one in each window.
        windows = 0 if self.limits.idle_timeout is None else seconds / self.limits.idle_timeout
        assert ticks <= 2 + self.alive + 2 * windows, "a hot loop"

    def tick(self):
        limits, timeout = self.limits, self.limits.idle_timeout
        before = dict(self.idle_since)
        alive = self.alive
        peak = min(self.peak, self.max_workers)
        keep = max(
            min(limits.min_workers, self.max_workers), peak + limits.spare_workers if peak else 0
        )
        self.peak = self.busy
        self.dispatcher.tick(self.now)
        retired = [worker for worker in before if worker.state is WorkerState.LEAVING]
        for worker in retired:
            assert self.phase is Phase.OPEN
            assert before[worker] + timeout <= self.now, "retired before its time"
            del self.idle_since[worker]
            self.leave(worker)
            alive -= 1
            assert alive >= keep, "retired what the recent peak needed"
        self.settle()

    @precondition(lambda self: self.limits.idle_timeout is not None and self.idle_since)
    @rule()
    def quiet(self):
        """After two windows without an event no idle worker is left that nothing needs."""
        self.advance(3 * self.limits.idle_timeout)
        if self.idle_since and self.phase is Phase.OPEN:
            needed = self.busy + self.limits.spare_workers if self.busy else 0
            assert self.alive <= max(needed, self.limits.min_workers)

    # --- what holds after each event ---

    @invariant()
    def check(self):
        self.counters_are_what_is_counted()
        self.task_is_in_one_place()
        self.withdrawn_tasks_are_counted()
        self.worker_is_in_one_state()
        self.limits_hold()
        self.no_worker_idles_beside_a_runnable_task()
        self.pool_grows_to_what_is_wanted()
        self.nothing_is_accepted_after_close()
        self.nothing_runs_anew_after_kill()

    def counters_are_what_is_counted(self):
        dispatcher = self.dispatcher
        assert dispatcher.phase is self.phase
        assert dispatcher.queue.count == len(self.waiting)
        assert dispatcher.queue.size_bytes == sum(task.size_bytes for task in self.waiting)
        assert dispatcher.queue.runnable == self.runnable()
        assert dispatcher.roster.busy == self.busy
        assert dispatcher.growth.starting == self.starting
        assert dispatcher.roster.leaving == len(self.leaving)
        assert Counter(dispatcher.roster.idle) == Counter(dict.fromkeys(self.idle_since, 1))
        assert dispatcher.roster.capacity == self.capacity
        assert dispatcher.is_drained == (
            not self.waiting and not self.running and not self.lingering
        )
        assert dispatcher.is_failing == self.is_failing()
        assert dispatcher.estimates.retry_after(self.now, self.running.values()) >= 0

    def task_is_in_one_place(self):
        ready = [task for _, _, task in self.dispatcher.queue.heap]
        parked = [task for lane in self.lanes for _, _, task in lane.parked]
        assert Counter(
            [task for task in ready if task.state is TaskState.QUEUED]
            + [task for task in parked if task.state is TaskState.PARKED]
        ) == Counter(self.waiting)
        running = list(self.running.values())
        for task in running:
            unwanted = TaskState.UNWANTED if task in self.unwanted else TaskState.RUNNING
            assert task.state is unwanted
        assert all(worker.task is task for worker, task in self.running.items())
        assert all(task.worker is worker for worker, task in self.running.items())
        for task in self.accepted:
            assert (task in self.waiting) + (task in running) + self.endings[task] == 1
            if self.endings[task]:
                assert task.state is TaskState.DONE

    def heap(self, lane):
        """Return the heap of a lane, or of all that is ready, and how much of it is stale."""
        if lane is None:
            return self.dispatcher.queue.heap, self.dispatcher.queue.stale
        return lane.parked, lane.stale

    def withdrawn_tasks_are_counted(self):
        for entries, stale in map(self.heap, (None, *self.lanes)):
            assert sum(task.state is TaskState.DONE for _, _, task in entries) == stale

    def worker_is_in_one_state(self):
        assert all(worker.state is WorkerState.IDLE for worker in self.idle_since)
        assert all(worker.state is WorkerState.BUSY for worker in self.running)
        assert all(worker.state is WorkerState.LEAVING for worker in self.leaving)
        assert all(worker.task is None for worker in [*self.idle_since, *self.leaving])
        assert all(self.leaving.values()), "a worker that leaves was not told to"

    def limits_hold(self):
        # What ran when the capacity was made smaller goes on.
        assert self.busy <= max(self.capacity, self.allowed)
        self.allowed = min(self.allowed, self.busy)
        assert all(self.free(lane) >= 0 for lane in self.lanes)

    def no_worker_idles_beside_a_runnable_task(self):
        assert not self.idle_since or not self.runnable() or self.busy >= self.capacity

    def pool_grows_to_what_is_wanted(self):
        is_probing = self.failed_starts and self.starting
        if self.now >= self.retry_at and not is_probing:
            assert self.alive >= self.wanted()

    def nothing_is_accepted_after_close(self):
        if self.phase is not Phase.OPEN:
            with pytest.raises(Closed):
                self.dispatcher.submit(Task(self.lanes[0]), self.now)

    def nothing_runs_anew_after_kill(self):
        if self.phase is Phase.CLOSED:
            assert not self.waiting
            assert not self.idle_since

    def teardown(self):
        """End it all: every task has ended once, every worker that was started is gone."""
        self.patch.stop()
        if not hasattr(self, "dispatcher"):
            return
        self.close_now()
        for worker, task in list(self.running.items()):
            if self.limits.can_stop:
                self.dispatcher.cancel(task, StopReason.CLOSE_UNDER_LOAD, self.now)
                self.halt(worker, 0.0)
                self.settle()
            else:
                self.reply(worker)
        while self.starting:
            self.ready()
        for worker in list(self.leaving):
            assert self.leaving.pop(worker)
            self.lingering.pop(worker, None)
            self.dispatcher.gone(worker, self.now)
            self.settle()
        self.counters_are_what_is_counted()
        assert not self.alive
        assert all(self.endings[task] == 1 for task in self.accepted)
        assert all(task.state is TaskState.DONE for task in self.accepted)
        assert all(not lane.running and not lane.ready for lane in self.lanes)


TestDispatcherMachine = DispatcherMachine.TestCase
TestDispatcherMachine.settings = settings(
    max_examples=200,
    stateful_step_count=30,
    phases=set(Phases) - {Phases.explain},
    report_multiple_bugs=False,
)

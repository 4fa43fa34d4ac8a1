"""The dispatcher by example: one decision each. For any history: test_dispatcher_machine.py."""

import pytest

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

START = StartWorker()


def dispatcher(workers=0, **limits):
    """Return a dispatcher with idle workers, and nothing left to carry out."""
    limits = {"spare_workers": 0, "idle_timeout": None} | limits
    result = Dispatcher(Limits(**limits))
    for _ in range(workers):
        ready(result)
    take(result)
    return result


def ready(dispatcher, now=0.0):
    """Report one worker ready, asked for or not."""
    worker = Worker()
    dispatcher.growth.starting = max(dispatcher.growth.starting, 1)
    dispatcher.ready(worker, now)
    return worker


def fail_start(dispatcher, now=0.0):
    """Report that one worker did not come up."""
    dispatcher.start_failed(Worker(), now)
    return take(dispatcher)


def take(dispatcher):
    """Return what is to be carried out, and send what was assigned, as the shell does."""
    actions, dispatcher.actions = dispatcher.actions, []
    for task in assigned(actions):
        task.state = TaskState.RUNNING
    return actions


def submit(dispatcher, *, lane=None, now=0.0, **options):
    """Submit one task, of a function of its own unless `lane` is given."""
    task = Task(lane or Lane(), **options)
    if dispatcher.submit(task, now) is not None:
        task.state = TaskState.RUNNING  # it is sent at once
    return task


def assigned(actions):
    """Return the tasks that were assigned, in order."""
    return [action.task for action in actions if isinstance(action, Assign)]


def has_worker(task):
    """Return whether a task was given to a worker, whether it has been sent to it or not."""
    return task.state in (TaskState.ASSIGNED, TaskState.RUNNING)


def served(dispatcher, worker, count):
    """Finish what the worker has, `count` times; return what it was given next each time."""
    return [dispatcher.finish(worker, 0.0) for _ in range(count)]


class TestAdmission:
    def test_idle_worker_takes_newcomer_at_once(self):
        """A task that finds an idle worker is assigned by `submit` itself, without an action."""
        pool = dispatcher(1)
        task = Task(Lane())
        worker = pool.submit(task, 5.0)
        assert worker is not None
        assert (worker.task, task.worker) == (task, worker)
        assert (task.queued_at, task.started_at) == (5.0, 5.0)
        assert pool.actions == []

    def test_warmest_worker_is_used_first(self):
        """The worker that rested last is used next, so that the coldest one can retire."""
        pool = dispatcher(max_workers=2)
        ready(pool)
        warm = ready(pool, 1.0)
        assert submit(pool, now=2.0).worker is warm

    def test_queue_is_limited_by_count(self):
        """With every worker busy, `max_queued` tasks wait and the next one is refused."""
        pool = dispatcher(1, max_queued=2)
        submit(pool)
        submit(pool)
        submit(pool)
        with pytest.raises(Full, match="max_queued"):
            submit(pool)
        assert pool.queue.count == 2

    def test_queue_is_limited_by_bytes(self):
        """A task whose size would pass `max_queued_bytes` is refused; a smaller one is not."""
        pool = dispatcher(1, max_queued_bytes=10)
        submit(pool)
        submit(pool, size_bytes=6)
        with pytest.raises(Full, match="max_queued_bytes"):
            submit(pool, size_bytes=5)
        submit(pool, size_bytes=4)
        assert pool.queue.size_bytes == 10

    def test_task_larger_than_the_queue_may_wait_alone(self):
        """A size above `max_queued_bytes` is accepted by an empty queue, or it could never run."""
        pool = dispatcher(1, max_queued_bytes=10)
        submit(pool)
        submit(pool, size_bytes=50)
        with pytest.raises(Full, match="max_queued_bytes"):
            submit(pool)

    def test_refused_task_leaves_no_trace(self):
        """A refused task changes no counter and may be submitted again."""
        pool = dispatcher(1, max_queued=0)
        first = submit(pool)
        refused = Task(Lane(), size_bytes=7)
        with pytest.raises(Full):
            pool.submit(refused, 0.0)
        assert (refused.state, pool.queue.count, pool.queue.size_bytes) == (TaskState.NEW, 0, 0)
        pool.finish(first.worker, 1.0)
        assert pool.submit(refused, 1.0) is not None

    def test_pool_without_queue_takes_what_its_workers_can(self):
        """`max_queued=0` accepts one task for each worker that may start, and no more."""
        pool = dispatcher(max_workers=2, max_queued=0)
        submit(pool)
        submit(pool)
        with pytest.raises(Full):
            submit(pool)

    @pytest.mark.parametrize("limits", [{"max_queued": 1}, {"max_queued_bytes": 10}])
    def test_full_lane_does_not_refuse_others(self, limits):
        """A queue full of one function's tasks refuses no task that an idle worker can take."""
        pool = dispatcher(2, max_workers=2, **limits)
        lane = Lane(1)
        for _ in range(3):  # One runs; the others wait, one of them in place of a free worker.
            submit(pool, lane=lane, size_bytes=5)
        with pytest.raises(Full):
            submit(pool, lane=lane, size_bytes=10)
        assert has_worker(submit(pool, size_bytes=10))

    def test_nothing_is_accepted_after_close(self):
        """A pool that drains refuses newcomers, idle workers or not."""
        pool = dispatcher(1)
        pool.close(0.0)
        with pytest.raises(Closed):
            submit(pool)


class TestOrder:
    def test_equal_tasks_run_in_order_of_arrival(self):
        """Tasks of one priority are assigned first come, first served."""
        pool = dispatcher(1)
        first, *others = [submit(pool) for _ in range(4)]
        assert served(pool, first.worker, 3) == others

    def test_higher_priority_overtakes(self):
        """A larger priority runs before earlier tasks of a smaller one."""
        pool = dispatcher(1)
        running = submit(pool)
        low, high, normal = [submit(pool, priority=priority) for priority in (-1, 1, 0)]
        assert served(pool, running.worker, 3) == [high, normal, low]

    def test_full_lane_lets_others_pass(self):
        """A task of a function at its max_concurrency waits while later ones of others run."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        first, second = [submit(pool, lane=lane) for _ in range(2)]
        other = submit(pool)
        assert has_worker(other)
        assert second.state is TaskState.QUEUED
        pool.finish(first.worker, 1.0)
        assert has_worker(second)

    def test_parked_task_returns_to_its_place(self):
        """A task that stepped aside for its full lane runs before all that came after it."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        blocking = submit(pool, lane=lane)
        other = submit(pool)
        parked = submit(pool, lane=lane)
        later = [submit(pool) for _ in range(3)]
        pool.finish(other.worker, 1.0)
        assert parked.state is TaskState.PARKED
        assert has_worker(later[0])
        # The lane is free now, and the worker that freed it takes the task that waited longest.
        assert pool.finish(blocking.worker, 2.0) is parked

    def test_each_end_unparks_one(self):
        """However the running task of a lane ends, the next one of the lane follows."""
        pool = dispatcher(4, max_workers=4)
        lane = Lane(1)
        tasks = [submit(pool, lane=lane) for _ in range(4)]
        pool.finish(submit(pool).worker, 0.0)
        pool.cancel(tasks[0], StopReason.CANCEL, 0.0)
        pool.gone(tasks[1].worker, 0.0)
        pool.finish(tasks[2].worker, 0.0, recycle=True)
        assert has_worker(tasks[3])
        assert lane.running == 1

    def test_parked_tasks_keep_their_order(self):
        """Tasks that stepped aside together come back by priority, then by arrival."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        running, other = submit(pool, lane=lane), submit(pool)
        low, first, second, high = [submit(pool, lane=lane, priority=p) for p in (-1, 0, 0, 1)]
        last = submit(pool, priority=-2)
        assert pool.finish(other.worker, 0.0) is last
        assert low.state is first.state is second.state is high.state is TaskState.PARKED
        assert served(pool, running.worker, 4) == [high, first, second, low]

    def test_withdrawn_task_gives_its_place_to_its_lane(self):
        """When the one task of a lane that may run next is withdrawn, a parked one replaces it."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        running, other = submit(pool, lane=lane), submit(pool)
        second, third = submit(pool, lane=lane), submit(pool, lane=lane)
        submit(pool)
        pool.finish(other.worker, 0.0)
        urgent = submit(pool, priority=1)
        assert pool.finish(running.worker, 0.0) is urgent
        assert pool.cancel(second, StopReason.CANCEL, 0.0) is Cancelled.WITHDRAWN
        assert third.state is TaskState.QUEUED
        assert pool.finish(urgent.worker, 0.0) is third

    def test_withdrawal_of_a_parked_lane_mate_holds_nobody_up(self):
        """A lane whose waiting tasks were withdrawn in part goes on with the next that waits."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        tasks = [submit(pool, lane=lane) for _ in range(4)]
        submit(pool)
        submit(pool)
        for task in tasks[1:3]:
            assert pool.cancel(task, StopReason.CANCEL, 0.0) is Cancelled.WITHDRAWN
        assert pool.finish(tasks[0].worker, 0.0) is tasks[3]

    def test_max_workers_bounds_what_runs(self):
        """A spare worker stays idle when `max_workers` are busy."""
        pool = dispatcher(2, max_workers=1, spare_workers=1)
        submit(pool)
        assert submit(pool).state is TaskState.QUEUED
        assert (pool.roster.busy, len(pool.roster.idle)) == (1, 1)

    def test_worker_that_comes_late_does_not_exceed_max_workers(self):
        """One that becomes ready or recovers beside `max_workers` busy ones is idle, or retires."""
        pool = dispatcher(1, max_workers=1, spare_workers=1)
        abandoned, running, waiting = submit(pool), submit(pool), submit(pool)
        pool.cancel(abandoned, StopReason.CANCEL, 0.0)
        ready(pool)
        assert has_worker(running)
        pool.recovered(abandoned.worker, 1.0)
        ready(pool)
        assert (pool.roster.busy, len(pool.roster.idle), waiting.state) == (1, 1, TaskState.QUEUED)

    def test_spare_worker_steps_in_for_one_that_was_stopped(self):
        """The spare takes the next task at once when a busy worker has to be replaced."""
        pool = dispatcher(2, max_workers=1, spare_workers=1)
        running, waiting = submit(pool), submit(pool)
        pool.cancel(running, StopReason.TIMEOUT, 0.0)
        actions = take(pool)
        assert assigned(actions) == [waiting]
        assert START in actions


class TestDeadline:
    def test_expired_task_is_never_assigned(self):
        """A task whose `start_by` has come is refused at its turn, and the next one runs."""
        pool = dispatcher(1)
        running = submit(pool)
        expired = submit(pool, start_by=5.0)
        following = submit(pool, start_by=5.1)
        assert pool.finish(running.worker, 5.0) is following
        assert take(pool) == [Refuse(expired, Refusal.TOO_LATE)]
        assert expired.state is TaskState.DONE

    def test_worker_rests_if_all_that_waited_expired(self):
        """With nothing left that may run, the worker is idle and the queue is empty."""
        pool = dispatcher(1)
        running = submit(pool)
        for _ in range(3):
            submit(pool, start_by=5.0)
        assert pool.finish(running.worker, 6.0) is None
        assert (len(pool.roster.idle), pool.queue.count, pool.queue.runnable) == (1, 0, 0)
        assert len(take(pool)) == 3

    def test_expired_task_gives_its_place_to_its_lane(self):
        """When a task of a limited lane expires, the parked one behind it runs."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        running = submit(pool, lane=lane)
        other = submit(pool)
        expired = submit(pool, lane=lane, start_by=1.0)
        following = submit(pool, lane=lane)
        submit(pool)
        pool.finish(other.worker, 0.5)
        assert expired.state is TaskState.PARKED
        assert pool.finish(running.worker, 2.0) is following

    def test_zero_patience_takes_an_idle_worker(self):
        """A task that must start now does start now if a worker is idle."""
        pool = dispatcher(1)
        assert has_worker(submit(pool, start_by=0.0))


class TestWithdrawal:
    def test_withdrawn_task_never_runs(self):
        """A caller that leaves takes its task out of the queue."""
        pool = dispatcher(1)
        running, gone, stays = [submit(pool, size_bytes=3) for _ in range(3)]
        assert pool.cancel(gone, StopReason.CANCEL, 0.0) is Cancelled.WITHDRAWN
        assert (pool.queue.count, pool.queue.size_bytes) == (1, 3)
        assert pool.finish(running.worker, 1.0) is stays
        assert pool.finish(running.worker, 2.0) is None

    def test_task_that_has_ended_cannot_be_cancelled(self):
        """Cancelling a task that has ended, or was never admitted, changes nothing and says so."""
        pool = dispatcher(1)
        task = submit(pool)
        pool.finish(task.worker, 1.0)
        assert pool.cancel(task, StopReason.CANCEL, 1.0) is Cancelled.TOO_LATE
        assert pool.cancel(Task(Lane()), StopReason.CANCEL, 1.0) is Cancelled.TOO_LATE
        assert take(pool) == []
        assert len(pool.roster.idle) == 1

    def test_withdrawn_tasks_do_not_pile_up(self):
        """Tasks that come and time out behind a busy worker do not add up in memory."""
        pool = dispatcher(1)
        running = submit(pool)
        stays = submit(pool)
        for _ in range(1000):
            assert pool.cancel(submit(pool), StopReason.CANCEL, 0.0) is Cancelled.WITHDRAWN
        assert len(pool.queue.heap) < 150
        assert pool.finish(running.worker, 1.0) is stays

    def test_withdrawn_tasks_do_not_pile_up_behind_a_full_lane(self):
        """Tasks that come and time out behind a long call of their lane do not add up in memory."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        running = submit(pool, lane=lane)
        other = submit(pool)
        stays = submit(pool, lane=lane)
        for _ in range(1000):
            parked = submit(pool, lane=lane)
            following = submit(pool)
            assert pool.finish(other.worker, 0.0) is following
            other = following
            assert parked.state is TaskState.PARKED
            assert pool.cancel(parked, StopReason.CANCEL, 0.0) is Cancelled.WITHDRAWN
        assert len(lane.parked) < 150
        assert pool.finish(running.worker, 1.0) is stays


class TestRequeue:
    def test_unreceived_task_keeps_its_place(self):
        """A task whose worker was dead runs again before all that came after it."""
        pool = dispatcher(1)
        first, second = submit(pool), submit(pool)
        first.worker.tasks_done = 1
        pool.requeue(first, 0.0)
        assert take(pool)[-1] == START
        worker = ready(pool)
        assert assigned(take(pool)) == [first]
        assert pool.finish(worker, 1.0) is second

    def test_unreceived_task_goes_to_the_spare_worker(self):
        """An idle worker takes the very task that was put back, not one that waits behind it."""
        pool = dispatcher(2, max_workers=1, spare_workers=1)
        first = submit(pool)
        submit(pool)
        pool.requeue(first, 0.0)
        assert assigned(take(pool)) == [first]

    def test_unreceived_task_goes_before_its_lane(self):
        """The free place of a limited lane goes to the task that was put back."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        first, second = submit(pool, lane=lane), submit(pool, lane=lane)
        pool.requeue(first, 0.0)
        assert assigned(take(pool)) == [first]
        assert not has_worker(second)

    def test_dead_worker_counts_as_leaving_until_it_is_gone(self):
        """The worker that did not receive its task takes no other one."""
        pool = dispatcher(1)
        task = submit(pool)
        dead = task.worker
        pool.requeue(task, 0.0)
        assert take(pool)[0] == StopWorker(dead, StopReason.DEAD)
        assert (dead.state, dead.task, pool.roster.leaving) == (WorkerState.LEAVING, None, 1)
        assert pool.gone(dead, 0.0) is None
        assert pool.roster.leaving == 0

    def test_closed_pool_refuses_what_comes_back(self):
        """After a kill a task that was not received ends, as one that did not run."""
        pool = dispatcher(1)
        task = submit(pool)
        pool.close(0.0, kill=True)
        pool.requeue(task, 0.0)
        assert take(pool)[-1] == Refuse(task, Refusal.CLOSED)
        assert task.state is TaskState.DONE


class TestGrowth:
    def test_waiting_tasks_start_workers(self):
        """One worker starts for each task that could run, up to `max_workers`, and the spare."""
        pool = dispatcher(max_workers=2, spare_workers=1)
        submit(pool)
        assert take(pool) == [START, START]
        submit(pool)
        assert take(pool) == [START]
        submit(pool)
        assert take(pool) == []

    def test_full_lane_starts_no_workers(self):
        """Tasks that could not run anyway are no reason for a worker."""
        pool = dispatcher(max_workers=4)
        lane = Lane(1)
        for _ in range(4):
            submit(pool, lane=lane)
        assert take(pool) == [START]

    def test_open_warms_at_least_one(self):
        """Opening starts `min_workers`, and one where that is zero."""
        pool = dispatcher()
        pool.open(0.0)
        assert take(pool) == [START]
        pool = dispatcher(min_workers=3, max_workers=4)
        pool.open(0.0)
        assert take(pool) == [START] * 3

    def test_open_does_nothing_to_a_warm_pool(self):
        """Opening a pool that has a worker starts none, now or when that one has retired."""
        pool = dispatcher(1, idle_timeout=10.0)
        worker = pool.roster.idle[0]
        pool.open(0.0)
        assert take(pool) == []
        pool.tick(20.0)
        assert take(pool) == [StopWorker(worker, StopReason.IDLE)]

    def test_open_tries_again(self):
        """A first start that fails is tried again although no task waits, until hope is lost."""
        pool = dispatcher()
        pool.open(0.0)
        take(pool)
        now = 0.0
        for _ in range(2):
            assert fail_start(pool, now) == []
            now += pool.next_tick(now)
            pool.tick(now)
            assert take(pool) == [START]
        assert not pool.is_failing
        fail_start(pool, now)
        assert pool.is_failing
        pool.tick(now + 60.0)
        assert take(pool) == []

    @pytest.mark.parametrize("event", ["gone", "recycle", "abandon"])
    def test_min_workers_are_restored(self, event):
        """A worker that ends is replaced if fewer than `min_workers` would be left."""
        pool = dispatcher(2, min_workers=2, max_workers=2)
        task = submit(pool)
        match event:
            case "gone":
                assert pool.gone(task.worker, 0.0) is task
            case "recycle":
                pool.finish(task.worker, 0.0, recycle=True)
            case "abandon":
                pool.cancel(task, StopReason.CANCEL, 0.0)
        assert take(pool)[-1] == START

    def test_pool_that_drains_still_serves_what_waits(self):
        """While draining, workers start for the waiting tasks, but no spare and no minimum."""
        pool = dispatcher(1, min_workers=1, spare_workers=1)
        running, waiting = submit(pool), submit(pool)
        pool.close(0.0)
        pool.gone(running.worker, 0.0)
        assert take(pool).count(START) == 1
        ready(pool)
        assert has_worker(waiting)
        pool.gone(waiting.worker, 0.0)
        assert START not in take(pool)
        assert pool.is_drained


class TestRecycling:
    def test_worker_is_replaced_after_its_last_task(self):
        """A worker that has done `max_tasks_per_worker` leaves, and its successor starts."""
        pool = dispatcher(1, max_tasks_per_worker=2)
        first, second, third = [submit(pool) for _ in range(3)]
        worker = first.worker
        assert pool.finish(worker, 0.0) is second
        take(pool)
        assert pool.finish(worker, 0.0) is None
        assert take(pool) == [StopWorker(worker, StopReason.RECYCLE), START]
        assert (worker.state, third.state) == (WorkerState.LEAVING, TaskState.QUEUED)

    def test_task_that_never_ran_does_not_wear_a_worker_out(self):
        """`returned=False` counts for nothing: no task done, no run time measured."""
        pool = dispatcher(1, max_tasks_per_worker=1)
        task = submit(pool)
        assert pool.finish(task.worker, 9.0, returned=False) is None
        assert (task.worker.tasks_done, pool.estimates.run_time.mean) == (0, 0.0)
        assert pool.roster.idle == [task.worker]


class TestCancel:
    def test_task_that_was_not_sent_frees_its_worker(self):
        """A caller that leaves before its task was sent costs the worker nothing."""
        pool = dispatcher(1)
        unsent = Task(Lane())
        worker = pool.submit(unsent, 0.0)
        following = submit(pool)
        assert pool.cancel(unsent, StopReason.CANCEL, 0.0) is Cancelled.UNUSED
        assert unsent.state is TaskState.DONE
        assert take(pool) == [Assign(following, worker)]
        assert worker.tasks_done == 0

    def test_task_that_is_being_sent_is_stopped(self):
        """Only its caller knows that an assigned task is not being sent on another thread."""
        pool = dispatcher(1)
        unsent = Task(Lane())
        worker = pool.submit(unsent, 0.0)
        assert pool.cancel(unsent, StopReason.KILL, 0.0) is Cancelled.STOPPED
        assert take(pool) == [StopWorker(worker, StopReason.KILL)]

    def test_task_that_cannot_be_stopped_goes_on(self):
        """On a worker that cannot be stopped it holds its place until it ends, for nobody."""
        pool = dispatcher(1, can_stop=False)
        running, waiting = submit(pool), submit(pool)
        assert pool.cancel(running, StopReason.TIMEOUT, 1.0) is Cancelled.UNSTOPPABLE
        assert (running.state, pool.roster.busy) == (TaskState.UNWANTED, 1)
        assert pool.cancel(running, StopReason.CANCEL, 1.0) is Cancelled.TOO_LATE
        assert take(pool) == []
        assert pool.finish(running.worker, 2.0) is waiting

    def test_grace_travels_with_the_action(self):
        """The seconds that a task has to end by itself are its own, and of no other action."""
        pool = dispatcher(2, max_workers=2)
        asked, stopped = submit(pool), submit(pool)
        workers = asked.worker, stopped.worker
        pool.cancel(asked, StopReason.CANCEL, 0.0, grace=2.5)
        pool.cancel(stopped, StopReason.CANCEL, 0.0)
        assert [action for action in take(pool) if isinstance(action, StopWorker)] == [
            StopWorker(workers[0], StopReason.CANCEL, 2.5),
            StopWorker(workers[1], StopReason.CANCEL, 0.0),
        ]

    def test_transitions_are_told(self):
        """The story says what was cancelled, on which worker, and why."""
        pool = dispatcher(1)
        task = submit(pool, lane=Lane(name="work:report"))
        pool.cancel(task, StopReason.TIMEOUT, 7.0)
        told = pool.story.transitions()
        assert [(each.event, each.function, each.detail) for each in told if each.at == 7.0] == [
            ("cancel", "work:report", "timeout"),
            ("stop", "", "timeout"),
        ]


class TestCapacity:
    def test_smaller_capacity_lets_running_tasks_end(self):
        """Fewer workers may be busy: what runs goes on, and nothing is started beside it."""
        pool = dispatcher(2, max_workers=2)
        first, second = submit(pool), submit(pool)
        waiting = submit(pool)
        pool.set_limits(1, None, 0.0)
        assert take(pool) == []
        assert pool.finish(first.worker, 1.0) is None
        assert waiting.state is TaskState.QUEUED
        assert pool.finish(second.worker, 2.0) is waiting

    def test_smaller_capacity_ends_idle_workers(self):
        """Idle workers that may never be needed again leave, the coldest first."""
        pool = dispatcher(max_workers=3)
        cold, _, _ = ready(pool), ready(pool, 1.0), ready(pool, 2.0)
        take(pool)
        pool.set_limits(2, None, 3.0)
        assert take(pool) == [StopWorker(cold, StopReason.IDLE)]

    def test_larger_capacity_serves_what_waits(self):
        """More workers may be busy: they are started for the tasks that wait."""
        pool = dispatcher(1)
        submit(pool)
        submit(pool)
        assert take(pool) == []
        pool.set_limits(2, None, 0.0)
        assert take(pool) == [START]


class TestStop:
    def test_abandoned_task_ends_at_once(self):
        """The task ends before its worker does, and its caller need not wait for that."""
        pool = dispatcher(1)
        task = submit(pool)
        worker = task.worker
        pool.cancel(worker.task, StopReason.TIMEOUT, 0.0)
        assert (task.state, worker.state) == (TaskState.DONE, WorkerState.LEAVING)
        assert take(pool) == [StopWorker(worker, StopReason.TIMEOUT)]
        assert (pool.roster.busy, pool.roster.leaving) == (0, 1)

    def test_recovered_worker_is_used_again(self):
        """A worker that ended its abandoned task in time takes the next one."""
        pool = dispatcher(1)
        running, waiting = submit(pool), submit(pool)
        pool.cancel(running, StopReason.CANCEL, 0.0)
        take(pool)
        pool.recovered(running.worker, 1.0)
        assert assigned(take(pool)) == [waiting]
        assert pool.roster.leaving == 0

    def test_recovered_worker_that_was_replaced_retires(self):
        """However many tasks are given up and end by themselves, there are no more workers."""
        pool = dispatcher(1)
        running, _ = submit(pool), submit(pool)
        pool.cancel(running, StopReason.CANCEL, 0.0)
        take(pool)
        ready(pool)  # and takes the task that waits
        take(pool)
        pool.recovered(running.worker, 1.0)
        assert take(pool) == [StopWorker(running.worker, StopReason.IDLE)]
        assert (pool.roster.busy, pool.roster.leaving, pool.roster.idle) == (1, 1, [])

    def test_recovery_that_comes_too_late_is_ignored(self):
        """A worker that has ended cannot recover."""
        pool = dispatcher(1)
        worker = submit(pool).worker
        pool.cancel(worker.task, StopReason.CANCEL, 0.0)
        pool.gone(worker, 1.0)
        pool.recovered(worker, 2.0)
        assert (worker.state, pool.roster.idle) == (WorkerState.GONE, [])

    def test_closed_pool_stops_a_recovered_worker(self):
        """After a kill, a worker that recovers is told to end, and stays one that leaves."""
        pool = dispatcher(1)
        worker = submit(pool).worker
        pool.cancel(worker.task, StopReason.CANCEL, 0.0)
        pool.close(0.0, kill=True)
        take(pool)
        pool.recovered(worker, 1.0)
        assert take(pool) == [StopWorker(worker, StopReason.CLOSE)]
        assert (pool.roster.leaving, pool.roster.idle) == (1, [])


class TestBackOff:
    def test_failed_starts_back_off_to_half_a_minute(self):
        """Each failure in a row doubles the wait from 0.1 s, up to 30 s, with one probe each."""
        pool = dispatcher(min_workers=4, max_workers=4)
        pool.open(0.0)
        for _ in range(3):
            fail_start(pool)
        # All four were on their way at once: together they are one failure.
        now, waits = 0.0, []
        for _ in range(13):
            assert fail_start(pool, now) == []
            waits.append(pool.next_tick(now))
            pool.tick(now + waits[-1] * 0.99)
            assert take(pool) == []
            now += waits[-1]
            pool.tick(now)
            assert take(pool) == [START]
        assert waits == pytest.approx(
            [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 30]
        )

    def test_retry_that_is_overdue_is_due_at_once(self):
        """Who asks late, on a machine that is busy, is not told to wait for something else."""
        pool = dispatcher(max_workers=1, spare_workers=1)
        submit(pool)
        take(pool)
        fail_start(pool, 0.0)
        fail_start(pool, 0.0)
        assert pool.next_tick(5.0) < 0.01
        pool.tick(5.0)
        assert take(pool) == [START]

    def test_a_worker_that_comes_up_ends_the_back_off(self):
        """After one success the missing workers start at once, and the next failure waits 0.1 s."""
        pool = dispatcher(min_workers=3, max_workers=3)
        pool.open(0.0)
        take(pool)
        for _ in range(3):
            fail_start(pool)
        pool.tick(10.0)
        take(pool)
        ready(pool, 10.0)
        assert take(pool) == [START, START]
        fail_start(pool, 11.0)
        assert pool.next_tick(11.0) == pytest.approx(0.1)

    def test_third_failure_refuses_what_waits(self):
        """With nothing alive and three failures in a row, nobody is kept waiting."""
        pool = dispatcher()
        lane = Lane(1)
        waiting = [submit(pool, lane=lane) for _ in range(2)]
        take(pool)
        now = 0.0
        for _ in range(2):
            fail_start(pool, now)
            now += pool.next_tick(now)
            pool.tick(now)
        take(pool)
        assert fail_start(pool, now) == [Refuse(task, Refusal.START_FAILED) for task in waiting]
        assert pool.is_failing
        assert pool.is_drained

    def test_living_worker_keeps_tasks_waiting(self):
        """However many starts fail, tasks are not refused while a worker can serve them."""
        pool = dispatcher(1, max_workers=2)
        running, waiting = submit(pool), submit(pool)
        take(pool)
        for now in range(0, 500, 100):
            assert fail_start(pool, now) == []
            pool.tick(now + 50)
            assert take(pool) == [START]
        assert pool.finish(running.worker, 600.0) is waiting

    def test_newcomer_to_a_failing_pool_waits_for_the_next_attempt(self):
        """After a refusal the next task neither starts a worker early nor is forgotten."""
        pool = dispatcher()
        submit(pool)
        now = 0.0
        for _ in range(3):
            fail_start(pool, now)
            now += pool.next_tick(now)
            pool.tick(now)
        take(pool)
        now -= 0.01
        task = submit(pool, now=now)
        assert take(pool) == []
        now += pool.next_tick(now)
        pool.tick(now)
        assert take(pool) == [START]
        ready(pool, now)
        assert has_worker(task)

    def test_worker_that_dies_idle_and_unused_is_not_replaced_at_once(self):
        """Workers that come up and die before their first task back off as failed starts do."""
        pool = dispatcher(1, min_workers=1)
        now, waits = 0.0, []
        for _ in range(4):
            pool.gone(pool.roster.idle[0], now)
            assert take(pool) == []
            waits.append(pool.next_tick(now))
            now += waits[-1]
            pool.tick(now)
            assert take(pool) == [START]
            ready(pool, now)
        assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8])

    def test_another_worker_does_not_end_that_back_off(self):
        """That one more worker came up says nothing: those that died had come up, too."""
        pool = dispatcher(min_workers=2, max_workers=2)
        pool.open(0.0)
        take(pool)
        pool.gone(ready(pool), 0.0)
        ready(pool)
        assert take(pool) == []
        assert pool.next_tick(0.0) == pytest.approx(0.1)

    def test_early_deaths_are_forgotten(self):
        """Half a minute after the last back-off the death of an unused worker is news again."""
        pool = dispatcher(1, min_workers=1)
        now = 0.0
        for _ in range(20):
            pool.gone(pool.roster.idle[0], now)
            take(pool)
            assert pool.next_tick(now) == pytest.approx(0.1)
            pool.tick(now + 0.2)
            now += 31.0
            ready(pool, now)

    def test_task_that_no_worker_lives_to_receive_is_refused(self):
        """A task is put back twice; the third worker in a row that dies before it ends the wait."""
        pool = dispatcher(1)
        task = submit(pool)
        now = 0.0
        for _ in range(2):
            dead = task.worker
            pool.requeue(task, now)
            pool.gone(dead, now)
            assert START not in take(pool)
            now += pool.next_tick(now)
            pool.tick(now)
            assert take(pool) == [START]
            ready(pool, now)
            assert assigned(take(pool)) == [task]
        pool.requeue(task, now)
        assert take(pool)[-1] == Refuse(task, Refusal.START_FAILED)
        assert pool.is_drained

    def test_proven_worker_that_dies_is_replaced_at_once(self):
        """The death of a worker that has done a task is an accident, not a loop."""
        pool = dispatcher(1, min_workers=1)
        worker = submit(pool).worker
        pool.finish(worker, 0.0)
        pool.gone(worker, 0.0)
        assert take(pool) == [START]

    def test_crash_under_a_task_is_replaced_at_once(self):
        """A worker that dies with a task has come up: the others do not wait for back-off."""
        pool = dispatcher(1)
        running, waiting = submit(pool), submit(pool)
        assert pool.gone(running.worker, 0.0) is running
        assert take(pool) == [START]
        assert waiting.state is TaskState.QUEUED


class TestRetirement:
    def test_idle_worker_retires(self):
        """An idle worker that nothing needed for `idle_timeout` ends, the coldest first."""
        pool = dispatcher(max_workers=2, min_workers=1, idle_timeout=10.0)
        cold = ready(pool, 0.0)
        ready(pool, 5.0)
        take(pool)
        assert pool.next_tick(5.0) == pytest.approx(5.0)
        pool.tick(9.9)
        assert take(pool) == []
        pool.tick(10.0)
        assert take(pool) == [StopWorker(cold, StopReason.IDLE)]
        pool.tick(100.0)
        assert take(pool) == []

    def test_opening_is_over_when_a_worker_is_ready(self):
        """The worker that opening asked for retires like any other, and is not replaced."""
        pool = dispatcher(idle_timeout=10.0)
        pool.open(0.0)
        worker = ready(pool)
        take(pool)
        pool.tick(10.0)
        assert take(pool) == [StopWorker(worker, StopReason.IDLE)]

    def test_opening_is_over_when_a_worker_recovers(self):
        """A worker that returns while the pool opens is as good as one that was started."""
        pool = dispatcher(1, idle_timeout=10.0)
        worker = submit(pool).worker
        pool.cancel(worker.task, StopReason.CANCEL, 0.0)
        pool.open(0.0)
        fail_start(pool)
        pool.recovered(worker, 0.0)
        pool.tick(10.0)
        pool.tick(20.0)
        assert take(pool) == [StopWorker(worker, StopReason.IDLE)]

    def test_only_the_surplus_retires(self):
        """Of workers that have all been idle for long, as many stay as the recent peak needed."""
        pool = dispatcher(4, max_workers=4, spare_workers=1, idle_timeout=10.0)
        pool.finish(submit(pool).worker, 0.0)
        coldest = pool.roster.idle[:2]
        pool.tick(10.0)
        assert take(pool) == [StopWorker(worker, StopReason.IDLE) for worker in coldest]

    def test_recent_peak_keeps_its_workers(self):
        """What was busy at once in the last window, and the spare, is kept for one window more."""
        pool = dispatcher(3, max_workers=3, spare_workers=1, idle_timeout=10.0)
        tasks = [submit(pool) for _ in range(2)]
        for task in tasks:
            pool.finish(task.worker, 0.0)
        take(pool)
        pool.tick(10.0)
        assert take(pool) == []
        assert pool.next_tick(10.0) == pytest.approx(10.0)
        pool.tick(20.0)
        assert [action.reason for action in take(pool)] == [StopReason.IDLE] * 3

    def test_spare_of_a_loaded_pool_is_not_stopped_and_started(self):
        """Under a steady load the spare stays, however long it has been idle."""
        pool = dispatcher(2, max_workers=2, spare_workers=1, idle_timeout=10.0)
        for now in range(0, 100, 5):
            task = submit(pool, now=now)
            pool.finish(task.worker, now + 1)
            pool.tick(now + 2)
            assert take(pool) == []

    def test_nobody_retires_without_a_timeout(self):
        """`idle_timeout=None` keeps every worker, and asks for no tick."""
        pool = dispatcher(2, max_workers=2)
        assert pool.next_tick(0.0) is None
        pool.tick(1e9)
        assert take(pool) == []

    def test_tick_is_always_ahead(self):
        """The next tick is never now or in the past, whatever is overdue: no hot loop."""
        pool = dispatcher(2, max_workers=2, idle_timeout=10.0)
        submit(pool)
        for now in (0.0, 9.999999999999998, 10.0, 25.0, 1e9):
            assert pool.next_tick(now) > 0
            pool.tick(now)
            assert pool.next_tick(now) > 0

    def test_quiet_pool_asks_for_no_tick(self):
        """A pool at `min_workers` with nothing due leaves the processor asleep."""
        pool = dispatcher(1, min_workers=1, idle_timeout=10.0)
        assert pool.next_tick(0.0) is None


class TestClose:
    def test_drain_ends_with_the_last_task(self):
        """A pool is drained when nothing waits or runs, and not before."""
        pool = dispatcher(1)
        running, waiting = submit(pool), submit(pool)
        pool.close(0.0)
        assert not pool.is_drained
        assert pool.finish(running.worker, 0.0) is waiting
        assert not pool.is_drained
        pool.finish(waiting.worker, 0.0)
        assert pool.is_drained

    def test_kill_refuses_what_waits_and_stops_what_idles(self):
        """A kill ends queued and parked tasks in order of arrival, and every idle worker."""
        pool = dispatcher(2, max_workers=2)
        lane = Lane(1)
        submit(pool, lane=lane)
        parked = submit(pool, lane=lane)
        other = submit(pool)
        queued = submit(pool)
        pool.finish(other.worker, 0.0)
        assert parked.state is TaskState.PARKED
        pool.finish(queued.worker, 0.0)
        idle = pool.roster.idle[0]
        more = submit(pool, lane=lane)
        pool.close(0.0, kill=True)
        assert take(pool) == [
            Refuse(parked, Refusal.CLOSED),
            Refuse(more, Refusal.CLOSED),
            StopWorker(idle, StopReason.CLOSE),
        ]
        assert (pool.queue.count, pool.queue.runnable, pool.roster.idle) == (0, 0, [])

    def test_nothing_is_assigned_after_kill(self):
        """Workers that become free, ready or fail after a kill end, and none is started."""
        pool = dispatcher(1, min_workers=2, max_workers=2, spare_workers=1)
        running = submit(pool)
        pool.tick(0.0)
        take(pool)
        pool.close(0.0, kill=True)
        take(pool)
        late = ready(pool)
        assert take(pool) == [StopWorker(late, StopReason.CLOSE)]
        assert fail_start(pool) == []
        assert pool.finish(running.worker, 0.0) is None
        assert take(pool) == [StopWorker(running.worker, StopReason.CLOSE)]
        pool.tick(100.0)
        pool.open(100.0)
        assert take(pool) == []

    def test_drain_after_kill_stays_killed(self):
        """Closing again without `kill` does not reopen the queue."""
        pool = dispatcher()
        pool.close(0.0, kill=True)
        pool.close(0.0)
        assert pool.phase is Phase.CLOSED


class TestRetryAfter:
    def test_unmeasured_pool_says_one_second(self):
        """Before any run was measured a refused caller is told a plain second."""
        assert dispatcher().estimates.retry_after(0.0) == 1.0

    def test_time_until_served_follows_queue_and_runs(self):
        """It is what waits and what is left of the runs, by the mean run, over the workers."""
        pool, lane = dispatcher(2, max_workers=2), Lane()
        first, second = submit(pool, lane=lane), submit(pool, lane=lane, now=1.0)
        pool.finish(first.worker, 4.0)
        third = submit(pool, now=4.0, lane=lane)
        for _ in range(3):
            submit(pool, lane=lane)
        assert pool.estimates.retry_after(4.0, [second, third]) == pytest.approx(
            (3 * 4.0 + 1.0 + 4.0) / 2
        )

    def test_each_function_counts_by_its_own_runs(self):
        """A hundred short runs say nothing of the long ones that wait."""
        pool, long, short = dispatcher(1), Lane(), Lane()
        pool.finish(submit(pool, lane=long).worker, 2.0)
        for _ in range(100):
            pool.finish(submit(pool, lane=short, now=2.0).worker, 2.001)
        running = submit(pool, lane=short, now=2.0)
        for _ in range(4):
            submit(pool, lane=long, now=2.0)
        assert pool.estimates.retry_after(2.0, [running]) == pytest.approx(8.0, rel=0.01)

    def test_first_runs_that_have_not_ended_count_by_how_long_they_run(self):
        """Where nothing was measured yet, the longer they take the later a newcomer comes back."""
        pool = dispatcher(1)
        running = submit(pool, now=0.0)
        submit(pool)
        assert pool.estimates.retry_after(3.0, [running]) == pytest.approx(6.0)

    def test_mean_follows_a_change_of_load(self):
        """After some tens of runs of a new length the mean is near it."""
        pool = dispatcher(1)
        for seconds in [1.0] * 5 + [10.0] * 50:
            pool.finish(submit(pool).worker, seconds)
        assert pool.estimates.run_time.mean == pytest.approx(10.0, rel=0.1)

    def test_first_run_is_forgotten_when_the_second_is_shorter(self):
        """It imported what the function needs: who is told to wait is told of usual runs."""
        pool = dispatcher(1)
        for seconds in (30.0, 1.0):
            pool.finish(submit(pool).worker, seconds)
        assert pool.estimates.run_time.mean == 1.0


class TestTooLate:
    def test_newcomer_that_cannot_end_in_time_is_too_late(self):
        """The waiting tasks before it and its own run must fit."""
        pool, lane = dispatcher(1), Lane()
        pool.finish(submit(pool, lane=lane).worker, 2.0)
        for _ in range(3):
            submit(pool, lane=lane, now=2.0)
        # Two wait, two seconds each, and two of its own.
        assert not pool.estimates.is_too_late(Task(lane), 8.1, 2.0)
        assert pool.estimates.is_too_late(Task(lane), 7.9, 2.0)

    def test_only_what_goes_before_it_counts(self):
        """Tasks of lower priority do not delay a newcomer, and do not make it late."""
        pool, lane = dispatcher(1), Lane()
        pool.finish(submit(pool, lane=lane).worker, 2.0)
        for _ in range(3):
            submit(pool, lane=lane, now=2.0, priority=-1)
        assert not pool.estimates.is_too_late(Task(lane), 4.1, 2.0)
        assert pool.estimates.is_too_late(Task(lane, priority=-1), 4.1, 2.0)

    def test_estimate_is_trusted_less_each_time_it_refuses(self):
        """A function whose one run was slow is measured again, some refusals later."""
        pool, lane = dispatcher(1), Lane()
        pool.finish(submit(pool, lane=lane).worker, 2.0)
        refusals = 0
        while pool.estimates.is_too_late(Task(lane), 3.0, 2.0):
            refusals += 1
        assert 1 < refusals < 100

    def test_idle_worker_makes_nobody_late(self):
        """Calls that wait for their own function to be below its limit delay no other."""
        pool, slow, quick = dispatcher(2, max_workers=2), Lane(1), Lane()
        pool.finish(submit(pool, lane=slow).worker, 2.0)
        pool.finish(submit(pool, lane=quick, now=2.0).worker, 2.1)
        for _ in range(30):
            submit(pool, lane=slow, now=2.1)
        assert pool.roster.idle
        assert not pool.estimates.is_too_late(Task(quick), 2.3, 2.1)
        # Another one of the slow function has all of them before it, one at a time.
        assert pool.estimates.is_too_late(Task(slow), 2.1 + 55.0, 2.1)

    def test_deadline_that_has_passed_is_always_too_late(self):
        """Whatever the estimate says."""
        pool = dispatcher(1)
        assert pool.estimates.is_too_late(Task(Lane()), 1.0, 1.0)

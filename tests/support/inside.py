"""The private side of the library, for tests that must reach it; no other file of the tests does.

Faults are injected from inside, and some states are seen from nowhere else. The linter keeps it so:
`SLF001` is allowed in this file alone. Where what is private changes, this file follows.
"""

import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from offload import Pool
from offload._decisions.starvation import Starvation, ThreadTime
from offload._decisions.words import StopReason, TaskState
from offload._pool.invocation import Invocation
from offload._pool.target import target_of
from offload._values.options import CallOptions, ResolvedOptions
from offload._values.pool_options import PoolOptions
from offload._workers.code_on_disk import code_on_disk

# --- options ---


def make_normal_priority_the_default() -> None:
    """Have workers run at normal priority where a pool is told nothing else."""
    defaults = PoolOptions._field_defaults
    assert defaults["os_priority"] == "idle"
    changed = defaults | {"os_priority": "normal"}
    PoolOptions.__new__.__defaults__ = tuple(changed[name] for name in PoolOptions._fields)


# --- calls beneath the decorator ---


def resolved(pool: Pool, **options: Any) -> ResolvedOptions:
    """Return the options of a call of this pool."""
    return pool.resolve(CallOptions(**options))


def invocation_of(pool: Pool, function: Any, *args: Any, **options: Any) -> Invocation:
    """Return a call of a plain function with options, as a decorated one makes it."""
    return Invocation(target_of(function), args, {}, resolved(pool, **options))


def call(pool: Pool, function: Any, *args: Any, **options: Any) -> Coroutine[Any, Any, Any]:
    """Call a plain function with options, as a decorated one is called."""
    return pool.run_invocation(invocation_of(pool, function, *args, **options))


def call_if(
    pool: Pool, begin: Callable[[], bool], function: Any, *args: Any, **options: Any
) -> Coroutine[Any, Any, Any]:
    """Call a plain function that runs only if `begin` agrees when a worker is free for it."""
    return pool.run_invocation(invocation_of(pool, function, *args, **options), begin)


def call_of_view() -> tuple[Future[Any], Any]:
    """Return a future, and the call of a view that settles it."""
    from offload.executor import _Call

    made = _Call(Invocation(target_of(len), ([],), {}, ResolvedOptions()))
    assert made.future is not None
    return made.future, made


def width_of_view(pool: Pool) -> int:
    """Return the attribute of a view that other libraries read, though it is not public."""
    return pool.executor()._max_workers


def stream(pool: Pool, function: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
    """Stream the items of a plain generator function, as a decorated one's are."""
    return pool.stream_invocation(invocation_of(pool, function, *args, **options))


def options_of(function: Any) -> CallOptions:
    """Return the options that a decorated function was given."""
    return function._options


def replace_function(monkeypatch: pytest.MonkeyPatch, decorated: Any, function: Any) -> None:
    """Have a decorated function stand for another one."""
    monkeypatch.setattr(decorated._definition, "function", function)


# --- the pools of this process ---


def forget(pool: Pool | str) -> None:
    """Free the name of a pool, as if it had never been made."""
    found = Pool._registry.get(pool if isinstance(pool, str) else pool.name)
    assert found is not None
    Pool._registry.discard(found)


def forget_if_known(name: str) -> None:
    """Free the name of a pool, if there is one of that name."""
    found = Pool._registry.get(name)
    if found is not None:
        Pool._registry.discard(found)


def known(name: str) -> Pool | None:
    """Return the pool of a name, if there is one."""
    return Pool._registry.get(name)


def everyone() -> set[Pool]:
    """Return all pools of this process, also those whose name is another one's by now."""
    return set(Pool._registry._everyone)


def open_pools() -> list[Pool]:
    """Return the pools of this process that have workers."""
    return [pool for pool in Pool.all() if pool._periods.running is not None]


def executor_of(pool: Pool) -> Any:
    """Return what a pool was given as its `executor`."""
    return pool._setup.options.executor


def start_method(pool: Pool) -> str:
    """Return how the workers of a pool are started."""
    return pool._setup.start_method


def mapping_executor(view: Any) -> Executor:
    """Return the executor that does the calls of a view's `map`."""
    return view._mapping


# --- an open pool: its engine ---


def running_of(pool: Pool) -> Any:
    """Return what runs the calls of a pool while that is open."""
    assert pool._periods.running is not None
    return pool._periods.running


def shell_of(pool: Pool) -> Any:
    """Return what has the tasks and workers of a pool while that is open."""
    return running_of(pool).shell


def takes_short_cut(pool: Pool) -> bool:
    """Return whether calls take the way that passes observers by."""
    return running_of(pool).takes_short_cut


def supervisor_pid(pool: Pool) -> int | None:
    """Return the process id of a pool's supervisor; None: there is none."""
    if pool._periods.running is None:
        return None
    backend: Any = pool._periods.running.shell.backend
    process = backend.supervisor._process
    return process.pid if process else None


def keeps_code() -> bool:
    """Return whether the source of all that this process has imported has been read."""
    return not code_on_disk._unread


def unshared(pool: Pool) -> dict[str, int]:
    """Return what workers of a pool load for themselves, with the threads that it started."""
    return shell_of(pool).backend.unshared


@contextmanager
def lock_held(pool: Pool) -> Iterator[None]:
    """Hold the lock under which a pool decides."""
    with shell_of(pool).decider.lock:
        yield


@contextmanager
def every_lock_held(pool: Pool) -> Iterator[None]:
    """Hold the lock under which a pool decides, and the one of its opening and closing."""
    with ExitStack() as stack:
        stack.enter_context(shell_of(pool).decider.lock)
        stack.enter_context(pool._periods.lock)
        yield


def kill_under_its_lock(running: Any) -> Future[None]:
    """Kill a pool, as a signal handler does that interrupts it in the middle of a decision."""
    with running.shell.decider.lock:
        return running.life.kill()


def make_engines_slowly(
    monkeypatch: pytest.MonkeyPatch, pool: Pool, meanwhile: Callable[[], object]
) -> None:
    """Have something done between the making of a pool's engine and its first use."""
    prepare = pool._periods._prepare

    def prepare_slowly() -> Callable[[], Any]:
        make = prepare()

        def make_slowly() -> Any:
            running = make()
            meanwhile()
            return running

        return make_slowly

    monkeypatch.setattr(pool._periods, "_prepare", prepare_slowly)


def hold_loop_on_admission(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have code of the engine hold the event loop at each call."""
    from offload._pool import running_pool

    def slow(*_: Any) -> None:
        exec(compile(f"import time; time.sleep({seconds})", running_pool.__file__, "exec"))  # noqa: S102

    monkeypatch.setattr(running_pool.RunningPool, "begin", slow)


# --- tasks and single flights ---


def cancel_running(pool: Pool) -> None:
    """Cancel the task that runs, from whatever thread."""
    shell = shell_of(pool)
    shell.stop(shell.running()[0], StopReason.CANCEL)


def has_running(pool: Pool) -> bool:
    """Return whether a task is with a worker, if only by decision."""
    return bool(shell_of(pool).running())


def pids_with_task(pool: Pool) -> list[int | None]:
    """Return the process ids of the workers that were assigned a task."""
    return [each.pid for each in shell_of(pool).backend.workers() if each.task is not None]


def wait_in_queue_again(pool: Pool, function: Any) -> None:
    """Do to the one task that waits behind others of its function what a requeuing does."""
    (entry,) = shell_of(pool).lanes[target_of(function).name].parked
    parked = entry[2]
    assert parked.state is TaskState.PARKED
    shell_of(pool)._time_limits.start_waiting(parked)


def callers_of_flights(pool: Pool) -> list[int]:
    """Return how many callers wait for each run that identical calls share."""
    return [flight.waiting for flight in running_of(pool)._parts.single_flight._flights.values()]


def has_left(begin: Any) -> bool:
    """Return whether the client of the wait that `begin` belongs to has left."""
    return begin.__self__._has_left


# --- workers ---


def start_no_worker(pool: Pool) -> None:
    """Have a pool start no workers any more."""
    shell_of(pool).backend.start = lambda: None


def fail_bindings(monkeypatch: pytest.MonkeyPatch, fail: Callable[..., Any]) -> None:
    """Have `fail` called where a worker's socket is bound to an event loop."""
    from offload._workers import connection

    monkeypatch.setattr(connection, "WorkerConnection", fail)


def read_from_worker(pool: Pool) -> bool:
    """Have the only worker's socket read, as its event loop does; return whether it goes on."""
    (worker,) = shell_of(pool).backend.workers()
    return worker.socket.connection.read()


class LateStop:
    """Has each decision to stop a worker carried out only when the test lets it.

    Args:
        monkeypatch: takes it back.
        patience: seconds after which it is carried out all the same.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
        from offload._workers.process_worker import ProcessWorker

        self.decided, self.proceed, self.recovered = (threading.Event() for _ in range(3))
        stop, task_ended = ProcessWorker.stop, ProcessWorker._task_ended

        def stop_late(*arguments: Any) -> None:
            self.decided.set()
            self.proceed.wait(patience)
            stop(*arguments)

        def tell_ended(worker: ProcessWorker) -> None:
            task_ended(worker)
            self.recovered.set()

        monkeypatch.setattr(ProcessWorker, "stop", stop_late)
        monkeypatch.setattr(ProcessWorker, "_task_ended", tell_ended)


def cut_off_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no supervisor be told to signal a worker."""
    from offload._workers.supervisor_client import SupervisorClient

    monkeypatch.setattr(SupervisorClient, "signal_worker", lambda *_: None)


def replace_payload_threads(monkeypatch: pytest.MonkeyPatch, executor: Executor | None) -> None:
    """Have other threads read and write payloads; None: those that are started when needed."""
    from offload._workers.keeper import threads

    monkeypatch.setattr(threads, "_executor", executor)


def limit_log_queue(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Have so many bytes of log records wait for their handlers at most."""
    from offload._workers import logs

    monkeypatch.setattr(logs, "_MOST_BYTES", size_bytes)


# --- pure rooms, and the wire ---


def ready_heap(dispatcher: Any) -> list[Any]:
    """Return the entries of a dispatcher's queue, stale ones among them."""
    return dispatcher.queue.heap


def stale_count(dispatcher: Any) -> int:
    """Return how many entries of a dispatcher's queue it believes to be stale."""
    return dispatcher.queue.stale


# Name, in `offload._decisions.wait_queue`, of how many stale entries are worth a rebuild.
STALE_WORTH_A_REBUILD = "_STALE_WORTH_A_REBUILD"


def pending_values(histogram: Any) -> int:
    """Return how many values a histogram has not sorted into buckets yet."""
    return len(histogram._pending)


def move_bytes_at_once(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Have one system call move so much of a payload at most."""
    from offload._wire import large, source

    for module in (large, source):
        monkeypatch.setattr(module, "CALL_BYTES", size_bytes)


def max_mappings() -> int:
    """Return how many payloads may be mapped at once."""
    from offload._wire import large

    return large._MAX_MAPPINGS


def used_mappings() -> int:
    """Return how many payloads are mapped."""
    from offload._wire import large

    return sum(known() is not None for known in large._mappings)


# --- tools ---


def cumulative(snapshot: Any) -> Any:
    """Return the buckets of a histogram as Prometheus takes them."""
    from offload.metrics import _families

    return _families.cumulative(snapshot)


def label_values() -> set[str]:
    """Return the words that metrics have for outcomes and states."""
    from offload.jobs import AttemptOutcome, JobState
    from offload.jobs._statistics import ENQUEUE_OUTCOMES
    from offload.metrics import _collector

    pools = {*_collector._OUTCOMES, *_collector._STATES, *_collector._WORKER_STATES}
    return pools | {*AttemptOutcome, *JobState, *ENQUEUE_OUTCOMES}


def breathe_into(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], object]) -> Any:
    """Return what the collector does between two pools, with another `time.sleep`."""
    from offload.metrics import _families

    monkeypatch.setattr(_families.time, "sleep", sleep)
    return _families.breathe


def label_names(family: Any) -> tuple[str, ...]:
    """Return the names of the labels of one of prometheus_client's metric families."""
    return tuple(getattr(family, "_labelnames", ()))


def latest_number(feed: Any) -> int:
    """Return the number of the last sample that a dashboard's feed has taken."""
    return feed._latest.number


def current_scope() -> Any:
    """Return the request that the watchdog takes for the current one."""
    from offload.watchdog import _requests

    return _requests.current_scope.get()


def turn_after_late_beat(watcher: Any, late: float, cpu: float) -> None:
    """Have a watcher find a beat that came late, and that nobody saw while it was late."""
    from offload.watchdog._watcher import _Beat

    watcher._go_round()
    reading = watcher._meter.read()
    computed = reading._replace(cpu=reading.cpu + cpu)
    watcher._beats.append(_Beat(watcher._due, watcher._due + late, computed))
    # It looks at the loop's thread from its own.
    turning = threading.Thread(target=watcher._turn)
    turning.start()
    turning.join()
    watcher._meter.close()


def unread_beats(watcher: Any) -> Any:
    """Return the beats that a watcher has not looked at yet."""
    return watcher._beats


# --- others' ---

# As `sys._getframe` is called: a function of ours would be one frame more.
frame_here = sys._getframe


def destroy_quietly(task: Any) -> None:
    """Have asyncio not complain of a task that is destroyed while it waits: that is intended."""
    task._log_destroy_pending = False


def fixture_definitions(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return all fixtures that a test uses, by name."""
    return request.node._fixtureinfo.name2fixturedefs


# --- CPU time of workers ---


def _overdue(pool: Pool) -> Any:
    return shell_of(pool)._time_limits.overdue


def count_looks(pool: Pool) -> Callable[[], int]:
    """Return what tells how often the pool has looked at its workers since now."""
    overdue, looks = _overdue(pool), []
    look = overdue._look_at_workers

    def counted() -> bool:
        looks.append(None)
        return look()

    overdue._look_at_workers = counted
    return lambda: len(looks)


def is_to_look(pool: Pool) -> bool:
    """Return whether the pool will look at its workers again, though nothing happens."""
    overdue = _overdue(pool)
    return overdue._timer is not None or overdue.is_watching


def pretend_times(pool: Pool, priority: str, times: Callable[[int], dict[int, ThreadTime]]) -> None:
    """Have workers seem to be of this priority, and their processes to have these times.

    Nothing has been told until then, of a machine that is busy with other tests.
    """
    shell = shell_of(pool)
    shell.cpu_watch._starvation = Starvation()
    shell.backend.os_priority = priority
    shell.cpu_watch._times = times


def pretend_throttled(pool: Pool, throttled: Callable[[], float | None]) -> None:
    """Have a CPU quota seem to have stopped the process for so many seconds."""
    shell_of(pool).cpu_watch._throttled = throttled

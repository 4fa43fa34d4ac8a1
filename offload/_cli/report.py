"""What the doctor's child process has seen of an application; crosses to the parent as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offload._cli.blocking import BlockingCall

__all__ = ["EndpointReport", "FunctionReport", "PoolReport", "Report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """One pool of the application, and what a worker of it was like.

    Attributes:
        name: the pool's.
        max_workers: how many tasks may run at once.
        spare_workers: idle workers beside them.
        start_method: "forkserver" or "spawn".
        executor: the name of the executor that its workers are made of, empty if of none.
        os_priority: what it asks for.
        preload: modules that all workers share.
        environment: what is set for the workers; None removes a variable.
        max_worker_memory_bytes: the pool's option.
        is_hardened: whether it has the option `harden`.
        missing_walls: what that asks for, and this system does not allow.
        results: how what its workers send is read, "pickle" or "data".
        start_seconds: from the first call of the pool to its result; None if it failed.
        problem: why no worker came up, empty if one did.
        bare: what a new worker says of itself (`offload._cli.probe.look`).
        loaded: what it says when it has found every function of the pool.
    """

    name: str
    max_workers: int
    spare_workers: int
    start_method: str
    executor: str
    os_priority: str
    preload: tuple[str, ...]
    environment: dict[str, str | None]
    max_worker_memory_bytes: int | None
    is_hardened: bool = False
    results: str = "pickle"
    missing_walls: tuple[str, ...] = ()
    start_seconds: float | None = None
    problem: str = ""
    bare: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReport:
    """One decorated function.

    Attributes:
        name: `module:qualname`.
        module: what a worker imports for it; None if it is sent by value.
        pool: the name of its pool.
        problem: why a worker cannot find it, empty if it can.
        is_checked: whether a worker has looked for it.
    """

    name: str
    module: str | None
    pool: str
    problem: str = ""
    is_checked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReport:
    """One endpoint.

    Attributes:
        route: methods and path.
        function: what is called, by its qualified name.
        kind: "async", "thread" or "offloaded".
        blocking: calls in it that hold the event loop.
        is_passed_by: whether the function is decorated with `@offload`, and the route has the plain
            one all the same.
    """

    route: str
    function: str
    kind: str
    blocking: tuple[BlockingCall, ...] = ()
    is_passed_by: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFunctionReport:
    """One function that is decorated to be a job.

    Attributes:
        name: `module:qualname`, or what is known of it.
        problem: why a worker program cannot run it, empty if it can.
    """

    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsReport:
    """One `Jobs` of the application, and what is in its store.

    Attributes:
        location: where the store is, without secrets.
        problem: why it could not be looked at, empty if it could.
        is_new: whether there is no file yet; then nothing else is known.
        engine: `sqlite`, `redis` or `postgres`.
        version: of its library or server.
        round_trip: seconds that a question and its answer took.
        problems: what its operator should change.
        clock_ahead: seconds by which its clock is ahead of this machine's; None: it is the same.
        queued: how many jobs wait or are delayed, by queue.
        max_queued: how many may; None: no limit.
        unknown: how many jobs wait for functions that the application does not have, by function.
        largest_bytes: the largest arguments or result of the latest jobs.
        largest_of: the function that it is of; empty if there were none.
        sampled: how many jobs that were.
        max_payload_bytes: how large they may be; None: no limit.
    """

    location: str
    problem: str = ""
    is_new: bool = False
    engine: str = ""
    version: str = ""
    round_trip: float = 0.0
    problems: tuple[str, ...] = ()
    clock_ahead: float | None = None
    queued: dict[str, int] = field(default_factory=dict)
    max_queued: int | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    largest_bytes: int = 0
    largest_of: str = ""
    sampled: int = 0
    max_payload_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleReport:
    """One schedule.

    Attributes:
        name: of the schedule.
        fire_times: when it fires, in words.
        does_fire: whether it will fire at all.
        skipped: times of day that the clock skips, and when they fire instead; in words.
    """

    name: str
    fire_times: str
    does_fire: bool
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What importing an application showed.

    Attributes:
        error: why it cannot be imported, with the traceback; then nothing else is known.
        app_module: the module that was named.
        app_type: the class of the application.
        import_seconds: how long importing it took.
        modules: how many modules are imported then.
        resident_bytes: memory of the process then; None where unknown.
        threads: Python threads that it has started, each with where it is.
        native_threads: threads of any kind beside the main one and those of Python.
        path: `sys.path` then.
        pools: by name.
        functions: by name.
        endpoints: in the order of the routes; None if they cannot be listed.
        jobs: the stores of jobs that it names.
        job_functions: what is decorated to be a job, by name.
        schedules: by name.
    """

    error: str = ""
    app_module: str = ""
    app_type: str = ""
    import_seconds: float = 0.0
    modules: int = 0
    resident_bytes: int | None = None
    threads: tuple[str, ...] = ()
    native_threads: int = 0
    path: tuple[str, ...] = ()
    pools: tuple[PoolReport, ...] = ()
    functions: tuple[FunctionReport, ...] = ()
    endpoints: tuple[EndpointReport, ...] | None = None
    jobs: tuple[JobsReport, ...] = ()
    job_functions: tuple[JobFunctionReport, ...] = ()

    @property
    def is_server(self) -> bool:
        """Whether it answers requests; what a worker program is given, a `Jobs`, does not."""
        return self.app_type != "offload.jobs._jobs.Jobs"

    schedules: tuple[ScheduleReport, ...] = ()

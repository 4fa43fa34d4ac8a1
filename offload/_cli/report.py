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
    """

    route: str
    function: str
    kind: str
    blocking: tuple[BlockingCall, ...] = ()


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

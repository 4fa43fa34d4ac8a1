"""What a pool's options come to: its limits, its workers' backend, its context variables."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._values.options import Inherit, check_integer
from offload._values.pool_options import name_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar

    from offload._decisions.words import Limits
    from offload._values.pool_options import PoolOptions
    from offload._workers.backend import WorkerBackend, WorkerOwner

__all__ = ["Setup"]


class Setup:
    """A pool's options, and what they come to on this machine.

    Args:
        pool: name of the pool.
        options: its options.

    Raises:
        TypeError: the initializer does not pickle.
        ValueError: `min_workers` is more than `max_workers`.
    """

    def __init__(self, pool: str, options: PoolOptions) -> None:
        self._pool = pool
        self.options = options
        self._initializer = _initializer_of(options)
        self.max_workers = options.max_workers or _default_max_workers()
        self._check_least(self.max_workers)

    def set_limits(self, max_workers: int | Inherit, max_queued: int | Inherit | None) -> None:
        """Change how many calls may run and wait at once; what is `INHERIT` stays.

        Raises:
            TypeError: one is no number.
            ValueError: one is out of range.
        """
        workers = self.max_workers if isinstance(max_workers, Inherit) else max_workers
        queued = self.options.max_queued if isinstance(max_queued, Inherit) else max_queued
        check_integer("max_workers", workers, minimum=1)
        check_integer("max_queued", queued, minimum=0, optional=True)
        self._check_least(workers)
        self.max_workers = workers
        self.options = self.options._replace(max_queued=queued)

    def _check_least(self, max_workers: int) -> None:
        if self.options.min_workers > max_workers:
            message = (
                f"min_workers ({self.options.min_workers}) must not exceed max_workers "
                f"({max_workers})"
            )
            raise ValueError(message)

    def limits(self) -> Limits:
        """Return the numbers that decisions depend on."""
        from offload._decisions.words import Limits

        options = self.options
        return Limits(
            min_workers=options.min_workers,
            max_workers=self.max_workers,
            spare_workers=options.spare_workers,
            max_queued=options.max_queued,
            max_queued_bytes=options.max_queued_bytes,
            idle_timeout=options.idle_timeout,
            max_tasks_per_worker=options.max_tasks_per_worker,
        )

    def new_backend(self, owner: WorkerOwner) -> WorkerBackend:
        """Return what makes the workers."""
        from offload._workers.backend import Settings

        options = self.options
        settings = Settings(
            name=self._pool,
            os_priority=options.os_priority,
            start_method=self.start_method,
            start_timeout=options.start_timeout,
            initializer=self._initializer,
            preload=tuple(options.preload),
            env=self.environment(),
            max_memory_bytes=options.max_worker_memory_bytes,
            walls=_walls_of(options),
            errors=_errors_of(options),
        )
        executor = self._executor()
        if executor is not None:
            if settings.walls is not None:
                message = "harden is for worker processes of our own, which this system has not"
                raise ValueError(message)
            if settings.errors is not None:
                message = (
                    'results="data" is for worker processes of our own, which this system has not'
                )
                raise ValueError(message)
            from offload._workers.executor import ExecutorBackend

            return ExecutorBackend(owner, settings, executor)
        from offload._workers.process import ProcessBackend

        return ProcessBackend(owner, settings)

    def context_variables(self) -> dict[str, ContextVar[Any]]:
        """Return the variables whose value crosses, by "module:name"; it imports their modules.

        Raises:
            TypeError: one is no `ContextVar`.
            ValueError: there is none of this name.
        """
        return {home: _context_variable(home) for home in self.options.context_vars}

    def __str__(self) -> str:
        """Tell how workers are made, and what they cannot do."""
        executor = self._executor()
        how = self.start_method if executor is None else f"executor={name_of(executor)}"
        can_stop = executor is None or name_of(executor) == "ProcessPoolExecutor"
        cannot = "" if can_stop else ", cannot stop a running task"
        hardened = ", hardened" if self.options.harden else ""
        data = ", results are data" if self.options.results == "data" else ""
        return f"{how}, priority {self.options.os_priority}{cannot}{hardened}{data}"

    def _executor(self) -> Any:
        executor = self.options.executor
        if executor is None and not hasattr(os, "fork"):
            from concurrent.futures import ProcessPoolExecutor

            return ProcessPoolExecutor
        return executor

    @property
    def start_method(self) -> str:
        """How worker processes are started."""
        if self.options.start_method is not None:
            return self.options.start_method
        # Forking is not safe on macOS once system frameworks have been used, even from a process
        # as bare as the supervisor (bpo-33725).
        return "forkserver" if sys.platform == "linux" else "spawn"

    def environment(self) -> dict[str, str | None]:
        """Return the environment variables of workers; None removes one."""
        from offload._system import BLAS_VARIABLES, available_cpus

        threads = str(max(1, int(available_cpus() / self.max_workers)))
        caps: dict[str, str | None] = {
            name: threads for name in BLAS_VARIABLES if name not in os.environ
        }
        return caps | dict(self.options.env or {})


def _initializer_of(options: PoolOptions) -> bytes | Callable[[], bytes] | None:
    """Return the initializer as workers are given it.

    Raises:
        TypeError: it does not pickle.
    """
    try:
        return options.pickled_initializer()
    except TypeError as error:
        from offload._workers.kinship import is_inherited, pickled_for_child

        if not is_inherited(error.__cause__):
            raise
        if options.results == "data":
            message = (
                'initargs must be plain with results="data": locks, queues and connections of '
                "multiprocessing are a way to this process, which unpickles what comes by it"
            )
            raise TypeError(message) from error
    return partial(pickled_for_child, (options.initializer, options.initargs))


def _walls_of(options: PoolOptions) -> dict[str, Any] | None:
    """Return what workers are kept from, as they are told of it; None: nothing.

    Raises:
        ValueError: there is no such user.
    """
    from offload._values.hardening import Hardening

    if options.harden is False:
        return None
    wanted = Hardening() if options.harden is True else options.harden
    return {
        "network": wanted.network,
        "writable": list(wanted.writable),
        "user": None if wanted.user is None else _user(wanted.user),
        "is_strict": wanted.strict,
    }


def _errors_of(options: PoolOptions) -> dict[str, type[Exception]] | None:
    """Return the exceptions that workers which send data may have raised here, by name."""
    if options.results != "data":
        return None
    from offload._wire.data_errors import known_errors

    return known_errors(options.raises)


def _user(user: int | str) -> tuple[int, int, list[int]]:
    """Return the number of a user, of its group, and of all of its groups."""
    import pwd

    try:
        known = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int):  # it needs no name
            return user, user, [user]
        message = f"harden: there is no user {user!r} on this machine"
        raise ValueError(message) from None
    return known.pw_uid, known.pw_gid, os.getgrouplist(known.pw_name, known.pw_gid)


def _default_max_workers() -> int:
    from offload._system import default_max_workers

    return default_max_workers()


def _context_variable(home: str) -> ContextVar[Any]:
    from contextvars import ContextVar
    from importlib import import_module

    module, _, name = home.partition(":")
    try:
        variable = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"context_vars: there is no {home!r} (module:name of a ContextVar): {error}"
        raise ValueError(message) from error
    if not isinstance(variable, ContextVar):
        message = f"context_vars: {home!r} is {variable!r}, not a ContextVar"
        raise TypeError(message)
    return variable

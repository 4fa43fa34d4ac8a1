"""A task, and the function that a worker process runs for it.

A job names its task as `module:qualname`, which both sides look up among what they have imported.
What is called there is `runner_of(…)`: it takes the arguments as Django has them, a list and an
object of plain JSON, whatever the annotations of the task's function say.
"""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from offload.django._border import Task, TaskContext, TaskError, TaskResult, TaskResultStatus, send
from offload.jobs._context import job_context
from offload.jobs._functions import OPTIONS, TASK

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.jobs import JobContext

__all__ = ["OffloadTask", "runner_of"]


class OffloadTask(Task):
    """What `@task` makes of a function where the backend is ours."""

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """What is enqueued, and run by a worker process."""
        return runner_of(self.func, self.takes_context, self.backend, self.queue_name)


# Jobs find it by this; see `offload.jobs._functions`.
setattr(OffloadTask, TASK, True)


@cache
def runner_of(
    function: Callable[..., Any],
    takes_context: bool,  # noqa: FBT001 - part of a key
    backend: str,
    queue: str,
) -> Callable[..., Any]:
    """Return the function of the jobs of a task."""

    def run(args: Any, kwargs: Any) -> Any:
        task = OffloadTask(
            func=function, backend=backend, queue_name=queue, takes_context=takes_context
        )
        return _Run(task, args, kwargs).run()

    run.__module__, run.__name__ = function.__module__, function.__name__
    run.__qualname__, run.__doc__ = function.__qualname__, function.__doc__
    # As types, not as text, which would be evaluated with the names of this module.
    run.__annotations__ = {"args": list[Any], "kwargs": dict[str, Any], "return": Any}
    setattr(run, OPTIONS, {"queue": queue})
    return run


class _Run:
    """One attempt, as Django's backends make it: signals, context, a result that is JSON."""

    def __init__(self, task: OffloadTask, args: list[Any], kwargs: dict[str, Any]) -> None:
        self._task, self._args, self._kwargs = task, args, kwargs
        self._job: JobContext | None = job_context()
        self._began = datetime.now(UTC)

    def run(self) -> Any:
        """Call the function, and return its result as JSON data."""
        database: Any = import_module("django.db")
        data: Any = import_module("django.utils.json")
        # A connection may have timed out since the last task.
        database.close_old_connections()
        try:
            send("task_started", self._sender, self._result(TaskResultStatus.RUNNING))
            context: tuple[Any, ...] = ()
            if self._task.takes_context:
                context = (TaskContext(task_result=self._result(TaskResultStatus.RUNNING)),)
            value = data.normalize_json(self._task.func(*context, *self._args, **self._kwargs))
        except Exception as error:
            job = self._job
            if job is None or job.attempt >= job.max_attempts:
                send("task_finished", self._sender, self._result(TaskResultStatus.FAILED, error))
            raise
        else:
            send("task_finished", self._sender, self._result(TaskResultStatus.SUCCESSFUL))
            return value
        finally:
            database.close_old_connections()

    @property
    def _sender(self) -> type:
        return type(self._task.get_backend())

    def _result(self, status: TaskResultStatus, error: Exception | None = None) -> TaskResult:
        job, task = self._job, self._task
        attempts = 1 if job is None else job.attempt
        worker = f"{socket.gethostname()}:{os.getpid()}"
        is_running = status == TaskResultStatus.RUNNING
        result = TaskResult(
            task=task,
            id="" if job is None else job.id,
            status=status,
            # Kept with the job, and not told to the process that runs it.
            enqueued_at=None,
            started_at=self._began,
            last_attempted_at=self._began,
            finished_at=None if is_running else datetime.now(UTC),
            args=self._args,
            kwargs=self._kwargs,
            backend=task.backend,
            errors=[],
            # Who ran the earlier attempts is not known here, only how many there were.
            worker_ids=[*[""] * (attempts - 1), worker],
        )
        if error is not None:
            kind = type(error)
            result.errors.append(
                TaskError(
                    exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=""
                )
            )
        return result

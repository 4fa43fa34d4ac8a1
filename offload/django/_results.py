"""What a job is as a result of Django's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from offload.django._border import TaskError, TaskResult, TaskResultStatus
from offload.jobs import AttemptOutcome, JobState

if TYPE_CHECKING:
    from offload.django._border import Task
    from offload.jobs import JobError, JobStatus

__all__ = ["result_of"]

# A task that was cancelled has failed: Django has no other word for it.
_STATES: Final = {
    JobState.WAITING: TaskResultStatus.READY,
    JobState.DELAYED: TaskResultStatus.READY,
    JobState.ACTIVE: TaskResultStatus.RUNNING,
    JobState.COMPLETED: TaskResultStatus.SUCCESSFUL,
    JobState.FAILED: TaskResultStatus.FAILED,
    JobState.CANCELLED: TaskResultStatus.FAILED,
}


def result_of(status: JobStatus, task: Task, alias: str) -> TaskResult:
    """Return the result of a task.

    Args:
        status: of its job.
        task: the task, as its module has it.
        alias: of the backend.
    """
    arguments: dict[str, Any] = json.loads(status.arguments)
    # What was handed back has waited for a worker process, and did not run.
    past = [each for each in status.history if each.outcome is not AttemptOutcome.RELEASED]
    workers = [each.worker for each in past]
    errors = [each.error for each in past if each.error is not None]
    if status.state is JobState.ACTIVE:
        workers.append(status.worker)
    elif status.error is not None and status.error not in errors:
        # Of no attempt: its deadline has passed, for one.
        errors.append(status.error)
    began = past[0].started_at if past else status.started_at
    result = TaskResult(
        task=task.using(
            priority=status.options.priority, queue_name=status.queue, run_after=status.due_at
        ),
        id=status.id,
        status=_STATES[status.state],
        enqueued_at=status.created_at,
        started_at=began,
        last_attempted_at=status.started_at,
        finished_at=status.ended_at,
        args=arguments.get("args", []),
        kwargs=arguments.get("kwargs", {}),
        backend=alias,
        errors=list(map(_error, errors)),
        worker_ids=workers,
    )
    if status.state is JobState.COMPLETED:
        # Django's own backends set it in this way: the class is frozen.
        object.__setattr__(result, "_return_value", json.loads(status.result or "null"))
    return result


def _error(error: JobError) -> TaskError:
    kind = error.type if "." in error.type else f"builtins.{error.type}"
    text = error.traceback or f"{error.type}: {error.message}"
    return TaskError(exception_class_path=kind, traceback=text)

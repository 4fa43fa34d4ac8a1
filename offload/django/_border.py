"""What is used of `django.tasks`, with types: Django has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "BaseTaskBackend",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultStatus",
    "backends_of",
    "send",
]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from typing import Self

    class Task:
        """A function with how it is enqueued."""

        func: Callable[..., Any]
        priority: int
        backend: str
        queue_name: str
        run_after: datetime | None
        takes_context: bool

        def __init__(self, **values: Any) -> None: ...

        def get_backend(self) -> BaseTaskBackend:
            """Return the backend of the settings."""
            ...

        def using(self, **changes: Any) -> Self:
            """Return the same with changes."""
            ...

    class TaskError:
        """One error of a task."""

        def __init__(self, *, exception_class_path: str, traceback: str) -> None: ...

    class TaskResultStatus:
        """Where a task is."""

        READY: TaskResultStatus
        RUNNING: TaskResultStatus
        FAILED: TaskResultStatus
        SUCCESSFUL: TaskResultStatus

    class TaskResult:
        """What is known of an enqueued task."""

        id: str
        args: list[Any]
        kwargs: dict[str, Any]
        errors: list[TaskError]

        def __init__(self, **values: Any) -> None: ...

    class TaskContext:
        """What a task that takes its context is given."""

        def __init__(self, *, task_result: TaskResult) -> None: ...

    class TaskResultDoesNotExist(Exception):  # noqa: N818 - Django's name
        """There is no such result."""

    class BaseTaskBackend:
        """What backends derive from."""

        alias: str
        queues: set[str]
        options: dict[str, Any]

        def __init__(self, alias: str, params: Mapping[str, Any]) -> None: ...

        def validate_task(self, task: Task) -> None:
            """Raise `InvalidTask` if the backend cannot run a task."""
            ...

else:
    try:
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
        from django.tasks.exceptions import TaskResultDoesNotExist
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "django":
            raise
        raise ModuleNotFoundError(
            "offload.django needs Django 6 or later, which has django.tasks: install the extra, as "
            "in pip install 'offload[django]'",
            name=error.name,
        ) from None


def send(signal: str, sender: type, task_result: TaskResult) -> None:
    """Send a signal of `django.tasks.signals`."""
    from importlib import import_module

    signals: Any = import_module("django.tasks.signals")
    getattr(signals, signal).send(sender=sender, task_result=task_result)


def backends_of(kind: type) -> dict[str, Any]:
    """Return the backends of the settings that are of a kind, by alias."""
    from importlib import import_module

    tasks: Any = import_module("django.tasks")
    aliases: list[str] = list(tasks.task_backends.settings)
    found = {alias: tasks.task_backends[alias] for alias in aliases}
    return {alias: backend for alias, backend in found.items() if isinstance(backend, kind)}

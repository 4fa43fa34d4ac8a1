"""The backend: what Django asks of it, and the jobs that it asks."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

from offload._workers.keeper import keeper
from offload.django._border import (
    BaseTaskBackend,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    send,
)
from offload.django._results import result_of
from offload.django._task import OffloadTask, runner_of
from offload.jobs import JobNotFoundError, Jobs
from offload.jobs._functions import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from offload.django._border import Task

__all__ = ["OffloadBackend"]

T = TypeVar("T")


class OffloadBackend(BaseTaskBackend):
    """A backend for `django.tasks`.

    ```python
    TASKS = {
        "default": {
            "BACKEND": "offload.django.OffloadBackend",
            "QUEUES": ["default", "mail"],
            "OPTIONS": {"url": "redis://127.0.0.1:6379/0", "max_attempts": 5, "timeout": 60},
        }
    }
    ```

    OPTIONS are the arguments of `offload.jobs.Jobs`, each with its default; and `max_workers`, how
    many tasks one worker program runs at once (default: the CPUs).

    A task's function is plain: of `async def`, a worker process would run nothing. Arguments and
    results are JSON, as Django has them. `task_started` and `task_finished` are sent in the process
    that runs the task; where that is killed nothing is sent, but its result says so.

    Raises:
        TypeError: one of OPTIONS is unknown, or has the wrong type.
        ValueError: one of OPTIONS is out of range, or the URL is wrong.
    """

    task_class = OffloadTask
    supports_defer = True
    supports_async_task = False
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        options = dict(self.options)
        self.max_workers: Final[int | None] = options.pop("max_workers", None)
        self.jobs: Final = Jobs(options.pop("url", None), **options)
        self.jobs.served_queues = frozenset(self.queues)
        self._loop: Final = _Loop()

    # Enqueuing

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Enqueue a task, durably when this returns.

        Raises:
            InvalidTask: the backend cannot run it.
            TypeError: an argument has no JSON.
            JobArgumentError: the arguments are too large.
            JobQueueFullError: the queue has `max_queued` tasks.
            JobsUnavailableError: the engine cannot be reached, or cannot store.
        """
        result, put = self._prepared(task, args, kwargs)
        self._loop.wait(put)
        send("task_enqueued", type(self), result)
        return result

    async def aenqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Enqueue a task, as `enqueue` does."""
        result, put = self._prepared(task, args, kwargs)
        await self._loop.future(put)
        send("task_enqueued", type(self), result)
        return result

    def _prepared(
        self, task: Task, args: Any, kwargs: Any
    ) -> tuple[TaskResult, Callable[[], Coroutine[Any, Any, Any]]]:
        from offload.jobs._call_options import new_id

        self.validate_task(task)
        result = TaskResult(
            task=task,
            id=new_id(),
            status=TaskResultStatus.READY,
            enqueued_at=datetime.now(UTC),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=list(args),
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        options: dict[str, Any] = {
            "id": result.id,
            "queue": task.queue_name,
            "priority": task.priority,
        }
        if task.run_after is not None:
            options["at"] = _aware(task.run_after)
        function = runner_of(task.func, task.takes_context, task.backend, task.queue_name)
        # The result has them as Django does: plain JSON, with lists for tuples.
        put = self.jobs.options(**options).enqueue
        return result, partial(put, function, result.args, result.kwargs)

    # Looking

    def get_result(self, result_id: str) -> TaskResult:
        """Return what is known of a task.

        Raises:
            TaskResultDoesNotExist: there is no such job, or no longer, or its task is in none of
                the modules that Django has for tasks.
            JobsUnavailableError: the engine cannot be reached.
        """
        return self._loop.wait(partial(self._result, result_id))

    async def aget_result(self, result_id: str) -> TaskResult:
        """Return what is known of a task, as `get_result` does."""
        return await self._loop.future(partial(self._result, result_id))

    async def _result(self, result_id: str) -> TaskResult:
        try:
            job = await self.jobs.get(result_id)
            status = await job.status()
        except JobNotFoundError as error:
            raise TaskResultDoesNotExist(result_id) from error
        task = task_of(status.function)
        if task is None:
            # No name that comes out of a store is imported; the applications' own modules are.
            loading: Any = import_module("django.utils.module_loading")
            loading.autodiscover_modules("tasks")
            task = task_of(status.function)
        if task is None:
            raise TaskResultDoesNotExist(
                f"{result_id} is of {status.function}, which is no task of this program: import "
                "its module first"
            )
        return result_of(status, task, self.alias)


def _aware(instant: datetime) -> datetime:
    if instant.tzinfo is not None:
        return instant
    # Without USE_TZ, Django's instants are of the settings' time zone.
    timezone: Any = import_module("django.utils.timezone")
    aware: datetime = timezone.make_aware(instant)
    return aware


class _Loop:
    """An event loop beside Django's threads, which have none: the one that also serves pools."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0

    def wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine, and block the calling thread until it has ended."""
        future = asyncio.run_coroutine_threadsafe(call(), self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def future(self, call: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Run a coroutine, and return a future for the running event loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._running()))

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # A forked server has none of its parent's threads.
            if self._pid != os.getpid():
                keeper.hold()
                self._pid = os.getpid()
        return keeper.loop

"""One worker that is a slot of a `concurrent.futures` executor."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent import futures
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from dataclasses import replace
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, Protocol

from offload._child import executor_task
from offload._child.os_priority import hasten
from offload._wire.exceptions import message_of, summary, trace, type_name
from offload._workers.backend import Exit, PoolWorker, Revoked
from offload._workers.keeper import keeper, submit_once
from offload._workers.logs import log_safely
from offload._workers.supervisor_client import main_module
from offload.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._decisions.words import StopReason
    from offload._workers.backend import WorkerOwner, WorkerTask

__all__ = ["INTERPRETERS", "ExecutorHome", "ExecutorWorker", "shut_down"]

_logger = logging.getLogger("offload.workers")

# Threads by inheritance, though what they run is pickled (Python 3.14).
INTERPRETERS: Any = getattr(futures, "InterpreterPoolExecutor", ())
# Between SIGTERM and SIGKILL, as for workers of our own.
_TERMINATE_SECONDS = 0.5
# For exit hooks of a process that was told to end.
_EXIT_SECONDS = 5.0


class ExecutorHome(Protocol):
    """The backend, as a worker of it sees it."""

    owner: WorkerOwner
    # Whether each worker has a process of its own, which is ours to end.
    is_process: bool
    # Whether the executor is ours to shut down.
    is_ours: bool

    def remove(self, worker: ExecutorWorker, how: Exit) -> None:
        """Report the end of a worker, once."""
        ...


class ExecutorWorker(PoolWorker):
    """One slot of an executor: it owns the future of its task, and its process if that is ours.

    An executor calls back on a thread of its own (`_done`), or within `submit`. What that means for
    the worker happens on the keeper's thread, as for workers that are processes; ending an executor
    may take long, and has a thread to itself.
    """

    __slots__ = ("ending", "executor", "future", "home", "is_revoking", "main", "process")

    def __init__(self, number: int, executor: Executor, home: ExecutorHome) -> None:
        super().__init__(number)
        self.home = home
        self.executor = executor
        self.main = main_module() if isinstance(executor, INTERPRETERS) else None
        self.process: Any = None
        self.future: Future[Any] | None = None
        # Taken, for ever, by the first of those who would end it.
        self.ending = threading.Lock()
        self.is_revoking = False

    def __repr__(self) -> str:
        return f"<worker {self.number} of {type(self.executor).__name__} {self.state.value}>"

    # On the thread of the task's loop.

    def send(self, task: WorkerTask) -> bool:
        """Submit a task; False if the executor is broken."""
        request = task.request.payload
        assert isinstance(request, bytes)
        try:
            future = self._submit(request)
        except Exception as error:  # noqa: BLE001 - whatever an executor of the user raises
            _logger.debug("executor of %r refused a task: %r", self, error)
            self._broken(received=False)
            return False
        self.future = future
        if future.done():
            # An executor that runs in `submit`. Not here: the next task would begin within this
            # one, and so on.
            keeper.post(self._done, task, future)
        else:
            future.add_done_callback(lambda future: self._done(task, future))
        return True

    def _submit(self, request: bytes) -> Future[Any]:
        executor = self.executor
        if isinstance(executor, INTERPRETERS):
            path = tuple(sys.path)
            future: Future[Any] = executor.submit(
                executor_task.run_in_interpreter, path, self.main, request
            )
            return future
        if isinstance(executor, ThreadPoolExecutor):
            return submit_once(executor, executor_task.run, request)
        return executor.submit(executor_task.run, request)

    def send_more(self, kind: int, body: bytes) -> None:
        """Refuse: an executor has no way to send more to a task."""
        raise NotImplementedError

    # On any thread.

    def stop(self, reason: StopReason, grace: float) -> None:
        """Stop the worker: end its process if it has one that is ours."""
        del grace  # there is no memory shared with it: it cannot be asked
        keeper.post(self._stop, reason)

    def revoke(self, task: WorkerTask) -> Revoked:
        """Take back a task that waits in the queue of an executor that others use as well."""
        del task  # the only one that this worker has
        future = self.future
        if future is None or self.home.is_process:
            return Revoked.NO
        self.is_revoking = True
        try:
            if not future.cancel():
                return Revoked.NO
        finally:
            self.is_revoking = False
        # Others may cancel what runs as well: a future of Dask's never says that it runs.
        is_stdlib = isinstance(self.executor, (ThreadPoolExecutor, ProcessPoolExecutor))
        return Revoked.UNSTARTED if is_stdlib else Revoked.FREED

    def has_replied(self, task: WorkerTask) -> bool:
        """Return whether a task has ended."""
        del task
        return self.future is None or self.future.done()

    # On a thread of the executor, or that of the task's loop if the task is done already.

    def _done(self, task: WorkerTask, future: Future[Any]) -> None:
        self.future = None
        if future.cancelled() and self.is_revoking:
            return  # whoever cancels it knows
        if future.cancelled():
            error: BaseException | None = BrokenExecutor("the task was cancelled by its executor")
        else:
            error = future.exception()
        ended = self.home.owner.ended_elsewhere
        if error is None:
            ended(task, future.result())
        elif isinstance(error, BrokenExecutor) or self.home.is_process:
            self._broken(received=True)
        else:
            ended(task, None, error if isinstance(error, Exception) else _tame(error))

    def _broken(self, *, received: bool) -> None:
        if self.home.is_process:
            self.end(force=True, received=received)
        else:
            keeper.post(self.home.remove, self, Exit(received=received, started=received))

    # On any thread, and then on one for the purpose: stdlib waits for processes and threads.

    def end(self, *, force: bool, received: bool = True) -> None:
        """End a process of ours and report it, once."""
        if not self.ending.acquire(blocking=False):
            return

        def end() -> None:
            how = self.end_executor(force=force)
            how = replace(how, received=received, started=received)
            keeper.post(self.home.remove, self, how)

        keeper.post(self._end_in_thread, end)

    def end_executor(self, *, force: bool) -> Exit:
        """End an executor that is ours; wait for the end of its process, and tell how it ended."""
        process, executor = self.process, self.executor
        if process is None:
            shut_down(executor, wait=False)
            return Exit()
        if force:
            process.terminate()
        else:
            shut_down(executor, wait=False)
        if not connection.wait([process.sentinel], _TERMINATE_SECONDS if force else _EXIT_SECONDS):
            self.kill()
        # A thread of the executor reaps the process: to ask for its exit code before that has
        # ended would be a race for the only copy of its status.
        shut_down(executor, wait=True)
        code = process.exitcode
        return Exit(
            pid=process.pid,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
        )

    def kill(self) -> None:
        """Kill its process, if it has one that is ours."""
        if self.process is not None:
            self.process.kill()
            hasten([self.process.pid])

    # On the keeper's thread.

    def _end_in_thread(self, end: Callable[[], None]) -> None:
        try:
            threading.Thread(target=end, name="offload-end", daemon=True).start()
        except RuntimeError:  # no more threads: what can be done without one, and the rest later
            self.kill()
            keeper.loop.call_later(_TERMINATE_SECONDS, self._end_in_thread, end)

    def _stop(self, reason: StopReason) -> None:
        future = self.future
        if self.home.is_process:
            self.end(force=future is not None or reason.is_urgent)
        elif future is not None:
            # Cannot be stopped: it is usable again when its task has ended by itself.
            recovered = self.home.owner.worker_recovered
            future.add_done_callback(lambda _: keeper.post(recovered, self))
        else:
            self.home.remove(self, Exit())


def _tame(error: BaseException) -> RemoteError:
    """Return what may be raised in a server in the place of what may not, such as SystemExit."""
    return RemoteError(
        f"the task ended with {summary(error)}",
        type_name=type_name(error),
        remote_message=message_of(error),
        remote_traceback=trace(error),
    )


def shut_down(executor: Executor, *, wait: bool) -> None:
    """Shut an executor down, whosever it is; what that raises is logged."""
    try:
        try:
            executor.shutdown(wait=wait, cancel_futures=True)
        except TypeError:  # older than `cancel_futures`, as Dask's
            executor.shutdown(wait=wait)
    except Exception:  # noqa: BLE001 - it is logged
        name = type(executor).__name__
        log_safely(_logger, logging.ERROR, "%s cannot be shut down", name, exc_info=True)

"""Workers that are slots of `concurrent.futures` executors.

Any executor will do: a `ProcessPoolExecutor` (one of a single process for each worker, so that a
crash costs one task), threads, sub-interpreters, a Dask cluster. What an executor cannot do, stop a
running task above all, its workers cannot do either, and say so.
"""

from __future__ import annotations

import logging
import multiprocessing
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
from typing import TYPE_CHECKING, Any

from offload._child import executor_task
from offload._child.supervisor import hasten
from offload._decisions.dispatch import Worker
from offload._wire.exceptions import message_of, summary, trace, type_name
from offload._workers.backend import Exit, Revoked
from offload._workers.keeper import keeper, submit_once
from offload._workers.logs import log_safely
from offload.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._workers.backend import Owner, Settings

_logger = logging.getLogger("offload.workers")

# Threads by inheritance, though what they run is pickled (Python 3.14).
_INTERPRETERS: Any = getattr(futures, "InterpreterPoolExecutor", ())
# Between SIGTERM and SIGKILL, as for workers of our own.
_TERMINATE_SECONDS = 0.5
# For exit hooks of a process that was told to end.
_EXIT_SECONDS = 5.0


class ExecutorWorker(Worker):
    """One slot of an executor."""

    __slots__ = ("executor", "future", "is_ending", "is_revoking", "number", "pid", "process")

    def __init__(self, number: int, executor: Executor) -> None:
        super().__init__()
        self.number = number
        self.executor = executor
        self.pid: int | None = None
        self.process: Any = None
        self.future: Future[Any] | None = None
        self.is_ending = False
        self.is_revoking = False

    def __repr__(self) -> str:
        return f"<worker {self.number} of {type(self.executor).__name__} {self.state.value}>"


class ExecutorCrew:
    """Workers of one pool on executors: an instance that they share, or one made for each."""

    has_descriptors = can_ask = False

    def __init__(
        self, owner: Owner, settings: Settings, executor: Executor | Callable[[], Executor]
    ) -> None:
        self._owner = owner
        self._settings = settings
        self._executor = executor
        self._is_process = executor is ProcessPoolExecutor
        self._workers: dict[int, ExecutorWorker] = {}
        # Starts under way, and those of them that have a process to kill.
        self._starts = 0
        self._starting: set[ExecutorWorker] = set()
        self._next_number = 1
        self._closed: Future[None] | None = None
        self._lock = threading.Lock()
        self.can_stop = self._is_process

    # --- on any thread ---

    def start(self) -> None:
        """Make one worker."""
        with self._lock:
            self._starts += 1
        # By way of the keeper: who starts a thread waits until it runs, which on a busy machine is
        # longer than an event loop may be held.
        keeper.post(self._start_thread)

    def stop(self, worker: ExecutorWorker, reason: str, grace: float) -> None:
        """Stop a worker: end its process if it has one that is ours."""
        del grace  # there is no memory shared with it: it cannot be asked
        keeper.post(self._stop, worker, reason)

    def close(self) -> Future[None]:
        """End every worker that is ours to end."""
        with self._lock:
            if self._closed is None:
                self._closed = Future()
                keeper.post(self._close)
            return self._closed

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that has the workers."""
        self._workers.clear()

    def workers(self) -> list[Any]:
        """Return the workers that are alive; each has `pid`, None where unknown."""
        return list(self._workers.values())

    def begin(self, worker: ExecutorWorker, call: Any) -> bool:
        """Submit a call; False if the executor is broken."""
        try:
            future = self._submit(worker.executor, call.request)
        except Exception as error:  # noqa: BLE001 - whatever an executor of the user raises
            _logger.debug("executor of %r refused a task: %r", worker, error)
            self._broken(worker, received=False)
            return False
        worker.future = future
        if future.done():
            # An executor that runs in `submit`. Not here: the next call would begin within this
            # one, and so on.
            keeper.post(self._done, worker, call, future)
        else:
            future.add_done_callback(lambda future: self._done(worker, call, future))
        return True

    def _submit(self, executor: Executor, request: bytes) -> Future[Any]:
        if isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, _INTERPRETERS):
            return submit_once(executor, executor_task.run, request)
        return executor.submit(executor_task.run, request)

    def revoke(self, worker: ExecutorWorker, call: Any) -> Revoked:
        """Take back a call that waits in the queue of an executor that others use as well."""
        del call  # the only one that this worker has
        future = worker.future
        if future is None or self._is_process:
            return Revoked.NO
        worker.is_revoking = True
        try:
            if not future.cancel():
                return Revoked.NO
        finally:
            worker.is_revoking = False
        # Others may cancel what runs as well: a future of Dask's never says that it runs.
        is_stdlib = isinstance(worker.executor, (ThreadPoolExecutor, ProcessPoolExecutor))
        return Revoked.UNSTARTED if is_stdlib else Revoked.FREED

    def has_replied(self, worker: ExecutorWorker, call: Any) -> bool:
        """Return whether a call has ended."""
        del call
        return worker.future is None or worker.future.done()

    def more(self, worker: Any, kind: int, body: bytes) -> None:
        """Refuse: an executor has no way to send more to a task."""
        raise NotImplementedError

    # --- on a thread of the executor, or that of the call's loop if the task is done already ---

    def _done(self, worker: ExecutorWorker, call: Any, future: Future[Any]) -> None:
        worker.future = None
        if future.cancelled() and worker.is_revoking:
            return  # whoever cancels it knows
        if future.cancelled():
            error: BaseException | None = BrokenExecutor("the task was cancelled by its executor")
        else:
            error = future.exception()
        if error is None:
            kind, flags, body = future.result()
            call.take_on_thread((kind, flags, body, None))
        elif isinstance(error, BrokenExecutor) or self._is_process:
            self._broken(worker, received=True)
        else:
            call.take_on_thread(None, error if isinstance(error, Exception) else _tame(error))

    def _broken(self, worker: ExecutorWorker, *, received: bool) -> None:
        if self._is_process:
            self._end(worker, force=True, received=received)
        else:
            keeper.post(self._gone, worker, Exit(received=received, started=received))

    # --- on a thread for the purpose: stdlib waits for processes and for threads of its own ---

    def _start(self) -> None:
        worker: ExecutorWorker | None = None
        try:
            worker = self._new_worker()
            detail = self._wait_ready(worker)
        except TimeoutError:
            seconds = self._settings.start_timeout
            detail = f"the worker was not ready after {seconds:g} s (start_timeout); it was killed"
        except BaseException as error:  # noqa: BLE001 - whatever a factory of the user raises
            detail = f"{type(error).__name__}: {error}"
        if worker is None:
            self._owner.worker_failed(Worker(), detail)
        elif detail:
            if self._is_ours:
                how = self._end_executor(worker, force=True)
                if worker.pid is None and worker.process is not None:
                    detail += f" ({how})"
            self._owner.worker_failed(worker, detail)
        else:
            with self._lock:
                self._workers[worker.number] = worker
            self._owner.worker_ready(worker)
        with self._lock:
            if worker is not None:
                self._starting.discard(worker)
            self._starts -= 1
            is_closed = self._closed is not None
        if is_closed:
            keeper.post(self._close)

    def _new_worker(self) -> ExecutorWorker:
        executor = self._new_executor()
        with self._lock:
            worker = ExecutorWorker(self._next_number, executor)
            self._next_number += 1
        return worker

    def _wait_ready(self, worker: ExecutorWorker) -> str:
        """Wait until a worker is ready; return why it is not, if so."""
        # An executor that others use as well may be busy: that it accepts a task is enough.
        future = worker.executor.submit(executor_task.ready)
        if not self._is_process:
            return ""
        worker.process = next(iter(getattr(worker.executor, "_processes", {}).values()), None)
        with self._lock:
            self._starting.add(worker)
            is_closed = self._closed is not None
        if is_closed:
            _kill(worker.process)
        worker.pid, detail = future.result(self._settings.start_timeout)
        return detail

    def _new_executor(self) -> Executor:
        if isinstance(self._executor, Executor):
            return self._executor
        if not self._is_process:
            return self._executor()
        settings = self._settings
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context(settings.start_method),
            initializer=_begin,
            initargs=(
                settings.env,
                settings.os_priority,
                settings.initializer,
                [*settings.preload, *self._owner.modules()],
                settings.max_memory_bytes,
            ),
        )

    def _end(self, worker: ExecutorWorker, *, force: bool, received: bool = True) -> None:
        """End a process of ours and report it, once."""
        with self._lock:
            if worker.is_ending:
                return
            worker.is_ending = True

        def end() -> None:
            how = self._end_executor(worker, force=force)
            keeper.post(self._gone, worker, replace(how, received=received, started=received))

        keeper.post(self._end_thread, worker, end)

    def _end_executor(self, worker: ExecutorWorker, *, force: bool) -> Exit:
        """End an executor that is ours; wait for the end of its process, and tell how it ended."""
        process, executor = worker.process, worker.executor
        if process is None:
            _shut_down(executor, wait=False)
            return Exit()
        if force:
            process.terminate()
        else:
            _shut_down(executor, wait=False)
        if not connection.wait([process.sentinel], _TERMINATE_SECONDS if force else _EXIT_SECONDS):
            _kill(process)
        # A thread of the executor reaps the process: to ask for its exit code before that has
        # ended would be a race for the only copy of its status.
        _shut_down(executor, wait=True)
        code = process.exitcode
        return Exit(
            pid=process.pid,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
        )

    # --- on the keeper's thread ---

    def _start_thread(self) -> None:
        # Not here: starting the first process of a forkserver takes 100 ms.
        try:
            threading.Thread(target=self._start, name="offload-start", daemon=True).start()
        except RuntimeError as error:  # no more threads
            with self._lock:
                self._starts -= 1
            self._owner.worker_failed(Worker(), f"a worker cannot be started: {error}")
            self._finish_close()

    def _end_thread(self, worker: ExecutorWorker, end: Callable[[], None]) -> None:
        try:
            threading.Thread(target=end, name="offload-end", daemon=True).start()
        except RuntimeError:  # no more threads: what can be done without one, and the rest later
            _kill(worker.process)
            keeper.loop.call_later(_TERMINATE_SECONDS, self._end_thread, worker, end)

    def _stop(self, worker: ExecutorWorker, reason: str) -> None:
        future = worker.future
        if self._is_process:
            self._end(worker, force=future is not None or reason in ("cancel", "timeout"))
        elif future is not None:
            # Cannot be stopped: it is usable again when its task has ended by itself.
            future.add_done_callback(lambda _: keeper.post(self._owner.worker_recovered, worker))
        else:
            self._gone(worker, Exit())

    @property
    def _is_ours(self) -> bool:
        return not isinstance(self._executor, Executor)

    def _gone(self, worker: ExecutorWorker, how: Exit) -> None:
        if self._is_ours and not self._is_process:
            # A task in a thread cannot be ended; the pool goes on, and closes, without it.
            _shut_down(worker.executor, wait=False)
        if self._workers.pop(worker.number, None) is not None:
            self._owner.worker_gone(worker, how)
        self._finish_close()

    def _close(self) -> None:
        with self._lock:
            starting = list(self._starting)
        for worker in starting:
            _kill(worker.process)
        for worker in list(self._workers.values()):
            if self._is_process:
                self._end(worker, force=True)
            else:
                self._gone(worker, Exit())
        self._finish_close()

    def _finish_close(self) -> None:
        closed = self._closed
        if closed is None or closed.done() or self._workers or self._starts:
            return
        closed.set_result(None)


def _tame(error: BaseException) -> RemoteError:
    """Return what may be raised in a server in the place of what may not, such as SystemExit."""
    return RemoteError(
        f"the task ended with {summary(error)}",
        type_name=type_name(error),
        remote_message=message_of(error),
        remote_traceback=trace(error),
    )


def _shut_down(executor: Executor, *, wait: bool) -> None:
    """Shut an executor down, whosever it is; what that raises is logged."""
    try:
        try:
            executor.shutdown(wait=wait, cancel_futures=True)
        except TypeError:  # older than `cancel_futures`, as Dask's
            executor.shutdown(wait=wait)
    except Exception:  # noqa: BLE001 - it is logged
        name = type(executor).__name__
        log_safely(_logger, logging.ERROR, "%s cannot be shut down", name, exc_info=True)


def _kill(process: Any) -> None:
    if process is not None:
        process.kill()
        hasten([process.pid])


def _begin(env: dict[str, str | None], *arguments: Any) -> None:
    import os

    # Before anything is imported that reads it.
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    executor_task.begin(*arguments)

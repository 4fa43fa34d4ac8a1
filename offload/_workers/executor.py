"""Workers that are slots of `concurrent.futures` executors.

Any executor will do: a `ProcessPoolExecutor` (one of a single process for each worker, so that a
crash costs one task), threads, sub-interpreters, a Dask cluster. What an executor cannot do, stop a
running task above all, its workers cannot do either, and say so.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from offload._child import executor_task
from offload._decisions.words import Worker
from offload._workers.backend import Exit
from offload._workers.executor_worker import INTERPRETERS, ExecutorWorker, shut_down
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._workers.backend import Settings, WorkerOwner

__all__ = ["ExecutorBackend"]


class ExecutorBackend:
    """Workers of one pool on executors: an instance that they share, or one made for each."""

    has_descriptors = can_ask = False
    missing_walls: tuple[str, ...] = ()

    def __init__(
        self, owner: WorkerOwner, settings: Settings, executor: Executor | Callable[[], Executor]
    ) -> None:
        self.owner = owner
        self._settings = settings
        self.os_priority = settings.os_priority
        self._executor = executor
        self.is_process = self.can_stop = executor is ProcessPoolExecutor
        self.is_ours = not isinstance(executor, Executor)
        self._workers: dict[int, ExecutorWorker] = {}
        # Starts under way, and those of them that have a process to kill.
        self._starts = 0
        self._starting: set[ExecutorWorker] = set()
        self._next_number = 1
        self._closed: Future[None] | None = None
        self._lock = threading.Lock()

    # On any thread.

    def start(self) -> None:
        """Make one worker."""
        with self._lock:
            self._starts += 1
        # By way of the keeper: who starts a thread waits until it runs, which on a busy machine is
        # longer than an event loop may be held.
        keeper.post(self._start_in_thread)

    def renew(self) -> None:
        """Do nothing: workers of executors share nothing that we know of."""

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

    def workers(self) -> list[ExecutorWorker]:
        """Return the workers that are alive."""
        return list(self._workers.values())

    # On a thread for the purpose: stdlib waits for processes and for threads of its own.

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
            self.owner.worker_failed(Worker(), detail)
        elif detail:
            if self.is_ours:
                how = worker.end_executor(force=True)
                if worker.pid is None and worker.process is not None:
                    detail += f" ({how})"
            self.owner.worker_failed(worker, detail)
        else:
            with self._lock:
                self._workers[worker.number] = worker
            self.owner.worker_ready(worker)
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
            worker = ExecutorWorker(self._next_number, executor, self)
            self._next_number += 1
        return worker

    def _wait_ready(self, worker: ExecutorWorker) -> str:
        """Wait until a worker is ready; return why it is not, if so."""
        # An executor that others use as well may be busy: that it accepts a task is enough.
        future = worker.executor.submit(executor_task.ready)
        if not self.is_process:
            return ""
        worker.process = next(iter(getattr(worker.executor, "_processes", {}).values()), None)
        with self._lock:
            self._starting.add(worker)
            is_closed = self._closed is not None
        if is_closed:
            worker.kill()
        worker.pid, detail = future.result(self._settings.start_timeout)
        return detail

    def _new_executor(self) -> Executor:
        if isinstance(self._executor, Executor):
            return self._executor
        if not self.is_process:
            # Of stdlib's classes themselves, one that takes one task at a time, as its worker does.
            is_stdlib = self._executor in (ThreadPoolExecutor, INTERPRETERS)
            make: Callable[..., Executor] = self._executor
            return make(1) if is_stdlib else make()
        settings = self._settings
        initializer = settings.initializer
        return ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context(settings.start_method),
            initializer=_begin,
            initargs=(
                settings.env,
                settings.os_priority,
                initializer() if callable(initializer) else initializer,
                [*settings.preload, *self.owner.modules()],
                settings.max_memory_bytes,
            ),
        )

    # On the keeper's thread.

    def _start_in_thread(self) -> None:
        # Not here: starting the first process of a forkserver takes 100 ms.
        try:
            threading.Thread(target=self._start, name="offload-start", daemon=True).start()
        except RuntimeError as error:  # no more threads
            with self._lock:
                self._starts -= 1
            self.owner.worker_failed(Worker(), f"a worker cannot be started: {error}")
            self._finish_close()

    def remove(self, worker: ExecutorWorker, how: Exit) -> None:
        """Report the end of a worker, once."""
        if self.is_ours and not self.is_process:
            # A task in a thread cannot be ended; the pool goes on, and closes, without it.
            shut_down(worker.executor, wait=False)
        if self._workers.pop(worker.number, None) is not None:
            self.owner.worker_gone(worker, how)
        self._finish_close()

    def _close(self) -> None:
        with self._lock:
            starting = list(self._starting)
        for worker in starting:
            worker.kill()
        for worker in self.workers():
            if self.is_process:
                worker.end(force=True)
            else:
                self.remove(worker, Exit())
        self._finish_close()

    def _finish_close(self) -> None:
        closed = self._closed
        if closed is None or closed.done() or self._workers or self._starts:
            return
        closed.set_result(None)


def _begin(env: dict[str, str | None], *arguments: Any) -> None:
    # Before anything is imported that reads it.
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    executor_task.begin(*arguments)

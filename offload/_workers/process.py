"""Workers that are processes with a socket of their own, started by a supervisor process.

    event loop ──── socketpair ────► worker process     tasks and results; one pair for each worker
    keeper thread ─ control socket ► supervisor ─fork─► worker processes   starts, exits, signals

The event loop has a persistent reader on the socket of each worker that it used last: what a worker
says about its task arrives there (`offload._workers.connection`). That a worker has ended arrives
at the keeper, from the supervisor, with its exit status (`offload._workers.supervisor_client`).
What either makes of a worker is the worker's own affair (`offload._workers.process_worker`).
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import socket
import threading
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from offload._decisions.words import Worker
from offload._wire.memory_file import anonymous_file, seal
from offload._wire.page import shared_bytes
from offload._wire.shared_buffers import keep_freed_memory
from offload._wire.supervision import PAGE_LABEL
from offload._wire.tracking import unpack_news
from offload._workers.code_on_disk import code_on_disk
from offload._workers.keeper import keeper
from offload._workers.kinship import track
from offload._workers.logs import log_safely, relay
from offload._workers.process_state import CLOSE_SECONDS, REPORT_SECONDS, Event, ProcessState
from offload._workers.process_worker import ProcessWorker
from offload._workers.supervisor_client import SupervisorClient

if TYPE_CHECKING:
    from offload._workers.backend import Settings, WorkerOwner

__all__ = ["ProcessBackend"]

_logger = logging.getLogger("offload.workers")

# Where multiprocessing's shared memory and semaphores are (Linux).
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - not for files of ours
# For the keeper, which does one thing after the other, to come to it.
_RENEW_SECONDS = 1.0
_RUN_THE_OLD_CODE = (
    "its workers run what it has imported. Restart it, and all of them run the new code"
)
_MAY_RUN_THE_NEW_CODE = (
    "the old code was not kept, so that new workers run the new code, while it and its other "
    "workers run the old. Restart it"
)
# For handlers of this process to be done with what workers have logged, when the pool closes.
_LOGS_SECONDS = 3.0


class ProcessBackend:
    """The workers of one pool, by number, and their supervisor."""

    has_descriptors = True
    can_stop = can_ask = True

    def __init__(self, owner: WorkerOwner, settings: Settings) -> None:
        self.owner = owner
        self.os_priority = settings.os_priority
        self.start_timeout = settings.start_timeout
        self.errors = settings.errors
        self.supervisor = SupervisorClient(self, settings)
        # Entries of `preload` that each worker loads for itself, and the number of threads that the
        # supervisor had with each of them: more than one, and so none may be forked.
        self.unshared: dict[str, int] = {}
        self.missing_walls: tuple[str, ...] = ()
        self._name = settings.name
        self._initializer = settings.initializer
        walls = settings.walls
        self._makes_shared_memory = walls is None or any(
            os.path.commonpath([path, _SHARED_MEMORY]) == path for path in walls["writable"]
        )
        self._workers: dict[int, ProcessWorker] = {}
        self._next_number = 1
        self._closed: Future[None] | None = None
        self._is_told_all = False
        self._lock = threading.Lock()
        keep_freed_memory()
        code_on_disk.hold()

    # On any thread.

    def start(self) -> None:
        """Start one worker."""
        keeper.post(self._start)

    def renew(self) -> None:
        """Have workers that are started from now on share nothing with those before."""
        if keeper.is_here():
            self.supervisor.renew()
            return
        done: Future[None] = Future()

        def renew() -> None:
            self.supervisor.renew()
            done.set_result(None)

        # Workers whose start was asked for before are known when this has been done, so that
        # whoever asks for all of them finds those that will have the old code, too.
        keeper.post(renew)
        with contextlib.suppress(TimeoutError):
            done.result(_RENEW_SECONDS)

    def close(self) -> Future[None]:
        """Kill every worker and the supervisor."""
        with self._lock:
            if self._closed is None:
                self._closed = Future()
                keeper.post(self._close)
            return self._closed

    @property
    def is_closed(self) -> bool:
        """Whether the pool was closed."""
        return self._closed is not None

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that has the workers.

        Our copies of the sockets would keep the workers and their supervisor from seeing the end
        of the process that they work for.
        """
        for worker in self._workers.values():
            worker.forget()
        self._workers.clear()
        self.supervisor.forget()

    def workers(self) -> list[ProcessWorker]:
        """Return the workers that are alive."""
        return list(self._workers.values())

    # On the keeper's thread.

    def _start(self) -> None:
        if self._closed is not None:
            return
        self._look_at_code()
        number = self._next_number
        self._next_number += 1
        with contextlib.ExitStack() as stack:
            try:
                ours, theirs = socket.socketpair()
                stack.callback(theirs.close)
                page = anonymous_file(f"{PAGE_LABEL}{number}")
                stack.callback(os.close, page)
                os.ftruncate(page, shared_bytes())
                # Both of us have it mapped: what ends the one who touches it must not be possible.
                seal(page, is_written=False)
                memory = mmap.mmap(page, shared_bytes())
                worker = ProcessWorker(number, self, ours, memory)
            except Exception as error:  # noqa: BLE001 - told by the error of each call that waits
                self.owner.worker_failed(Worker(), f"a worker cannot be started: {error!r}")
                return
            self._workers[number] = worker
            worker.launch(theirs.fileno(), page)

    def _look_at_code(self) -> None:
        """Say so, once for each change, if files are no longer what this process has imported."""
        kept, lost = code_on_disk.look()
        for files, what in ((kept, _RUN_THE_OLD_CODE), (lost, _MAY_RUN_THE_NEW_CODE)):
            if files:
                log_safely(
                    _logger,
                    logging.WARNING,
                    "%s changed on disk since this process imported it: %s",
                    ", ".join(files),
                    what,
                    extra={"offload_pool": self._name},
                )

    def worker_started(self, number: int, pid: int, pidfd: int | None) -> None:
        """Take note of a worker's process."""
        if (worker := self._workers.get(number)) is not None:
            worker.pid, worker.pidfd = pid, pidfd
        elif pidfd is not None:
            os.close(pidfd)

    def walls_missing(self, walls: tuple[str, ...]) -> None:
        """Take note of walls that a worker does without, and say so once."""
        if not set(walls) - set(self.missing_walls):
            return
        self.missing_walls = tuple(sorted({*walls, *self.missing_walls}))
        log_safely(
            _logger,
            logging.WARNING,
            "workers of pool %r are hardened, except for: %s. This system does not allow it; see "
            "`offload doctor`",
            self._name,
            ", ".join(self.missing_walls),
            extra={"offload_pool": self._name},
        )

    def track(self, news: bytes) -> bool:
        """Tell the resource tracker of this process what a worker says; False if none says that.

        It unlinks what it is told of: a worker that may not do that itself is not listened to.
        """
        if self._makes_shared_memory:
            return track(news)
        return unpack_news(news) is not None

    def worker_not_started(self, number: int, error: int) -> None:
        """Take note that the supervisor could not fork."""
        if (worker := self._workers.get(number)) is not None:
            worker.handle(Event.NOT_STARTED, f"fork failed: {os.strerror(error)}")

    def worker_exited(self, number: int, status: int) -> None:
        """Take note that a worker's process has ended."""
        if (worker := self._workers.get(number)) is not None:
            worker.exited(status)

    def preload_not_shared(self, entry: str, threads: int) -> None:
        """Take note that each worker loads an entry of `preload` for itself, and say so once."""
        if entry in self.unshared:
            return
        self.unshared[entry] = threads
        log_safely(
            _logger,
            logging.WARNING,
            "%r, which pool %r preloads, left %d threads running, and threads are lost in a fork. "
            "Each worker loads it for itself, in memory of its own. Load it with one thread (as a "
            "rule: env={'OMP_NUM_THREADS': '1'}), or take it out of `preload`",
            entry,
            self._name,
            threads - 1,
            extra={"offload_pool": self._name},
        )

    def supervisor_ended(self, exit_code: int | None) -> None:
        """Take note that all workers have ended with their supervisor; the next start makes one."""
        for worker in self.workers():
            if worker.process_state is ProcessState.ENDED:
                continue
            if worker.pid is not None:
                # The kernel ends the workers of a supervisor, but not what they have started. The
                # group still exists if, and only if, there is such a process in it.
                with contextlib.suppress(OSError):
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.kill_reason = worker.kill_reason or (
                f"the supervisor of pool {self._name!r} ended (exit code {exit_code}; what it said "
                "is in the standard error of this process)"
            )
            worker.exited(signal.SIGKILL)  # as wait(2) tells of it
        self._finish_close()
        if self._closed is None:
            log_safely(
                _logger,
                logging.ERROR,
                "the supervisor process of pool %r ended (exit code %s); its workers with it",
                self._name,
                exit_code,
                extra={"offload_pool": self._name},
            )

    def own_initializer(self) -> bytes | None:
        """Return the initializer, pickled for one worker; None if all are given the same."""
        return self._initializer() if callable(self._initializer) else None

    def remove(self, worker: ProcessWorker) -> None:
        """Take note that nothing of a worker is left."""
        self._workers.pop(worker.number, None)
        self._finish_close()

    def _close(self) -> None:
        if self._is_told_all:  # its last worker had just ended; the keeper may be let go of already
            return
        for worker in self.workers():
            worker.handle(Event.POOL_CLOSED, "the pool was closed")
        # A supervisor that has not ended its workers, and itself, in time is stopped, or hangs.
        keeper.loop.call_later(CLOSE_SECONDS + REPORT_SECONDS, self.supervisor.kill)
        self._finish_close()

    def _finish_close(self) -> None:
        if self._closed is None or self._workers:
            return
        if self.supervisor.is_alive:
            self.supervisor.end()
        elif not self._is_told_all:
            self._is_told_all = True
            code_on_disk.release()
            # Who has closed the pool finds all records handled, unless handlers are that slow.
            keeper.loop.call_later(_LOGS_SECONDS, self._tell_closed)
            relay.when_handled(self._tell_closed)

    def _tell_closed(self) -> None:
        assert self._closed is not None
        with contextlib.suppress(InvalidStateError):  # told already, by the other thread
            self._closed.set_result(None)

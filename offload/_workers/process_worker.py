"""One worker process: it owns its socket, its page of memory, its task and its timer.

Three threads meet here, and each does what only it can do:

1. The thread of the task's event loop sends the task and reads what the worker says. It writes
   `sent_count` and `last_sent` before it sends, and nothing else.
2. The keeper's thread starts, stops and buries the process. It alone changes `process_state`, by
   the table of `offload._workers.process_state`. Other threads post to it.
3. Any thread may stop a task (a timer, a signal handler, a button on the dashboard): `stop` raises
   the flag in the page at once, since the function may be looking at it, and posts the rest.

How a worker ends:

- Two informants tell of it, in either order: its socket, to the loop (`_socket_lost`), and the
  supervisor, to the keeper (`exited`). Both are needed. A socket that ends does not tell why; and
  the last result of a dying worker may still be in its socket when the supervisor reports the exit.
- So the report to the pool goes by way of the loop that has the socket, which reads it empty first
  (`_report_end`, `_gone`). If that loop is closed or stands still, the keeper reports after a
  second. The pool may therefore be told twice, and takes it once.
- Only after that the descriptors are closed (`Tell.FREE`), by the keeper.

Whether a task had been received or started is read from the page, where the worker notes the number
of the task that it has come to. Its number alone would not do: `task` is set by the pool before the
task is sent, so the page is asked only if the last task that was sent is the one in question.

Longer than most files: what happens to one worker is told in one place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal as signals
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from offload._child.functions import decorated_modules
from offload._decisions.words import WorkerState
from offload._wire.frames import SOCKET_BUFFER_BYTES, Kind, pack_frame
from offload._wire.page import CANCEL, RECEIVED, REPLIED, STARTED
from offload._wire.walls import unpack_ready
from offload._workers.backend import Exit, PoolWorker, Revoked
from offload._workers.connection import WorkerPage, WorkerSocket
from offload._workers.keeper import keeper
from offload._workers.kinship import authkey, strangers_key
from offload._workers.logs import has_console, log_levels, log_safely, relay
from offload._workers.places import places_of
from offload._workers.process_state import Event, ProcessState, Tell, next_step
from offload._workers.wary_assembler import (
    BrokenProtocolError,
    DataAssembler,
    WaryAssembler,
)
from offload._workers.watch import Doing, doing

if TYPE_CHECKING:
    import asyncio
    import mmap
    from collections.abc import Callable

    from offload._decisions.words import StopReason
    from offload._wire.frames import Frame
    from offload._workers.backend import WorkerOwner, WorkerTask
    from offload._workers.connection import WorkerConnection
    from offload._workers.supervisor_client import SupervisorClient

__all__ = ["ProcessWorker", "WorkerHome"]

_logger = logging.getLogger("offload.workers")

# For an idle worker to take the task that it was sent: fifty microseconds, as a rule.
_TAKE_SECONDS = 0.25


class WorkerHome(Protocol):
    """The backend, as a worker of it sees it."""

    owner: WorkerOwner
    supervisor: SupervisorClient
    start_timeout: float
    errors: dict[str, type[Exception]] | None

    @property
    def is_closed(self) -> bool:
        """Whether the pool was closed."""
        ...

    def own_initializer(self) -> bytes | None:
        """Return the initializer, pickled for one worker; None if all are given the same."""
        ...

    def walls_missing(self, walls: tuple[str, ...]) -> None:
        """Take note of walls that a worker does without."""
        ...

    def track(self, news: bytes) -> bool:
        """Take note of what a worker tells the resource tracker; False if none tells that."""
        ...

    def remove(self, worker: ProcessWorker) -> None:
        """Take note that nothing of a worker is left."""
        ...


class ProcessWorker(PoolWorker):
    """One worker process."""

    __slots__ = (
        "_is_refused",
        "exit",
        "home",
        "kill_reason",
        "last_sent",
        "page",
        "pidfd",
        "process_state",
        "sent_count",
        "socket",
        "timer",
    )

    def __init__(
        self, number: int, home: WorkerHome, endpoint: socket.socket, memory: mmap.mmap
    ) -> None:
        super().__init__(number)
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self.home = home
        self.page = WorkerPage(memory)
        self.socket = WorkerSocket(endpoint, self.page, self._assembler())
        self.process_state = ProcessState.STARTING
        self.timer: asyncio.TimerHandle | None = None
        self.sent_count = 0
        self.last_sent: WorkerTask | None = None
        self.exit = Exit()
        # Whether it has sent what none of ours sends, and is not listened to any more.
        self._is_refused = False
        # Stands for its process, and for no other that gets the same number: to kill it, the
        # supervisor is not needed.
        self.pidfd: int | None = None
        # Why we kill it, if that is for its own fault or ours.
        self.kill_reason = ""

    def __repr__(self) -> str:
        return (
            f"<worker {self.number} pid={self.pid} {self.state.value}, {self.process_state.value}>"
        )

    def _assembler(self) -> WaryAssembler:
        errors = self.home.errors
        return WaryAssembler() if errors is None else DataAssembler(self.distrust, errors)

    def _refuser(self) -> Callable[[str], object] | None:
        """Return what has it killed for what it says, where that must be data."""
        return None if self.home.errors is None else self.distrust

    # On the thread of the task's loop.

    def send(self, task: WorkerTask) -> bool:
        """Send a task; False if the worker is dead."""
        connection = self.socket.connection
        if connection is None or connection.loop is not task.loop:
            try:
                connection = self.socket.connect(task.loop, self._deliver, self._socket_lost)
            except OSError:
                return self._not_sent()
        # Before it is sent: its number must be above what a worker that is dead has received.
        self.sent_count += 1
        self.last_sent = task
        request = task.request
        try:
            if request.descriptor is None and type(request.payload) is bytes:
                connection.send(request.payload)  # the short way, on the path of most tasks
            else:
                request.send(self.page.memory, connection.send)
        except (OSError, ValueError):  # ValueError: of its page, which is closed when it has ended
            return self._not_sent()
        return True

    def _not_sent(self) -> bool:
        # Nearly always the worker is dead. It may also be that we ran out of descriptors, or the
        # kernel of memory. Either way the pool, which is told that it is dead, gives it nothing any
        # more, and it must end.
        keeper.post(self.handle, Event.SOCKET_LOST)
        return False

    def send_more(self, kind: int, body: bytes) -> None:
        """Send a frame of a stream; that the worker is dead is noticed elsewhere."""
        if self.socket.connection is not None:
            with contextlib.suppress(OSError):
                self.socket.connection.send(pack_frame(kind, body))

    def _deliver(self, frames: list[Frame]) -> None:
        """Hand over what the worker has sent."""
        replied = self.home.owner.replied
        records: list[bytes] | None = None
        for frame in frames:
            task: Any = self.task
            if self._is_refused:
                frame.close()
            elif frame.kind == Kind.LOG:
                records = [] if records is None else records
                records.append(frame.body)
            elif frame.kind == Kind.TRACK:
                if not self.home.track(frame.body):
                    self._refuse(frame, "it sent what no resource tracker is told")
            elif task is not None and frame.task == self.sent_count:
                if not replied(task, frame):
                    self._refuse(frame, "it sent what its task has no use for")
                elif self.last_sent is task and frame.kind < Kind.ITEM:
                    self.last_sent = None  # an idle worker keeps no megabytes, nor open files
            else:
                self._discard(frame)
        if records is not None:
            # Not here: handlers write to files and sockets. And together: each post to another
            # thread lets that have the GIL, for milliseconds at a time.
            keeper.post(relay.post, records, self._refuser())

    def _discard(self, frame: Frame) -> None:
        """Drop what is not for the worker's task, if it has one."""
        frame.close()
        if frame.kind >= Kind.ITEM:
            return
        if self.task is None:
            keeper.post(self._task_ended)
            return
        # A second reply to an earlier task: by code of that task, or by a mistake of ours. The
        # caller of the present one must not get the result of another: its worker dies instead.
        self._refuse(frame, "it had replied to one task twice")

    def _refuse(self, frame: Frame, why: str) -> None:
        """Have the worker killed for a frame, and listen to it no more."""
        frame.close()
        self._is_refused = True
        if self.socket.connection is not None:
            # It may send as fast as we read, until it is dead.
            self.socket.connection.close()
        keeper.post(self.handle, Event.MISBEHAVIOUR, why)
        log_safely(
            _logger,
            logging.ERROR,
            "%r is killed, since %s",
            self,
            why,
            extra={"offload_pid": self.pid},
        )

    def _socket_lost(self, failure: OSError | None) -> None:
        if isinstance(failure, BrokenProtocolError):
            keeper.post(self.handle, Event.MISBEHAVIOUR, failure.strerror)
        else:
            keeper.post(self.handle, Event.SOCKET_LOST)
        if failure is not None:
            # A dead worker; or our own limit of open files, which cost us a descriptor.
            log_safely(
                _logger,
                logging.DEBUG if isinstance(failure, ConnectionError) else logging.ERROR,
                "the socket of %r failed and is given up: %r",
                self,
                failure,
                extra={"offload_pid": self.pid},
            )

    # On any thread.

    def stop(self, reason: StopReason, grace: float) -> None:
        """Stop the worker: politely if it is idle, else by flag, SIGTERM and SIGKILL."""
        if not reason.is_urgent:
            keeper.post(self.handle, Event.STOP_IDLE)
            return
        # At once, and not by way of another thread: the function may be looking.
        self.page.set_word(CANCEL, 1)
        if grace > 0:
            keeper.post(self.handle, Event.STOP_WITH_GRACE, "", grace)
        else:
            keeper.post(self.handle, Event.STOP_NOW)

    def revoke(self, task: WorkerTask) -> Revoked:
        """Tell whether a worker that was just told to stop had entered its function.

        The worker writes that it enters the function, then reads the flag that `stop` has raised,
        and does not enter if it is. So either we see here that it has entered, or it sees the flag.
        """
        entered = self.page.word(STARTED)
        # If the worker has ended meanwhile, nobody knows how far it came. Its number is that of
        # another task if it has ended this one and been given the next.
        if entered is not None and self.last_sent is task and entered < self.sent_count:
            return Revoked.UNSTARTED
        return Revoked.NO

    def has_replied(self, task: WorkerTask) -> bool:
        """Return whether the reply to a task is in the socket, or about to be."""
        replied = self.page.word(REPLIED)
        return replied is not None and self.last_sent is task and replied >= self.sent_count

    def is_unresponsive(self, task: WorkerTask, seconds: float) -> bool:
        """Return whether it was sent a task and does not take it, though it could.

        Args:
            task: the one that it was sent.
            seconds: how long ago. One that has a core, or waits for one, is only slow.
        """
        received = self.page.word(RECEIVED)
        if received is None or self.last_sent is not task or received >= self.sent_count:
            return False
        state = doing(self.pid)
        return state is Doing.STOPPED or (state is Doing.WAITING and seconds > _TAKE_SECONDS)

    def distrust(self, why: str) -> None:
        """Have it killed for what it has sent, which was found out when that was read."""
        keeper.post(self._distrusted, why)
        log_safely(
            _logger,
            logging.ERROR,
            "%r is killed, since %s",
            self,
            why,
            extra={"offload_pid": self.pid},
        )

    def _distrusted(self, why: str) -> None:
        if self.process_state is ProcessState.STARTING:
            self._stop_reading()
            self.handle(Event.FAILURE, f"the worker was killed, since {why}")
        else:
            self.handle(Event.MISBEHAVIOUR, why)

    def replace(self) -> None:
        """Have it killed, since it does not take its task; that then goes to another one."""
        keeper.post(self.handle, Event.MISBEHAVIOUR, "it was stopped or hung, and took no task")

    # On the keeper's thread.

    def launch(self, endpoint: int, page: int) -> None:
        """Have a process started.

        Args:
            endpoint: descriptor of the worker's end of the socket.
            page: descriptor of the shared memory.
        """
        home = self.home
        try:
            modules = home.owner.modules()
            greeting = pickle.dumps(
                {
                    "authkey": authkey() if home.errors is None else strangers_key(),
                    "has_console": has_console(),
                    "initializer": home.own_initializer(),
                    "levels": log_levels(),
                    "modules": modules,
                    "places": places_of({*modules, *decorated_modules()}),
                    "sends_data": home.errors is not None,
                },
                5,
            )
            self.socket.endpoint.sendall(pack_frame(Kind.BEGIN, greeting))
            home.supervisor.start_worker(self.number, endpoint, page)
        except Exception as error:  # noqa: BLE001 - told by the error of each call that waits
            self.handle(Event.NOT_STARTED, f"a worker cannot be started: {error!r}")
            return
        keeper.loop.add_reader(self.socket.endpoint.fileno(), self._read_start)
        self._set_timer(home.start_timeout)

    def exited(self, status: int) -> None:
        """Take note that the process has ended; `status` is that of wait(2)."""
        code = os.waitstatus_to_exitcode(status)
        self.exit = Exit(
            pid=self.pid,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            why=self.kill_reason,
        )
        if self.process_state is ProcessState.STARTING:
            # What it said last may not have been read yet.
            self._read_start()
        self.handle(Event.EXITED, f"{self.exit} before it was ready")

    def handle(self, event: Event, detail: str = "", seconds: float = 0.0) -> None:
        """Do what follows from an event.

        Args:
            event: what has happened.
            detail: what the pool is told of a failure to start, or of misbehaviour.
            seconds: the time of the next state, where the event decides on that.
        """
        step = next_step(self.process_state, event)
        if step is None:
            return
        self.process_state = step.after
        self.kill_reason = step.reason.format(detail) or self.kill_reason
        self._set_timer(seconds if step.seconds is None else step.seconds, capped=step.is_capped)
        if step.closes_socket:
            self.socket.shut()
        if step.signal is not None:
            self._signal(step.signal)
        elif step.after is ProcessState.LOST:
            self.home.supervisor.ask()  # who should tell of its end soon
        self._tell(step.tell, detail)

    def _signal(self, number: int) -> None:
        if number == signals.SIGKILL and self.pidfd is not None:
            with contextlib.suppress(OSError):  # it has ended
                signals.pidfd_send_signal(self.pidfd, number)
        # Also: it knows the processes that the worker has started, which end with it.
        self.home.supervisor.signal_worker(self.number, number)

    def forget(self) -> None:
        """Let go of it: this is a forked copy of the process that it works for."""
        self.socket.forget()
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def _set_timer(self, seconds: float, *, capped: bool = False) -> None:
        if self.timer is not None:
            if capped and self.timer.when() <= keeper.loop.time() + seconds:
                return
            self.timer.cancel()
            self.timer = None
        if seconds > 0:
            self.timer = keeper.loop.call_later(seconds, self._time_over)

    def _time_over(self) -> None:
        self.timer = None
        self.handle(
            Event.TIME_OVER,
            f"the worker was not ready after {self.home.start_timeout:g} s (start_timeout); "
            "it was killed",
        )

    def _tell(self, tell: Tell, detail: str) -> None:
        owner = self.home.owner
        if tell is Tell.READY:
            owner.worker_ready(self)
        elif tell is Tell.RECOVERED:
            self.page.set_word(CANCEL, 0)
            owner.worker_recovered(self)
        elif tell is Tell.ENDED:
            self._report_end()
        elif tell in (Tell.FAILED, Tell.FAILED_AND_FREE):
            self._stop_reading()
            owner.worker_failed(self, detail)
        if tell in (Tell.FREE, Tell.FAILED_AND_FREE):
            self.last_sent = None  # which refers to it: its megabytes would wait for the collector
            self.socket.close()
            self._close_pidfd()
            self.home.remove(self)

    def _task_ended(self) -> None:
        # Told of a worker that nobody has told to stop, it is no news: it has replied once too
        # often, while it was idle.
        if self.state is WorkerState.LEAVING:
            self.handle(Event.TASK_ENDED)

    def _take_at_start(self) -> Frame | None:
        """Return what a worker says of its start, if it has said that; pass on what else it says.

        Raises:
            BrokenProtocolError: it is nothing that a worker sends.
        """
        frames = self.socket.frames
        while (frame := frames.take()) is not None:
            if frame.kind == Kind.LOG:
                relay.post([frame.body], self._refuser())
            elif frame.kind != Kind.TRACK:
                break
            elif not self.home.track(frame.body):
                raise BrokenProtocolError("it sent what no resource tracker is told")
        return frame

    def _read_start(self) -> None:
        """Read what a worker says before it is ready, and that it is."""
        frames = self.socket.frames
        try:
            is_alive = frames.receive(self.socket.endpoint)
            frame = self._take_at_start()
        except BlockingIOError:
            return
        except BrokenProtocolError as error:
            self._stop_reading()
            self.handle(Event.FAILURE, f"the worker was killed, since {error.strerror}")
            return
        except OSError:
            is_alive, frame = False, None
        if frame is None:
            if not is_alive:
                self._stop_reading()  # the supervisor's word on its exit follows
            return
        self._stop_reading()
        if frame.kind == Kind.READY and (said := unpack_ready(frame.body)) is not None:
            frames.expect_replies()
            pid, missing = said
            # Where the supervisor, whose word counts, has not told it yet.
            self.pid = self.pid or pid
            self.home.walls_missing(missing)
            self.handle(Event.READY)
        else:
            self.handle(Event.FAILURE, frame.body.decode(errors="replace"))

    def _stop_reading(self) -> None:
        if self.socket.endpoint.fileno() >= 0:
            keeper.loop.remove_reader(self.socket.endpoint.fileno())

    def _report_end(self) -> None:
        # Not by way of the loop once the pool is closed: no call waits for a result any more, and
        # whoever waits for the end of the pool may be that very loop.
        connection = self.socket.connection
        if connection is not None and not self.home.is_closed:
            try:
                connection.loop.call_soon_threadsafe(self._gone, connection)
            except RuntimeError:
                pass  # it is closed
            else:
                return  # or the time of this state is over before it comes to that
        self._gone(None)

    # On the thread of the loop that has the socket, or the keeper's.

    def _gone(self, expected: WorkerConnection | None) -> None:
        """Report the end of the worker, after what it had said last."""
        if self.state is WorkerState.GONE:
            return
        connection = self.socket.connection
        if expected is not None and connection is not None and connection is not expected:
            # Another loop has the socket meanwhile, and only that may touch it.
            keeper.post(self._report_end)
            return
        if connection is not None and not self.home.is_closed and not connection.loop.is_closed():
            connection.drain()
            connection.close()
        # Only now: what was drained may have been the result of its last task but one.
        received = self._has_reached(RECEIVED)
        started = received and self._has_reached(STARTED)
        try:
            self.home.owner.worker_gone(
                self, replace(self.exit, received=received, started=started)
            )
        finally:
            keeper.post(self.handle, Event.REPORTED)

    def _has_reached(self, mark: int) -> bool:
        number = self.page.word(mark)
        task: Any = self.task
        is_of_task = self.last_sent is task and self.sent_count > 0
        return number is not None and is_of_task and number >= self.sent_count

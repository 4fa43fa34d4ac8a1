"""Workers that are processes with a socket of their own, started by a supervisor process.

    event loop ──── socketpair ────► worker process     tasks and results; one pair for each worker
    keeper thread ─ control socket ► supervisor ─fork─► worker processes   starts, exits, signals

The event loop has a persistent reader on the socket of each worker that it used last. What a
worker says about its task arrives there; that a worker has ended arrives at the keeper, from the
supervisor, with its exit status. Both are needed: a socket that ends does not tell why, and the
last result of a dying worker may still be in its socket when the supervisor reports the end.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from offload._child import supervisor
from offload._decisions.dispatch import Worker, WorkerState
from offload._wire.frames import (
    SOCKET_BUFFER_BYTES,
    Kind,
    anonymous_file,
    frame,
)
from offload._wire.page import CANCEL, RECEIVED, REPLIED, STARTED
from offload._wire.payload import keep_freed_memory, shared_bytes
from offload._workers.backend import Exit, Revoked
from offload._workers.connection import Binding, ProcessWorker
from offload._workers.keeper import keeper
from offload._workers.logs import log_levels, log_safely, relay

if TYPE_CHECKING:
    from offload._workers.backend import Call, Owner, Settings

_logger = logging.getLogger("offload.workers")

# A worker that was told to end by closing its socket runs its exit hooks; then it is killed.
_EXIT_SECONDS = 5.0
# The same when the pool closes, and its user waits for that.
_CLOSE_SECONDS = 1.0
# Between SIGTERM and SIGKILL. Guarantee 7 gives a second for everything.
_TERMINATE_SECONDS = 0.5
# For handlers of this process to be done with what workers have logged, when the pool closes.
_LOGS_SECONDS = 3.0
# Between the end of a worker's socket and the supervisor's word about its exit.
_REPORT_SECONDS = 1.0

# What every worker imports sooner or later. The supervisor does it once the first worker is on its
# way, so that the forks after it need not.
_WARM = ("offload._child.worker", "offload.function")

_SUPERVISE = (
    "import sys; sys.path[:] = sys.argv[2:];"
    "from offload._child.supervisor import main; main(int(sys.argv[1]))"
)


class ProcessCrew:
    """The workers of one pool and their supervisor. `start`, `stop` and `close` are thread-safe."""

    has_descriptors = True
    can_stop = can_ask = True

    def __init__(self, owner: Owner, settings: Settings) -> None:
        self._owner = owner
        self._settings = settings
        self._workers: dict[int, ProcessWorker] = {}
        self._next_number = 1
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._events = b""
        self._closed: Future[None] | None = None
        self._is_told_all = False
        self._lock = threading.Lock()
        keep_freed_memory()

    # --- on any thread ---

    def start(self) -> None:
        """Start one worker."""
        keeper.post(self._start)

    def stop(self, worker: ProcessWorker, reason: str, grace: float) -> None:
        """Stop a worker: politely if it is idle, else by flag, SIGTERM and SIGKILL."""
        if reason in ("cancel", "timeout", "close under load"):
            # At once, and not by way of another thread: the function may be looking.
            worker.set_word(CANCEL, 1)
            keeper.post(self._stop_running, worker, grace)
        else:
            keeper.post(self._stop_idle, worker)

    def close(self) -> Future[None]:
        """Kill every worker and the supervisor."""
        with self._lock:
            if self._closed is None:
                self._closed = Future()
                keeper.post(self._close)
            return self._closed

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that has the workers.

        Our copies of the sockets would keep the workers and their supervisor from seeing the end
        of the process that they work for.
        """
        for worker in self._workers.values():
            if worker.binding is not None:
                worker.binding.endpoint.close()
            worker.endpoint.close()
        self._workers.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            # Not our child: Popen would warn that it still runs.
            self._process.returncode = 0

    def workers(self) -> list[Any]:
        """Return the workers that are alive; each has `pid`, None where unknown."""
        return list(self._workers.values())

    # --- on the thread of the call's loop ---

    def begin(self, worker: ProcessWorker, call: Call) -> bool:
        """Send a call to a worker; False if the worker is dead."""
        binding = worker.binding
        if binding is None or binding.loop is not call.loop:
            if binding is not None:
                binding.close_from_anywhere()
            try:
                with worker.reading:
                    binding = worker.binding = Binding(self, worker, call.loop)
            except OSError:
                return self._not_sent(worker)
        # Before it is sent: its number must be above what a worker that is dead has received.
        worker.sent += 1
        worker.last = call
        request, descriptor = call.request, call.descriptor
        try:
            if not isinstance(request, bytes):
                request.post(worker.page, descriptor, binding.send)
            elif descriptor is None:
                binding.send(request)
            else:
                binding.send(request, (descriptor,))
        except (OSError, ValueError):  # ValueError: of its page, which is closed when it has ended
            return self._not_sent(worker)
        return True

    def _not_sent(self, worker: ProcessWorker) -> bool:
        # Dead, as good as always. But it may be that we had no descriptor left, or the kernel no
        # memory: whoever was told that it is dead gives it nothing any more, and it must end.
        keeper.post(self.lost, worker)
        return False

    def revoke(self, worker: ProcessWorker, call: Call) -> Revoked:
        """Tell whether a worker that was just told to stop had entered its function.

        It looks at the flag that `stop` has set after it has said that it enters the function, and
        then does not.
        """
        entered = worker.word(STARTED)
        # If it has ended meanwhile, who knows how far it came. Its number is that of another call
        # if it has ended this one and been given the next.
        if entered is not None and worker.last is call and entered < worker.sent:
            return Revoked.UNSTARTED
        return Revoked.NO

    def has_replied(self, worker: ProcessWorker, call: Call) -> bool:
        """Return whether the reply to a call is in the socket, or about to be."""
        replied = worker.word(REPLIED)
        return replied is not None and worker.last is call and replied >= worker.sent

    def more(self, worker: ProcessWorker, kind: int, body: bytes) -> None:
        """Send a frame to a worker that has a stream; a dead worker is noticed elsewhere."""
        if worker.binding is not None:
            try:
                worker.binding.send(frame(kind, body))
            except OSError:
                return

    # --- on the keeper's thread ---

    def _start(self) -> None:
        number = self._next_number
        self._next_number += 1
        page_fd = -1
        worker = theirs = None
        try:
            ours, theirs = socket.socketpair()
            page_fd = anonymous_file(f"{supervisor.PAGE_LABEL}{number}")
            size = shared_bytes()
            os.ftruncate(page_fd, size)
            page = mmap.mmap(page_fd, size)
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            worker = ProcessWorker(number, ours, page)
            if self._closed is not None:
                worker.endpoint.close()
                worker.page.close()
                return
            self._workers[number] = worker
            ours.sendall(frame(Kind.BEGIN, pickle.dumps((self._owner.modules(), log_levels()), 5)))
            control = self._supervisor()
            command = supervisor.COMMAND.pack(supervisor.START, number, 0)
            socket.send_fds(control, [command], [theirs.fileno(), page_fd])
        except Exception as error:  # noqa: BLE001 - said by the error of each call that waits
            # Whatever it is, no descriptors or a supervisor that has died: who waits is told.
            detail = f"a worker cannot be started: {error!r}"
            if worker is None:
                self._owner.worker_failed(Worker(), detail)
            else:
                self._fail(worker, detail)
                self._forget(worker)
            return
        finally:
            if theirs is not None:
                theirs.close()
            if page_fd >= 0:
                os.close(page_fd)
        keeper.loop.add_reader(ours.fileno(), self._read_start, worker)
        worker.timer = keeper.loop.call_later(
            self._settings.start_timeout, self._start_timed_out, worker
        )

    def _supervisor(self) -> socket.socket:
        if self._control is not None:
            return self._control
        ours, theirs = socket.socketpair()
        settings = self._settings
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001
        # First: what cannot be sent must not leave a process behind.
        data = supervisor.pack_settings(
            {
                "argv": list(sys.argv),
                "flags": flags,
                "initializer": settings.initializer,
                "main": main_module(),
                "max_memory_bytes": settings.max_memory_bytes,
                "os_priority": settings.os_priority,
                "preload": list(settings.preload),
                "start_method": settings.start_method,
                "warm": list(_WARM),
            }
        )
        environment = os.environ.copy()
        for name, value in settings.env.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        with theirs:
            command = supervisor.command_line(_SUPERVISE, flags, str(theirs.fileno()))
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                process_group=0,
            )
        ours.sendall(data)
        self._control = ours
        self._events = b""
        keeper.loop.add_reader(ours.fileno(), self._read_events)
        return ours

    def _read_start(self, worker: ProcessWorker) -> None:
        frames = worker.frames
        try:
            is_alive = frames.receive(worker.endpoint)
        except BlockingIOError:
            return
        except OSError:
            is_alive = False
        while (reply := frames.take()) is not None and reply[0] == Kind.LOG:
            relay.post([reply[2]])
        if reply is None:
            if not is_alive:
                # The supervisor's word on its exit follows.
                keeper.loop.remove_reader(worker.endpoint.fileno())
            return
        keeper.loop.remove_reader(worker.endpoint.fileno())
        kind, _, body, _ = reply
        if kind == Kind.READY:
            self._stop_timer(worker)
            worker.pid = int.from_bytes(body, "little")
            self._owner.worker_ready(worker)
        else:
            self._fail(worker, body.decode(errors="replace"))

    def _start_timed_out(self, worker: ProcessWorker) -> None:
        worker.timer = None
        seconds = self._settings.start_timeout
        self._fail(
            worker, f"the worker was not ready after {seconds:g} s (start_timeout); it was killed"
        )

    def _fail(self, worker: ProcessWorker, detail: str) -> None:
        """Report a worker that did not come up, once; its process, if any, is killed."""
        if worker.state is not WorkerState.STARTING:
            return
        self._stop_timer(worker)
        if worker.endpoint.fileno() >= 0:
            keeper.loop.remove_reader(worker.endpoint.fileno())
        self._signal(worker, signal.SIGKILL)
        self._owner.worker_failed(worker, detail)
        if self._control is None:  # else the supervisor reports its end
            self._forget(worker)

    def _read_events(self) -> None:
        control = self._control
        assert control is not None
        try:
            data = control.recv(64 * supervisor.EVENT.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._supervisor_ended()
            return
        self._events += data
        size = supervisor.EVENT.size
        while len(self._events) >= size:
            what, number, pid, status = supervisor.EVENT.unpack_from(self._events)
            self._events = self._events[size:]
            worker = self._workers.get(number)
            if worker is None:
                continue
            if what == supervisor.STARTED:
                worker.pid = pid
            elif what == supervisor.NOT_STARTED:
                self._fail(worker, f"fork failed: {os.strerror(status)}")
                self._forget(worker)
            elif what == supervisor.ENDED:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: ProcessWorker, code: int | None) -> None:
        # From here on its timer is that of the report, which nobody may stop.
        worker.has_ended = True
        self._stop_timer(worker)
        how = Exit(
            pid=worker.pid,
            exit_code=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            why=worker.why,
        )
        if worker.state is WorkerState.STARTING:
            # What it said last may not have been read yet.
            self._read_start(worker)
        if worker.state is WorkerState.STARTING:
            self._fail(worker, f"{how} before it was ready")
            self._forget(worker)
            return
        if worker.state is WorkerState.GONE:  # failed to start, reported before
            self._forget(worker)
            return
        self._report(worker, how)

    def _report(self, worker: ProcessWorker, how: Exit) -> None:
        # Its last result may be in its socket: its loop reads that before it hears of the end.
        binding = worker.binding
        # Not once the pool is closed: no call waits for a result any more, and whoever waits for
        # the end may be that very loop.
        if binding is not None and self._closed is None:
            try:
                binding.loop.call_soon_threadsafe(self._gone, worker, how, binding)
            except RuntimeError:
                pass
            else:
                # A loop that is closed before it comes to that never does.
                worker.timer = keeper.loop.call_later(_REPORT_SECONDS, self._report, worker, how)
                return
        self._gone(worker, how)

    def _gone(self, worker: ProcessWorker, how: Exit, expected: Binding | None = None) -> None:
        """Report the end of a worker, on the loop that reads its socket, if there is one."""
        if worker.state is WorkerState.GONE:
            return
        binding = worker.binding
        if expected is not None and binding is not None and binding is not expected:
            # Another loop has it meanwhile, and only that may touch it.
            keeper.post(self._report, worker, how)
            return
        if binding is not None and self._closed is None and not binding.loop.is_closed():
            binding.drain()
            binding.close()
        # Only now: what was drained may have been the result of its last task but one.
        received = worker.has_reached(RECEIVED)
        started = received and worker.has_reached(STARTED)
        try:
            self._owner.worker_gone(worker, replace(how, received=received, started=started))
        finally:
            keeper.post(self._forget, worker)

    def _supervisor_ended(self) -> None:
        """All workers of a supervisor end with it; the next start makes a new one."""
        assert self._control is not None
        keeper.loop.remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        code: int | None = None
        if self._process is not None:
            try:
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            code, self._process = self._process.returncode, None
        for worker in list(self._workers.values()):
            if worker.has_ended:
                continue
            if worker.pid is not None:
                # The kernel ends the workers of a supervisor, but not what they have started. The
                # group still exists if, and only if, there is such a process in it.
                with contextlib.suppress(OSError):
                    os.killpg(worker.pid, signal.SIGKILL)
            self._ended(worker, -int(signal.SIGKILL))
        self._finish_close()
        if self._closed is None:
            log_safely(
                _logger,
                logging.ERROR,
                "the supervisor process of pool %r ended (exit code %s); its workers with it",
                self._settings.name,
                code,
                extra={"offload_pool": self._settings.name},
            )

    def lost(self, worker: ProcessWorker) -> None:
        """Take note that a worker's socket has ended; its exit should be reported any moment."""
        if worker.number in self._workers and not (worker.is_closing or worker.has_ended):
            self._stop_timer(worker)
            worker.timer = keeper.loop.call_later(_REPORT_SECONDS, self._give_up, worker)

    def _give_up(self, worker: ProcessWorker) -> None:
        worker.why = "nothing can be sent to it or received from it any more"
        self._signal(worker, signal.SIGKILL)

    def kill(self, worker: ProcessWorker) -> None:
        """End a worker that has replied twice to one task; that which it has now crashes."""
        worker.why = "it had replied to one task twice"
        self._signal(worker, signal.SIGKILL)

    def recovered(self, worker: ProcessWorker) -> None:
        """Take note that an abandoned worker has ended its task by itself."""
        if (
            worker.number not in self._workers
            or worker.is_closing
            or worker.has_ended
            or worker.state is not WorkerState.LEAVING
        ):
            return
        if not worker.is_told:
            # Who stops it, on another thread, has decided and not told us yet: that would meet the
            # next task of this worker.
            worker.has_ended_task = True
            return
        worker.is_told = worker.has_ended_task = False
        self._stop_timer(worker)
        worker.set_word(CANCEL, 0)
        self._owner.worker_recovered(worker)

    def _stop_idle(self, worker: ProcessWorker) -> None:
        if worker.is_closing or worker.has_ended:
            return
        worker.is_closing = True
        self._stop_timer(worker)
        _shut(worker.endpoint)
        worker.timer = keeper.loop.call_later(_EXIT_SECONDS, self._signal, worker, signal.SIGKILL)

    def _stop_running(self, worker: ProcessWorker, grace: float) -> None:
        if worker.number not in self._workers or worker.has_ended:
            return
        worker.is_told = True
        if worker.has_ended_task:
            self.recovered(worker)
            return
        self._stop_timer(worker)
        if grace > 0:
            worker.timer = keeper.loop.call_later(grace, self._terminate, worker)
        else:
            self._terminate(worker)

    def _terminate(self, worker: ProcessWorker) -> None:
        worker.is_closing = True
        self._signal(worker, signal.SIGTERM)
        worker.timer = keeper.loop.call_later(
            _TERMINATE_SECONDS, self._signal, worker, signal.SIGKILL
        )

    def _signal(self, worker: ProcessWorker, number: int) -> None:
        # By way of the supervisor: it is their parent and knows which process ids are still theirs.
        if self._control is not None and worker.number in self._workers:
            command = supervisor.COMMAND.pack(supervisor.SIGNAL, worker.number, number)
            try:
                self._control.sendall(command)
            except OSError:
                return

    def _stop_timer(self, worker: ProcessWorker) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None

    def _forget(self, worker: ProcessWorker) -> None:
        """Free what a dead worker had."""
        if self._workers.pop(worker.number, None) is None:
            return
        self._stop_timer(worker)
        worker.last = None  # which refers to it: its megabytes would wait for the collector
        with worker.reading:
            # Nobody reads any more, on whatever thread.
            binding, worker.binding = worker.binding, None
            worker.frames.close()
            worker.endpoint.close()
            worker.page.close()
        if binding is not None:
            binding.close_from_anywhere()
        self._finish_close()

    def _close(self) -> None:
        for worker in list(self._workers.values()):
            if worker.state is WorkerState.STARTING:
                self._fail(worker, "the pool was closed")
                continue
            _shut(worker.endpoint)
            worker.is_closing = True
            # One that was told to end before, as it retired, has no more time than the others.
            due = keeper.loop.time() + _CLOSE_SECONDS
            if not worker.has_ended and (worker.timer is None or worker.timer.when() > due):
                self._stop_timer(worker)
                worker.timer = keeper.loop.call_at(due, self._signal, worker, signal.SIGKILL)
        keeper.loop.call_later(_CLOSE_SECONDS + _REPORT_SECONDS, self._kill_supervisor)
        self._finish_close()

    def _kill_supervisor(self) -> None:
        """End a supervisor that has not ended its workers, and itself, in time: it is stopped."""
        if self._process is not None:
            self._process.kill()

    def _finish_close(self) -> None:
        if self._closed is None or self._workers:
            return
        if self._control is not None:
            # The end of the control socket is the supervisor's sign to end. Only our sending side:
            # the end of its own side tells when it has done so.
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            return
        if not self._is_told_all:
            self._is_told_all = True
            # Who has closed the pool finds all records handled, unless handlers are that slow.
            keeper.loop.call_later(_LOGS_SECONDS, self._tell_closed)
            relay.when_handled(self._tell_closed)

    def _tell_closed(self) -> None:
        assert self._closed is not None
        with contextlib.suppress(InvalidStateError):  # told already, by the other thread
            self._closed.set_result(None)


def _shut(endpoint: socket.socket) -> None:
    # Not close: another descriptor of the same socket may be open, on an event loop.
    with contextlib.suppress(OSError):
        endpoint.shutdown(socket.SHUT_RDWR)


def main_module() -> tuple[str, str] | None:
    """Return how a worker can run our main module again: ("name", …), ("path", …) or None."""
    main = sys.modules.get("__main__")
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return "name", name
    path = getattr(main, "__file__", None)
    if path is not None and os.path.isfile(path):
        return "path", os.path.abspath(path)
    return None

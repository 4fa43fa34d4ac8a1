"""The supervisor process of one pool, as the server sees it.

    SupervisorClient ──settings, START, SIGNAL──► supervisor ──fork──► workers
    SupervisorClient ◄──STARTED, ENDED, …──────── supervisor

It is started with the first worker, and anew with the next one after it has ended. Everything here
happens on the keeper's thread.

There is one way to tell a supervisor to end: the end of its control socket, which also comes when
this process ends, however it does. Our side is closed for sending only, so that the end of the
other side tells when the supervisor, and with it every worker, is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal as signals
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from offload._wire import supervision
from offload._wire.frames import DONT_WAIT, unpack_descriptors
from offload._wire.interpreter import MARK, command_line, search_path, shadowed_modules
from offload._workers.code_on_disk import code_on_disk
from offload._workers.keeper import keeper
from offload._workers.supervisor_watch import SupervisorWatch

if TYPE_CHECKING:
    from offload._workers.backend import Settings

__all__ = ["SupervisorClient", "SupervisorOwner", "main_module"]

# What every worker imports sooner or later. The supervisor does so once the first worker is on its
# way, so that the forks after it need not.
_WARM = ("offload._child.start", "offload.function")
_WARM_WALLS = ("offload._child.hardening", "offload._child.logs", "offload._child.resource")
_WARM_DATA = ("offload._child.data_serving", "offload._child.logs")
# For a supervisor that has closed its socket to exit.
_EXIT_SECONDS = 1.0
# For one that was just started, or is being stopped, to read what it is sent.
_SEND_SECONDS = 5
# Of the one descriptor that comes with an event.
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
_SUPERVISE = "from offload._child.supervisor import main; main(int(sys.argv[1]))"


class SupervisorOwner(Protocol):
    """Whoever has workers started; called on the keeper's thread."""

    def worker_started(self, number: int, pid: int, pidfd: int | None) -> None:
        """Report that a worker has a process, and whose descriptor is the owner's from now on."""
        ...

    def worker_not_started(self, number: int, error: int) -> None:
        """Report that no process could be started for a worker; `error` is an errno."""
        ...

    def worker_exited(self, number: int, status: int) -> None:
        """Report that the process of a worker has ended; `status` is that of wait(2)."""
        ...

    def preload_not_shared(self, entry: str, threads: int) -> None:
        """Report that each worker loads an entry of `preload` for itself.

        Args:
            entry: which.
            threads: how many the supervisor was found to have when it was loaded.
        """
        ...

    def supervisor_ended(self, exit_code: int | None) -> None:
        """Report that the supervisor is no more, and so no worker of it is."""
        ...


class SupervisorClient:
    """Starts the supervisor, tells it what to do, and hears from it what has happened."""

    def __init__(self, owner: SupervisorOwner, settings: Settings) -> None:
        self._owner = owner
        self._settings = settings
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # What of an event has come, and descriptors of events that have not.
        self._pending = b""
        self._fds: list[int] = []
        self._watch = SupervisorWatch(settings.name, self)

    @property
    def is_alive(self) -> bool:
        """Whether there is one, as far as we have heard."""
        return self._control is not None

    def start_worker(self, number: int, endpoint: int, page: int) -> None:
        """Have a worker started, by a supervisor that is started first if there is none.

        Args:
            number: what it is called from now on.
            endpoint: descriptor of the worker's end of its socket.
            page: descriptor of the memory that it shares with us.

        Raises:
            OSError: we have no descriptors left, or the supervisor has died.
            Exception: the settings cannot be sent.
        """
        control = self._control or self._start()
        command = supervision.COMMAND.pack(supervision.START, number, 0)
        socket.send_fds(control, [command + self._watch.ping()], [endpoint, page])

    def signal_worker(self, number: int, signal: int) -> None:
        """Have a worker signalled, with its children.

        By the supervisor, which is the parent of the process, and so knows that the process id is
        still that of the worker.
        """
        self._command(supervision.COMMAND.pack(supervision.SIGNAL, number, signal))

    def ask(self) -> None:
        """Have it noticed if the supervisor does not answer: something is expected of it."""
        self._command(b"")

    def _command(self, data: bytes) -> None:
        if self._control is not None:
            # If it is dead, so is the worker.
            with contextlib.suppress(OSError):
                self._control.sendall(data + self._watch.ping())

    def renew(self) -> None:
        """Have the supervisor load anew what its workers share: that is another by now."""
        if self._control is not None and self._settings.preload:
            self._watch.begin()
            with contextlib.suppress(OSError):
                self._control.sendall(supervision.COMMAND.pack(supervision.RENEW, 0, 0))

    def end(self) -> None:
        """Tell the supervisor to end; `supervisor_ended` follows."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return None if self._process is None else self._process.pid

    def resume(self) -> None:
        """Have a supervisor that somebody has stopped go on."""
        if self._process is not None:
            self._process.send_signal(signals.SIGCONT)

    def kill(self) -> None:
        """End a supervisor that does not do what it is told: it is stopped, or hangs."""
        if self._process is not None:
            self._process.kill()
            # The end of its socket follows, unless somebody else has a copy of that.
            keeper.loop.call_later(_EXIT_SECONDS, self._ended_unheard, self._control)

    def _ended_unheard(self, control: socket.socket | None) -> None:
        if self._control is not None and control is self._control:
            self._ended()

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that it works for."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            # Not our child: Popen would warn that it still runs.
            self._process.returncode = 0

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        settings = self._settings
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001
        path = search_path()
        code_log = code_on_disk.log()
        # Packed before the process is started: what cannot be sent must not leave one behind.
        data = supervision.pack_settings(
            {
                "argv": list(sys.argv),
                # Descriptor of the program's code as it was imported here.
                "code_log": code_log,
                "flags": flags,
                "initializer": (
                    settings.initializer if isinstance(settings.initializer, bytes) else None
                ),
                "main": main_module(),
                "max_memory_bytes": settings.max_memory_bytes,
                "missing_walls": [],
                "os_priority": settings.os_priority,
                "path": path,
                "preload": list(settings.preload),
                "shadowed": shadowed_modules(path),
                "start_error": "",
                "start_method": settings.start_method,
                # Indexes of entries of `preload` that cannot be shared: none is known yet.
                "unshared": [],
                "walls": settings.walls,
                "warm": [
                    *_WARM,
                    *(_WARM_WALLS if settings.walls else ()),
                    *(_WARM_DATA if settings.errors is not None else ()),
                ],
            }
        )
        environment = os.environ.copy()
        for name, value in settings.env.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        environment[MARK] = str(os.getpid())
        inherited = [theirs.fileno(), *(() if code_log is None else (code_log,))]
        with theirs:
            command = command_line(_SUPERVISE, flags, str(theirs.fileno()))
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                env=environment,
                process_group=0,
            )
        # One that is stopped reads nothing, and whoever waits for it here is the keeper.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _SEND_SECONDS, 0))
        try:
            ours.sendall(data)
        except OSError:
            self._process.kill()
            self._process.wait()
            self._process = None
            ours.close()
            raise
        self._control = ours
        self._pending = b""
        self._watch.begin()
        keeper.loop.add_reader(ours.fileno(), self.read)
        return ours

    def read(self) -> None:
        """Take what the supervisor has said."""
        control = self._control
        if control is None:
            return
        try:
            data, ancillary, _, _ = control.recvmsg(
                64 * supervision.EVENT.size, _ANCILLARY_BYTES, DONT_WAIT
            )
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        self._fds += unpack_descriptors(ancillary)
        if not data:
            self._ended()
            return
        self._pending += data
        size = supervision.EVENT.size
        while len(self._pending) >= size:
            event = supervision.EVENT.unpack_from(self._pending)
            self._pending = self._pending[size:]
            self._tell(*event)

    def _tell(self, what: int, number: int, pid: int, status: int) -> None:
        if what == supervision.STARTED:
            pidfd = self._fds.pop(0) if status and self._fds else None
            self._owner.worker_started(number, pid, pidfd)
        elif what == supervision.PONG:
            self._watch.answered(number)
        elif what == supervision.UP:
            self._watch.loaded()
        elif what == supervision.NOT_STARTED:
            self._owner.worker_not_started(number, status)
        elif what == supervision.ENDED:
            self._owner.worker_exited(number, status)
        elif what == supervision.NOT_SHARED:
            self._watch.begin()
            self._owner.preload_not_shared(self._settings.preload[number], status)

    def _ended(self) -> None:
        assert self._control is not None
        self._watch.end()
        keeper.loop.remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        while self._fds:
            os.close(self._fds.pop())
        code: int | None = None
        if self._process is not None:
            try:
                self._process.wait(timeout=_EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            code, self._process = self._process.returncode, None
        self._owner.supervisor_ended(code)


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

"""The supervisor process: starts a pool's workers, buries them, and outlives none of them.

    server ──control socket──► supervisor ──fork (or fork + exec)──► worker, worker, …
       └──────────────────── one socketpair for each worker ─────────────┘

It is a single-threaded child of the server that has imported next to nothing (and the modules to
preload), so that forking it is fast and safe: the server itself, with its threads, event loop and
open connections, is never forked. It runs no user code but preloaded imports, so that it always
answers. It holds no worker's socket.

Guarantees:
1. When the server ends, however it ends, the control socket ends, and the supervisor kills every
   worker with all of its children, even one that is stuck in native code holding its GIL.
2. When the supervisor ends, the kernel kills the workers (PR_SET_PDEATHSIG; Linux): the parent
   thread is our only one, so the trap of prctl(2), which fires when the *thread* ends, is none.
3. A process id is signalled only between its start and the moment it is reaped.
4. A worker's children end with it: its process group, and, by PR_SET_CHILD_SUBREAPER, those that
   left the group.
"""

from __future__ import annotations

import marshal
import os
import select
import sys
import time

from offload._child import context
from offload._wire.frames import RECEIVE_FLAGS, unpack_descriptors
from offload._wire.lean import signal, socket, struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# A command: what, which worker, argument. Descriptors come with START.
COMMAND = struct.Struct("<BxxxIi")
START = 1
SIGNAL = 2
# An event: what, which worker, process id, wait status.
EVENT = struct.Struct("<BxxxIii")
UP = 1
STARTED = 2
ENDED = 3
NOT_STARTED = 4

# What the processes of a worker are known by, its number after it: as a mapping of its page of
# shared memory, which a fork keeps, and in the environment, which an exec keeps.
PAGE_LABEL = "offload-worker-"
_MARK = "OFFLOAD_WORKER"

_END_SECONDS = 0.9
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LENGTH = struct.Struct("<I")


def main(control_fd: int) -> None:
    """Serve the parent until it ends; does not return normally."""
    # First of all, before anything can take time: signals of the terminal are for the server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Modules that are preloaded must find themselves where they will be used.
    context.process.is_worker = True
    # It had to be inheritable to come here (`pass_fds`); nothing that is started from here gets it.
    os.set_inheritable(control_fd, False)
    control = socket.socket(fileno=control_fd)
    settings = _receive_settings(control)
    sys.argv[:] = settings["argv"]
    prctl = _load_prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if settings["start_method"] == "forkserver":
        # Loading may take long, and nobody reads the control socket meanwhile. The thread that
        # started us waits for our end, so that it ends before us only when the server does.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if _is_abandoned(control):
            os._exit(0)
        settings["preload_error"] = _preload(settings["preload"])
        prctl(_PR_SET_PDEATHSIG, 0)
    supervisor = Supervisor(control, settings, prctl)
    supervisor.run()


def _is_abandoned(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, 0)  # nothing but the end of the other side, which is always told
    return bool(poll.poll(0))


def _receive_settings(control: socket.socket) -> dict[str, Any]:
    (size,) = _LENGTH.unpack(_receive_exactly(control, _LENGTH.size))
    settings: dict[str, Any] = marshal.loads(_receive_exactly(control, size))
    return settings


def pack_settings(settings: dict[str, Any]) -> bytes:
    """Return what `main` expects first; called by the parent."""
    data = marshal.dumps(_plain(settings))
    return _LENGTH.pack(len(data)) + data


def _plain(value: Any) -> Any:
    """Return a value as what it is in the end: members of enumerations and the like are more."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, int):
        return int(value)
    return str.__str__(value) if isinstance(value, str) else str(value)


def _receive_exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            os._exit(0)
        data += part
    return data


def _load_prctl() -> Any:
    if sys.platform == "linux":
        try:
            # ctypes itself takes four times as long to import as this part of it, which is all
            # that a call with integers needs.
            import _ctypes

            whole_process: Any = None
            address = _ctypes.dlsym(_ctypes.dlopen(whole_process, 0), "prctl")
            return lambda *numbers: _ctypes.call_function(address, numbers)
        except (ImportError, OSError, AttributeError):
            pass
        try:
            import ctypes

            return ctypes.CDLL(None).prctl
        except (ImportError, OSError, AttributeError):
            pass
    return lambda *_: 0


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    _load_prctl()(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _preload(modules: list[str]) -> str:
    """Import or load what all workers share; return the traceback of what fails first, or ""."""
    import gc
    import importlib

    for module in modules:
        try:
            if ":" in module:
                from offload._child.resource import load

                load(module)
            else:
                importlib.import_module(module)
        except BaseException:
            import traceback

            return f"preloading {module!r} failed:\n{traceback.format_exc()}"
    # What exists now is shared with the workers until somebody writes to it: keep the collector
    # from touching every object's header (gc.freeze was made for this).
    gc.collect()
    gc.freeze()
    return ""


class Supervisor:
    """The loop of the supervisor process."""

    def __init__(self, control: socket.socket, settings: dict[str, Any], prctl: Any) -> None:
        self._control = control
        self._settings = settings
        self._prctl = prctl
        self._pids: dict[int, int] = {}  # worker number -> process id, until reaped
        self._numbers: dict[int, int] = {}
        # What preloaded modules have started: it ends with us, not with a worker.
        self._helpers = set(_children())
        # What left its worker and was killed for it: when such a one ends, its children are ours.
        self._condemned: set[int] = set()
        self._is_cold = settings["start_method"] == "forkserver"
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)

    def run(self) -> NoReturn:
        """Serve until the control socket ends."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        try:
            self._tell(UP, 0, os.getpid(), 0)
            while True:
                ready = poll.poll(0 if self._is_cold and self._pids else None)
                if not ready:
                    self._warm()
                for fd, _ in ready:
                    if fd == self._wakeup.fileno():
                        self._drain_wakeup()
                        self._reap()
                    elif not self._obey():
                        self._end()
        except (ConnectionError, EOFError):
            self._end()
        finally:
            # Whatever went wrong here, workers must not be left without a supervisor.
            self._end()

    def _warm(self) -> None:
        """Import what all workers need, once the first one, awaited by a call, is on its way."""
        import importlib

        self._is_cold = False
        for module in self._settings["warm"]:
            importlib.import_module(module)

    def _end(self) -> NoReturn:
        for pid in list(self._pids.values()):
            _kill(pid, signal.SIGKILL)
        # What left a worker's group becomes our child only when the worker has died, which takes
        # the kernel a moment: until there is nobody left, or the second of guarantee 7 is nearly
        # over (a process in an uninterruptible system call dies when it likes).
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            self._kill_orphans(everything=True)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            time.sleep(0.001)
        os._exit(0)

    def _tell(self, what: int, number: int, pid: int, status: int) -> None:
        self._control.sendall(EVENT.pack(what, number, pid, status))

    def _obey(self) -> bool:
        try:
            data, ancillary, _, _ = self._control.recvmsg(
                COMMAND.size, socket.CMSG_SPACE(8), RECEIVE_FLAGS
            )
        except ConnectionError:
            return False
        fds = unpack_descriptors(ancillary)
        for fd in fds:
            # Where the kernel cannot do so as it hands them over: macOS.
            if not RECEIVE_FLAGS:
                os.set_inheritable(fd, False)
        if not data:
            return False
        if len(data) < COMMAND.size:
            data += _receive_exactly(self._control, COMMAND.size - len(data))
        what, number, argument = COMMAND.unpack(data)
        if what == START:
            self._start(number, fds)
        elif what == SIGNAL:
            pid = self._pids.get(number)
            if pid is not None:
                _kill(pid, argument)
        return True

    def _start(self, number: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._tell(NOT_STARTED, number, 0, error.errno or 0)
            return
        if pid == 0:
            self._become_worker(number, *fds)
        self._pids[number] = pid
        self._numbers[pid] = number
        for fd in fds:
            os.close(fd)
        # Also done by the child: whoever comes first, the group exists before it is signalled.
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass
        self._tell(STARTED, number, pid, 0)

    def _become_worker(self, number: int, socket_fd: int, page_fd: int) -> NoReturn:
        code = 1
        try:
            # A group of its own: Ctrl+C in a terminal goes to the server alone. Not a session of
            # its own: with sched_autogroup, nice values only count inside a session, and the
            # worker's low priority would be worth nothing against the server (sched(7)).
            os.setpgid(0, 0)
            supervisor = os.getppid()
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            self._prctl(_PR_SET_CHILD_SUBREAPER, 0)
            signal.set_wakeup_fd(-1)
            self._control.close()
            self._wakeup.close()
            self._wakeup_end.close()
            settings = self._settings
            os.environ[_MARK] = str(number)
            lower_priority(settings["os_priority"])
            if settings["start_method"] == "spawn":
                _execute(socket_fd, page_fd, settings)
            from offload._child.worker import main as serve

            serve(socket_fd, page_fd, settings)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            leave(code)
        raise AssertionError  # not reached: leave() does not return

    def _drain_wakeup(self) -> None:
        try:
            while self._wakeup.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        while True:
            try:
                # WNOWAIT: the zombie keeps its process id, so that its group can be signalled
                # without a chance of meeting a stranger who got the same number.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            number = self._numbers.pop(pid, None)
            if number is not None:
                _kill_group(pid, signal.SIGKILL)
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:
                continue
            self._helpers.discard(pid)
            if number is None:
                if pid in self._condemned:
                    self._condemned.discard(pid)
                    self._kill_orphans()
                continue
            del self._pids[number]
            self._kill_orphans()
            self._tell(ENDED, number, pid, status)

    def _kill_orphans(self, *, everything: bool = False) -> None:
        """Kill processes that a dead worker left and the kernel gave to us."""
        for pid in _children():
            if everything or not (pid in self._helpers or self._is_of_worker(pid)):
                self._condemned.add(pid)
                _kill_tree(pid)

    def _is_of_worker(self, pid: int) -> bool:
        """Return whether a child is a worker, or one that a worker that lives has put aside.

        What a task starts in the background (`sh -c "helper &"`, a daemon) becomes our child at
        once: it ends with its worker, and not with the first of the worker's neighbours.
        """
        try:
            if pid in self._numbers or os.getpgid(pid) in self._numbers:
                return True
        except OSError:  # it has ended
            return False
        return not self._pids.keys().isdisjoint(_marks(pid))


def _marks(pid: int) -> set[int]:
    """Return the numbers of the workers that a process comes from; none where it hides that."""
    marks: set[int] = set()
    for name, mark, end in (("maps", PAGE_LABEL, b" "), ("environ", f"{_MARK}=", b"\0")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                _, found, rest = file.read().partition(mark.encode())
            if found:
                marks.add(int(rest.partition(end)[0]))
        except (OSError, ValueError):
            continue
    return marks


def _children(pid: int | None = None) -> list[int]:
    """Return the children of a process, by default of this one; none where that cannot be told."""
    pid = pid or os.getpid()
    found: list[int] = []
    try:
        # The kernel has them by the thread that forked them.
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except (OSError, ValueError):  # it has ended
            continue
    return found


def _tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(below for child in _children(pid) for below in _tree(child))]


def _kill_tree(pid: int) -> None:
    tree = _tree(pid)
    for each in tree:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            pass
    hasten(tree)


def _kill(pid: int, number: int) -> None:
    """Signal a worker and its group."""
    tree = _tree(pid) if number == signal.SIGKILL else []
    if not _kill_group(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    hasten(tree)


def _kill_group(pid: int, number: int) -> bool:
    try:
        os.killpg(pid, number)
    except OSError:  # no such group yet, or none any more; macOS: EPERM for a group of zombies
        return False
    return True


def lower_priority(priority: str) -> None:
    """Give this process the OS priority of a worker; what the OS refuses is left as it is.

    Args:
        priority: "idle", "low" or "normal".

    Source:
        sched(7): a SCHED_IDLE task yields at once to any waking task of normal priority.
    """
    if priority == "normal":
        return
    try:
        if priority == "idle" and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    except OSError:
        pass
    try:
        os.nice(19)
    except (OSError, AttributeError):
        pass


def hasten(killed: list[int]) -> None:
    """Give processes that were killed the priority that they need to die of it.

    A process ends in its own time: at "idle", beside a few busy processes of normal priority on
    each core, that has taken four seconds, for which its memory is not free either. Without the
    right to raise priorities (CAP_SYS_NICE) this does nothing.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    for pid in killed:
        try:
            for thread in map(int, os.listdir(f"/proc/{pid}/task")):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, 0)
        except OSError:  # it has ended, or we may not
            continue


_SPAWN = (
    "import sys; sys.path[:] = sys.argv[3:];"
    "from offload._child.supervisor import spawned; spawned(int(sys.argv[1]), int(sys.argv[2]))"
)


def command_line(code: str, flags: list[str], *arguments: str) -> list[str]:
    """Return the command that runs `code` in a new interpreter with our flags and search path."""
    # As the import system does, which passes over anything else.
    entries: list[object] = [*sys.path]
    path = [entry for entry in entries if isinstance(entry, str)]
    return [sys.executable, *flags, "-c", code, *arguments, *path]


def _execute(socket_fd: int, page_fd: int, settings: dict[str, Any]) -> NoReturn:
    # The settings travel in an anonymous file: an environment or a command line has limits.
    from offload._wire.frames import anonymous_file

    settings_fd = anonymous_file()
    os.write(settings_fd, struct.pack("<i", socket_fd) + marshal.dumps(settings))
    for fd in (socket_fd, page_fd, settings_fd):
        os.set_inheritable(fd, True)
    command = command_line(_SPAWN, settings["flags"], str(settings_fd), str(page_fd))
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell
    raise AssertionError


def spawned(settings_fd: int, page_fd: int) -> None:
    """Begin a worker in a fresh interpreter."""
    os.set_inheritable(page_fd, False)
    size = os.fstat(settings_fd).st_size
    data = os.pread(settings_fd, size, 0)
    os.close(settings_fd)
    (socket_fd,) = struct.unpack_from("<i", data)
    os.set_inheritable(socket_fd, False)
    settings = marshal.loads(data[4:])
    sys.argv[:] = settings["argv"]
    context.process.is_worker = True
    settings["preload_error"] = _preload(settings["preload"])
    from offload._child.worker import main as serve

    serve(socket_fd, page_fd, settings)
    leave(0)


def leave(code: int) -> NoReturn:
    """End the process as the interpreter would: exit hooks, flushed streams; but without return.

    Returning would unwind the supervisor's own frames in a forked child.
    """
    import atexit

    try:
        # There is no public name for it.
        atexit._run_exitfuncs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    except BaseException:  # noqa: S110 - an exit hook's failure must not keep the process alive
        pass
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(code)

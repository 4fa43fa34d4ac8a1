"""The supervisor process: starts a pool's workers, buries them, and outlives none of them.

    server ──control socket──► supervisor ──fork (or fork + exec)──► worker, worker, …
       └──────────────────── one socketpair for each worker ─────────────┘

It is a single-threaded child of the server that has imported next to nothing (and the modules to
preload), so that forking it is fast and safe: the server itself, with threads, event loop and
connections, is never forked. It runs no user code but preloaded imports, so that it always answers.
It holds no worker's socket.

Guarantees:
1. When the server ends, however it ends, the control socket ends, and the supervisor kills every
   worker with all of its children, even one that is stuck in native code holding its GIL.
2. When the supervisor ends, the kernel kills the workers (PR_SET_PDEATHSIG; Linux): the parent
   thread is our only one, so the trap of prctl(2), which fires when the *thread* ends, is none.
3. A process id is signalled only between its start and the moment it is reaped.
4. A worker's children end with it: its process group, and by PR_SET_CHILD_SUBREAPER what left it.
"""

from __future__ import annotations

import os
import select
import sys
import time

from offload._child import context
from offload._child.control import is_abandoned, receive_exactly, receive_settings
from offload._child.kept_code import find_kept_code
from offload._child.os_priority import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_PDEATHSIG,
    load_prctl,
    lower_priority,
    prefer_when_out_of_memory,
)
from offload._child.preload import freeze, load_one, threads_left
from offload._child.process_tree import (
    MARK,
    children,
    kill_group,
    kill_tree,
    kill_worker,
    workers_above,
)
from offload._child.randomness import find_generators, reseed
from offload._child.signals import ignore_signals
from offload._child.spawn import execute, execute_worker, harden_and_preload, leave, settings_from
from offload._wire.frames import RECEIVE_FLAGS, pack_descriptors, unpack_descriptors
from offload._wire.interpreter import take_path
from offload._wire.lean import signal, socket
from offload._wire.supervision import (
    COMMAND,
    ENDED,
    EVENT,
    NOT_SHARED,
    NOT_STARTED,
    PING,
    PONG,
    RENEW,
    SIGNAL,
    START,
    STARTED,
    UP,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_END_SECONDS = 0.9
_RESUME = (
    "from offload._child.supervisor import resumed; resumed(int(sys.argv[1]), int(sys.argv[2]))"
)


def main(control_fd: int) -> None:
    """Serve the parent until it ends; does not return normally."""
    _become_supervisor()
    # It had to be inheritable to come here (`pass_fds`); no program that is started here gets it.
    os.set_inheritable(control_fd, False)
    control = socket.socket(fileno=control_fd)
    _serve(control, receive_settings(control))


def resumed(settings_fd: int, _: int) -> None:
    """Go on as a fresh interpreter, which an earlier supervisor became; see `begin_anew`."""
    _become_supervisor()
    settings, control_fd = settings_from(settings_fd)
    _serve(socket.socket(fileno=control_fd), settings)


def _become_supervisor() -> None:
    # First of all, before anything can take time: signals of the terminal are for the server, and
    # what ends this process ends every task of the pool.
    ignore_signals()
    # Modules that are preloaded must find themselves where they will be used.
    context.process.is_worker = True


def _serve(control: socket.socket, settings: dict[str, Any]) -> None:
    sys.argv[:] = settings["argv"]
    take_path(settings)
    find_kept_code(settings["code_log"])
    prctl = load_prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if settings["start_method"] == "forkserver":
        # Loading may take long, and nobody reads the control socket. The thread that started us
        # waits for our end, so that it ends before us only when the server does.
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if is_abandoned(control):
            os._exit(0)
        settings["start_error"] = _preload_shared(control, settings)
        prctl(PR_SET_PDEATHSIG, 0)
    Supervisor(control, settings, prctl).run()


def _preload_shared(control: socket.socket, settings: dict[str, Any]) -> str:
    """Load what workers share; return the traceback of what failed, or "".

    An entry of `preload` that leaves threads running must not be in a process that forks. Threads
    of native code cannot be ended from outside, but by becoming another program. So the supervisor
    begins anew in a fresh interpreter without that entry, which each worker loads for itself.
    """
    for index, entry in enumerate(settings["preload"]):
        if index in settings["unshared"]:
            continue
        if problem := load_one(entry):
            return problem
        if (count := threads_left()) > 1:
            begin_anew(control, settings, {index: count})
    if settings["preload"]:
        find_generators()
    freeze()
    return ""


def begin_anew(
    control: socket.socket, settings: dict[str, Any], unshared: dict[int, int]
) -> NoReturn:
    """Become a fresh interpreter, in which some entries of `preload` are not loaded.

    Children of this process stay its children, and so do commands that wait in the socket.

    Args:
        control: the socket to the server, which is told.
        settings: those that we have.
        unshared: the entries by index, each with the number of threads that were found.
    """
    for index, count in unshared.items():
        control.sendall(EVENT.pack(NOT_SHARED, index, 0, count))
    known = sorted({*settings["unshared"], *unshared})
    execute(_RESUME, {**settings, "unshared": known}, control.fileno())


class Supervisor:
    """The loop of the supervisor process."""

    def __init__(
        self, control: socket.socket, settings: dict[str, Any], prctl: Callable[..., int]
    ) -> None:
        self._control = control
        self._settings = settings
        self._prctl = prctl
        # Worker number -> process id, until reaped; those of an earlier supervisor among them.
        self._pids: dict[int, int] = settings.pop("pids", {})
        self._numbers = {pid: number for number, pid in self._pids.items()}
        # What preloaded modules have started: it ends with the supervisor, not with a worker.
        self._helpers = {pid for pid in children() if not self._is_of_worker(pid)}
        # Processes that left their worker and were killed for it. When one of them ends, the kernel
        # gives us its children.
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
            # Workers of an earlier supervisor may have ended before their signals were caught.
            self._reap()
            while True:
                ready = poll.poll(0 if self._is_cold and self._pids else None)
                if not ready:
                    self._warm()
                for fd, _ in ready:
                    if fd == self._wakeup.fileno():
                        self._drain_wakeup()
                        self._reap()
                    else:
                        self._have_one_thread()
                        if not self._obey():
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

    def _have_one_thread(self) -> None:
        """Begin anew, if there are threads that no fork may lose: before each command.

        They were not there after the preload, so nobody knows whose they are: nothing is shared
        from now on. The command has not been read, and waits in the socket for our successor.
        """
        if self._settings["start_method"] == "forkserver" and (count := threads_left()) > 1:
            self._settings["pids"] = self._pids
            everything = dict.fromkeys(range(len(self._settings["preload"])), count)
            begin_anew(self._control, self._settings, everything)

    def _end(self) -> NoReturn:
        for pid in list(self._pids.values()):
            kill_worker(pid, signal.SIGKILL)
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
        if not data:
            return False
        if len(data) < COMMAND.size:
            data += receive_exactly(self._control, COMMAND.size - len(data))
        what, number, argument = COMMAND.unpack(data)
        if what == START:
            self._start(number, fds)
        elif what == RENEW:
            self._settings["pids"] = self._pids
            begin_anew(self._control, self._settings, {})
        elif what == SIGNAL:
            pid = self._pids.get(number)
            if pid is not None:
                kill_worker(pid, argument)
        elif what == PING:
            self._tell(PONG, number, 0, 0)
        return True

    def _start(self, number: int, fds: list[int]) -> None:
        if self._is_cold and (self._pids or self._settings["walls"]):
            self._warm()  # which, with walls, a worker may not be allowed to read any more
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
        self._tell_started(number, pid)

    def _tell_started(self, number: int, pid: int) -> None:
        """Tell of a worker, with a descriptor that stands for this process and for no other."""
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError):  # another system, or one that forbids it
            self._tell(STARTED, number, pid, 0)
            return
        try:
            self._control.sendmsg([EVENT.pack(STARTED, number, pid, 1)], pack_descriptors(fd))
        finally:
            os.close(fd)

    def _become_worker(self, number: int, socket_fd: int, page_fd: int) -> NoReturn:
        code = 1
        try:
            # A group of its own: Ctrl+C in a terminal goes to the server alone. Not a session of
            # its own: with sched_autogroup, nice values only count inside a session, and the
            # worker's low priority would be worth nothing against the server (sched(7)).
            os.setpgid(0, 0)
            supervisor = os.getppid()
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            self._prctl(PR_SET_CHILD_SUBREAPER, 0)
            signal.set_wakeup_fd(-1)
            self._control.close()
            self._wakeup.close()
            self._wakeup_end.close()
            settings = self._settings
            os.environ[MARK] = str(number)
            lower_priority(settings["os_priority"])
            prefer_when_out_of_memory()
            if settings["start_method"] == "spawn":
                execute_worker(socket_fd, page_fd, settings)
            if settings["preload"]:
                reseed()
            harden_and_preload(settings, [settings["preload"][i] for i in settings["unshared"]])
            from offload._child.start import work

            work(socket_fd, page_fd, settings)
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
                kill_group(pid, signal.SIGKILL)
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
        for pid in children():
            if everything or not (pid in self._helpers or self._is_of_worker(pid)):
                self._condemned.add(pid)
                kill_tree(pid)

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
        return not self._pids.keys().isdisjoint(workers_above(pid))

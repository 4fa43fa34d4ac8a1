"""What workers run for the tests of hardening: tasks that try what they should not be able to."""

import ctypes
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_NEW_USER = 0x10000000
_TIOCSTI = 0x5412
_PTRACE_SEIZE, _PTRACE_DETACH = 0x4206, 17
_EPERM = errno.EPERM


def _libc(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name} was refused")


def _socket(family: int) -> None:
    socket.socket(family).close()


def _datagrams() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
        end.close()


def _connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def _by_a_program() -> None:
    script = "import socket; socket.socket()"
    done = subprocess.run([sys.executable, "-I", "-c", script], check=False, capture_output=True)
    if done.returncode:
        raise OSError(_EPERM, done.stderr.decode())


def _new_namespace() -> None:
    _libc("unshare", _NEW_USER)


def _attach(pid: int) -> None:
    _libc("ptrace", _PTRACE_SEIZE, pid, None, None)
    _libc("ptrace", _PTRACE_DETACH, pid, None, None)


def _read_memory(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))


def _read_environment(pid: int) -> None:
    Path(f"/proc/{pid}/environ").read_bytes()


def _limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_CPU, resource.prlimit(pid, resource.RLIMIT_CPU))


def _signal(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def _signal_by_descriptor(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, signal.SIGCONT)
    finally:
        os.close(fd)


def _pin(pid: int) -> None:
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))


def _slow_down(pid: int) -> None:
    os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid))


def _semaphores() -> None:
    _libc("semget", 0, 1, 0o1600)  # IPC_PRIVATE, IPC_CREAT


def _io_uring() -> None:
    _libc("syscall", 425, 1, ctypes.create_string_buffer(120))


def _create(folder: Path) -> None:
    (folder / "created").write_text("x")


def _append(folder: Path) -> None:
    with (folder / "file").open("a") as file:
        file.write("x")


def _change(call: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        call(folder / "file")

    return change


FOLDERS: dict[str, Callable[[Path], object]] = {
    "create": _create,
    "append": _append,
    "truncate": _change(lambda path: os.truncate(path, 0)),
    "rename": _change(lambda path: path.rename(path.with_name("renamed"))),
    "link": _change(lambda path: path.with_name("link").hardlink_to(path)),
    "symlink": _change(lambda path: path.with_name("symlink").symlink_to(path)),
    "remove": _change(lambda path: path.unlink()),
    "make a folder": _change(lambda path: path.with_name("folder").mkdir()),
    "make a pipe": _change(lambda path: os.mkfifo(path.with_name("pipe"))),
}
# What Landlock has no right for: not even in folders that are writable.
CHANGES: dict[str, Callable[[Path], object]] = {
    "mode": _change(lambda path: path.chmod(0o600)),
    "mode of an open file": _change(lambda path: _of_open_file(path, os.fchmod, 0o600)),
    "owner": _change(lambda path: os.chown(path, os.getuid(), os.getgid())),
    "times": _change(lambda path: os.utime(path, (0, 0))),
    "attributes": _change(lambda path: os.setxattr(path, "user.test", b"x")),
}
PROCESSES: dict[str, Callable[[int], object]] = {
    "signal": _signal,
    "signal by descriptor": _signal_by_descriptor,
    "attach": _attach,
    "memory": _read_memory,
    "environment": _read_environment,
    "limits": _limit,
    "affinity": _pin,
    "priority": _slow_down,
}
NETWORKS: dict[str, Callable[[], object]] = {
    "IPv4": lambda: _socket(socket.AF_INET),
    "IPv6": lambda: _socket(socket.AF_INET6),
    "Unix": lambda: _socket(socket.AF_UNIX),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "datagrams": _datagrams,
    "by a program": _by_a_program,
}
OTHERS: dict[str, Callable[[], object]] = {
    "namespace": _new_namespace,
    "semaphores": _semaphores,
    "io_uring": _io_uring,
    "dumpable again": lambda: _libc("prctl", 4, 1, 0, 0, 0),
    "another user": lambda: os.setuid(12345),
}


def _of_open_file(path: Path, call: Callable[..., object], *arguments: object) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        call(fd, *arguments)
    finally:
        os.close(fd)


def leaves_core_dump(folder: str) -> bool:
    """Have a child abort in a folder; return whether the kernel kept what it had in memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.abort()
    _, status = os.waitpid(pid, 0)
    return os.WCOREDUMP(status)


def attempt(group: str, name: str, *arguments: object) -> str:
    """Try it; return "done", or the name of the kernel's error."""
    attempts: dict[str, Callable[..., object]] = globals()[group]
    given = [Path(each) if isinstance(each, str) else each for each in arguments]
    try:
        attempts[name](*given)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    return "done"


def use_what_is_allowed() -> list[object]:
    """Do what tasks do."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"pair")
        received = theirs.recv(10)
    shell = subprocess.run(
        ["/bin/sh", "-c", "echo shell"],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.kill()
    memory = os.memfd_create("memory")
    os.write(memory, b"memory")
    os.ftruncate(memory, 3)
    size = os.fstat(memory).st_size
    os.close(memory)
    os.nice(0)
    return [received, shell.stdout, child.wait(), size]


def status() -> dict[str, str]:
    """Return what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def who() -> tuple[int, int, list[int], str]:
    """Return the user, group and groups of this process, and its limits."""
    return os.getuid(), os.getgid(), os.getgroups(), status()["CapEff"]


def register_shared_memory(name: str) -> None:
    """Tell the server's resource tracker of shared memory, as if this worker had made it."""
    from multiprocessing import resource_tracker

    resource_tracker.register(f"/{name}", "shared_memory")

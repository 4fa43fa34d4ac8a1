"""What the workers of the pool's tests run: plain functions, faults, and ways to hold a task."""

import _thread
import atexit
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from offload import in_worker, offload, task_context

_WORD = 8


def pid(*_: object) -> int:
    return os.getpid()


def echo(value: Any, *, again: Any = None) -> Any:
    return value if again is None else (value, again)


def divide(left: float, right: float) -> float:
    return left / right


def length(value: Any) -> int:
    return len(value)


def zeros(size: int) -> bytes:
    return bytes(size)


def ident() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def inside() -> bool:
    return in_worker()


def count_to(stop: int) -> Iterator[int]:
    yield from range(stop)


@offload
def nested_inner() -> tuple[int, bool]:
    return os.getpid(), in_worker()


def nested() -> tuple[int, tuple[int, bool]]:
    """Call an offloaded function from a worker, as code that does not know where it is would."""
    inner: Any = nested_inner()
    return os.getpid(), inner


# --- waiting for the test, without sleeping ---


def knock(entered: str) -> None:
    """Tell the test, by way of a FIFO, that we are here, and who we are."""
    tell(entered, os.getpid())


def tell(path: str, number: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, number.to_bytes(_WORD, "little"))
    finally:
        os.close(fd)


def pass_gate(gate: str) -> None:
    """Wait until the test lets one more pass."""
    with open(gate, "rb", buffering=0) as file:  # noqa: PTH123 - a FIFO
        file.read(1)


def hold(entered: str, gate: str, value: Any = None) -> tuple[Any, int]:
    knock(entered)
    pass_gate(gate)
    return value, os.getpid()


def report_and_hold(gate: str) -> None:
    task = task_context()
    assert task is not None
    task.progress(1, 4)
    pass_gate(gate)


class HeldWhenLoaded:
    """An argument that tells the test that it is being unpickled, and waits at a gate."""

    def __init__(self, entered: str, gate: str) -> None:
        self.fifos = entered, gate

    def __reduce__(self) -> tuple[Any, ...]:
        return hold, self.fifos


def note(path: str, value: str) -> str:
    """Leave a trace of having run, in one write."""
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123 - appended to, whole
        file.write(f"{value}\n")
    return value


def hold_until_cancelled(entered: str) -> str:
    """Stop when nobody waits any more; the test proves that by using this worker again."""
    knock(entered)
    task = task_context()
    assert task is not None
    while not task.cancelled():
        time.sleep(0.001)
    return "stopped"


def stream_pids(stop: int, finished: str) -> Iterator[int]:
    try:
        for _ in range(stop):
            yield os.getpid()
    finally:
        Path(finished).touch()


def stream_slowly(seconds: float) -> Iterator[float]:
    time.sleep(seconds)
    yield seconds


def task_facts() -> tuple[str, float | None, bool]:
    task = task_context()
    assert task is not None
    left = None if task.deadline is None else task.deadline - time.monotonic()
    return task.function, left, task.cancelled()


# --- what a worker is ---


def environment(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def modules(*names: str) -> list[bool]:
    return [name in sys.modules for name in names]


def priority() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.nice(0)


def interrupt_me() -> str:
    """Survive what Ctrl+C sends to everybody in the foreground."""
    os.kill(os.getpid(), signal.SIGINT)
    return "still here"


_kept: list[bytes] = []


def keep_memory(size_bytes: int) -> int:
    """Grow, as a leaking library does."""
    _kept.append(os.urandom(1) * size_bytes)
    return os.getpid()


def keep_and_return(size_bytes: int) -> bytes:
    keep_memory(size_bytes)
    return os.getpid().to_bytes(_WORD, "little") + bytes(1 << 20)


def keep_memory_and_raise(size_bytes: int) -> NoReturn:
    raise ChildProcessError(keep_memory(size_bytes))


_initialized: list[Any] = []


def initialize(value: Any) -> None:
    _initialized.append(value)


def initialized() -> list[Any]:
    return list(_initialized)


def fail_to_initialize() -> NoReturn:
    raise LookupError("no licence for this machine")


def note_at_exit(path: str) -> None:
    atexit.register(Path(path).touch)


# --- payloads with a will of their own ---


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("a live connection cannot be pickled")


class PicklesNotBack(Exception):  # noqa: N818 - what it is, not what went wrong
    """Says itself how it is pickled, and is wrong."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = Unpicklable()

    def __reduce__(self) -> tuple[Any, ...]:
        return PicklesNotBack, self.args


def return_unpicklable() -> Unpicklable:
    return Unpicklable()


def raise_not_back() -> NoReturn:
    raise PicklesNotBack(1, 2)


class FaultWhenUnpickled:
    def __init__(self, name: str, report: str) -> None:
        self.arguments = name, report

    def __reduce__(self) -> tuple[Any, ...]:
        return fault, self.arguments


class FaultWhenPickled:
    def __init__(self, name: str, report: str) -> None:
        self.arguments = name, report

    def __reduce__(self) -> tuple[Any, ...]:
        fault(*self.arguments)
        return str, ()


# --- faults ---


def fault(name: str, report: str) -> None:
    """Do the worst that a function can do.

    Args:
        name: of the fault.
        report: a FIFO that is told our process id first, and those of children that we leave.
    """
    knock(report)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    FAULTS[name](report)


def _raise(_: str) -> None:
    raise ZeroDivisionError("by intent")


def _exit(_: str) -> None:
    os._exit(3)


def _sys_exit(_: str) -> None:
    sys.exit(3)


def _interrupt(_: str) -> None:
    raise KeyboardInterrupt


def _segfault(_: str) -> None:
    ctypes.string_at(0)


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(_: str) -> None:
    while True:
        pass


def _hang_native(_: str) -> None:
    ctypes.PyDLL(None).sleep(3600)  # PyDLL: holds the GIL


def _reach_memory_limit(_: str) -> None:
    """Ask for more than this process may have; the limit stays, and the worker with it."""
    slack = 64 << 20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - as above
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + slack, hard))
    bytearray(2 * slack)


def _run_out_of_memory(report: str) -> None:
    """Grow, and end as the kernel ends whoever grows too much."""
    keep_memory(16 << 20)
    _kill(report)


def _grandchildren(report: str) -> None:
    leave_children(report)
    _kill(report)


def leave_children(report: str) -> None:
    """Start a child in our group, one in its own session, and a daemon of a child that ends."""
    for in_session in (False, True):
        child = subprocess.Popen(["sleep", "3600"], start_new_session=in_session)
        child.returncode = 0  # left behind by intent: no warning
        tell(report, child.pid)
    tell(report, daemon())


def daemon() -> int:
    """Start a daemon, forked twice and in a session of its own, and return its process id."""
    reader, writer = os.pipe()
    if not (child_pid := os.fork()):
        os.setsid()
        if not os.fork():
            os.write(writer, os.getpid().to_bytes(_WORD, "little"))
            signal.pause()
        os._exit(0)
    os.close(writer)
    os.waitpid(child_pid, 0)
    with os.fdopen(reader, "rb") as told:
        return int.from_bytes(told.read(_WORD), "little")


FAULTS = {
    "raise": _raise,
    "os._exit": _exit,
    "sys.exit": _sys_exit,
    "KeyboardInterrupt": _interrupt,
    "segfault": _segfault,
    "SIGKILL": _kill,
    "hang in Python": _hang,
    "hang in native code": _hang_native,
    "memory limit": _reach_memory_limit,
    "out of memory": _run_out_of_memory,
    "grandchildren": _grandchildren,
}


def run_fault(name: str, report: str) -> None:
    fault(name, report)


def accept(value: Any) -> Any:
    return value


def fault_in_result(name: str, report: str) -> FaultWhenPickled:
    return FaultWhenPickled(name, report)


def fault_when_idle(name: str, report: str, gate: str) -> int:
    """Return, and go wrong later, in a thread, when the worker has nothing to do."""

    def later() -> None:
        pass_gate(gate)
        # What a thread raises is its own affair; keep the report of it out of the test's output.
        with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt, SystemExit, MemoryError):
            fault(name, report)

    threading.Thread(target=later, daemon=True).start()
    return os.getpid()


def fault_while_exists(name: str, report: str, flag: str) -> None:
    """Go wrong, as an initializer, until the test takes the flag away."""
    if os.path.exists(flag):  # noqa: PTH110 - as cheap as can be in a worker
        fault(name, report)


def interrupt_main_when_idle(gate: str) -> int:
    def later() -> None:
        pass_gate(gate)
        _thread.interrupt_main()

    threading.Thread(target=later, daemon=True).start()
    return os.getpid()


def hold_with_helpers(entered: str, gate: str) -> int:
    """Tell the ids of three processes that we put in the background, and wait."""
    script = "sleep 3600 >/dev/null & echo $!"
    for in_session in (False, True):
        done = subprocess.run(
            ["sh", "-c", script], check=True, stdout=subprocess.PIPE, start_new_session=in_session
        )
        tell(entered, int(done.stdout))
    tell(entered, daemon())
    pass_gate(gate)
    return os.getpid()


def hang_with_children(report: str) -> None:
    leave_children(report)
    knock(report)
    _hang_native(report)

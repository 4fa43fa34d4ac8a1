"""A request run by a worker of a `concurrent.futures` executor: bytes in, bytes out."""

from __future__ import annotations

import os
import sys

from offload._child import context
from offload._child.main_module import install_main
from offload._child.task import Failure, leave, prepare, raised
from offload._wire.exceptions import summary, trace
from offload._wire.frames import Flag, Frame, Kind
from offload._wire.lean import pickle, signal
from offload._wire.payload import Stopwatch
from offload._wire.pickling import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class _State:
    """What was made of this process, or of this interpreter."""

    def __init__(self) -> None:
        self.failure = ""
        self.is_over_limit: Callable[[], bool] | None = None
        # What the server's were, where this is an interpreter of its own in the same process.
        self.path: tuple[str, ...] = ()
        self.main: tuple[str, str] | None = None


_state = _State()


def begin(
    os_priority: str, initializer: bytes | None, modules: list[str], max_memory_bytes: int | None
) -> None:
    """Prepare a process of a `ProcessPoolExecutor` that is ours alone."""
    from offload._child.os_priority import lower_priority, prefer_when_out_of_memory
    from offload._child.signals import reset_signals
    from offload._child.start import prepare_process
    from offload._child.worker import resident_bytes

    try:
        reset_signals()
        _end_with_parent()
        lower_priority(os_priority)
        prefer_when_out_of_memory()
        context.process.is_worker = True
        if max_memory_bytes is not None:
            _state.is_over_limit = lambda: resident_bytes() > max_memory_bytes
        # multiprocessing has its own way with __main__.
        prepare_process({"main": None, "initializer": initializer}, modules)
    except BaseException as error:
        # stdlib would only say that the process ended: `ready` says why.
        _state.failure = trace(error)


def _end_with_parent() -> None:
    """End this process when its server ends, however it ends; stdlib's worker waits for ever."""
    import multiprocessing
    import threading

    from offload._child.os_priority import die_with_parent

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if os.getppid() != parent.pid:
        # A child of the fork server, which ends with the server and has one thread: the kernel
        # kills us after it, native code or not. (A child of the server itself would be killed
        # when the *thread* that started it ends: see PR_SET_PDEATHSIG in prctl(2).)
        die_with_parent()
        _let_fork_server_end()

    _have_kernel_end_us(parent.sentinel)

    def watch() -> None:
        # Where the kernel does not, and where the server had ended before it was asked to.
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="offload-parent", daemon=True).start()


def _have_kernel_end_us(sentinel: int) -> None:
    """Have the kernel kill this process when the other end of a pipe is closed (Linux).

    A thread that waits for that gets no further while a function holds the GIL, and is slow to
    where the machine is busy. Nothing is written to this pipe once multiprocessing has started the
    process, so that its end is the only signal that it gives.

    Args:
        sentinel: the reading end; the server holds the other one for as long as it lives.

    Source:
        fcntl(2), "Signals"; F_SETSIG may name any signal.
    """
    try:
        import fcntl

        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    except (ImportError, AttributeError, OSError):
        pass


def _let_fork_server_end() -> None:
    # stdlib's fork server lives until each process that it has started has ended too, by means of
    # a pipe that they inherit: a worker that is stuck would keep it, and itself, alive.
    from multiprocessing import forkserver

    server = getattr(forkserver, "_forkserver", None)
    inherited = getattr(server, "_forkserver_alive_fd", None)
    if inherited is None:
        return
    nothing = os.open(os.devnull, os.O_RDONLY)
    # In its place: the number is passed on when this process uses multiprocessing itself.
    os.dup2(nothing, inherited, inheritable=False)
    os.close(nothing)


def ready() -> tuple[int, str]:
    """Return the process id and, if preparing this process has failed, the traceback of that."""
    return os.getpid(), _state.failure


def run_in_interpreter(
    path: tuple[str, ...], main: tuple[str, str] | None, request: bytes
) -> Frame:
    """Run one request in an interpreter of its own, within the server's process.

    Such an interpreter begins with the search path and the `__main__` that an empty program has.

    Args:
        path: the server's search path, on which its functions are found.
        main: the server's main module, see `install_main`.
        request: as that of `run`.
    """
    if _state.main != main:
        _state.main = main
        install_main(main)
    if _state.path != path:
        _state.path = path
        sys.path[:] = path
    return run(request)


def run(request: bytes) -> Frame:
    """Run one request.

    Args:
        request: the pickled (reference, arguments, keywords, meta).

    Returns:
        The reply, as a worker of our own would send it.
    """
    try:
        scope, function, arguments, keywords, meta = prepare(pickle.loads, request)
        try:
            result = scope.run(function, *arguments, **keywords)
        except BaseException as error:
            leave(scope, meta, error)
            raise raised(error) from None
        leave(scope, meta, None)
        watch = Stopwatch()
        try:
            if meta is not None and "by_value" in meta:
                import cloudpickle

                body = cloudpickle.dumps(result, 5)
            else:
                body = dumps(result)
        except BaseException as error:
            raise Failure(Kind.BAD_RESULT, (summary(error), trace(error))) from None
    except Failure as failure:
        return Frame(failure.kind, 0, pickle.dumps(failure.detail, 5))
    limit = meta.get("max_payload_bytes") if meta is not None else None
    if limit is not None and len(body) > limit:
        return Frame(Kind.RESULT_TOO_LARGE, 0, pickle.dumps((len(body), limit), 5))
    flags = Flag.SLOW if watch.is_slow() else 0
    if _state.is_over_limit is not None and _state.is_over_limit():
        flags |= Flag.RECYCLE
    return Frame(Kind.RESULT, flags, body)

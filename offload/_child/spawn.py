"""Begins a worker in a fresh interpreter, and ends one: both without returning to the caller."""

from __future__ import annotations

import marshal
import os
import sys

from offload._child import context
from offload._child.kept_code import find_kept_code
from offload._child.preload import preload
from offload._wire.interpreter import MARK, command_line, take_path
from offload._wire.lean import struct
from offload._wire.memory_file import anonymous_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = [
    "execute",
    "execute_worker",
    "harden_and_preload",
    "leave",
    "settings_from",
    "spawned",
]

_SPAWN = "from offload._child.spawn import spawned; spawned(int(sys.argv[1]), int(sys.argv[2]))"
_INT = struct.Struct("<i")


def execute(code: str, settings: dict[str, Any], fd: int, other_fd: int | None = None) -> NoReturn:
    """Become a fresh interpreter that runs `code`, which finds the settings in a file.

    Args:
        code: takes two descriptors from its command line: of the settings, and `other_fd` or `fd`.
        settings: an environment or a command line would limit their size.
        fd: a descriptor that comes along; `settings_from` returns it.
        other_fd: another one.
    """
    settings_fd = anonymous_file()
    os.write(settings_fd, _INT.pack(fd) + marshal.dumps(settings))
    second = fd if other_fd is None else other_fd
    inherited = {settings_fd, fd, second}
    if settings["code_log"] is not None:
        inherited.add(settings["code_log"])
    for each in inherited:
        os.set_inheritable(each, True)
    command = command_line(code, settings["flags"], str(settings_fd), str(second))
    os.environ[MARK] = str(os.getppid())
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, no shell
    raise AssertionError


def settings_from(settings_fd: int) -> tuple[dict[str, Any], int]:
    """Return the settings of a fresh interpreter, and the descriptor that came with them."""
    size = os.fstat(settings_fd).st_size
    data = os.pread(settings_fd, size, 0)
    os.close(settings_fd)
    (fd,) = _INT.unpack_from(data)
    os.set_inheritable(fd, False)
    settings: dict[str, Any] = marshal.loads(data[_INT.size :])
    return settings, fd


def execute_worker(socket_fd: int, page_fd: int, settings: dict[str, Any]) -> NoReturn:
    """Begin a worker in a fresh interpreter: this process becomes that."""
    execute(_SPAWN, settings, socket_fd, page_fd)


def spawned(settings_fd: int, page_fd: int) -> None:
    """Be a worker in a fresh interpreter."""
    # Before anything of the user's is imported, which may start programs.
    os.set_inheritable(page_fd, False)
    settings, socket_fd = settings_from(settings_fd)
    sys.argv[:] = settings["argv"]
    context.process.is_worker = True
    from offload._child.start import work

    take_path(settings)
    find_kept_code(settings["code_log"])
    harden_and_preload(settings, settings["preload"])
    work(socket_fd, page_fd, settings)
    leave(0)


def harden_and_preload(settings: dict[str, Any], entries: list[str]) -> None:
    """Raise the walls that a worker is to have, if any, and load what it has of its own."""
    if settings["walls"]:
        from offload._child.hardening import harden

        harden(settings)
    if entries and not settings["start_error"]:
        settings["start_error"] = preload(entries)


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

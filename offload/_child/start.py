"""The life of a worker process: it gets ready, says so, serves, and ends with its socket."""

from __future__ import annotations

import mmap
import os
import sys

from offload._child import context, functions
from offload._child.connection import Connection, Gone
from offload._child.kinship import act_as_child
from offload._child.main_module import install_main
from offload._child.places import find_there_too
from offload._child.signals import reset_signals
from offload._child.worker import Serving
from offload._wire.exceptions import summary, trace
from offload._wire.frames import Kind
from offload._wire.lean import pickle, socket
from offload._wire.page import PAGE_BYTES
from offload._wire.shared_buffers import SharedBuffers
from offload._wire.walls import pack_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Room for the header and the pickle's own overhead below the size of a frame.
_INLINE_BYTES = 60 * 1024


__all__ = ["prepare_process", "work"]


def work(socket_fd: int, page_fd: int, settings: dict[str, Any]) -> None:
    """Serve one parent over an inherited socket, then run exit hooks and return.

    Args:
        socket_fd: our end of the socketpair.
        page_fd: a file of one page, shared with the parent.
        settings: what the supervisor was given for its workers.
    """
    reset_signals()
    connection = Connection(socket.socket(fileno=socket_fd))
    shared = mmap.mmap(page_fd, 0)
    page = memoryview(shared)[:PAGE_BYTES].cast("Q")
    os.close(page_fd)
    context.process.is_worker = True
    context.process.page = page
    try:
        try:
            if settings["start_error"]:
                _send_failure(connection, settings["start_error"])
                return
            greeting = pickle.loads(connection.receive().body)
            modules, levels = greeting["modules"], greeting["levels"]
            if greeting["initializer"] is not None:
                settings["initializer"] = greeting["initializer"]
            find_there_too(greeting["places"])
            act_as_child(connection, greeting["authkey"])
            serving = _serving_of(greeting)(
                connection, page, SharedBuffers(shared, page), levels, settings["max_memory_bytes"]
            )
            functions.guard_imports = serving.guard_imports
            functions.guard_relay = serving.guard_relay
            serving.has_console = greeting["has_console"]
            prepare_process(settings, modules)
        except Gone:
            raise
        except BaseException as error:
            _send_failure(connection, trace(error))
            return
        connection.send(Kind.READY, pack_ready(os.getpid(), settings["missing_walls"]))
        serving.run()
    except Gone:
        pass
    finally:
        connection.close()


def _serving_of(greeting: dict[str, Any]) -> type[Serving]:
    if not greeting["sends_data"]:
        return Serving
    from offload._child.data_serving import DataServing

    return DataServing


def _send_failure(connection: Connection, text: str) -> None:
    # Of a traceback, the end says most.
    connection.send(
        Kind.START_FAILED, text.encode(errors="backslashreplace")[-_INLINE_BYTES // 2 :]
    )


def prepare_process(settings: dict[str, Any], modules: list[str]) -> None:
    """Run the initializer and import what the pool's functions need."""
    install_main(settings["main"])
    if settings["initializer"] is not None:
        keep = functions.guard_relay()
        initializer, arguments = pickle.loads(settings["initializer"])
        initializer(*arguments)
        keep()
    import importlib

    undo = functions.guard_imports()
    for module in modules:
        # One that fails to import fails the calls that need it, and nothing else; it is told now.
        try:
            if ":" in module:
                from offload._child.resource import load

                load(module)
            else:
                importlib.import_module(module)
        except BaseException as error:  # sys.exit() included
            sys.modules.pop(module, None)
            undo()
            _tell_failed_import(module, error)
    undo()


def _tell_failed_import(module: str, error: BaseException) -> None:
    import logging

    # In the same words for all workers, of which the server says it once.
    logging.getLogger("offload.workers").error(
        "%r does not import in a worker, though it did here: each call of a function in it will "
        "fail. %s",
        module,
        summary(error),
        exc_info=error,
        extra={"offload_once": True},
    )

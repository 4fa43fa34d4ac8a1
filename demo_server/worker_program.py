"""The worker program of the demo: a process beside the server, which ends with it.

    server ── pipe ──► worker program (`offload worker`) ──► worker processes
       │                        ▲
       └────── jobs, in a file ─┘

Whatever ends the server, SIGKILL included, closes the pipe: the worker program then ends as at
SIGTERM, and removes the folder of the jobs if the server did not come to it.

In production systemd or a container keeps the program up; here `Keeper` does.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from anyio.abc import Process

    from demo_server.settings import OsPriority

__all__ = ["LEASE_SECONDS", "Keeper", "main"]

# As short as there is: on the page one watches a job come back.
LEASE_SECONDS = 2.0
_DRAIN_SECONDS = 1.0
# Between the end of one program and the start of the next, as `RestartSec` of systemd.
_RESTART_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
# Of the worker program, which needs one with another OS priority than the usual.
_POOL = "jobs"


class Keeper:
    """Keeps a worker program up beside the server.

    Args:
        url: where the jobs are; None: in a file of its own, which is removed at the end.
        slots: attempts at once; None: as the CPUs allow.
        os_priority: of the processes that run them.
    """

    def __init__(self, url: str | None, slots: int | None, os_priority: str) -> None:
        self._folder = None if url else tempfile.mkdtemp(prefix="offload-demo-")
        self.url = url or f"sqlite:///{self._folder}/jobs.sqlite3?synchronous=normal"
        self._slots = slots
        self._os_priority = os_priority
        self._process: Process | None = None
        self._started = 0

    def state(self) -> dict[str, object]:
        """Return what the page shows: process id, None while there is none, and starts."""
        process = self._process
        pid = None if process is None or process.returncode is not None else process.pid
        return {"pid": pid, "starts": self._started, "lease": LEASE_SECONDS}

    def kill(self) -> int | None:
        """Kill the program with SIGKILL, and return its process id; None: there is none now."""
        process = self._process
        if process is None or process.returncode is not None:
            return None
        process.kill()
        return process.pid

    @asynccontextmanager
    async def kept_up(self) -> AsyncGenerator[None]:
        """Keep it up meanwhile."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_up)
                yield
                group.cancel_scope.cancel()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    async def _keep_up(self) -> None:
        while True:
            process = await anyio.open_process(
                self._command(),
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=None,
                stderr=None,
                # Ctrl+C is for the server: it says when this one ends.
                start_new_session=True,
            )
            self._process = process
            self._started += 1
            try:
                await process.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
            await anyio.sleep(_RESTART_SECONDS)

    def _environment(self) -> dict[str, str]:
        # Where this package is, however this process has found it: `offload demo` of the wheel has
        # put its folder on the path itself.
        home = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
        return os.environ | {"OFFLOAD_JOBS": self.url, "PYTHONPATH": path}

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", __name__),
            *(self._folder or "", str(self._slots or ""), self._os_priority),
            *(f"{__package__}.work", "--pool", _POOL),
            *("--lease", str(LEASE_SECONDS), "--drain", str(_DRAIN_SECONDS)),
            *("--log-level", "error"),
        ]


async def _end(process: Process) -> None:
    """Close the pipe, and see that the program ends."""
    if process.stdin is not None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await process.stdin.aclose()
    with anyio.move_on_after(_DRAIN_SECONDS + _PATIENCE_SECONDS):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


def main(arguments: Sequence[str]) -> int:
    """Be the worker program until the server's end of standard input closes.

    Args:
        arguments: the folder to remove when the server is gone, or nothing; how many attempts run
            at once, or nothing; the OS priority of workers; then those of `offload worker`.
    """
    from offload import Pool
    from offload._cli import main as offload

    folder, slots, os_priority, *rest = arguments
    Pool(
        _POOL,
        max_workers=int(slots) if slots else None,
        os_priority=cast("OsPriority", os_priority),
    )
    threading.Thread(target=_end_with_server, daemon=True).start()
    try:
        return offload(["worker", *rest])
    finally:
        if folder and _is_server_gone.is_set():
            shutil.rmtree(folder, ignore_errors=True)


_is_server_gone = threading.Event()


def _end_with_server() -> None:
    # Nobody writes: it returns when the server has closed its end, or is dead.
    sys.stdin.buffer.read()
    _is_server_gone.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_DRAIN_SECONDS + _PATIENCE_SECONDS)
    # Stuck, and nobody is left to see that.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The programs of one way to run work: its web server, and a worker program where it has one.

Each is started again a second after it has ended, as process managers do; none is left behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.suite.contenders import NODE_FOLDER
from benchmarks.suite.servers import ROOT, Server, ServerError, end, free_port
from offload._bench.machine import pss_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.suite.contenders import Contender

_START_SECONDS = 60.0
_RESTART_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class Program:
    """One program, which is started again when it has ended.

    Args:
        command: what to run.
        folder: where.
        environment: of it, besides ours.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._command = command
        self._folder = folder
        self._environment = os.environ | environment
        self._closing = threading.Event()
        self.process = self._start()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            if not self._closing.wait(_RESTART_SECONDS):
                self.process = self._start()

    def weight(self) -> tuple[int, int, float]:
        """Return its processes, their threads, and their memory in bytes (PSS)."""
        threads = count = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            for each in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    threads += each.num_threads()
                    count += 1
        return count, threads, float(pss_bytes([self.process.pid]) or 0)

    def kill(self) -> None:
        """Kill it, and nothing below it."""
        self.process.kill()

    def close(self) -> None:
        """End it, and all that it started."""
        self._closing.set()
        self._watching.join()
        end(self.process)


class Programs:
    """The programs of one way.

    Attributes:
        port: of the web server.
        folder: for what they write down.
        web: the program that answers.
        worker: the program that computes; None: the same one does.
    """

    def __init__(self, port: int, folder: Path, web: Program, worker: Program | None) -> None:
        self.port = port
        self.folder = folder
        self.web = web
        self.worker = worker

    @property
    def all(self) -> list[Program]:
        """All of them."""
        return [self.web] if self.worker is None else [self.web, self.worker]

    @property
    def server(self) -> Server:
        """The web server as it is now."""
        return Server(self.port, psutil.Process(self.web.process.pid))

    def await_answer(self, path: str = "/fast") -> float:
        """Wait until it answers; return how many seconds that took."""
        begin = time.monotonic()
        while time.monotonic() < begin + _START_SECONDS:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5).close()
                return time.monotonic() - begin
            time.sleep(_LOOK_SECONDS)
        raise ServerError(f"nobody answers on port {self.port}")


@contextlib.contextmanager
def running(contender: Contender, workers: int, loops: int) -> Iterator[Programs]:
    """Run the programs of a way.

    Args:
        contender: which way.
        workers: worker processes that compute.
        loops: steps of what is scheduled.

    Raises:
        ServerError: nobody answers.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = {
            "CONTENDER": contender.name,
            "WORKERS": str(workers),
            "LOOPS": str(loops),
            "OFFLOAD_JOBS": f"sqlite:///{folder / 'jobs.sqlite3'}",
        }
        if contender.language == "node":
            web = Program(["node", "cron.mjs", str(port), str(loops)], NODE_FOLDER, environment)
        else:
            command = [
                *(sys.executable, "-m", "uvicorn", "benchmarks.ways_server:app"),
                *("--port", str(port), "--loop", "uvloop", "--http", "httptools"),
                *("--log-level", "critical", "--timeout-graceful-shutdown", "1"),
            ]
            web = Program(command, ROOT, environment)
        stack.callback(web.close)
        worker = None
        if contender.name == "offload-jobs":
            command = [
                *(sys.executable, "-m", "offload", "worker", "benchmarks.ways_functions:jobs"),
                *("--concurrency", str(workers), "--drain", "1"),
            ]
            worker = Program(command, ROOT, environment)
            stack.callback(worker.close)
        programs = Programs(port, folder, web, worker)
        programs.await_answer()
        yield programs

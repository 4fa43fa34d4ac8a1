"""Servers of contenders, each in a process of its own, and none left behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.suite.contenders import NODE_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.suite.contenders import Contender

ROOT = Path(__file__).parent.parent.parent
_START_SECONDS = 60.0
# A loop that is blocked does not hear SIGTERM, and nobody wants its answers any more.
_END_SECONDS = 2.0


class ServerError(RuntimeError):
    """A contender's server did not start, or did not do what it should."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers.

    Attributes:
        port: on 127.0.0.1.
        process: its main process.
    """

    port: int
    process: psutil.Process

    @property
    def pid(self) -> int:
        """The id of its main process."""
        return self.process.pid

    def ask(self, path: str, *, timeout: float = 60.0) -> Any:
        """Return the answer to a request, as JSON tells it."""
        return json.loads(self.ask_text(path, timeout=timeout))

    def ask_text(self, path: str, *, timeout: float = 60.0) -> str:
        """Return the answer to a request, as text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as got:
            return str(got.read().decode())

    def lags(self) -> list[float]:
        """Return by how many ms its event loop was late since this was last asked."""
        values: list[float] = self.ask("/lag")
        return values


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(
    contender: Contender, workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a contender's server.

    Raises:
        ServerError: it did not start.
    """
    is_node = contender.language == "node"
    port = free_port()
    if is_node:
        command = ["node", "server.mjs", contender.name, str(port), str(workers)]
    else:
        command = [
            *(sys.executable, "-m", "uvicorn", "benchmarks.server:app", "--port", str(port)),
            *("--loop", "uvloop", "--http", "httptools", "--log-level", "critical"),
            # The usual backlog would refuse some of a thousand clients that come at once.
            *("--backlog", "4096", "--timeout-graceful-shutdown", "1"),
        ]
    process = subprocess.Popen(
        command,
        cwd=NODE_FOLDER if is_node else ROOT,
        env=os.environ
        | {"CONTENDER": contender.name, "WORKERS": str(workers), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        if is_node:
            _wait_for_ready(process, contender)
        wait_for_answer(process, port, contender)
        yield Server(port, psutil.Process(process.pid))
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(tree, timeout=_END_SECONDS)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _wait_for_ready(process: subprocess.Popen[bytes], contender: Contender) -> None:
    assert process.stdout is not None  # noqa: S101 - opened as a pipe
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(_START_SECONDS) and process.stdout.readline().strip() == b"ready":
            return
    raise ServerError(f"the server of {contender.name} did not say that it is ready")


def wait_for_answer(process: subprocess.Popen[bytes], port: int, contender: Contender) -> None:
    """Wait until a server answers.

    Raises:
        ServerError: it does not, or has ended.
    """
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/fast", timeout=5).close()
            return
        time.sleep(0.02)
    raise ServerError(
        f"the server of {contender.name} did not answer (exit status {process.returncode}); "
        f"run it by hand: CONTENDER={contender.name} python -m uvicorn benchmarks.server:app"
    )

"""Under the servers that people run: Ctrl+C ends them cleanly and at once, SIGKILL leaves nothing.

Each server here is a real one, with its reloader or its web workers, running the demo application
with heavy requests under way.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent
APP = "demo_server.app:app"
PYTHON = [sys.executable, "-m"]
GUNICORN = [*PYTHON, "gunicorn", APP, "-b", "127.0.0.1:{port}", "-w", "2"]
GUNICORN += ["-k", "uvicorn.workers.UvicornWorker"]
SERVERS = {
    "uvicorn": [*PYTHON, "uvicorn", APP, "--port", "{port}"],
    "uvicorn --workers 2": [*PYTHON, "uvicorn", APP, "--port", "{port}", "--workers", "2"],
    "uvicorn --reload": [*PYTHON, "uvicorn", APP, "--port", "{port}", "--reload"],
    "gunicorn -w 2": [*GUNICORN],
    "gunicorn --preload": [*GUNICORN, "--preload"],
}
# A heavy request of about a second: under way when the server is told to end.
HEAVY = "/heavy?n=300000"
# Every server waits for its requests; the demo's pool gives them this many seconds.
DRAIN = 1.0
END_SECONDS = 10.0
# Guarantee 7.
GUARANTEED_SECONDS = 1.0


class Served:
    """A server in a process group of its own, as a terminal would have it."""

    def __init__(self, command: list[str]) -> None:
        # A port that was free a moment ago: with several web workers, 0 would be one for each.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [word.format(port=port) for word in command],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "DEMO_DRAIN": str(DRAIN), "PYTHONWARNINGS": "ignore"},
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.said: list[str] = []
        self.everything: list[psutil.Process] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def open(self) -> None:
        assert self._listening.wait(30), "".join(self.said)
        # It listens before it serves, or says so before it does: this waits for the pool.
        deadline = time.monotonic() + 30
        while True:
            try:
                assert self.get("/fast")
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                break
        self.everything = self.tree()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if self.base in line:
                self._listening.set()
        self._listening.set()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base + path, timeout=30) as response:  # noqa: S310
            return response.read()

    def tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def close(self) -> None:
        if self.process.poll() is None:
            self.everything += self.tree()
        for process in self.everything:
            if process.is_running():
                process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(params=SERVERS, ids=list(SERVERS))
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that serves, and of which nothing is left afterwards."""
    server = Served(SERVERS[request.param])
    try:
        server.open()
        yield server
    finally:
        server.close()


def busy(server: Served) -> list[threading.Thread]:
    """Have heavy requests run, and return when every process below the server is known."""

    def ask() -> None:
        try:
            server.get(HEAVY)
        except (OSError, urllib.error.URLError):
            return  # cut, by the signal

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        server.everything = server.tree()
        # A pool's worker that has computed for a while is one that runs the heavy function.
        if any(is_worker(process) and cpu(process) > 0.2 for process in server.everything):
            return threads
        time.sleep(0.02)
    raise TimeoutError


def is_worker(process: psutil.Process) -> bool:
    """Return whether this is a worker of a pool, or its supervisor."""
    try:
        return "offload._child" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def cpu(process: psutil.Process) -> float:
    """Return the seconds that a process has computed."""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def left(processes: list[psutil.Process], seconds: float) -> list[Any]:
    """Return which of the processes are still there after so many seconds."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_interrupt_ends_it_cleanly(served: Served) -> None:
    """Ctrl+C in the terminal reaches the whole group; the server ends by itself, with no noise."""
    assert served.get("/fast")
    assert b"result" in served.get("/heavy?n=1000")
    served.everything = served.tree()
    os.killpg(served.process.pid, signal.SIGINT)
    assert not left(served.everything, END_SECONDS)
    said = "".join(served.said)
    assert "Traceback" not in said, said


def test_terminate_under_load_ends_within_the_drain(served: Served) -> None:
    """SIGTERM with heavy requests running ends the server in order, and its workers with it."""
    threads = busy(served)
    served.process.send_signal(signal.SIGTERM)
    assert not left(served.everything, DRAIN + END_SECONDS)
    for thread in threads:
        thread.join()


def test_kill_of_the_server_leaves_nothing(served: Served) -> None:
    """SIGKILL of every web process, with tasks running: no worker outlives it by a second."""
    threads = busy(served)
    workers = [process for process in served.everything if is_worker(process)]
    assert len(workers) > 1
    for process in served.everything:
        if process not in workers:
            process.kill()
    assert not left(workers, GUARANTEED_SECONDS)
    for thread in threads:
        thread.join()

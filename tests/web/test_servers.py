"""Under the servers that people run: Ctrl+C ends them cleanly and at once, SIGKILL leaves nothing.

Each server here is a real one, with its reloader or its web workers, with calls under way.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.processes import PATIENCE, Fifo, free_port, gone_now

ROOT = Path(__file__).parents[2]
APP = "tests.support.apps.served_app:app"
UVICORN = f"uvicorn {APP} --port PORT --timeout-graceful-shutdown GRACE"
GUNICORN = f"gunicorn {APP} -b 127.0.0.1:PORT --graceful-timeout GRACE -w 2"
GUNICORN += " -k uvicorn.workers.UvicornWorker"
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn --workers 2": f"{UVICORN} --workers 2",
    # It looks at every file of its folder, again and again.
    "uvicorn --reload": f"{UVICORN} --reload --reload-dir demo_server",
    "gunicorn -w 2": GUNICORN,
    "gunicorn --preload": f"{GUNICORN} --preload",
}
# At once, for whole servers with their web processes, their pools and their interpreters: most of
# it is the servers' own doing. What it must be told from is the drain of the application.
END_SECONDS = 10.0
GUARANTEED_SECONDS = 1.0


class Served:
    """A server in a process group of its own, as a terminal would have it."""

    def __init__(self, folder: Path, command: str, grace: int) -> None:
        port = free_port()  # with several web processes, 0 would be one for each
        self.base = f"http://127.0.0.1:{port}"
        self.report, self.gate = Fifo(folder / "report"), Fifo(folder / "gate")
        words = command.replace("PORT", str(port)).replace("GRACE", str(grace)).split()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "SERVED_DIRECTORY": str(folder),
                "PYTHONWARNINGS": "ignore",
            },
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        # All that was ever seen of it; those of which nothing may be left, among them.
        self.everything = {psutil.Process(self.process.pid)}
        self.answers: list[int] = []
        self.said: list[str] = []
        self._clients: list[threading.Thread] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def open(self) -> None:
        assert self._listening.wait(PATIENCE), "".join(self.said)
        # It listens before it serves, or says so before it does: this waits for the pool.
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert self.get("/fast") == 200
            except urllib.error.URLError:
                assert time.monotonic() < deadline, "".join(self.said)
                time.sleep(0.02)
            else:
                break
        self.look()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if self.base in line:
                self._listening.set()
        self._listening.set()

    def get(self, path: str) -> int:
        with urllib.request.urlopen(self.base + path, timeout=PATIENCE) as response:  # noqa: S310
            return response.status

    def ask(self, *paths: str) -> None:
        """Make requests in the background; their answers, if they come, are in `answers`."""

        def ask(path: str) -> None:
            try:
                self.answers.append(self.get(path))
            except urllib.error.HTTPError as error:
                with error:
                    self.answers.append(error.code)
            except OSError:
                return  # cut, by the signal

        for path in paths:
            self._clients.append(threading.Thread(target=ask, args=(path,)))
            self._clients[-1].start()

    def heard(self, voices: int) -> list[int]:
        """Wait until so many have told that they run; then we know every process below it."""
        heard = [self.report.heard_now() for _ in range(voices)]
        self.look()
        self.everything |= {psutil.Process(pid) for pid in heard}
        return heard

    def look(self) -> None:
        self.everything |= set(psutil.Process(self.process.pid).children(recursive=True))

    def left(self, seconds: float, processes: set[psutil.Process] | None = None) -> list[str]:
        """Return what is left of it after so many seconds."""
        among = self.everything if processes is None else processes
        left = gone_now(*(process.pid for process in among), seconds=seconds)
        return [repr(process) for process in among if process.pid in left]

    def kill(self) -> None:
        """SIGKILL to the server and its web processes, not to what has a group of its own.

        The first process goes first, and is awaited: it would start another web process for each
        that it misses, which nobody has seen, and which would keep the port and our pipe open.
        """
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        # Its zombie keeps the number of the group.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.look()
            self.kill()
        for process in self.everything:
            if process.is_running():
                process.kill()
        for client in self._clients:
            client.join()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.report.__exit__()
        self.gate.__exit__()


@pytest.fixture(params=SERVERS)
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts a server that gives its requests so many seconds at its end; nothing is left of it."""
    started = []

    def serve(grace: int = 300) -> Served:
        started.append(Served(tmp_path, SERVERS[request.param], grace))
        started[-1].open()
        return started[-1]

    yield serve
    for server in started:
        server.close()


def is_of_a_pool(process: psutil.Process) -> bool:
    """Return whether this is a worker of a pool, or its supervisor."""
    try:
        return "offload._child" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@pytest.mark.guarantee(7)
def test_interrupt_ends_it_cleanly(serve: Callable[..., Served]) -> None:
    """Ctrl+C in the terminal reaches the whole group; the server ends by itself, with no noise."""
    server = serve()
    server.ask("/hold")
    server.heard(1)
    server.gate.let()
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.left(END_SECONDS) == []
    assert "Traceback" not in "".join(server.said)


@pytest.mark.guarantee(7)
def test_interrupt_under_endless_work_ends_it_when_the_server_gives_up(
    serve: Callable[..., Served],
) -> None:
    """Ctrl+C while workers hang: as soon as the server does not wait, nothing else does."""
    server = serve(grace=1)
    server.ask("/hang?how=hang+in+Python", "/hang?how=hang+in+native+code", "/family")
    server.heard(6)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.left(1 + END_SECONDS) == []


@pytest.mark.guarantee(7)
def test_terminate_under_load_ends_it_in_order(serve: Callable[..., Served]) -> None:
    """SIGTERM with calls running: they end, their clients are answered, and then the server is."""
    server = serve()
    server.ask("/hold", "/hold", "/hold")
    server.heard(3)
    server.process.send_signal(signal.SIGTERM)
    server.gate.let(3)
    assert server.left(END_SECONDS) == []
    assert server.answers == [200, 200, 200]


@pytest.mark.guarantee(7)
def test_kill_of_the_server_leaves_nothing(serve: Callable[..., Served]) -> None:
    """SIGKILL of every web process: no worker in native code, and no child of one, stays."""
    server = serve()
    server.ask("/hang?how=hang+in+Python", "/hang?how=hang+in+native+code", "/family")
    heard = server.heard(6)
    ours = {
        process for process in server.everything if is_of_a_pool(process) or process.pid in heard
    }
    assert len(ours) > 6  # with supervisors
    server.kill()
    assert server.left(GUARANTEED_SECONDS, ours) == []

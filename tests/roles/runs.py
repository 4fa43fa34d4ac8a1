"""`offload run …` as a user starts it, and what it has written."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.support.processes import PATIENCE, descendants

ROOT = Path(__file__).parents[2]
APP = "tests.roles.app:app"
JOBS = ("--jobs", "tests.roles.tasks:jobs")
SCHEDULES = ("--scheduler", "tests.roles.timetable")


class Run:
    """One `offload run`, in a process group of its own, as a shell starts it."""

    def __init__(self, *arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "offload", "run", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self.output: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((self.process.stdout, self.output), (self.process.stderr, None))
            if each[0] is not None
        ]
        # Streams that have not ended.
        self._open = len(self._readers)
        for reader in self._readers:
            reader.start()

    @property
    def text(self) -> str:
        """Everything that it has written."""
        return "".join(self.lines)

    def _read(self, stream: Any, into: list[str] | None) -> None:
        for line in stream:
            with self._changed:
                self.lines.append(line)
                if into is not None:
                    into.append(line)
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def says(self, pattern: str, times: int = 1) -> Self:
        """Wait until it has written what matches, so often."""

        def said() -> bool:
            return len(re.findall(pattern, self.text, re.MULTILINE)) >= times

        with self._changed:
            # When it has ended there is nothing more to wait for.
            self._changed.wait_for(lambda: said() or not self._open, PATIENCE)
        assert said(), self.text
        return self

    def ready(self, *names: str) -> Self:
        """Wait until programs, by the beginning of their lines, are ready."""
        for name in names:
            self.says(rf"^{name} .*(serving http|worker program .* functions|scheduler: )")
        return self

    @property
    def url(self) -> str:
        """Where it serves."""
        found = re.search(r"serving (http://\S+)", self.text)
        assert found, self.text
        return found[1]

    def get(self, path: str) -> Any:
        """Ask it."""
        response = httpx.get(self.url + path, timeout=PATIENCE)
        assert response.status_code == 200, response.text
        return response.json()

    def program(self, name: str) -> psutil.Process:
        """Return the process of a role."""
        (found,) = [
            each
            for each in psutil.Process(self.pid).children()
            if each.cmdline()[-3] == name and each.status() != psutil.STATUS_ZOMBIE
        ]
        return found

    def everyone(self) -> set[int]:
        """Return the ids of all its processes."""
        return {self.pid, *descendants(self.pid)}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone, as process managers do."""
        self.process.send_signal(number)

    def ctrl_c(self) -> None:
        """Send SIGINT as a terminal does: to the process group."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return status

    def cpu_seconds(self) -> float:
        """Return what it has computed up to now."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


class Runs:
    """Those of one test, which end with it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._started: list[Run] = []

    def __call__(self, *arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> Run:
        """Start one."""
        environment = {"OFFLOAD_JOBS": self._url, "OFFLOAD_ROLE": ""} | environment
        run = Run(*arguments, stdout=stdout, **environment)
        self._started.append(run)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._started:
            if run.process.poll() is None:
                run.signal(signal.SIGKILL)
        for run in self._started:
            run.end()
            for stream in (run.process.stdout, run.process.stderr):
                if stream is not None:
                    stream.close()

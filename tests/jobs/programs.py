"""Worker programs as a user starts them: `offload worker …`, each a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[2]
MODULE = "tests.jobs.job_functions:jobs"


class Program:
    """One worker program, and what it has written."""

    def __init__(self, url: str, *arguments: str, module: str = MODULE) -> None:
        command = [sys.executable, "-m", "offload", "worker", module, *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OFFLOAD_JOBS": url},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """Everything that it has written."""
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "PYTEST_CURRENT_TEST" in os.environ:
                # Shown if the test fails.
                sys.stderr.write(f"{self.pid}: {line}")
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def says(self, word: str, seconds: float = PATIENCE) -> Self:
        """Wait until it has written a word."""
        with self._changed:
            assert self._changed.wait_for(lambda: word in self.text, seconds), self.text
        return self

    def has_said(self, word: str) -> bool:
        """Return whether it has written a word."""
        return word in self.text

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


class Programs:
    """The worker programs of one test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._started: list[Program] = []

    def start(self, *arguments: str, module: str = MODULE) -> Program:
        """Start one; use `says` to wait for it."""
        program = Program(self.url, *arguments, module=module)
        self._started.append(program)
        return program

    def ready(self, *arguments: str) -> Program:
        """Start one, and return when it claims jobs."""
        return self.start(*arguments).says("worker program")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._started:
            if program.process.poll() is None:
                # One that a test has stopped would not hear of its end.
                program.signal(signal.SIGCONT)
                program.signal(signal.SIGTERM)
                program.signal(signal.SIGTERM)
        for program in self._started:
            program.end()
            assert program.process.stderr is not None
            program.process.stderr.close()

"""Job queues: how the producer and the worker program of each are started, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.queues import marks
from benchmarks.suite.contenders import NODE_FOLDER, OURS, QUEUE_PYTHON
from benchmarks.suite.servers import ROOT, end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_LOOK_SECONDS = 0.02
_START_SECONDS = 60.0


class QueueError(RuntimeError):
    """A producer or a worker program ended, or jobs did not run."""


@dataclass(frozen=True, slots=True)
class Queue:
    """How a queue is run.

    Attributes:
        stores: that it can use.
        producer: its command.
        worker: its command, by attempts at once and the number of CPUs.
        folder: where they are run.
    """

    stores: Sequence[str]
    producer: Sequence[str]
    worker: Callable[[int, int], Sequence[str]]
    folder: Path = ROOT


def _python(module: str) -> Sequence[str]:
    return (QUEUE_PYTHON, "-m", "benchmarks.queues.producer", module)


QUEUES: dict[str, Queue] = {
    OURS: Queue(
        ("sqlite", "redis", "postgres"),
        (sys.executable, "-m", "benchmarks.queues.producer", "offload_jobs"),
        # Each at once is a process: more than there are CPUs would not do more.
        lambda at_once, cpus: (
            *(sys.executable, "-m", "offload", "worker", "benchmarks.queues.offload_jobs:jobs"),
            *("--concurrency", str(min(at_once, cpus)), "--log-level", "error"),
        ),
    ),
    "bullmq": Queue(
        ("redis",),
        ("node", "queue.mjs", "produce"),
        lambda at_once, _: ("node", "queue.mjs", "work", str(at_once)),
        NODE_FOLDER,
    ),
    "bullmq-sandbox": Queue(
        ("redis",),
        ("node", "queue.mjs", "produce"),
        lambda at_once, cpus: ("node", "queue.mjs", "sandbox", str(min(at_once, cpus))),
        NODE_FOLDER,
    ),
    "celery": Queue(
        ("redis",),
        _python("celery_jobs"),
        lambda at_once, cpus: (
            *(QUEUE_PYTHON, "-m", "celery", "-A", "benchmarks.queues.celery_jobs", "worker"),
            *("--concurrency", str(min(at_once, cpus)), "--loglevel", "ERROR"),
        ),
    ),
    "taskiq": Queue(
        ("redis",),
        _python("taskiq_jobs"),
        lambda at_once, cpus: (
            *(QUEUE_PYTHON, "-m", "taskiq", "worker", "benchmarks.queues.taskiq_jobs:broker"),
            *("--workers", str(min(at_once, cpus)), "--log-level", "ERROR"),
            *("--max-async-tasks", str(-(-at_once // cpus))),
        ),
    ),
    "procrastinate": Queue(
        ("postgres",),
        _python("procrastinate_jobs"),
        lambda at_once, _: (
            *(
                QUEUE_PYTHON,
                "-m",
                "procrastinate",
                "--app",
                "benchmarks.queues.procrastinate_jobs.app",
            ),
            *("worker", "--concurrency", str(at_once)),
        ),
    ),
    "pgqueuer": Queue(
        ("postgres",),
        _python("pgqueuer_jobs"),
        lambda at_once, _: (QUEUE_PYTHON, "-m", "benchmarks.queues.pgqueuer_jobs", str(at_once)),
    ),
}


class Bench:
    """One queue on one store: a producer, and the marks that its jobs leave.

    Args:
        queue: which.
        url: of its store.
        folder: for marks and for what programs write.
    """

    def __init__(self, queue: Queue, url: str, folder: Path) -> None:
        self._queue = queue
        self._folder = folder
        self._marks = folder / "marks"
        self._environment = os.environ | {
            "BENCHMARK_STORE": url,
            "OFFLOAD_JOBS": url,
            marks.ENVIRONMENT: str(self._marks),
        }

    @contextlib.contextmanager
    def producer(self) -> Iterator[Callable[..., dict[str, Any]]]:
        """Run the producer; give a function that has it do something, and returns its answer."""
        with self._process(self._queue.producer, "producer") as process:
            into, out = process.stdin, process.stdout
            assert into is not None  # noqa: S101 - opened as a pipe
            assert out is not None  # noqa: S101 - as above

            def answer() -> dict[str, Any]:
                line = out.readline()
                if not line:
                    raise QueueError(
                        f"the producer ended: {self._last('producer')}; "
                        f"the worker program: {self._last('worker')}"
                    )
                told: dict[str, Any] = json.loads(line)
                return told

            def do(what: str, **options: float) -> dict[str, Any]:
                into.write(json.dumps({"do": what, **options}).encode() + b"\n")
                into.flush()
                return answer()

            answer()  # it is ready
            yield do

    @contextlib.contextmanager
    def worker(self, at_once: int, cpus: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run the worker program."""
        with self._process(self._queue.worker(at_once, cpus), "worker") as process:
            yield process

    def read(self) -> list[marks.Mark]:
        """Return the marks."""
        return marks.read(self._marks) if self._marks.exists() else []

    def wait(self, worker: subprocess.Popen[bytes], count: int, seconds: float) -> list[marks.Mark]:
        """Wait until so many jobs have run, or so many seconds after the first; return the marks.

        Raises:
            QueueError: the worker program ended, or runs nothing.
        """
        begin = time.monotonic()
        first: float | None = None
        while True:
            done = self._marks.stat().st_size // marks.SIZE if self._marks.exists() else 0
            now = time.monotonic()
            if done and first is None:
                first = now
            if done >= count or (first is not None and now > first + seconds):
                return self.read()
            if worker.poll() is not None:
                raise QueueError(f"the worker program ended: {self._last('worker')}")
            if first is None and now > begin + _START_SECONDS:
                raise QueueError(f"no job ran within {_START_SECONDS:g} s: {self._last('worker')}")
            time.sleep(_LOOK_SECONDS)

    def _last(self, name: str) -> str:
        log = self._folder / f"{name}.log"
        text = log.read_text(errors="replace").strip() if log.exists() else ""
        return text.rpartition("\n")[2] or "it wrote nothing"

    @contextlib.contextmanager
    def _process(self, command: Sequence[str], name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._queue.folder,
                env=self._environment,
                stdin=subprocess.PIPE if name == "producer" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "producer" else log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            end(process)

"""A fleet of schedulers on one engine, killed, stopped and ended at random.

One question: does every fire of a schedule whose fires are jobs run once, and does none that runs
in memory run twice? Varied is which process is harmed, how and when; held are the schedules: one of
each kind, each second. It would be refuted by a second without a job that has run, or by one with
two, or by a fire in memory that two processes have run. One that a killed process had taken may be
lost: at most one for each kill.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.jobs.servers import RedisServer
from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[2]
MODULE = "tests.schedules.fleet_functions"


@dataclass
class Report:
    """What came of it.

    Attributes:
        seconds: fire times that were due.
        harms: how often each kind of harm was done.
        lost: fire times whose job has not run.
        lost_in_memory: fire times that have not run in memory.
        twice: fires that have run twice, of both kinds.
        behind: seconds that the last jobs were late at the end.
    """

    seconds: int = 0
    harms: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    lost_in_memory: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    behind: float = 0.0


class Fleet:
    """Schedulers, each a process, and one worker program.

    Args:
        url: of the engine.
        directory: for what they write down.
        size: how many schedulers.
        seed: of what is done to them.
    """

    def __init__(self, url: str, directory: Path, size: int, seed: int) -> None:
        self.directory = directory
        self.environment = os.environ | {"OFFLOAD_JOBS": url}
        self.random = random.Random(seed)
        self.report = Report()
        self.worker = self._start("-m", "offload", "worker", f"{MODULE}:jobs")
        self.schedulers = [self._scheduler() for _ in range(size)]
        self.resumes: list[tuple[float, subprocess.Popen[bytes]]] = []

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=self.environment, stderr=log
            )

    def _scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("-m", MODULE, str(self.directory))

    def lines(self, name: str) -> list[str]:
        """Return what was written down."""
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def run(self, seconds: float, pause: float) -> Report:
        """Harm them for so long, with a pause from harm to harm; return what came of it."""
        # Many processes that start at once take their time on a busy machine.
        patience = PATIENCE * (1 + len(self.schedulers) / 4)
        self._wait(lambda: len(self.lines("ready")) >= len(self.schedulers), patience)
        self._wait(lambda: self.lines("job") and self.lines("memory"), patience)
        begin = int(time.time()) + 1
        end = begin + int(seconds)
        while time.time() < end:
            self._harm()
            # The pace of the harm; nobody is waited for.
            time.sleep(pause * self.random.random() * 2)
        self._resume(everybody=True)
        expected = {self._id("job", each) for each in range(begin, end + 1)}
        self._wait(lambda: expected <= set(self.lines("job")) or time.time() > end + PATIENCE / 2)
        self.report.behind = time.time() - end
        self._judge(begin, end)
        return self.report

    def _harm(self) -> None:
        self._resume(everybody=False)
        number = self.random.randrange(len(self.schedulers))
        process = self.schedulers[number]
        how = self.random.choice(("kill", "end", "stop"))
        self.report.harms[how] += 1
        if how == "stop":
            process.send_signal(signal.SIGSTOP)
            self.resumes.append((time.time() + 3 * self.random.random(), process))
            return
        if how == "kill":
            process.kill()
            process.wait()
        else:
            process.terminate()
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.report.lost.append(f"process {process.pid} did not end")
        self.schedulers[number] = self._scheduler()

    def _resume(self, *, everybody: bool) -> None:
        for at, process in list(self.resumes):
            if everybody or at < time.time():
                process.send_signal(signal.SIGCONT)
                self.resumes.remove((at, process))

    def _judge(self, begin: int, end: int) -> None:
        report = self.report
        jobs = Counter(self.lines("job"))
        memory = Counter(each.split()[0] for each in self.lines("memory"))
        for second in range(begin, end):
            report.seconds += 1
            if not jobs[self._id("job", second)]:
                report.lost.append(self._id("job", second))
            if not memory[self._id("memory", second)]:
                report.lost_in_memory.append(self._id("memory", second))
        report.twice = [each for each, count in (jobs + memory).items() if count > 1]

    @staticmethod
    def _id(name: str, second: int) -> str:
        return f"{name}@{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(second))}"

    def _wait(self, condition, patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, (self.directory / "log").read_text()[-3000:]
            # What other processes write down has no event.
            time.sleep(0.05)

    def close(self) -> None:
        """End all of them."""
        for process in (*self.schedulers, self.worker):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in (*self.schedulers, self.worker):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    """Run it for long, on SQLite and on Redis; the exit status says whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--schedulers", type=int, default=20)
    parser.add_argument("--pause", type=float, default=1.0, help="from harm to harm, mean")
    parser.add_argument("--engine", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = None
        url = f"sqlite:///{directory / 'jobs.sqlite3'}"
        if arguments.engine == "redis":
            server = RedisServer(directory)
            server.start()
            url = server.url
        fleet = Fleet(url, directory, arguments.schedulers, arguments.seed)
        try:
            report = fleet.run(arguments.seconds, arguments.pause)
        finally:
            fleet.close()
            if server is not None:
                server.stop()
        print(f"seed {arguments.seed}, {arguments.engine}: {report}")  # noqa: T201 - for people
    is_well = not report.lost and not report.twice
    return int(not (is_well and len(report.lost_in_memory) <= report.harms["kill"]))

"""Servers for tests: real ones, on loopback, each with a directory of its own."""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

# CI sets it: there a server that is missing is a failure.
REQUIRED = os.environ.get("OFFLOAD_REQUIRE_SERVERS") == "1"


def binary(name: str, *directories: Path) -> str:
    """Return the path of a program; without it, skip or fail the test."""
    found = shutil.which(name)
    for directory in directories:
        found = found or shutil.which(name, path=str(directory))
    if found is None:
        message = f"there is no {name} on this machine"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """A Redis with an append-only file, that can be killed, stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = binary("redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *("--logfile", str(self.directory / "redis.log"), *options),
            ]
        )
        deadline = time.monotonic() + 20
        while self.call("PING") != b"+PONG\r\n":
            assert self.process.poll() is None, (self.directory / "redis.log").read_text()
            assert time.monotonic() < deadline
            # A server has no other way to say that it is ready.
            time.sleep(0.01)

    def call(self, *words: str) -> bytes:
        """Send one command, and return what comes first of the answer."""
        parts = [f"*{len(words)}\r\n"]
        parts += [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall("".join(parts).encode())
                return connection.recv(65536)
        except OSError:
            return b""

    def empty(self) -> None:
        self.call("FLUSHALL")

    def stop(self) -> None:
        self.end(signal.SIGKILL)

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


class PostgresServer:
    """A Postgres of a directory of its own."""

    def __init__(self, directory: Path) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self.program = binary("postgres", *versions)
        self.initdb = binary("initdb", *versions)
        self.port = free_port()
        self.url = f"postgresql://jobs@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        # It refuses to be run by root; then it is run by the user that its package has made.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user is not None:
            # Not in pytest's folders, which only their owner may enter: each session sees to that.
            directory = Path(tempfile.mkdtemp(prefix="offload-postgres-"))
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            shutil.chown(directory, self.user)
        self.directory = directory / "data"
        self._run(self.initdb, "-D", str(self.directory), "-U", "jobs", "-A", "trust", "-N")

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, user=self.user, cwd="/", timeout=60)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                self.program,
                *("-D", str(self.directory), "-p", str(self.port), "-h", "127.0.0.1"),
                *("-k", str(self.directory)),
            ],
            user=self.user,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        assert self.process is not None
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                # A server has no other way to say that it is ready.
                time.sleep(0.05)
            else:
                return

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)

    def empty(self) -> None:
        """Empty all tables; the first test has them made."""
        self.execute(
            "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_tables WHERE "
            "schemaname = 'bullmq' AND tablename NOT IN ('migration', 'offload_version') LOOP "
            "EXECUTE 'TRUNCATE bullmq.' || name || ' CASCADE'; END LOOP; END $$"
        )

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        assert self.process is not None
        first = psutil.Process(self.process.pid)
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            # Also one that is frozen.
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
            self.process = None

"""Whatever ends the server, or a part of it, nothing is left of it after a second."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from offload import Pool, WorkerCrashedError
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import (
    PATIENCE,
    Fifo,
    descendants,
    gone_now,
    is_alive,
    parent_of,
    until,
)

pytestmark = pytest.mark.guarantee(7)

GUARANTEED_SECONDS = 1.0
OWN = ("forkserver", "spawn")
# The tasks that say when they run: two that hang, and one with three children beside itself.
VOICES = {"forkserver": 6, "spawn": 6, "executor": 2, "spawned executor": 2}


class Server:
    """A server in a process of its own, whose workers are all busy."""

    def __init__(self, folder: Path, kind: str, how: str) -> None:
        self.folder = folder
        self.kind = kind
        # Not below `folder`: the path of a socket, as stdlib's fork server has one, must be short.
        self.temporary = Path(tempfile.mkdtemp())
        self.report = Fifo(folder / "report")
        self.go = Fifo(folder / "go")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.apps.pool_server", kind, how, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.temporary)},
            process_group=0,
        )
        self.below: set[int] = set()

    def busy(self, voices: int) -> list[int]:
        """Wait until so many have told that they run; then we know every process below it."""
        heard = [self.report.heard_now() for _ in range(voices)]
        self.below = descendants(self.process.pid) | set(heard)
        return heard

    def end(self, number: int) -> None:
        """Send it a signal, and check that it is gone, and nothing is left, in time."""
        assert len(self.below) > 1
        assert all(is_alive(pid) for pid in self.below)
        # What has no name ends with the last process that holds it.
        memory = {name for pid in self.below for name in named_memory(pid)}
        assert not (memory and self.kind in OWN)
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.check_nothing_left()
        # The resource tracker unlinks the semaphores of stdlib's executors.
        assert [name for name in memory if Path(name).exists()] == []

    def check_nothing_left(self) -> None:
        left = gone_now(*self.below, seconds=GUARANTEED_SECONDS)
        assert not left, [psutil.Process(pid) for pid in left if psutil.pid_exists(pid)]
        if self.kind in OWN:  # stdlib's fork server has its socket there
            assert list(self.temporary.iterdir()) == []


def named_memory(pid: int) -> set[str]:
    """Return the shared memory and semaphores of a process that have a name, and so could stay."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = {line.split(maxsplit=5)[5] for line in maps if "/dev/shm/" in line}  # noqa: S108
    return {name for name in names if not name.endswith("(deleted)")}


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts servers, and ends what a failed test has left of them."""
    servers = []

    def start(kind: str, how: str = "serve") -> Server:
        server = Server(tmp_path, kind, how)
        servers.append(server)
        return server

    yield start
    for server in servers:
        pids = (
            server.below | descendants(server.process.pid)
            if server.process.poll() is None
            else server.below
        )
        server.process.kill()
        server.process.wait()
        for pid in pids:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        server.process.stdout.close()
        server.process.stderr.close()
        server.report.__exit__()
        server.go.__exit__()
        shutil.rmtree(server.temporary)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", OWN)
def test_nothing_is_left_after_the_servers_end(kind: str, number: int, start) -> None:
    """Tasks in Python, in native code that holds the GIL, and their children end with it."""
    server = start(kind)
    server.busy(VOICES[kind])
    server.end(number)


@pytest.mark.parametrize("kind", ["executor", "spawned executor"])
def test_nothing_is_left_of_an_executors_workers(kind: str, start) -> None:
    """Workers of a ProcessPoolExecutor end with a killed server, too: stdlib's wait for ever."""
    server = start(kind)
    server.busy(VOICES[kind])
    server.end(signal.SIGKILL)


def test_loop_in_a_thread_is_as_good(start) -> None:
    """The thread that starts workers is not the one that they live by."""
    server = start("forkserver", "thread")
    server.busy(VOICES["forkserver"])
    server.end(signal.SIGKILL)


@pytest.mark.parametrize("kind", OWN)
def test_interpreter_ends_at_once_with_a_pool_open(kind: str, start) -> None:
    """A program that closes nothing ends, without a word, and leaves nothing."""
    server = start(kind, "leave")
    server.busy(1)
    server.go.let()
    assert gone_now(server.process.pid, seconds=2.5) == []
    out, err = server.process.communicate(timeout=PATIENCE)
    assert (server.process.returncode, out, err) == (0, b"", b"")
    server.check_nothing_left()


def test_fork_of_the_server_keeps_no_worker_alive(start) -> None:
    """A forked copy has a pool of its own, and does not hold on to its parent's workers."""
    server = start("forkserver", "fork")
    heard = server.busy(3 + VOICES["forkserver"])
    (copy,) = [
        pid
        for pid in heard
        if psutil.Process(pid).ppid() == server.process.pid
        and "pool_server" in " ".join(psutil.Process(pid).cmdline())
    ]
    of_copy = descendants(copy)
    assert of_copy
    server.below -= {copy} | of_copy
    server.end(signal.SIGKILL)
    # It lives on, with what is its own, until it ends in its turn.
    assert all(is_alive(pid) for pid in {copy, *of_copy})
    os.kill(copy, signal.SIGKILL)
    assert gone_now(*of_copy, seconds=GUARANTEED_SECONDS) == []


@pytest.mark.anyio
@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_death_of_the_supervisor_costs_what_runs(method: str, tmp_path: Path, caplog) -> None:
    """Workers end with their supervisor, their calls fail, and the pool starts anew."""
    before = descendants()
    pool = Pool(f"unsupervised {method}", max_workers=2, start_method=method)
    with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
        try:
            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    errors = []

                    async def hold() -> None:
                        with pytest.raises(WorkerCrashedError) as caught:
                            await pool.run(functions.hold, entered.path, gate.path)
                        errors.append(caught.value)

                    group.start_soon(hold)
                    group.start_soon(hold)
                    pids = [await entered.heard(), await entered.heard()]
                    os.kill(parent_of(pids[0]), signal.SIGKILL)
                guaranteed = partial(gone_now, *pids, seconds=GUARANTEED_SECONDS)
                assert await anyio.to_thread.run_sync(guaranteed) == []
                assert {error.pid for error in errors} == set(pids)
                assert all(error.may_have_run for error in errors)
                assert await pool.run(functions.echo, "again") == "again"
            assert "supervisor process" in caplog.text
        finally:
            await pool.aclose(drain=0)
            inside.forget(pool)
    await until(lambda: descendants() <= before)

"""The file of the SQLite engine: many processes, sudden ends, and disks that fail."""

import os
import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest

from offload.jobs._ended import Ended, EndedCount
from offload.jobs._errors import JobsCorruptError, JobsUnavailableError
from offload.jobs._sqlite import SqliteEngine, location, schema
from offload.jobs._sqlite.bells import bell_directory
from offload.jobs._values import Complete, JobState, Query
from tests.jobs.values import DEFAULT, claim, claimed_ids, look, new_job, put, wanted

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path):
    """Return where the file is."""
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
async def new_engine(path, anyio_backend):
    """Make engines on one file."""
    made = []

    async def new(url=None, **options):
        engine = SqliteEngine(url or f"sqlite:///{path}", **options)
        made.append(engine)
        await engine.open()
        return engine

    yield new
    for engine in made:
        await engine.aclose()


@pytest.fixture
def start():
    """Start programs of `sqlite_programs`."""
    running = []

    def start(*arguments):
        command = [sys.executable, "-m", "tests.jobs.sqlite_programs", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def mode_of(path):
    """Return who may do what with a file."""
    return stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116 - as one would say it


async def finish(*processes):
    """Wait for programs, and return the lines of each."""
    lines = []
    for process in processes:
        out, err = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == 0, err.decode()
        assert b"locked" not in err
        lines.append(out.decode().split())
    return lines


class TestManyProcesses:
    async def test_four_processes_share_a_file(self, start, new_engine, path):
        """Two producers and two worker programs: no lock is ever seen, each job ends once."""
        await new_engine()
        producers = [start("produce", path, name, 300) for name in ("one", "two")]
        workers = [start("work", path, name, 5) for name in ("three", "four")]
        accepted = [job_id for lines in await finish(*producers) for job_id in lines]
        done = [job_id for lines in await finish(*workers) for job_id in lines]
        assert len(accepted) == 600
        assert Counter(done) == Counter(accepted)

    @pytest.mark.parametrize("victim", ["produce", "work"])
    async def test_killed_process_loses_no_accepted_job(self, start, new_engine, path, victim):
        """SIGKILL in the middle of writing: what was accepted is there, what ended has ended."""
        engine = await new_engine()
        if victim == "produce":
            process = start("produce", path, "job", 100_000)
        else:
            await engine.put([new_job(keep=None) for _ in range(3000)])
            process = start("work", path, "worker", 60)
        said = [await anyio.to_thread.run_sync(process.stdout.readline) for _ in range(100)]
        process.kill()
        out, _ = await anyio.to_thread.run_sync(process.communicate)
        ids = [line.decode().strip() for line in said] + out.decode().split()
        records = [
            job
            for start in range(0, len(ids), 500)
            for job in await engine.get(ids[start : start + 500])
        ]
        assert len(ids) >= 100
        expected = JobState.WAITING if victim == "produce" else JobState.COMPLETED
        assert {record and record.state for record in records} == {expected}
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()

    async def test_stopped_process_is_an_error_in_time(self, start, new_engine, path):
        """While another process stands still with the lock, writing is an error, reading works."""
        engine = await new_engine(f"sqlite:///{path}?timeout=0.3")
        await engine.put([new_job("one")])
        process = start("hold_lock", path)
        assert await anyio.to_thread.run_sync(process.stdout.readline) == b"held\n"
        with anyio.fail_after(10), pytest.raises(JobsUnavailableError) as caught:
            await engine.put([new_job("two")])
        # Who to let go on, or to end.
        assert f"process {process.pid} (" in str(caught.value)
        assert (await look(engine, "one")).state is JobState.WAITING
        process.stdin.write(b"x")
        process.stdin.close()
        process.stdin = None
        await anyio.to_thread.run_sync(process.wait)

        async def works():
            try:
                await engine.put([new_job("three")])
            except JobsUnavailableError:
                return False
            return True

        with anyio.fail_after(30):
            while not await works():  # noqa: ASYNC110 - it has no event
                await anyio.sleep(0.01)

    async def test_killed_listener_leaves_no_socket(self, start, new_engine, path):
        """The socket of a process that was killed is removed by whoever next has something."""
        engine = await new_engine()
        process = start("work", path, "worker", 60)
        await engine.put([new_job("one")])
        assert await anyio.to_thread.run_sync(process.stdout.readline) == b"one\n"
        directory = bell_directory(str(path))
        process.kill()
        await anyio.to_thread.run_sync(process.wait)
        await engine.put([new_job("two")])
        with anyio.fail_after(30):
            while os.listdir(directory):  # noqa: ASYNC110, PTH208 - it has no event
                await anyio.sleep(0.01)
        assert await claimed_ids(engine) == ["two"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    async def test_forked_child_has_a_connection_of_its_own(self, new_engine, path):
        """A child goes on with the engine that it was forked with; the parent does not notice."""
        engine = await new_engine()
        await engine.put([new_job("one")])
        pid = await anyio.to_thread.run_sync(_fork_and_put, engine)
        _, status = await anyio.to_thread.run_sync(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await engine.put([new_job("three")])
        assert await claimed_ids(engine) == ["one", "two", "three"]


def _fork_and_put(engine):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        anyio.run(put, engine, new_job("two"))
        code = 0
    finally:
        os._exit(code)


class TestFailures:
    async def test_full_disk_is_an_error_and_nothing_is_lost(self, new_engine):
        """A put that finds no room raises, stores nothing, and works again once there is room."""
        engine = await new_engine()
        await engine.put([new_job("one")])

        def limit(pages):
            def run(transaction):
                transaction.connection.execute(f"PRAGMA max_page_count = {pages}")

            return run

        await engine._store.write(limit(1))
        big = [new_job(f"big-{number}") for number in range(2000)]
        with pytest.raises(JobsUnavailableError) as caught:
            await engine.put(big)
        assert "full" in str(caught.value)
        assert not caught.value.may_have_happened
        assert (await look(engine, "one")).state is JobState.WAITING
        assert await engine.get(["big-0"]) == (None,)
        # The connection was opened anew, without that limit.
        await engine.put(big)
        assert len(await claimed_ids(engine, limit=5000)) == 2001

    async def test_one_bad_job_does_not_fail_others(self, new_engine):
        """Jobs that share a transaction by chance have their own errors."""
        engine = await new_engine()
        failed, ids = [], []

        async def enqueue(job):
            try:
                ids.extend(await engine.put([job]))
            except UnicodeEncodeError:
                failed.append(job.id)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(
                    enqueue, new_job(f"{number}", queue="\ud800" if number == 7 else "q")
                )
        assert failed == ["7"]
        assert len(ids) == 19
        assert len(await claimed_ids(engine, queues=["q"])) == 19

    async def test_read_only_file_is_an_error(self, new_engine, path):
        """It says that the file cannot be written, and reading goes on."""
        engine = await new_engine()
        await engine.put([new_job("one")])

        def forbid(transaction):
            transaction.connection.execute("PRAGMA query_only = ON")

        await engine._store.write(forbid)
        with pytest.raises(JobsUnavailableError) as caught:
            await engine.put([new_job("two")])
        assert "may not write" in str(caught.value)
        assert (await look(engine, "one")).state is JobState.WAITING

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
    async def test_read_only_directory_is_an_error(self, tmp_path):
        """A place where no file can be made is named."""
        directory = tmp_path / "readonly"
        directory.mkdir(0o500)
        engine = SqliteEngine(f"sqlite:///{directory}/jobs.sqlite3")
        with pytest.raises(JobsUnavailableError, match="readonly"):
            await engine.open()

    async def test_missing_directory_is_an_error(self, tmp_path):
        """No directory is made where the user has mistyped one."""
        engine = SqliteEngine(f"sqlite:///{tmp_path}/nowhere/jobs.sqlite3")
        with pytest.raises(JobsUnavailableError, match="nowhere"):
            await engine.open()

    async def test_directory_is_an_error(self, tmp_path):
        """Where the user has named the folder, and not a file in it."""
        engine = SqliteEngine(f"sqlite:///{tmp_path}")
        with pytest.raises(JobsUnavailableError, match="is a directory"):
            await engine.open()

    async def test_file_that_is_no_database_is_an_error(self, path):
        """Whatever else it is, it is left alone."""
        path.write_bytes(b"these are no jobs\n" * 1000)
        engine = SqliteEngine(f"sqlite:///{path}")
        with pytest.raises(JobsCorruptError):
            await engine.open()
        assert path.read_bytes() == b"these are no jobs\n" * 1000

    async def test_closed_store_is_one_file(self, new_engine, path):
        """The last one to close leaves no write-ahead log: the file alone has every job."""
        for number in range(25):
            engine = await new_engine()
            await engine.put([new_job(f"{number}")])
            await engine.find(Query())
            await engine.aclose()
            assert not path.with_name(f"{path.name}-wal").exists()

    async def test_damaged_file_is_an_error(self, new_engine, path):
        """Pages that make no sense are told as damage, and nothing hangs."""
        engine = await new_engine()
        await engine.put([new_job(f"{number}") for number in range(2000)])
        await engine.aclose()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            # Not random bytes: a page of those is a valid one now and then.
            file.write(b"\xff" * (size - 4096))
        await engine.open()
        with pytest.raises(JobsCorruptError):
            await engine.find(Query())
        with pytest.raises(JobsCorruptError):
            await engine.put([new_job()])

    async def test_database_of_others_is_refused(self, path):
        """The file of another program is not made ours."""
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        connection.close()
        with pytest.raises(JobsCorruptError, match="another program"):
            await SqliteEngine(f"sqlite:///{path}").open()

    async def test_later_version_is_refused(self, new_engine, path):
        """A file that a later version has made is not touched by this one."""
        engine = await new_engine()
        await engine.aclose()
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
        connection.close()
        with pytest.raises(JobsCorruptError, match="upgrade"):
            await engine.open()

    async def test_removed_file_is_made_anew(self, new_engine, path):
        """Nothing is accepted into a file that has no name any more."""
        engine = await new_engine()
        await engine.put([new_job("one")])
        for file in path.parent.glob(path.name + "*"):
            if file.is_file():
                file.unlink()
        await engine.put([new_job("two")])
        second = await new_engine()
        assert await second.get(["one"]) == (None,)
        assert (await look(second, "two")).state is JobState.WAITING

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    async def test_stopped_writer_is_named(self, start, new_engine, path):
        """A check, and every error, tells which process everybody waits for, and what to do."""
        engine = await new_engine(f"sqlite:///{path}?timeout=0.3")
        await engine.put([new_job("one")])
        process = start("hold_lock", path)
        assert await anyio.to_thread.run_sync(process.stdout.readline) == b"held\n"
        process.send_signal(signal.SIGSTOP)
        stopped = (os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        await anyio.to_thread.run_sync(os.waitid, *stopped)
        with pytest.raises(JobsUnavailableError) as caught:
            await engine.health()
        assert f"kill -CONT {process.pid} " in str(caught.value)
        # So that the engine, which closes its file, does not wait for it.
        process.kill()
        await anyio.to_thread.run_sync(process.wait)

    async def test_lock_of_another_program_is_told(self, new_engine, path):
        """One that is no part of the library, and takes no turns, is named as well."""
        engine = await new_engine(f"sqlite:///{path}?timeout=0.2")
        await engine.put([new_job("one")])
        shell = sqlite3.connect(path, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(JobsUnavailableError, match=f"process {os.getpid()} |holds a lock"):
            await engine.put([new_job("two")])
        shell.close()


class TestPlace:
    async def test_file_is_its_owners(self, new_engine, path):
        """Nobody else can read the file, its log or its sockets."""
        engine = await new_engine()
        await engine.claim(wanted(), wait=0.01)
        await engine.put([new_job()])
        for file in path.parent.rglob("*"):
            assert not stat.S_IMODE(file.stat().st_mode) & 0o077 or stat.S_ISSOCK(
                file.stat().st_mode
            )
        assert mode_of(bell_directory(str(path))) == 0o700

    async def test_open_file_for_all_is_a_problem(self, new_engine, path):
        """A check tells of a file that others may read."""
        engine = await new_engine()
        path.chmod(0o644)
        (problem,) = (await engine.health()).problems
        assert "644" in problem

    async def test_long_path_has_its_sockets_elsewhere(self, new_engine, tmp_path):
        """Where a socket's path would be too long, jobs are heard of by others nevertheless."""
        directory = tmp_path / ("long" * 40)
        directory.mkdir()
        url = f"sqlite:///{directory}/jobs.sqlite3"
        one, two = await new_engine(url), await new_engine(url)
        bells = Path(bell_directory(f"{directory}/jobs.sqlite3"))
        assert await two.claim(wanted(), wait=0.01) == ()
        got = []

        async def take():
            got.extend(await two.claim(wanted(), wait=60))

        async with anyio.create_task_group() as group:
            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            await one.put([new_job("one")])
        assert [each.job.id for each in got] == ["one"]
        assert not bells.is_relative_to(directory)
        await two.aclose()

    async def test_migration_brings_a_file_up_to_date(self, new_engine, path, monkeypatch):
        """A file of an earlier version has the later scripts run on it, once."""
        engine = await new_engine()
        await put(engine, new_job("one"))
        await engine.aclose()
        later = (*schema.MIGRATIONS, "CREATE TABLE later (x); INSERT INTO later VALUES (1)")
        for _ in range(2):
            connection = sqlite3.connect(path, isolation_level=None)
            schema.migrate(connection, "here", later)
            assert connection.execute("SELECT x FROM later").fetchall() == [(1,)]
            assert connection.execute("PRAGMA user_version").fetchone() == (len(later),)
            connection.close()


class TestLocation:
    @pytest.mark.parametrize(
        "url, expected",
        [
            ("sqlite:///jobs.db", "jobs.db"),
            ("sqlite:///a/b%20c.db", "a/b c.db"),
            ("sqlite:///a%2520b%3F%23.db", "a%20b?#.db"),
            ("sqlite:////var/lib/jobs.db", "/var/lib/jobs.db"),
            ("sqlite://", ".offload/jobs.sqlite3"),
            ("sqlite:///", ".offload/jobs.sqlite3"),
        ],
    )
    def test_url_names_a_path(self, url, expected, monkeypatch, tmp_path):
        """Three slashes are relative to the working directory, four absolute; none: the default."""
        monkeypatch.chdir(tmp_path)
        found = location.parse_url(url)
        assert found.path == str(tmp_path / expected)
        assert found.is_synced
        assert location.parse_url(found.url) == found

    def test_options_are_read(self):
        """Sync and timeout are part of the URL."""
        found = location.parse_url("sqlite:///j.db?synchronous=NORMAL&timeout=2.5")
        assert (found.is_synced, found.timeout) == (False, 2.5)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "jobs.db",
            "sqlite:jobs.db",
            "sqlite://jobs.db",
            "sqlite:///:memory:",
            "sqlite:///j.db?sync=full",
            "sqlite:///j.db?synchronous=off",
            "sqlite:///j.db?timeout=0",
            "sqlite:///j.db?timeout=soon",
        ],
    )
    def test_bad_url_is_refused(self, url):
        """A mistake is told where it is made, and not worked around."""
        with pytest.raises(ValueError, match=r"sqlite|synchronous|timeout|memory"):
            location.parse_url(url)

    def test_default_directory_is_not_for_repositories(self, monkeypatch, tmp_path):
        """The default path is made, for its owner only, and git does not see it."""
        monkeypatch.chdir(tmp_path)
        location.create_file(location.parse_url("sqlite://").path)
        assert (tmp_path / ".offload" / ".gitignore").read_text() == "*\n"
        assert stat.S_IMODE((tmp_path / ".offload").stat().st_mode) == 0o700

    def test_network_file_system_is_found(self):
        """The innermost mount decides, and escapes in its path are read."""
        mounts = (
            "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
            "40 22 0:40 / /mnt/my\\040files rw shared:9 - nfs4 server:/export rw\n"
            "41 40 254:1 / /mnt/my\\040files/local rw - xfs /dev/vdb rw\n"
        )
        assert location.filesystem_of("/home/jobs.db", mounts) == "ext4"
        assert location.filesystem_of("/mnt/my files/jobs.db", mounts) == "nfs4"
        assert location.filesystem_of("/mnt/my files/local/jobs.db", mounts) == "xfs"
        assert location.filesystem_of("/mnt/my files too", mounts) == "ext4"

    async def test_network_file_system_is_a_problem(self, new_engine, monkeypatch, caplog):
        """A check says so; jobs on it may get lost."""
        monkeypatch.setattr("offload.jobs._sqlite.health.network_filesystem", lambda _: "nfs4")
        monkeypatch.setattr("offload.jobs._sqlite.store.network_filesystem", lambda _: "nfs4")
        engine = await new_engine()
        (problem,) = (await engine.health()).problems
        assert "nfs4" in problem
        assert "nfs4" in caplog.text


class TestErrors:
    def test_errors_pickle(self):
        """They cross to other processes with all that they say."""
        error = JobsUnavailableError("gone", location="sqlite:////j.db", may_have_happened=True)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.location, again.may_have_happened) == (
            "gone",
            "sqlite:////j.db",
            True,
        )


class TestEnded:
    async def test_counts_of_a_day_outlive_their_jobs(self, new_engine):
        """What has ended is counted for a day, also of jobs that are forgotten; then no longer."""
        clock = OwnClock(1_800_000_005.0)
        engine = await new_engine(clock=clock)
        await put(engine, new_job(keep=0.0))
        await engine.finish(await claim(engine), Complete("1"))
        clock.at += 86400.0
        assert await engine.prune() == 1
        kept = await engine.ended(240, 361)
        clock.at += 7200.0
        await engine.prune()
        gone = await engine.ended(240, 375)

        assert kept.counts == (EndedCount(DEFAULT, JobState.COMPLETED, 1_800_000_000, 1),)
        assert gone == Ended(clock.at)

    async def test_only_the_steps_asked_for_are_counted(self, new_engine):
        """Each end is in the step of its time."""
        clock = OwnClock(1_800_000_009.5)
        engine = await new_engine(clock=clock)
        for seconds in (0.0, 1.0, 10.0):
            clock.at += seconds
            await put(engine, new_job())
            await engine.finish(await claim(engine), Complete("1"))
        told = [await engine.ended(10, steps) for steps in (1, 2, 3)]

        assert [sorted(each.at - 1_800_000_000 for each in one.counts) for one in told] == [
            [20],
            [10, 20],
            [0, 10, 20],
        ]


class OwnClock:
    """A clock that stands still."""

    def __init__(self, at: float) -> None:
        self.at = at

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self.at

    def monotonic(self) -> float:
        """Return seconds of the clock of leases."""
        return self.at

"""Worker programs, as processes of their own: what they run, and what becomes of it."""

import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest

from offload.jobs import (
    AttemptOutcome,
    CancelOutcome,
    JobCancelledError,
    JobFailedError,
    JobProgress,
    JobState,
    WorkerProgram,
)
from tests.jobs import job_functions as functions
from tests.support.processes import PATIENCE, free_port, gone, is_alive

# The client runs on each event loop; programs have one of their own.
pytestmark = pytest.mark.anyio

LEASE = 2.0


@pytest.fixture
def anyio_backend():
    """Run on one event loop: what is tested is in other processes."""
    return "asyncio"


async def ready(programs, *arguments):
    """Start a program, and wait for it without holding the loop."""
    return await anyio.to_thread.run_sync(partial(programs.ready, *arguments))


async def end(program):
    """Wait for the end of a program, and return its exit code."""
    return await anyio.to_thread.run_sync(program.end)


async def answer(port, path):
    """Ask a health server."""

    def ask():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as got:
                return got.status, got.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await anyio.to_thread.run_sync(ask)


class TestRuns:
    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_result_of_another_process(self, programs, backend):
        """What one process enqueues another one runs, and the result is as a direct call's."""
        from offload.jobs import Jobs

        programs.ready()

        async def main():
            async with Jobs(programs.url) as jobs:
                assert await jobs.run(functions.add, 1, second=2) == 3
                job = await jobs.enqueue(functions.report, date(2026, 11, 1), 1, 2, 3)
                return await job.result(timeout=PATIENCE)

        assert anyio.run(main, backend=backend) == functions.Report(date(2026, 11, 1), 6)

    async def test_methods_and_plain_functions(self, jobs, programs):
        """Static and class methods run, and a plain function that has job options, in its queue."""
        await ready(programs)
        assert await jobs.run(functions.Shop.price, "bread") == 5
        assert await jobs.run(functions.Shop.named, "!") == "Shop!"
        assert await jobs.run(functions.plain, "word") == "WORD"

    async def test_function_that_is_not_known_waits(self, jobs, programs):
        """A job of a function that no program has stays waiting, and others go past it."""
        from offload.jobs._values import NewJob

        engine = await jobs.engine()
        await engine.put([NewJob("unknown", "shop.reports:monthly", "{}")])
        await ready(programs)
        assert await jobs.run(functions.add, 1) == 1
        assert (await (await jobs.get("unknown")).status()).state is JobState.WAITING

    async def test_queue_that_is_not_served_waits(self, jobs, programs):
        """A program serves the queues that it is told, and no others."""
        await ready(programs, "--queues", "mail")
        other = await jobs.enqueue(functions.add, 1)
        assert await jobs.run(functions.plain, "word") == "WORD"
        assert (await other.status()).state is JobState.WAITING

    async def test_delayed_job_runs_when_due(self, jobs, programs):
        """A delayed job runs after its delay, and soon."""
        await ready(programs)
        job = await jobs.options(delay=0.5).enqueue(functions.add, 1)
        status = await job.wait(timeout=PATIENCE)
        assert status.started_at is not None
        assert status.started_at - status.created_at >= timedelta(seconds=0.45)

    async def test_progress_and_log_records_are_kept(self, jobs, programs):
        """What a function reports and logs is kept with its job, to the last record."""
        await ready(programs)
        job = await jobs.enqueue(functions.tell, 3)
        await job.result(timeout=PATIENCE)
        status = await job.status()
        assert status.progress == JobProgress(3.0, 3.0)
        lines = await job.logs()
        assert [line.message for line in lines] == [f"step {n} of job {job.id}" for n in range(4)]
        assert {line.level for line in lines} == {logging.WARNING}


class TestStarts:
    async def test_nothing_is_imported_while_leases_run(self, url):
        """What holds the loop at its first use is imported before the first claim."""
        script = """
import asyncio, logging, sys
from offload.jobs import WorkerProgram
from tests.jobs import job_functions as functions

class Snapshot(logging.Handler):
    modules = frozenset()
    def emit(self, record):
        if "lease" in record.getMessage():
            self.modules = frozenset(sys.modules)

async def main():
    snapshot = Snapshot()
    logger = logging.getLogger("offload.jobs")
    logger.addHandler(snapshot)
    logger.setLevel(logging.INFO)
    async with functions.jobs as jobs:
        job = await jobs.enqueue(functions.add, 1)
        await WorkerProgram(jobs, burst=True).run()
        assert await job.result() == 1
    assert snapshot.modules
    late = set(sys.modules) - snapshot.modules
    print(sorted(name for name in late if name.startswith(("anyio", "offload"))))

asyncio.run(main())
"""
        done = await anyio.run_process(
            [sys.executable, "-c", script], env=os.environ | {"OFFLOAD_JOBS": url}
        )
        assert done.stdout.decode().strip() == "[]"


class TestResultsAsData:
    async def test_jobs_run_on_a_pool_that_reads_data(self, url, tmp_path):
        """Results by annotation, errors and progress come as on any other pool."""
        (tmp_path / "data_jobs.py").write_text("""
from dataclasses import dataclass
from offload import Pool, offload, task_context
from offload.jobs import Jobs

pool = Pool("default", results="data", os_priority="normal", max_workers=1)
jobs = Jobs()

@dataclass
class Sum:
    total: int

@offload
def add(first: int, second: int) -> Sum:
    task_context().progress(1, 1)
    return Sum(first + second)

@offload
def fail(text: str) -> None:
    raise LookupError(text)
""")
        (tmp_path / "program.py").write_text("""
import asyncio
from data_jobs import Sum, add, fail, jobs
from offload.jobs import WorkerProgram

async def main():
    async with jobs:
        job, failed = await jobs.enqueue(add, 1, 2), await jobs.enqueue(fail, "nowhere")
        await WorkerProgram(jobs, burst=True).run()
        assert await job.result() == Sum(3)
        try:
            await failed.result()
        except LookupError as error:
            print("failed:", error)

if __name__ == "__main__":
    asyncio.run(main())
""")
        path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
        environment = os.environ | {"OFFLOAD_JOBS": url, "PYTHONPATH": path}
        done = await anyio.run_process(
            [sys.executable, str(tmp_path / "program.py")], env=environment
        )
        assert done.stdout.decode().strip() == "failed: nowhere"


class TestFails:
    async def test_error_of_the_function_is_raised(self, jobs, programs):
        """The function's own error is raised where its result is awaited, with its traceback."""
        await ready(programs)
        job = await jobs.enqueue(functions.fail_by_order, "no bread")
        with pytest.raises(functions.OrderError, match=r"^no bread$") as caught:
            await job.result(timeout=PATIENCE)
        assert "in fail_by_order" in str(caught.value.__cause__)
        with pytest.raises(KeyError, match="month"):
            await jobs.run(functions.fail_by_key)
        with pytest.raises(JobFailedError, match="code 7 at here"):
            await jobs.run(functions.fail_by_code)

    async def test_errors_are_tried_again(self, jobs, programs):
        """A job is tried again after an error, up to `max_attempts`; each is in its history."""
        await ready(programs)
        job = await jobs.enqueue(functions.fail_at_first, 2)
        assert await job.result(timeout=PATIENCE) == 3
        status = await job.status()
        assert (status.attempts, status.crashes) == (3, 0)
        outcomes = [attempt.outcome for attempt in status.history]
        assert outcomes == ["failed", "failed", "completed"]
        with pytest.raises(ValueError, match="attempt 3"):
            await jobs.run(functions.fail_at_first, 9)

    async def test_crashes_are_counted_apart(self, jobs, programs):
        """A job that kills its process fails once `max_crashes` is exceeded; others do not mind."""
        await ready(programs)
        job = await jobs.enqueue(functions.crash)
        assert await jobs.run(functions.add, 1) == 1
        with pytest.raises(JobFailedError, match="WorkerCrashedError") as caught:
            await job.result(timeout=PATIENCE)
        assert (caught.value.attempts, caught.value.crashes) == (0, 2)
        status = await job.status()
        assert {attempt.outcome for attempt in status.history} == {AttemptOutcome.CRASHED}

    async def test_wrong_result_fails(self, jobs, programs):
        """A result that does not fit the annotation fails the job at once, tries left or not."""
        await ready(programs)
        job = await jobs.options(max_attempts=5).enqueue(functions.returns_wrong)
        with pytest.raises(JobFailedError, match="expected int"):
            await job.result(timeout=PATIENCE)
        assert (await job.status()).attempts == 1

    async def test_timeout_kills(self, jobs, programs):
        """An attempt past its timeout is ended, be it the job's or the function's own."""
        await ready(programs)
        with pytest.raises(JobFailedError, match="TaskTimeoutError"):
            await jobs.run(functions.too_long)
        with pytest.raises(JobFailedError, match="TaskTimeoutError"):
            await jobs.options(timeout=0.1).run(functions.append, os.devnull, "x", 60.0)

    async def test_deadline_stops(self, jobs, programs, held):
        """A job that runs at its deadline is stopped, and has failed."""
        await ready(programs)
        # Warm, so that the deadline is not spent on the start of a process.
        assert await jobs.run(functions.add, 1) == 1
        soon = datetime.now(UTC) + timedelta(seconds=1.0)
        with pytest.raises(JobFailedError, match="DeadlineError"):
            await jobs.options(deadline=soon).run(functions.wait, *held)


class TestStops:
    async def test_cancel_ends_the_process(self, jobs, programs, held, entered):
        """Cancelled while it runs: the process that computes is gone within a second."""
        await ready(programs)
        job = await jobs.enqueue(functions.spin, held[0], 600.0)
        pid = await entered.heard()
        assert await job.cancel() is CancelOutcome.ASKED
        with pytest.raises(JobCancelledError) as caught:
            await job.result(timeout=PATIENCE)
        assert caught.value.may_have_run
        await gone(pid, seconds=1.0)

    async def test_caller_that_leaves_ends_the_process(self, jobs, programs, held, entered):
        """A caller of `run` that goes away has the process ended, in another program."""
        await ready(programs)
        async with anyio.create_task_group() as group:
            group.start_soon(partial(jobs.run, functions.spin, held[0], 600.0))
            pid = await entered.heard()
            group.cancel_scope.cancel()
        await gone(pid)

    async def test_sigterm_lets_attempts_end(self, jobs, programs, held, entered, gate):
        """After SIGTERM what runs has time to end, and nothing new begins."""
        program = await ready(programs)
        job = await jobs.enqueue(functions.wait, *held)
        await entered.heard()
        program.signal(signal.SIGTERM)
        await anyio.to_thread.run_sync(program.says, "draining")
        after = await jobs.enqueue(functions.add, 1)
        gate.let()
        assert await end(program) == 0
        assert (await job.status()).state is JobState.COMPLETED
        assert (await after.status()).state is JobState.WAITING

    @pytest.mark.parametrize("signals", [1, 2])
    async def test_what_does_not_end_is_handed_back(self, jobs, programs, held, entered, signals):
        """What has not ended after `drain`, or at a second signal, waits again, uncounted."""
        drain = "0.2" if signals == 1 else "600"
        program = await ready(programs, "--drain", drain)
        job = await jobs.enqueue(functions.spin, held[0], 600.0)
        pid = await entered.heard()
        for _ in range(signals):
            program.signal(signal.SIGINT)
            await anyio.to_thread.run_sync(program.says, "draining")
        assert await end(program) == 0
        status = await job.status()
        assert (status.state, status.attempts, status.crashes) == (JobState.WAITING, 0, 0)
        assert [attempt.outcome for attempt in status.history] == ["released"]
        await gone(pid)

    @pytest.mark.parametrize("how", ["handed back", "timeout"])
    async def test_process_is_gone_before_the_job_may_run_again(
        self, jobs, programs, held, entered, how
    ):
        """Two attempts never overlap where the program lives, not even one that ignores SIGTERM."""
        program = await ready(programs, "--drain", "0.0")
        # So that a process is there, and the timeout is not over before it has begun.
        assert await jobs.run(functions.add, 1) == 1
        timeout = None if how == "handed back" else 1.0
        options = jobs.options(timeout=timeout, max_attempts=2, backoff=0.0)
        job = await options.enqueue(functions.spin_on, held[0], 600.0)
        pid = await entered.heard()
        if how == "handed back":
            program.signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE):
            # No event: what is looked for is a moment, and the first sight of it.
            while not (await job.status()).history:  # noqa: ASYNC110
                await anyio.sleep(0.001)
        assert not is_alive(pid)
        await job.cancel()

    async def test_cancelled_program_does_not_drain(self, jobs, held, entered):
        """A `run` that is cancelled hands back at once, whatever `drain` says."""
        program = WorkerProgram(jobs, [functions.spin], drain=600.0)
        async with anyio.create_task_group() as group:
            group.start_soon(program.run)
            job = await jobs.enqueue(functions.spin, held[0], 600.0)
            pid = await entered.heard()
            group.cancel_scope.cancel()
        assert not is_alive(pid)
        status = await job.status()
        assert (status.state, status.history[-1].outcome) == ("waiting", "released")


class TestLeases:
    async def test_job_of_a_killed_program_runs_again(self, jobs, programs, held, entered, gate):
        """A job of a killed program is another's within lease + 1 s, and that counts as a crash."""
        first = await ready(programs, "--lease", str(LEASE))
        job = await jobs.enqueue(functions.wait, *held)
        pid = await entered.heard()
        await ready(programs, "--lease", str(LEASE))
        first.signal(signal.SIGKILL)
        began = time.monotonic()
        await entered.heard()
        # One second for the sweep, and some for a machine that is busy.
        assert time.monotonic() - began < LEASE + 1.0 + 2.0
        await gone(pid)
        gate.let()
        await job.result(timeout=PATIENCE)
        status = await job.status()
        assert (status.attempts, status.crashes, status.starts) == (1, 1, 2)

    async def test_stopped_program_is_fenced(self, jobs, programs, held, entered, gate):
        """A program that was stopped beyond its lease neither reports nor goes on computing."""
        first = await ready(programs, "--lease", str(LEASE), "--name", "first")
        job = await jobs.enqueue(functions.wait, *held)
        pid = await entered.heard()
        first.signal(signal.SIGSTOP)
        await ready(programs, "--lease", str(LEASE), "--name", "second")
        await entered.heard()
        first.signal(signal.SIGCONT)
        await gone(pid)
        await anyio.to_thread.run_sync(first.says, "this program stood still for")
        gate.let()
        await job.result(timeout=PATIENCE)
        status = await job.status()
        assert (status.worker, status.starts) == ("second", 2)
        assert [attempt.outcome for attempt in status.history] == ["lapsed", "completed"]

    async def test_long_job_of_a_healthy_program_runs_once(self, jobs, programs, tmp_path):
        """A job of five leases runs once, with another program there to take it."""
        for _ in range(2):
            await ready(programs, "--lease", str(LEASE))
        path = tmp_path / "lines"
        job = await jobs.enqueue(functions.append, str(path), "x", 5 * LEASE)
        assert await job.result(timeout=PATIENCE) == "x"
        assert (await job.status()).starts == 1
        assert len(path.read_text().splitlines()) == 2


class TestOutages:
    @pytest.fixture
    def url(self, tmp_path):
        """Return jobs whose engine gives up soon."""
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal&timeout=0.5"

    @pytest.fixture
    def lock(self, tmp_path):
        """Hold the lock of the file from another process, until that is told to end."""
        command = [sys.executable, "-m", "tests.jobs.sqlite_programs", "hold_lock"]
        started = []

        def hold():
            process = subprocess.Popen(
                [*command, str(tmp_path / "jobs.sqlite3")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.append(process)
            assert process.stdout.readline() == b"held\n"
            return process

        yield hold
        for process in started:
            process.communicate()

    async def test_result_outlasts_an_outage(  # noqa: PLR0917 - fixtures
        self, jobs, programs, lock, held, entered, gate
    ):
        """What ends while the engine is away is reported when it is back, and runs once."""
        program = await ready(programs, "--lease", "60")
        job = await jobs.enqueue(functions.wait, *held)
        pid = await entered.heard()
        holder = await anyio.to_thread.run_sync(lock)
        gate.let()
        await anyio.to_thread.run_sync(program.says, "does not answer")
        await anyio.to_thread.run_sync(holder.communicate)
        assert await job.result(timeout=PATIENCE) == pid
        assert (await job.status()).starts == 1
        await anyio.to_thread.run_sync(program.says, "answers again")

    async def test_attempt_is_stopped_in_time(self, jobs, programs, lock, held, entered):
        """What could not be extended is stopped before its lease runs out, and runs again."""
        program = await ready(programs, "--lease", str(LEASE))
        job = await jobs.enqueue(functions.spin, held[0], 600.0)
        pid = await entered.heard()
        holder = await anyio.to_thread.run_sync(lock)
        began = time.monotonic()
        await gone(pid)
        assert time.monotonic() - began < LEASE + 2.0
        await anyio.to_thread.run_sync(program.says, "its lease was not extended:")
        await anyio.to_thread.run_sync(holder.communicate)
        await entered.heard()
        await job.cancel()

    async def test_program_waits_for_its_engine(self, programs, lock):
        """A program that starts while the engine is away begins when it is back."""
        first = await ready(programs, "--burst")
        assert await end(first) == 0
        holder = await anyio.to_thread.run_sync(lock)
        program = programs.start()
        await anyio.to_thread.run_sync(program.says, "does not answer")
        await anyio.to_thread.run_sync(holder.communicate)
        await anyio.to_thread.run_sync(program.says, "answers again")


class TestCommand:
    async def test_health_is_told(self, jobs, programs, tmp_path):
        """A program tells over HTTP whether it lives, is ready, and what it has done."""
        port = free_port()
        file = tmp_path / "ready"
        program = await ready(programs, "--health", str(port), "--health-file", str(file))
        assert await jobs.run(functions.add, 1) == 1
        assert (await answer(port, "/readyz"))[0] == 200
        assert (await answer(port, "/healthz"))[0] == 200
        status, text = await answer(port, "/statistics")
        assert (status, '"completed": 1' in text) == (200, True)
        assert (await answer(port, "/nothing"))[0] == 404
        program.signal(signal.SIGTERM)
        assert await end(program) == 0
        assert not file.exists()

    @pytest.mark.parametrize(
        "module, arguments, text",
        [
            ("no_such_module", (), "there is no module 'no_such_module'"),
            ("tests.jobs.job_functions:nothing", (), "has no 'nothing'"),
            ("tests.jobs.job_functions:logger", (), "not offload.jobs.Jobs"),
            ("tests.jobs.job_functions:jobs", ("--lease", "1"), "at least 2"),
            ("tests.jobs.job_functions:jobs", ("--pool", "none"), "no pool named 'none'"),
            ("tests.jobs.values", (), "no function to run"),
        ],
    )
    async def test_wrong_usage_is_told(self, programs, module, arguments, text):
        """What cannot work ends at once, with one line that says why."""
        program = programs.start(*arguments, module=module)
        assert await end(program) in (1, 2)
        assert text in program.text
        assert "Traceback" not in program.text

"""Metrics of jobs: what a server enqueues, what a worker program runs, what the store has."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from functools import partial

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from offload.jobs import (
    JobCancelledError,
    JobFailedError,
    JobQueueFullError,
    Jobs,
    JobsUnavailableError,
)
from offload.metrics import alert_rules, register
from offload.metrics._asgi import exposition
from tests.jobs import job_functions as functions
from tests.support import inside
from tests.support.processes import PATIENCE, free_port
from tests.tools.test_metrics import exposed

pytestmark = pytest.mark.anyio
NAME = "tests.jobs.job_functions"


@pytest.fixture
def anyio_backend():
    """Run on one event loop: what is tested is in other processes."""
    return "asyncio"


@pytest.fixture
def registry():
    """Return a registry that has nothing but our collector."""
    registry = CollectorRegistry()
    register(registry)
    return registry


def samples(text, store):
    """Return the samples of one store: name and labels without it, to value."""
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "store")): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("store") == store
    }


async def scraped(registry, jobs):
    """Return the samples that this process tells of these jobs."""
    _, body = await exposition(registry)
    return samples(body.decode(), jobs.statistics().location)


async def scraped_of_program(port, jobs, *, until=lambda found: True):
    """Return the samples that a worker program tells, as soon as they are as they should be."""

    def ask():
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            return samples(answer.read().decode(), jobs.statistics().location)

    with anyio.fail_after(PATIENCE):
        while True:
            found = await anyio.to_thread.run_sync(ask)
            if until(found):
                return found
            await anyio.sleep(0.02)


class TestServer:
    async def test_what_is_enqueued_is_counted_and_timed(self, url, registry):
        """Each job counts by queue, function and outcome; each request to the store is timed."""
        async with Jobs(url, max_queued=4) as jobs:
            await jobs.enqueue(functions.add, 1)
            await jobs.enqueue_many(functions.add, [(1,), (2,), (3,)])
            await jobs.enqueue(functions.plain, "a")
            with pytest.raises(JobQueueFullError):
                await jobs.enqueue(functions.add, 5)
            found = await scraped(registry, jobs)

        assert found["offload_jobs_enqueued_total", f"{NAME}:add", "stored", "default"] == 4
        assert found["offload_jobs_enqueued_total", f"{NAME}:plain", "stored", "mail"] == 1
        assert found["offload_jobs_enqueued_total", f"{NAME}:add", "refused", "default"] == 1
        assert found[("offload_jobs_enqueue_seconds_count",)] == 4

    async def test_store_that_is_gone(self, tmp_path, registry):
        """A store that does not answer is down; what could not be enqueued is counted."""
        folder = tmp_path / "stored"
        folder.mkdir()
        jobs = Jobs(f"sqlite:///{folder}/missing/jobs.db")
        with pytest.raises(JobsUnavailableError):
            await jobs.enqueue(functions.add, 1)
        found = await scraped(registry, jobs)

        key = ("offload_jobs_enqueued_total", f"{NAME}:add", "unavailable", "default")
        assert found[key] == 1

    async def test_jobs_in_the_store_by_state(self, url, registry):
        """What there is in the store is told by queue, function and state, and what is paused."""
        async with Jobs(url) as jobs:
            await jobs.enqueue(functions.add, 1)
            await jobs.options(delay=600).enqueue(functions.add, 2)
            await (await jobs.enqueue(functions.plain, "a")).cancel()
            await jobs.pause("mail")
            found = await scraped(registry, jobs)

        assert found["offload_jobs", f"{NAME}:add", "default", "waiting"] == 1
        assert found["offload_jobs", f"{NAME}:add", "default", "delayed"] == 1
        assert found["offload_jobs", f"{NAME}:plain", "mail", "cancelled"] == 1
        assert found["offload_jobs_queue_paused", "mail"] == 1
        assert found[("offload_jobs_store_up",)] == 1

    async def test_store_that_hangs_costs_its_own_metrics_alone(self, url, registry, monkeypatch):
        """A store that never answers is told as down in time, and the rest is there."""
        monkeypatch.setattr("offload.metrics._jobs._LOOK_SECONDS", 0.05)
        async with Jobs(url) as jobs:
            await jobs.enqueue(functions.add, 1)
            monkeypatch.setattr(jobs, "counts", anyio.sleep_forever)
            slow = await scraped(registry, jobs)
            monkeypatch.setattr("offload.metrics._jobs._FRESH_SECONDS", 0.0)
            monkeypatch.setattr(jobs, "paused", anyio.sleep_forever)
            found = await scraped(registry, jobs)

        # It answers, and counting takes longer than there is time.
        assert slow[("offload_jobs_store_up",)] == 1
        assert not [key for key in slow if key[0] == "offload_jobs"]
        assert found[("offload_jobs_store_up",)] == 0
        assert found["offload_jobs_enqueued_total", f"{NAME}:add", "stored", "default"] == 1
        assert not [key for key in found if key[0] == "offload_jobs"]


class TestWorkerProgram:
    async def test_attempts_by_outcome_with_their_times(self, jobs, programs):
        """A program tells at /metrics what it ran, what came of it, and how long that took."""
        port = free_port()
        await anyio.to_thread.run_sync(partial(programs.ready, "--health", str(port)))
        assert await jobs.run(functions.add, 1) == 1
        with pytest.raises(ValueError, match="no bread"):
            await jobs.run(functions.fail, "no bread")
        with pytest.raises(JobFailedError):
            await jobs.run(functions.crash)
        attempts = "offload_job_attempts_total"
        found = await scraped_of_program(
            port,
            jobs,
            until=lambda found: (attempts, f"{NAME}:crash", "crashed", "default") in found,
        )

        assert found[attempts, f"{NAME}:add", "completed", "default"] == 1
        assert found[attempts, f"{NAME}:fail", "failed", "default"] == 1
        assert found[attempts, f"{NAME}:crash", "crashed", "default"] == 2
        assert found["offload_job_run_seconds_count", f"{NAME}:crash", "default"] == 2
        assert found["offload_job_wait_seconds_count", f"{NAME}:crash", "default"] == 1
        assert found[("offload_worker_program_ready",)] == 1
        assert found[("offload_worker_program_slots",)] == 2
        assert found[("offload_worker_program_claimed_total",)] == 4
        # Of its store as well: it may have been asked a moment ago.
        key = "offload_jobs", f"{NAME}:crash", "default", "failed"
        found = await scraped_of_program(port, jobs, until=lambda found: key in found)
        assert found[key] == 1

    async def test_cancelled_attempt(self, jobs, programs, held, entered):
        """An attempt that was stopped since its job was cancelled is counted as that."""
        port = free_port()
        await anyio.to_thread.run_sync(partial(programs.ready, "--health", str(port)))
        job = await jobs.enqueue(functions.wait, *held)
        await entered.heard()
        active = await scraped_of_program(port, jobs)
        await job.cancel()
        with pytest.raises(JobCancelledError):
            await job.result(timeout=PATIENCE)
        key = "offload_job_attempts_total", f"{NAME}:wait", "cancelled", "default"
        found = await scraped_of_program(port, jobs, until=lambda found: key in found)

        assert active[("offload_worker_program_active",)] == 1
        assert found[key] == 1

    async def test_leases_that_ran_out_are_counted_by_who_finds_them(
        self, jobs, programs, held, entered
    ):
        """After the death of a program another one tells that it has found its job."""
        first = await anyio.to_thread.run_sync(partial(programs.ready, "--lease", "2"))
        job = await jobs.enqueue(functions.wait, *held)
        await entered.heard()
        port = free_port()
        await anyio.to_thread.run_sync(partial(programs.ready, "--health", str(port)))
        first.signal(signal.SIGKILL)
        found = await scraped_of_program(
            port, jobs, until=lambda found: found[("offload_jobs_swept_total",)] >= 1
        )
        await job.cancel()

        assert found[("offload_jobs_swept_total",)] == 1


def test_alerts_name_what_there_is():
    """Each alert asks for metrics, outcomes and states that exist."""
    text = alert_rules()
    stored = {name for names in exposed().values() for name in names}
    asked = set(re.findall(r"\boffload_\w+", text))
    assert asked
    assert asked <= stored
    words = inside.label_values()
    for value in re.findall(r'(?:outcome|state)(?:=~|!=|=)"([^"]+)"', text):
        assert set(value.split("|")) <= words, value


def test_alerts_are_taken_by_prometheus(tmp_path):
    """Prometheus's own tool takes the file."""
    tool = shutil.which("promtool")
    if tool is None:
        reason = "needs promtool on PATH (Debian: apt-get install prometheus)"
        if os.environ.get("OFFLOAD_REQUIRE_SERVERS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    command = [sys.executable, "-m", "offload.metrics", "alerts"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (tmp_path / "rules.yaml").write_text(printed)
    done = subprocess.run(
        [tool, "check", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

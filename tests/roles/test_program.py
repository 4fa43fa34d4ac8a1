"""What a program opens and closes with its life, by its role."""

import logging
import uuid
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from offload import Pool
from offload.jobs import Jobs, JobState, WorkerProgram
from offload.roles import Program, Role, current_role
from offload.schedules import Every, Schedule, Scheduler
from offload.starlette import lifespan
from tests.jobs import job_functions as functions
from tests.support.loops import ASYNCIO, UVLOOP
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio

asyncio_alone = pytest.mark.parametrize("anyio_backend", [ASYNCIO, UVLOOP])
# Not all that this process has imported, which is all functions of all tests.
working = partial(WorkerProgram, functions=[functions.add], drain=1.0)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    """Have a process that was not told its role."""
    monkeypatch.delenv("OFFLOAD_ROLE", raising=False)


@pytest.fixture(autouse=True)
def declared(monkeypatch):
    """Return the default scheduler: not the one with the schedules of all other tests."""
    scheduler = Scheduler()
    monkeypatch.setattr("offload.schedules.default_scheduler", lambda: scheduler)
    return scheduler


@pytest.fixture
def url(tmp_path):
    """Return where jobs are."""
    return f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal"


@pytest.fixture
def jobs(url):
    """Return jobs that are not open."""
    return Jobs(url)


@pytest.fixture
def pool():
    """Return a pool that is not open, of a name that no other test uses."""
    return Pool(f"roles-{uuid.uuid4().hex}", max_workers=1, os_priority="normal")


@pytest.fixture
def log(caplog):
    """Keep what is said of roles, from the level on at which operators look."""
    caplog.set_level(logging.INFO, "offload.roles")
    return caplog


def is_open(pool):
    """Return whether a pool is."""
    return pool.statistics().state == "open"


async def test_web_opens_pools_and_runs_no_job(pool, jobs, log):
    """Functions can be called and enqueued; that jobs run elsewhere is said once."""
    async with Program(pool, jobs=jobs, worker=working).running():
        assert is_open(pool)
        assert current_role() == Role.WEB
        job = await jobs.enqueue(functions.add, 1)
        assert (await job.status()).state is JobState.WAITING
    assert not is_open(pool)
    assert [record.getMessage() for record in log.records] == [
        "role web: not started here: running of jobs, which role worker does"
    ]


@asyncio_alone
async def test_worker_opens_no_pool_of_the_web(pool, jobs, log):
    """What the role does not need costs nothing, and is named in the log, once."""
    async with Program(pool, jobs=jobs, worker=working, role="worker").running():
        assert not is_open(pool)
        assert current_role() == Role.WORKER
        assert await jobs.run(functions.add, 1, 2) == 3
    assert [record.getMessage() for record in log.records] == [
        f"role worker: not started here: pools ({pool.name}), which role web does"
    ]


@asyncio_alone
async def test_all_runs_jobs_beside_the_server(pool, jobs, log):
    """One process does everything, and nothing is said to be missing."""
    async with lifespan(pool, jobs=jobs, worker=working, role="all")(None):
        assert is_open(pool)
        assert current_role() == Role.every()
        with anyio.fail_after(PATIENCE):
            assert await jobs.run(functions.add, 1, 2) == 3
    assert not log.records


@asyncio_alone
async def test_variable_decides_where_the_code_does_not(pool, jobs, monkeypatch):
    """The same application runs jobs or does not, by OFFLOAD_ROLE; what is written goes first."""
    monkeypatch.setenv("OFFLOAD_ROLE", "web,worker")
    async with lifespan(pool, jobs=jobs, worker=working)(None):
        with anyio.fail_after(PATIENCE):
            assert await jobs.run(functions.add, 1, 2) == 3
    async with lifespan(pool, jobs=jobs, worker=working, role=Role.WEB)(None):
        assert current_role() == Role.WEB
    monkeypatch.setenv("OFFLOAD_ROLE", "wbe")
    with pytest.raises(ValueError, match="OFFLOAD_ROLE"):
        async with lifespan(pool, jobs=jobs)(None):
            pytest.fail("must not serve")


@asyncio_alone
async def test_nothing_runs_before_or_after_the_application(pool, jobs):
    """The application's own startup and shutdown have pools and jobs, and no job under way."""
    made = []

    def make(given):
        assert given is jobs
        made.append(working(jobs))
        return made[0]

    @asynccontextmanager
    async def inner(app):
        assert app == "app"
        assert is_open(pool)
        await jobs.health()
        assert not made
        yield {"answer": 42}
        assert made[0].state == "ended"
        assert is_open(pool)
        await jobs.health()

    async with lifespan(pool, inner=inner, jobs=jobs, worker=make, role="all")("app") as state:
        assert state == {"answer": 42}
        assert made[0].state != "ended"


async def test_schedules_fire_between_start_and_end_of_the_application(pool):
    """A scheduler that is given fires where nobody says otherwise, on each event loop."""
    scheduler = Scheduler()

    @asynccontextmanager
    async def inner(app):
        assert not scheduler.is_running
        yield
        assert not scheduler.is_running

    async with lifespan(pool, scheduler=scheduler, inner=inner)(None):
        assert scheduler.is_running
        assert current_role() == Role.WEB | Role.SCHEDULER
        assert is_open(pool)


async def test_web_fires_no_schedule(pool, log, monkeypatch):
    """Where the role is web, another program fires; that is said once."""
    monkeypatch.setenv("OFFLOAD_ROLE", "web")
    scheduler = Scheduler()
    scheduler.add(Schedule(Every(3600.0), functions.add, args=(1,)))
    async with lifespan(pool, scheduler=scheduler)(None):
        assert not scheduler.is_running
        assert current_role() == Role.WEB
    assert [record.getMessage() for record in log.records] == [
        "role web: not started here: schedules (1), which role scheduler fires"
    ]


async def test_role_scheduler_fires_what_is_declared(declared, log):
    """What `@schedule` was put on need not be named; and is left alone where nobody asks for it."""
    declared.add(Schedule(Every(3600.0), functions.add, args=(1,)))
    async with Program(role="scheduler").running():
        assert declared.is_running
    async with Program().running():
        assert not declared.is_running
    assert "schedules (1)" in log.text


@asyncio_alone
async def test_worker_leaves_the_pool_to_the_server(jobs):
    """The pool that both use is the server's until the server ends."""
    pool = functions.pool
    async with Program(pool).running():
        async with Program(jobs=jobs, worker=working, role="worker").running():
            with anyio.fail_after(PATIENCE):
                assert await jobs.run(functions.add, 1, 2) == 3
        assert is_open(pool)
        assert await functions.add(3, 4) == 7
    assert not is_open(pool)


@asyncio_alone
async def test_worker_with_nothing_to_run_does_not_start(pool, jobs):
    """A program that could do nothing of what it is for says so, and leaves nothing open."""
    nothing = partial(WorkerProgram, functions=[])
    with pytest.raises(ValueError, match="no function to run"):
        async with Program(pool, jobs=jobs, worker=nothing, role="all").running():
            pytest.fail("must not serve")
    assert not is_open(pool)
    assert not current_role()


@asyncio_alone
async def test_worker_that_fails_takes_nothing_else_with_it(pool, jobs, log):
    """The server goes on, and its log has why jobs do not run any more."""

    class Broken(WorkerProgram):
        async def run(self):
            await let.wait()
            raise LookupError("what is stored cannot be read")

    let = anyio.Event()
    async with Program(pool, jobs=jobs, worker=Broken, role="all").running():
        let.set()
        with anyio.fail_after(PATIENCE):
            while not log.records:  # noqa: ASYNC110 - a record has no event
                await anyio.sleep(0.001)
        assert is_open(pool)
    assert log.records[0].levelname == "ERROR"
    assert "what is stored cannot be read" in log.text


@asyncio_alone
async def test_cancelled_service_ends_the_worker(pool, jobs, entered, held):
    """A server that is given no time hands its jobs back, and closes everything."""
    holding = partial(WorkerProgram, functions=[functions.wait], drain=600.0)
    with anyio.CancelScope() as scope:
        async with Program(pool, jobs=jobs, worker=holding, role="all").running():
            job = await jobs.enqueue(functions.wait, *held)
            await entered.heard()
            scope.cancel()
            await anyio.sleep_forever()
    assert not is_open(pool)
    async with jobs:
        status = await job.status()
        assert (status.state, status.attempts) == (JobState.WAITING, 0)


async def test_jobs_are_closed_with_their_last_program(url):
    """Two programs of one process share them, as they share pools."""
    jobs = Jobs(url)
    program = Program(jobs=jobs)
    async with program.running():
        async with program.running():
            pass
        await jobs.health()
    with pytest.raises(Exception, match="was closed"):
        await jobs.health()


async def test_jobs_that_are_away_do_not_keep_it_from_starting(tmp_path, pool, log):
    """What needs them raises; the rest serves."""
    (tmp_path / "no-folder").write_text("")
    jobs = Jobs(f"sqlite:///{tmp_path}/no-folder/jobs.sqlite3")
    async with Program(pool, jobs=jobs).running():
        assert is_open(pool)
    assert "starts without its jobs" in log.text


@pytest.mark.parametrize("anyio_backend", [pytest.param(("trio", {}), id="trio")])
async def test_trio_is_told_where_workers_run(pool, jobs):
    """A worker program needs asyncio, and the error says what to do instead."""
    with pytest.raises(RuntimeError, match="`offload worker`"):
        async with Program(pool, jobs=jobs, worker=working, role="all").running():
            pytest.fail("must not serve")
    assert not is_open(pool)


async def test_role_without_jobs_is_told(pool, log):
    """Asked in code to run jobs without any, a program says so; by OFFLOAD_ROLE it need not."""
    async with Program(pool, role="web,worker").running():
        pass
    assert [record.levelname for record in log.records] == ["WARNING"]


def test_what_is_no_pool_is_refused():
    """As by lifespan: the application itself, mostly."""
    with pytest.raises(TypeError, match="pools and names of pools, not object"):
        Program(object())

"""Workers: how many there are, how they start, what they inherit, when they are replaced."""

import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from offload import Pool, WorkerStartError, offload
from offload._system import BLAS_VARIABLES
from tests.support.calls import Held
from tests.support.functions import declares_pool
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, parent_of, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def links_of(pid: int) -> set[str]:
    """Return what the descriptors of a process refer to, but the standard streams."""
    return {
        str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if int(link.name) > 2
    }


@pytest.mark.anyio
@one_loop
async def test_no_more_workers_than_needed_and_a_spare(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A pool grows with its load: what runs, and the spare that the next call will find warm."""
    async with new_pool(max_workers=3, spare_workers=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            pids = set()
            for busy in (1, 2, 3):
                pids |= set(await held.start())
                await until(lambda: not pool.statistics().starting)
                now = pool.statistics()
                assert (now.busy, now.idle, len(now.workers)) == (busy, 1, busy + 1)
            gate.let(3)
        assert len(pids) == 3


@pytest.mark.anyio
@one_loop
async def test_no_spare_where_none_is_wanted(new_pool: Callable[..., Pool]) -> None:
    """With `spare_workers=0` one call at a time needs one worker."""
    async with new_pool(max_workers=2, spare_workers=0) as pool:
        for _ in range(3):
            await pool.run(pool_functions.pid)
        now = pool.statistics()
        assert (now.idle, now.starting) == (1, 0)


@pytest.mark.anyio
@one_loop
async def test_idle_workers_retire_down_to_the_minimum(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """Workers that the recent load did not need end after `idle_timeout`; `min_workers` stay."""
    async with new_pool(min_workers=1, max_workers=3, idle_timeout=0.1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            pids = await held.start(3)
            gate.let(3)
        await until(lambda: len(pool.statistics().workers) == 1)
        assert sum(is_alive(pid) for pid in pids) <= 1
        assert await pool.run(pool_functions.echo, 1) == 1
        assert pool.statistics().crashed == 0


@pytest.mark.anyio
@one_loop
async def test_retired_pool_starts_again(new_pool: Callable[..., Pool]) -> None:
    """With no minimum the last worker retires as well, and the next call starts a new one."""
    async with new_pool(max_workers=1, idle_timeout=0.05) as pool:
        first = await pool.run(pool_functions.pid)
        await gone(first)
        await until(lambda: not pool.statistics().workers)
        assert await pool.run(pool_functions.pid) != first


@pytest.mark.anyio
@one_loop
async def test_worker_is_recycled_by_count(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A worker is replaced after `max_tasks_per_worker`, without failing a call."""
    async with new_pool(max_workers=1, spare_workers=0, max_tasks_per_worker=3) as pool:
        pids = [await pool.run(pool_functions.pid) for _ in range(9)]
        assert [len(list(run)) for _, run in itertools.groupby(pids)] == [3, 3, 3]
        await gone(*pids)
        assert pool.statistics().recycled == 3


@pytest.mark.guarantee(3)
@pytest.mark.anyio
async def test_recycling_under_load_loses_nothing(new_pool: Callable[..., Pool]) -> None:
    """Many calls at once on workers that are all replaced after each: every one has its result."""
    async with new_pool(max_workers=2, max_tasks_per_worker=1) as pool:
        echo = offload(pool=pool)(pool_functions.echo)
        with anyio.fail_after(PATIENCE):
            assert await echo.map(range(40), max_concurrency=40) == list(range(40))
        assert pool.statistics().recycled == 40


@pytest.mark.anyio
@one_loop
async def test_worker_is_recycled_by_memory(new_pool: Callable[..., Pool]) -> None:
    """A worker that has grown above `max_worker_memory_bytes` is replaced after the task."""
    async with new_pool(
        max_workers=1, spare_workers=0, max_worker_memory_bytes=150 * 2**20
    ) as pool:
        small = [await pool.run(pool_functions.keep_memory, 2**20) for _ in range(2)]
        assert len(set(small)) == 1
        grown = await pool.run(pool_functions.keep_memory, 150 * 2**20)
        assert grown == small[0]
        await gone(grown)
        assert await pool.run(pool_functions.pid) != grown
        assert pool.statistics().recycled == 1


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_initializer_runs_once_in_each_worker(
    new_pool: Callable[..., Pool], method: str
) -> None:
    """The initializer has run, with its arguments, before the first task of a worker."""
    options = {"initializer": pool_functions.initialize, "initargs": ({"a": 1},)}
    async with new_pool(max_workers=1, start_method=method, **options) as pool:
        assert await pool.run(pool_functions.initialized) == [{"a": 1}]
        assert await pool.run(pool_functions.initialized) == [{"a": 1}]


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_failing_initializer_is_named(new_pool: Callable[..., Pool]) -> None:
    """When no worker comes up, calls and `open` fail with the initializer's traceback."""
    pool = new_pool(max_workers=1, initializer=pool_functions.fail_to_initialize)
    with pytest.raises(WorkerStartError, match="no licence for this machine") as caught:
        await pool.open()
    assert "in fail_to_initialize" in caught.value.detail
    with pytest.raises(WorkerStartError, match="no licence for this machine"):
        await pool.run(pool_functions.pid)
    await pool.aclose()


@pytest.mark.anyio
@one_loop
async def test_failed_open_leaves_nothing(new_pool: Callable[..., Pool]) -> None:
    """`async with` a pool that cannot start raises, and is closed."""
    pool = new_pool(max_workers=1, initializer=pool_functions.fail_to_initialize)
    with pytest.raises(WorkerStartError):
        await pool.__aenter__()
    assert pool.statistics().state == "closed"


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_preloaded_modules_are_there(new_pool: Callable[..., Pool], method: str) -> None:
    """Modules of `preload` are imported before the first task, and others are not."""
    async with new_pool(max_workers=1, start_method=method, preload=["wave"]) as pool:
        assert await pool.run(pool_functions.modules, "wave", "ftplib") == [True, False]


@pytest.mark.anyio
@one_loop
async def test_failing_preload_is_named(new_pool: Callable[..., Pool]) -> None:
    """A module that cannot be preloaded is named with the reason."""
    pool = new_pool(max_workers=1, preload=["json", "tests.no_such_module"])
    with pytest.raises(WorkerStartError, match="no_such_module"):
        await pool.run(pool_functions.pid)
    await pool.aclose()


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_environment_of_workers(
    new_pool: Callable[..., Pool], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`env` sets and removes variables; thread pools of numeric libraries are capped."""
    monkeypatch.setenv("POOL_TEST_REMOVED", "here")
    monkeypatch.setenv("POOL_TEST_KEPT", "kept")
    for name in BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    env = {"POOL_TEST_REMOVED": None, "POOL_TEST_SET": "ü", "MKL_NUM_THREADS": "5"}
    async with new_pool(max_workers=1000, start_method=method, env=env) as pool:
        names = ("POOL_TEST_REMOVED", "POOL_TEST_KEPT", "POOL_TEST_SET")
        assert await pool.run(pool_functions.environment, *names) == [None, "kept", "ü"]
        caps = await pool.run(pool_functions.environment, *BLAS_VARIABLES)
    # Ours, where nobody has said anything; what the user says, here or outside, counts.
    expected = dict.fromkeys(BLAS_VARIABLES, "1")
    expected |= {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "5"}
    assert dict(zip(BLAS_VARIABLES, caps, strict=True)) == expected


@pytest.mark.guarantee(2)
@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "priority, policy, nice",
    [("idle", os.SCHED_IDLE, 0), ("low", os.SCHED_OTHER, 19), ("normal", os.SCHED_OTHER, 0)],
)
async def test_os_priority_is_really_applied(
    new_pool: Callable[..., Pool], method: str, priority: str, policy: int, nice: int
) -> None:
    """Workers run at the priority that the pool says."""
    own = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    async with new_pool(max_workers=1, start_method=method, os_priority=priority) as pool:
        pid = await pool.run(pool_functions.pid)
        expected = own[1] if priority != "low" else min(19, own[1] + 19)
        assert os.sched_getscheduler(pid) == policy
        assert os.getpriority(os.PRIO_PROCESS, pid) == expected
        del nice
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == own


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_ctrl_c_is_for_the_server(new_pool: Callable[..., Pool], method: str) -> None:
    """Workers ignore SIGINT, and are not in the server's process group."""
    async with new_pool(max_workers=1, start_method=method) as pool:
        assert await pool.run(pool_functions.interrupt_me) == "still here"
        pid = await pool.run(pool_functions.pid)
        supervisor = parent_of(pid)
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getpgid(supervisor) != os.getpgid(0)
        os.kill(supervisor, signal.SIGINT)
        os.kill(supervisor, signal.SIGTERM)
        assert await pool.run(pool_functions.pid) == pid


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_exit_hooks_of_a_worker_run(
    new_pool: Callable[..., Pool], method: str, tmp_path: Path
) -> None:
    """A worker that is closed ends as an interpreter does: `atexit` hooks run."""
    path = tmp_path / "ended"
    async with new_pool(max_workers=1, start_method=method) as pool:
        await pool.run(pool_functions.note_at_exit, str(path))
    assert path.exists()


@pytest.mark.anyio
@one_loop
async def test_worker_inherits_no_descriptor(new_pool: Callable[..., Pool]) -> None:
    """Neither files of the server nor sockets of sibling workers are open in a worker."""
    ours = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        async with new_pool(min_workers=2, max_workers=2) as pool:
            pids = {worker.pid for worker in pool.statistics().workers}
            links = [await anyio.to_thread.run_sync(links_of, pid) for pid in pids]
    finally:
        os.close(ours)
    assert len(links) == 2
    assert not {link for link in links[0] & links[1] if link.startswith("socket")}
    assert all("null" not in link for found in links for link in found)


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("results", ["pickle", "data"])
async def test_forks_import_what_they_need_once(
    new_pool: Callable[..., Pool], capfd: pytest.CaptureFixture[str], results: str
) -> None:
    """The supervisor imports it while the first worker, which does so itself, is on its way."""
    async with new_pool(
        max_workers=4,
        min_workers=4,
        start_method="forkserver",
        results=results,
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    ) as pool:
        await until(lambda: pool.statistics().idle == 4)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(pool.run, pool_functions.pid)
    lines = [line for line in capfd.readouterr().err.splitlines() if "import time:" in line]
    times = Counter(line.rpartition("|")[2].strip() for line in lines)
    # The first worker and the supervisor write at the same time: a line of one may be torn.
    assert times["offload._child.start"] in {1, 2}
    assert [
        name for name, count in times.items() if name.startswith("offload.") and count > 2
    ] == []


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_worker_imports_no_event_loop(new_pool: Callable[..., Pool], method: str) -> None:
    """A module that declares pools, too, costs a worker nothing that only a server needs."""
    async with new_pool(max_workers=1, start_method=method) as pool:
        needless = ("asyncio", "multiprocessing", "concurrent.futures.thread", "anyio")
        assert await pool.run(declares_pool.imported, *needless) == []

"""Workers are children of their server in the eyes of `multiprocessing`."""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from offload import Pool, WorkerStartError
from tests.support.functions import executor as functions
from tests.support.processes import PATIENCE, until

KINDS: dict[str, dict[str, Any]] = {
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "processes": {"executor": ProcessPoolExecutor},
}
kinds = pytest.mark.parametrize("kind", KINDS)
own = pytest.mark.parametrize("kind", ["forkserver", "spawn"])
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


SHARED_MEMORY = Path("/dev") / "shm"


def is_there(name: str) -> bool:
    """Return whether there is a segment of shared memory of this name."""
    return (SHARED_MEMORY / name).exists()


@kinds
def test_proxies_of_a_manager_cross(kind: str, new_pool: Callable[..., Pool]) -> None:
    """A queue of `multiprocessing.Manager()` as an argument is the same queue in a worker."""
    pool = new_pool(max_workers=1, **KINDS[kind])
    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        pool.executor().submit(functions.put, queue, 7).result(PATIENCE)
        assert queue.get(timeout=PATIENCE) == 7
    asyncio.run(pool.aclose())


@pytest.mark.leaves_behind("multiprocessing hands descriptors over by a thread of its own")
@kinds
@one_loop
@pytest.mark.anyio
async def test_locks_and_queues_cross_with_the_initializer(
    kind: str, new_pool: Callable[..., Pool]
) -> None:
    """What `multiprocessing` gives to children alone is given to every worker, each of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pool = new_pool(
        min_workers=2,
        max_workers=2,
        initializer=functions.keep_lock_and_queue,
        initargs=(context.Lock(), queue),
        **KINDS[kind],
    )
    async with pool:
        await asyncio.gather(*(pool.run(functions.put_under_lock, n) for n in range(4)))
        assert sorted(queue.get(timeout=PATIENCE) for _ in range(4)) == [0, 1, 2, 3]
    queue.close()
    queue.join_thread()


@one_loop
@pytest.mark.anyio
async def test_lock_of_a_fork_is_refused_with_the_way_out(new_pool: Callable[..., Pool]) -> None:
    """A lock that only a fork of this process could have is an error that says how to make one."""
    lock = multiprocessing.get_context("fork").Lock()
    pool = new_pool(max_workers=1, initializer=functions.keep_lock_and_queue, initargs=(lock, None))
    with pytest.raises(WorkerStartError, match=r'get_context\("spawn"\)'):
        async with pool:
            pass


@own
@pytest.mark.parametrize("end", ["recycle", "kill", "idle"])
@one_loop
@pytest.mark.anyio
async def test_end_of_a_worker_unlinks_no_memory_of_the_server(
    kind: str, end: str, new_pool: Callable[..., Pool]
) -> None:
    """A segment that a worker has attached is there, and known to be ours, when it has ended."""
    memory = SharedMemory(create=True, size=16)
    memory.buf[0] = 5
    options: dict[str, Any] = {"idle_timeout": 0.1} if end == "idle" else {}
    pool = new_pool(max_workers=1, spare_workers=0, **KINDS[kind], **options)
    try:
        assert await pool.run(functions.first_byte, memory) == 5
        (worker,) = pool.statistics().workers
        if end == "recycle":
            pool.recycle(worker.pid)
        elif end == "kill":
            await asyncio.wrap_future(pool.kill())
        await until(lambda: worker.pid not in {each.pid for each in pool.statistics().workers})
        await pool.aclose()
        assert is_there(memory.name)
    finally:
        memory.close()
        memory.unlink()


@own
@one_loop
@pytest.mark.anyio
async def test_memory_that_a_worker_has_made_outlives_it(
    kind: str, new_pool: Callable[..., Pool]
) -> None:
    """A segment that a function returns is its caller's, whatever becomes of the worker."""
    pool = new_pool(max_workers=1, **KINDS[kind])
    memory = await pool.run(functions.new_segment, 9)
    await pool.aclose()
    try:
        assert is_there(memory.name)
        assert memory.buf[0] == 9
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.guarantee(7)
def test_end_of_the_server_unlinks_what_workers_have_left(tmp_path: Path) -> None:
    """What a worker has made and nobody has unlinked goes with the server, and is told of once."""
    (tmp_path / "main.py").write_text(
        textwrap.dedent(
            """
            import asyncio
            from offload import Pool
            from tests.support.functions import executor as functions

            async def main():
                async with Pool("left", max_workers=1) as pool:
                    print((await pool.run(functions.new_segment, 9)).name)

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    name = done.stdout.strip().strip("/")
    assert name
    assert "1 leaked shared_memory" in done.stderr
    assert not is_there(name)

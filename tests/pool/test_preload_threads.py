"""No fork carries threads: what is preloaded and has some is loaded by each worker."""

import logging
import sys

import pytest

from offload import Pool, WorkerStartError
from tests.support import inside
from tests.support.functions import threaded as functions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc"),
]

THREADED, QUIET, ONCE = (
    f"tests.support.preloaded.{name}" for name in ("threaded", "quiet", "threaded_once")
)


@pytest.mark.parametrize("preload", [[THREADED, QUIET], [QUIET, THREADED]])
async def test_module_with_threads_works_in_every_worker(
    preload: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Its threads are there in each worker, the supervisor has one, and the log says what to do."""
    async with Pool(
        "threaded", min_workers=2, max_workers=2, preload=preload, start_method="forkserver"
    ) as pool:
        assert [await functions.doubled(number) for number in range(4)] == [0, 2, 4, 6]
        assert await functions.threads_of_supervisor() == 1
        found = await functions.loaded_by()
        unshared = inside.unshared(pool)
    # The other module is still loaded once, before the fork.
    assert found["importer"] == found["supervisor"] != found["worker"]
    assert unshared == {THREADED: 2}
    (record,) = [each for each in caplog.records if "threads are lost" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert THREADED in record.getMessage()
    assert QUIET not in record.getMessage()


async def test_threads_that_end_at_a_fork_stay_shared(caplog: pytest.LogCaptureFixture) -> None:
    """OpenBLAS (of numpy) ends its threads at a fork by itself, so numpy is loaded once for all."""
    env = {"OPENBLAS_NUM_THREADS": "2"}
    async with Pool(
        "threaded", max_workers=1, preload=["numpy", QUIET], env=env, start_method="forkserver"
    ) as pool:
        found = await functions.loaded_by()
        assert inside.unshared(pool) == {}
    assert found["importer"] == found["supervisor"]
    assert "threads are lost" not in caplog.text


async def test_module_that_fails_in_the_worker_fails_its_start() -> None:
    """A module that is loaded by each worker is told of as one that is loaded before the fork."""
    pool = Pool(
        "threaded",
        max_workers=1,
        preload=[ONCE],
        start_method="forkserver",
    )
    with pytest.raises(WorkerStartError, match=f"preloading '{ONCE}' failed"):
        await pool.open()
    await pool.aclose()

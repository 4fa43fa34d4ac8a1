"""No descriptor of ours reaches a program that somebody starts."""

import os
import sys
from pathlib import Path

import pytest

from offload import Pool
from tests.support.functions import inherited as functions
from tests.support.functions import pool as pool_functions

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_program_of_a_task_inherits_nothing_of_ours(method: str, tmp_path: Path) -> None:
    """Whatever it is started with, it has no socket and no memory of worker or supervisor."""
    async with Pool(f"inherit {method}", max_workers=2, start_method=method) as pool:
        await pool.run(pool_functions.echo, b"x" * 5_000_000)  # files have crossed as well
        found = await pool.run(functions.of_started_programs, str(tmp_path / "found"))
    assert found == {"close_fds=False": {}, "os.system": {}}


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_nothing_of_ours_is_inheritable(method: str) -> None:
    """Every descriptor of every process of a pool, the server's among them, is close-on-exec."""
    before = functions.inheritable(os.getpid())
    async with Pool(f"inherit {method}", max_workers=1, start_method=method) as pool:
        await pool.run(pool_functions.echo, b"x" * 5_000_000)
        found = await pool.run(functions.of_our_processes)
        here = functions.inheritable(os.getpid())
    assert found == {"worker": {}, "supervisor": {}}
    assert {fd: target for fd, target in here.items() if before.get(fd) != target} == {}

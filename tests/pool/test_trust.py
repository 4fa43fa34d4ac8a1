"""What runs in a worker may write to the worker's socket and memory: it costs itself at most."""

import struct
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from offload import Pool, ResultError, WorkerCrashedError
from offload._wire.frames import Kind
from tests.support import inside
from tests.support.functions import intruders as functions
from tests.support.functions import pool as pool_functions
from tests.support.loops import TRIO, UVLOOP
from tests.support.processes import PATIENCE, Fifo, gone, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.guarantee(3),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
# Each of them on one event loop, and some on each.
INTRUSIONS = [
    *(("asyncio", how) for how in functions.INTRUSIONS),
    *(
        pytest.param(*backend.values, how, marks=backend.marks)
        for backend in (UVLOOP, TRIO)
        for how in ("huge frame", "many descriptors", "item of no stream")
    ),
]


@pytest.fixture(scope="module", params=["forkserver", "spawn"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """One pool for all: it must be as usable after each as before."""
    pool = Pool(
        f"trust {request.param}",
        max_workers=2,
        start_method=request.param,
        os_priority="normal",
    )
    anyio.run(pool.open)
    yield pool
    anyio.run(partial(pool.aclose, drain=1.0))
    inside.forget(pool)


def open_files() -> int:
    """Return how many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("anyio_backend, how", INTRUSIONS)
async def test_worker_that_sends_anything_else_dies(pool: Pool, how: str) -> None:
    """Its call says why, nothing of what came is kept, and the next call is served."""
    await pool.run(pool_functions.pid)
    before = open_files()
    with (
        anyio.fail_after(PATIENCE),
        pytest.raises(WorkerCrashedError, match="since it sent") as why,
    ):
        await pool.run(functions.intrude, how)
    assert why.value.may_have_run
    assert why.value.pid is not None
    await gone(why.value.pid)
    assert await pool.run(pool_functions.echo, how) == how
    # One of the workers is new, or being started, with a socket on either side.
    await until(lambda: open_files() <= before + 4)


async def test_memory_that_we_share_keeps_its_size(pool: Pool) -> None:
    """A task that truncates every file of its worker ends nobody by a signal."""
    values = np.ones(3_000_000, dtype="u1")
    assert await pool.run(functions.truncate_everything) == 0
    assert await pool.run(pool_functions.echo, b"x" * 1_000_000) == b"x" * 1_000_000
    assert (await pool.run(pool_functions.echo, values)).sum() == 3_000_000


@ASYNCIO
async def test_result_cannot_be_truncated_after_it_was_sent(
    pool: Pool, entered: Fifo, gate: Fifo
) -> None:
    """Nobody can take the memory away from under the process that has mapped it."""
    with anyio.fail_after(PATIENCE):
        result = await pool.run(functions.truncated_result, entered.path, gate.path)
        gate.let()
        await entered.heard()
    assert result.sum() == 8_000_000


@ASYNCIO
@pytest.mark.parametrize(
    "kind, detail",
    [
        (Kind.RAISED, None),
        (Kind.RAISED, (1, 2, 3, 4)),
        (Kind.RAISED, (b"no pickle", "ValueError", "text")),
        (Kind.RESULT_TOO_LARGE, ("many", "few")),
        (Kind.NOT_FOUND, "nothing"),
        (Kind.BAD_RESULT, (b"", b"")),
        (Kind.BAD_ARGUMENT, {}),
    ],
)
async def test_reply_that_no_worker_makes_is_an_error_of_ours(
    pool: Pool, kind: int, detail: object
) -> None:
    """Its caller gets an error that can be caught as ours, whatever was replied."""
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="no worker sends"):
        await pool.run(functions.write_reply, kind, detail)


@ASYNCIO
@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(15),
        struct.pack("<QQ", 5000, 0),
        struct.pack("<QQ", 0, 1 << 60),
        struct.pack("<QQ", 1 << 63, 1),
        struct.pack("<QQ", 10, 200),
    ],
    ids=repr,
)
async def test_payload_is_read_inside_its_file_only(pool: Pool, body: bytes) -> None:
    """What a frame says of a file is checked before it is believed."""
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="unpickled"):
        await pool.run(functions.reply_from_outside_of_the_file, Kind.RESULT, body)


async def test_stream_without_credit_is_refused(pool: Pool) -> None:
    """A generator that sends more than it was asked for cannot fill our memory."""

    async def consume() -> None:
        async for _ in inside.stream(pool, functions.yield_too_much, 1000):
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(PATIENCE), pytest.raises(WorkerCrashedError, match="no use for"):
        await consume()


async def test_flood_of_frames_lets_the_loop_turn(pool: Pool) -> None:
    """Thousands of frames at once are no one turn of the event loop."""
    told = []
    options = {"on_progress": lambda *numbers: told.append(numbers)}
    with anyio.fail_after(PATIENCE):
        assert await inside.call(pool, functions.flood, 5000, **options) is None
    assert told[0] == (1.0, 2.0)


@ASYNCIO
async def test_progress_that_is_no_number_is_the_functions_error(pool: Pool) -> None:
    """What is too large to be told as progress fails where it is told."""
    with pytest.raises(ValueError, match="two numbers"):
        await pool.run(functions.report_what_is_no_number, 100_000)


@ASYNCIO
@pytest.mark.parametrize("fields", [10, 40, 5000])
async def test_large_log_record_is_cut(
    pool: Pool, caplog: pytest.LogCaptureFixture, fields: int
) -> None:
    """A record of any size is told, cut if need be; its worker is not ended for it."""
    pid = await pool.run(pool_functions.pid)
    await pool.run(functions.log_with_many_fields, fields)
    await until(lambda: "large" in caplog.text)
    assert {pid, *[each.pid for each in pool.statistics().workers]} == {
        each.pid for each in pool.statistics().workers
    }
    caplog.clear()

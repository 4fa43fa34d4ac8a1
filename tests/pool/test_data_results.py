"""`Pool(results="data")`: what is data comes back, and nothing that a worker sends is unpickled."""

import datetime as dt
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from starlette.exceptions import HTTPException

from offload import Pool, RemoteError, RemoteTraceback, ResultError, WorkerCrashedError, offload
from offload._wire.frames import Flag, Kind
from tests.support import inside
from tests.support.functions import data as functions
from tests.support.functions import forgeries
from tests.support.functions import pool as pool_functions
from tests.support.loops import TRIO, UVLOOP
from tests.support.processes import PATIENCE, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forges what Linux has"),
]
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
LIMIT = 4_000_000


def opened(start_method: Literal["forkserver", "spawn"]) -> Pool:
    """Return an open pool that reads data."""
    pool = Pool(
        f"data {start_method}",
        max_workers=2,
        start_method=start_method,
        os_priority="normal",
        results="data",
        raises=[functions.OwnError, HTTPException],
    )
    anyio.run(pool.open)
    return pool


def closed(pool: Pool) -> None:
    """Close a pool, and forget it."""
    anyio.run(partial(pool.aclose, drain=1.0))
    inside.forget(pool)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all: it must be as usable after each as before."""
    pool = opened("forkserver")
    yield pool
    closed(pool)


@pytest.fixture(scope="module")
def spawned() -> Iterator[Pool]:
    """One whose workers are new interpreters."""
    pool = opened("spawn")
    yield pool
    closed(pool)


# --- what comes back ---


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2**80, 1.5, "text", b"bytes", {"a": (1, {2, 3})}, {1: dt.timedelta(1)}],
        {"small": "x" * 20_000},
        b"x" * 1_000_000,
        b"x" * 10_000_000,
        ["é" * 100, 1] * 50_000,
    ],
    ids=["nothing", "some", "on a thread", "shared buffer", "file", "parts"],
)
async def test_data_come_back(pool: Pool, value: object) -> None:
    """Of any size, by the ways that all results go."""
    assert await pool.run(functions.echo, value) == value


@ASYNCIO
async def test_models_come_back_by_the_annotation(pool: Pool) -> None:
    """The server makes them of data, by its own classes."""
    made = await pool.run(functions.report, 3)
    assert made == functions.report(3)
    assert type(made.pages[0]) is functions.Page
    assert await pool.run(functions.color) is functions.Color.RED
    assert await pool.run(functions.report, 2000) == functions.report(2000)
    stream = inside.stream(pool, functions.pages, 20)
    assert [each async for each in stream] == list(functions.pages(20))


async def test_items_of_a_stream_come_back(pool: Pool) -> None:
    """Of any size."""
    lengths = [0, 10, 100_000, 3_000_000, 100_000, 1]
    items = [len(each) async for each in inside.stream(pool, functions.sizes, *lengths)]
    assert items == lengths


@ASYNCIO
async def test_calls_of_every_kind(pool: Pool) -> None:
    """`map`, shared runs, and a pool as an executor."""
    assert await offload(pool=pool)(functions.echo).map(range(5)) == list(range(5))
    both: list[object] = []

    async def call() -> None:
        both.append(await inside.call(pool, functions.echo, [1], single_flight=True))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        group.start_soon(call)
    assert both == [[1], [1]]
    with pool.executor() as executor:
        future = executor.submit(functions.echo, {"a": 1})
        assert await anyio.to_thread.run_sync(future.result) == {"a": 1}


@ASYNCIO
@pytest.mark.parametrize(
    "kind, path",
    [
        ("object", "result['rows'][1][0] is a object"),
        ("subclass", r"result[0] is a tests.support.functions.data.Sub. Return a dict"),
        ("function", "result is a builtin_function_or_method. Return plain data"),
        ("itself", "nested more than 100 deep"),
    ],
)
async def test_what_is_no_data_is_the_functions_error(pool: Pool, kind: str, path: str) -> None:
    """It says where it is, what it is, and what to do; the worker goes on."""
    await until(lambda: not pool.statistics().starting)
    pids = {each.pid for each in pool.statistics().workers}
    with pytest.raises(ResultError) as why:
        await pool.run(functions.no_data, kind)
    assert path in str(why.value)
    assert {each.pid for each in pool.statistics().workers} == pids


@ASYNCIO
async def test_what_differs_from_the_annotation_is_the_functions_error(pool: Pool) -> None:
    """With the path to it."""
    with pytest.raises(ResultError, match=r"result\[1\] is str, where .*\.data\.Page"):
        await pool.run(functions.wrong_page)
    with pytest.raises(ResultError, match=r"item\['a'\] is"):
        [each async for each in inside.stream(pool, functions.yield_no_data)]


@ASYNCIO
async def test_too_large_results_are_refused(pool: Pool) -> None:
    """By `max_payload_bytes`, and without that by a bound that is the pool's own."""
    with pytest.raises(ResultError, match="max_payload_bytes"):
        await inside.call(pool, functions.zeros, 2000, max_payload_bytes=3000)


@ASYNCIO
async def test_functions_that_are_sent_by_value() -> None:
    """What was typed in goes by value, and comes back as data."""
    script = """
import asyncio, dataclasses
from offload import Pool

@dataclasses.dataclass
class Point:
    x: int

class OwnError(Exception): ...

def make(x: int) -> Point:
    if x < 0:
        raise OwnError(x)
    return Point(x)

async def main():
    async with Pool(results="data", raises=[OwnError], os_priority="normal") as pool:
        assert await pool.run(make, 3) == Point(3)
        try:
            await pool.run(make, -1)
        except OwnError as error:
            print("well", error)

asyncio.run(main())
"""
    done = await anyio.run_process([sys.executable, "-"], input=script.encode())
    assert done.stdout.decode().strip() == "well -1"


# --- what is raised ---


@pytest.mark.parametrize("kind", ["value", "file", "own", "http", "long"])
async def test_known_exceptions_are_raised(pool: Pool, kind: str) -> None:
    """Those of Python, and those that the pool was told; as they were, with their traceback."""
    try:
        functions.fail(kind)
    except Exception as error:  # noqa: BLE001 - to compare with
        expected = error
    with pytest.raises(type(expected)) as why:
        await pool.run(functions.fail, kind)
    assert type(why.value) is type(expected)
    assert why.value.args == expected.args
    assert vars(why.value) == vars(expected)
    assert str(why.value) == str(expected)
    assert isinstance(why.value.__cause__, RemoteTraceback)
    assert "in fail" in str(why.value.__cause__)


@ASYNCIO
@pytest.mark.parametrize("kind", ["group", "with an object", "exit"])
async def test_other_exceptions_come_as_text(pool: Pool, kind: str) -> None:
    """`RemoteError` has the name, the text and the traceback."""
    with pytest.raises(RemoteError) as why:
        await pool.run(functions.fail, kind)
    assert "in fail" in why.value.remote_traceback
    assert why.value.type_name in ("ExceptionGroup", "ValueError", "SystemExit")


# --- what comes beside results ---


async def test_progress_is_told(pool: Pool) -> None:
    """As two numbers; what can be made one is."""
    told: list[tuple[float, float | None]] = []
    options = {"on_progress": lambda *numbers: told.append(numbers)}
    await inside.call(pool, functions.report_progress, 1, 2.5, **options)
    await inside.call(pool, functions.report_progress, "3", None, **options)
    assert told == [(1, 2.5), (3.0, None)]
    with pytest.raises(ValueError, match="two numbers"):
        await pool.run(functions.report_progress, "three", None)


@ASYNCIO
async def test_log_records_arrive(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """With their fields, as text where they are no data, and with tracebacks."""
    await pool.run(functions.log, "said in data")
    await pool.run(functions.log, "again", rows=[1], thing=functions.Color.RED)
    await until(lambda: caplog.text.count("failed") == 2)
    first, _, second, _ = [each for each in caplog.records if each.name.startswith("tests.data")]
    assert first.getMessage() == "said in data"
    assert first.offload_function == "tests.support.functions.data:log"
    assert second.thing == repr(functions.Color.RED)
    assert "ValueError: invalid literal" in caplog.text


@ASYNCIO
async def test_workers_are_no_children_in_the_eyes_of_multiprocessing(pool: Pool) -> None:
    """Whoever listens with this process's key would unpickle what they send."""
    assert await pool.run(functions.key_of_multiprocessing) != bytes(
        multiprocessing.current_process().authkey
    )


# --- options ---


@ASYNCIO
@pytest.mark.parametrize(
    "options, text",
    [
        ({"results": "json"}, "results must be one of 'pickle', 'data'"),
        ({"results": "data", "executor": ProcessPoolExecutor}, "no executor, or no results"),
        ({"raises": [ValueError]}, 'raises is for results="data"'),
        ({"results": "data", "raises": ValueError}, "several classes"),
        ({"results": "data", "raises": ["ValueError"]}, "classes of exceptions"),
        ({"results": "data", "raises": [KeyboardInterrupt]}, "classes of exceptions"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_options_that_do_not_fit_are_refused(options: dict[str, Any], text: str) -> None:
    """With what is wrong."""
    with pytest.raises((TypeError, ValueError), match=text):
        Pool("refused", **options)


@ASYNCIO
async def test_queues_are_no_arguments_of_an_initializer() -> None:
    """They are a way to this process that unpickles."""
    queue = multiprocessing.get_context("spawn").Queue()
    with pytest.raises(TypeError, match="plain with results"):
        Pool("refused", results="data", initializer=print, initargs=(queue,))
    queue.close()


@ASYNCIO
async def test_it_is_told(pool: Pool) -> None:
    """By the pool's text and its statistics."""
    assert "results are data" in repr(pool)
    assert pool.statistics().results == "data"


# --- what somebody sends who wants to run code here ---

DATA = Flag.DATA
# Kinds of frames that may have a pickle: as a worker sends them to a pool that reads pickles, which
# is one thing that is refused, and as one which says that they are data.
KINDS = {
    0: ("RESULT", "RAISED", "ITEM", "PROGRESS", "LOG"),
    DATA: (
        *("RESULT", "RAISED", "BAD_ARGUMENT", "BAD_RESULT", "NOT_FOUND", "NOT_DATA"),
        *("RESULT_TOO_LARGE", "OVER_MEMORY", "ITEM", "PROGRESS", "LOG"),
    ),
}
FORGERIES = [
    *((kind, "frame", flags) for flags, kinds in KINDS.items() for kind in kinds),
    *((kind, way, DATA) for kind, way in (("RESULT", "file"), ("RAISED", "file"))),
    ("RESULT", "buffer", DATA),
    ("RESULT", "buffer", Flag.RAW),
    ("RESULT", "frame", Flag.SLOW),
]


@pytest.mark.parametrize(
    "anyio_backend, kind, way, flags",
    [
        *(("asyncio", *each) for each in FORGERIES),
        *(
            pytest.param(*backend.values, "RESULT", "frame", flags, marks=backend.marks)
            for backend in (UVLOOP, TRIO)
            for flags in (0, DATA)
        ),
    ],
)
async def test_forged_pickle_runs_nothing(
    pool: Pool, tmp_path: Path, kind: str, way: str, flags: int
) -> None:
    """The worker dies for it, its call is told, and the next one is served."""
    file = tmp_path / "made"
    told: list[object] = []
    options = {"on_progress": lambda *numbers: told.append(numbers)}
    with (
        anyio.fail_after(PATIENCE),
        pytest.raises((WorkerCrashedError, ResultError)) as why,
    ):
        await inside.call(
            pool, forgeries.forge, getattr(Kind, kind), way, flags, str(file), **options
        )
    await until(lambda: len(pool.statistics().workers) > 0)
    assert "it sent" in str(why.value) or "no data" in str(why.value)
    assert await pool.run(pool_functions.echo, kind) == kind
    assert not file.exists()
    assert not told


@ASYNCIO
@pytest.mark.parametrize(
    "kind, flags",
    [("RESULT", 0), ("RESULT", DATA), ("RAISED", DATA), ("PROGRESS", DATA), ("LOG", DATA)],
)
async def test_forged_pickle_runs_nothing_with_spawn(
    spawned: Pool, tmp_path: Path, kind: str, flags: int
) -> None:
    """Also where workers are new interpreters."""
    await test_forged_pickle_runs_nothing(spawned, tmp_path, kind, "frame", flags)


@ASYNCIO
async def test_data_and_errors_come_back_with_spawn(spawned: Pool) -> None:
    """As with workers that are forked."""
    assert await spawned.run(functions.report, 30) == functions.report(30)
    with pytest.raises(functions.OwnError):
        await spawned.run(functions.fail, "own")


@ASYNCIO
async def test_worker_that_sends_no_data_dies(pool: Pool, tmp_path: Path) -> None:
    """Also where that is found out only when it is read, and the worker free already."""
    pids = {await pool.run(pool_functions.pid) for _ in range(4)}
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="and is killed"):
        await pool.run(forgeries.forge, Kind.RESULT, "frame", DATA, str(tmp_path / "made"))
    with anyio.fail_after(PATIENCE):
        await until(lambda: not pids <= {each.pid for each in pool.statistics().workers})


@ASYNCIO
async def test_pickle_inside_of_data_is_bytes(pool: Pool, tmp_path: Path) -> None:
    """What a pool unpickles that reads pickles, this one takes for nothing."""
    with anyio.fail_after(PATIENCE), pytest.raises(RemoteError, match="ValueError"):
        await pool.run(forgeries.forge_within_data, str(tmp_path / "made"))
    value = forgeries.bomb(str(tmp_path / "made"))
    assert await pool.run(functions.echo, value) == value
    assert not (tmp_path / "made").exists()


@ASYNCIO
@pytest.mark.parametrize("flags", [0, DATA])
async def test_forged_item_runs_nothing(pool: Pool, tmp_path: Path, flags: int) -> None:
    """The stream ends with an error."""
    stream = inside.stream(pool, forgeries.forge_stream, str(tmp_path / "made"), flags)
    with anyio.fail_after(PATIENCE), pytest.raises((WorkerCrashedError, ResultError)):
        [each async for each in stream]
    assert not (tmp_path / "made").exists()


@ASYNCIO
@pytest.mark.parametrize(
    "kind, detail",
    [
        (Kind.RAISED, None),
        (Kind.RAISED, (None, 1, 2, 3)),
        (Kind.RAISED, (None, "a", "b")),
        (Kind.RESULT_TOO_LARGE, ("many", None)),
        (Kind.RESULT_TOO_LARGE, (1, 2, 3)),
        (Kind.OVER_MEMORY, "text"),
        (Kind.NOT_FOUND, ("a",)),
        (Kind.NOT_DATA, (1,)),
        (Kind.NOT_DATA, "text"),
        (Kind.BAD_RESULT, (b"", b"")),
    ],
    ids=repr,
)
async def test_reply_that_no_worker_makes_is_an_error_of_ours(
    pool: Pool, kind: int, detail: object
) -> None:
    """For which its worker dies."""
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="no worker sends"):
        await pool.run(forgeries.forge_value, kind, detail)


@ASYNCIO
@pytest.mark.parametrize("function", [forgeries.forge_typed, forgeries.forge_typed_color])
@pytest.mark.parametrize("value", ["blue", (1, 2), {"value": "red"}, b"red"])
async def test_forged_json_makes_no_more_than_the_annotation_says(
    pool: Pool, function: Callable[..., Any], value: object
) -> None:
    """It is decoded by what this process knows of the function."""
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="cannot be read"):
        await pool.run(function, value)


@ASYNCIO
async def test_more_than_the_caller_takes_is_not_read(pool: Pool) -> None:
    """A worker cannot fill the memory of its server."""
    with anyio.fail_after(PATIENCE), pytest.raises(ResultError, match="more than 4,000,000"):
        await inside.call(
            pool, forgeries.reply_more_than_allowed, 2 * LIMIT, max_payload_bytes=LIMIT
        )


@ASYNCIO
@pytest.mark.parametrize(
    "fields",
    [
        {"name": ["x"]},
        {"levelno": "high"},
        {"args": (1,)},
        {"exc_info": [1, 2, 3]},
        {"msg": b"x"},
        {"created": 1e300},
        {"created": float("nan")},
    ],
    ids=repr,
)
async def test_log_record_that_would_fail_handlers_is_lost(
    pool: Pool, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    """It is said that there was one, and no handler sees it."""
    made = logging.LogRecord("tests.data", 30, "file", 1, "forged", None, None).__dict__
    await pool.run(forgeries.log_fields, made | fields)
    with anyio.fail_after(PATIENCE):
        await until(lambda: "is lost" in caplog.text)
    assert "forged" not in [str(each.msg) for each in caplog.records]


@ASYNCIO
async def test_log_record_cannot_hide_what_it_can_do(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """A field of the name of a method is left out."""
    made = logging.LogRecord("tests.data", 30, "file", 1, "forged", None, None).__dict__
    await pool.run(forgeries.log_fields, made | {"getMessage": "x", "__class__": 1, "own": 2})
    with anyio.fail_after(PATIENCE):
        await until(lambda: "forged" in caplog.text)
    (record,) = [each for each in caplog.records if each.name == "tests.data"]
    assert (record.getMessage(), record.own) == ("forged", 2)


@ASYNCIO
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize("flags", [0, DATA])
async def test_forged_record_at_the_start_runs_nothing(
    new_pool: Callable[..., Pool], tmp_path: Path, start_method: str, flags: int
) -> None:
    """No worker comes up that sends it without saying that it is data; else it is lost."""
    file = tmp_path / "made"
    pool = new_pool(
        max_workers=1,
        start_method=start_method,
        results="data",
        initializer=forgeries.forge_at_start,
        initargs=(str(file), flags),
    )
    try:
        with anyio.fail_after(PATIENCE), pytest.raises(Exception, match="was killed"):
            await pool.open()
    finally:
        await pool.aclose(drain=0)
    assert not file.exists()

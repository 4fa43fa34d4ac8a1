"""Log records of functions reach the handlers of the server, whatever those do."""

import asyncio
import contextlib
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import Pool, TaskTimeoutError, WorkerCrashedError
from tests.support import inside
from tests.support.functions import bare as bare_functions
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as pool_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


HOME = "tests.support.functions.crossing"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what a task leaves behind is there for the next one to see."""
    pool = Pool(
        "crossing",
        max_workers=1,
        spare_workers=0,
        context_vars=[f"{HOME}:user", f"{HOME}:trace"],
    )
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@contextlib.contextmanager
def temporary_pool(**options: Any) -> Iterator[Pool]:
    """Make a pool for one test, whose name is free again after it."""
    pool = Pool("crossing temporary", **options)
    try:
        yield pool
    finally:
        pool.kill().result(PATIENCE)


class Records(logging.Handler):
    """Keeps what it handles, and on which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.threads: set[int] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.threads.add(threading.get_ident())
        self.records.append(record)

    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    """What the logger of the functions is given, from level INFO."""
    handler = Records()
    logger = logging.getLogger("tests.crossing")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(scope="module", autouse=True)
def level() -> Iterator[None]:
    """Set the level before any worker starts: that is when it is told."""
    logger = logging.getLogger("tests.crossing")
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def handling() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], None]]:
    """Installs a handler for the records of functions."""
    handler, logger = logging.Handler(), seam_functions.logger
    logger.propagate = False
    logger.addHandler(handler)

    def install(act: Callable[[logging.LogRecord], object]) -> None:
        handler.emit = act  # type: ignore[method-assign, assignment]

    yield install
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.mark.anyio
class TestLogs:
    @pytest.mark.guarantee(8)
    async def test_record_reaches_the_handlers_of_the_server(
        self, pool: Pool, records: Records
    ) -> None:
        """Name, level, text, the worker's process and the function are those of the record."""
        pid = await pool.run(crossing_functions.log, "hello %s", "world")
        await until(lambda: records.records)
        (record,) = records.records
        assert record.getMessage() == "hello world"
        assert (record.name, record.levelno) == ("tests.crossing", logging.INFO)
        assert record.process == pid != os.getpid()
        assert record.offload_function == f"{HOME}:log"  # type: ignore[attr-defined]
        assert record.funcName == "log"

    @pytest.mark.guarantee(8)
    async def test_record_of_a_function_that_imports_logging_itself(self, records: Records) -> None:
        """The first record counts as well, wherever `logging` is imported."""
        with temporary_pool(max_workers=1) as pool:
            assert not await pool.run(bare_functions.has_imported, "logging")
            await pool.run(bare_functions.import_and_log, "the very first")
            await until(lambda: records.records)
            await pool.aclose()
        assert records.texts() == ["the very first"]

    async def test_record_is_handled_once_and_propagates(
        self, pool: Pool, records: Records
    ) -> None:
        """A record goes the way of one made here: its logger, then the loggers above."""
        above = Records()
        logging.getLogger().addHandler(above)
        try:
            await pool.run(crossing_functions.log, "unique")
            await until(lambda: "unique" in above.texts())
        finally:
            logging.getLogger().removeHandler(above)
        assert records.texts() == ["unique"]
        assert [text for text in above.texts() if text == "unique"] == ["unique"]

    async def test_levels_of_the_server_hold_in_the_worker(
        self, pool: Pool, records: Records
    ) -> None:
        """What the server's logger would not handle is not handled."""
        await pool.run(
            crossing_functions.log_levels_of,
            "tests.crossing",
            logging.DEBUG,
            logging.INFO,
            logging.ERROR,
        )
        await until(lambda: len(records.records) >= 2)
        assert records.texts() == ["level 20", "level 40"]

    async def test_level_raised_later_holds(self, pool: Pool, records: Records) -> None:
        """A level that the server raises while workers run is respected at once."""
        logger = logging.getLogger("tests.crossing")
        logger.setLevel(logging.ERROR)
        try:
            await pool.run(crossing_functions.log, "too low")
            await pool.run(crossing_functions.log, "high enough", level=logging.ERROR)
            await until(lambda: records.records)
        finally:
            logger.setLevel(logging.INFO)
        assert records.texts() == ["high enough"]

    async def test_exception_crosses_as_text(self, pool: Pool, records: Records) -> None:
        """`logger.exception` shows the worker's traceback; no live traceback crosses."""
        await pool.run(crossing_functions.log_exception)
        await until(lambda: records.records)
        (record,) = records.records
        assert record.exc_info is None
        assert record.exc_text is not None
        assert "in log_exception" in record.exc_text
        assert "ZeroDivisionError" in logging.Formatter().format(record)

    async def test_stack_crosses(self, pool: Pool, records: Records) -> None:
        """`stack_info=True` shows the worker's stack."""
        await pool.run(crossing_functions.log_stack)
        await until(lambda: records.records)
        assert "in log_stack" in str(records.records[0].stack_info)

    @pytest.mark.parametrize("kind", ["plain", "lock", "lambda", "nowhere", "huge"])
    async def test_extra_crosses_or_becomes_text(
        self, pool: Pool, records: Records, kind: str
    ) -> None:
        """An `extra` arrives as itself if it can, else as text: the record is never lost."""
        await pool.run(crossing_functions.log_extra, kind)
        await until(lambda: records.records)
        (record,) = records.records
        assert record.getMessage() == "with an extra"
        order = record.order  # type: ignore[attr-defined]
        if kind == "plain":
            assert order == {"a": [1, 2.5, None]}
        else:
            assert isinstance(order, str)
            assert len(order) < 100_000
        assert record.number == 7  # type: ignore[attr-defined]

    async def test_record_that_cannot_be_received_is_reported(
        self, pool: Pool, records: Records, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A record that unpickles in the worker and not here is lost, and that is said."""
        await pool.run(crossing_functions.log_extra, "one way")
        await pool.run(crossing_functions.log, "next")
        await until(lambda: records.records)
        assert records.texts() == ["next"]
        assert "cannot be unpickled" in caplog.text

    async def test_huge_message_is_cut(self, pool: Pool, records: Records) -> None:
        """A message of megabytes is cut, and says so."""
        await pool.run(crossing_functions.log_huge, 5_000_000)
        await until(lambda: records.records)
        text = records.records[0].getMessage()
        assert len(text) < 20_000
        assert text.endswith("(cut)")

    async def test_threads_of_the_function_log_too(self, pool: Pool, records: Records) -> None:
        """Records of several threads arrive whole, each thread's in order."""
        await pool.run(crossing_functions.log_in_threads, 4, 50)
        await until(lambda: len(records.records) >= 200)
        seen: dict[str, list[int]] = {}
        for text in records.texts():
            number, _, index = text.partition(".")
            seen.setdefault(number, []).append(int(index))
        assert seen == {str(number): list(range(50)) for number in range(4)}

    @pytest.mark.guarantee(8)
    @pytest.mark.holds_loop("handlers of thousands at once share the GIL with the loop")
    async def test_thousands_of_records_in_order(self, pool: Pool, records: Records) -> None:
        """Many records are all there, in order, and the result behind them."""
        assert await pool.run(crossing_functions.log_many, 3000) == 3000
        await until(lambda: len(records.records) >= 3000)
        assert records.texts() == [f"record {index}" for index in range(3000)]

    async def test_handlers_run_off_the_event_loop(self, pool: Pool, records: Records) -> None:
        """A handler that writes to a file or a socket does not hold the loop."""
        await pool.run(crossing_functions.log, "where am I")
        await until(lambda: records.records)
        assert threading.get_ident() not in records.threads

    async def test_failing_handler_costs_nothing(self, pool: Pool, records: Records) -> None:
        """A handler that raises loses its record, and no call."""

        class Broken(logging.Handler):
            def handle(self, record: logging.LogRecord) -> bool:
                raise RuntimeError("the disk is full")

        broken = Broken()
        logger = logging.getLogger("tests.crossing.broken")
        logger.addHandler(broken)
        try:
            for _ in range(3):
                assert await pool.run(crossing_functions.log, "lost", name=logger.name)
            await pool.run(crossing_functions.log, "next")
            await until(lambda: records.records)
        finally:
            logger.removeHandler(broken)
        assert records.texts()[-1] == "next"


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize("kind", ["plain", "nowhere", "one way"])
def test_initializer_logs_too(records: Records, start_method: Any, kind: str) -> None:
    """Records of the initializer arrive, whatever their extras; the worker comes up."""
    with temporary_pool(
        max_workers=1,
        spare_workers=0,
        start_method=start_method,
        initializer=crossing_functions.log_when_initialized,
        initargs=(kind,),
    ) as pool:

        async def main() -> None:
            async with pool:
                await pool.run(crossing_functions.log, "ready")
                await until(lambda: "ready" in records.texts())

        asyncio.run(main())
    assert records.texts()[-1] == "ready"
    assert records.texts()[:-1] == ["initialized"] * (kind != "one way")


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_log_handler_that_exits_stops_nothing(one_worker: Pool, handled: Any) -> None:
    """`sys.exit()` in a handler ends no thread of ours: workers are still replaced."""
    handler = handled(lambda _: sys.exit(1))
    for _ in range(3):
        pid = await one_worker.run(pool_functions.pid)
        await one_worker.run(hostile_functions.log, logging.CRITICAL)
        assert one_worker.recycle(pid)
        with anyio.fail_after(PATIENCE):
            assert await one_worker.run(pool_functions.pid) != pid
    await until(lambda: len(handler.records) == 3)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_log_handler_that_raises_does_not_keep_workers_from_starting(handled: Any) -> None:
    """What an initializer logs and a handler cannot handle is lost, and the worker comes up."""

    def fail(_: logging.LogRecord) -> None:
        raise RuntimeError("this handler never works")

    handler = handled(fail)
    async with Pool(
        "hostile starts",
        max_workers=1,
        spare_workers=0,
        initializer=hostile_functions.log,
        initargs=(logging.WARNING, 5),
    ) as pool:
        assert await pool.run(pool_functions.echo, 1) == 1
    assert len(handler.records) == 5


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
async def test_slow_log_handler_delays_no_kill(one_worker: Pool, handled: Any) -> None:
    """A handler that takes its time keeps neither workers from ending nor others from starting."""
    free = threading.Event()
    handled(lambda _: free.wait(PATIENCE))
    try:
        await one_worker.run(hostile_functions.log, logging.WARNING, 20)
        pid = await one_worker.run(pool_functions.pid)
        with pytest.raises(TaskTimeoutError):
            await call(
                one_worker, pool_functions.run_fault, "hang in Python", os.devnull, timeout=0.2
            )
        await gone(pid)
        assert await one_worker.run(pool_functions.echo, 1) == 1
    finally:
        free.set()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(6)
async def test_records_that_nobody_handles_are_bounded(
    one_worker: Pool,
    handled: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Records beyond what may wait for slow handlers are dropped, counted and told."""
    inside.limit_log_queue(monkeypatch, 1 << 20)
    free = threading.Event()
    handler = handled(lambda _: free.wait(PATIENCE))
    try:
        await one_worker.run(hostile_functions.log_large, 100, 50_000)
    finally:
        free.set()
    await until(lambda: "log records of workers were dropped" in caplog.text)
    assert 0 < len(handler.records) < 100


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(8)
async def test_module_that_configures_logging_does_not_take_the_records(
    handled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers that replaced ours at an import in the worker are those of the server, once more."""
    handler = handled(lambda _: None)
    path = tmp_path / "log"
    # Here it is imported too, by its name: whatever that does to the handlers is taken back.
    monkeypatch.setenv("HOSTILE_LOG", os.devnull)
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    module = importlib.import_module("tests.support.functions.hostile_logging")
    for each in logging.root.handlers:
        each.close()
    monkeypatch.undo()
    async with Pool("hostile logging", max_workers=1, env={"HOSTILE_LOG": str(path)}) as pool:
        await pool.run(module.log, "heard")
    assert [record.getMessage() for record in handler.records] == ["heard"]
    assert path.read_text() == ""


@pytest.mark.anyio
@one_loop
async def test_logging_that_an_initializer_sets_up_stays(handled: Any, tmp_path: Path) -> None:
    """A worker may have a log of its own; the server hears its records all the same."""
    handler = handled(lambda _: None)
    path = tmp_path / "log"
    async with Pool(
        "hostile initializer",
        max_workers=1,
        initializer=hostile_functions.log_to_a_file,
        initargs=(str(path),),
    ) as pool:
        await pool.run(hostile_functions.log, logging.WARNING)
        await pool.run(pool_functions.echo, 1)
        await pool.run(hostile_functions.log, logging.WARNING)
    assert path.read_text().count("record 0") == 2
    assert [record.getMessage() for record in handler.records].count("record 0") == 2


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(8)
async def test_record_that_was_cut_in_half_ends_its_worker(
    one_worker: Pool, entered: Fifo, handled: Any
) -> None:
    """What follows half a frame would be read as the rest of it: the caller is told, at once."""
    handled(lambda _: None)
    calling = asyncio.ensure_future(one_worker.run(hostile_functions.cut_a_record, entered.path))
    await asyncio.sleep(0)
    await asyncio.to_thread(entered.heard_now)
    time.sleep(0.6)  # noqa: ASYNC251 - the loop is busy, and the socket full
    with anyio.fail_after(PATIENCE):
        # The alarm may also come between two records.
        with contextlib.suppress(WorkerCrashedError):
            assert await calling == "late"
        assert await one_worker.run(pool_functions.echo, 1) == 1


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
@pytest.mark.holds_loop("that is the matter")
async def test_record_of_a_signal_handler_does_not_wait_for_its_own_thread(
    one_worker: Pool, entered: Fifo, handling: Any
) -> None:
    """It interrupts the sending of another record, and is sent after that."""
    records: list[logging.LogRecord] = []
    handling(records.append)
    calling = asyncio.ensure_future(
        call(one_worker, seam_functions.log_while_logging, entered.path, 400, timeout=PATIENCE / 2)
    )
    await entered.heard()
    time.sleep(0.5)  # noqa: ASYNC251 - nobody reads: the worker is stuck in the middle of a record
    ticks = await calling
    assert ticks > 0
    await until(lambda: len(records) == 400 + ticks)

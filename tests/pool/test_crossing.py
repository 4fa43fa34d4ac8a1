"""What crosses to the worker and back beside arguments and results, and when a call is not made."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import (
    ArgumentError,
    DeadlineError,
    Pool,
    QueueTimeoutError,
    RemoteError,
    TaskTimeoutError,
    WorkerCrashedError,
    offload,
    task_context,
)
from offload.errors import RemoteTraceback
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import bare as bare_functions
from tests.support.functions import crossing as functions
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, longer_and_longer, until

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


@pytest.fixture(scope="module")
def wide() -> Iterator[Pool]:
    """One pool of two workers."""
    pool = Pool("crossing wide", max_workers=2)
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


# --- context variables ---


@pytest.mark.anyio
class TestContext:
    @pytest.mark.guarantee(8)
    async def test_declared_variable_reaches_the_worker(self, pool: Pool) -> None:
        """The value that a declared variable has at the call is what the function sees."""
        functions.user.set("ada")
        functions.trace.set({"id": [1, 2]})
        assert await pool.run(functions.seen) == ("ada", {"id": [1, 2]}, "not set")

    async def test_unset_variable_stays_unset(self, pool: Pool) -> None:
        """A declared variable without a value has none in the worker: its default applies there."""
        assert await pool.run(functions.seen) == ("not set", "no trace", "not set")

    async def test_undeclared_variable_does_not_cross(self, pool: Pool) -> None:
        """What was not declared stays at home."""
        functions.undeclared.set("secret")
        assert (await pool.run(functions.seen))[2] == "not set"

    async def test_nothing_set_in_one_task_is_seen_by_the_next(self, pool: Pool) -> None:
        """Each task runs in a context of its own, declared or not."""
        functions.user.set("first")
        assert (await pool.run(functions.seen_and_changed, "dirt"))[0] == "first"
        assert (await pool.run(functions.seen)) == ("first", "no trace", "not set")

    async def test_concurrent_calls_keep_their_own_values(self, pool: Pool) -> None:
        """Two calls under way at once, from two tasks, each carry their own context."""
        found: dict[str, Any] = {}

        async def one(name: str) -> None:
            functions.user.set(name)
            found[name] = (await pool.run(functions.seen))[0]

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, f"user {number}")
        assert found == {name: name for name in found}
        assert len(found) == 20

    async def test_what_the_task_sets_does_not_come_back(self, pool: Pool) -> None:
        """The caller's variables are his own."""
        functions.user.set("mine")
        await pool.run(functions.seen_and_changed, "theirs")
        assert functions.user.get() == "mine"

    async def test_value_that_does_not_pickle_names_the_variable(self, pool: Pool) -> None:
        """A declared variable that holds a live object fails the call, and the error names it."""
        functions.trace.set(threading.Lock())
        with pytest.raises(ArgumentError, match=f"{HOME}:trace") as caught:
            await pool.run(functions.seen)
        assert "did not run" in str(caught.value)

    async def test_large_value_crosses(self, pool: Pool) -> None:
        """A value larger than a frame takes the way of large payloads."""
        functions.trace.set(b"x" * 300_000)
        assert (await pool.run(functions.seen))[1] == b"x" * 300_000


@pytest.mark.parametrize(
    "home, kind",
    [
        (f"{HOME}:nobody", ValueError),
        ("no.such.module:user", ValueError),
        ("nothing", ValueError),
        (":", ValueError),
        (f"{HOME}:", ValueError),
        (f"{HOME}:not_a_variable", TypeError),
    ],
)
def test_unknown_home_is_a_clear_error(home: str, kind: type[Exception]) -> None:
    """A variable that does not exist is found out at the first call, and named."""
    with temporary_pool(context_vars=[home]) as pool:
        with pytest.raises(kind, match="context_vars") as caught:
            asyncio.run(pool.run(functions.seen))
        assert repr(home) in str(caught.value)


def test_one_name_is_not_a_list_of_names() -> None:
    """A str, which is a list of letters to Python, is refused with what to write instead."""
    with pytest.raises(TypeError, match=r"not one str"):
        Pool("crossing refused", context_vars=f"{HOME}:user")  # type: ignore[arg-type]
    assert inside.known("crossing refused") is None


# --- log records ---


@pytest.mark.anyio
class TestLogs:
    @pytest.mark.guarantee(8)
    async def test_record_reaches_the_handlers_of_the_server(
        self, pool: Pool, records: Records
    ) -> None:
        """Name, level, text, the worker's process and the function are those of the record."""
        pid = await pool.run(functions.log, "hello %s", "world")
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
            await pool.run(functions.log, "unique")
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
            functions.log_levels_of,
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
            await pool.run(functions.log, "too low")
            await pool.run(functions.log, "high enough", level=logging.ERROR)
            await until(lambda: records.records)
        finally:
            logger.setLevel(logging.INFO)
        assert records.texts() == ["high enough"]

    async def test_exception_crosses_as_text(self, pool: Pool, records: Records) -> None:
        """`logger.exception` shows the worker's traceback; no live traceback crosses."""
        await pool.run(functions.log_exception)
        await until(lambda: records.records)
        (record,) = records.records
        assert record.exc_info is None
        assert record.exc_text is not None
        assert "in log_exception" in record.exc_text
        assert "ZeroDivisionError" in logging.Formatter().format(record)

    async def test_stack_crosses(self, pool: Pool, records: Records) -> None:
        """`stack_info=True` shows the worker's stack."""
        await pool.run(functions.log_stack)
        await until(lambda: records.records)
        assert "in log_stack" in str(records.records[0].stack_info)

    @pytest.mark.parametrize("kind", ["plain", "lock", "lambda", "nowhere", "huge"])
    async def test_extra_crosses_or_becomes_text(
        self, pool: Pool, records: Records, kind: str
    ) -> None:
        """An `extra` arrives as itself if it can, else as text: the record is never lost."""
        await pool.run(functions.log_extra, kind)
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
        await pool.run(functions.log_extra, "one way")
        await pool.run(functions.log, "next")
        await until(lambda: records.records)
        assert records.texts() == ["next"]
        assert "cannot be unpickled" in caplog.text

    async def test_huge_message_is_cut(self, pool: Pool, records: Records) -> None:
        """A message of megabytes is cut, and says so."""
        await pool.run(functions.log_huge, 5_000_000)
        await until(lambda: records.records)
        text = records.records[0].getMessage()
        assert len(text) < 20_000
        assert text.endswith("(cut)")

    async def test_threads_of_the_function_log_too(self, pool: Pool, records: Records) -> None:
        """Records of several threads arrive whole, each thread's in order."""
        await pool.run(functions.log_in_threads, 4, 50)
        await until(lambda: len(records.records) >= 200)
        seen: dict[str, list[int]] = {}
        for text in records.texts():
            number, _, index = text.partition(".")
            seen.setdefault(number, []).append(int(index))
        assert seen == {str(number): list(range(50)) for number in range(4)}

    @pytest.mark.guarantee(8)
    async def test_thousands_of_records_in_order(self, pool: Pool, records: Records) -> None:
        """Many records are all there, in order, and the result behind them."""
        assert await pool.run(functions.log_many, 3000) == 3000
        await until(lambda: len(records.records) >= 3000)
        assert records.texts() == [f"record {index}" for index in range(3000)]

    async def test_handlers_run_off_the_event_loop(self, pool: Pool, records: Records) -> None:
        """A handler that writes to a file or a socket does not hold the loop."""
        await pool.run(functions.log, "where am I")
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
                assert await pool.run(functions.log, "lost", name=logger.name)
            await pool.run(functions.log, "next")
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
        initializer=functions.log_when_initialized,
        initargs=(kind,),
    ) as pool:

        async def main() -> None:
            async with pool:
                await pool.run(functions.log, "ready")
                await until(lambda: "ready" in records.texts())

        asyncio.run(main())
    assert records.texts()[-1] == "ready"
    assert records.texts()[:-1] == ["initialized"] * (kind != "one way")


# --- progress ---


@pytest.mark.anyio
class TestProgress:
    async def test_progress_arrives_in_order_and_ends_with_all(self, pool: Pool) -> None:
        """Reports come in order, the last one says that all is done, and before the result."""
        reports: list[tuple[float, float | None]] = []

        def on_progress(done: float, total: float | None) -> None:
            reports.append((done, total))

        assert await call(pool, functions.report, 1000, on_progress=on_progress) == 1000
        assert reports == sorted(reports)
        assert reports[0] == (1, 1000)
        assert reports[-1] == (1000, 1000)

    async def test_often_reported_is_rarely_sent(self, pool: Pool) -> None:
        """A report in each of 100,000 steps costs neither the worker nor the loop."""
        reports: list[float] = []
        begin = time.monotonic()
        await call(pool, functions.report, 100_000, on_progress=lambda d, _: reports.append(d))
        assert len(reports) <= 3 + (time.monotonic() - begin) / 0.05

    async def test_progress_is_told_on_the_event_loop(self, pool: Pool) -> None:
        """The callback may touch what belongs to the loop: it runs on its thread."""
        threads: set[int] = set()
        await call(
            pool,
            functions.report,
            5,
            on_progress=lambda *_: threads.add(threading.get_ident()),
        )
        assert threads == {threading.get_ident()}

    async def test_failing_callback_costs_nothing(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callback that raises is logged; the call ends as if there were none."""

        def on_progress(done: float, total: float | None) -> None:
            raise ZeroDivisionError("by intent")

        assert await call(pool, functions.report, 3, on_progress=on_progress) == 3
        assert "on_progress" in caplog.text
        assert "by intent" in caplog.text

    async def test_total_may_be_unknown(self, pool: Pool) -> None:
        """Without a total the callback is told None."""
        reports: list[Any] = []
        await call(
            pool, functions.report_without_total, 10, on_progress=lambda *each: reports.append(each)
        )
        assert reports[0] == (0, None)

    async def test_progress_nobody_asked_for_is_dropped(self, pool: Pool) -> None:
        """A function that reports may be called without a callback."""
        assert await call(pool, functions.report, 10) == 10

    async def test_large_numbers_cross(self, pool: Pool) -> None:
        """What is reported is any number that pickles."""
        reports: list[Any] = []
        await call(
            pool, functions.report_odd, 10**40, on_progress=lambda *each: reports.append(each)
        )
        assert reports == [(10**40, 10**40)]


# --- the current task ---


@pytest.mark.anyio
class TestCurrentTask:
    async def test_outside_of_workers_there_is_none(self) -> None:
        """In the server no code runs in a task."""
        assert task_context() is None

    async def test_function_and_no_deadline(self, pool: Pool) -> None:
        """Without a timeout there is no deadline."""
        assert await pool.run(functions.facts) == (f"{HOME}:facts", None, False)

    async def test_timeout_is_the_tasks_deadline(self, pool: Pool) -> None:
        """The function can see until when it may run."""
        _, left, _ = await call(pool, functions.facts, timeout=3600.0)
        assert 3600.0 - PATIENCE < left <= 3600.0

    async def test_deadline_is_the_tasks_deadline(self, pool: Pool) -> None:
        """A deadline of the call is the task's, if it comes before the timeout."""
        deadline = time.monotonic() + 1800.0
        _, left, _ = await call(pool, functions.facts, timeout=3600.0, deadline=deadline)
        assert 1800.0 - PATIENCE < left <= 1800.0

    async def test_deadline_counts_the_time_in_the_queue(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A task that waited has that much less of its deadline left, and can see it."""
        found: list[Any] = []

        async def waiting() -> None:
            found.append(await call(pool, functions.facts, deadline=time.monotonic() + 1800.0))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(call, pool, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                group.start_soon(waiting)
                await until(lambda: pool.statistics().queued)
                begin = time.monotonic()
                await until(lambda: time.monotonic() > begin + 0.2)
                gate.let()
        assert 1800.0 - PATIENCE < found[0][1] < 1799.8

    async def test_deadline_crosses_with_a_large_argument(self, pool: Pool) -> None:
        """The way of large payloads carries the deadline as well."""
        _, left, _ = await call(pool, functions.facts, b"x" * 200_000, timeout=3600.0)
        assert 3600.0 - PATIENCE < left <= 3600.0

    async def test_cancelled_is_seen_by_the_function(self, pool: Pool, entered: Fifo) -> None:
        """A function with grace sees that nobody waits, ends by itself, and its worker lives."""
        pid = await pool.run(pool_functions.pid)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:

                async def waiting() -> None:
                    await call(
                        pool, pool_functions.hold_until_cancelled, entered.path, grace=PATIENCE
                    )

                group.start_soon(waiting)
                await entered.heard()
                group.cancel_scope.cancel()
            await until(lambda: not pool.statistics().leaving)
            assert await pool.run(pool_functions.pid) == pid
            assert not (await pool.run(functions.facts))[2]

    async def test_threads_of_the_function_are_not_in_a_task(self, pool: Pool) -> None:
        """A new thread has no context: the task is its starter's."""
        assert await pool.run(functions.task_in_thread) is None


# --- exceptions ---


@pytest.mark.anyio
class TestExceptions:
    @pytest.mark.guarantee(8)
    async def test_type_arguments_notes_and_attributes_stay(self, pool: Pool) -> None:
        """An exception is raised here as it was raised there."""
        with pytest.raises(functions.Detailed) as caught:
            await pool.run(functions.raise_detailed)
        error = caught.value
        assert error.args == (42,)
        assert (error.code, error.hint) == (42, "look here")
        assert error.__notes__ == ["a note of the worker"]
        assert isinstance(error.__cause__, RemoteTraceback)
        assert "in raise_detailed" in str(error.__cause__)
        assert "a note of the worker" in str(error.__cause__)

    @pytest.mark.guarantee(8)
    async def test_causes_are_in_the_text(self, pool: Pool) -> None:
        """The worker's whole chain of exceptions is shown."""
        with pytest.raises(ValueError, match="effect") as caught:
            await pool.run(functions.raise_chained)
        assert caught.value.args == ("the effect", 2)
        text = str(caught.value.__cause__)
        assert "KeyError: 'the cause'" in text
        assert "direct cause" in text

    async def test_groups_stay_groups(self, pool: Pool) -> None:
        """`except*` works on what a function raised."""
        found: list[int] = []
        try:
            await pool.run(functions.raise_group)
        except* FileNotFoundError as group:
            found += [each.errno for each in group.exceptions]  # type: ignore[union-attr]
        except* ValueError as group:
            found += [len(group.exceptions)]
        assert sorted(found) == [1, 2]

    async def test_large_exception_crosses(self, pool: Pool) -> None:
        """An exception larger than a frame keeps its type and all of its text."""
        with pytest.raises(functions.Large) as caught:
            await pool.run(functions.raise_large, 1_000_000)
        assert len(str(caught.value)) == 1_000_000

    @pytest.mark.guarantee(5)
    async def test_unpicklable_exception_is_told_by_name(self, pool: Pool) -> None:
        """What cannot cross is a RemoteError with type, text and traceback."""
        with pytest.raises(RemoteError, match="ValueError") as caught:
            await pool.run(functions.raise_unpicklable)
        assert caught.value.type_name == "ValueError"
        assert "in raise_unpicklable" in caught.value.remote_traceback


# --- deadlines ---


@pytest.mark.anyio
class TestDeadlines:
    async def test_passed_deadline_is_refused_at_once(self, pool: Pool, tmp_path: Path) -> None:
        """A call that is too late already does not start, though a worker is idle."""
        trace = tmp_path / "ran"
        with pytest.raises(DeadlineError, match="did not run") as caught:
            await call(
                pool, pool_functions.note, str(trace), "ran", deadline=time.monotonic() - 1.0
            )
        assert caught.value.may_have_run is False
        await pool.run(pool_functions.pid)
        assert not trace.exists()

    @pytest.mark.parametrize("size", [0, 200_000])
    async def test_deadline_stops_a_running_call(
        self, wide: Pool, entered: Fifo, gate: Fifo, size: int
    ) -> None:
        """A call that runs at its deadline is stopped then, and the error says that it ran."""
        for seconds in longer_and_longer(0.3):
            deadline = time.monotonic() + seconds
            with pytest.raises(DeadlineError) as caught:
                await call(
                    wide,
                    pool_functions.hold,
                    entered.path,
                    gate.path,
                    b"x" * size,
                    deadline=deadline,
                )
            assert time.monotonic() > deadline - 0.05
            assert caught.value.deadline == deadline
            if entered.rest():
                break
        assert caught.value.may_have_run is True
        assert "ran in part" in str(caught.value)

    async def test_deadline_is_told_from_timeout(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whichever comes first is the error, on every event loop's clock."""
        for index in range(8):
            with pytest.raises(DeadlineError):
                await call(
                    wide,
                    pool_functions.hold,
                    entered.path,
                    gate.path,
                    deadline=time.monotonic() + 0.0303 + index * 0.0007,
                )
        with pytest.raises(TaskTimeoutError, match=r"0\.05 s"):
            await call(
                wide,
                functions.spin,
                30.0,
                timeout=0.05,
                deadline=time.monotonic() + 60.0,
            )

    @pytest.mark.guarantee(6)
    async def test_deadline_in_the_queue_never_runs(
        self, pool: Pool, entered: Fifo, gate: Fifo, tmp_path: Path
    ) -> None:
        """A call that waits past its deadline is not started, and told so at its deadline."""
        trace = tmp_path / "ran"
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                deadline = time.monotonic() + 0.2
                with pytest.raises(DeadlineError, match="did not run") as caught:
                    await call(pool, pool_functions.note, str(trace), "ran", deadline=deadline)
                gate.let()
        assert caught.value.may_have_run is False
        await pool.run(pool_functions.pid)
        assert not trace.exists()
        assert pool.statistics().queued == 0

    async def test_deadline_is_told_from_queue_timeout(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """The limit that ended the wait is the one in the error."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                for index in range(5):
                    deadline = time.monotonic() + 0.0203 + index * 0.0007
                    with pytest.raises(DeadlineError):
                        await call(pool, pool_functions.pid, deadline=deadline)
                    with pytest.raises(QueueTimeoutError, match=r"0\.02 s"):
                        await call(
                            pool,
                            pool_functions.pid,
                            queue_timeout=0.02,
                            deadline=time.monotonic() + 60.0,
                        )
                gate.let()

    async def test_too_long_a_queue_is_not_a_missed_deadline(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A far deadline is not blamed for a short queue timeout, however long the queue."""
        for _ in range(3):
            await pool.run(functions.spin, 0.2)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                for _ in range(3):
                    group.start_soon(pool.run, pool_functions.pid)
                await until(lambda: pool.statistics().queued == 3)
                with pytest.raises(QueueTimeoutError):
                    await call(
                        pool,
                        pool_functions.pid,
                        queue_timeout=0.01,
                        deadline=time.monotonic() + 3600.0,
                    )
                gate.let()

    @pytest.mark.guarantee(6)
    async def test_deadline_that_cannot_be_met_is_not_started(self, pool: Pool) -> None:
        """Going by how long the function takes, a call that cannot end in time is refused."""
        for _ in range(2):
            await pool.run(functions.spin, 0.3)
        # A worker is free: whoever tried would have begun.
        with pytest.raises(DeadlineError, match="did not run") as caught:
            await call(pool, functions.spin, 0.3, deadline=time.monotonic() + 0.1)
        assert caught.value.may_have_run is False
        assert await call(pool, functions.spin, 0.3, deadline=time.monotonic() + 60.0) == 0.3

    async def test_one_slow_run_does_not_refuse_for_ever(self, pool: Pool, tmp_path: Path) -> None:
        """A first run that took long is forgotten: a function that is fast now is tried again."""
        flag = str(tmp_path / "slow")
        assert await pool.run(functions.slow_once, flag, 0.5)
        refused = 0
        while True:
            try:
                await call(pool, functions.slow_once, flag, 0.0, deadline=time.monotonic() + 0.25)
            except DeadlineError:
                refused += 1
                assert refused < 200
            else:
                break


# --- max_crash_retries ---


@pytest.mark.anyio
class TestRetryOnCrash:
    @pytest.mark.guarantee(3)
    async def test_poison_stops_at_its_limit(self, wide: Pool, tmp_path: Path) -> None:
        """An input that kills every worker is tried once and as often again as allowed."""
        trace = tmp_path / "runs"
        with pytest.raises(WorkerCrashedError) as caught:
            await call(wide, functions.poison, str(trace), max_crash_retries=2)
        assert caught.value.may_have_run
        pids = trace.read_text().split()
        assert len(pids) == len(set(pids)) == 3
        assert caught.value.pid == int(pids[-1])

    async def test_crash_is_retried(self, wide: Pool, tmp_path: Path) -> None:
        """A call whose worker dies twice ends with its result, if it may run three times."""
        assert await call(
            wide, functions.crash_times, str(tmp_path / "runs"), 2, max_crash_retries=2
        )

    async def test_large_arguments_are_sent_again(self, wide: Pool, tmp_path: Path) -> None:
        """The arguments of a large call are kept for its next run, and then freed."""
        size = 5_000_000
        runs = await call(
            wide,
            functions.crash_times_with,
            b"x" * size,
            str(tmp_path / "runs"),
            1,
            max_crash_retries=1,
        )
        assert runs == 2 * size

    async def test_without_the_option_nothing_runs_twice(self, wide: Pool, tmp_path: Path) -> None:
        """By default a call whose worker died has failed."""
        trace = tmp_path / "runs"
        with pytest.raises(WorkerCrashedError):
            await call(wide, functions.poison, str(trace))
        assert len(trace.read_text().split()) == 1

    @pytest.mark.guarantee(5)
    async def test_retry_that_is_refused_says_that_it_ran(
        self, entered: Fifo, gate: Fifo, tmp_path: Path
    ) -> None:
        """A crash that is not retried in time is a crash: not an error that says "did not run"."""
        caught: list[BaseException] = []

        async def crashing(pool: Pool, crash: str) -> None:
            with pytest.raises(WorkerCrashedError) as error:
                await call(
                    pool,
                    functions.hold_and_crash,
                    entered.path,
                    crash,
                    max_crash_retries=1,
                    queue_timeout=0.2,
                )
            caught.append(error.value)

        with Fifo(tmp_path / "crash") as crash, anyio.fail_after(PATIENCE):
            async with (
                Pool("crossing temporary", max_workers=1) as pool,
                anyio.create_task_group() as group,
            ):
                group.start_soon(crashing, pool, crash.path)
                await entered.heard()

                async def hold() -> None:
                    await call(pool, pool_functions.hold, entered.path, gate.path, priority=1)

                group.start_soon(hold)
                await until(lambda: pool.statistics().queued)
                crash.let()
                await entered.heard()
                await until(lambda: caught)
                gate.let()
        assert caught[0].may_have_run  # type: ignore[attr-defined]
        assert isinstance(caught[0].__cause__, QueueTimeoutError)


# --- shared runs ---


async def gather(*coroutines: Any) -> list[Any]:
    """Await all at once, on any event loop; return results and exceptions in order."""
    found: list[Any] = [None] * len(coroutines)

    async def one(index: int, coroutine: Any) -> None:
        try:
            found[index] = await coroutine
        except Exception as error:  # noqa: BLE001 - returned
            found[index] = error

    async with anyio.create_task_group() as group:
        for index, coroutine in enumerate(coroutines):
            group.start_soon(one, index, coroutine)
    return found


class Caller:
    """A call in a task of its own, to be cancelled by itself."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine
        self.scope = anyio.CancelScope()
        self.result: Any = None
        self.error: BaseException | None = None
        self.has_ended = False

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.result = await self.coroutine
            except Exception as error:  # noqa: BLE001 - kept
                self.error = error
        self.has_ended = True


@pytest.mark.anyio
class TestCoalesce:
    def shared(self, pool: Pool, function: Any, *args: Any, **options: Any) -> Any:
        return call(pool, function, *args, single_flight=True, **options)

    async def joined(self, pool: Pool, count: int, entered: Fifo) -> None:
        """Wait for the run that so many callers wait for; under trio each comes by itself."""
        await entered.heard()
        await until(lambda: sum(inside.callers_of_flights(pool)) == count)

    async def test_identical_calls_share_one_run(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """N identical calls under way at once are one run, and each has a copy of its own."""
        before = wide.statistics().completed
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, functions.run_and_hold, entered.path, gate.path, {"list": [1]}
                        )
                    )
                    for _ in range(10)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [caller.result for caller in callers] == [{"list": [1]}] * 10
        assert len({id(caller.result["list"]) for caller in callers}) == 10
        assert wide.statistics().completed == before + 1
        assert entered.rest() == []

    async def test_calls_after_the_end_run_anew(self, wide: Pool) -> None:
        """What is shared is a run under way, not a result: this is no cache."""
        before = wide.statistics().completed
        for _ in range(3):
            await self.shared(wide, pool_functions.pid)
        assert wide.statistics().completed == before + 3

    async def test_each_caller_is_told_how_far_the_shared_run_is(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whoever asks with `on_progress` is told, and a callback that fails stays its caller's."""
        told: list[tuple[str, float, float | None]] = []

        def fail(done: float, total: float | None) -> None:
            raise RuntimeError("a callback that fails")

        callbacks = [fail, None, lambda *far: told.append(("third", *far))]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide,
                            functions.report_and_hold,
                            entered.path,
                            gate.path,
                            on_progress=callback,
                        )
                    )
                    for callback in callbacks
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [caller.result for caller in callers] == ["done"] * 3
        assert told == [("third", 1, 1)]

    async def test_different_arguments_are_not_shared(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Another argument is another call."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.run_and_hold, entered.path, gate.path, each))
                    for each in ("a", "b")
                ]
                for caller in callers:
                    group.start_soon(caller)
                for _ in callers:
                    await entered.heard()
                gate.let(2)
        assert [caller.result for caller in callers] == ["a", "b"]

    async def test_uncoalesced_calls_do_not_join(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Only calls that ask for it share."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                arguments = (entered.path, gate.path, 1)
                group.start_soon(Caller(self.shared(wide, functions.run_and_hold, *arguments)))
                group.start_soon(Caller(call(wide, functions.run_and_hold, *arguments)))
                for _ in range(2):
                    await entered.heard()
                gate.let(2)

    @pytest.mark.parametrize("who", [0, 1])
    async def test_one_callers_leave_is_not_that_of_the_others(
        self, wide: Pool, entered: Fifo, gate: Fifo, who: int
    ) -> None:
        """Whoever began the run may leave as any other: it goes on for those who wait."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.run_and_hold, entered.path, gate.path, 5))
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[who].scope.cancel()
                await until(lambda: callers[who].has_ended)
                gate.let()
        assert [caller.result for caller in callers] == [None if i == who else 5 for i in range(3)]
        assert entered.rest() == []

    async def test_last_callers_leave_stops_the_run(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """When nobody waits any more the run is stopped, as any call's."""
        cancelled = wide.statistics().cancelled
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.run_and_hold, entered.path, gate.path, 5))
                    for _ in range(2)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[0].scope.cancel()
                await until(lambda: callers[0].has_ended)
                assert wide.statistics().cancelled == cancelled
                callers[1].scope.cancel()
            await until(lambda: not wide.statistics().busy)
        assert wide.statistics().cancelled == cancelled + 1

    async def test_who_comes_when_the_last_one_leaves_gets_a_run(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A call that arrives while the run of others is being stopped is not cancelled with it."""
        with anyio.fail_after(PATIENCE):
            for _ in range(5):
                async with anyio.create_task_group() as group:
                    arguments = (functions.run_and_hold, entered.path, gate.path, 5)
                    first = Caller(self.shared(wide, *arguments))
                    group.start_soon(first)
                    await entered.heard()
                    first.scope.cancel()
                    second = Caller(self.shared(wide, *arguments))
                    group.start_soon(second)
                    third = Caller(self.shared(wide, *arguments))
                    while not first.has_ended:
                        await anyio.lowlevel.checkpoint()
                    group.start_soon(third)
                    gate.let(3)
                assert (second.result, third.result) == (5, 5)
                # Two runs or three, as it happens: take back what is left.
                await until(lambda: not wide.statistics().busy)
                entered.rest()
                gate.take_back()

    async def test_exception_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """All callers of a run that fails are told, each with an exception of its own."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.raise_and_hold, entered.path, gate.path))
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [type(caller.error) for caller in callers] == [functions.Detailed] * 3
        assert len({id(caller.error) for caller in callers}) == 3

    async def test_crash_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """A crash is one crash, however many wait."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.hold_and_crash, entered.path, gate.path))
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [type(caller.error) for caller in callers] == [WorkerCrashedError] * 3
        assert entered.rest() == []

    async def test_large_result_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """A result that comes in a file is read by each caller; no descriptor stays."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(self.shared(wide, functions.make, 3_000_000, entered.path, gate.path))
                    for _ in range(5)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[0].scope.cancel()
                gate.let()
        results = [caller.result for caller in callers[1:]]
        assert len({pid for pid, _ in results}) == 1
        assert all(part == bytes(3_000_000) for _, (part,) in results)
        await until(lambda: not open_files())

    async def test_large_result_that_everybody_left_is_freed(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whenever the callers leave, the file of the result is closed."""
        with anyio.fail_after(PATIENCE):
            for pause in (0.0, 0.001, 0.002, 0.005, 0.01):
                async with anyio.create_task_group() as group:
                    callers = [
                        Caller(
                            self.shared(wide, functions.make, 1_000_000, entered.path, gate.path)
                        )
                        for _ in range(3)
                    ]
                    for caller in callers:
                        group.start_soon(caller)
                    await self.joined(wide, len(callers), entered)
                    gate.let()
                    await anyio.sleep(pause)
                    group.cancel_scope.cancel()
                await until(lambda: not wide.statistics().busy)
                gate.take_back()
        await until(lambda: not open_files())

    async def test_deadline_does_not_keep_calls_from_sharing(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Identical calls with the same deadline are identical."""
        deadline = time.monotonic() + 60.0
        before = wide.statistics().completed
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    coroutine = self.shared(
                        wide, functions.run_and_hold, entered.path, gate.path, 5, deadline=deadline
                    )
                    group.start_soon(Caller(coroutine))
                await self.joined(wide, 2, entered)
                gate.let(2)
        assert wide.statistics().completed == before + 1
        entered.rest()
        gate.take_back()


def test_two_event_loops_share_nothing_and_lose_nothing() -> None:
    """Identical calls from two loops are two runs at most at once, and all have their results."""
    with temporary_pool(max_workers=2) as pool:
        results: Counter[int] = Counter()

        async def main() -> None:
            for _ in range(20):
                found = await asyncio.gather(
                    *(
                        call(pool, functions.make_bytes, 100_000, single_flight=True)
                        for _ in range(10)
                    )
                )
                results.update(len(each) for each in found)

        asyncio.run(pool.open())
        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {100_000: 400}
        assert pool.statistics().completed < 200
        asyncio.run(pool.aclose())


@offload(single_flight=True)
def decorated() -> int:
    """Tell where it ran."""
    return os.getpid()


def test_decorated_function_coalesces() -> None:
    """`single_flight=True` of the decorator holds for each call."""

    async def main() -> set[int]:
        pool = Pool.named()
        await pool.open()
        before = pool.statistics().completed
        found = await asyncio.gather(*(decorated() for _ in range(20)))
        assert pool.statistics().completed == before + 1
        await pool.aclose()
        return set(found)

    assert len(asyncio.run(main())) == 1

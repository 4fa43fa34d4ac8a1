"""Tasks that are killed, workers that are recycled, and pools that are drained by hand."""

import datetime as dt
import enum
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from offload import Pool, PoolClosedError, QueueFullError, TaskKilledError
from offload._pool.argument_text import argument_text
from tests.support import inside
from tests.support.functions import pool as pool_functions
from tests.support.processes import Fifo, gone, until

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: all of this is the same on every one."""
    return "asyncio"


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """One worker, so that what waits is known."""
    pool = Pool("books", max_workers=1, max_queued=1, os_priority="normal")
    async with pool:
        yield pool
    inside.forget(pool)


def account(pool: Pool, function: Callable[..., Any]) -> Any:
    """Return what a pool knows of one function."""
    name = f"{function.__module__}:{function.__qualname__}"
    return next(each for each in pool.statistics().functions if each.name == name)


async def worker_of(pool: Pool, state: str) -> int:
    """Return the process id of the worker in this state, when there is one."""

    def found() -> list[int]:
        return [each.pid for each in pool.statistics().workers if each.state == state and each.pid]

    await until(found)
    return found()[0]


async def test_task_stopped_by_hand_tells_its_caller(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`kill_task` ends one task; its caller hears who did it, and the pool goes on."""
    entered, gate = fifo("entered"), fifo("gate")
    errors: list[TaskKilledError] = []

    async def call() -> None:
        with pytest.raises(TaskKilledError) as caught:
            await pool.run(pool_functions.hold, entered.path, gate.path)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.kill_task(pid)
    assert errors[0].pid == pid
    assert "ran in part" in str(errors[0])
    await gone(pid)
    assert await pool.run(pool_functions.echo, 1) == 1
    assert account(pool, pool_functions.hold).cancelled == 1
    assert not pool.kill_task(pid)


async def test_idle_worker_is_recycled_at_once(pool: Pool) -> None:
    """`recycle` of a worker that does nothing ends it and starts another in its place."""
    pid = await worker_of(pool, "idle")
    before = pool.statistics()
    assert pool.recycle(pid)
    await gone(pid)
    await until(lambda: len(pool.statistics().workers) == len(before.workers))
    assert pool.statistics().recycled == 1
    assert not pool.recycle(pid)


async def test_busy_worker_is_recycled_after_its_task(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`recycle` of a worker that runs a task lets the task end first."""
    entered, gate = fifo("entered"), fifo("gate")
    results: list[tuple[None, int]] = []

    async def call() -> None:
        results.append(await pool.run(pool_functions.hold, entered.path, gate.path))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.recycle(pid)
        (worker,) = [each for each in pool.statistics().workers if each.pid == pid]
        assert (worker.state, worker.recycling) == ("busy", True)
        gate.let()
    assert results == [(None, pid)]
    await gone(pid)
    assert await pool.run(pool_functions.pid) != pid


async def test_drain_by_hand_refuses_new_calls_until_opened(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`drain` lets what is there end, refuses what is new, and `open` takes it back."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        pool.stop_accepting()
        assert pool.statistics().state == "draining"
        with pytest.raises(PoolClosedError):
            await pool.run(pool_functions.echo, 1)
        gate.let()
    assert account(pool, pool_functions.hold).completed == 1
    await pool.open()
    assert await pool.run(pool_functions.echo, 1) == 1


async def test_by_hand_nothing_happens_to_a_pool_that_is_not_open() -> None:
    """A pool without workers has nothing to stop, and says so."""
    pool = Pool("not open")
    try:
        pool.stop_accepting()
        assert not pool.kill_task(1)
        assert not pool.recycle(1)
        assert pool.statistics().state == "new"
        assert pool in Pool.all()
    finally:
        inside.forget(pool)


_asked_by: ContextVar[str] = ContextVar("asked_by")


async def test_tasks_are_told_in_the_order_in_which_they_are_served(
    new_pool: Callable[..., Pool], fifo: Callable[[str], Fifo]
) -> None:
    """What runs comes first, then what waits, by priority and arrival, as many as are asked for."""
    entered, gate = fifo("entered"), fifo("gate")
    async with new_pool(max_workers=1) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        pid = await entered.heard()
        for number, priority in enumerate((0, 0, 5)):
            _asked_by.set(f"caller {number}")
            view = pool.options(priority=priority)
            group.start_soon(view.run, pool_functions.echo, number)
            await until(lambda number=number: pool.statistics().queued == number + 1)
        told = pool.tasks()
        few = pool.tasks(limit=1)
        (worker,) = [each for each in pool.statistics().workers if each.task_id]
        gate.let()
    first, *waiting = told

    assert (first.state, first.pid, first.id) == ("running", pid, worker.task_id)
    assert first.function == "tests.support.functions.pool:hold"
    assert first.run_seconds is not None
    assert [each.state for each in waiting] == ["waiting"] * 3
    assert [each.priority for each in waiting] == [5, 0, 0]
    assert [each.context[_asked_by] for each in waiting] == ["caller 2", "caller 0", "caller 1"]
    assert [each.id for each in few] == [first.id, waiting[0].id]
    assert [each.arguments for each in told] == [None] * 4, "nobody has asked to show them"
    assert pool.tasks() == ()


async def test_task_that_waits_is_stopped_by_hand(
    new_pool: Callable[..., Pool], fifo: Callable[[str], Fifo]
) -> None:
    """`stop_task` takes one task out of the queue, which never runs, and leaves the others."""
    entered, gate = fifo("entered"), fifo("gate")
    errors: list[TaskKilledError] = []
    results: list[int] = []
    async with new_pool(max_workers=1) as pool, anyio.create_task_group() as group:

        async def echo(number: int) -> None:
            try:
                results.append(await pool.run(pool_functions.echo, number))
            except TaskKilledError as error:
                errors.append(error)

        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        for number in range(2):
            group.start_soon(echo, number)
            await until(lambda number=number: pool.statistics().queued == number + 1)
        _, first, _ = pool.tasks()
        was_stopped = [pool.stop_task(first.id), pool.stop_task(first.id)]
        of_others = [pool.stop_task(f"x{first.id}"), pool.stop_task("1"), pool.stop_task("")]
        gate.let()

    assert was_stopped == [True, False]
    assert not any(of_others)
    assert results == [1]
    assert [(error.may_have_run, error.pid) for error in errors] == [(False, None)]
    assert "while it waited" in str(errors[0])


async def test_task_that_runs_is_stopped_by_its_id(pool: Pool, fifo: Callable[[str], Fifo]) -> None:
    """`stop_task` ends what runs as well; its worker is replaced."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(TaskKilledError, match="ran in part"):
                await pool.run(pool_functions.hold, entered.path, gate.path)

        group.start_soon(call)
        await entered.heard()
        (task,) = pool.tasks()
        assert pool.stop_task(task.id)


async def test_progress_of_a_task_is_told_to_who_looks(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """What a function reports is seen from outside, whether its caller listens or not."""
    gate = fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.report_and_hold, gate.path)
        await until(lambda: [each.progress for each in pool.tasks()] == [(1.0, 4.0)])
        (worker,) = [each for each in pool.statistics().workers if each.task_id]
        gate.let()

    assert worker.progress == (1.0, 4.0)


async def test_arguments_are_shown_where_the_pool_was_told_to(
    new_pool: Callable[..., Pool], fifo: Callable[[str], Fifo]
) -> None:
    """With `show_arguments` those of a task can be seen while it waits or runs."""
    entered, gate = fifo("entered"), fifo("gate")
    pool = new_pool(max_workers=1, show_arguments=True)
    async with pool, anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        group.start_soon(pool.run, pool_functions.echo, "secret")
        await until(lambda: pool.statistics().queued)
        told = [each.arguments for each in pool.tasks()]
        gate.let()

    assert told == [f"{entered.path!r}, {gate.path!r}", "'secret'"]


class Talkative:
    """An argument whose own text must not be asked for."""

    def __repr__(self) -> str:
        """Fail the test."""
        raise AssertionError


class Colour(enum.Enum):
    """An argument that has a name."""

    RED = Talkative()


@pytest.mark.parametrize(
    "arguments, keywords, text",
    [
        ((1, "a", None), {"b": [2.5, True]}, "1, 'a', None, b=[2.5, True]"),
        ((Talkative(),), {}, f"<{__name__}.Talkative>"),
        (([Talkative()],), {}, f"[<{__name__}.Talkative>]"),
        ((Colour.RED,), {}, "Colour.RED"),
        ((dt.date(2026, 11, 30),), {}, "datetime.date(2026, 11, 30)"),
        ((b"x" * 1000,), {}, f"{b'x' * 40!r}… (1,000 bytes)"),
    ],
)
def test_arguments_are_put_into_words_without_code_of_theirs(
    arguments: tuple[Any, ...], keywords: dict[str, Any], text: str
) -> None:
    """Values of standard types are written as they are; of every other one, its type."""
    assert argument_text(arguments, keywords) == text


def test_text_of_arguments_is_bounded() -> None:
    """However large the arguments are, a thousand characters of them are shown."""
    nested: list[Any] = []
    nested.append(nested)
    assert len(argument_text(("x" * 10**6, list(range(10**5)), nested), {})) <= 1000
    assert len(argument_text(("x" * 100,) * 100, {})) == 1000


async def test_limits_are_changed_while_tasks_run(pool: Pool, fifo: Callable[[str], Fifo]) -> None:
    """More workers take what waits at once; a shorter queue refuses what is new, and only that."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        pool.set_limits(max_queued=2)
        for _ in range(2):
            group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await until(lambda: pool.statistics().queued == 2)
        pool.set_limits(max_queued=0)
        with pytest.raises(QueueFullError):
            await pool.run(pool_functions.echo, 1)
        assert pool.statistics().queued == 2, "what waits stays"
        pool.set_limits(max_workers=2)
        await entered.heard()
        await until(lambda: pool.statistics().busy == 2)
        pool.set_limits(max_workers=1)
        now = pool.statistics()
        assert (now.busy, now.max_workers, now.max_queued) == (2, 1, 0), "what runs goes on"
        gate.let(3)
    assert account(pool, pool_functions.hold).completed == 3


async def test_limits_hold_for_later_periods(new_pool: Callable[..., Pool]) -> None:
    """Limits that were changed are those of the pool, before it is opened and after it was."""
    pool = new_pool(max_workers=1)
    pool.set_limits(max_workers=3, max_queued=7)
    told = []
    for _ in range(2):
        async with pool:
            told.append((pool.statistics().max_workers, pool.statistics().max_queued))
        told.append((pool.statistics().max_workers, pool.statistics().max_queued))
    assert told == [(3, 7)] * 4


@pytest.mark.parametrize(
    "limits, error",
    [
        ({"max_workers": 1}, ValueError),
        ({"max_workers": None}, TypeError),
        ({"max_workers": True}, TypeError),
        ({"max_queued": -1}, ValueError),
        ({"max_queued": 1.5}, TypeError),
    ],
)
def test_wrong_limits_are_refused(
    new_pool: Callable[..., Pool], limits: dict[str, Any], error: type[Exception]
) -> None:
    """A limit that no pool could have changes nothing."""
    pool = new_pool(min_workers=2, max_workers=2, max_queued=5)
    with pytest.raises(error):
        pool.set_limits(**{"max_workers": 4, "max_queued": 9} | limits)
    now = pool.statistics()
    assert (now.max_workers, now.max_queued) == (2, 5)

"""Closing and killing a pool: every caller is told, and nothing is left."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from offload import Pool, PoolClosedError
from tests.support import inside
from tests.support.calls import Held
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as pool_functions
from tests.support.functions import races as race_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, parent_of, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.mark.anyio
async def test_closed_pool_refuses_and_can_be_opened_again(new_pool: Callable[..., Pool]) -> None:
    """A call on a closed pool fails, and starts nothing; `open` makes the pool new."""
    pool = new_pool(max_workers=1)
    first = await pool.run(pool_functions.pid)
    await pool.aclose()
    assert pool.statistics().state == "closed"
    with pytest.raises(PoolClosedError, match="did not run") as caught:
        await pool.run(pool_functions.pid)
    assert not caught.value.may_have_run
    assert not is_alive(first)
    async with pool:
        assert pool.statistics().state == "open"
        assert await pool.run(pool_functions.pid) != first
    assert pool.statistics().state == "closed"


@pytest.mark.anyio
async def test_close_lets_running_and_queued_calls_end(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """While a pool drains it refuses new calls, and those that it has accepted end well."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            async with anyio.create_task_group() as closing:
                closing.start_soon(partial(pool.aclose, drain=None))
                await until(lambda: pool.statistics().state == "draining")
                with pytest.raises(PoolClosedError):
                    await pool.run(pool_functions.pid)
                gate.let(2)
    assert [value for value, _ in held.results] == [None, None]
    assert pool.statistics().state == "closed"


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_close_kills_what_outlives_the_drain(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """After `drain` seconds running and queued calls fail, each with whether it may have run."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            await pool.aclose(drain=0.05)
            assert not is_alive(pid)
            await until(lambda: len(held.results) == 2)
            group.cancel_scope.cancel()
    assert {type(error) for error in held.results} == {PoolClosedError}
    assert {error.may_have_run for error in held.results} == {True, False}


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_cancelled_close_kills_at_once(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A server that has no time to drain leaves nothing behind all the same."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start()
            supervisor = parent_of(pid)
            with anyio.move_on_after(0.05) as scope:
                await pool.aclose(drain=None)
            assert scope.cancelled_caught
            # When it returns, on every event loop.
            assert not is_alive(pid)
            await until(lambda: held.results)
        await gone(pid, supervisor)
    (error,) = held.results
    assert isinstance(error, PoolClosedError)


@pytest.mark.anyio
async def test_exception_closes_at_once(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """`async with` does not wait for calls when it is left by an exception."""
    began = time.monotonic()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with new_pool(max_workers=1) as pool, anyio.create_task_group() as group:
            group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
            await entered.heard()
            raise LookupError
    assert caught.group_contains(LookupError)
    assert time.monotonic() - began < PATIENCE
    assert pool.statistics().state == "closed"


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_kill_from_any_thread_ends_everything(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """`kill` needs no event loop, and its future tells when nothing is left."""
    pool = new_pool(max_workers=1)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        (pid,) = await held.start()
        await anyio.to_thread.run_sync(lambda: pool.kill().result(PATIENCE))
        assert not is_alive(pid)
    assert isinstance(held.results[0], PoolClosedError)


@pytest.mark.guarantee(7)
@pytest.mark.anyio
@pytest.mark.holds_loop("it waits for the end of workers on the very loop that they work for")
async def test_kill_may_be_awaited_by_blocking_the_loop(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """Whoever waits for the end by blocking the loop that the workers were used on gets it."""
    pool = new_pool(max_workers=2)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        (pid,) = await held.start()
        await pool.run(pool_functions.pid)
        pool.kill().result(PATIENCE)
        assert not is_alive(pid)
    assert isinstance(held.results[0], PoolClosedError)


@pytest.mark.anyio
async def test_everybody_who_closes_waits_for_the_end(new_pool: Callable[..., Pool]) -> None:
    """To close twice, or at the same time, is no error."""
    pool = new_pool(max_workers=1)
    pid = await pool.run(pool_functions.pid)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(pool.aclose)
    assert not is_alive(pid)
    await pool.aclose()
    await new_pool().aclose()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_close_with_replies_unread_tells_every_caller() -> None:
    """Workers that end while the pool closes take neither the close nor their callers along."""
    for number in range(8):
        pool = Pool(f"hostile close {number}", max_workers=3, os_priority="normal")
        await pool.open()
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(pool.run, time.sleep, 0.01)
        calls = [asyncio.ensure_future(pool.run(time.sleep, 0.01)) for _ in range(3)]
        await asyncio.sleep(0.001)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is busy: replies wait in the sockets
        with anyio.fail_after(PATIENCE):
            await pool.aclose(drain=0.0)
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, PoolClosedError) or end is None for end in ends)
        inside.forget(pool)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
async def test_close_ends_a_supervisor_that_is_stopped() -> None:
    """Nothing is left, though who should end the workers does nothing."""
    pool = Pool("hostile stop", max_workers=1, os_priority="normal")
    await pool.open()
    pid = await pool.run(pool_functions.pid)
    supervisor = parent_of(pid)
    os.kill(supervisor, signal.SIGSTOP)
    with anyio.fail_after(PATIENCE):
        await pool.aclose(drain=0.0)
    await gone(pid, supervisor)
    assert not is_alive(supervisor)
    inside.forget(pool)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
async def test_close_does_not_wait_for_exit_hooks_and_ends_children() -> None:
    """An idle worker has a second to end; then it is killed, with children in other sessions."""
    pool = Pool("hostile end", max_workers=1, spare_workers=0, os_priority="normal")
    pid, child = await pool.run(hostile_functions.start_a_session_and_end_slowly)
    began = time.monotonic()
    await pool.aclose(drain=0.0)
    assert time.monotonic() - began < 10.0
    assert not is_alive(pid)
    await gone(child)
    inside.forget(pool)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_close_says_of_a_call_on_its_way_that_it_did_not_run(
    entered: Fifo, gate: Fifo
) -> None:
    """A call that a worker was assigned, and was not sent, has not run in part."""
    pool = Pool("hostile way", max_workers=1, spare_workers=0)
    first = asyncio.ensure_future(pool.run(pool_functions.hold, entered.path, gate.path))
    await entered.heard()
    second = asyncio.ensure_future(pool.run(pool_functions.echo, 1))
    await until(lambda: pool.statistics().queued)

    def kill_when_assigned() -> None:
        deadline = time.monotonic() + PATIENCE
        inside.cancel_running(pool)
        while not inside.has_running(pool) and time.monotonic() < deadline:
            time.sleep(0.001)
        pool.kill().result(PATIENCE)

    thread = threading.Thread(target=kill_when_assigned)
    thread.start()
    thread.join()  # the loop is held meanwhile
    with pytest.raises(PoolClosedError, match="did not run") as caught:
        await second
    assert not caught.value.may_have_run
    first.cancel()
    inside.forget(pool)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
@pytest.mark.holds_loop("a lock that its own thread holds is waited for, half a second")
async def test_kill_from_a_signal_handler_waits_for_no_lock() -> None:
    """The handler runs on a thread that may be deciding something for this very pool."""
    pool = Pool("hostile signal", max_workers=1)
    pid = await pool.run(pool_functions.pid)
    with inside.every_lock_held(pool):  # as if the signal came here
        killed = pool.kill()
    await asyncio.wrap_future(killed)
    assert not is_alive(pid)
    inside.forget(pool)


@pytest.mark.anyio
@one_loop
async def test_pool_whose_name_was_given_away_is_still_closed_at_exit() -> None:
    """All pools are met when the process forks or ends, whoever has their name by then."""
    first = Pool("hostile name")
    await first.aclose()
    second = Pool("hostile name")
    assert {first, second} <= inside.everyone()
    inside.forget("hostile name")


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
async def test_kill_that_finds_the_lock_taken_after_the_end_is_done() -> None:
    """Nobody is left to do anything then, and nothing is left to be done."""
    pool = Pool("hostile twice", max_workers=1)
    await pool.run(pool_functions.echo, 1)
    engine = inside.running_of(pool)
    await pool.aclose()
    assert inside.kill_under_its_lock(engine).done()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
@pytest.mark.holds_loop("that is the matter")
async def test_kill_on_a_loop_that_has_not_heard_of_a_death_ends(entered: Fifo) -> None:
    """A worker died while its loop was held, and that very loop now waits for the end of all."""
    pool = Pool("seam death", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(pool.run(seam_functions.hang, entered.path))
    pid = await entered.heard()
    os.kill(pid, 9)
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: ASYNC251 - the loop is held, by intent
    time.sleep(0.3)  # noqa: ASYNC251 - and the keeper has heard of it
    pool.kill().result(PATIENCE)
    with pytest.raises(Exception, match="hang"):
        await calling
    assert not pool.statistics().workers
    await pool.aclose()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(7)
async def test_close_waits_for_a_task_in_its_grace(entered: Fifo, tmp_path: Path) -> None:
    """It may end what it was asked to end, as long as the drain takes."""
    pool = Pool("seam tidy", max_workers=1)
    path = tmp_path / "tidy"
    calling = asyncio.ensure_future(
        call(pool, seam_functions.tidy_up, entered.path, str(path), 2.0, grace=PATIENCE)
    )
    await entered.heard()
    calling.cancel()
    await asyncio.wait([calling])
    await pool.aclose(drain=PATIENCE)
    assert path.read_text() == "tidy"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestName:
    async def test_pool_that_is_closing_has_a_successor_of_its_name(self) -> None:
        """A function goes to the pool that has the name now, not to one that is not yet gone."""
        first = Pool("races again", max_workers=1)
        assert await race_functions.echo_again(1) == 1
        closed = first.kill()
        second = Pool("races again", max_workers=1)
        try:
            # `closed` is not done, as a rule: what it waits for takes milliseconds.
            assert await race_functions.echo_again(2) == 2
        finally:
            await second.aclose(drain=0.0)
        await asyncio.wrap_future(closed)

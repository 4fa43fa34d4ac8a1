"""Timeouts, cancellation and grace: what is not wanted stops, and its place is free again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import DeadlineError, OffloadError, Pool, TaskKilledError, TaskTimeoutError, offload
from tests.support import inside
from tests.support.calls import Held
from tests.support.functions import pool as pool_functions
from tests.support.functions import races as race_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import (
    PATIENCE,
    Fifo,
    gone,
    gone_now,
    is_alive,
    longer_and_longer,
    until,
)

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


NOT_BEGUN: dict[str, tuple[type[OffloadError], str]] = {
    "timeout": (TaskTimeoutError, "had not begun when its timeout of 0.5 s was over"),
    "deadline": (DeadlineError, "cannot end before its deadline"),
    "kill_task": (TaskKilledError, "was stopped by hand"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


def only_pid(pool: Pool) -> int:
    """Return the process id of the pool's one worker."""
    (worker,) = pool.statistics().workers
    assert worker.pid is not None
    return worker.pid


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_timeout_stops_the_function(new_pool: Callable[..., Pool], entered: Fifo) -> None:
    """The worker of a call that timed out ends."""
    for timeout in longer_and_longer(0.25):
        async with new_pool(max_workers=1, timeout=timeout) as pool:
            with pytest.raises(TaskTimeoutError) as caught:
                await pool.run(pool_functions.run_fault, "hang in native code", entered.path)
            assert caught.value.timeout == timeout
            statistics = pool.statistics()
            assert statistics.timed_out == caught.value.may_have_run
            assert statistics.timed_out + statistics.not_started == 1
            # Of the call, before that of the pool.
            assert await offload(pool=pool, timeout=None)(pool_functions.echo)(1) == 1
            if pids := entered.rest():
                assert caught.value.may_have_run
                assert "ran in part" in str(caught.value)
                await gone(*pids)
                break


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_cancelled_call_stops_with_its_children(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call whose caller is gone burns no CPU: it, and what it has started, end."""
    async with new_pool(max_workers=1) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, pool_functions.hang_with_children, entered.path)
            pids = [await entered.heard() for _ in range(4)]
            group.cancel_scope.cancel()
        await gone(*pids)
        assert pool.statistics().cancelled == 1
        assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.anyio
async def test_grace_lets_a_function_stop_by_itself(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A function that looks at `cancelled()` keeps its worker, which is used again."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        patient = offload(pool=pool, grace=PATIENCE)(pool_functions.hold_until_cancelled)
        async with anyio.create_task_group() as group:
            group.start_soon(patient, entered.path)
            pid = await entered.heard()
            group.cancel_scope.cancel()
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        # The flag is down again for the next task.
        assert (await pool.run(pool_functions.task_facts))[2] is False


@pytest.mark.guarantee(4)
@pytest.mark.anyio
async def test_request_to_stop_is_not_lost_on_the_way(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call that is cancelled before its worker has taken it is not entered, grace or not."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        patient = offload(pool=pool, grace=PATIENCE)(pool_functions.hold_until_cancelled)
        pid = await pool.run(pool_functions.pid)
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(patient, entered.path)
            await until(lambda: pool.statistics().busy)
            group.cancel_scope.cancel()
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        assert not entered.rest()
        # The flag is down again for the next task.
        assert (await pool.run(pool_functions.task_facts))[2] is False


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("option", NOT_BEGUN)
async def test_function_that_was_not_entered_did_not_run(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, option: str
) -> None:
    """A call that its worker had, but had not begun with, says so, and is not begun with later."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(pool_functions.pid)
        options: Any = {
            "timeout": {"timeout": 0.5},
            "deadline": {"deadline": time.monotonic() + 0.5},
            "kill_task": {},
        }[option]
        patient = offload(pool=pool, grace=PATIENCE, **options)(pool_functions.hold)
        kind, text = NOT_BEGUN[option]
        argument = pool_functions.HeldWhenLoaded(entered.path, gate.path)
        errors: list[Any] = []

        async def one() -> None:
            with pytest.raises(kind, match=text) as caught:
                await patient(entered.path, gate.path, argument)
            errors.append(caught.value)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(one)
                assert await entered.heard() == pid
                if option == "kill_task":
                    pool.kill_task(pid)
        finally:
            gate.let()
        assert errors[0].may_have_run is False
        assert "did not run" in str(errors[0])
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        assert not entered.rest()


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_function_that_does_not_stop_in_time_is_killed(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """After `grace` seconds the worker of an unwanted call ends."""
    async with new_pool(max_workers=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start(grace=0.1)
            began = time.monotonic()
            group.cancel_scope.cancel()
        await gone(pid)
        assert time.monotonic() - began >= 0.1


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
async def test_task_in_its_grace_counts_as_running(entered: Fifo, tmp_path: Path) -> None:
    """Nobody takes its place before it has ended: neither as a worker nor as its function."""
    async with Pool("seam grace", max_workers=2) as pool:
        tidy = offload(pool=pool, max_concurrency=1, grace=PATIENCE)(seam_functions.tidy_up)
        path = tmp_path / "tidy"
        first = asyncio.ensure_future(tidy(entered.path, str(path), 0.5))
        await entered.heard()
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(tidy(entered.path, str(path), 0.0))
        # One worker is left for others, and no more than that.
        spent = await asyncio.gather(
            *(pool.run(seam_functions.number_of_process) for _ in range(8))
        )
        assert len(set(spent)) == 1
        await entered.heard()
        assert path.read_text() == "tidy"
        second.cancel()
        await asyncio.wait([second])


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
async def test_task_that_outlasts_its_grace_gives_its_place_back(
    one_worker: Pool, entered: Fifo
) -> None:
    """Its worker is ended, and the next one takes what waits."""
    calling = asyncio.ensure_future(call(one_worker, seam_functions.hang, entered.path, grace=0.2))
    pid = await entered.heard()
    calling.cancel()
    await asyncio.wait([calling])
    with anyio.fail_after(PATIENCE):
        assert await one_worker.run(pool_functions.echo, 1) == 1
    assert not is_alive(pid)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is Linux's")
async def test_children_of_a_detached_helper_end_with_the_task(
    one_worker: Pool, tmp_path: Path
) -> None:
    """In another session, and started by another thread than its first."""
    with Fifo(tmp_path / "told") as told:
        calling = asyncio.ensure_future(
            one_worker.run(seam_functions.start_helper_and_hang, told.path)
        )
        grandchild = await told.heard()
        calling.cancel()
        await asyncio.wait([calling])
        await gone(grandchild)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("a handler that blocks the event loop is what this is about")
async def test_timeout_holds_while_the_loop_is_held(one_worker: Pool, entered: Fifo) -> None:
    """A function is stopped on time though its event loop cannot come to it."""
    calling = asyncio.ensure_future(
        call(one_worker, pool_functions.run_fault, "hang in Python", entered.path, timeout=0.3)
    )
    await asyncio.sleep(0)
    pid = entered.heard_now()  # blocks, and so does the next line
    assert gone_now(pid, seconds=10.0) == []
    with pytest.raises(TaskTimeoutError, match="ran in part"):
        await calling
    assert one_worker.statistics().timed_out == 1


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
async def test_timeout_holds_on_a_loop_that_is_paused(one_worker: Pool, entered: Fifo) -> None:
    """A loop that is run in steps, as in a notebook, does not keep a worker from the others."""
    paused = asyncio.new_event_loop()
    try:
        calling = paused.create_task(
            call(one_worker, pool_functions.run_fault, "hang in Python", entered.path, timeout=0.3)
        )
        await asyncio.to_thread(paused.run_until_complete, asyncio.sleep(0.05))
        await entered.heard()
        with anyio.fail_after(PATIENCE):
            assert await one_worker.run(pool_functions.echo, 1) == 1
        with pytest.raises(TaskTimeoutError):
            await asyncio.to_thread(paused.run_until_complete, calling)
    finally:
        paused.close()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
@pytest.mark.holds_loop("a handler that blocks the event loop is what this is about")
async def test_reply_that_came_in_time_is_no_timeout(one_worker: Pool) -> None:
    """A loop that was held past the timeout of a call finds its result, and its worker."""
    pid = await one_worker.run(pool_functions.pid)
    calling = asyncio.ensure_future(call(one_worker, pool_functions.pid, timeout=0.3))
    await asyncio.sleep(0)
    time.sleep(1.8)  # noqa: ASYNC251 - longer than it takes the keeper to look
    assert await calling == pid
    assert await one_worker.run(pool_functions.pid) == pid
    assert one_worker.statistics().timed_out == 0


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("the second attempt waits for a loop that is held")
async def test_call_that_was_put_back_has_a_new_clock(one_worker: Pool) -> None:
    """Its worker died before receiving it: its timeout counts from the next one's receipt."""
    pid = await one_worker.run(pool_functions.pid)
    os.kill(pid, signal.SIGSTOP)
    calling = asyncio.ensure_future(call(one_worker, pool_functions.pid, timeout=1.0))
    await until(lambda: one_worker.statistics().busy)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: one_worker.statistics().queued)
    time.sleep(2.5)  # noqa: ASYNC251 - longer than the timeout, and than it takes to look
    assert await calling != pid


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_call_that_is_given_up_before_it_is_sent_costs_no_worker(tmp_path: Path) -> None:
    """Hundreds of callers leave at once while their calls come up: no worker is killed for it."""
    pool = Pool("given up", max_workers=1, spare_workers=0, max_queued=None, os_priority="normal")
    async with pool:
        pid = await pool.run(pool_functions.pid)
        asked: list[int] = []

        def nobody() -> bool:
            asked.append(1)
            return False

        with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                async with anyio.create_task_group() as leavers:
                    for number in range(300):
                        leavers.start_soon(
                            inside.call_if, pool, nobody, pool_functions.echo, number
                        )
                    await until(lambda: pool.statistics().queued == 300)
                    gate.let()
                    await until(lambda: asked)
                    leavers.cancel_scope.cancel()
        await until(lambda: not pool.statistics().busy)
        assert await pool.run(pool_functions.pid) == pid
    inside.forget(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestLateStop:
    @pytest.mark.guarantee(3)
    async def test_stop_that_comes_late_is_not_for_the_next_task(
        self,
        entered: Fifo,
        gate: Fifo,
        held: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A task that ends by itself while it is being cancelled takes its stop along."""
        async with Pool("races stopped", max_workers=1, spare_workers=0) as pool:
            stop = inside.LateStop(monkeypatch, PATIENCE)
            pid = only_pid(pool)
            first = asyncio.ensure_future(call(pool, pool_functions.hold, *held, grace=PATIENCE))
            await entered.heard()
            stopping = asyncio.ensure_future(asyncio.to_thread(pool.kill_task, pid))
            await asyncio.to_thread(stop.decided.wait, PATIENCE)
            gate.let()
            await asyncio.to_thread(stop.recovered.wait, PATIENCE)
            function = race_functions.wait_and_tell_whether_wanted
            following = asyncio.ensure_future(pool.run(function, *held))
            await asyncio.sleep(0)  # to let it be sent, if there is a worker
            stop.proceed.set()
            assert await stopping
            with pytest.raises(TaskKilledError):
                await first
            await entered.heard()
            gate.let()
            assert await following

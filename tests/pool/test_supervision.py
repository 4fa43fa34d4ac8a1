"""Supervisors and idle workers that do not answer: they are noticed, and no call pays for it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from offload import Pool, TaskTimeoutError, WorkerCrashedError, offload
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.functions import stuck
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, parent_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
METHODS = pytest.mark.parametrize("method", ["forkserver", "spawn"])
NAMES = ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "PROF", "IO", "PWR", "XCPU", "TSTP")
NewPool = Callable[..., Pool]


def ignored(pid: int) -> set[int]:
    """Return the signals that a process ignores."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            bits = int(line.split()[1], 16)
            return {number for number in range(1, 65) if bits >> (number - 1) & 1}
    raise AssertionError


@ASYNCIO
@METHODS
@pytest.mark.guarantee(3)
async def test_signals_end_no_supervisor(new_pool: NewPool, method: str) -> None:
    """What others send to end a process ends no supervisor; a worker is no different from any."""
    numbers = {getattr(signal, f"SIG{name}") for name in NAMES}
    async with new_pool(max_workers=1, start_method=method) as pool:
        pid = await pool.run(functions.pid)
        supervisor = parent_of(pid)
        assert numbers <= ignored(supervisor)
        for number in numbers:
            os.kill(supervisor, number)
        assert await pool.run(functions.pid) == pid
        assert ignored(pid) & numbers == {signal.SIGINT}


@ASYNCIO
@METHODS
@pytest.mark.guarantee(3)
async def test_supervisor_that_was_stopped_goes_on(
    new_pool: NewPool, method: str, entered: Fifo, gate: Fifo
) -> None:
    """Whoever stops it costs no call anything: what runs goes on, what waits is served."""
    async with new_pool(max_workers=2, spare_workers=0, start_method=method) as pool:
        results = []

        async def hold() -> None:
            results.append(await pool.run(functions.hold, entered.path, gate.path))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(hold)
                neighbour = await entered.heard()
                supervisor = parent_of(neighbour)
                os.kill(supervisor, signal.SIGSTOP)
                pid = await pool.run(functions.pid)  # a worker had to be started for it
                assert pid != neighbour
                assert parent_of(pid) == supervisor
                gate.let()
        assert results == [(None, neighbour)]


@ASYNCIO
@pytest.mark.guarantee(5)
async def test_supervisor_that_hangs_is_replaced(
    new_pool: NewPool, entered: Fifo, gate: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    """What it had started ends with it, which is told; the next call is served."""
    options = {"max_workers": 2, "spare_workers": 0, "preload": [stuck.__name__]}
    async with new_pool(**options) as pool:
        errors = []

        async def hold() -> None:
            try:
                await pool.run(functions.hold, entered.path, gate.path)
            except WorkerCrashedError as error:
                errors.append(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(hold)
                supervisor = parent_of(await entered.heard())
                os.kill(supervisor, stuck.HANG)
                pid = await pool.run(functions.pid)
            assert parent_of(pid) != supervisor
        await gone(supervisor)
    assert "since the supervisor of pool 'test" in str(errors[0])
    assert errors[0].may_have_run
    assert "does not answer" in caplog.text


@ASYNCIO
@pytest.mark.guarantee(4)
async def test_worker_is_killed_without_its_supervisor(
    new_pool: NewPool, monkeypatch: pytest.MonkeyPatch, entered: Fifo, gate: Fifo
) -> None:
    """A task that is over its time ends, whatever its supervisor does."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(functions.pid)
        inside.cut_off_supervisor(monkeypatch)
        with pytest.raises(TaskTimeoutError):
            await offload(pool=pool, timeout=0.2)(functions.hold)(entered.path, gate.path)
        with anyio.fail_after(PATIENCE):
            await gone(pid)
            assert await pool.run(functions.pid) != pid


@METHODS
@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.guarantee(5)
async def test_idle_worker_that_does_not_answer_costs_its_call_nothing(
    new_pool: NewPool, method: str, limit: float | None
) -> None:
    """A call that is sent to a worker that was stopped runs on another one."""
    async with new_pool(max_workers=1, spare_workers=0, start_method=method) as pool:
        pid = await pool.run(functions.pid)
        os.kill(pid, signal.SIGSTOP)
        with anyio.fail_after(PATIENCE):
            assert await offload(pool=pool, timeout=limit)(functions.pid)() != pid
        assert not is_alive(pid)
        assert pool.statistics().crashed == 0

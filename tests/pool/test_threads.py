"""Where no thread can be had: the call is refused or waits, and no file is closed twice."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from offload import ArgumentError, Pool
from offload._pool import codec
from offload._wire.payload import Request
from offload._workers.keeper import submit_once, threads
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import seams as seam_functions
from tests.support.processes import PATIENCE, until

pytestmark = pytest.mark.anyio


MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


def starting_none(prefix: str) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` as where there are no more threads of a name."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    return fail


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have no more threads of a name."""
    return lambda prefix: monkeypatch.setattr(threading.Thread, "start", starting_none(prefix))


def _append(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("x")


@pytest.mark.guarantee(3)
def test_task_that_raised_when_submitted_does_not_run_later(
    no_thread: Callable[[str], None],
) -> None:
    """Stdlib queues first and starts a thread then: one that is there would run it after all."""
    gate, ran = threading.Event(), []
    with ThreadPoolExecutor(2, thread_name_prefix="seam") as executor:
        first = submit_once(executor, gate.wait)
        no_thread("seam")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            submit_once(executor, ran.append, 1)
        gate.set()
        assert first.result(PATIENCE)
        assert submit_once(executor, len, "abc").result(PATIENCE) == 3
    assert ran == []


@pytest.mark.guarantee(5)
def test_task_that_its_executor_drops_is_cancelled() -> None:
    """Whoever waits for it is told, as by stdlib."""
    gate = threading.Event()
    executor = ThreadPoolExecutor(1)
    running, waiting = submit_once(executor, gate.wait), submit_once(executor, len, "")
    broken = ThreadPoolExecutor(1, initializer=int, initargs=("x",))
    failing = submit_once(broken, len, "")
    executor.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert running.result(PATIENCE)
    assert waiting.cancelled()
    assert failing.exception(PATIENCE) is not None


@pytest.mark.guarantee(3)
async def test_file_is_closed_once_where_threads_run_out(
    no_thread: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is closed twice is, the second time, somebody else's connection."""
    executor = ThreadPoolExecutor(2, thread_name_prefix="seam")
    inside.replace_payload_threads(monkeypatch, executor)
    gate = threading.Event()
    threads.submit(gate.wait)
    no_thread("seam")
    ours, theirs = os.pipe()
    codec.close_request(Request(b"", theirs, 64 * MIB))
    again = os.open(os.devnull, os.O_RDONLY)
    assert again == theirs, "the lowest number that is free"
    gate.set()
    executor.shutdown()  # when all that was queued has been run
    os.fstat(again)
    os.close(again)
    os.close(ours)


@pytest.mark.guarantee(5)
async def test_large_call_without_a_thread_is_refused_and_leaves_no_file(
    one_worker: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error says what ran out; the next call is as any other."""
    inside.replace_payload_threads(monkeypatch, None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", starting_none("offload-payload"))
        with pytest.raises(ArgumentError, match=r"did not run.*can't start new thread"):
            await one_worker.run(seam_functions.size, bytes(8 * MIB))
    assert await one_worker.run(seam_functions.size, bytes(8 * MIB)) == 8 * MIB
    await until(lambda: not open_files())


@pytest.mark.guarantee(3)
async def test_task_of_a_thread_pool_runs_once_where_threads_run_out(
    no_thread: Callable[[str], None], tmp_path: Path
) -> None:
    """A call that is put back is not run by the executor as well."""
    executor = ThreadPoolExecutor(3, thread_name_prefix="seam")
    gate = threading.Event()
    executor.submit(gate.wait)
    path = tmp_path / "ran"
    async with Pool("seam threads", max_workers=2, executor=executor) as pool:
        executor.submit(gate.wait)  # by now both of its threads are there, and have something to do
        no_thread("seam")
        calling = asyncio.ensure_future(pool.run(_append, str(path)))
        await asyncio.sleep(0.1)
        gate.set()
        with anyio.fail_after(PATIENCE):
            await calling
    executor.shutdown()
    assert path.read_text() == "x"


@pytest.mark.guarantee(5)
@pytest.mark.parametrize("name", ["offload-keeper", "offload-start", "offload-logs"])
def test_thread_that_cannot_be_had_is_had_later(name: str) -> None:
    """A limit that is reached once fails what it meets, and nothing after that."""
    # In a process of its own, where no other pool has had the thread started.
    program = textwrap.dedent(
        """
        import asyncio, contextlib, logging, sys, threading
        from concurrent.futures import ThreadPoolExecutor
        from offload import Pool
        from tests.support.functions import hostile, pool as functions

        start, failed, told = threading.Thread.start, [], asyncio.Event()

        def fail_once(thread):
            if thread.name == sys.argv[1] and not failed:
                failed.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        class Handler(logging.Handler):
            def emit(self, record):
                loop.call_soon_threadsafe(told.set)

        async def main():
            global loop
            loop = asyncio.get_running_loop()
            hostile.logger.addHandler(Handler())
            threading.Thread.start = fail_once
            executor = ThreadPoolExecutor() if sys.argv[1] == "offload-start" else None
            pool = Pool("hostile", max_workers=1, executor=executor)
            with contextlib.suppress(RuntimeError):
                await pool.run(functions.echo, 1)
            assert await pool.run(functions.echo, 2) == 2
            if executor is None:
                for _ in range(2):
                    await pool.run(hostile.log, logging.WARNING)
                await told.wait()
            await pool.aclose()
            print(len(failed))

        asyncio.run(main())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, name],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "1\n"


def test_program_ends_whose_signal_handler_raised_while_a_thread_was_started() -> None:
    """The executor had not heard of that thread, and would not have ended it."""
    program = textwrap.dedent(
        """
        import threading
        from offload._workers.keeper import threads

        def start_and_raise(thread, start=threading.Thread.start):
            threading.Thread.start = start
            start(thread)
            raise KeyboardInterrupt

        threading.Thread.start = start_and_raise
        try:
            threads.submit(int, "1")
        except KeyboardInterrupt:
            print(threads.submit(int, "7").result())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout == "7\n"

"""A call that a view of a pool has accepted is run, whatever its submitter does next."""

import asyncio
import os
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path

import pytest

from offload import Pool, PoolClosedError
from tests.support import inside
from tests.support.functions import executor as view_functions
from tests.support.processes import PATIENCE, until

COUNT = 4
# Said in the docstring of `PoolExecutor`.
no_threads = pytest.mark.xfail(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 starts no thread once the main module has ended",
    strict=True,
)


def run_program(folder: Path, text: str) -> str:
    """Run a main module in a process of its own; return what it prints."""
    (folder / "exit_work.py").write_text(
        "def mark(path):\n    with open(path, 'a') as file:\n        file.write('x')\n"
    )
    main = folder / "main.py"
    main.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(main)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "make",
    [
        "Pool('p', max_workers=1).executor()",
        "Pool('p', max_workers=1, start_method='spawn').executor()",
        pytest.param(
            "Pool('p', max_workers=1, executor=ProcessPoolExecutor).executor()", marks=no_threads
        ),
        pytest.param(
            "Pool('p', max_workers=1, executor=ThreadPoolExecutor(1)).executor()", marks=no_threads
        ),
    ],
    ids=["forkserver", "spawn", "processes", "threads"],
)
def test_accepted_calls_are_run_before_the_interpreter_ends(tmp_path: Path, make: str) -> None:
    """What was submitted and not waited for is not lost when the main module has ended."""
    path = tmp_path / "marks"
    run_program(
        tmp_path,
        f"""
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
        from exit_work import mark
        from offload import Pool

        if __name__ == "__main__":
            executor = {make}
            for _ in range({COUNT}):
                executor.submit(mark, {str(path)!r})
        """,
    )
    assert path.read_text() == "x" * COUNT


@pytest.mark.parametrize(
    "end",
    [
        "executor.shutdown(wait=False)",
        "del executor",
        "raise SystemExit",
        "executor.map(mark, [P])",
    ],
)
def test_no_end_of_a_program_loses_accepted_calls(tmp_path: Path, end: str) -> None:
    """Neither a view that was shut or dropped, nor `sys.exit`, nor an unread map loses a call."""
    path = tmp_path / "marks"
    run_program(
        tmp_path,
        f"""
        from exit_work import mark
        from offload import Pool

        P = {str(path)!r}
        if __name__ == "__main__":
            executor = Pool("p", max_workers=1).executor()
            for _ in range({COUNT}):
                executor.submit(mark, P)
            {end}
        """,
    )
    assert path.read_text() == "x" * (COUNT + ("map" in end))


@pytest.mark.parametrize("when", ["before", "after"])
def test_submit_in_an_exit_handler_is_refused(tmp_path: Path, when: str) -> None:
    """Once the interpreter ends, `submit` raises at once, as that of stdlib's executors."""
    said = run_program(
        tmp_path,
        f"""
        import atexit
        from exit_work import mark
        from offload import Pool

        def last():
            try:
                executor.submit(pow, 2, 3)
            except RuntimeError as error:
                print(error)

        if __name__ == "__main__":
            if {when!r} == "before":
                atexit.register(last)
            executor = Pool("p", max_workers=1).executor()
            executor.submit(pow, 2, 3).result()
            if {when!r} == "after":
                atexit.register(last)
        """,
    )
    assert "after interpreter shutdown" in said


def test_forked_copy_of_the_process_waits_for_none_of_them(tmp_path: Path) -> None:
    """The calls are the parent's: a child that is forked meanwhile ends when it likes."""
    path = tmp_path / "marks"
    run_program(
        tmp_path,
        f"""
        import os, sys
        from exit_work import mark
        from offload import Pool

        if __name__ == "__main__":
            executor = Pool("p", max_workers=1).executor()
            futures = [executor.submit(mark, {str(path)!r}) for _ in range({COUNT})]
            if (pid := os.fork()) == 0:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    assert path.read_text() == "x" * COUNT


@pytest.mark.parametrize("before", [1, 0], ids=["warm", "cold"])
def test_close_without_limit_waits_for_what_was_submitted(before: int) -> None:
    """`aclose(drain=None)` lets calls end that are still on their way to the pool."""
    pool = Pool("promised", max_workers=1)
    executor = pool.executor()
    for _ in range(before):
        executor.submit(view_functions.square, 1).result(PATIENCE)
    futures = [executor.submit(view_functions.square, number) for number in range(10)]
    asyncio.run(pool.aclose(drain=None))
    assert [future.result(0) for future in futures] == [number**2 for number in range(10)]
    assert pool.statistics().state == "closed"


def test_pool_that_closes_lets_nobody_else_in(tmp_path: Path) -> None:
    """While it waits for what was promised, it refuses new calls of every entrance."""
    pool = Pool("promised-only", max_workers=1)

    async def main() -> None:
        future = pool.executor().submit(view_functions.wait_for, tmp_path / "go", 5)
        closing = asyncio.create_task(pool.aclose(drain=None))
        await until(lambda: pool.is_closed and pool.statistics().busy == 1)
        with pytest.raises(PoolClosedError, match="did not run"):
            await pool.run(view_functions.square, 3)
        late = pool.executor().submit(view_functions.square, 3)
        with pytest.raises(PoolClosedError):
            await asyncio.wrap_future(late)
        (tmp_path / "go").touch()
        await closing
        assert future.result(0) == 5

    asyncio.run(main())


def test_close_with_a_limit_ends_what_was_submitted(tmp_path: Path) -> None:
    """Past `drain` seconds a submitted call fails like any other, and its worker is killed."""
    pool = Pool("promised-limit", max_workers=1)
    future = pool.executor().submit(view_functions.wait_for, tmp_path / "never", 5)
    asyncio.run(pool.aclose(drain=0.1))
    assert isinstance(future.exception(PATIENCE), PoolClosedError)


def test_pool_that_is_opened_while_it_waits_stays_open(tmp_path: Path) -> None:
    """`open` takes back a close that has not begun to end workers."""
    pool = Pool("promised-again", max_workers=1)

    async def main() -> None:
        future = pool.executor().submit(view_functions.wait_for, tmp_path / "go", 5)
        closing = asyncio.create_task(pool.aclose(drain=None))
        await until(lambda: pool.is_closed and pool.statistics().busy == 1)
        opening = asyncio.create_task(pool.open())
        await until(lambda: not pool.is_closed)
        (tmp_path / "go").touch()
        await asyncio.gather(opening, closing)
        assert future.result(0) == 5
        assert await pool.run(view_functions.square, 3) == 9
        await pool.aclose()

    asyncio.run(main())


def test_executor_inside_a_worker_runs_here_and_now() -> None:
    """Calls that submit calls that submit calls end, however few workers there are."""
    pool = Pool("nested-views", max_workers=1)
    try:
        assert pool.executor().submit(view_functions.nested, 4).result(PATIENCE) == "leaf"
        assert pool.executor().submit(view_functions.nested_map, 3).result(PATIENCE) == [0, 1, 4]
    finally:
        asyncio.run(pool.aclose())


def test_view_tells_its_width_as_others_do() -> None:
    """Libraries read `_max_workers` to know how many calls to keep under way (dask, pipefunc)."""
    pool = Pool("wide", max_workers=7)
    assert inside.width_of_view(pool) == 7


class Big:
    """A result that can be referred to weakly."""


def test_view_lets_go_of_a_result_with_its_caller() -> None:
    """When the future is told, nothing of ours refers to its result any more."""
    future, call = inside.call_of_view()
    value = Big()
    reference = weakref.ref(value)
    call.settle(value, None)
    del value
    assert future.result(0) is reference()
    del future
    assert reference() is None

"""Exceptions cross whole, and one that exits ends neither the server nor a worker of another."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from offload import Pool, RemoteError, ResultError, WorkerStartError
from offload.errors import RemoteTraceback
from tests.support import inside
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE

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


@pytest.mark.anyio
class TestExceptions:
    @pytest.mark.guarantee(8)
    async def test_type_arguments_notes_and_attributes_stay(self, pool: Pool) -> None:
        """An exception is raised here as it was raised there."""
        with pytest.raises(crossing_functions.Detailed) as caught:
            await pool.run(crossing_functions.raise_detailed)
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
            await pool.run(crossing_functions.raise_chained)
        assert caught.value.args == ("the effect", 2)
        text = str(caught.value.__cause__)
        assert "KeyError: 'the cause'" in text
        assert "direct cause" in text

    async def test_groups_stay_groups(self, pool: Pool) -> None:
        """`except*` works on what a function raised."""
        found: list[int] = []
        try:
            await pool.run(crossing_functions.raise_group)
        except* FileNotFoundError as group:
            found += [each.errno for each in group.exceptions]  # type: ignore[union-attr]
        except* ValueError as group:
            found += [len(group.exceptions)]
        assert sorted(found) == [1, 2]

    async def test_large_exception_crosses(self, pool: Pool) -> None:
        """An exception larger than a frame keeps its type and all of its text."""
        with pytest.raises(crossing_functions.Large) as caught:
            await pool.run(crossing_functions.raise_large, 1_000_000)
        assert len(str(caught.value)) == 1_000_000

    @pytest.mark.guarantee(5)
    async def test_unpicklable_exception_is_told_by_name(self, pool: Pool) -> None:
        """What cannot cross is a RemoteError with type, text and traceback."""
        with pytest.raises(RemoteError, match="ValueError") as caught:
            await pool.run(crossing_functions.raise_unpicklable)
        assert caught.value.type_name == "ValueError"
        assert "in raise_unpicklable" in caught.value.remote_traceback


@pytest.mark.anyio
@pytest.mark.guarantee(3)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_result_that_exits_when_unpickled_is_an_error(one_worker: Pool) -> None:
    """A pickle may call `sys.exit`; the server goes on, and so do the threads of ours."""
    with pytest.raises(ResultError, match="SystemExit"):
        await one_worker.run(hostile_functions.return_exit)
    assert await one_worker.run(pool_functions.echo, 1) == 1


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_exception_that_is_an_exit_as_well_is_a_remote_error(one_worker: Pool) -> None:
    """A class may be both; nothing that ends a server is raised in it."""
    with pytest.raises(RemoteError, match="both"):
        await one_worker.run(hostile_functions.raise_both)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(1)
async def test_large_exception_leaves_the_loop_free(one_worker: Pool) -> None:
    """Megabytes in an exception are unpickled off the loop, in turns with it."""
    with pytest.raises(hostile_functions.LargeError) as caught:
        await one_worker.run(hostile_functions.raise_large, 30_000)
    assert len(caught.value.args[0]) == 30_000


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_exception_that_exits_in_its_text_is_no_exit_of_the_server() -> None:
    """In a thread of the server as in a worker."""
    for executor in (None, ThreadPoolExecutor):
        async with Pool("hostile text", max_workers=1, executor=executor) as pool:
            with pytest.raises((RemoteError, hostile_functions.ExitsInText)):
                await pool.run(hostile_functions.raise_exit_in_text)
            assert await pool.run(pool_functions.echo, 1) == 1
        inside.forget("hostile text")


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_callback_of_a_future_that_exits_stops_nothing(
    one_worker: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """`sys.exit()` in `add_done_callback` ends no thread of ours."""
    executor = one_worker.executor()
    future = executor.submit(pool_functions.echo, 1)
    future.add_done_callback(lambda _: sys.exit(1))
    # By a thread: stdlib calls no further callbacks after one that exits.
    assert await asyncio.to_thread(future.result, PATIENCE) == 1
    again = executor.submit(pool_functions.echo, 2)
    assert await asyncio.to_thread(again.result, PATIENCE) == 2
    assert "a callback of a future" in caplog.text


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_error_that_cannot_be_encoded_is_told_all_the_same() -> None:
    """Texts with surrogates, as names of files have them, reach the caller."""
    pool = Pool("hostile error", max_workers=1, initializer=hostile_functions.fail_unspeakably)
    with pytest.raises(WorkerStartError, match=r"bad .udcff name"):
        await pool.run(pool_functions.echo, 1)
    await pool.aclose()
    inside.forget(pool)


@pytest.mark.parametrize("how", ["sys.exit", "Ctrl+C"])
def test_signal_that_comes_while_a_result_is_unpickled_is_one(how: str) -> None:
    """`sys.exit()` of a handler ends the program, though a pickle that exits does not."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from offload import Pool\n"
        "from tests.support.functions import hostile as hostile_functions\n"
        "def leave(*_):\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "async def main():\n"
        "    async with Pool('signals', max_workers=1) as pool:\n"
        f"        await pool.run(hostile_functions.return_signal, os.getpid(), {how!r})\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == (7 if how == "sys.exit" else -signal.SIGINT), done.stderr


@pytest.mark.guarantee(5)
def test_large_error_of_a_function_sent_by_value_arrives() -> None:
    """With its type and its text, as a small one does."""
    program = textwrap.dedent(
        """
            import asyncio, sys
            from offload import Pool, offload

            @offload
            def fail(size):
                raise ValueError("x" * size)

            async def main():
                for size in (10, 200_000):
                    try:
                        await fail(size)
                    except ValueError as error:
                        print(type(error).__name__, len(str(error)))
                await Pool.named().aclose()

            asyncio.run(main())
            """
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.split() == ["ValueError", "10", "ValueError", "200000"], done.stderr

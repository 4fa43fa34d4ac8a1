"""`pool.executor()`: the semantics of stdlib's `ProcessPoolExecutor`, checked against stdlib's."""

import asyncio
import concurrent.futures
import functools
import os
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, ProcessPoolExecutor

import pytest

from offload import ArgumentError, FunctionError, Pool, PoolClosedError, QueueFullError, RemoteError
from offload.errors import RemoteTraceback
from tests.support import inside
from tests.support.functions import decorated as some_functions
from tests.support.functions import executor as view_functions
from tests.support.functions.executor import Account
from tests.support.processes import PATIENCE

WORKERS = 2


@pytest.fixture(scope="module")
def pool():
    """Keep one warm pool for all views of this module."""
    pool = Pool("viewed", max_workers=WORKERS)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=0.0))


@pytest.fixture(scope="module")
def stdlib():
    """Keep one executor of stdlib beside it."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        yield executor


@pytest.fixture(params=["view", "stdlib"])
def executor(request, pool):
    """Return the view, and stdlib's executor to show that the expectation is right."""
    if request.param == "stdlib":
        return request.getfixturevalue("stdlib")
    return pool.executor()


@pytest.fixture(params=["view", "stdlib"])
def own_executor(request, pool):
    """Return an executor that the test may shut down."""
    if request.param == "view":
        return pool.executor()
    import multiprocessing

    return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("forkserver"))


def until(condition):
    """Wait for what another process does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.005)


def busy(executor, path):
    """Occupy every worker, and as many calls more as stdlib hands to its processes in advance."""
    futures = [
        executor.submit(view_functions.wait_for, path, number) for number in range(WORKERS * 2 + 1)
    ]
    until(lambda: len(list(path.parent.glob(f"{path.name}-*-began"))) == WORKERS)
    return futures


class TestSubmit:
    def test_it_is_an_executor(self, executor):
        """Code that checks for the interface accepts it."""
        assert isinstance(executor, Executor)

    def test_result_comes_from_another_process(self, executor):
        """The future has what the function returned, in another process."""
        assert executor.submit(view_functions.process_id).result(PATIENCE) != os.getpid()

    def test_arguments_arrive_as_given(self, executor):
        """Positional and keyword arguments go to the function, whatever their names."""
        assert executor.submit(view_functions.add, 1).result(PATIENCE) == 11
        assert executor.submit(view_functions.add, 1, right=2, scale=3).result(PATIENCE) == 9

    @pytest.mark.parametrize(
        "function,args,expected",
        [
            (pow, (2, 3), 8),
            (int, ("12",), 12),
            (str.upper, ("abc",), "ABC"),
            ("abc".upper, (), "ABC"),
            (Account(5).plus, (3,), 8),
            (Account(5), (3,), 2),
            (functools.partial(view_functions.add, 1, scale=2), (5,), 12),
        ],
        ids=["builtin", "class", "descriptor", "bound builtin", "method", "object", "partial"],
    )
    def test_whatever_pickles_can_be_called(self, executor, function, args, expected):
        """Callables that are no plain functions are sent as they are."""
        assert executor.submit(function, *args).result(PATIENCE) == expected

    def test_exception_keeps_its_type(self, executor):
        """The future raises what the function raised, with the worker's traceback as its cause."""
        future = executor.submit(view_functions.fail, "boom")
        error = future.exception(PATIENCE)
        assert type(error) is ValueError
        assert error.args == ("boom",)
        assert "in fail" in str(error.__cause__)
        with pytest.raises(ValueError, match="boom"):
            future.result()

    def test_argument_that_does_not_pickle_fails_its_future_alone(self, executor):
        """The error is in the future, and the executor works on."""
        future = executor.submit(view_functions.square, threading.Lock())
        with pytest.raises(TypeError, match="lock"):
            future.result(PATIENCE)
        assert executor.submit(view_functions.square, 3).result(PATIENCE) == 9

    def test_callback_gets_the_finished_future(self, executor):
        """`add_done_callback` is called once, with the future."""
        called = threading.Event()
        seen = []
        future = executor.submit(view_functions.square, 3)
        future.add_done_callback(lambda done: (seen.append(done), called.set()))
        assert called.wait(PATIENCE)
        assert seen == [future]
        assert future.done()
        assert not future.running()

    def test_result_waits_no_longer_than_asked(self, executor, tmp_path):
        """`result(timeout)` raises TimeoutError, and the call goes on."""
        future = executor.submit(view_functions.wait_for, tmp_path / "go", 5)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 5

    def test_many_threads_submit_at_once(self, executor):
        """Every thread gets the results of its own calls."""
        results = {}

        def use(thread):
            futures = [executor.submit(view_functions.add, thread, n) for n in range(50)]
            results[thread] = [future.result(PATIENCE) for future in futures]

        threads = [threading.Thread(target=use, args=(1000 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert results == {1000 * n: [1000 * n + m for m in range(50)] for n in range(8)}


class TestCancel:
    def test_waiting_call_can_be_cancelled(self, executor, tmp_path):
        """A call that waits is cancelled at once and never runs."""
        running = busy(executor, tmp_path / "go")
        waiting = executor.submit(view_functions.wait_for, tmp_path / "go", "cancelled")
        assert waiting.cancel()
        assert waiting.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(PATIENCE)
        (tmp_path / "go").touch()
        assert [future.result(PATIENCE) for future in running] == list(range(WORKERS * 2 + 1))
        assert not (tmp_path / "go-cancelled-began").exists()

    def test_running_call_cannot_be_cancelled(self, executor, tmp_path):
        """`cancel()` of a call that runs returns False and changes nothing."""
        future = executor.submit(view_functions.wait_for, tmp_path / "go", 5)
        until((tmp_path / "go-5-began").exists)
        assert future.running()
        assert not future.cancel()
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 5

    def test_everybody_is_told_of_a_cancelled_call(self, executor, tmp_path):
        """`wait` and `as_completed` count a cancelled future as done."""
        running = busy(executor, tmp_path / "go")
        waiting = executor.submit(view_functions.square, 5)
        assert waiting.cancel()
        (tmp_path / "go").touch()
        done, not_done = concurrent.futures.wait([*running, waiting], timeout=PATIENCE)
        assert done == {*running, waiting}
        assert not not_done
        assert set(concurrent.futures.as_completed([waiting], timeout=PATIENCE)) == {waiting}


class TestMap:
    def test_results_come_in_order(self, executor):
        """`map` gives results in the order of the items."""
        assert list(executor.map(view_functions.square, range(30))) == [n * n for n in range(30)]

    def test_several_iterables_end_with_the_shortest(self, executor):
        """As with the builtin `map`."""
        assert list(executor.map(view_functions.add, [1, 2, 3], [10, 20])) == [11, 22]

    def test_chunks_change_no_result(self, executor):
        """`chunksize` is accepted, and refused below 1."""
        results = executor.map(view_functions.square, range(10), chunksize=4)
        assert list(results) == [n * n for n in range(10)]
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            executor.map(view_functions.square, [1], chunksize=0)

    def test_more_items_than_the_queue_holds_are_no_problem(self, executor):
        """The items of one `map` wait for each other, however many they are."""
        assert sum(executor.map(view_functions.square, range(1500), chunksize=50)) == sum(
            n * n for n in range(1500)
        )

    def test_first_exception_comes_in_its_place(self, executor):
        """Results before the failing item are given; then the iterator raises and ends."""
        results = executor.map(view_functions.add, [1, 2], [1, "two"])
        assert next(results) == 2
        with pytest.raises(TypeError):
            next(results)
        assert list(results) == []

    def test_timeout_counts_from_the_call(self, executor, tmp_path):
        """`map(timeout=…)` raises TimeoutError when the time is over."""
        results = executor.map(view_functions.wait_for, [tmp_path / "go"], [1], timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        (tmp_path / "go").touch()

    def test_items_are_submitted_before_the_first_result_is_asked_for(self, executor, tmp_path):
        """`map` starts the work at once."""
        results = executor.map(view_functions.wait_for, [tmp_path / "go"] * 2, range(2))
        until((tmp_path / "go-0-began").exists)
        (tmp_path / "go").touch()
        assert list(results) == [0, 1]


class TestWaiting:
    def test_wait_returns_at_the_first(self, executor, tmp_path):
        """`wait(FIRST_COMPLETED)` tells which call is done and which is not."""
        slow = executor.submit(view_functions.wait_for, tmp_path / "go")
        quick = executor.submit(view_functions.square, 3)
        done, not_done = concurrent.futures.wait(
            [slow, quick], timeout=PATIENCE, return_when=FIRST_COMPLETED
        )
        assert (done, not_done) == ({quick}, {slow})
        (tmp_path / "go").touch()
        done, not_done = concurrent.futures.wait(
            [slow, quick], timeout=PATIENCE, return_when=ALL_COMPLETED
        )
        assert done == {slow, quick}

    def test_as_completed_gives_the_quick_one_first(self, executor, tmp_path):
        """`as_completed` gives futures as they are done."""
        slow = executor.submit(view_functions.wait_for, tmp_path / "go")
        quick = executor.submit(view_functions.square, 3)
        completed = concurrent.futures.as_completed([slow, quick], timeout=PATIENCE)
        assert next(completed) is quick
        (tmp_path / "go").touch()
        assert next(completed) is slow

    def test_event_loop_awaits_it(self, executor):
        """`loop.run_in_executor` gives the result, and the exception."""

        async def use():
            loop = asyncio.get_running_loop()
            call = functools.partial(view_functions.add, 1, scale=2)
            assert await loop.run_in_executor(executor, call, 4) == 10
            assert await loop.run_in_executor(executor, view_functions.square, 4) == 16
            with pytest.raises(ValueError, match="boom"):
                await loop.run_in_executor(executor, view_functions.fail, "boom")

        asyncio.run(use())

    def test_cancelled_await_cancels_a_waiting_call(self, executor, tmp_path):
        """A cancelled `run_in_executor` takes its call out of the queue."""

        async def use():
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(executor, view_functions.wait_for, tmp_path / "go", "x")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        running = busy(executor, tmp_path / "go")
        asyncio.run(use())
        (tmp_path / "go").touch()
        concurrent.futures.wait(running, timeout=PATIENCE)
        assert executor.submit(view_functions.square, 3).result(PATIENCE) == 9
        assert not (tmp_path / "go-x-began").exists()


class TestShutdown:
    def test_context_manager_waits_for_the_calls(self, own_executor, tmp_path):
        """Leaving the context is possible only when every call is done."""
        with own_executor as executor:
            future = executor.submit(view_functions.wait_for, tmp_path / "go", 5)
            until((tmp_path / "go-5-began").exists)
            opener = threading.Thread(target=(tmp_path / "go").touch)
            assert not future.done()
            opener.start()
        assert future.done()
        assert future.result() == 5
        opener.join()

    def test_nothing_is_accepted_afterwards(self, own_executor):
        """`submit` and `map` raise RuntimeError once shut down, and shutting down again is fine."""
        own_executor.shutdown()
        own_executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            own_executor.submit(view_functions.square, 1)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            own_executor.map(view_functions.square, [1])

    def test_it_can_leave_calls_to_themselves(self, own_executor, tmp_path):
        """`shutdown(wait=False)` returns at once, and what was submitted still ends."""
        future = own_executor.submit(view_functions.wait_for, tmp_path / "go", 5)
        own_executor.shutdown(wait=False)
        assert not future.done()
        (tmp_path / "go").touch()
        assert future.result(PATIENCE) == 5

    def test_it_can_cancel_what_waits(self, own_executor, tmp_path):
        """`shutdown(cancel_futures=True)` cancels waiting calls and waits for the running ones."""
        running = busy(own_executor, tmp_path / "go")
        waiting = [own_executor.submit(view_functions.square, n) for n in range(5)]

        def open_when_cancelled():
            until(lambda: all(future.cancelled() for future in waiting))
            (tmp_path / "go").touch()

        opener = threading.Thread(target=open_when_cancelled)
        opener.start()
        own_executor.shutdown(cancel_futures=True)
        opener.join()
        assert all(future.cancelled() for future in waiting)
        assert all(future.done() for future in running)
        assert [running[n].result() for n in range(WORKERS)] == list(range(WORKERS))


class TestView:
    """What is ours alone."""

    def test_shutdown_leaves_the_pool_open(self, pool):
        """A view ends alone: the pool and other views work on."""
        view, other = pool.executor(), pool.executor()
        view.shutdown()
        assert other.submit(view_functions.square, 3).result(PATIENCE) == 9

    def test_decorated_functions_are_taken(self, pool):
        """A function with `@offload`, bound or not, is a function like another."""
        view = pool.executor()
        assert view.submit(some_functions.add, 1, right=2).result(PATIENCE) == 3
        assert view.submit(some_functions.Scale(3).times, 5).result(PATIENCE) == 15
        assert list(view.map(some_functions.Scale(3).times, [1, 2])) == [3, 6]
        future = view.submit(some_functions.DoubleScale.class_below, 5)
        assert future.result(PATIENCE) == ("DoubleScale", 5)

    @pytest.mark.parametrize(
        "function,text",
        [(lambda: 1, "is a lambda"), (some_functions.add_from_inside, "is async def")],
        ids=["lambda", "async"],
    )
    def test_what_cannot_be_sent_is_refused_at_once(self, pool, function, text):
        """`submit` itself raises: nobody needs to look at the future."""
        with pytest.raises(FunctionError, match=text):
            pool.executor().submit(function)

    def test_object_of_a_method_is_named_if_it_does_not_pickle(self, pool):
        """The error of a bound method names the method, not our way to call it."""
        future = pool.executor().submit(Account(threading.Lock()).plus, 1)
        with pytest.raises(ArgumentError, match=r"^Account\.plus did not run: .*lock"):
            future.result(PATIENCE)

    def test_exception_has_the_traceback_of_the_worker(self, pool):
        """The cause is our RemoteTraceback, as with a call that is awaited."""
        error = pool.executor().submit(view_functions.fail, "boom").exception(PATIENCE)
        assert isinstance(error.__cause__, RemoteTraceback)

    def test_exit_of_a_function_is_an_error(self, pool):
        """`sys.exit()` in a function is an ordinary exception of its future."""
        future = pool.executor().submit(some_functions.exit_by_sys, 3)
        with pytest.raises(RemoteError, match="SystemExit"):
            future.result(PATIENCE)

    def test_full_queue_refuses_in_the_future(self, tmp_path):
        """Past `max_queued`, the future of a call has QueueFullError; `map` waits instead."""
        pool = Pool("small view", max_workers=1, max_queued=1, spare_workers=0)
        view = pool.executor()
        try:
            running = view.submit(view_functions.wait_for, tmp_path / "go", 1)
            until((tmp_path / "go-1-began").exists)
            waiting = view.submit(view_functions.square, 2)
            refused = view.submit(view_functions.square, 3)
            with pytest.raises(QueueFullError):
                refused.result(PATIENCE)
            (tmp_path / "go").touch()
            assert (running.result(PATIENCE), waiting.result(PATIENCE)) == (1, 4)
        finally:
            asyncio.run(pool.aclose(drain=0.0))

    def test_closed_pool_fails_the_future(self):
        """A call on a pool that is closed has PoolClosedError, a RuntimeError, as its exception."""
        pool = Pool("closed view", max_workers=1)
        view = pool.executor()
        assert view.submit(view_functions.square, 2).result(PATIENCE) == 4
        asyncio.run(pool.aclose())
        with pytest.raises(PoolClosedError) as caught:
            view.submit(view_functions.square, 2).result(PATIENCE)
        assert isinstance(caught.value, RuntimeError)

    def test_closing_pool_ends_waiting_futures(self, tmp_path):
        """Nobody waits for ever when the pool is closed under a view."""
        pool = Pool("closing view", max_workers=1)
        view = pool.executor()
        futures = [view.submit(view_functions.wait_for, tmp_path / "go", n) for n in range(3)]
        futures += [
            inside.mapping_executor(view).submit(view_functions.wait_for, tmp_path / "go", 9)
        ] * 2
        until(lambda: list(tmp_path.iterdir()))
        asyncio.run(pool.aclose(drain=0.0))
        for future in futures:
            assert isinstance(future.exception(PATIENCE), PoolClosedError)

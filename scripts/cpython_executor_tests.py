"""CPython's own tests of executors, run on `Pool.executor()`.

The interpreter brings them: Python 3.12 or later, with its package `test`, which some distributions
leave out. So this needs an environment of such a Python with `offload[interactive]` in it:

    python scripts/cpython_executor_tests.py            all of them, in a minute or two
    python scripts/cpython_executor_tests.py -k cancel -v

They run as they are written, but for this:

- An executor is a view of a pool, made by `make_executor`, with forkserver and with spawn. The
  programs that some tests run import it, and `multiprocessing`, which one of them forgets.
- `shutdown(cancel_futures=True)` waits until a worker has a call. `test_cancel_futures` submits
  fifty, shuts down at once, and wants that some were cancelled and some ran. For stdlib a call runs
  when it is in the pipe of a process that may still be starting, so that it cannot be cancelled;
  for us when a worker has it, so that at once all can.
- That `max_workers` is out of range is told in stdlib's words; a pool has its own.
- What is of the insides of `ProcessPoolExecutor` and `ThreadPoolExecutor` is left out.
"""

import itertools
import sys
import time
import unittest
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from offload import Pool
from offload.executor import PoolExecutor

IMPORT = "from concurrent.futures import make_executor"
OURS = f"""import multiprocessing, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from {Path(__file__).stem} import make_executor"""

_numbers = itertools.count()


def make_executor(max_workers: int = 5, mp_context: BaseContext | None = None) -> PoolExecutor:
    """Return an executor as `ProcessPoolExecutor(max_workers, mp_context)` would be."""
    if max_workers < 1:
        raise ValueError("max_workers must be greater than 0")
    pool = Pool(
        f"CPython {next(_numbers)}",
        max_workers=max_workers,
        start_method=mp_context.get_start_method() if mp_context is not None else None,
        os_priority="normal",
    )
    view = pool.executor()
    end_view = view.shutdown

    def shutdown(wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - stdlib's
        if cancel_futures:
            deadline = time.monotonic() + 60
            while not pool.statistics().busy and time.monotonic() < deadline:
                time.sleep(0.001)
        end_view(wait, cancel_futures=cancel_futures)

    view.pool, view.shutdown = pool, shutdown
    return view


class OnPool:
    """What makes and ends the executor of a test."""

    executor_type = staticmethod(make_executor)

    def tearDown(self) -> None:
        """End the pool as well: its workers would be taken for children left behind."""
        pool = self.executor.pool
        self.executor.shutdown()
        pool.kill().result(60)
        super().tearDown()


def load_tests(
    loader: unittest.TestLoader, _standard_tests: object, _pattern: object
) -> unittest.TestSuite:
    """Put the tests of CPython together with executors of ours."""
    from test.test_concurrent_futures import executor, test_as_completed, test_shutdown, test_wait
    from test.test_concurrent_futures.util import BaseTestCase, ExecutorMixin

    run_program = test_shutdown.assert_python_ok

    def run_ours(option: str, text: str) -> Any:
        if IMPORT not in text:
            raise ValueError(text)
        return run_program(option, text.replace(IMPORT, OURS))

    test_shutdown.assert_python_ok = run_ours
    suite = unittest.TestSuite()
    kinds = (
        executor.ExecutorTest,
        test_as_completed.AsCompletedTests,
        test_wait.WaitTests,
        test_shutdown.ExecutorShutdownTest,
    )
    for kind, method in itertools.product(kinds, ("forkserver", "spawn")):
        name = f"{kind.__name__} {method}"
        case = type(name, (OnPool, kind, ExecutorMixin, BaseTestCase), {"ctx": method})
        suite.addTests(loader.loadTestsFromTestCase(case))
    return suite


if __name__ == "__main__":
    if sys.version_info < (3, 12):
        sys.exit("Python 3.12 or later is needed: before, these tests are in one file")
    unittest.main()

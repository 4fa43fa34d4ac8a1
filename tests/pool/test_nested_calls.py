"""Offloaded functions that call each other: inside a worker all of them run in place."""

import asyncio

import anyio
import pytest

from offload import FunctionError, Pool
from offload._child import context
from tests.support.functions import lookalike as functions


@pytest.fixture(scope="module", autouse=True)
def _pool():
    """Keep one warm pool for all tests of this module, as a server does."""
    asyncio.run(Pool.named().open())
    yield
    asyncio.run(Pool.named().aclose(drain=0.0))


@pytest.mark.anyio
class TestInWorker:
    async def test_plain_code_gets_values(self):
        """A function that calls others, maps and iterates them as plain ones gets what they do."""
        assert await functions.order([2, 3]) == (4, 6, "Price", 6, [1, 3], [0, 1], [0, 1])

    async def test_super_works(self):
        """An offloaded method can use the offloaded method of its base."""
        assert await functions.Invoice().render() == "base+invoice"

    async def test_generator_calls_too(self):
        """In a stream, too, a nested call is its value."""
        assert [item async for item in functions.generator_of_calls.stream(4)] == [0, 0, 1, 3]


class TestWhoCalls:
    """As in a worker, in this process."""

    @pytest.fixture(autouse=True)
    def _worker(self, monkeypatch):
        monkeypatch.setattr(context.process, "is_worker", True)

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test_async_code_awaits(self, backend):
        """Where an event loop runs, a call is awaited as everywhere."""

        async def main():
            assert context.in_async_code()
            return await functions.report(3), await functions.report.map([3])

        assert anyio.run(main, backend=backend) == (3, [3])

    def test_thread_beside_a_loop_is_plain_code(self):
        """It is the loop of the own thread that counts."""

        async def main():
            return await asyncio.to_thread(lambda: functions.report(3))

        assert asyncio.run(main()) == 3
        assert not context.in_async_code()

    def test_generator_function_is_not_called_by_async_code(self):
        """There it is iterated as everywhere, and the error says how."""

        async def main():
            functions.items(3)

        with pytest.raises(FunctionError, match=r"async for item in items\.stream"):
            asyncio.run(main())


def test_outside_a_worker_plain_code_gets_a_coroutine():
    """A server's plain code cannot wait for a worker: the call is one to be awaited."""
    coroutine = functions.report(3)
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()
    with pytest.raises(TypeError, match="async for item in items"):
        iter(functions.items.stream(3))

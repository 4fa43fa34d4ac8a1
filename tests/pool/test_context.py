"""Context variables cross to the worker, and callbacks run in the context of their caller."""

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import ArgumentError, Pool
from tests.support import inside
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import pool as pool_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, until

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


@contextlib.contextmanager
def temporary_pool(**options: Any) -> Iterator[Pool]:
    """Make a pool for one test, whose name is free again after it."""
    pool = Pool("crossing temporary", **options)
    try:
        yield pool
    finally:
        pool.kill().result(PATIENCE)


class Kept:
    """Something that a request has in its context."""


@pytest.mark.anyio
class TestContext:
    @pytest.mark.guarantee(8)
    async def test_declared_variable_reaches_the_worker(self, pool: Pool) -> None:
        """The value that a declared variable has at the call is what the function sees."""
        crossing_functions.user.set("ada")
        crossing_functions.trace.set({"id": [1, 2]})
        assert await pool.run(crossing_functions.seen) == ("ada", {"id": [1, 2]}, "not set")

    async def test_unset_variable_stays_unset(self, pool: Pool) -> None:
        """A declared variable without a value has none in the worker: its default applies there."""
        assert await pool.run(crossing_functions.seen) == ("not set", "no trace", "not set")

    async def test_undeclared_variable_does_not_cross(self, pool: Pool) -> None:
        """What was not declared stays at home."""
        crossing_functions.undeclared.set("secret")
        assert (await pool.run(crossing_functions.seen))[2] == "not set"

    async def test_nothing_set_in_one_task_is_seen_by_the_next(self, pool: Pool) -> None:
        """Each task runs in a context of its own, declared or not."""
        crossing_functions.user.set("first")
        assert (await pool.run(crossing_functions.seen_and_changed, "dirt"))[0] == "first"
        assert (await pool.run(crossing_functions.seen)) == ("first", "no trace", "not set")

    async def test_concurrent_calls_keep_their_own_values(self, pool: Pool) -> None:
        """Two calls under way at once, from two tasks, each carry their own context."""
        found: dict[str, Any] = {}

        async def one(name: str) -> None:
            crossing_functions.user.set(name)
            found[name] = (await pool.run(crossing_functions.seen))[0]

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, f"user {number}")
        assert found == {name: name for name in found}
        assert len(found) == 20

    async def test_what_the_task_sets_does_not_come_back(self, pool: Pool) -> None:
        """The caller's variables are his own."""
        crossing_functions.user.set("mine")
        await pool.run(crossing_functions.seen_and_changed, "theirs")
        assert crossing_functions.user.get() == "mine"

    async def test_value_that_does_not_pickle_names_the_variable(self, pool: Pool) -> None:
        """A declared variable that holds a live object fails the call, and the error names it."""
        crossing_functions.trace.set(threading.Lock())
        with pytest.raises(ArgumentError, match=f"{HOME}:trace") as caught:
            await pool.run(crossing_functions.seen)
        assert "did not run" in str(caught.value)

    async def test_large_value_crosses(self, pool: Pool) -> None:
        """A value larger than a frame takes the way of large payloads."""
        crossing_functions.trace.set(b"x" * 300_000)
        assert (await pool.run(crossing_functions.seen))[1] == b"x" * 300_000


@pytest.mark.parametrize(
    "home, kind",
    [
        (f"{HOME}:nobody", ValueError),
        ("no.such.module:user", ValueError),
        ("nothing", ValueError),
        (":", ValueError),
        (f"{HOME}:", ValueError),
        (f"{HOME}:not_a_variable", TypeError),
    ],
)
def test_unknown_home_is_a_clear_error(home: str, kind: type[Exception]) -> None:
    """A variable that does not exist is found out at the first call, and named."""
    with temporary_pool(context_vars=[home]) as pool:
        with pytest.raises(kind, match="context_vars") as caught:
            asyncio.run(pool.run(crossing_functions.seen))
        assert repr(home) in str(caught.value)


def test_one_name_is_not_a_list_of_names() -> None:
    """A str, which is a list of letters to Python, is refused with what to write instead."""
    with pytest.raises(TypeError, match=r"not one str"):
        Pool("crossing refused", context_vars=f"{HOME}:user")  # type: ignore[arg-type]
    assert inside.known("crossing refused") is None


@pytest.mark.guarantee(8)
def test_items_of_two_maps_keep_their_contexts() -> None:
    """An item is begun when another has ended; it has the context of whoever wants it."""
    pool = Pool("seam map", max_workers=1, context_vars=["tests.support.functions.seams:tenant"])
    view = pool.executor()

    def run(name: str) -> list[tuple[int, str]]:
        seam_functions.tenant.set(name)
        return list(view.map(seam_functions.whose, range(12)))

    with ThreadPoolExecutor(2) as both:
        found = dict(zip("ab", both.map(run, "ab"), strict=True))
    assert found == {name: [(n, name) for n in range(12)] for name in "ab"}
    asyncio.run(pool.aclose())


@pytest.mark.anyio
@pytest.mark.guarantee(8)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_progress_is_told_in_the_context_of_its_caller(
    one_worker: Pool, entered: Fifo, tmp_path: Path
) -> None:
    """And not in that of the call that a worker was used for first."""
    told: list[str] = []

    async def ask(name: str, **options: Any) -> None:
        seam_functions.tenant.set(name)
        await call(
            one_worker,
            seam_functions.tell_progress,
            entered.path,
            gate.path,
            on_progress=lambda *_: told.append(seam_functions.tenant.get()),
            **options,
        )

    with Fifo(tmp_path / "gate") as gate:
        for name in "ab":
            gate.let()
            async with anyio.create_task_group() as group:
                group.start_soon(ask, name)
        assert set(told[: len(told) // 2]) == {"a"}
        assert set(told[len(told) // 2 :]) == {"b"}
        told.clear()
        async with anyio.create_task_group() as group:
            for name in "cd":
                group.start_soon(partial(ask, name, single_flight=True))
            # Who joins after the report is told nothing of it.
            await until(lambda: inside.callers_of_flights(one_worker) == [2])
            gate.let()
    assert set(told) == {"c", "d"}


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(6)
async def test_context_of_the_first_request_is_not_kept() -> None:
    """What is registered with a loop for a worker's life refers to nothing of a request."""
    gone: list[weakref.ref[Kept]] = []

    async def request(pool: Pool) -> None:
        kept = Kept()
        gone.append(weakref.ref(kept))
        seam_functions.tenant.set(kept)  # type: ignore[arg-type]
        assert await pool.run(pool_functions.echo, 1) == 1

    async with Pool("seam context", max_workers=1, spare_workers=0) as pool:
        await asyncio.create_task(request(pool))
        await pool.run(pool_functions.echo, 2)
        gc.collect()
        assert [reference() for reference in gone] == [None]


@pytest.mark.anyio
@one_loop
async def test_module_of_context_variables_may_use_pools() -> None:
    """It is imported at the first call, and may look at that very pool."""
    async with Pool(
        "hostile context",
        max_workers=1,
        context_vars=["tests.support.functions.hostile_context:variable"],
    ) as pool:
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.echo, 1) == 1
    sys.modules["tests.support.functions.hostile_context"].end()

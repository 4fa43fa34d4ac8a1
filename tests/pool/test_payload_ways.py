"""Payloads of medium size, views, text in pieces, limits, and the ways without a memfd."""

import asyncio
import gc
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload import ArgumentError, Pool, ResultError, WorkerCrashedError
from offload._values.options import CallOptions
from offload._wire.large import decode_large, encode_large
from offload._wire.page import BUFFER_BYTES
from offload._wire.payload import Parcel, pack
from offload._wire.pickling import TooLarge, dumps, in_pieces, pickled_size
from offload._workers.keeper import threads
from tests.pool.test_payloads import ANYTHING, same
from tests.support import inside
from tests.support.functions import crossing as functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, Fifo, until

MIB = 2**20


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: each call meets what the one before left in the shared buffers."""
    pool = Pool("payload ways", max_workers=1, spare_workers=0)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


def workers_of_all_pools() -> list[int]:
    """Return the workers of every pool that is open: each has a mapping of its own."""
    return [each.pid or 0 for pool in Pool.all() for each in pool.statistics().workers]


@pytest.fixture
def entered(tmp_path: Path) -> Iterator[Fifo]:
    """Where functions tell that they run."""
    with Fifo(tmp_path / "entered") as fifo:
        yield fifo


# --- shared buffers ---

MEDIUM = {
    "bytes": b"\x00\xff" * (MIB // 2),
    "bytes that look like a frame": b"\x95" * 100_000,
    "bytearray": bytearray(b"\x00\xff" * (MIB // 2)),
    "array": np.arange(MIB // 8, dtype="f8"),
    "Fortran array": np.asfortranarray(np.arange(MIB // 8, dtype="f8").reshape(512, -1)),
    "array in pieces": np.arange(MIB // 4, dtype="f8")[::2],
    "array of objects": np.array([{"a": 1}, None] * 10_000, dtype=object),
    "array of times": np.arange(100_000).astype("datetime64[s]"),
    "ASCII": "plain " * (MIB // 8),
    "text": "grüße " * (MIB // 8),
    "several": [b"x" * 300_000, bytearray(300_000), {"k": b"y" * 300_000}, "z" * 1000],
    "at the limit": bytes(BUFFER_BYTES - 300),
    "over the limit": bytes(BUFFER_BYTES - 10),
}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestSharedBuffers:
    @pytest.mark.parametrize("kind", MEDIUM)
    async def test_medium_values_come_back_equal(self, pool: Pool, kind: str) -> None:
        """Values too large for a frame, and not for a shared buffer, cross both ways, whole."""
        value = MEDIUM[kind]
        assert same(await pool.run(functions.echo, value), value)

    async def test_a_megabyte_needs_no_file_and_no_thread(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Buffers of up to 2 MiB go by way of the shared buffers, in and out."""
        await pool.run(functions.echo, 1)

        def never(*_: Any) -> Any:
            raise AssertionError("a megabyte went the way of large payloads")

        monkeypatch.setattr(os, "memfd_create", never)
        monkeypatch.setattr(threads, "submit", never)
        for kind in ("bytes", "bytearray", "ASCII", "several"):
            assert await pool.run(functions.echo, MEDIUM[kind]) == MEDIUM[kind]

    async def test_many_at_once_are_not_mixed_up(self) -> None:
        """A worker that is given its next call at once does not overwrite what was not read."""

        async def one(pool: Pool, number: int) -> None:
            value = bytes([number]) * (MIB + number)
            assert await pool.run(functions.echo, value) == value

        async with (
            Pool("payload buffers", max_workers=2) as pool,
            anyio.create_task_group() as group,
        ):
            for number in range(24):
                group.start_soon(one, pool, number)

    async def test_items_of_a_stream_are_not_mixed_up(self, pool: Pool) -> None:
        """Items that come faster than they are read find other ways than the one tray."""
        got = [item async for item in inside.stream(pool, functions.megabytes, 12)]
        assert [(len(item), item[:1]) for item in got] == [
            (MIB + number, bytes([number])) for number in range(12)
        ]

    async def test_argument_is_what_it_was_when_it_was_sent(
        self, pool: Pool, entered: Fifo
    ) -> None:
        """A call that waits in the queue does not see later changes of what it was given."""
        array, data = np.zeros(100_000), bytearray(200_000)
        gate = Fifo(Path(entered.path).with_name("gate"))
        with gate, anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, functions.run_and_hold, entered.path, gate.path, None)
                await entered.heard()
                sums: list[Any] = []

                async def call(value: Any) -> None:
                    sums.append(int(sum(await pool.run(functions.echo, value))))

                group.start_soon(call, array)
                group.start_soon(call, data)
                await until(lambda: pool.statistics().queued == 2)
                array[:] = 1
                data[:] = b"\x01" * len(data)
                gate.let()
        assert sums == [0, 0]

    async def test_large_graph_with_large_buffers_leaves_the_loop(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What takes long to pickle goes to a thread, whatever buffers are beside it."""
        used: list[Any] = []
        submit = threads.submit
        monkeypatch.setattr(threads, "submit", lambda *args: used.append(args) or submit(*args))
        value = {"a": [{"id": i} for i in range(20_000)], "b": b"x" * 500_000}
        assert await pool.run(functions.echo, value) == value
        assert used

    async def test_workers_killed_with_full_buffers_leave_nothing(
        self, pool: Pool, entered: Fifo
    ) -> None:
        """A worker that dies with a megabyte in its buffer takes the memory along."""
        process = psutil.Process()
        argument = [b"x" * MIB, functions.SlowToLoad(entered.path, b"")]
        before = 0
        for round_ in range(5):
            async with anyio.create_task_group() as group:

                async def calling() -> None:
                    with pytest.raises(WorkerCrashedError):
                        await pool.run(functions.echo, argument)

                group.start_soon(calling)
                psutil.Process(await entered.heard()).kill()
            assert await pool.run(functions.echo, b"y" * MIB) == b"y" * MIB
            if round_ == 1:
                gc.collect()
                before = process.num_fds()
        await until(lambda: process.num_fds() <= before)
        gc.collect()
        mapped = [each.path for each in process.memory_maps(grouped=False)]
        assert sum("offload-worker" in path for path in mapped) <= len(workers_of_all_pools()) + 2

    async def test_identical_medium_calls_share_a_run(self, pool: Pool, tmp_path: Path) -> None:
        """`single_flight` knows a call by its bytes, in a buffer as in a frame."""
        path = str(tmp_path / "runs")
        sizes = (MIB, MIB, MIB + 1, MIB)
        calls = [
            inside.call(pool, functions.noted_length, bytearray(size), path, single_flight=True)
            for size in sizes
        ]
        assert await asyncio.gather(*calls) == list(sizes)
        assert await anyio.Path(path).read_text() == "ran\n" * 2


@given(ANYTHING)
@settings(max_examples=100)
def test_what_is_packed_unpacks_or_is_refused(value: Any) -> None:
    """A packed value is whole, its size is right, and it fits a shared buffer."""
    try:
        packed = pack(value)
    except TooLarge:
        return
    if isinstance(packed, Parcel):
        assert packed.size == len(packed.joined()) <= BUFFER_BYTES
        assert packed == pack(value)
        assert hash(packed) == hash(pack(value))
        packed = packed.joined()
    assert same(pickle.loads(packed), value)


# --- views ---

views = st.builds(
    lambda form, count, step, frozen: memoryview(
        bytes(count * 8) if frozen else bytearray(os.urandom(count * 8))
    ).cast(form)[::step],
    st.sampled_from("BbhHiIlLqQfd"),
    st.sampled_from((0, 1, 3, 600, 10_000, 300_000)),
    st.sampled_from((1, 2, -1, 7)),
    st.booleans(),
)


def unequal(left: memoryview, right: memoryview) -> bool:
    """Return whether two views show different bytes, NaN being itself."""
    return left.tobytes() != right.tobytes()


class TestViews:
    @settings(max_examples=150)
    @given(views)
    def test_any_view_comes_back_equal(self, view: memoryview) -> None:
        """Content, format, shape and writability of a view cross, by every way."""
        body, fd, _ = encode_large([view])
        ways = [pickle.loads(dumps([view])), decode_large(body, fd)]
        for [again] in ways:
            assert not unequal(again, view)
            assert (again.format, again.shape) == (view.format, view.shape)
            if view.c_contiguous and view.nbytes:
                assert again.readonly == view.readonly

    def test_view_of_several_dimensions_keeps_its_shape(self) -> None:
        """Rows and columns come back, also of an array in Fortran order."""
        table = np.arange(60_000, dtype="f8").reshape(200, 300)
        for array in (table, np.asfortranarray(table), table[:, ::2]):
            view = memoryview(array)
            [again] = pickle.loads(dumps([view]))
            assert again.shape == view.shape
            assert np.array_equal(np.asarray(again), array)

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    @pytest.mark.parametrize("size", [10, 300_000, 8 * MIB])
    async def test_views_are_arguments_and_results(self, pool: Pool, size: int) -> None:
        """A view crosses as an argument, inside one, and as a result."""
        view = memoryview(bytearray(os.urandom(size)))
        assert await pool.run(functions.echo, view) == view
        assert (await pool.run(functions.echo, [{"k": view}]))[0]["k"] == view
        assert await pool.run(functions.echo_all, view, named=view) == ((view,), {"named": view})

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_readonly_view_cannot_be_written_to(self, pool: Pool) -> None:
        """What was read-only is so in the worker; what was not is a copy of the worker's own."""
        data = bytearray(300_000)
        with pytest.raises(TypeError, match="read-only"):
            await pool.run(functions.write_to, memoryview(data).toreadonly())
        assert (await pool.run(functions.write_to, memoryview(data)))[0] == 1
        assert data[0] == 0

    @pytest.mark.anyio
    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_views_cross_to_executors(self) -> None:
        """So they do where the other side is a worker of an executor."""
        view = memoryview(b"x" * 300_000)
        async with Pool("payload views", max_workers=1, executor=ThreadPoolExecutor) as pool:
            assert await pool.run(functions.echo, [view]) == [view]

    def test_copy_of_a_view_is_refused_as_ever(self) -> None:
        """Our reducer is ours alone: `copyreg`, and so `copy.copy`, know nothing of it."""
        dumps([memoryview(b"x")])
        with pytest.raises(TypeError, match="memoryview"):
            pickle.dumps(memoryview(b"x"))


# --- text ---


@settings(max_examples=30)
@given(st.text(min_size=1), st.integers(0, 3))
def test_text_in_pieces_is_the_same_text(sample: str, shift: int) -> None:
    """Any text, lone surrogates included, is whole wherever it was cut."""
    text = ("\udc80" + sample) * (600_000 // (len(sample) + 1) + 1) + "x" * shift
    body, fd, _ = encode_large(in_pieces(text))
    assert decode_large(body, fd) == text


# --- limits ---


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestLimits:
    @pytest.mark.parametrize("size", [5_000, 100_000, 5 * MIB])
    async def test_large_argument_is_refused_by_name_and_size(self, pool: Pool, size: int) -> None:
        """The error names the parameter, its size and the limit, and the function did not run."""
        keep = partial(inside.call, pool, functions.keep, max_payload_bytes=4_000)
        for value in (bytes(size), [bytes(size)], np.zeros(size, "u1"), {"k": "x" * size}):
            with pytest.raises(ArgumentError) as caught:
                await keep(1, value)
            assert caught.value.parameter == "value"
            assert f"{pickled_size(value):,} bytes" in str(caught.value)
            assert "max_payload_bytes (4,000)" in str(caught.value)
            assert "did not run" in str(caught.value)
        assert await keep(1, b"x") == 1

    async def test_arguments_count_together(self, pool: Pool) -> None:
        """The limit is that of the whole call, and the largest argument is named."""
        keep = partial(inside.call, pool, functions.keep, max_payload_bytes=10_000)
        with pytest.raises(
            ArgumentError, match=r"'value' takes 6,\d+ .* all of them 11,"
        ) as caught:
            await keep(bytes(5_000), bytes(6_000))
        assert caught.value.parameter == "value"

    @pytest.mark.parametrize("size", [5_000, 100_000, 5 * MIB])
    async def test_large_result_is_refused_by_size(self, pool: Pool, size: int) -> None:
        """The error tells the size and the limit, and that the function ran; the worker goes on."""
        pid = await pool.run(pool_functions.pid)
        for function in (functions.make_bytes, functions.make_list):
            with pytest.raises(ResultError, match=r"ran.*max_payload_bytes \(4,000\)") as caught:
                await inside.call(pool, function, size, max_payload_bytes=4_000)
            assert f"{size // 1000:,}"[:3] in str(caught.value)
        assert await pool.run(pool_functions.pid) == pid

    @pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
    async def test_pool_limit_is_the_default_and_a_function_may_have_its_own(
        self, executor: Any
    ) -> None:
        """A function inherits the pool's limit, has another, or none."""
        async with Pool(
            "payload limits", max_workers=1, max_payload_bytes=5_000, executor=executor
        ) as pool:
            with pytest.raises(ArgumentError, match="5,000"):
                await pool.run(functions.echo, bytes(6_000))
            with pytest.raises(ResultError, match="5,000"):
                await pool.run(functions.make_bytes, 6_000)
            assert await pool.run(functions.make_bytes, 4_000) == bytes(4_000)
            for limit in (None, 100_000):
                made = await inside.call(pool, functions.make_bytes, 6_000, max_payload_bytes=limit)
                assert len(made) == 6_000

    async def test_items_of_a_stream_are_limited_one_by_one(self, pool: Pool) -> None:
        """Each item may have the size; the first larger one ends the stream with the error."""
        limited = partial(inside.stream, pool, functions.megabytes, max_payload_bytes=MIB + 500)
        got = 0
        with pytest.raises(ResultError, match="max_payload_bytes"):  # noqa: PT012 - counts
            async for item in limited(1000, 100):
                got += len(item) > MIB - 1
        assert 1 <= got <= 6

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "1"])
    async def test_limits_are_checked(self, value: Any) -> None:
        """What is no limit is refused where it enters."""
        with pytest.raises((TypeError, ValueError), match="max_payload_bytes"):
            CallOptions(max_payload_bytes=value)
        with pytest.raises((TypeError, ValueError), match="max_payload_bytes"):
            Pool("payload limits refused", max_payload_bytes=value)

    async def test_bytes_in_flight_are_told(self, pool: Pool, entered: Fifo) -> None:
        """Statistics have the size of what runs and of what waits."""
        with Fifo(Path(entered.path).with_name("gate")) as gate, anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(
                    pool.run, functions.run_and_hold, entered.path, gate.path, bytes(300_000)
                )
                await entered.heard()
                group.start_soon(pool.run, functions.echo, bytes(5 * MIB))
                await until(lambda: pool.statistics().queued == 1)
                now = pool.statistics()
                gate.let()
        assert 300_000 <= now.running_bytes < 301_000
        assert 5 * MIB <= now.queued_bytes < 5 * MIB + 1000
        assert not pool.statistics().running_bytes


# --- without memfd ---


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_everything_crosses_where_there_is_no_memfd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without memfd_create(2) payloads cross in unlinked files, which leave nothing behind."""
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fds = psutil.Process().num_fds()
    async with Pool(
        "payload files", max_workers=1, initializer=functions.lose_memfd, initargs=(str(tmp_path),)
    ) as pool:
        assert await pool.run(functions.has_memfd) is False
        for value in (*MEDIUM.values(), bytes(8 * MIB), np.arange(MIB), [np.zeros(9_999)] * 3):
            assert same(await pool.run(functions.echo, value), value)
        assert same(await pool.run(functions.make_bytes, 3 * MIB), bytes(3 * MIB))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _full(os.write))
            with pytest.raises(ArgumentError, match="no room"):
                await pool.run(functions.echo, bytes(8 * MIB))
        assert await pool.run(functions.echo, 1) == 1
        assert not [left async for left in anyio.Path(tmp_path).iterdir()]
    await until(lambda: psutil.Process().num_fds() <= fds)


def _full(write: Any) -> Any:
    def refuse(fd: int, data: Any) -> int:
        if len(data) > 100_000:
            raise OSError(28, "No space left on device")
        return write(fd, data)

    return refuse

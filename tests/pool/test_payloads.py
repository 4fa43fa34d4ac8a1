"""What users send: of any size and layout, both ways, and the event loop hardly notices."""

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offload import ArgumentError, Pool, ResultError, WorkerCrashedError
from offload._pool.codec import encode_request
from offload._wire import frames, payload
from offload._wire.page import BUFFER_BYTES
from offload._workers.keeper import threads
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import crossing as functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, Fifo, until

MIB = 2**20
# The goal is 10 ms, and benchmarks/payload.py measures it. This is for two cores shared with the
# workers, and with other programs.
LAG_SECONDS = 0.05


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all tests of this module."""
    pool = Pool("payloads", max_workers=2)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@pytest.fixture(autouse=True)
def _no_file_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves no payload open, whatever came of its calls."""
    yield
    deadline = time.monotonic() + PATIENCE
    while left := open_files():
        assert time.monotonic() < deadline, left
        time.sleep(0.01)  # a thread that nobody waits for has no event


class Lag:
    """How late the event loop was at most, without the time in which the machine had no core."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0.01)
        self.seconds = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.005)
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            waited, begin = _waited(), time.perf_counter()
            await asyncio.sleep(0.001)
            late = time.perf_counter() - begin - 0.001
            if late > LAG_SECONDS / 5:
                # Thread by thread: one that has ended takes its past with it.
                late -= sum(
                    max(now - waited.get(each, 0.0), 0.0) for each, now in _waited().items()
                )
            self.seconds = max(self.seconds, late)


def _waited() -> dict[str, float]:
    # proc_pid_schedstat(5): the second number is the time spent waiting on a runqueue, in ns. Of
    # all threads: one that is not let run may hold the GIL that the loop waits for.
    waited = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            waited[thread.name] = int((thread / "schedstat").read_bytes().split()[1]) / 1e9
    return waited


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal, of the same types, arrays included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and bool(np.array_equal(left, right))
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


# --- layouts ---

FLAT = np.arange(60_000, dtype="f8")
READONLY = np.arange(60_000, dtype="i4")
READONLY.setflags(write=False)
VALUES = {
    "bytes": b"\x00\xff" * 100_000,
    "bytes, empty": b"",
    "bytes, at the limit of a frame": bytes(frames.INLINE_BYTES),
    "bytearray": bytearray(b"\x00\xff" * 100_000),
    "bytearray, empty": bytearray(),
    "str": "grüße " * 50_000,
    "PickleBuffer of bytes": b"x" * 100_000,
    "C order": FLAT.reshape(200, 300),
    "Fortran order": np.asfortranarray(FLAT.reshape(200, 300)),
    "every second": FLAT[::2],
    "backwards": FLAT[::-1],
    "a block": FLAT.reshape(200, 300)[10:90, 20:200],
    "transposed": FLAT.reshape(20, 30, 100).transpose(2, 0, 1),
    "zero length": np.zeros((0, 5), dtype="c16"),
    "no dimensions": np.array(2.5),
    "read-only": READONLY,
    "strings": np.array(["a", "ß"] * 20_000),
    "objects": np.array([{"a": 1}, None, "b"] * 10_000, dtype=object),
    "records": np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "times": np.arange(50_000).astype("M8[s]"),
    "broadcast": np.broadcast_to(np.arange(300.0), (200, 300)),
}
WRAPS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda value: value,
    "in a list": lambda value: [1, value, "x"],
    "in dicts": lambda value: {"a": {"b": (value, value)}},
    "in a dataclass": lambda value: functions.Document("n", b"", [value], table=None),
    "with slots": lambda value: functions.Slotted(bytearray(5), value),
}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("wrap", WRAPS)
async def test_layouts_come_back_equal(pool: Pool, wrap: str) -> None:
    """Every kind of buffer, alone and nested, arrives and comes back with its values and type."""
    for name, value in VALUES.items():
        result = await pool.run(functions.echo, WRAPS[wrap](value))
        expected = WRAPS[wrap](value)
        if wrap == "in a dataclass":
            result, expected = result.pages, expected.pages
        elif wrap == "with slots":
            result, expected = result.part, expected.part
        assert same(result, expected), name


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestArrays:
    @pytest.mark.parametrize("order", ["C", "F"])
    async def test_order_and_writability_stay(self, pool: Pool, order: Any) -> None:
        """The function gets the memory layout that the caller had, and may write where he could."""
        array = np.zeros((300, 200), order=order)
        seen = await pool.run(functions.describe_array, array)
        assert seen == ("<f8", (300, 200), order == "C", order == "F", True)
        array.setflags(write=False)
        assert not (await pool.run(functions.describe_array, array))[-1]

    async def test_writing_in_the_worker_does_not_reach_the_caller(self, pool: Pool) -> None:
        """The worker writes to its own copy; the result may be written to as well."""
        for value in (np.zeros(100_000), bytearray(100_000), np.zeros(3), bytearray(3)):
            result = await pool.run(functions.write_to, value)
            assert (value[0], result[0]) == (0, 1)
            result[1] = 2

    async def test_readonly_argument_cannot_be_written_to(self, pool: Pool) -> None:
        """What was read-only is so in the worker."""
        for size in (3, 100_000):
            array = np.zeros(size)
            array.setflags(write=False)
            with pytest.raises(ValueError, match="read-only"):
                await pool.run(functions.write_to, array)

    async def test_result_in_fortran_order(self, pool: Pool) -> None:
        """The layout of a result stays as well."""
        result = await pool.run(functions.make_array, (300, 200), "F")
        assert result.flags.f_contiguous
        assert result[0, 0] == 0.0
        assert result.sum() == sum(range(60_000))

    async def test_aliases_stay_one_object(self, pool: Pool) -> None:
        """What is one object at the caller is one in the worker."""
        for value in ([1], np.zeros(100_000), bytearray(100_000), b"x" * 100_000):
            assert await pool.run(functions.is_same_object, [value, value])


# --- sizes ---

BIG: dict[str, Callable[[], Any]] = {
    "bytes": lambda: os.urandom(MIB) * 64,
    "bytearray": lambda: bytearray(os.urandom(MIB) * 64),
    "float64 array": lambda: np.random.default_rng(1).random(8 * MIB),
    "Fortran array": lambda: np.asfortranarray(np.ones((2896, 2896))),
    "bytearray in a dataclass": lambda: functions.Document("n", b"", table=bytearray(64 * MIB)),
}


@pytest.mark.guarantee(1)
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.holds_loop("what came back is compared, when `Lag` has watched the call")
@pytest.mark.parametrize("kind", BIG)
async def test_64_mib_in_and_out_do_not_hold_the_loop(pool: Pool, kind: str) -> None:
    """64 MiB cross both ways and arrive whole, while the loop goes round."""
    value = BIG[kind]()
    async with Lag() as lag:
        result = await pool.run(functions.echo, value)
    assert result == value if not isinstance(value, np.ndarray) else same(result, value)
    assert lag.seconds < LAG_SECONDS


@pytest.mark.guarantee(1)
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.holds_loop("what came back is compared, when `Lag` has watched the call")
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(FLAT.repeat(64)[::2], id="array in pieces"),
        pytest.param("ascii " * 3_000_000, id="str"),
        pytest.param(
            [{"id": i, "name": f"n{i}", "value": i / 7} for i in range(40_000)], id="dicts"
        ),
        pytest.param(
            {"a": [{"id": i, "name": f"n{i}", "value": i / 7} for i in range(40_000)]},
            id="dicts in a dict",
        ),
    ],
)
async def test_megabytes_of_objects_do_not_hold_the_loop(pool: Pool, value: Any) -> None:
    """Megabytes of small objects, or of what must be copied, are no matter of the loop's either."""
    async with Lag() as lag:
        result = await pool.run(functions.echo, value)
    assert same(result, value)
    assert lag.seconds < 2 * LAG_SECONDS


@pytest.mark.anyio
async def test_sizes_around_every_limit(pool: Pool) -> None:
    """A payload is whole whatever its size is relative to frames, buffers and pages."""
    frame = frames.INLINE_BYTES
    sizes = {0, 1, 4095, 4096, 4097, 60 * 1024, 4 * frame, 4 * frame + 1}
    sizes |= {frame + delta for delta in (*range(-150, -50, 7), -2, -1, 0, 1, 2, 100)}
    for size in sorted(sizes):
        for make in (bytes, bytearray, lambda size: "x" * size):
            assert await pool.run(functions.echo, make(size)) == make(size)
            assert await pool.run(pool_functions.length, [make(size)]) == 1


@pytest.mark.anyio
async def test_many_large_calls_at_once(pool: Pool) -> None:
    """Large payloads of several calls under way at once are not mixed up."""

    async def one(number: int) -> None:
        value = bytes([number]) * (MIB + number)
        assert await pool.run(functions.echo, value) == value

    async with anyio.create_task_group() as group:
        for number in range(24):
            group.start_soon(one, number)


# --- any value ---

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.dates(),
    st.uuids(),
    st.decimals(allow_nan=False),
)
KEYS = st.one_of(st.integers(), st.text(), st.tuples(st.integers(), st.text()))
SIZES = st.sampled_from([0, 1, 4000, 5000, 65_400, 65_536, 70_000, 300_000])
LARGE = st.one_of(
    SIZES.map(bytes),
    SIZES.map(bytearray),
    SIZES.map(lambda size: "ß" * size),
    SIZES.map(lambda size: list(range(size // 10))),
    SIZES.map(lambda size: np.arange(size // 8, dtype="f8")),
    SIZES.map(lambda size: np.arange(size // 4, dtype="i4")[::3]),
    SIZES.map(lambda size: functions.Document("d", bytes(size))),
)
ANYTHING = st.recursive(
    st.one_of(SCALARS, LARGE),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


def test_any_value_comes_back_equal(pool: Pool) -> None:
    """What pickles comes back equal and of its type, positional or by keyword."""
    with asyncio.Runner() as runner:

        @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(value=ANYTHING, other=ANYTHING)
        def comes_back(value: Any, other: Any) -> None:
            values, named = runner.run(pool.run(functions.echo_all, value, other=other))
            assert same(values, (value,))
            assert same(named, {"other": other})

        comes_back()


# --- what goes wrong on the way ---


@pytest.mark.anyio
class TestLostOnTheWay:
    @pytest.mark.guarantee(3)
    async def test_worker_killed_while_it_unpickles(self, pool: Pool, entered: Fifo) -> None:
        """A worker that dies with a large argument half read costs that call only."""
        argument = [bytes(16 * MIB), functions.SlowToLoad(entered.path, bytes(MIB))]
        await self.lost(pool, entered, functions.echo, argument)

    @pytest.mark.guarantee(3)
    async def test_worker_killed_while_it_pickles(self, pool: Pool, entered: Fifo) -> None:
        """A worker that dies with a large result half written costs that call."""
        await self.lost(pool, entered, functions.return_slowly, entered.path)

    async def lost(self, pool: Pool, entered: Fifo, function: Any, *args: Any) -> None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:

                async def calling() -> None:
                    with pytest.raises(WorkerCrashedError):
                        await pool.run(function, *args)

                group.start_soon(calling)
                pid = await entered.heard()
                psutil.Process(pid).kill()
            await until(lambda: not open_files())
            assert await pool.run(functions.make_bytes, 300_000) == bytes(300_000)

    @pytest.mark.guarantee(4)
    async def test_cancelled_at_any_moment(self, pool: Pool) -> None:
        """A call that is cancelled while its payload is on its way leaves nothing open."""
        value = bytes(8 * MIB)
        with anyio.fail_after(6 * PATIENCE):
            for step in range(24):
                with anyio.move_on_after(step * 0.001):
                    await pool.run(functions.echo, value)
            await until(lambda: not open_files())
            await until(lambda: not pool.statistics().busy)
            assert await pool.run(functions.echo, 1) == 1

    async def test_memory_comes_back(self, pool: Pool, entered: Fifo) -> None:
        """Ten large payloads whose workers die leave no memory behind."""
        process = psutil.Process()
        argument = [bytes(16 * MIB), functions.SlowToLoad(entered.path, b"")]
        await self.lost(pool, entered, functions.echo, argument)
        before, shared = process.memory_info().rss, shared_bytes()
        for _ in range(5):
            await self.lost(pool, entered, functions.echo, argument)
        assert process.memory_info().rss - before < 40 * MIB
        assert shared_bytes() - shared < 40 * MIB


def shared_bytes() -> int:
    """Return how much memory anonymous files of this process and its children take.

    Not Shmem of /proc/meminfo, which other tests of the machine change as well.
    """
    sizes: dict[int, int] = {}
    process = psutil.Process()
    for pid in (process.pid, *(child.pid for child in process.children(recursive=True))):
        with contextlib.suppress(OSError):  # it may have ended
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "/memfd:" in str(fd.readlink()):
                        sizes[fd.stat().st_ino] = fd.stat().st_blocks * 512
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                span, _, _, _, inode, *name = line.split()
                if name and name[0].startswith("/memfd:"):
                    start, end = (int(each, 16) for each in span.split("-"))
                    sizes.setdefault(int(inode), end - start)
    return sum(sizes.values())


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestNoRoom:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EMFILE])
    @pytest.mark.parametrize("where", ["memfd_create", "write"])
    async def test_no_room_for_arguments_is_their_own_error(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch, where: str, number: int
    ) -> None:
        """Where memory or descriptors run out, one call fails, clearly, and the next one runs."""

        def refuse(*_: Any) -> Any:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(frames.os, where, _in_payload_threads(refuse, getattr(os, where)))
            with pytest.raises(ArgumentError, match="no room") as caught:
                await pool.run(functions.echo, bytes(4 * MIB))
            # Small calls need no file.
            assert await pool.run(functions.echo, 5) == 5
        assert isinstance(caught.value.__cause__, OSError)
        assert "did not run" in str(caught.value)
        assert await pool.run(functions.echo, bytes(4 * MIB)) == bytes(4 * MIB)

    async def test_half_written_arguments_are_freed(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that fills up on the way leaves no file behind."""
        written = 0

        def fill(fd: int, data: Any) -> int:
            nonlocal written
            written += 1
            if written > 3:
                raise OSError(errno.ENOSPC, "full")
            return write(fd, data[: 100 * 1024])

        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(frames.os, "write", _in_payload_threads(fill, os.write))
            with pytest.raises(ArgumentError, match="no room"):
                await pool.run(functions.echo, bytes(8 * MIB))
        assert written > 3
        assert not open_files()

    async def test_os_error_of_a_reducer_names_its_argument(self, pool: Pool) -> None:
        """An OSError of an argument's own making is not taken for a full disk."""
        with pytest.raises(ArgumentError) as caught:
            await pool.run(functions.echo, [bytes(MIB), functions.NotFoundWhenPickled()])
        assert caught.value.parameter == "value"
        assert "NotFoundWhenPickled" in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestNoRoomInTheWorker:
    async def test_no_room_for_the_result_is_a_result_error(self) -> None:
        """A worker that finds no room for a result says so, and goes on."""
        async with Pool(
            "payloads without room", max_workers=1, initializer=functions.forbid_memory
        ) as pool:
            pid = await pool.run(pool_functions.pid)
            with pytest.raises(ResultError, match="No space left"):
                await pool.run(functions.make_bytes, 4 * MIB)
            # A large traceback finds no room either: it is cut.
            with pytest.raises(Exception, match="Large") as caught:
                await pool.run(functions.raise_large, MIB)
            assert len(str(caught.value)) < 100_000
            assert await pool.run(pool_functions.pid) == pid


def _in_payload_threads(fake: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    # Event loops write to their own pipes, and pytest to files.
    def call(*args: Any) -> Any:
        is_ours = threading.current_thread().name.startswith("offload-payload")
        return (fake if is_ours else real)(*args)

    return call


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_result_that_waits_for_a_thread_is_closed_when_cancelled(pool: Pool) -> None:
    """A large result whose caller leaves before a thread has come to it leaves no file open."""
    gate = threading.Event()
    with anyio.fail_after(PATIENCE):
        calling = asyncio.ensure_future(pool.run(functions.make_bytes, 4 * MIB))
        blocking = [threads.submit(gate.wait, PATIENCE) for _ in range(8)]
        try:
            await until(open_files)
            await asyncio.sleep(0)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            assert not open_files()
        finally:
            gate.set()
            for each in blocking:
                await asyncio.wrap_future(each)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_small_calls_make_no_file_and_use_no_thread(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of a few bytes is one send and one receive."""

    def never(*_: Any) -> Any:
        raise AssertionError("a small call went the way of large ones")

    monkeypatch.setattr(frames.os, "memfd_create", never)
    monkeypatch.setattr(threads, "submit", never)
    for value in (1, "x" * 100, b"y" * 100, [1, {"a": (2.0, None)}], np.zeros(10)):
        assert same(await pool.run(functions.echo, value), value)


@dataclass
class Counted:
    """An argument that counts how often it is pickled, in all of this process."""

    path: str

    def __reduce__(self) -> Any:
        pool_functions.note(self.path, "pickled")
        return str, ("counted",)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_small_argument_is_pickled_once(pool: Pool, tmp_path: Path) -> None:
    """Sending costs one run of the pickler."""
    path = tmp_path / "pickled"
    assert await pool.run(functions.echo, Counted(str(path))) == "counted"
    assert path.read_text().splitlines() == ["pickled"]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_size_of_a_request_is_that_of_its_payload(pool: Pool) -> None:
    """What is counted against `max_queued_bytes` is what the payload takes, in a file or not."""
    for size in (10, 50_000, 100_000, 5 * MIB):
        invocation = inside.invocation_of(pool, functions.echo, bytes(size))
        request = await encode_request(invocation, None, has_descriptors=True)
        try:
            assert size <= request.size_bytes <= size + 300
            assert (request.descriptor is None) == (size < BUFFER_BYTES)
            assert isinstance(request.payload, payload.Parcel) == (size == 100_000)
            assert request.descriptor is None or len(request.payload) < 300
        finally:
            request.close()

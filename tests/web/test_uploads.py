"""Files that cross as descriptors, and responses that are sent as they come from a worker."""

import asyncio
import errno
import gc
import io
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from offload import ArgumentError, Pool, ResultError, offload
from offload.starlette import (
    BytesResponse,
    CancelOnDisconnect,
    SharedFile,
    WorkerStreamResponse,
    exception_handlers,
    receive_file,
    spool_upload,
)
from tests.support import inside
from tests.support.functions import crossing as functions
from tests.support.processes import PATIENCE, Fifo, until

MIB = 2**20


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool for all tests of this module."""
    pool = Pool("uploads", max_workers=2)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@pytest.fixture
def entered(tmp_path: Path) -> Iterator[Fifo]:
    """Where functions tell that they run."""
    with Fifo(tmp_path / "entered") as fifo:
        yield fifo


def spooled(data: bytes) -> SharedFile:
    """Return a spooled file of these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return SharedFile(os.dup(file.fileno()), len(data))


def unnamed() -> list[str]:
    """Return the files without a name that this process has open, but those shared by workers."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if "(deleted)" in target and "memfd:offload-worker" not in target:
            found.append(target)
    return found


@pytest.fixture(autouse=True)
def _no_file_stays() -> Iterator[None]:
    """Every test leaves no file open."""
    before = len(unnamed())
    yield
    deadline = time.monotonic() + PATIENCE
    while len(left := unnamed()) > before:
        assert time.monotonic() < deadline, left
        gc.collect()  # what an error of a call refers to
        time.sleep(0.01)  # a thread that nobody waits for has no event


# --- files as arguments ---


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestFiles:
    async def test_worker_reads_the_same_bytes(self, pool: Pool) -> None:
        """The worker gets a file at its beginning, wherever we have read or sought."""
        data = os.urandom(3 * MIB)
        with spooled(data) as file:
            file.seek(1000)
            assert await pool.run(functions.read_all, file) == (data, len(data))
            assert await pool.run(functions.read_all, file=file) == (data, len(data))
            assert file.tell() == 1000

    async def test_several_and_nested_files_are_told_apart(self, pool: Pool) -> None:
        """Files in containers arrive where they were, and one file twice is one file."""
        with spooled(b"one") as one, spooled(b"two" * MIB) as two:
            named = {"first": one, "rest": [two, one]}
            assert await pool.run(functions.read_named, named) == [b"one", b"two" * MIB, b""]

    async def test_many_calls_read_one_file_at_once(self, pool: Pool) -> None:
        """Each call has a position of its own."""
        data = os.urandom(MIB)
        with spooled(data) as file, anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:

                async def check() -> None:
                    assert await pool.run(functions.read_slowly, file) == data

                for _ in range(6):
                    group.start_soon(check)

    async def test_file_may_be_closed_while_its_call_waits(
        self, pool: Pool, entered: Fifo, tmp_path: Path
    ) -> None:
        """A call has a descriptor of its own from when it is made."""
        with Fifo(tmp_path / "gate") as gate, anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(
                        pool.run, functions.run_and_hold, entered.path, gate.path, None
                    )
                    await entered.heard()
                got: list[Any] = []

                async def call() -> None:
                    with spooled(b"x" * 1000) as file:
                        group.start_soon(finish, pool.run(functions.read_all, file))
                        await until(lambda: pool.statistics().queued == 1)

                async def finish(run: Any) -> None:
                    got.append(await run)

                await call()
                gate.let(2)
        assert got == [(b"x" * 1000, 1000)]

    async def test_call_that_is_run_again_reads_from_the_beginning(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        """What a worker read before it died is read again by the next one."""
        flag = str(tmp_path / "flag")
        with spooled(b"abc") as file:
            call = inside.call(pool, functions.read_and_crash_once, file, flag, max_crash_retries=1)
            assert await call == b"abc"

    async def test_no_descriptor_is_left_in_the_worker(self, pool: Pool) -> None:
        """A hundred files later the worker has as many descriptors as before."""
        with spooled(b"x") as file:
            before = await pool.run(functions.open_descriptors)
            for _ in range(50):
                assert await pool.run(functions.read_all, file) == (b"x", 1)
                await pool.run(functions.ignore, file)
            assert await pool.run(functions.open_descriptors) <= before + 1

    async def test_argument_that_does_not_pickle_is_named_and_not_the_file(
        self, pool: Pool
    ) -> None:
        """The culprit is found beside a file, and the file's descriptor is closed."""
        fds = psutil.Process().num_fds()
        with spooled(b"x") as file, pytest.raises(ArgumentError) as caught:
            await pool.run(functions.echo_all, file, other=lambda: None)
        assert caught.value.parameter == "other"
        await until(lambda: psutil.Process().num_fds() <= fds)

    async def test_file_is_no_result(self, pool: Pool) -> None:
        """A file cannot come back; the worker says so and goes on."""
        with spooled(b"x") as file, pytest.raises(ResultError, match="only as an argument"):
            await pool.run(functions.echo, file)
        assert await pool.run(functions.echo, 1) == 1

    @pytest.mark.parametrize("executor", [ThreadPoolExecutor, ProcessPoolExecutor])
    @pytest.mark.parametrize("size", [0, 1, 3_000_000])
    async def test_workers_of_executors_get_a_copy(self, executor: type, size: int) -> None:
        """Where no descriptor can travel, all that is in the file does, wherever ours stands."""
        data = os.urandom(size)
        async with Pool("uploads executor", max_workers=1, executor=executor) as pool:
            with spooled(data) as file:
                file.read(1)
                for _ in range(2):
                    assert await pool.run(functions.read_all, file) == (data, size)

    async def test_too_many_files_are_refused(self, pool: Pool) -> None:
        """More than 31 files in one call are an error that says so."""
        with spooled(b"x") as file:
            files = {number: spooled(b"x") for number in range(31)}
            assert await pool.run(functions.read_named, files) == [b"x"] * 31
            with pytest.raises(ArgumentError, match="at most 31"):
                await pool.run(functions.read_named, {**files, 31: file})
            for each in files.values():
                each.close()

    async def test_file_does_not_count_against_the_limit(self, pool: Pool) -> None:
        """`max_payload_bytes` is for what is pickled."""
        with spooled(bytes(100_000)) as file:
            call = inside.call(pool, functions.length_of, file, max_payload_bytes=2_000)
            assert await call == 100_000


class TestSpooledFile:
    def test_is_a_binary_file(self) -> None:
        """It reads, seeks and tells as every file does, and refuses what it cannot do."""
        with spooled(b"first\nsecond\n") as file:
            assert file.readline() == b"first\n"
            assert (file.tell(), file.seek(-7, os.SEEK_END), file.read(3)) == (6, 6, b"sec")
            assert file.seek(0) == 0
            assert io.TextIOWrapper(io.BytesIO(file.read())).read() == "first\nsecond\n"
            assert file.read() == b""
            assert not file.writable()
            with pytest.raises(ValueError, match="position"):
                file.raw.seek(-1)
            assert repr(file) == "<SharedFile 13 bytes>"
        assert repr(file) == "<SharedFile closed>"
        with pytest.raises(ValueError, match="closed"):
            file.read()


# --- uploads ---


async def save(request: Request) -> Response:
    """Count what was received."""
    with await receive_file(request, max_bytes=2 * MIB) as file:
        return Response(f"{file.size} {file.read(3)!r}")


def app(**routes: Any) -> Starlette:
    """Return an application of these endpoints."""
    return Starlette(
        routes=[Route(f"/{name}", each, methods=["GET", "POST"]) for name, each in routes.items()],
        exception_handlers=exception_handlers,
    )


def client(application: Any) -> httpx.AsyncClient:
    """Return a client of the application."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://test", timeout=PATIENCE
    )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
class TestReceiving:
    @pytest.mark.parametrize("size", [0, 1, 100_000, MIB, 2 * MIB])
    async def test_body_is_received_whole(self, size: int) -> None:
        """Whatever its size and its pieces, the file has all of the body."""

        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, size, 50_001):
                yield b"x" * min(50_001, size - start)

        async with client(app(save=save)) as http:
            whole = await http.post("/save", content=b"x" * size)
            pieces = await http.post("/save", content=parts())
        assert whole.text == pieces.text == f"{size} {b'xxx'[:size]!r}"

    # httpx leaves the generator that it was given to the collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("is_declared", [True, False])
    async def test_too_large_body_is_refused(self, is_declared: object) -> None:
        """413, by what the client declares or by what it sends, and the file is gone."""
        received = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal received
            for _ in range(64):
                received += MIB
                yield bytes(MIB)

        async with client(app(save=save)) as http:
            content = bytes(2 * MIB + 1) if is_declared else parts()
            response = await http.post("/save", content=content)
        assert response.status_code == 413
        assert response.headers["connection"] == "close"
        assert received <= 64 * MIB

    async def test_no_more_than_it_may_is_held(self) -> None:
        """Of a body of unknown length no more is taken in than the limit allows."""
        taken = 0

        async def receive() -> dict[str, Any]:
            nonlocal taken
            taken += 1
            return {"type": "http.request", "body": bytes(MIB), "more_body": True}

        request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
        with pytest.raises(HTTPException) as caught:
            await receive_file(request, max_bytes=5 * MIB)
        assert (caught.value.status_code, taken) == (413, 6)

    @pytest.mark.parametrize("declared", [b"\xb2", b"9" * 5000, b"+1", b"1_0", b"", b"ten"])
    async def test_length_that_is_no_number_is_not_believed(self, declared: bytes) -> None:
        """What a client declares never fails the server: the body itself is counted."""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"body"}

        headers = [(b"content-length", declared)]
        request = Request({"type": "http", "headers": headers, "method": "POST"}, receive)
        with await receive_file(request, max_bytes=4) as file:
            assert file.read() == b"body"

    async def test_full_disk_is_507(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No room for the body is the server's fault, and the client is told."""

        def refuse(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "writev", refuse)
        async with client(app(save=save)) as http:
            response = await http.post("/save", content=bytes(100))
        assert response.status_code == 507

    async def test_short_writes_lose_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the kernel does not take at once is written after it."""
        writev = os.writev
        monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [parts[0][:10]]))

        async def endpoint(request: Request) -> Response:
            with await receive_file(request, max_bytes=MIB) as file:
                return Response(file.read())

        data = os.urandom(100_000)
        async with client(app(echo=endpoint)) as http:
            assert (await http.post("/echo", content=data)).content == data

    async def test_uploads_have_a_bound_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is received and not closed counts, whoever sent it; the disk is the last bound."""

        def body(size: int) -> Request:
            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": bytes(size), "more_body": False}

            return Request({"type": "http", "headers": [], "method": "POST"}, receive)

        receive = partial(receive_file, max_bytes=MIB, max_total_bytes=150_000)
        first = await receive(body(100_000))
        for _ in range(2):  # what was refused takes nothing
            with pytest.raises(HTTPException) as caught:
                await receive(body(100_000))
            assert caught.value.status_code == 507
        first.close()
        (await receive(body(100_000))).close()
        del first
        nearly_full = os.statvfs_result((512, 512, 1000, 300, 300, 10, 10, 10, 0, 255))
        monkeypatch.setattr(os, "fstatvfs", lambda _: nearly_full)
        (await receive_file(body(50_000), max_bytes=MIB)).close()
        with pytest.raises(HTTPException) as caught:
            await receive_file(body(100_000), max_bytes=MIB)
        assert caught.value.status_code == 507

    async def test_body_that_does_not_go_on_is_408(self) -> None:
        """A client that stalls, or sends a byte now and then, holds nothing for long."""

        async def nothing() -> dict[str, Any]:
            await anyio.sleep_forever()
            raise AssertionError

        async def a_byte() -> dict[str, Any]:
            await anyio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

        for receive in (nothing, a_byte):
            request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
            with anyio.fail_after(PATIENCE), pytest.raises(HTTPException) as caught:
                await receive_file(request, max_bytes=MIB, stall_timeout=0.1)
            assert caught.value.status_code == 408
            assert caught.value.headers == {"Connection": "close"}

    async def test_body_that_goes_on_slowly_is_taken(self) -> None:
        """Time that passes while a body comes, or is written, is none that was waited in vain."""
        messages = [{"type": "http.request", "body": bytes(1000), "more_body": True}] * 5

        async def receive() -> dict[str, Any]:
            await anyio.sleep(0.05)
            return messages.pop() if messages else {"type": "http.request", "more_body": False}

        request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
        with await receive_file(request, max_bytes=MIB, stall_timeout=2.0) as file:
            assert file.size == 5000

    async def test_client_that_leaves_leaves_no_file(self) -> None:
        """A disconnect or a cancellation on the way closes the file."""
        messages = [{"type": "http.request", "body": bytes(MIB), "more_body": True}] * 2

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await anyio.sleep_forever()
            raise AssertionError

        request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
        with anyio.move_on_after(0.3) as scope:
            await receive_file(request, max_bytes=5 * MIB)
        assert scope.cancelled_caught
        assert not messages

    @pytest.mark.parametrize("size", [10, 3 * MIB])
    async def test_file_of_a_form_crosses(self, pool: Pool, size: int) -> None:
        """What a form has in memory or on disk goes to the worker as a descriptor."""
        upload = UploadFile(tempfile.SpooledTemporaryFile(max_size=MIB))  # noqa: SIM115
        await upload.write(b"x" * size)
        await upload.seek(0)
        with await spool_upload(upload) as file:
            await upload.close()
            assert await pool.run(functions.read_all, file) == (b"x" * size, size)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_large_upload_is_not_held_by_the_server(pool: Pool) -> None:
    """64 MiB of a body that a worker reads cost the server a few MiB at most."""

    async def endpoint(request: Request) -> Response:
        with await receive_file(request, max_bytes=100 * MIB) as file:
            return Response(str(await pool.run(functions.length_of, file)))

    async def parts() -> AsyncIterator[bytes]:
        piece = bytes(256 * 1024)
        for _ in range(256):
            yield piece

    async with client(app(length=endpoint)) as http:
        await http.post("/length", content=b"warm")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert (await http.post("/length", content=parts())).text == str(64 * MIB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024


# --- responses ---


class Recorder:
    """The server's side of one request: what was sent, and a client that reads when it is let.

    As real servers do, it tells of a disconnect when the response is complete.
    """

    def __init__(self, *, is_slow: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.read = asyncio.Semaphore(0) if is_slow else None
        self.gone = asyncio.Event()

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if self.read is not None and message["type"] == "http.response.body":
            await self.read.acquire()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.gone.set()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message.get("body", b"")) for message in self.sent)


SCOPE = {"type": "http", "method": "GET", "headers": [], "path": "/", "asgi": {}}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestBytesResponse:
    @pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 5 * MIB])
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_body_arrives_whole(self, size: int, kind: Any) -> None:
        """Length and body are right for every size and type, over HTTP."""
        data = os.urandom(size)
        content = kind(data)

        async def endpoint(_: Request) -> Response:
            return BytesResponse(content, 201, {"x-a": "b"}, "application/pdf")

        async with client(app(get=endpoint)) as http:
            response = await http.get("/get")
            head = await http.head("/get")
        assert (response.status_code, response.content) == (201, data)
        assert response.headers["content-length"] == head.headers["content-length"] == str(size)
        assert response.headers["content-type"] == "application/pdf"
        assert (response.headers["x-a"], head.content) == ("b", b"")

    async def test_pieces_are_views_of_the_result(self, pool: Pool) -> None:
        """What a worker returned is sent from where it is: no piece is a copy."""
        result = await pool.run(functions.make_bytes, 5 * MIB)
        server = Recorder()
        await BytesResponse(result)(dict(SCOPE), server.receive, server.send)
        pieces = [message["body"] for message in server.sent[1:]]
        assert all(piece.obj is result and piece.nbytes <= 256 * 1024 for piece in pieces)
        assert server.body == result
        assert [message["more_body"] for message in server.sent[1:]] == [True] * 19 + [False]

    async def test_no_more_than_a_piece_is_ahead_of_the_client(self) -> None:
        """A client that does not read is sent nothing more."""
        server = Recorder(is_slow=True)
        response = BytesResponse(bytes(5 * MIB))
        sending = asyncio.ensure_future(response(dict(SCOPE), server.receive, server.send))
        await until(lambda: len(server.sent) == 2)
        await asyncio.sleep(0)
        assert len(server.sent) == 2
        assert server.read is not None
        for _ in range(20):
            server.read.release()
        await sending
        assert server.body == bytes(5 * MIB)

    @pytest.mark.guarantee(1)
    @pytest.mark.parametrize("kind", [BytesResponse, WorkerStreamResponse])
    async def test_loop_goes_round_however_fast_the_client_reads(self, kind: type) -> None:
        """A server that takes all that it is given is given one piece a turn."""
        server = Recorder()
        turns_at: list[int] = []
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def send(message: dict[str, Any]) -> None:
            turns_at.append(turns)
            await server.send(message)

        async def items() -> AsyncIterator[bytes]:
            yield bytes(5 * MIB)

        turning = asyncio.create_task(turn())
        response = kind(items() if kind is WorkerStreamResponse else bytes(5 * MIB))
        await response(dict(SCOPE), server.receive, send)
        turning.cancel()
        assert server.body == bytes(5 * MIB)
        pieces = turns_at[1:21]
        assert sorted(set(pieces)) == pieces

    async def test_background_runs_after_the_body(self) -> None:
        """As in every response."""
        server = Recorder()
        ran: list[int] = []
        response = BytesResponse(b"x", background=BackgroundTask(lambda: ran.append(1)))
        await response(dict(SCOPE), server.receive, server.send)
        assert (server.body, ran) == (b"x", [1])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestStreamResponse:
    def stream(self, pool: Pool, function: Any, *args: Any) -> Any:
        return inside.stream(pool, function, *args)

    async def test_items_arrive_in_order(self, pool: Pool) -> None:
        """Bytes, text and views, small and large, are the body."""
        items = [b"ab", "ß", memoryview(b"cd"), bytearray(b"e" * MIB), b"", "f"]

        async def endpoint(_: Request) -> Response:
            return WorkerStreamResponse(
                self.stream(pool, functions.yield_all, items), media_type="text/plain"
            )

        async with client(app(get=endpoint)) as http:
            response = await http.get("/get")
            head = await http.head("/get")
        assert response.content == b"ab\xc3\x9fcd" + b"e" * MIB + b"f"
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert "content-length" not in response.headers
        assert (head.status_code, head.content) == (200, b"")

    async def test_slow_client_holds_the_worker_back(self, pool: Pool, tmp_path: Path) -> None:
        """The worker is never more than its window ahead of what the client has read."""
        made = tmp_path / "made"
        server = Recorder(is_slow=True)
        assert server.read is not None
        response = WorkerStreamResponse(self.stream(pool, functions.make_and_note, 60, str(made)))
        sending = asyncio.ensure_future(response(dict(SCOPE), server.receive, server.send))
        for read in range(0, 40, 4):
            await until(lambda read=read: len(server.sent) >= 2 + read)
            assert len(made.read_text().splitlines()) <= read + 2 + 8 + 1
            for _ in range(4):
                server.read.release()
        for _ in range(60):
            server.read.release()
        await sending
        assert len(server.body) == 60 * 10_000

    async def test_worker_is_free_when_the_client_leaves(self, pool: Pool, tmp_path: Path) -> None:
        """The generator is ended at once, and a background task does not run."""
        closed = tmp_path / "closed"
        server = Recorder(is_slow=True)
        ran: list[int] = []
        response = WorkerStreamResponse(
            self.stream(pool, functions.endless, str(closed)),
            background=BackgroundTask(lambda: ran.append(1)),
        )
        sending = asyncio.ensure_future(response(dict(SCOPE), server.receive, server.send))
        await until(lambda: len(server.sent) > 1)
        server.gone.set()
        with anyio.fail_after(PATIENCE):
            await sending
        await until(lambda: not pool.statistics().busy)
        assert ran == []

    async def test_client_that_leaves_before_the_first_item_is_answered(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        """Middleware waits for a response, and raises where there is none."""
        with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
            answers: list[int] = []

            async def endpoint(_: Request) -> Response:
                return WorkerStreamResponse(
                    self.stream(pool, functions.wait_and_yield, entered.path, gate.path)
                )

            async def pass_on(request: Request, call_next: Any) -> Response:
                response: Response = await call_next(request)
                answers.append(response.status_code)
                return response

            server = Recorder()
            inside = app(get=endpoint)
            inside.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
            scope = {**SCOPE, "path": "/get", "raw_path": b"/get"}
            asking = asyncio.ensure_future(inside(scope, server.receive, server.send))
            await entered.heard()
            server.gone.set()
            with anyio.fail_after(PATIENCE):
                await asking
            assert answers == [499]
            await until(lambda: not pool.statistics().busy)

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_background_runs_when_all_has_been_sent(self, pool: Pool, method: str) -> None:
        """The disconnect that servers tell after the last message is no leaving of the client."""
        server = Recorder()
        ran: list[int] = []
        response = WorkerStreamResponse(
            self.stream(pool, functions.yield_all, [b"a", b"b"]),
            background=BackgroundTask(lambda: ran.append(1)),
        )

        async def send(message: dict[str, Any]) -> None:
            await server.send(message)
            if server.gone.is_set():  # it is heard of before the server is done with the message
                await anyio.wait_all_tasks_blocked()

        await response({**SCOPE, "method": method}, server.receive, send)
        assert (server.body, ran) == (b"ab" if method == "GET" else b"", [1])

    async def test_last_message_that_fails_is_followed_by_nothing(self) -> None:
        """Where the server says that nobody takes it, nothing is raised, and no background runs."""
        server = Recorder()
        ran: list[int] = []

        async def items() -> AsyncIterator[bytes]:
            yield b"a"

        async def send(message: dict[str, Any]) -> None:
            await server.send(message)
            if server.gone.is_set():
                await anyio.wait_all_tasks_blocked()
                raise OSError(errno.EPIPE, "nobody takes it")

        async with aclosing(items()) as iterator:
            response = WorkerStreamResponse(
                iterator, background=BackgroundTask(lambda: ran.append(1))
            )
            await response(dict(SCOPE), server.receive, send)
        assert ran == []

    async def test_cancelled_response_closes_the_stream(self, pool: Pool, tmp_path: Path) -> None:
        """So it is when the server cancels the request."""
        closed = tmp_path / "closed"
        server = Recorder(is_slow=True)
        response = WorkerStreamResponse(self.stream(pool, functions.endless, str(closed)))
        sending = asyncio.ensure_future(response(dict(SCOPE), server.receive, server.send))
        await until(lambda: len(server.sent) > 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: not pool.statistics().busy)

    async def test_error_before_the_first_item_is_answered(self, pool: Pool) -> None:
        """A generator that fails at once is an error of the endpoint, not of the connection."""

        async def fails(_: Request) -> Response:
            return WorkerStreamResponse(self.stream(pool, functions.fail_after, 0))

        async def closed(_: Request) -> Response:
            other = Pool("uploads closed")
            await other.open()
            stream = self.stream(other, functions.fail_after, 0)
            await other.aclose()
            return WorkerStreamResponse(stream)

        async with client(app(fails=fails, closed=closed)) as http:
            with pytest.raises(ZeroDivisionError):
                await http.get("/fails")
            assert (await http.get("/closed")).status_code == 503

    async def test_error_after_the_first_item_breaks_the_response(self, pool: Pool) -> None:
        """No client can take a part for the whole: the last message is never sent."""
        server = Recorder()
        response = WorkerStreamResponse(self.stream(pool, functions.fail_after, 3))
        with pytest.raises(ZeroDivisionError):
            await response(dict(SCOPE), server.receive, server.send)
        assert server.body == b"xxx"
        assert all(message.get("more_body", True) for message in server.sent)
        await until(lambda: not pool.statistics().busy)

    async def test_disconnect_middleware_and_stream_agree(self, pool: Pool, tmp_path: Path) -> None:
        """Under `CancelOnDisconnect` a client that leaves ends the stream; nothing is raised."""
        closed = tmp_path / "closed"
        server = Recorder(is_slow=True)

        endless = offload(pool=pool)(functions.endless)

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            await WorkerStreamResponse(endless.stream(str(closed)))(scope, receive, send)

        application = CancelOnDisconnect(inner)
        sending = asyncio.ensure_future(application(dict(SCOPE), server.receive, server.send))
        await until(lambda: len(server.sent) > 1)
        server.gone.set()
        with anyio.fail_after(PATIENCE):
            await sending
        await until(lambda: not pool.statistics().busy)

    async def test_any_async_iterator_is_a_body(self) -> None:
        """It need not come from a worker."""

        async def items() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        server = Recorder()
        async with aclosing(items()) as iterator:
            await WorkerStreamResponse(iterator)(dict(SCOPE), server.receive, server.send)
        assert server.body == b"ab"

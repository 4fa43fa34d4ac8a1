"""Clients that leave a real server: raw sockets on one side, worker processes on the other."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.functions.requests import slots, used_seconds
from tests.support.loops import needs_uvloop
from tests.support.processes import PATIENCE, Fifo, gone_now

ROOT = Path(__file__).parents[2]
LOOPS = {"asyncio": (), "uvloop": needs_uvloop}


@dataclasses.dataclass
class Server:
    port: int
    directory: Path
    entered: Fifo
    gate: Fifo
    process: subprocess.Popen

    def connect(self):
        """Return a client of it."""
        return Client(self.port)

    def ask(self, target, *, headers=""):
        """Send a request on a connection of its own."""
        client = self.connect()
        client.send(request(target, headers=headers))
        return client

    def state(self):
        """Return what the pool is doing."""
        with self.ask("/state", headers="connection: close\r\n") as client:
            return json.loads(client.answer()[1])

    def until(self, condition):
        """Ask for the state until something is so."""
        end = time.monotonic() + PATIENCE
        while not condition(now := self.state()):
            assert time.monotonic() < end, now


class Client:
    """A connection: requests go out as they are told, responses come one after the other."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send = self.socket.sendall
        self._file = self.socket.makefile("rb")

    def answer(self):
        """Return status and body of the next response."""
        status = int(self._file.readline().split()[1])
        length, is_chunked = 0, False
        while line := self._file.readline().strip():
            name, _, value = line.lower().partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                is_chunked = True
        return status, b"".join(self._chunks()) if is_chunked else self._file.read(length)

    def _chunks(self):
        while length := int(self._file.readline(), 16):
            yield self._file.read(length)
            self._file.readline()
        self._file.readline()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A socket is closed when its last file is.
        self._file.close()
        self.socket.close()


def request(target, *, method="GET", headers=""):
    """Return a request's head."""
    return f"{method} {target} HTTP/1.1\r\nhost: test\r\n{headers}\r\n".encode()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((http, loop), marks=marks)
        for http in ("h11", "httptools")
        for loop, marks in LOOPS.items()
    ],
    ids="-".join,
)
def server(request, tmp_path_factory):
    """Run the application under uvicorn, with each of its parsers and loops."""
    parser, loop = request.param
    if parser == "httptools":
        pytest.importorskip("httptools")
    directory = tmp_path_factory.mktemp("disconnect")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "uvicorn",
            "tests.support.apps.disconnect_app:app",
            "--port",
            "0",
            "--http",
            parser,
            "--loop",
            loop,
            "--timeout-graceful-shutdown",
            "5",
        ],
        cwd=ROOT,
        env=os.environ | {"DISCONNECT_DIRECTORY": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )
    with (
        process,
        Fifo(directory / "entered") as entered,
        Fifo(directory / "gate") as gate,
    ):
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127.0.0.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(said))
        yield Server(int(found[1]), directory, entered, gate, process)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=PATIENCE)[1]
    # No client that left was an error, in any of the tests.
    assert "ERROR" not in rest
    assert "Traceback" not in rest


@pytest.mark.guarantee(4)
def test_work_stops_when_the_connection_is_closed(server):
    """The worker is gone when its client is."""
    with server.ask("/hold?value=x"):
        pid = server.entered.heard_now()

    assert gone_now(pid, seconds=PATIENCE) == []


def test_work_stops_when_the_connection_is_reset(server):
    """So it is when the client vanishes without a word."""
    client = server.ask("/hold?value=x")
    pid = server.entered.heard_now()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.__exit__()

    assert gone_now(pid, seconds=PATIENCE) == []


def test_kept_connection_is_used_again(server):
    """Requests follow each other on one connection; the last one is left."""
    with server.connect() as client:
        for value in "abc":
            client.send(request(f"/hold?value={value}"))
            server.entered.heard_now()
            server.gate.let()
            assert client.answer() == (200, value.encode())
        client.send(request("/hold?value=d"))
        pid = server.entered.heard_now()

    assert gone_now(pid, seconds=PATIENCE) == []


def test_pipelined_requests_are_all_answered(server):
    """A request that comes before the answer to the one before is no leaving."""
    with server.connect() as client:
        client.send(b"".join(request(f"/hold?value={value}") for value in "abc"))
        for value in "abc":
            server.entered.heard_now()
            server.gate.let()
            assert client.answer() == (200, value.encode())


def test_request_that_arrives_while_a_call_runs_waits(server):
    """Pipelined later, when the watcher is listening already."""
    with server.connect() as client:
        client.send(request("/hold?value=a"))
        server.entered.heard_now()
        client.send(request("/hold?value=b"))
        server.gate.let()
        assert client.answer() == (200, b"a")
        server.entered.heard_now()
        server.gate.let()
        assert client.answer() == (200, b"b")


def test_body_that_comes_in_parts_arrives_whole(server):
    """Large, in parts, some of them while a call runs."""
    parts = [bytes([letter]) * 50_000 for letter in b"abcdef"]
    head = request("/echo", method="POST", headers="content-length: 300000\r\n")
    with server.connect() as client:
        client.send(head + parts[0])
        for each in parts[1:]:
            client.send(each)
        assert client.answer() == (200, b"first " + b"".join(parts))


def test_client_is_told_to_continue_by_the_application(server):
    """`Expect: 100-continue`: the body is asked for when it is read, and arrives."""
    head = request("/echo", method="POST", headers="content-length: 4\r\nexpect: 100-continue\r\n")
    with server.connect() as client:
        client.send(head)
        assert client.answer() == (100, b"")
        client.send(b"body")
        assert client.answer() == (200, b"first body")


def test_stream_ends_with_its_client(server):
    """A generator without end does not keep its worker."""
    with server.ask("/stream") as client:
        assert client.socket.recv(1000)

    server.until(lambda now: not now["busy"])


@pytest.mark.parametrize("path", ["/whole", "/plain/whole"])
def test_background_of_a_stream_that_was_sent_whole_runs(server, path):
    """What the server tells after the last message is not taken for the client's leaving."""
    with server.ask(path) as client:
        assert client.answer() == (200, b"0 1 2 ")
        server.entered.heard_now()
        server.gate.let()


@pytest.mark.guarantee(4)
def test_left_clients_cost_next_to_nothing(server):
    """Half of the clients leave: CPU seconds for them are at most 5 % of what was asked for."""
    seconds, count = 0.5, 30
    slots(server.directory / "used", 2 * count)
    before = server.state()["cancelled"]
    with contextlib.ExitStack() as staying, contextlib.ExitStack() as leaving:
        # Those who leave have even slots, ask for more, and the first two of them are being
        # served when they leave; all others wait.
        waiting = []
        for slot in range(2 * count):
            leaves = slot % 2 == 0
            stack = leaving if leaves else staying
            asked = seconds if leaves else 0.01
            client = stack.enter_context(server.ask(f"/burn?slot={slot}&seconds={asked}"))
            if not leaves:
                waiting.append((client, slot))
        leaving.close()
        for client, slot in waiting:
            assert client.answer() == (200, str(slot).encode())

    server.until(lambda now: not (now["busy"] or now["queued"]))
    used = used_seconds(server.directory / "used")
    assert sum(used[::2]) <= 0.05 * seconds * count, used
    assert min(used[1::2]) >= 0.01
    assert server.state()["cancelled"] - before >= count - 2

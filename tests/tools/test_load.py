"""The load generator: what it sends, when, and whom it charges for being late."""

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from offload._bench import load, machine
from offload._bench.client import BadAnswerError, Target, exchange
from offload._bench.numbers import quantile
from offload._bench.plan import plan_of
from tests.support.apps.load_server import FREEZE, PATIENCE, Server, unused_port


@pytest.fixture
def server():
    """Start one server for the test."""
    with Server() as server:
        yield server


def run(server, *arguments, warm_up=0.1, seconds=0.4):
    """Run the generator in this process."""
    plan = plan_of(
        [str(server.port), "--warm-up", str(warm_up), "--seconds", str(seconds), *arguments]
    )
    with asyncio.Runner(loop_factory=load.new_event_loop) as runner:
        return runner.run(load.run(plan))


class TestCoordinatedOmission:
    # More connections than requests, so that each is sent and waits in the server; or two, so that
    # most of them wait in the generator for one of these.
    @pytest.mark.parametrize("connections", [1000, 2])
    def test_frozen_server_is_charged_for_what_it_held_up(self, server, connections):
        """Each request that was due in a freeze has waited at least until the freeze's end."""
        command = [sys.executable, "-P", "-m", "offload._bench.load", str(server.port)]
        options = ["--fast", "/freeze", "--rate", "100", "--warm-up", "0", "--seconds", "1"]
        done = subprocess.run(
            [*command, *options, "--connections", str(connections)],
            stdout=subprocess.PIPE,
            timeout=PATIENCE,
            check=True,
        )

        result = json.loads(done.stdout)
        [stream] = result["fast"]
        [(begin, end)] = server.freezes
        times = [
            (result["started_monotonic"] + intended / 1e3, latency / 1e3)
            for intended, latency in zip(stream["intended_ms"], stream["latency_ms"], strict=True)
        ]
        held_up = [(at, latency) for at, latency in times if begin < at < end]
        # Clocks are read one after the other, and the output has microseconds.
        assert all(at + latency >= end - 0.005 for at, latency in held_up)
        # A closed-loop client of one connection would have seen one slow answer, which no
        # percentile shows.
        assert len(held_up) > 50
        slow = quantile(sorted(latency for _, latency in times), 0.5)
        assert slow > FREEZE / 4
        assert stream["statuses"] == {"200": 100}
        assert stream["errors"] == {}


class TestOutput:
    def test_requests_that_count_are_those_after_the_warm_up(self, server):
        """As many as rate and time say, at intended times that begin with the counting."""
        result = run(server, "--fast", "/a", "--rate", "100", warm_up=0.2, seconds=0.5)

        [stream] = result["fast"]
        assert stream["target"] == f"GET http://127.0.0.1:{server.port}/a"
        assert stream["intended_ms"] == pytest.approx([10.0 * n for n in range(50)], abs=0.01)
        assert stream["statuses"] == {"200": 50}
        assert len(server.requests) == pytest.approx(70, abs=1)
        late = stream["lateness_ms"]
        assert 0 <= late["p50"] <= late["p99"] <= late["max"]
        assert late == result["health"]["lateness_ms"]

    def test_statuses_are_counted_and_have_a_latency(self, server):
        """An error page is an answer, and told apart."""
        result = run(server, "--fast", "/missing", "--fast", "/b", "--rate", "20", "--rate", "40")

        missing, other = result["fast"]
        assert missing["statuses"] == {"404": 8}
        assert missing["status"] == [404] * 8
        assert other["statuses"] == {"200": 16}
        assert all(latency > 0 for latency in missing["latency_ms"])

    def test_what_refusals_ask_for_is_kept(self, server):
        """The seconds of Retry-After stand beside the status; an answer without has none."""
        result = run(server, "--fast", "/busy", "--fast", "/b", "--rate", "10")

        busy, other = result["fast"]
        assert busy["retry_after"] == [7.0] * 4
        assert other["retry_after"] == [None] * 4

    def test_timeout_is_a_latency_of_what_was_waited(self, server):
        """A request that is given up is not left out of the percentiles."""
        result = run(server, "--fast", "/never", "--rate", "10", "--timeout", "0.2")

        [stream] = result["fast"]
        assert stream["errors"] == {"timeout": 4}
        assert min(stream["latency_ms"]) >= 199

    def test_other_failures_have_no_latency(self, server):
        """A connection that breaks at once is not a fast answer."""
        result = run(
            server, "--fast", "/breaks", "--fast", f"http://127.0.0.1:{unused_port()}/", "--rate=10"
        )

        breaks, refused = result["fast"]
        assert breaks["errors"] == {"reset": 4}
        assert refused["errors"] == {"refused": 4}
        assert breaks["latency_ms"] == refused["latency_ms"] == [None] * 4

    def test_heavy_clients_wait_for_their_answers(self, server):
        """Each client has its own count, and what was refused is no throughput."""
        result = run(server, "--heavy", "/a", "--heavy", "/busy", "--clients", "4")

        heavy = result["heavy"]
        assert heavy["clients"] == 4
        assert heavy["each"][0] > 0
        assert heavy["each"][1] == heavy["each"][3] == 0
        assert heavy["completed"] == sum(heavy["each"]) == heavy["statuses"]["200"]
        assert len(heavy["round_trip_ms"]) == len(heavy["ended_ms"]) == heavy["completed"]
        assert heavy["per_second"] == pytest.approx(heavy["completed"] / 0.4)
        # A client that is refused waits 50 ms.
        assert 0 < heavy["statuses"]["503"] <= 2 * 9

    def test_heavy_clients_hang_up_when_told(self, server):
        """The end does not wait for answers that come too late to count, and they are no errors."""
        begin = time.monotonic()

        result = run(server, "--heavy", "/never", "--clients", "2", "--hang-up")

        assert time.monotonic() - begin < 30  # The time-out of a request is 60.
        assert result["heavy"]["completed"] == 0
        assert result["heavy"]["errors"] == result["heavy"]["statuses"] == {}

    def test_body_and_headers_are_sent(self, server, tmp_path):
        """Heavy work is often an upload, and a path often needs a key."""
        (tmp_path / "body").write_bytes(b"\0\1\2")

        run(
            server,
            *("--heavy", "/up", "--heavy-body", str(tmp_path / "body"), "--clients", "1"),
            *("--header", "X-Key: a:b"),
        )

        method, path, head, body = server.requests[0]
        assert (method, path, body) == ("POST", "/up", b"\0\1\2")
        assert "\r\nX-Key: a:b\r\n" in head

    def test_poisson_arrivals_are_drawn_from_the_seed(self, server):
        """Two runs of one seed load two servers in the same way."""
        options = ["--fast", "/a", "--rate", "100", "--arrivals", "poisson", "--seed"]

        first, again, other = (
            run(server, *options, seed, warm_up=0.0, seconds=0.2) for seed in ("3", "3", "4")
        )

        assert first["fast"][0]["intended_ms"] == pytest.approx(
            again["fast"][0]["intended_ms"], abs=0.01
        )
        assert first["fast"][0]["intended_ms"][:5] != other["fast"][0]["intended_ms"][:5]

    def test_numbers_in_a_path_are_drawn_for_each_request(self, server):
        """Work of varying size needs no list of sizes."""
        run(server, "--fast", "/a?n={lognormal:1000:0.5}", "--rate", "100")

        drawn = [int(parse_qs(urlsplit(path).query)["n"][0]) for _, path, *_ in server.requests]
        assert len(set(drawn)) > 10
        assert 300 < sorted(drawn)[len(drawn) // 2] < 3000

    def test_health_tells_servers_from_others(self, server):
        """CPU time of the tree below a pid is the server's, and what is left is others'."""
        if machine.read() is None:
            pytest.skip("no /proc here")

        health = run(server, "--fast", "/a", "--server-pid", str(os.getpid()))["health"]

        assert health["cpus"] >= 1
        assert health["server_cpu_seconds"] > 0
        assert 0 <= health["others_share"] <= health["busy_share"]
        assert run(server, "--fast", "/a", seconds=0.05)["health"]["others_share"] is None


class TestUsage:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["8000"], "nothing to do"),
            (["8000", "--clients", "2"], "--clients needs --heavy"),
            (["8000", "--fast", "/a", "--rate", "0"], "above 0"),
            (["8000", "--fast=/a", "--fast=/b", "--fast=/c", "--rate=1", "--rate=2"], "once"),
            (["localhost:8000", "--fast", "/a"], "no absolute"),
            (["8000", "--fast", "/a b"], "percent-encoded"),
            (["8000", "--fast", "/a", "--header", "nothing"], "no header"),
        ],
    )
    def test_nonsense_is_refused(self, capsys, arguments, message):
        """A wrong option ends it before anything is sent."""
        with pytest.raises(SystemExit):
            plan_of(arguments)

        assert message in capsys.readouterr().err

    def test_header_cannot_smuggle_a_request(self):
        """A line end in what is sent would make two requests of one."""
        with pytest.raises(ValueError, match="line end"):
            Target("http://127.0.0.1/", headers=(("X", "1\r\n\r\nGET / HTTP/1.1"),))


class TestClient:
    def ask(self, server, path, method="GET"):
        target = Target(f"http://127.0.0.1:{server.port}{path}", method)
        return asyncio.run(exchange(target, timeout=PATIENCE))

    def test_chunked_answer_ends_with_its_last_chunk(self, server):
        """The connection stays open, so that nothing but the chunks tells the end."""
        assert self.ask(server, "/chunked").status == 200

    def test_answer_that_is_no_http_is_an_error(self, server):
        """Another protocol on the port is named as such."""
        with pytest.raises(BadAnswerError, match="220 mail"):
            self.ask(server, "/nonsense")


class TestNumbers:
    def test_quantile_is_one_of_the_values(self):
        """Nearest rank: the highest fraction is the maximum, the lowest the minimum."""
        values = [float(number) for number in range(1, 101)]

        assert [quantile(values, q) for q in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]
        assert math.isnan(quantile([], 0.5))


class TestMachine:
    def test_listener_of_a_port_is_found(self):
        """A server that somebody else has started is found by its port."""
        if not Path("/proc/net/tcp").exists():
            pytest.skip("no /proc here")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert os.getpid() in machine.listeners(listener.getsockname()[1])
        assert machine.listeners(unused_port()) == []

    def test_machine_without_proc_is_not_known(self, tmp_path):
        """Elsewhere than on Linux there is no answer, and no error either."""
        assert machine.read(str(tmp_path)) is None
        assert machine.pss_bytes([1], str(tmp_path)) is None
        assert machine.listeners(80, str(tmp_path)) == []

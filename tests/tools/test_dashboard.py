"""The dashboard without a browser: who may see it, what it says, what it costs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from offload import Pool, TaskKilledError
from offload._values.histogram import Histogram
from offload._values.statistics import FunctionStatistics, PoolStatistics, WorkerStatistics
from offload.dashboard import Dashboard
from offload.dashboard._access import forgery, stranger
from offload.dashboard._feed import Feed
from offload.dashboard._state import Sampler
from offload.dashboard._usage import Meter
from tests.site.test_demo_server import started
from tests.support import inside
from tests.support.functions.paged import POOL, double, fail, spin
from tests.support.processes import PATIENCE, until

HOME = ("127.0.0.1", 50000)
ACT = {"X-Offload-Action": "1"}


def allow(_):
    """Permit whatever is asked."""
    return True


@pytest.fixture
async def pool(anyio_backend) -> AsyncIterator[Pool]:
    """Open the pool that the dashboards show."""
    async with Pool(POOL, min_workers=1, max_workers=1) as pool:
        yield pool


@asynccontextmanager
async def visited(
    dashboard: Dashboard, client: tuple[str, int] | None = HOME, host: str = "127.0.0.1:8000"
) -> AsyncIterator[httpx.AsyncClient]:
    """Visit an application that has the dashboard under /offload."""
    app = Starlette(routes=[Mount("/offload", dashboard)])
    transport = httpx.ASGITransport(app, client=client)
    base_url = f"http://{host}/offload"
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        yield http


def scope(client="127.0.0.1", server="127.0.0.1", version="1.1", method="GET", **headers) -> dict:
    """Return the scope of a request; by default, of one from this machine."""
    named = {"host": "localhost:8000"} | {key.replace("_", "-"): headers[key] for key in headers}
    return {
        "type": "http",
        "method": method,
        "path": "/",
        "http_version": version,
        "client": client and (client, 50000),
        "server": server and (server, 8000),
        "headers": [(key.encode(), value.encode()) for key, value in named.items()],
    }


class TestStranger:
    @pytest.mark.parametrize(
        "request_scope",
        [
            pytest.param(scope(), id="localhost"),
            pytest.param(scope("127.8.9.1", "127.0.0.2", host="127.0.0.2:8000"), id="127/8"),
            pytest.param(scope("::1", "::1", host="[::1]:8000"), id="IPv6"),
            pytest.param(scope("::ffff:127.0.0.1", "::ffff:127.0.0.1"), id="IPv4 over IPv6"),
            pytest.param(scope(host="demo.LOCALHOST."), id="name below localhost"),
        ],
    )
    def test_a_browser_of_this_machine_is_none(self, request_scope):
        """Both addresses and the name are loopback: whoever asks is on this machine."""
        assert stranger(request_scope) is None

    @pytest.mark.parametrize(
        "request_scope",
        [
            pytest.param(scope(client="10.0.0.7"), id="another machine"),
            pytest.param(scope(client="fe80::1%eth0"), id="the same link"),
            pytest.param(scope(client=None), id="unix socket"),
            pytest.param(scope(client="testclient"), id="a name"),
            pytest.param(scope(server="10.0.0.1"), id="public address"),
            pytest.param(scope(server=None), id="unknown server"),
            pytest.param(scope(x_forwarded_for="10.0.0.7"), id="proxy"),
            pytest.param(scope(forwarded="for=10.0.0.7"), id="proxy by RFC 7239"),
            pytest.param(scope(via="1.1 gate"), id="proxy by RFC 9110"),
            pytest.param(scope(x_real_ip="127.0.0.1"), id="proxy that lies"),
            pytest.param(scope(version="1.0"), id="proxy that says nothing"),
            *(
                pytest.param(scope(**{name.replace("-", "_"): "10.0.0.7"}), id=name)
                for name in (
                    "x-forwarded",
                    "x-forwarded-port",
                    "x-forwarded-server",
                    "x-original-forwarded-for",
                    "x-cluster-client-ip",
                    "x-client-ip",
                    "client-ip",
                    "x-azure-clientip",
                    "cf-ray",
                    "cf-connecting-ipv6",
                    "cdn-loop",
                    "fly-client-ip",
                    "fastly-client-ip",
                    "x-envoy-external-address",
                    "x-request-id",
                    "x-amzn-trace-id",
                    "x-appengine-user-ip",
                    "x-vercel-forwarded-for",
                    "x-nf-client-connection-ip",
                    "x-varnish",
                    "proxy-connection",
                    "tailscale-user-login",
                    "traceparent",
                    "a-name-of-next-year",
                )
            ),
            pytest.param(scope(host="offload.example"), id="DNS rebinding"),
            pytest.param(scope(host="127.0.0.1.offload.example"), id="name that looks local"),
            pytest.param(scope(host="offload.example@127.0.0.1"), id="name with a user"),
            pytest.param(scope(host=""), id="no name"),
        ],
    )
    def test_whoever_may_come_from_elsewhere_is_one(self, request_scope):
        """Anything that does not prove to be local is refused, with the reason."""
        assert stranger(request_scope)


class TestForgery:
    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param({"sec_fetch_site": "same-origin"}, id="browser"),
            pytest.param({"origin": "http://localhost:8000"}, id="browser, without TLS"),
            pytest.param({}, id="curl"),
        ],
    )
    def test_the_page_itself_and_programs_may_act(self, headers):
        """With the header, and from the same origin where a browser tells."""
        assert forgery(scope(method="POST", x_offload_action="1", **headers)) is None

    @pytest.mark.parametrize(
        "headers",
        [
            pytest.param({}, id="form"),
            pytest.param({"sec_fetch_site": "same-origin"}, id="form of the same origin"),
            pytest.param({"x_offload_action": "1", "sec_fetch_site": "cross-site"}, id="site"),
            pytest.param({"x_offload_action": "1", "sec_fetch_site": "same-site"}, id="sibling"),
            pytest.param({"x_offload_action": "1", "sec_fetch_site": "none"}, id="typed"),
            pytest.param({"x_offload_action": "1", "origin": "http://localhost:9"}, id="port"),
            pytest.param({"x_offload_action": "1", "origin": "null"}, id="sandbox"),
        ],
    )
    def test_pages_of_others_may_not(self, headers):
        """Whatever another site can make a browser send, it does not act."""
        assert forgery(scope(method="POST", **headers))


PATHS = (
    *("/", "/static/dashboard.js", "/state", "/events", "/failure", "/no-such-page"),
    *("/plain", "/tasks", "/task", "/functions", "/history", "/jobs/overview"),
)


@pytest.mark.anyio
class TestAccess:
    async def test_strangers_are_refused_everything(self):
        """Without `authorize`, no path says anything to another machine, nor does an action."""
        async with visited(Dashboard(actions=True), client=("10.0.0.7", 1)) as http:
            answers = [await http.get(path) for path in PATHS]
            answers.append(await http.post("/actions/drain", headers=ACT))

        assert {answer.status_code for answer in answers} == {403}
        assert all("authorize" in answer.text for answer in answers)

    @pytest.mark.parametrize("is_async", [False, True])
    async def test_authorize_decides_alone(self, is_async):
        """What it is told is the request; what it says holds, wherever the client is."""

        def allow(request):
            return request.headers.get("x-key") == "right"

        async def allow_later(request):
            await anyio.lowlevel.checkpoint()
            return allow(request)

        dashboard = Dashboard(authorize=allow_later if is_async else allow)
        async with visited(dashboard, client=("10.0.0.7", 1), host="ops.example") as http:
            right = await http.get("/state", headers={"x-key": "right"})
            wrong = await http.get("/state", headers={"x-key": "wrong"})
        async with visited(dashboard) as http:
            local = await http.get("/state")

        assert (right.status_code, wrong.status_code, local.status_code) == (200, 403, 403)

    async def test_authorize_can_ask_for_a_password(self):
        """An HTTPException is its answer, with the header that makes a browser ask."""

        def ask(_):
            raise HTTPException(401, "Who are you?", {"WWW-Authenticate": "Basic"})

        async with visited(Dashboard(authorize=ask)) as http:
            answer = await http.get("/")

        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Basic")

    @pytest.mark.parametrize("answer", [None, 1, "yes", object()])
    async def test_authorize_must_say_true(self, answer):
        """Something that is merely true is a mistake of whoever wrote it, and refused."""
        async with visited(Dashboard(authorize=lambda _: answer)) as http:
            assert (await http.get("/state")).status_code == 403

    async def test_nothing_can_be_done_by_default(self, pool):
        """Read-only unless actions are enabled."""
        async with visited(Dashboard()) as http:
            answer = await http.post("/actions/drain", params={"pool": POOL}, headers=ACT)

        assert answer.status_code == 403
        assert pool.statistics().state == "open"

    async def test_actions_need_the_header(self, pool):
        """A plain form on another site's page, which any browser would send, does nothing."""
        async with visited(Dashboard(actions=lambda _: True)) as http:
            answer = await http.post("/actions/drain", params={"pool": POOL})
            got = await http.get("/actions/drain", params={"pool": POOL}, headers=ACT)

        assert (answer.status_code, got.status_code) == (403, 405)
        assert pool.statistics().state == "open"

    async def test_actions_need_the_token_that_was_logged(self, pool, caplog):
        """Without anybody who decides, whoever can read the log may act, and no other."""
        dashboard = Dashboard(actions=True)
        ask = {"params": {"pool": POOL, "pid": "1"}}
        async with visited(dashboard) as http:
            assert "token" not in caplog.text
            await http.get("/")
            (token,) = re.findall(r"\?token=(\S+)", caplog.text)
            without = await http.post("/actions/cancel", **ask, headers=ACT)
            wrong = await http.post(
                "/actions/cancel", **ask, headers={**ACT, "x-offload-token": "x" + token}
            )
            right = await http.post(
                "/actions/cancel", **ask, headers={**ACT, "x-offload-token": token}
            )
            opened = await http.get("/", params={"token": token})
            kept = await http.post("/actions/cancel", **ask, headers=ACT)
            wrongly = await http.get("/", params={"token": "wrong"})

        assert caplog.text.count(token) == 1
        assert (without.status_code, wrong.status_code) == (403, 403)
        assert (right.status_code, kept.status_code) == (409, 409)  # it runs nothing
        assert (opened.status_code, opened.headers["location"]) == (303, "./")
        assert "HttpOnly" in opened.headers["set-cookie"]
        assert "SameSite=strict" in opened.headers["set-cookie"]
        assert (wrongly.status_code, wrongly.headers.get("set-cookie")) == (200, None)
        assert pool.statistics().state == "open"

    async def test_to_look_and_to_act_are_two_permissions(self, pool):
        """Who may look may not act, unless told that as well."""

        async def may_act(request):
            await anyio.lowlevel.checkpoint()
            return request.headers.get("authorization") == "operator"

        ask = {"params": {"pool": POOL, "pid": "1"}}
        async with visited(Dashboard(authorize=lambda _: True, actions=may_act)) as http:
            seen = await http.get("/state")
            refused = await http.post("/actions/cancel", **ask, headers=ACT)
            done = await http.post(
                "/actions/cancel", **ask, headers={**ACT, "authorization": "operator"}
            )
        async with visited(Dashboard(authorize=lambda _: True, actions=True)) as http:
            both = await http.post("/actions/cancel", **ask, headers=ACT)

        assert (seen.status_code, refused.status_code, done.status_code) == (200, 403, 409)
        assert both.status_code == 409
        assert pool.statistics().state == "open"

    async def test_nobody_is_sent_to_the_host_that_they_name(self):
        """No answer has a Location that the Host of the request decides on."""
        for options in ({}, {"authorize": lambda _: True}):
            async with visited(Dashboard(**options), host="evil.example") as http:
                for path in ("/state/", "/events/", "/static/", "//evil.example/"):
                    assert "location" not in (await http.get(path)).headers

    async def test_every_answer_is_guarded(self):
        """No inline code, no other host, no frame, no cache: on the page and on its data."""
        async with visited(Dashboard()) as http:
            for path in ("/", "/static/dashboard.css", "/state"):
                headers = (await http.get(path)).headers
                assert "default-src 'none'" in headers["content-security-policy"]
                assert "unsafe" not in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff"
                assert headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("name", ["..%2f_app.py", "%2e%2e/_app.py", "no.js", "dashboard"])
    async def test_only_the_pages_own_files_are_served(self, name):
        """There is no way out of the folder."""
        async with visited(Dashboard()) as http:
            assert (await http.get(f"/static/{name}")).status_code == 404


@pytest.mark.anyio
class TestState:
    async def test_it_says_what_the_pool_does(self, pool):
        """Workers, functions with their counters and histograms, and what they use."""
        assert await double(21) == 42
        async with visited(Dashboard()) as http:
            state = (await http.get("/state")).json()
        [told] = [each for each in state["pools"] if each["name"] == POOL]
        [function] = told["functions"]

        assert state["server"]["pid"] == os.getpid()
        assert (told["state"], told["completed"], told["max_workers"]) == ("open", 1, 1)
        assert function["name"] == "tests.support.functions.paged:double"
        assert (function["completed"], function["run"]["count"]) == (1, 1)
        assert sum(count for _, count in function["run"]["buckets"]) == 1
        [worker] = [each for each in told["workers"] if each["tasks_done"] == 1]
        assert worker["pid"] in {each.pid for each in pool.statistics().workers}
        # Linux tells what it uses.
        assert sys.platform != "linux" or worker["rss_bytes"] > 2**20

    async def test_a_failure_is_told_in_two_steps(self, pool):
        """First in short, with each sample; then, for who asks, whole and with its traceback."""
        text = "<script>\udcff" + "x" * 1000  # half a character: a file name may have it
        with pytest.raises(ValueError, match="<script>"):
            await fail(text)
        async with visited(Dashboard()) as http:
            state = (await http.get("/state")).json()
            [short] = next(each for each in state["pools"] if each["name"] == POOL)["failures"]
            asked = {"pool": POOL, "at": repr(short["at"]), "function": short["function"]}
            whole = (await http.get("/failure", params=asked)).json()
            other = await http.get("/failure", params=asked | {"at": "1.0"})

        assert (short["kind"], short["error"], len(short["message"])) == (
            "failed",
            "ValueError",
            300,
        )
        assert text in whole["message"]
        assert "raise ValueError(text)" in whole["traceback"]
        assert other.status_code == 404

    async def test_only_the_pools_that_were_named_are_shown(self, pool):
        """A dashboard for some pools says nothing of the others, and acts on none of them."""
        async with visited(Dashboard(pools=["another"], actions=allow)) as http:
            state = (await http.get("/state")).json()
            answer = await http.post("/actions/drain", params={"pool": POOL}, headers=ACT)

        assert state["pools"] == []
        assert answer.status_code == 404

    async def test_it_runs_under_fastapi(self):
        """Mounted on an application of FastAPI it answers the same, with and without the slash."""
        app = FastAPI()
        app.mount("/offload", Dashboard())
        transport = httpx.ASGITransport(app, client=HOME)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            page = await http.get("/offload", follow_redirects=True)
            script = await http.get(page.url.join("static/dashboard.js"))

        assert (page.status_code, page.url.path) == (200, "/offload/")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"

    async def test_two_dashboards_do_not_mix(self):
        """Each shows its own pools, and offers what it was told to."""
        async with visited(Dashboard(actions=allow)) as one, visited(Dashboard(pools=[])) as other:
            states = [(await http.get("/state")).json() for http in (one, other)]

        assert [state["actions"] for state in states] == [True, False]

    async def test_it_runs_without_a_framework_around_it(self):
        """By itself, under any server, it is an application too."""
        transport = httpx.ASGITransport(Dashboard(), client=HOME)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            page = await http.get("/")
            missing = await http.get("/missing")

        assert (page.status_code, missing.status_code) == (200, 404)
        assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.anyio
class TestActions:
    async def test_cancel_stops_a_task(self, pool):
        """Its caller is told that an operator did it, and the pool goes on."""
        async with visited(Dashboard(actions=allow)) as http, anyio.create_task_group() as group:

            async def call() -> None:
                with pytest.raises(TaskKilledError):
                    await spin()

            group.start_soon(call)
            await until(lambda: pool.statistics().busy)
            [pid] = [each.pid for each in pool.statistics().workers if each.state == "busy"]
            question = {"pool": POOL, "pid": str(pid)}
            answer = await http.post("/actions/cancel", params=question, headers=ACT)

        assert answer.json()["done"] is True
        assert await double(4) == 8

    async def test_recycle_replaces_a_worker(self, pool):
        """The worker goes, another comes, and there is nobody to be recycled twice."""
        old = pool.statistics().workers[0].pid
        question = {"pool": POOL, "pid": str(old)}
        async with visited(Dashboard(actions=allow)) as http:
            answer = await http.post("/actions/recycle", params=question, headers=ACT)
            await until(lambda: old not in [each.pid for each in pool.statistics().workers])
            again = await http.post("/actions/recycle", params=question, headers=ACT)

        assert (answer.status_code, again.status_code) == (200, 409)

    async def test_a_drained_pool_can_be_opened(self, pool):
        """Draining is not for ever."""
        async with visited(Dashboard(actions=allow)) as http:
            await http.post("/actions/drain", params={"pool": POOL}, headers=ACT)
            drained = pool.statistics().state
            await http.post("/actions/open", params={"pool": POOL}, headers=ACT)

        assert (drained, pool.statistics().state) == ("draining", "open")

    @pytest.mark.parametrize(
        "action,question,status",
        [
            ("explode", {"pool": POOL}, 404),
            ("cancel", {"pool": "another", "pid": "1"}, 404),
            ("cancel", {"pool": POOL}, 400),
            ("cancel", {"pool": POOL, "pid": "-1"}, 400),
            ("cancel", {"pool": POOL, "pid": "1"}, 409),
            ("recycle", {"pool": POOL, "pid": "9" * 20}, 400),
            ("stop", {"pool": POOL}, 400),
            ("stop", {"pool": POOL, "task": "../../x"}, 400),
            ("stop", {"pool": POOL, "task": "1a22db6662c-7"}, 409),
            ("limits", {"pool": POOL}, 400),
            ("limits", {"pool": POOL, "max_workers": "none"}, 400),
            ("limits", {"pool": POOL, "max_workers": "-1"}, 400),
            ("limits", {"pool": POOL, "max_workers": "0"}, 409),
            # Not needed, but not left unread: it is logged.
            ("drain", {"pool": POOL, "pid": "1\nWARNING all is well"}, 400),
        ],
    )
    async def test_what_cannot_be_done_is_told(self, pool, action, question, status):
        """A wrong name, a wrong number, or a process that is no worker of the pool."""
        async with visited(Dashboard(actions=allow)) as http:
            answer = await http.post(f"/actions/{action}", params=question, headers=ACT)

        assert answer.status_code == status


class CountedTake:
    """Makes samples, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return str(self.count).encode()


async def watch(feed: Feed, seen: list[bytes], samples: int) -> None:
    """Take in some samples, one after the other."""
    number = 0
    for _ in range(samples):
        sample = await feed.after(number)
        number = sample.number
        seen.append(sample.data)


@pytest.mark.anyio
class TestFeed:
    async def test_five_who_watch_cost_one(self):
        """However many watch, each sample is taken once, and all see the same."""
        take = CountedTake()
        feed = Feed(take, 0.01)
        seen: list[list[bytes]] = [[] for _ in range(5)]
        async with anyio.create_task_group() as group:
            for each in seen:
                group.start_soon(watch, feed, each, 10)

        assert all(each == [str(number).encode() for number in range(1, 11)] for each in seen)
        assert take.count == 10

    async def test_another_takes_over_from_who_leaves(self):
        """The one who takes the samples for all may leave at any time."""
        feed = Feed(CountedTake(), 0.01)
        seen: list[bytes] = []
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as first:
                # It comes first, and so is the one that takes them.
                first.start_soon(watch, feed, [], 1000)
                await until(lambda: inside.latest_number(feed))
                group.start_soon(watch, feed, seen, 3)
                await until(lambda: seen)
                first.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE):
                await until(lambda: len(seen) == 3)

    async def test_nobody_who_watches_costs_nothing(self):
        """When the last one leaves, no more samples are taken."""
        take = CountedTake()
        feed = Feed(take, 0.01)
        await watch(feed, [], 3)
        before = take.count
        # The absence of an event has no event: several intervals, in which there would be some.
        await anyio.sleep(0.1)

        assert take.count == before

    async def test_an_old_sample_is_not_shown_as_new(self):
        """Whoever comes after a time without watchers is given the state of now."""
        take = CountedTake()
        feed = Feed(take, 0.01)
        await watch(feed, [], 1)
        await anyio.sleep(0.05)
        sample = await feed.after(0)

        assert sample.data == b"2"


@pytest.mark.anyio
async def test_events_stop_when_their_reader_leaves(pool):
    """A closed page ends its stream, and with it the sampling."""
    sent: list[dict] = []
    has_left = anyio.Event()

    async def receive() -> dict:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message)
        if len(sent) == 4:
            has_left.set()

    request = scope() | {"path": "/events", "query_string": b""}
    with anyio.fail_after(PATIENCE):
        await Dashboard(interval=0.01)(request, receive, send)
    events = [message["body"] for message in sent if message.get("more_body")]

    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert all(event.endswith(b"\n\n") for event in events)
    # The text of a failure may have the word in it too, but no line end, which would end an event.
    lines = [event.partition(b"\ndata: ")[2] for event in [b"\n" + each for each in events]]
    told = [json.loads(line) for line in lines]
    assert all(POOL in {pool["name"] for pool in each["pools"]} for each in told)
    assert all(line.count(b"\n") == 2 for line in lines)


def test_events_do_not_keep_a_server_from_ending():
    """A server that is told to end does, in order, while somebody watches."""
    with started() as server:
        with httpx.stream("GET", f"{server.url}/dashboard/events", timeout=60) as events:
            lines = events.iter_lines()
            assert next(lines).startswith("retry:")
            os.kill(server.process.pid, signal.SIGTERM)
            # To its orderly end: a stream that is cut raises.
            for _ in lines:
                pass
        _, errors = server.process.communicate(timeout=60)

    # Not by force, which uvicorn would have told. The watchdog may have told of a busy machine.
    assert "graceful shutdown exceeded" not in errors
    assert "Traceback" not in errors


class FakePool:
    """A pool with as many functions as one likes."""

    name = "fake"

    def __init__(self, functions: int) -> None:
        histogram = Histogram()
        for seconds in (0.003, 0.003, 0.5):
            histogram.record(seconds)
        snapshot, empty = histogram.snapshot(), Histogram().snapshot()
        self.told = PoolStatistics(
            name=self.name,
            state="open",
            max_workers=1,
            wait=empty,
            run=snapshot,
            functions=tuple(
                FunctionStatistics(
                    name=f"module:function_{number:04}",
                    running=0,
                    queued=0,
                    max_concurrency=None,
                    completed=number,
                    failed=0,
                    refused=0,
                    timed_out=0,
                    cancelled=0,
                    crashed=0,
                    not_started=0,
                    attempts=0,
                    crashes=0,
                    wait=empty,
                    run=snapshot,
                )
                for number in range(functions)
            ),
        )

    def statistics(self) -> PoolStatistics:
        """Return what it was made with."""
        return self.told


def sample_of(*pools: FakePool) -> dict:
    """Return one sample."""
    return json.loads(Sampler(lambda: pools, actions=False, interval=1.0).take())


def test_a_sample_stays_bounded():
    """Of a thousand functions those that are called most are shown, and the others counted."""
    [pool] = sample_of(FakePool(1000))["pools"]

    assert [each["completed"] for each in pool["functions"]] == list(range(900, 1000))
    assert pool["functions_left_out"] == 900


def test_workers_without_cpu_time_are_told():
    """How many there are, which ones, and how long they have waited by now."""
    fake = FakePool(0)
    worker = WorkerStatistics(
        pid=None, state="busy", function="a:b", tasks_done=0, run_seconds=9.0, starved=True
    )
    fake.told = replace(
        fake.told, starved_workers=1, starved_seconds=8.5, busy=1, workers=(worker,)
    )
    [pool] = sample_of(fake)["pools"]

    assert (pool["starved_workers"], pool["starved_seconds"]) == (1, 8.5)
    assert [each["starved"] for each in pool["workers"]] == [True]


def test_histograms_are_folded_by_doublings():
    """Each bucket is named by the power of two microseconds that bounds it."""
    [pool] = sample_of(FakePool(0))["pools"]

    # 2 ** 12 us is 4.1 ms, 2 ** 19 us is 0.52 s.
    assert pool["run"]["buckets"] == [[12, 2], [19, 1]]
    assert pool["run"]["count"] == 3
    assert pool["wait"]["buckets"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc in this form")
def test_memory_and_cpu_are_read_from_proc():
    """What this process uses, between two looks; nothing of a process that has ended."""
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    first = meter.read([os.getpid(), ended.pid])
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    second = meter.read([os.getpid()])[os.getpid()]

    assert list(first) == [os.getpid()]
    assert first[os.getpid()].cpu is None
    assert second.cpu is not None
    assert second.cpu > 0
    assert second.rss_bytes is not None
    # An interpreter with a test suite in it, in any case.
    assert second.rss_bytes > 5 * 2**20


def test_without_starlette_the_error_names_the_extra():
    """Who has not installed what it needs is told what to install."""
    script = "import sys; sys.modules['starlette'] = None; import offload.dashboard"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert "pip install 'offload[dashboard]'" in done.stderr


@pytest.mark.parametrize(
    "options,error",
    [
        ({"authorize": "me"}, TypeError),
        ({"pools": "demo"}, TypeError),
        ({"interval": 0}, ValueError),
        ({"interval": "1"}, TypeError),
        ({"history": None}, TypeError),
    ],
)
def test_wrong_options_are_refused(options, error):
    """A mistake is found when the dashboard is made, not when somebody looks at it."""
    with pytest.raises(error):
        Dashboard(**options)

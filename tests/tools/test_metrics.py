"""`offload.metrics`: what Prometheus reads is what the pools did, in the forms that it takes."""

import asyncio
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import anyio
import anyio.lowlevel
import httpx
import pytest
from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount, Route

import offload.metrics
from offload import Pool, QueueFullError, watchdog
from offload._decisions.starvation import ThreadTime
from offload._values.histogram import Histogram
from offload.metrics import PoolCollector, grafana_dashboard, metrics_app, register
from offload.metrics._collector import BOUNDS
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE, Fifo, until

pytestmark = pytest.mark.anyio
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def anyio_backend():
    """Run on asyncio alone: but for the endpoint, nothing here depends on the event loop."""
    return "asyncio"


@pytest.fixture
async def pool():
    """Return an open pool of one worker, and forget it afterwards."""
    pool = Pool("metered", max_workers=1, max_queued=1, os_priority="normal")
    async with pool:
        yield pool
    inside.forget("metered")


@pytest.fixture
def registry():
    """Return a registry that has nothing but our collector."""
    registry = CollectorRegistry()
    register(registry)
    return registry


async def scrape(registry, *, accept="", path="/metrics", **headers):
    """Return the response of the endpoint."""
    app = Starlette(routes=[Route("/metrics", metrics_app(registry))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.get(path, headers={"accept": accept, **headers})


def samples(text, parse=plain_text):
    """Return the value of each sample by name and labels, in the order of the labels' names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


async def test_calls_are_counted_by_outcome(pool, registry):
    """Each way in which a call can end has its count, by pool and function."""
    for value in range(3):
        await pool.run(functions.echo, value)
    with pytest.raises(ZeroDivisionError):
        await pool.run(functions.divide, 1, 0)
    found = samples((await scrape(registry)).text)
    echo, fault = "tests.support.functions.pool:echo", "tests.support.functions.pool:divide"
    assert found["offload_calls_total", echo, "completed", "metered"] == 3
    assert found["offload_calls_total", echo, "failed", "metered"] == 0
    assert found["offload_calls_total", fault, "failed", "metered"] == 1
    for name in ("offload_run_seconds", "offload_queue_wait_seconds"):
        assert found[f"{name}_count", echo, "metered"] == 3
        assert found[f"{name}_bucket", echo, "+Inf", "metered"] == 3
        assert found[f"{name}_sum", echo, "metered"] >= 0


async def test_state_of_a_pool(pool, registry):
    """Workers, limits, memory and the state are those of this instant."""
    found = samples((await scrape(registry)).text)
    assert found["offload_pool_state", "metered", "open"] == 1
    assert found["offload_pool_state", "metered", "closed"] == 0
    assert found["offload_pool_max_workers", "metered"] == 1
    assert found["offload_pool_max_queued_calls", "metered"] == 1
    workers = [found["offload_pool_workers", "metered", each] for each in ("idle", "starting")]
    assert sum(workers) >= 1
    if sys.platform == "linux":
        assert found["offload_pool_workers_resident_bytes", "metered"] > 2**20
    assert found["offload_pool_opened_timestamp_seconds", "metered"] > 1.7e9
    await pool.aclose()
    found = samples((await scrape(registry)).text)
    assert found["offload_pool_state", "metered", "closed"] == 1


async def test_waiting_and_refused_calls(pool, registry, tmp_path):
    """What runs, what waits and what was refused is told while it is so."""
    with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hold, entered.path, gate.path)
            await entered.heard()
            group.start_soon(pool.run, functions.echo, 1)
            with anyio.fail_after(PATIENCE):
                while not pool.statistics().queued:
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(QueueFullError):
                await pool.run(functions.echo, 2)
            found = samples((await scrape(registry)).text)
            gate.let()
    hold, echo = "tests.support.functions.pool:hold", "tests.support.functions.pool:echo"
    assert found["offload_running_calls", hold, "metered"] == 1
    assert found["offload_waiting_calls", echo, "metered"] == 1
    assert found["offload_pool_queued_calls", "metered"] == 1
    assert found["offload_pool_queued_bytes", "metered"] > 0
    assert found["offload_calls_total", echo, "refused", "metered"] == 1
    assert found["offload_pool_workers", "metered", "busy"] == 1


class TestFormats:
    async def test_plain_text(self, pool, registry):
        """Without a wish, and for old servers, it is Prometheus' own format."""
        response = await scrape(registry, **{"accept-encoding": "identity"})
        assert response.headers["content-type"] == PLAIN
        assert int(response.headers["content-length"]) == len(response.content)
        assert "offload_info" in response.text

    async def test_open_metrics(self, pool, registry):
        """A server that asks for OpenMetrics gets it, and its parser, which is strict, takes it."""
        await pool.run(functions.echo, 1)
        response = await scrape(registry, accept="application/openmetrics-text; version=1.0.0")
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        assert response.text.endswith("# EOF\n")
        found = samples(response.text, open_metrics)
        echo = "tests.support.functions.pool:echo"
        assert found["offload_calls_total", echo, "completed", "metered"] == 1

    async def test_compressed(self, registry):
        """Gzip is used where the client takes it, and not where it says that it does not."""
        app = metrics_app(registry)
        plain, _ = await call(app, headers=[(b"accept-encoding", b"gzip;q=0, br")])
        pressed, headers = await call(app, headers=[(b"Accept-Encoding", b"br, gzip")])
        assert headers[b"content-encoding"] == b"gzip"
        assert gzip.decompress(pressed) == plain

    async def test_only_some(self, pool, registry):
        """`name[]` restricts what is collected and sent."""
        path = "/metrics?name[]=offload_pool_max_workers&name[]=offload_pool_queued_bytes"
        found = samples((await scrape(registry, path=path)).text)
        # Of this pool: other tests' pools are still known.
        assert {name for name, *labels in found if labels == ["metered"]} == {
            "offload_pool_max_workers",
            "offload_pool_queued_bytes",
        }
        assert len({name for name, *_ in found}) == 2

    def test_on_trio(self, registry):
        """The endpoint answers on trio as well."""
        body, _ = anyio.run(call, metrics_app(registry), backend="trio")
        assert b"offload_info" in body

    async def test_head_and_other_methods(self, registry):
        """HEAD has no body; what would change something is refused."""
        app = metrics_app(registry)
        body, headers = await call(app, method="HEAD")
        assert body == b""
        assert int(headers[b"content-length"]) > 0
        body, headers = await call(app, method="POST")
        assert headers[b"allow"] == b"GET, HEAD"

    async def test_mounted(self, registry):
        """It can be mounted like any application."""
        app = Starlette(routes=[Mount("/metrics", metrics_app(registry))])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            response = await client.get("/metrics", follow_redirects=True)
        assert "offload_info" in response.text

    async def test_application_of_its_own(self, registry):
        """A server that runs it alone gets the answers that a lifespan needs."""
        told = []
        events = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive():
            return {"type": next(events)}

        async def send(message):
            told.append(message["type"])

        await metrics_app(registry)({"type": "lifespan"}, receive, send)
        assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        with pytest.raises(NotImplementedError, match="not websocket"):
            await metrics_app(registry)({"type": "websocket"}, receive, send)


async def call(app, *, method="GET", headers=()):
    """Call an ASGI application; return body and headers."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError

    scope = {"type": "http", "method": method, "headers": list(headers), "query_string": b""}
    await app(scope, receive, send)
    return sent[1]["body"], dict(sent[0]["headers"])


class TestHistograms:
    def test_buckets_are_exact(self):
        """No count is interpolated: each value is in the buckets that it belongs to."""
        values = [1e-6, 1e-4, 0.000128, 0.000129, 0.01, 0.5, 1.048576, 100.0, 1e4]
        histogram = Histogram()
        for value in values:
            histogram.record(value)
        buckets = inside.cumulative(histogram.snapshot())
        assert [float(bound) for bound, _ in buckets] == [*BOUNDS, float("inf")]
        for bound, count in buckets:
            # Our own buckets are nine percent apart: a value on a bound may be taken for above.
            edge = float(bound)
            assert sum(v < edge * 0.999 for v in values) <= count
            assert count <= sum(v <= edge * 1.001 for v in values)
        assert buckets[-1][1] == len(values)

    def test_bounds_cover_what_calls_take(self):
        """From below what a call can take to minutes, not too many of them, each twice the last."""
        assert BOUNDS[0] < 0.0002
        assert BOUNDS[-1] > 60
        assert len(BOUNDS) <= 25
        assert all(b == pytest.approx(2 * a) for a, b in itertools.pairwise(BOUNDS))
        assert all(len(repr(bound)) <= 12 for bound in BOUNDS)


class TestRegistering:
    def test_twice_is_once(self):
        """Who registers again, or makes two endpoints, counts nothing twice."""
        registry = CollectorRegistry(auto_describe=True)
        assert register(registry) is register(registry)
        metrics_app(registry)
        assert [family.name for family in registry.collect()].count("offload_info") <= 1
        registry.unregister(register(registry))
        assert register(registry) is not None

    def test_names_that_clash(self):
        """A metric of the same name that is there already is found out at once, not later."""
        registry = CollectorRegistry()
        Counter("offload_calls", "somebody else's", registry=registry)
        with pytest.raises(ValueError, match="offload_calls"):
            register(registry)

    async def test_beside_metrics_of_the_application(self, pool, registry):
        """The application's own metrics are served by the same endpoint."""
        Counter("orders", "of customers", registry=registry).inc()
        found = samples((await scrape(registry)).text)
        assert found[("orders_total",)] == 1

    async def test_one_pool_of_many(self, pool):
        """A collector can be made for some pools alone."""
        names = [
            sample.labels["pool"]
            for family in PoolCollector(pool).collect()
            for sample in family.samples
            if family.name == "offload_pool_max_workers"
        ]
        assert names == ["metered"]

    def test_without_the_extra(self):
        """Where prometheus_client is not installed the error names the extra; `offload` works."""
        code = (
            "import sys; sys.modules['prometheus_client'] = None\n"
            "import offload\n"
            "try: import offload.metrics\n"
            "except ModuleNotFoundError as error: print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # noqa: PLW1510
        assert "pip install 'offload[metrics]'" in done.stdout, done.stderr


class TestWatchdog:
    async def test_absent_until_a_loop_is_watched(self, registry, monkeypatch):
        """Without the watchdog there are none of its metrics."""
        monkeypatch.delitem(sys.modules, "offload.watchdog", raising=False)
        assert "offload_event_loop" not in (await scrape(registry)).text

    async def test_blocks_by_cause_and_route(self, registry, monkeypatch):
        """What the watchdog has seen is there: lag, blocks by cause, and by route."""
        lag = Histogram()
        lag.record(0.25)
        seen = replace(
            watchdog.statistics(),
            since=1.7e9,
            now=0.5,
            lag=lag.snapshot(),
            causes=(
                watchdog.CauseStatistics(cause="cpu", count=3, seconds=1.5),
                watchdog.CauseStatistics(cause="gc", count=0, seconds=0.0),
            ),
            routes=(
                watchdog.RouteStatistics(
                    route="GET /report/{id}", cause="cpu", count=3, seconds=1.5
                ),
            ),
        )
        monkeypatch.setattr(watchdog, "statistics", lambda: seen)
        found = samples((await scrape(registry)).text)
        assert found[("offload_event_loop_late_seconds",)] == 0.5
        assert found["offload_event_loop_lag_seconds_bucket", "0.262144"] == 1
        assert found["offload_event_loop_lag_seconds_bucket", "0.131072"] == 0
        assert found["offload_event_loop_blocks_total", "cpu"] == 3
        assert found["offload_event_loop_blocks_total", "gc"] == 0
        assert found["offload_event_loop_blocked_seconds_total", "cpu"] == 1.5
        assert found["offload_route_blocks_total", "cpu", "GET /report/{id}"] == 3
        assert found["offload_route_blocked_seconds_total", "cpu", "GET /report/{id}"] == 1.5


def exposed():
    """Return the names under which Prometheus stores each family, by the family's type."""
    suffixes = {
        "counter": ["_total"],
        "gauge": [""],
        "info": ["_info"],
        "histogram": ["_bucket", "_sum", "_count"],
    }
    return {
        family.name: [family.name + suffix for suffix in suffixes[family.type]]
        for family in PoolCollector().describe()
    }


async def test_lack_of_cpu_time_is_counted(pool, registry):
    """How many workers starve now, for how long that was, and how long a quota stopped them."""
    starving, throttled = itertools.count(0.0, 9.0), itertools.count(0.0, 0.5)
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, functions.hold_until_cancelled, os.devnull)
        await until(lambda: pool.statistics().busy)
        inside.pretend_times(
            pool, "idle", lambda pid: {pid: ThreadTime(0.0, next(starving), 0, False)}
        )
        inside.pretend_throttled(pool, lambda: next(throttled))
        await until(lambda: pool.statistics().starved_seconds and pool.statistics().starved_workers)
        await until(lambda: pool.statistics().throttled_seconds)
        found = samples((await scrape(registry)).text)
        group.cancel_scope.cancel()

    assert found["offload_pool_starved_workers", "metered"] == 1.0
    assert found["offload_pool_starved_seconds_total", "metered"] >= 9.0
    assert found["offload_pool_throttled_seconds_total", "metered"] >= 0.5


class TestGrafana:
    DASHBOARD = json.loads(grafana_dashboard())

    def targets(self):
        """Return every query of the dashboard, of panels, variables and annotations."""
        dashboard = self.DASHBOARD
        panels = [each for panel in dashboard["panels"] for each in panel.get("targets", ())]
        variables = [each["query"]["query"] for each in dashboard["templating"]["list"][1:]]
        annotations = [each["expr"] for each in dashboard["annotations"]["list"] if "expr" in each]
        return [each["expr"] for each in panels] + variables + annotations

    def test_queries_name_metrics_that_exist(self):
        """No panel asks for a metric that nobody exposes, and every metric is shown somewhere."""
        stored = {name for names in exposed().values() for name in names}
        asked = {name for query in self.targets() for name in re.findall(r"\boffload_\w+", query)}
        assert asked <= stored
        families = exposed()
        not_shown = [name for name, names in families.items() if not asked & set(names)]
        assert not_shown == []

    def test_labels_exist(self):
        """Each label that a query filters or groups by is one of that metric, or of the scrape."""
        known = {"job", "instance", "le"}
        for family in PoolCollector().describe():
            known |= set(inside.label_names(family))
        for query in self.targets():
            for group in re.findall(r"\bby \(([^)]*)\)", query):
                assert set(group.replace(" ", "").split(",")) <= known, query
            assert set(re.findall(r"[{,](\w+)(?:=~|!=|=)", query)) <= known, query

    def test_outcomes_and_states_exist(self):
        """What a query asks an outcome or a state to be is a word that we use."""
        words = inside.label_values()
        for query in self.targets():
            for value in re.findall(r'(?:outcome|state)(?:=~|!=|=)"([^"]+)"', query):
                assert set(value.split("|")) <= words, query

    def test_brackets_match(self):
        """Each query is well-formed as far as its brackets tell."""
        for query in self.targets():
            for one, other in ("()", "{}", "[]"):
                assert query.count(one) == query.count(other), query

    def test_panels_do_not_overlap(self):
        """Panels have ids of their own and places of their own on the 24 columns."""
        panels = self.DASHBOARD["panels"]
        ids = [panel["id"] for panel in panels]
        assert len(set(ids)) == len(ids)
        taken = set()
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_data_source_is_a_variable(self):
        """It can be imported anywhere: no data source is named but the one that is chosen there."""
        sources = re.findall(r'"uid": "([^"]+)"', grafana_dashboard())
        assert set(sources) == {"${datasource}", "-- Grafana --", "offload-pools"}

    def test_printed(self):
        """`python -m offload.metrics` prints it, to be imported."""
        command = [sys.executable, "-m", "offload.metrics"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == self.DASHBOARD


def test_documentation_lists_every_metric():
    """The table in the module's docstring has each metric with its type and labels."""
    table = {
        name: (kind, tuple(filter(None, labels.replace(" ", "").split(","))))
        for name, kind, labels in re.findall(
            r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", offload.metrics.__doc__, re.MULTILINE
        )
    }
    for family in PoolCollector().describe():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ("version",) if family.type == "info" else inside.label_names(family)
        assert table.pop(family.name + suffix) == (family.type, labels)
    assert table == {}


def test_collecting_is_quick_in_a_thread_and_holds_no_loop(monkeypatch):
    """The pauses that let the loop run are made in other threads, never on the loop itself."""
    slept = []
    breathe = inside.breathe_into(monkeypatch, slept.append)
    breathe()
    assert len(slept) == 1

    async def on_the_loop():
        breathe()

    asyncio.run(on_the_loop())
    assert len(slept) == 1


def test_import_of_offload_does_not_import_it():
    """Nobody pays for metrics who does not ask for them."""
    code = "import sys, offload.pool, offload.starlette; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

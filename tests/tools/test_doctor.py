"""`offload doctor`: every check says what is so, on an application and a machine that are sick."""

import asyncio
import json
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute

from offload import Hardening, Pool
from offload._cli import main
from offload._cli.blocking import blocking_calls
from offload._cli.checks import check_all
from offload._cli.doctor import examine
from offload._cli.endpoints import endpoints
from offload._cli.findings import Finding, Level, as_json, as_text, worst
from offload._cli.imports import ImportCost, import_cost, parse
from offload._cli.inspection import ApplicationError, load
from offload._cli.machine import Machine, memory_limit_bytes, memory_total_bytes
from offload._cli.report import EndpointReport, FunctionReport, PoolReport, Report
from offload._system import default_max_workers
from tests.support.functions import blocking as blocking_functions
from tests.support.functions.blocking import (
    Api,
    Item,
    Slow,
    by_alias,
    by_awaited_helper,
    by_context,
    by_helper,
    by_instance,
    by_local_module,
    by_module,
    by_two_helpers,
    by_wrapped,
    closed_over,
    count,
    decorate,
    helper,
    in_nested,
    in_thread,
    innocent,
    offloaded,
    page,
    shadowed,
    shadowed_in_comprehension,
)

MACHINE = Machine(
    python="3.11.7 (CPython)",
    platform="Linux",
    has_gil=True,
    start_methods=("fork", "spawn", "forkserver"),
    can_fork=True,
    cpus_installed=8,
    cpus_allowed=8,
    cpus=8.0,
    web_workers=1,
    nice=0,
    scheduler=0,
    memory_bytes=8 * 2**30,
    is_memory_limited=False,
)
SEEN = {"scheduler": 5, "nice": 0, "resident_bytes": 50 * 2**20, "blas": {"OMP_NUM_THREADS": "1"}}
POOL = PoolReport(
    name="images",
    max_workers=4,
    spare_workers=1,
    start_method="forkserver",
    executor="",
    os_priority="idle",
    preload=(),
    environment={},
    max_worker_memory_bytes=None,
    start_seconds=0.1,
    bare=SEEN,
    loaded=SEEN,
)
REPORT = Report(
    app_module="app",
    app_type="starlette.applications.Starlette",
    import_seconds=0.2,
    modules=300,
    resident_bytes=100 * 2**20,
    pools=(POOL,),
    functions=(FunctionReport(name="work:resize", module="work", pool="images", is_checked=True),),
    endpoints=(),
)


def check(*, machine=MACHINE, report=REPORT, costs=None, pool=None):
    """Return the findings by check."""
    if pool is not None:
        report = replace(report, pools=(pool,))
    found = {}
    for finding in check_all(machine, report, costs or {}):
        found.setdefault(finding.check, []).append(finding)
    return found


def only(findings):
    """Return the one finding of a check."""
    assert len(findings) == 1, findings
    return findings[0]


class TestWholeCommand:
    """Real applications, in real processes, with real workers."""

    SICK = """
        import subprocess, threading, time
        from time import sleep as nap
        from starlette.applications import Starlette
        from starlette.routing import Route
        from offload import Pool, offload

        # Always more than any machine has.
        images = Pool("images", max_workers=10_000, spare_workers=0, os_priority="normal")
        kept = []

        @offload(pool=images)
        def resize(x):
            return x

        @offload
        def hidden(x):
            return x

        kept.append(hidden)
        del hidden

        @offload(pool="nowhere")
        def homeless(x):
            return x

        threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="ticker").start()
        print("hello from the application")

        async def user():
            subprocess.run(["true"])

        async def slow(request):
            await user()
            nap(1)

        app = Starlette(routes=[Route("/slow", slow)])
    """

    def test_sick_application(self, tmp_path, capsys):
        """Each ailment is named, with what to do; the exit status is 1."""
        source = textwrap.dedent(self.SICK)
        (tmp_path / "sick_app.py").write_text(source)
        command = ["doctor", "sick_app:app", "--app-dir", str(tmp_path), "--json"]
        assert main(command) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["level"] == "FAIL"
        found = [(each["level"], each["check"], each["text"]) for each in document["findings"]]

        def texts(level, check):
            return [text for its, name, text in found if (its, name) == (level, check)]

        failed = texts("FAIL", "found")
        assert len(failed) == 2
        assert "sick_app:hidden" in failed[0]
        assert "'sick_app' has no 'hidden' in the worker" in failed[0]
        assert "there is no pool named 'nowhere'" in failed[1]
        (good,) = texts("OK", "found")
        assert good.endswith("sick_app:resize")
        (cpus,) = texts("WARN", "cpus")
        assert f"{10_000 + default_max_workers()} workers in each of" in cpus
        assert "os_priority='normal'" in texts("WARN", "priority")[0]
        assert "ticker" in texts("WARN", "fork")[0]
        imports = texts("WARN", "imports")
        assert len(imports) == 2  # one for each pool
        assert all("the whole application" in text for text in imports)
        blocking = texts("WARN", "blocking")
        assert len(blocking) == 2
        assert "GET /slow: async def slow" in blocking[0]
        assert "by way of user" in blocking[0]
        assert "subprocess.run()" in blocking[0]
        assert "time.sleep()" in blocking[1]
        line = source.splitlines().index("    nap(1)") + 1
        assert blocking[1].endswith(f"{tmp_path}/sick_app.py:{line}")

    HEALTHY = """
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        from sound_work import resize

        async def heavy(request):
            return PlainTextResponse(str(await resize(1)))

        def create_app():
            return Starlette(routes=[Route("/heavy", heavy)])
    """

    def test_healthy_application(self, tmp_path, capsys):
        """Nothing is wrong with a small application that is written as README says."""
        (tmp_path / "sound_app.py").write_text(textwrap.dedent(self.HEALTHY))
        (tmp_path / "sound_work.py").write_text(
            "from offload import offload\n@offload\ndef resize(x):\n    return x\n"
        )
        command = ["doctor", "sound_app:create_app", "--factory", "--app-dir", str(tmp_path)]
        assert main(command) == 0
        text = capsys.readouterr().out
        assert "workers find 1 function: sound_work:resize" in text
        assert "each worker imports 1 module for it" in text
        assert "no call that is known to block in 1 endpoint (1 async)" in text
        assert "FAIL " not in text

    @pytest.mark.parametrize(
        "source,said",
        [
            ("app = 1 / 0", "ZeroDivisionError: division by zero"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("import os; print('last words', flush=True); os._exit(7)", "last words"),
            ("import not_there_either", "No module named 'not_there_either'"),
            ("other = 1", "has no 'app'"),
        ],
    )
    def test_application_that_cannot_be_imported(self, tmp_path, source, said):
        """Whatever happens while it is imported is told, and is the doctor's only FAIL."""
        (tmp_path / "broken_app.py").write_text(source)
        findings = examine("broken_app:app", folder=str(tmp_path))
        (failed,) = [each for each in findings if each.level is Level.FAIL]
        assert failed.check == "import"
        assert said in failed.text

    def test_application_that_hangs(self, tmp_path):
        """An import that never ends is given up, and nothing of it stays behind."""
        (tmp_path / "hanging_app.py").write_text("import threading; threading.Event().wait()")
        findings = examine("hanging_app:app", folder=str(tmp_path), timeout=0.5)
        assert worst(findings) is Level.FAIL
        assert "not done after 0.5 s" in findings[-1].text

    def test_initializer_that_fails(self, tmp_path):
        """A pool whose workers do not come up is a FAIL with the worker's own words."""
        (tmp_path / "failing_app.py").write_text(
            "from offload import Pool, offload\n"
            "def begin():\n    raise LookupError('no licence')\n"
            "pool = Pool('p', initializer=begin)\n"
            "@offload(pool=pool)\ndef f(): ...\n"
            "app = None\n"
        )
        findings = examine("failing_app:app", folder=str(tmp_path))
        (failed,) = [each for each in findings if each.level is Level.FAIL]
        assert failed.check == "start"
        assert "no licence" in failed.text
        assert any("not checked" in each.text for each in findings if each.check == "found")

    @pytest.mark.parametrize(
        "reference,said",
        [
            ("app", "not of the form"),
            (":app", "not of the form"),
            ("nowhere_at_all:app", "--app-dir"),
            ("offload.nowhere:app", "no module 'offload.nowhere'"),
            ("json:nothing", "has no 'nothing'"),
        ],
    )
    def test_wrong_reference(self, reference, said):
        """What cannot be the name of an application is refused with what it should be."""
        with pytest.raises(ApplicationError, match=said):
            load(reference)


class TestCpus:
    @pytest.mark.parametrize(
        "cpus,web,workers,level,advice",
        [
            (8.0, 1, 4, Level.OK, ""),
            (8.0, 2, 4, Level.OK, "leave it a CPU"),
            (8.0, 3, 4, Level.WARN, "max_workers=2 in all"),
            (2.0, 1, 4, Level.WARN, "stops the whole container"),
            (4.5, 1, 4, Level.OK, "leave it a CPU"),
            # There is nothing to make smaller; or only the number of servers.
            (0.5, 1, 1, Level.OK, ""),
            (2.0, 4, 1, Level.WARN, "fewer web server processes"),
        ],
    )
    def test_workers_against_cpus(self, cpus, web, workers, level, advice):
        """More workers than CPUs are a WARN; under a quota it says what throttling does."""
        allowed = 8 if cpus != 8.0 or web != 2 else 9  # 9: the 8.0 are a quota
        machine = replace(MACHINE, cpus=cpus, cpus_allowed=allowed, web_workers=web)
        found = only(check(machine=machine, pool=replace(POOL, max_workers=workers))["cpus"])
        assert found.level is level
        assert advice in found.advice
        assert found.facts["workers"] == workers

    def test_machine_can_be_read(self):
        """On the machine that runs this test, all of it makes sense."""
        machine = Machine.read(servers=3)
        assert machine.web_workers == 3
        assert 0 < machine.cpus <= machine.cpus_allowed
        assert machine.start_methods


class TestMemory:
    @pytest.mark.parametrize(
        "executor,needed",
        [("", 350), ("ProcessPoolExecutor", 350), ("ThreadPoolExecutor", 100), ("Client", 100)],
    )
    def test_workers_that_are_no_processes_here_are_not_added(self, executor, needed):
        """Threads of the server have its memory, and a cluster has its own."""
        pool = replace(POOL, executor=executor)
        found = only(check(pool=pool)["memory"])
        assert found.facts["needed_bytes"] == needed * 2**20

    @pytest.mark.parametrize(
        "limit_mib,level", [(4096, Level.OK), (400, Level.WARN), (300, Level.FAIL)]
    )
    def test_all_workers_must_fit(self, limit_mib, level):
        """100 MiB of server and five workers of 50 need 350 MiB."""
        machine = replace(MACHINE, memory_bytes=limit_mib * 2**20, is_memory_limited=True)
        found = only(check(machine=machine)["memory"])
        assert found.level is level
        assert found.facts["needed_bytes"] == 350 * 2**20

    def test_bound_that_does_not_bind(self):
        """A limit per worker which lets all of them exceed the container's is a WARN."""
        machine = replace(MACHINE, memory_bytes=2**30, is_memory_limited=True)
        pool = replace(POOL, max_worker_memory_bytes=2**29)
        found = only(check(machine=machine, pool=pool)["memory"])
        assert found.level is Level.WARN
        assert "grow to 2,560 MiB" in found.advice

    @pytest.mark.parametrize(
        "files,limit",
        [
            ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/memory.max": "1000"}, 1000),
            ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/memory.max": "max"}, None),
            (
                {
                    "proc/self/cgroup": "0::/a",
                    "sys/fs/cgroup/a/memory.max": "9000",
                    "sys/fs/cgroup/memory.max": "500",
                },
                500,
            ),
            (
                {
                    "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/1",
                    "sys/fs/cgroup/memory/memory.limit_in_bytes": "700",
                },
                700,
            ),
            ({}, None),
        ],
    )
    def test_limit_of_the_container(self, tmp_path, files, limit):
        """The smallest limit of all levels counts, in both versions of cgroups."""
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        assert memory_limit_bytes(root=str(tmp_path)) == limit

    def test_total_of_the_machine(self, tmp_path):
        """What the kernel calls kB is 1,024 bytes."""
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n")
        assert memory_total_bytes(root=str(tmp_path)) == 2 * 2**20
        assert memory_total_bytes(root=str(tmp_path / "empty")) is None


class TestPriority:
    @pytest.mark.parametrize(
        "seen,asked,own,level,said",
        [
            ({"scheduler": 5, "nice": 0}, "idle", {}, Level.OK, "SCHED_IDLE"),
            ({"scheduler": 0, "nice": 19}, "low", {}, Level.OK, "nice 19"),
            ({"scheduler": 0, "nice": 19}, "idle", {}, Level.OK, "SCHED_IDLE was refused"),
            ({"scheduler": 0, "nice": 0}, "idle", {}, Level.WARN, "refused"),
            ({"scheduler": 0, "nice": 0}, "normal", {}, Level.WARN, "compete"),
            ({"scheduler": 5, "nice": 0}, "idle", {"scheduler": 5}, Level.WARN, "itself"),
            ({"scheduler": 0, "nice": 19}, "low", {"nice": 19}, Level.WARN, "itself"),
        ],
    )
    def test_workers_must_be_below_the_server(self, seen, asked, own, level, said):
        """What counts is what a worker really has, against what the server has."""
        pool = replace(POOL, os_priority=asked, bare=SEEN | seen)
        found = only(check(machine=replace(MACHINE, **own), pool=pool)["priority"])
        assert found.level is level
        assert said in found.text


class TestHardening:
    def test_missing_walls_are_told(self):
        """A pool that is to be hardened is, or doctor says what this system does not allow."""
        assert "harden" not in check()
        whole = replace(POOL, is_hardened=True)
        assert only(check(pool=whole)["harden"]).level is Level.OK
        found = only(check(pool=replace(whole, missing_walls=("files", "signals")))["harden"])
        assert found.level is Level.WARN
        assert "except for: files, signals" in found.text

    def test_workers_are_asked(self, tmp_path):
        """What counts is what a worker could do, which is the same that the pool tells."""
        (tmp_path / "walled_app.py").write_text(
            "from offload import Hardening, Pool, offload\n"
            "pool = Pool('p', harden=Hardening(strict=False))\n"
            "@offload(pool=pool)\ndef f(): ...\n"
            "app = None\n"
        )
        findings = examine("walled_app:app", folder=str(tmp_path))
        found = only([each for each in findings if each.check == "harden"])
        pool = Pool("asked by doctor's test", harden=Hardening(strict=False))

        async def missing():
            async with pool:
                return pool.statistics().missing_walls

        assert found.text.endswith(", ".join(asyncio.run(missing())) or "hardened")


class TestResults:
    def test_a_pool_that_reads_data_is_told(self):
        """Whoever asks for it sees that it is so."""
        assert "results" not in check()
        found = only(check(pool=replace(POOL, results="data"))["results"])
        assert found.level is Level.OK
        assert "never unpickled" in found.text


class TestBlas:
    @pytest.mark.parametrize(
        "environment,level,said",
        [
            ({"OMP_NUM_THREADS": "1"}, Level.OK, "1 thread in each worker, 4 in all"),
            ({"OMP_NUM_THREADS": "2"}, Level.OK, "8 in all"),
            (
                {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "8"},
                Level.WARN,
                "32 in all (MKL_NUM_THREADS=8)",
            ),
            ({}, Level.WARN, "not limited"),
        ],
    )
    def test_threads_of_all_workers(self, environment, level, said):
        """Threads of numeric libraries, times workers, must not exceed the CPUs."""
        found = only(check(pool=replace(POOL, bare=SEEN | {"blas": environment}))["blas"])
        assert found.level is level
        assert said in found.text


class TestImports:
    LINES = """\
import time: self [us] | cumulative | imported package
import time:       900 |        900 | offload._child.worker
offload import mark preload
import time:      2000 |       2000 |   numpy.core
import time:      3000 |       5000 | numpy
offload import mark threads 2
offload import mark module
noise of the application
import time:      1000 |       1000 |   starlette
import time:       500 |       1500 | work
offload import mark end
"""

    def test_what_the_interpreter_says_is_read(self):
        """Each phase has its modules and seconds; what is printed in between is no matter."""
        cost = parse("work", self.LINES)
        assert cost.preloaded == {"numpy", "numpy.core"}
        assert cost.imported == {"starlette", "work"}
        assert (cost.preload_seconds, cost.seconds) == (0.005, 0.0015)
        assert cost.preload_threads == 2
        assert cost.slowest == (("numpy", 0.005), ("starlette", 0.001), ("work", 0.0005))
        assert cost.problem == ""

    def test_real_import(self, tmp_path):
        """A module is imported alone, and what it imports is counted to it."""
        (tmp_path / "lonely.py").write_text("import wave")
        cost = import_cost("lonely", path=[str(tmp_path), *sys.path])
        assert {"lonely", "wave"} <= cost.imported
        assert cost.seconds > 0
        assert not cost.problem

    def test_failing_import(self, tmp_path):
        """One that fails says why."""
        (tmp_path / "failing.py").write_text("raise LookupError('no data')")
        cost = import_cost("failing", path=[str(tmp_path), *sys.path])
        assert cost.problem == "LookupError: no data"

    @pytest.mark.parametrize(
        "changes,level,said",
        [
            ({"imported": frozenset({"work"}), "seconds": 0.001}, Level.OK, "1 module"),
            ({"imported": frozenset({"app", "starlette"})}, Level.WARN, "the whole application"),
            ({"imported": frozenset({"work", "uvicorn.main"})}, Level.WARN, "no use for uvicorn"),
            ({"preloaded": frozenset({"fastapi"})}, Level.WARN, "no use for fastapi"),
            ({"seconds": 2.0, "slowest": (("numpy", 1.9),)}, Level.WARN, "2.0 s; slowest: numpy"),
            ({"problem": "LookupError: no"}, Level.WARN, "by itself failed"),
        ],
    )
    def test_what_a_worker_imports(self, changes, level, said):
        """A web framework, the application itself and what is slow have no place in a worker."""
        cost = replace(ImportCost(module="work"), **changes)
        found = only(check(costs={("images", "work"): cost})["imports"])
        assert found.level is level
        assert said in found.text

    def test_preloaded_resource_is_loaded(self, tmp_path):
        """`preload=["module:name"]` names a resource, and not a module of that name."""
        (tmp_path / "tables.py").write_text(
            "from offload.resources import resource\n"
            "@resource\n"
            "def squares():\n"
            "    import colorsys\n"
            "    return [n * n for n in range(10)]\n"
        )
        path = [str(tmp_path), *sys.path]
        cost = import_cost("tables", path=path, preload=("json", "tables:squares"))
        assert cost.problem == ""
        assert {"json", "tables", "colorsys"} <= cost.preloaded
        assert "tables" not in cost.imported

    def test_threads_of_preloaded_modules(self):
        """A preloaded module that starts a thread is a FAIL: workers are forked from there."""
        costs = {("images", "work"): ImportCost(module="work", preload_threads=1)}
        found = only(check(costs=costs)["preload"])
        assert found.level is Level.FAIL
        spawned = replace(POOL, start_method="spawn")
        assert "preload" not in check(costs=costs, pool=spawned)


class TestBlockingCalls:
    @pytest.mark.parametrize(
        "function,name,via",
        [
            (by_module, "time.sleep", ()),
            (by_alias, "time.sleep", ()),
            (by_local_module, "subprocess.run", ()),
            (by_helper, "time.sleep", ("helper",)),
            (by_two_helpers, "hashlib.pbkdf2_hmac", ("deep", "deeper")),
            (by_wrapped, "count.__wrapped__", ()),
            (by_instance, "threading.Event.wait", ()),
            (by_context, "concurrent.futures.wait", ()),
            (by_awaited_helper, "time.sleep", ("by_module",)),
            (Api().show, "urllib.request.urlopen", ("Api.fetch",)),
            (Api.alone, "time.sleep", ()),
            (Api().through_class, "time.sleep", ()),
            (closed_over(time.sleep), "time.sleep", ()),
            (decorate(by_module), "time.sleep", ()),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_is_found(self, function, name, via):
        """However a name reaches a function that blocks, the call is found and its line told."""
        (call,) = blocking_calls(function)
        assert (call.name, call.via) == (name, via)
        assert call.advice
        assert call.file == blocking_functions.__file__
        line = Path(call.file).read_text().splitlines()[call.line - 1]
        assert name.rpartition(".")[2] in line or "(1)" in line

    @pytest.mark.parametrize(
        "function",
        [in_thread, in_nested, shadowed, shadowed_in_comprehension, offloaded, innocent, len],
        ids=lambda value: value.__name__,
    )
    def test_is_not_guessed(self, function):
        """What runs elsewhere, may be anything, or depends on the data is not told."""
        assert blocking_calls(function) == []

    def test_source_that_is_not_there(self):
        """A function that was compiled from text is passed over."""
        names = {"time": time}
        exec("async def made():\n    time.sleep(1)", names)  # noqa: S102
        assert blocking_calls(names["made"]) == []


class TestEndpoints:
    def test_starlette(self):
        """Routes, mounts, classes, websockets and middlewares are found, and where each runs."""
        app = Starlette(
            routes=[
                Route("/a", page),
                Mount("/m", routes=[Route("/b", count), Route("/c", helper, methods=["POST"])]),
                Route("/d", Item),
                WebSocketRoute("/w", page),
            ],
            middleware=[Middleware(Slow)],
        )
        assert [(each.route, each.kind) for each in endpoints(Slow(app))] == [
            ("middleware Slow", "async"),
            ("GET /a", "async"),
            ("GET /m/b", "offloaded"),
            ("POST /m/c", "thread"),
            ("GET /d", "async"),
            ("/w", "async"),
        ]

    def test_fastapi(self):
        """Routers that are included, dependencies and middlewares are found as well."""
        from fastapi import APIRouter, Depends, FastAPI

        app = FastAPI(openapi_url=None)
        router = APIRouter(prefix="/v1")

        @router.get("/a")
        async def a(value=Depends(page)):  # noqa: B008 - FastAPI's way
            del value

        app.include_router(router, prefix="/api")
        app.add_middleware(Slow)

        @app.middleware("http")
        async def timed(request, call_next):
            return await call_next(request)

        found = [(each.route, each.function) for each in endpoints(app) or ()]
        assert ("GET /api/v1/a", page) in found
        assert ("GET /api/v1/a", a) in found
        assert ("middleware TestEndpoints.test_fastapi.<locals>.timed", timed) in found

    def test_other_application(self):
        """An application without routes is not said to be without blocking handlers."""
        assert endpoints(lambda scope: None) is None
        found = only(check(report=replace(REPORT, endpoints=None))["blocking"])
        assert found.level is Level.WARN
        assert "not checked" in found.text

    def test_endpoint_that_offload_was_put_on_too_late_is_told(self):
        """`@offload` above the decorator of a route is a FAIL: the route has the plain function."""
        seen = EndpointReport(route="GET /x", function="x", kind="thread", is_passed_by=True)
        found = only(check(report=replace(REPORT, endpoints=(seen,)))["offloaded"])
        assert found.level is Level.FAIL
        assert "below the decorator of the route" in found.advice

    def test_each_call_is_told(self):
        """A handler that blocks is a WARN with the place and what to do instead."""
        (call,) = blocking_calls(by_helper)
        seen = EndpointReport(route="GET /x", function="x", kind="async", blocking=(call,))
        found = only(check(report=replace(REPORT, endpoints=(seen,)))["blocking"])
        assert found.level is Level.WARN
        assert "GET /x: async def x holds the event loop with time.sleep()" in found.text
        assert "by way of helper" in found.text


class TestShown:
    FINDINGS = (
        Finding(level=Level.OK, section="A", check="one", text="all is well"),
        Finding(
            level=Level.WARN, section="B", check="two", text="word " * 40, advice="do it " * 40
        ),
    )

    def test_text_fits_a_terminal(self):
        """Long texts are wrapped, and continue below where they begin."""
        lines = as_text(self.FINDINGS, colors=False).splitlines()
        assert all(len(line) <= 100 for line in lines)
        assert lines[0] == "A"
        assert lines[1] == "  OK    all is well"
        assert "        → do it" in "\n".join(lines)
        assert lines[-1] == "1 OK, 1 WARN, 0 FAIL"

    def test_colors_are_for_terminals(self):
        """Escape sequences appear only when they are asked for."""
        assert "\x1b" not in as_text(self.FINDINGS, colors=False)
        assert "\x1b[33mWARN\x1b[0m" in as_text(self.FINDINGS, colors=True)

    def test_json_has_everything(self):
        """Programs get each finding and the worst level."""
        document = json.loads(as_json("app:app", self.FINDINGS))
        assert document["subject"] == "app:app"
        assert document["level"] == "WARN"
        assert [each["check"] for each in document["findings"]] == ["one", "two"]

    def test_strict_fails_for_a_warning(self, tmp_path):
        """With --strict a WARN fails as well, for use in CI."""
        (tmp_path / "bare_app.py").write_text("app = None")
        command = ["doctor", "bare_app:app", "--app-dir", str(tmp_path)]
        assert main(command) == 0
        assert main([*command, "--strict"]) == 1

    def test_usage(self, capsys):
        """Wrong arguments end with status 2; help names every command."""
        with pytest.raises(SystemExit) as ended:
            main(["doctor"])
        assert ended.value.code == 2
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "doctor" in said
        assert "explain" in said


def test_commands_stay_out_of_each_others_way():
    """`offload --help` imports no command and none of the extras."""
    code = (
        "import sys; from offload._cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('offload._cli.') "
        "or m in ('rich', 'starlette', 'asyncio')])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"

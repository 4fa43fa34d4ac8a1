"""`offload top`: what it shows is what the dashboard of a running server says."""

import contextlib
import io
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import uvicorn
from rich.console import Console
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from offload import Outcome, Pool, offload
from offload._cli import main
from offload._cli.dashboard_client import DashboardError, fetch, state_url
from offload._cli.formats import printable
from offload._cli.screen import Screen
from offload._cli.top_view import View
from offload.dashboard import Dashboard
from offload.starlette import lifespan
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE

HISTOGRAM = {"count": 4, "mean": 0.5, "p50": 0.25, "p99": 1.5, "max": 2.0, "buckets": []}
COUNTS = {outcome.value: 0 for outcome in Outcome} | {"completed": 3, "failed": 1}
USAGE = {"cpu": 0.42, "rss_bytes": 30 << 20, "pss_bytes": 10 << 20}


def state(**changes):
    """Return what a dashboard says of one busy pool."""
    worker = {
        "pid": 4711,
        "state": "busy",
        "function": "work:resize",
        "tasks_done": 1234,
        "run_seconds": 0.5,
        "recycling": False,
        **USAGE,
    }
    function = {
        "name": "work:resize",
        "running": 1,
        "queued": 2,
        "max_concurrency": None,
        **COUNTS,
        "wait": HISTOGRAM,
        "run": HISTOGRAM,
    }
    failure = {
        "at": 1.7e9,
        "function": "work:resize",
        "kind": "failed",
        "error": "ValueError",
        "message": "no image",
        "pid": 4711,
    }
    pool = {
        "name": "images",
        "state": "open",
        "max_workers": 2,
        "starting": 0,
        "idle": 0,
        "busy": 1,
        "leaving": 0,
        "queued": 2,
        "queued_bytes": 2048,
        "max_queued": 10,
        "max_queued_bytes": None,
        "opened_at": 1.7e9,
        "recycled": 0,
        **COUNTS,
        "wait": HISTOGRAM,
        "run": HISTOGRAM,
        "workers": [worker],
        "functions": [function],
        "functions_left_out": 0,
        "failures": [failure],
    }
    return {
        "at": 1.7e9,
        "actions": False,
        "interval": 0.5,
        "server": {"pid": 4700, **USAGE},
        "loop": None,
        "pools": [pool | changes],
    }


def shown(*states, width=120, height=40, view=None):
    """Return what the terminal shows after these states, one frame for each."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    screen = Screen("http://server/dashboard", console)
    if len(states) == 1 and view is None:
        screen.print(states[0])
        return console.file.getvalue()
    for each in states:
        screen.take(each)
    console.print(screen.frame(view or View(), height))
    return console.file.getvalue()


# As long as names of real projects are.
LONG = "shop.reports.monthly.invoices:InvoiceBuilder.render_all"


def crowded():
    """Return what a dashboard says of a pool with twenty functions, and of another."""
    one = state()["pools"][0]
    figures = {"completed": 1_234_567, "failed": 12_345, "refused": 777, "queued": 900}
    many = [one["functions"][0] | figures | {"name": f"{LONG}_{n:02}"} for n in range(20)]
    pools = [one | {"functions": many}, one | {"name": "other", "functions": []}]
    return state() | {"pools": pools}


def jobs_state(**changes):
    """Return what a dashboard says of two queues, and of one job that runs."""
    counts = dict.fromkeys(("delayed", "active", "completed", "failed", "cancelled"), 0)
    queue = {"name": "default", "is_paused": False, "waiting": 1234, **counts, "failed": 7}
    paused = {"name": "mail", "is_paused": True, "waiting": 0, **counts}
    job = {
        "id": "01a22cec-2ee7-7362-848f-9cc0065e553e",
        "function": "shop:report",
        "started_at": 1.7e9 - 90,
        "progress": [1, 4],
        "attempts": 1,
        "crashes": 1,
        "worker": "host:4711",
    }
    return {"at": 1.7e9, "queues": [paused, queue], "active": [job], **changes}


class TestJobs:
    def test_queues_and_what_runs(self):
        """Queues with their jobs by state, those that wait first; and the jobs that run."""
        lines = shown(state() | {"jobs": jobs_state()}).splitlines()
        (queue,) = [line for line in lines if line.startswith("default")]
        (paused,) = [line for line in lines if line.startswith("paused mail")]
        assert queue.split() == ["default", "1,234", "7"]
        assert lines.index(queue) < lines.index(paused)
        (job,) = [line for line in lines if line.startswith("01a22cec")]
        assert re.search(r"shop:report +90 s +25% +3 +host:4711", job)

    def test_store_without_pools(self):
        """Of `offload jobs dashboard` there are the jobs alone, and nothing is missing."""
        text = shown(state() | {"pools": [], "jobs": jobs_state(active=[])})
        assert "default" in text
        assert "no pool" not in text
        assert "WORKER" not in text

    def test_many_of_them_leave_room(self):
        """In a small terminal pools and workers are still there beside many queues and jobs."""
        told = jobs_state()
        told["queues"] = [{**told["queues"][0], "name": f"queue{n}"} for n in range(30)]
        told["active"] = told["active"] * 30
        frame = state() | {"jobs": told}
        lines = shown(frame, frame, width=80, height=24).splitlines()
        assert any("4711" in line and "busy" in line for line in lines)
        assert any(line.startswith("QUEUE 1-") for line in lines)
        assert any("FUNCTION 1-" in line and "of 30" in line for line in lines)
        assert len(lines) <= 24

    def test_filter_is_for_jobs_too(self):
        """Only jobs whose function has the text."""
        view = View(needle="invoice")
        text = shown(state() | {"jobs": jobs_state()}, view=view)
        assert "01a22cec" not in text
        assert "default" in text


class TestFrame:
    def test_everything_is_there(self):
        """Pools, workers, functions, queues and failures, each with its figures."""
        text = shown(state())
        lines = text.splitlines()
        assert "pid 4700" in lines[0]
        (pool,) = [line for line in lines if line.startswith("images  open")]
        assert "1/2" in pool
        assert "2 (2 KiB) of 10" in pool
        (worker,) = [line for line in lines if line.lstrip().startswith("4711")]
        assert re.search(r"busy +42% +10 MiB +1,234 +500 ms +work:resize", worker)
        (function,) = [line for line in lines if line.startswith("work:resize")]
        assert re.search(r" 1 +2 +3 +1 +250 ms +1.5 s +1.5 s$", function.rstrip())
        assert "ValueError: no image" in lines[-1]

    def test_workers_without_cpu_time_are_told_at_the_top(self):
        """Nothing fails when workers starve: at any width the top says it, and of which worker."""
        one = state()["pools"][0]
        starved = state(starved_workers=1, workers=[one["workers"][0] | {"starved": True}])
        for width in (60, 80, 200):
            lines = shown(starved, starved, width=width, height=24).splitlines()
            (line,) = [line for line in lines if line.startswith("1 worker gets")]
            assert lines.index(line) < 3
            assert "next to no CPU time (images)" in line
            assert len(line) <= width
        assert "busy (no CPU)" in shown(starved)
        # Nor of a server that is older and says nothing of it.
        assert "no CPU" not in shown(state())

    def test_rates_are_since_the_frame_before(self):
        """Calls per second come from two frames; after a restart of the pool there is none."""
        later = state(completed=23) | {"at": 1.7e9 + 2}
        assert re.search(r"of 10 +10 +23", shown(state(), later))
        restarted = state(completed=0, failed=0) | {"at": 1.7e9 + 2}
        assert re.search(r"of 10 +250 ms", shown(state(), restarted))
        assert "CALLS/S" not in shown(state())

    def test_only_outcomes_that_there_were(self):
        """A column for what never happened does not take room."""
        text = shown(state())
        assert "FAILED" in text
        assert "CRASHED" not in text
        assert "CRASHED" in shown(state(crashed=1))

    @pytest.mark.parametrize("height", [16, 24, 50])
    def test_fits_the_terminal(self, height):
        """However much there is, the frame fits the terminal, and tells what it hides."""
        one = state()["pools"][0]
        many = state(
            workers=[one["workers"][0] | {"pid": pid} for pid in range(100)],
            functions=[one["functions"][0] | {"name": f"work:f{n}"} for n in range(100)],
            failures=one["failures"] * 50,
        )
        text = shown(many, many, height=height)
        assert len(text.splitlines()) <= height
        assert re.search(r"FUNCTION 1-\d+ of 100", text)
        assert re.search(r"RUNS 1-\d+ of 100", text)

    @pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 160, 200])
    def test_names_stay_and_figures_go(self, width):
        """From 60 columns on every name is whole, and no line is longer than the terminal."""
        lines = shown(crowded(), crowded(), width=width, height=24).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        (heading,) = [line for line in lines if line.startswith("FUNCTION 1-")]
        named = [line for line in lines if line.startswith(LONG)]
        assert len(named) >= 8
        assert all(re.match(rf"{LONG}_\d\d( |$)", line) for line in named)
        # Most of all, one wants to know how long it takes.
        assert ("RUN p99" in heading) is (width >= 70)
        assert ("WAIT p99" in heading) is (width >= 160)

    def test_end_of_a_name_that_is_too_long_stays(self):
        """Where even names have to be cut, the function's own name stays, not its package's."""
        text = shown(crowded(), crowded(), width=40, height=24)
        assert re.search(r"^…\S*InvoiceBuilder.render_all_00", text, re.MULTILINE)

    def test_filter_pool_and_order(self):
        """The filter is for functions of all tables; a pool hides the other pools."""
        one = state()["pools"][0]
        slow = one["functions"][0] | {"name": "work:slow", "run": HISTOGRAM | {"p99": 9.0}}
        two = state() | {
            "pools": [
                one | {"functions": [*one["functions"], slow]},
                one | {"name": "reports", "functions": [slow | {"name": "work:report"}]},
            ]
        }
        text = shown(two, two, view=View(needle="SLOW"))
        assert "work:slow" in text
        assert "work:resize" not in text
        text = shown(two, two, view=View(pool="reports"))
        assert "work:report" in text
        assert "images" not in text
        text = shown(two, two, view=View(sort="run p99"))
        assert text.index("work:slow") < text.index("FUNCTION") + text[
            text.index("FUNCTION") :
        ].index("work:resize")

    def test_server_that_is_gone(self):
        """The last frame stays, and says that it is the last, within the terminal."""
        console = Console(file=io.StringIO(), width=80, height=24, force_terminal=False)
        screen = Screen("http://server/dashboard", console)
        screen.take(crowded())
        screen.lost("nothing answers")
        console.print(screen.frame(View(), 24))
        lines = console.file.getvalue().splitlines()
        assert lines[0].startswith("nothing answers")
        assert len(lines) <= 24

    def test_event_loop(self):
        """Where a watchdog watches, the loop's lag and what blocks it are at the top."""
        place = {"function": "report", "file": "app.py", "line": 7, "route": "GET /slow"}
        loop = {"lag": HISTOGRAM, "now": 0.002, "blocks": 3, "places": [place]}
        text = shown(state() | {"loop": loop})
        assert "event loop: lag p99 1.5 s, late by 2 ms now, 3 blocks" in text
        assert "GET /slow: report at app.py:7" in text

    def test_no_pools(self):
        """A server that has made none yet is no error."""
        assert "no pool has been made yet" in shown(state() | {"pools": []})

    def test_what_the_server_says_cannot_steer_the_terminal(self):
        """Escape sequences, line ends and marks of rich in a server's texts are only shown."""
        evil = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold]\n\u202egnp"
        failure = state()["pools"][0]["failures"][0] | {"message": evil, "function": evil}
        worker = state()["pools"][0]["workers"][0] | {"function": evil}
        text = shown(state(failures=[failure], workers=[worker], name=evil), width=200)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[bold]x[/bold]" in text

    def test_printable(self):
        """Letters of any script stay; what steers does not."""
        assert printable("größe 図") == "größe 図"
        assert printable("a\x1b[0m\r\nb\t\u202e") == "a�[0m  b  "
        assert printable("x" * 300, 10) == "x" * 10


class TestUrl:
    @pytest.mark.parametrize(
        "url,expected",
        [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/dashboard/state"),
            ("127.0.0.1:9000", "http://127.0.0.1:9000/dashboard/state"),
            ("http://h/offload/", "http://h/offload/state"),
            ("https://h/a/b?token=1", "https://h/a/b/state?token=1"),
            ("http://h/dashboard/state", "http://h/dashboard/state"),
        ],
    )
    def test_where_the_state_is(self, url, expected):
        """The name of a server, of a dashboard or of the state itself will do."""
        assert state_url(url) == expected

    @pytest.mark.parametrize("url", ["ftp://h/x", "http://", "file:///etc/passwd"])
    def test_what_is_no_server(self, url):
        """Anything else is wrong usage."""
        with pytest.raises(ValueError, match="not the URL of a server"):
            state_url(url)
        assert main(["top", url, "--once"]) == 2


@contextlib.contextmanager
def server_of(answer) -> Iterator[str]:
    """Run an HTTP server whose answers `answer(handler)` writes; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer_with(status, body=b""):
    """Return a function that answers so."""

    def answer(handler):
        handler.send_response(status)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


class TestNothingAnswers:
    def test_no_server(self, capsys):
        """Where nobody listens, the error says where it looked and what to do; status 1."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert main(["top", f"http://127.0.0.1:{port}", "--once"]) == 1
        said = capsys.readouterr().err
        assert f"nothing answers at http://127.0.0.1:{port}/dashboard/state" in said
        assert "refused" in said
        assert "Start the server" in said

    @pytest.mark.parametrize(
        "status,body,said",
        [
            (404, b"Not Found", "there is no dashboard at"),
            (403, b"You may not see this dashboard.", "You may not see this dashboard."),
            (401, b"", "--header"),
            (500, b"oh no", "answers 500: oh no"),
            (200, b"<html>", "is no dashboard of offload"),
            (200, b'{"pools": 3}', "is no dashboard of offload"),
            (200, b"[]", "is no dashboard of offload"),
        ],
    )
    def test_something_else_answers(self, status, body, said):
        """Whatever answers instead of a dashboard is told."""
        with server_of(answer_with(status, body)) as url, pytest.raises(DashboardError, match=said):
            fetch(state_url(url))

    def test_jobs_that_cannot_be_told(self):
        """A store that does not answer, or a server that has none, does not hide the pools."""

        def answer(handler):
            is_state = handler.path.endswith("/state")
            answer_with(200 if is_state else 503, b'{"pools": [], "problem": "gone"}')(handler)

        with server_of(answer) as url:
            assert fetch(state_url(url))["jobs"] is None

    def test_headers_are_sent(self):
        """A dashboard that wants to know who asks can be told; proxies are not asked."""
        seen = []

        def answer(handler):
            seen.append(handler.headers["authorization"])
            answer_with(200, b'{"pools": []}')(handler)

        with server_of(answer) as url:
            fetch(state_url(url), {"Authorization": "Bearer 7"})
        assert set(seen) == {"Bearer 7"}

    @pytest.mark.parametrize("option", [["--header", "nonsense"], ["--interval", "0"]])
    def test_wrong_options(self, option):
        """Options that cannot be used are wrong usage."""
        try:
            status = main(["top", "--once", *option])
        except SystemExit as ended:
            status = ended.code
        assert status == 2


async def heavy(request):
    """Call a function of the pool that the dashboard shows."""
    return PlainTextResponse(str(await offload(pool="shown")(functions.echo)(7)))


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """Run a server with a pool and its dashboard; return where."""
    pool = Pool("shown", max_workers=1, os_priority="normal")
    app = Starlette(
        routes=[Route("/heavy", heavy), Mount("/dashboard", Dashboard(pools=[pool]))],
        lifespan=lifespan(pool),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        assert httpx.get(f"{url}/heavy", timeout=PATIENCE).text == "7"
        yield url
    finally:
        server.should_exit = True
        thread.join()
        inside.forget("shown")


class TestRealServer:
    def test_one_frame(self, dashboard, capsys):
        """`--once` prints what the server's pools do, without colours where it is piped."""
        assert main(["top", dashboard, "--once"]) == 0
        said = capsys.readouterr().out
        assert "shown" in said
        assert "tests.support.functions.pool:echo" in said
        assert "\x1b" not in said

    def test_live_until_q(self, dashboard):
        """In a terminal it goes on, frame by frame, until q; then the terminal is as it was."""
        outer, inner = pty.openpty()
        command = [sys.executable, "-m", "offload", "top", dashboard, "--interval", "0.05"]
        environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30"}
        try:
            with subprocess.Popen(command, stdin=inner, stdout=inner, env=environment) as top:
                os.close(inner)
                seen = b""
                # Rates are there from the second frame on.
                while b"CALLS/S" not in seen:
                    seen += os.read(outer, 65536)
                os.write(outer, b"q")
                with contextlib.suppress(OSError):  # the end of the other side, as Linux tells it
                    while part := os.read(outer, 65536):
                        seen += part
                assert top.wait(20) == 0
        finally:
            os.close(outer)
        assert b"tests.support.functions.pool:echo" in seen
        # Into the other screen, and out of it.
        assert seen.index(b"\x1b[?1049h") < seen.index(b"\x1b[?1049l")


def test_without_the_extra():
    """Where rich is not installed the error names the extra."""
    code = (
        "import sys; sys.modules['rich'] = None\n"
        "from offload._cli import main; sys.exit(main(['top', '--once']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'offload[cli]'" in done.stderr

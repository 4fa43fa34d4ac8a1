"""The demo server as a user has it: a process that is started, asked over HTTP, and ended."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from demo_server import work
from demo_server.settings import Settings, SettingsError
from tests.support.busy_machine import BUSY_MACHINE
from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[2]
MAX_BODY_BYTES = 300_000
MAX_PIXELS = 1_000_000
# A request that nobody would live to see the answer of, and the settings that let it run.
ENDLESS = "/heavy?n=1000000000"
ENDLESS_ALLOWED = {"DEMO_MAX_N": "1000000000", "DEMO_TIMEOUT": "3600"}


@dataclasses.dataclass
class Server:
    process: subprocess.Popen
    banner: str
    url: str

    def processes(self):
        """Return the ids of what the server has started: workers and what starts them."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        assert found
        return [each.pid for each in found]

    def end(self, sig):
        """Send a signal; return the exit status, and what was printed after the banner."""
        self.process.send_signal(sig)
        output, errors = self.process.communicate(timeout=PATIENCE)
        lines = errors.splitlines(keepends=True)
        errors = "".join(line for line in lines if BUSY_MACHINE not in line)
        # What it tells once a page of the dashboard was opened.
        told = re.fullmatch(r"WARNING: offload\.dashboard: .*\?token=.*\n", errors, re.MULTILINE)
        return self.process.returncode, output, "" if told else errors


def run(*arguments, **environment):
    """Return the finished process of a start that is expected to fail."""
    return subprocess.run(
        [sys.executable, "-m", "demo_server", *arguments],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@contextlib.contextmanager
def started(*arguments, **environment):
    """Start the server on a free port and wait for its banner."""
    process = subprocess.Popen(
        [sys.executable, "-m", "demo_server", "--port", "0", *arguments],
        # The watchdog tells of a machine that is too busy, on standard error, which must be silent.
        # At normal priority: workers would wait for all other tests otherwise.
        env=os.environ
        | {"DEMO_WORKERS": "2", "DEMO_WATCHDOG": "no", "DEMO_OS_PRIORITY": "normal"}
        | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            banner = process.stdout.readline()
            while not banner.endswith("/stats\n"):
                line = process.stdout.readline()
                assert line, f"no banner but {banner!r} and {process.stderr.read()!r}"
                banner += line
            [url] = re.findall(r"Demo server on (http://\S+)", banner)
            yield Server(process, banner, url)
        finally:
            # Only where a test has failed before it ended the server.
            process.kill()


@pytest.fixture(scope="module")
def http():
    """Share one server among the tests that only ask."""
    limits = {"DEMO_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "DEMO_MAX_PIXELS": str(MAX_PIXELS)}
    with started(**limits) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
        yield http
        server.end(signal.SIGTERM)


def problem(response):
    """Return status and text of a problem, after a look at its form."""
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, body["detail"]


def encoded(image_format="PNG", size=(40, 20), mode="RGB"):
    """Return an image file."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, image_format)
    return file.getvalue()


class TestHeavy:
    def test_index_lists_what_there_is(self, http):
        """A human who opens the root finds every endpoint, and how to try it."""
        response = http.get("/")

        assert response.headers["content-type"].startswith("text/html")
        for path in ("/fast", "/heavy", "/heavy/inline", "/heavy/thread", "/thumbnail", "/csv"):
            assert f"{http.base_url}".rstrip("/") + path in response.text

    def test_fast_is_a_few_bytes(self, http):
        """There is as little in it as an answer can have."""
        response = http.get("/fast")

        assert (response.status_code, response.text) == (200, "fast\n")

    def test_heavy_runs_in_a_worker(self, http):
        """The result, and which process found it after how long."""
        response = http.get("/heavy", params={"n": 1000})

        told = response.json()
        assert (told["n"], told["result"]) == (1000, 168)
        assert told["seconds"] > 0
        assert told["pid"] != http.get("/heavy/inline", params={"n": 10}).json()["pid"]

    def test_inline_and_thread_run_in_the_server(self, http):
        """The two ways that show the problem are the same work in the server's process."""
        inline = http.get("/heavy/inline", params={"n": 1000}).json()
        thread = http.get("/heavy/thread", params={"n": 1000}).json()

        assert inline["result"] == thread["result"] == 168
        assert inline["pid"] == thread["pid"]

    def test_fast_is_served_while_a_worker_is_busy(self, http):
        """Fast answers come during a heavy one."""
        with in_background(http, "/heavy?n=300000") as heavy:
            until_busy(http)
            # A few: on two CPUs a client that never pauses leaves none to an idle-priority worker.
            answers = [http.get("/fast").status_code for _ in range(20)]
            was_busy = heavy.is_alive()

        assert answers == [200] * 20
        assert was_busy

    def test_work_stops_when_its_client_leaves(self, http):
        """Closing the connection frees the worker, and is counted as a cancelled call."""
        before = http.get("/stats").json()["cancelled"]
        url = http.base_url
        with socket.create_connection((url.host, url.port), PATIENCE) as client:
            # Seconds of work, so that it is still under way when the client leaves.
            client.sendall(b"GET /heavy?n=2000000 HTTP/1.1\r\nhost: test\r\n\r\n")
            until_busy(http)
        limit = time.monotonic() + PATIENCE
        while (now := http.get("/stats").json())["busy"]:
            assert time.monotonic() < limit, now

        assert now["cancelled"] == before + 1

    @pytest.mark.parametrize("n", ["", "x", "1.5", "-1", "2000001", "1_000", "٣", "9" * 5000])
    @pytest.mark.parametrize("path", ["/heavy", "/heavy/inline", "/heavy/thread"])
    def test_n_out_of_range_is_a_clear_400(self, http, path, n):
        """Every way refuses the same, and says what it takes."""
        status, detail = problem(http.get(path, params={"n": n}))

        assert status == 400
        assert "n must be" in detail
        assert "from 0 to 2000000" in detail

    @pytest.mark.parametrize("path,status", [("/nothing", 404), ("/csv", 405)])
    def test_every_refusal_is_a_problem(self, http, path, status):
        """Also those of the framework have the form of RFC 9457."""
        assert problem(http.get(path))[0] == status


@contextlib.contextmanager
def in_background(http, path, status=200):
    """Make a request in a thread, which must be answered like this by the end of the block."""
    answers = []

    def get():
        answers.append(httpx.get(f"{str(http.base_url).rstrip('/')}{path}", timeout=PATIENCE))

    thread = threading.Thread(target=get)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(PATIENCE)
    assert [answer.status_code for answer in answers] == [status]


class TestThumbnail:
    @pytest.mark.parametrize("image_format", ["BMP", "GIF", "JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("as_form", [True, False])
    def test_image_fits_into_the_square(self, http, image_format, as_form):
        """A known format, as a form or as the body itself, comes back small in proportion."""
        data = encoded(image_format, (400, 200))
        media_type = f"image/{image_format.lower()}"
        if as_form:
            sent = {"files": {"file": ("a.x", data, media_type)}}
        else:
            sent = {"content": data, "headers": {"content-type": media_type}}
        response = http.post("/thumbnail", params={"size": 50}, **sent)

        assert response.headers["content-type"] == "image/jpeg"
        thumbnail = Image.open(io.BytesIO(response.content))
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (50, 25))

    def test_transparency_is_kept(self, http):
        """What JPEG cannot show comes back as PNG."""
        response = http.post("/thumbnail", files={"file": encoded(mode="RGBA")})

        assert response.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(response.content)).mode == "RGBA"

    def test_rotated_photograph_is_turned_upright(self, http):
        """Cameras note in EXIF how they were held."""
        exif = Image.Exif()
        exif[0x0112] = 6  # Orientation: turn by 90 degrees.
        file = io.BytesIO()
        Image.new("RGB", (400, 200)).save(file, "JPEG", exif=exif)

        response = http.post("/thumbnail", params={"size": 50}, files={"file": file.getvalue()})

        assert Image.open(io.BytesIO(response.content)).size == (25, 50)

    def test_small_image_is_not_enlarged(self, http):
        """A thumbnail is never larger than what it shows."""
        response = http.post("/thumbnail", files={"file": encoded(size=(4, 2))})

        assert Image.open(io.BytesIO(response.content)).size == (4, 2)

    def test_decompression_bomb_is_refused_undecoded(self, http):
        """A small file that asks for much memory is a 422 that says so."""
        bomb = encoded(size=(20_000, 20_000), mode="1")
        assert len(bomb) < MAX_BODY_BYTES

        status, detail = problem(http.post("/thumbnail", files={"file": bomb}))

        assert status == 422
        assert "20000 x 20000 pixels" in detail

    @pytest.mark.parametrize("cut", [60, 200])
    def test_damaged_image_is_a_422(self, http, cut):
        """The right kind of file, but broken."""
        photo = io.BytesIO()
        Image.effect_noise((100, 100), 80).save(photo, "PNG")

        status, detail = problem(http.post("/thumbnail", files={"file": photo.getvalue()[:cut]}))

        assert (status, "damaged" in detail) == (422, True)

    @pytest.mark.parametrize("data", [b"hello", b"\x89PNG", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
    def test_unknown_format_is_a_415(self, http, data):
        """Not an image, or of a kind that is not decoded here."""
        status, detail = problem(http.post("/thumbnail", files={"file": data}))

        assert (status, "known format" in detail) == (415, True)

    @pytest.mark.parametrize("size", ["0", "-1", "2049", "x"])
    def test_size_out_of_range_is_a_400(self, http, size):
        """As n is."""
        status, detail = problem(
            http.post("/thumbnail", params={"size": size}, files={"file": encoded()})
        )

        assert (status, "from 1 to 2048" in detail) == (400, True)


TABLE = "name;age;height\nAda;36;1.5\nBob;;2.5\n\nCleo;4\n"


class TestCsv:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
    def test_columns_are_summarised(self, http, encoding):
        """Count, extremes, mean and distinct values of each column, by its type."""
        response = http.post(
            "/csv",
            content=TABLE.encode(encoding),
            headers={"content-type": f"text/csv; charset={encoding}"},
        )

        assert response.json() == {
            "rows": 3,
            "columns": [
                column("name", "text", 3, "Ada", "Cleo", None, 3),
                column("age", "integer", 2, 4, 36, 20.0, 2),
                column("height", "number", 2, 1.5, 2.5, 2.0, 2),
            ],
        }

    def test_numbers_that_json_cannot_hold_are_text(self, http):
        """No NaN, no infinity and no integer that readers of JSON round."""
        table = "a,b,c\nnan,9223372036854775808,1e308\n1,1,1e308\n"

        columns = http.post("/csv", files={"file": ("t.csv", table)}).json()["columns"]

        assert columns == [
            column("a", "text", 2, "1", "nan", None, 2),
            column("b", "number", 2, 1.0, 2.0**63, 2.0**62, 2),
            column("c", "number", 2, 1e308, 1e308, 1e308, 1),
        ]

    def test_empty_column_has_no_values(self, http):
        """A header alone is a table without rows."""
        response = http.post("/csv", files={"file": ("t.csv", "a\n")})

        assert response.json() == {"rows": 0, "columns": [column("a", "empty", 0, *[None] * 3, 0)]}

    @pytest.mark.parametrize(
        "data,detail",
        [
            (b"\xff\xfe\xfd", "Not text in utf-8"),
            (b"a,b\n1,2\n1,2,3\n", "Line 3 has 3 cells"),
            (b'a,b\n"1,2\n', "Line 2"),
            (b"\n1,2\n", "names of the columns"),
            (b",".join([b"x"] * 1001), "1001 columns"),
            (b"a\n" + b"x" * 200_000, "Line 2"),
        ],
        ids=["binary", "ragged", "quotes", "no-header", "too-wide", "too-long"],
    )
    def test_what_is_no_table_is_a_422(self, data, detail):
        """The text says where and why; not over HTTP, since the worker decides alone."""
        with pytest.raises(work.UnreadableError) as caught:
            work.summarise_csv.__wrapped__(io.BytesIO(data), "utf-8")

        assert detail.lower() in str(caught.value)

    def test_webp_is_measured_before_it_is_opened(self):
        """A file of some thirty bytes can ask for a gigabyte of memory."""
        most = (16383).to_bytes(2, "little")
        forms = {
            b"VP8X": b"\x00" * 4 + (16382).to_bytes(3, "little") * 2,
            b"VP8L": b"\x2f" + b"\xff\xff\xff\x0f" + b"\x00" * 5,
            b"VP8 ": b"\x00\x00\x00\x9d\x01\x2a" + most + most,
        }
        for kind, data in forms.items():
            chunk = kind + len(data).to_bytes(4, "little") + data
            file = b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
            with pytest.raises(work.UnreadableError, match=r"the image has 1638[34] x"):
                work.thumbnail.__wrapped__(io.BytesIO(file), 100, MAX_PIXELS)
        small = io.BytesIO()
        Image.new("RGB", (10, 20)).save(small, "WEBP")
        small.seek(0)
        assert work.thumbnail.__wrapped__(small, 100, MAX_PIXELS).height == 20

    def test_unreadable_table_is_a_problem(self, http):
        """The worker's error is the client's 422."""
        status, detail = problem(http.post("/csv", files={"file": ("t.csv", "a\n1,2\n")}))

        assert (status, detail) == (422, "Line 2 has 2 cells, but the first 1.")

    def test_half_a_character_is_a_422(self, http):
        """There are bytes that are no text in the encoding that the client declares."""
        headers = {"content-type": "text/csv; charset=utf-16-le"}
        response = http.post("/csv", content=b"a\x00,\x00\x00\xd8", headers=headers)
        assert response.status_code == 422

    @pytest.mark.parametrize("charset", ["klingon", "punycode", "unicode_escape", "utf-7", "idna"])
    def test_unknown_charset_is_a_415(self, http, charset):
        """What the client declares is looked at before the data; what is no text is none."""
        headers = {"content-type": f"text/csv; charset={charset}"}
        content = b"a-" * 100_000  # of which punycode would make something for seven seconds
        status, _ = problem(http.post("/csv", content=content, headers=headers))

        assert status == 415


def column(*values):
    """Return the summary of a column."""
    return dict(
        zip(("name", "type", "count", "min", "max", "mean", "distinct"), values, strict=True)
    )


@pytest.mark.parametrize("path", ["/thumbnail", "/csv"])
class TestUploads:
    def test_empty_body_is_a_400(self, http, path):
        """Nothing posted at all."""
        assert problem(http.post(path)) == (400, "The file is empty.")

    def test_empty_file_is_a_400(self, http, path):
        """A form with an empty file."""
        assert problem(http.post(path, files={"file": b""})) == (400, "The file is empty.")

    def test_form_without_a_file_is_a_400(self, http, path):
        """A form with only a text field."""
        status, detail = problem(http.post(path, files={"file": (None, "text")}))

        assert (status, "no file" in detail) == (400, True)

    def test_broken_form_is_a_400(self, http, path):
        """No boundary, a boundary that is not there, or more than one file."""
        for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
            sent = {"content": b"garbage", "headers": {"content-type": content_type}}
            assert problem(http.post(path, **sent))[0] == 400
        assert problem(http.post(path, files={"a": b"1", "b": b"2"}))[0] == 400

    def test_wrong_type_is_a_415(self, http, path):
        """By the declared type, of the body or of the file in the form; it says what is taken."""
        for sent in (
            {"content": b"x", "headers": {"content-type": "application/pdf"}},
            {"files": {"file": ("a.pdf", b"x", "application/pdf")}},
            {"data": {"what": "curl -d sends"}},
        ):
            response = http.post(path, **sent)
            assert problem(response)[0] == 415
            assert "multipart/form-data" in response.headers["accept"]

    @pytest.mark.parametrize("declares_length", [True, False])
    @pytest.mark.parametrize("content_type", ["", "multipart/form-data; boundary=x"])
    def test_large_body_is_a_413_before_it_is_sent(self, http, path, content_type, declares_length):
        """The answer comes while the client still sends, whether it declares a length or not."""
        connection = socket.create_connection((http.base_url.host, http.base_url.port), PATIENCE)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n"
        head += f"Content-Type: {content_type}\r\n" if content_type else ""
        part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
        with connection:
            if declares_length:
                connection.sendall(f"{head}Content-Length: {10**15}\r\n\r\n".encode())
            else:
                connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
                for chunk in (part, b"y" * MAX_BODY_BYTES):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            # No end is sent: the server does not wait for it.
            answer = connection.makefile("rb").read()

        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
        assert str(MAX_BODY_BYTES).encode() in answer


class TestJobs:
    def test_a_job_is_run_by_another_program(self, http):
        """202 with a place to follow it; the result is that of the same function."""
        answer = http.post("/heavy/job", params={"n": 1000})
        assert answer.status_code == 202
        status = until_over(http, answer.headers["location"])

        assert status["result"]["result"] == 168
        assert status["progress"] == {"done": 1000.0, "total": 1000.0}

    def test_wrong_n_is_a_clear_400(self, http):
        """As for a direct call."""
        assert problem(http.post("/heavy/job", params={"n": "x"}))[0] == 400

    def test_program_is_killed_by_the_page_alone(self, http):
        """A request that another site could have a browser send kills nothing."""
        before = http.get("/worker").json()
        assert problem(http.post("/worker/kill"))[0] == 403
        assert http.get("/worker").json() == before

    def test_killed_program_is_replaced(self):
        """As a supervisor does: the jobs go on with another one."""
        with started() as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
            limit = time.monotonic() + PATIENCE
            while (killed := http.get("/worker").json()["pid"]) is None:
                assert time.monotonic() < limit
            http.post("/worker/kill", headers={"X-Demo-Action": "1"}).raise_for_status()
            place = http.post("/heavy/job", params={"n": 100}).headers["location"]
            status = until_over(http, place)
            now = http.get("/worker").json()
            ended = server.end(signal.SIGTERM)

        assert status["state"] == "completed"
        assert (now["pid"] != killed, now["starts"]) == (True, 2)
        assert ended == (-signal.SIGTERM, "", "")

    def test_program_starts_from_any_folder(self, tmp_path):
        """The worker program finds the demo where the server has found it, as in a wheel."""
        # Another one than is installed here, and its results tell which one ran.
        home = tmp_path / "home"
        shutil.copytree(ROOT / "demo_server", home / "demo_server")
        source = home / "demo_server" / "work.py"
        source.write_text(source.read_text().replace("primes = 0\n", "primes = 1000\n"))
        code = (
            f"import runpy, sys; sys.path.insert(0, {str(home)!r}); sys.argv[1:] = ['--port', '0'];"
            "runpy.run_module('demo_server', run_name='__main__', alter_sys=True)"
        )
        command = [sys.executable, "-c", code]
        environment = os.environ | {"DEMO_WORKERS": "1", "DEMO_WATCHDOG": "no"}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                (url,) = re.findall(r"Demo server on (http://\S+)", process.stdout.readline())
                with httpx.Client(base_url=url, timeout=PATIENCE) as http:
                    place = http.post("/heavy/job", params={"n": 100}).headers["location"]
                    status = until_over(http, place)
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE)

        assert status["result"]["result"] == 1025

    @pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
    def test_nothing_is_left_behind(self, tmp_path, sig):
        """However the server ends: its worker program ends, and the file of the jobs is removed."""
        with started(TMPDIR=str(tmp_path)) as server:
            with httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
                until_over(http, http.post("/heavy/job", params={"n": 10}).headers["location"])
            there = list(tmp_path.glob("offload-demo-*"))
            programs = server.processes()
            server.end(sig)
        until_gone(programs)

        assert len(there) == 1
        assert not there[0].exists()


def until_over(http, place):
    """Return the status of a job that has ended."""
    limit = time.monotonic() + PATIENCE
    while (status := http.get(place).json())["state"] in ("waiting", "active"):
        assert time.monotonic() < limit, status
        time.sleep(0.02)  # Between two looks, so as not to take its CPU.
    return status


class TestOperation:
    def test_health_and_readiness(self, http):
        """Both are there while the pool is open."""
        assert http.get("/health").text == "alive\n"
        assert http.get("/ready").text == "ready\n"

    def test_statistics_are_json(self, http):
        """What the pool knows of itself, for humans and scrapers."""
        assert http.get("/stats").json()["name"] == "demo"

    def test_requests_are_not_logged_unless_asked(self):
        """Benchmarks are quiet; `--access-log` shows every request."""
        logs = []
        for arguments in ([], ["--access-log"]):
            with started(*arguments) as server:
                httpx.get(f"{server.url}/fast")
                _, output, errors = server.end(signal.SIGINT)
                logs.append("GET /fast" in output + errors)

        assert logs == [False, True]

    @pytest.mark.parametrize("sig,status", [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
    def test_signal_ends_the_server_cleanly(self, sig, status):
        """Quietly, at once, with the usual exit status; connections that idle do not hold it."""
        drain = 10 * PATIENCE
        with (
            started(DEMO_DRAIN=str(drain)) as server,
            httpx.Client(base_url=server.url) as http,
        ):
            http.get("/heavy", params={"n": 10})
            started_by_server = server.processes()
            # Who drained without need would not be done when this gives up.
            ended = server.end(sig)

        assert ended == (status, "", "")
        assert not [pid for pid in started_by_server if is_alive(pid)]

    def test_running_request_is_answered_before_the_end(self):
        """Ctrl+C costs no one an answer that takes less than the drain."""
        with (
            started(DEMO_DRAIN="30") as server,
            httpx.Client(base_url=server.url) as http,
            in_background(http, "/heavy?n=200000"),
        ):
            until_busy(http)
            ended = server.end(signal.SIGINT)

        assert ended == (0, "", "")

    def test_request_longer_than_the_drain_is_told(self):
        """The end is no later than the drain allows, with an honest answer and no worker left."""
        with (
            started(DEMO_DRAIN="0.1", **ENDLESS_ALLOWED) as server,
            httpx.Client(base_url=server.url) as http,
            in_background(http, ENDLESS, status=503) as heavy,
        ):
            until_busy(http)
            started_by_server = server.processes()
            ended = server.end(signal.SIGINT)
            heavy.join(PATIENCE)

        assert ended == (0, "", "")
        assert not [pid for pid in started_by_server if is_alive(pid)]

    def test_second_signal_ends_the_server_at_once(self):
        """Who presses Ctrl+C again does not wait for the drain, and reads no tracebacks."""
        with (
            started(DEMO_DRAIN="3600", **ENDLESS_ALLOWED) as server,
            httpx.Client(base_url=server.url) as http,
        ):
            url = f"{server.url}{ENDLESS}"
            client = threading.Thread(target=lambda: expect_cut(url))
            client.start()
            until_busy(http)
            started_by_server = server.processes()
            server.process.send_signal(signal.SIGINT)
            until_refused(server.url)
            ended = server.end(signal.SIGINT)
            client.join(PATIENCE)

        assert ended == (0, "", "")
        until_gone(started_by_server)

    def test_server_that_is_killed_leaves_no_process(self):
        """Not even SIGKILL of the server leaves a busy worker behind."""
        with started(**ENDLESS_ALLOWED) as server, httpx.Client(base_url=server.url) as http:
            url = f"{server.url}{ENDLESS}"
            client = threading.Thread(target=lambda: expect_cut(url))
            client.start()
            until_busy(http)
            started_by_server = server.processes()
            server.end(signal.SIGKILL)
            client.join(PATIENCE)
            until_gone(started_by_server)

    def test_application_runs_under_any_server(self):
        """`uvicorn demo_server.app:app`, as its own documentation says."""
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "demo_server.app:app", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            said = iter(process.stderr.readline, "")
            url = next(found[0] for line in said if (found := re.search(r"http://[0-9.:]+", line)))
            answer = httpx.get(f"{url}/heavy?n=100", timeout=PATIENCE)
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()

        assert answer.json()["result"] == 25
        assert "Traceback" not in rest

    def test_missing_package_is_a_501_that_names_it(self, tmp_path):
        """A server without Pillow or python-multipart starts, and says what to install."""
        hide = "import sys; sys.modules['PIL'] = sys.modules['python_multipart'] = None"
        (tmp_path / "sitecustomize.py").write_text(hide)
        with started(PYTHONPATH=str(tmp_path)) as server:
            url = f"{server.url}/thumbnail"
            image = httpx.post(url, content=b"x", headers={"content-type": "image/png"})
            form = httpx.post(url, files={"file": b"x"})
            ended = server.end(signal.SIGINT)

        assert problem(image) == (501, "Pillow is not installed: pip install pillow.")
        assert problem(form)[0] == 501
        assert "pip install python-multipart" in problem(form)[1]
        assert ended == (0, "", "")

    def test_port_in_use_is_said_in_one_line(self, http):
        """No traceback, and what to do."""
        ended = run("--port", str(http.base_url.port))

        assert ended.returncode == 1
        assert f"cannot listen on 127.0.0.1 port {http.base_url.port}" in ended.stderr
        assert "--port" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_help_names_every_setting(self):
        """`--help` is the documentation."""
        ended = run("--help")

        assert ended.returncode == 0
        assert "curl http://127.0.0.1:8000/heavy" in ended.stdout
        for each in dataclasses.fields(Settings):
            assert f"DEMO_{each.name.upper()}" in ended.stdout

    def test_wrong_setting_is_said_in_one_line(self):
        """Before anything starts, with the name and what is allowed."""
        ended = run("--port", "99999")

        assert ended.returncode == 2
        assert "port=99999: must be from 0 to 65535" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_place_of_jobs_that_cannot_be_is_said_in_one_line(self):
        """As without the package for it: the variable of every program, and what is wrong."""
        ended = run("--port", "0", OFFLOAD_JOBS="mysql://localhost")

        assert ended.returncode == 2
        assert "jobs: " in ended.stderr
        assert "mysql" in ended.stderr
        assert "Traceback" not in ended.stderr


def is_alive(pid):
    """Return whether there is such a process that is more than an entry of the system."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_busy(http):
    """Ask until a worker is running something."""
    limit = time.monotonic() + PATIENCE
    while not http.get("/stats").json()["busy"]:
        assert time.monotonic() < limit, "no worker got busy"


def until_gone(pids):
    """Look until none of these processes lives."""
    limit = time.monotonic() + PATIENCE
    while any(map(is_alive, pids)):
        assert time.monotonic() < limit, "a process outlives the server"


def until_refused(url):
    """Connect until the server takes no more connections."""
    limit = time.monotonic() + PATIENCE
    with contextlib.suppress(httpx.TransportError):
        while time.monotonic() < limit:
            httpx.get(f"{url}/health")


def expect_cut(url):
    """Make a request whose connection the server may cut."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(url, timeout=PATIENCE)


class TestSettings:
    def test_jobs_are_where_those_of_every_program_are(self):
        """One variable for all programs, unless the demo has its own."""
        both = {"OFFLOAD_JOBS": "redis://one", "DEMO_JOBS": "redis://two"}

        assert Settings.from_environment({"OFFLOAD_JOBS": "redis://one"}).jobs == "redis://one"
        assert Settings.from_environment(both).jobs == "redis://two"

    def test_environment_is_read_by_type(self):
        """Every kind of setting, and what is not set keeps its default."""
        settings = Settings.from_environment(
            {
                "DEMO_HOST": "::1",
                "DEMO_PORT": "0",
                "DEMO_ACCESS_LOG": "Yes",
                "DEMO_WORKERS": "3",
                "DEMO_DRAIN": "0.5",
                "DEMO_TIMEOUT": "",
                "PORT": "1",
            }
        )

        assert settings == Settings(host="::1", port=0, access_log=True, workers=3, drain=0.5)

    @pytest.mark.parametrize(
        "name,text",
        [
            ("PORT", "-1"),
            ("PORT", "65536"),
            ("PORT", "80.0"),
            ("PORT", "1_0"),
            ("WORKERS", "0"),
            ("TIMEOUT", "nan"),
            ("TIMEOUT", "inf"),
            ("DRAIN", "soon"),
            ("ACCESS_LOG", "maybe"),
            ("OS_PRIORITY", "high"),
        ],
    )
    def test_wrong_value_names_its_variable(self, name, text):
        """Which one, what it is, and what is allowed."""
        with pytest.raises(SettingsError, match=rf"DEMO_{name}={re.escape(text)}: \w+"):
            Settings.from_environment({f"DEMO_{name}": text})

    def test_all_that_is_wrong_is_said_at_once(self):
        """Nobody has to start the server once per mistake."""
        with pytest.raises(SettingsError) as caught:
            Settings.from_environment({"DEMO_PORT": "x", "DEMO_DRAIN": "-1"})

        assert "DEMO_PORT" in str(caught.value)
        assert "DEMO_DRAIN" in str(caught.value)

    def test_default_n_must_be_allowed(self):
        """A server whose bare /heavy is always a 400 is a mistake."""
        with pytest.raises(SettingsError, match="default_n=10: above max_n=5"):
            Settings(default_n=10, max_n=5)

"""What the demo page asks its server for, without a browser."""

import contextlib
import errno
import json
import signal
import time

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from demo_server.uploads import read_upload
from demo_server.visitors import Visitors
from tests.site.test_demo_server import PATIENCE, started

MAX_QUEUED = 3


@pytest.fixture(scope="module")
def http():
    """Share one server, with a queue that is soon full."""
    with (
        started(DEMO_MAX_QUEUED=str(MAX_QUEUED)) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE) as http,
    ):
        yield http
        server.end(signal.SIGTERM)


def lines(response):
    """Return what each line of an answer says."""
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize("way", ["inline", "thread", "offloaded"])
def test_a_burst_tells_of_each_piece_of_work(http, way):
    """One line for each, with how long it ran and in which process."""
    told = lines(http.post("/burst", params={"way": way, "count": 4, "n": 100}))
    server = http.get("/heavy/inline", params={"n": 1}).json()["pid"]

    assert len(told) == 4
    assert all(each["seconds"] > 0 for each in told)
    assert (server in {each["pid"] for each in told}) == (way != "offloaded")


def test_a_burst_tells_what_was_refused(http):
    """More than may wait are refused, each by itself; the others are done."""
    count = 2 + MAX_QUEUED + 20
    told = lines(http.post("/burst", params={"count": count, "n": 100_000}))
    refused = [each for each in told if "error" in each]

    assert len(told) == count
    assert refused
    assert all(each == {"error": "QueueFullError", "refused": True} for each in refused)
    # All that ran or waited when the first was refused.
    assert count - len(refused) >= 2 + MAX_QUEUED


@pytest.mark.parametrize(
    "question",
    [{"way": "magic"}, {"count": "0"}, {"count": "many"}, {"count": "1004"}, {"n": "-1"}],
)
def test_a_burst_that_cannot_be_is_a_clear_400(http, question):
    """Every wrong parameter is named."""
    answer = http.post("/burst", params=question)

    assert answer.status_code == 400
    assert next(iter(question)) in answer.json()["detail"]


def test_a_burst_ends_with_its_client(http):
    """When the connection closes, what runs is stopped, and what waits never runs."""
    before = http.get("/stats").json()
    limit = time.monotonic() + PATIENCE
    with http.stream("POST", "/burst", params={"count": 5, "n": 2_000_000}):
        # All of them: one that has not been called yet when the client leaves is never counted.
        while (now := http.get("/stats").json())["busy"] + now["queued"] < 5:
            assert time.monotonic() < limit, now
    while (now := http.get("/stats").json())["busy"] or now["queued"]:
        assert time.monotonic() < limit, now

    assert now["completed"] == before["completed"]
    assert now["cancelled"] == before["cancelled"] + 5


class TestVisitors:
    """Who may have a round play by itself."""

    @pytest.fixture
    def visits(self):
        """Return a way to visit a path as a page, and to move the clock."""
        self.now = 0.0

        async def app(scope, receive, send):
            """Do nothing."""

        visitors = Visitors(app, lambda: self.now)

        def visit(path, page=""):
            headers = [(b"host", b"demo"), *([(b"x-demo-page", page.encode())] if page else [])]
            scope = {"type": "http", "path": path, "headers": headers}
            with contextlib.suppress(StopIteration):
                visitors(scope, None, None).send(None)
            return visitors.is_alone(scope)

        return visit

    def test_only_page_is_alone(self, visits):
        """The one that asks, as long as nobody else does; one that was never heard of is not."""
        assert not visits("/alone", "a")
        assert visits("/fast", "a")
        assert visits("/alone", "a")

    @pytest.mark.parametrize("path", ["/fast", "/heavy?n=1", "/heavy/inline", "/burst", "/csv"])
    @pytest.mark.parametrize("other", ["", "b"])
    def test_other_page_or_program_is_company(self, visits, path, other):
        """Until it has not been heard of for some seconds."""
        assert visits("/fast", "a")
        visits(path, other)
        assert not visits("/fast", "a")
        self.now = 10.0
        assert visits("/fast", "a")

    @pytest.mark.parametrize("path", ["/", "/static/demo.js", "/metrics", "/health", "/dashboard/"])
    def test_who_looks_after_the_server_is_none(self, visits, path):
        """Probes and scrapers want no work of it."""
        assert visits("/fast", "a")
        visits(path)
        assert visits("/fast", "a")

    def test_many_names_take_no_memory(self, visits):
        """A client that takes a new name each time is forgotten."""
        for number in range(10_000):
            visits("/fast", f"{number}" * 100)
        self.now = 10.0
        assert visits("/fast", "a")
        assert not visits("/alone", "0" * 32)


def test_units_are_those_that_people_read(http):
    """Limits are told in MiB, on the page and in refusals."""
    assert "Up to 16 MiB." in http.get("/").text
    form = {"file": ("a.csv", b"a\n" * 9_000_000, "text/csv")}
    answer = http.post("/csv", files=form)

    assert answer.status_code == 413
    assert "larger than the limit of 16 MiB" in answer.json()["detail"]


def test_the_page_is_guarded(http):
    """No inline code, nothing from another host, no frame."""
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # What it refers to is there.
    for name in ("demo.css", "demo.js", "chart.js", "round.js", "text.js", "upload.js"):
        assert http.get(f"/static/{name}").headers["x-content-type-options"] == "nosniff"
    assert http.get("/static/index.html").status_code == 404
    assert "{" not in answer.text.partition("<main>")[2]


def test_the_host_that_a_client_claims_is_only_text(http):
    """The page quotes the address that it was asked by: escaped."""
    answer = http.get("/", headers={"host": "a'><script>alert(1)</script>"})

    assert "<script>alert" not in answer.text


def test_numbers_for_everybody_hold_no_texts(http):
    """What clients have sent is not in the open statistics, however it failed."""
    http.post("/csv", content=b"\xff secret", headers={"content-type": "text/csv"})
    told = http.get("/stats").json()

    assert not {"functions", "failures"} & set(told)
    assert told["failed"]


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}],
)
def test_a_burst_is_nothing_for_other_sites(http, headers):
    """A page that a visitor has open elsewhere cannot have this server work for nobody."""
    assert http.post("/burst", params={"count": 1, "n": 100}, headers=headers).status_code == 403
    own = {"sec-fetch-site": "same-origin", "origin": str(http.base_url).rstrip("/")}
    assert http.post("/burst", params={"count": 1, "n": 100}, headers=own).status_code == 200


def test_nobody_is_sent_to_the_host_that_they_name(http):
    """A path that lacks a slash leads nowhere else, whatever Host the request has."""
    for path in ("/dashboard", "/fast/", "/heavy/"):
        answer = http.get(path, headers={"host": "evil.example"})
        assert "evil.example" not in answer.headers.get("location", "")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_form_for_which_there_is_no_room_is_a_507(monkeypatch):
    """A full disk is the server's fault, and the client is told, also in the middle of a form."""

    def refuse(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", refuse)
    body = (
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n"
        b"Content-Type: text/csv\r\n\r\na,b\r\n--x--\r\n"
    )

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(HTTPException) as caught:
        await read_upload(request, max_bytes=1000, media_types=["text/*"])
    assert caught.value.status_code == 507

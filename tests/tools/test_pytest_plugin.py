"""The pytest plugin, as a user has it: a run of pytest of its own."""

import re
import subprocess
import sys

import pytest

from tests.support.loops import uvloop

SUITE = """
import asyncio, threading, time
import anyio, httpx, pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

async def slow(request):
    time.sleep(0.3)
    return PlainTextResponse("slow")

async def fine(request):
    await anyio.sleep(0.1)
    return PlainTextResponse("fine")

app = Starlette(routes=[Route("/slow/{n}", slow), Route("/fine", fine)])

@pytest.fixture(params=[
    ("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True}), "trio",
][::STEP], ids=["asyncio", "uvloop", "trio"][::STEP])
def anyio_backend(request):
    return request.param

async def ask(path):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as c:
        assert (await c.get(path)).status_code == 200

@MARK
@pytest.mark.anyio
async def test_slow_in_async_test():
    await ask("/slow/1")

@MARK
@pytest.mark.anyio
async def test_fine_in_async_test():
    await ask("/fine")

@MARK
def test_slow_in_test_client():
    with TestClient(app) as client:
        assert client.get("/slow/2").text == "slow"

@MARK
def test_slow_at_the_end_of_run():
    async def main():
        time.sleep(0.3)
    asyncio.run(main())

@MARK
def test_fine_sync():
    time.sleep(0.3)
    assert [t.name for t in threading.enumerate() if "watchdog" in t.name] == []

@pytest.mark.offload_max_block(None)
def test_fine_by_exception():
    with TestClient(app) as client:
        client.get("/slow/3")

@MARK
def test_fails_by_itself():
    with TestClient(app) as client:
        client.get("/slow/4")
    raise LookupError("my own")
"""
FINE = {
    "test_fine_in_async_test[asyncio]",
    "test_fine_in_async_test[uvloop]",
    "test_fine_in_async_test[trio]",
    "test_fine_sync",
    "test_fine_by_exception",
}
SLOW = {
    "test_slow_in_async_test[asyncio]",
    "test_slow_in_async_test[uvloop]",
    "test_slow_in_async_test[trio]",
    "test_slow_in_test_client",
    "test_slow_at_the_end_of_run",
}
if uvloop is None:
    FINE.remove("test_fine_in_async_test[uvloop]")
    SLOW.remove("test_slow_in_async_test[uvloop]")
LIMIT = "@pytest.mark.offload_max_block(0.1)"


def run(folder, suite, *options, ini=""):
    """Run pytest; return its exit status, the outcome of each test, and its output."""
    # Every second loop: without uvloop.
    (folder / "test_app.py").write_text(suite.replace("STEP", "2" if uvloop is None else "1"))
    (folder / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = r"^test_app\.py::(\S+) (PASSED|FAILED|ERROR)"
    outcomes = dict(re.findall(lines, done.stdout, re.MULTILINE))
    return done.returncode, outcomes, done.stdout + done.stderr


def those(outcomes, outcome):
    """Return the names of the tests that ended so."""
    return {name for name, each in outcomes.items() if each == outcome}


def test_off_unless_asked_for(tmp_path):
    """Whoever has `offload` for its functions only has the tests he had, and no import."""
    suite = SUITE.replace("@MARK\n", "") + (
        "\ndef test_nothing_imported():\n"
        "    import sys\n"
        "    assert [m for m in sys.modules if m.startswith('offload.')] == "
        "['offload.pytest_plugin']\n"
    )
    _, outcomes, output = run(tmp_path, suite)

    assert those(outcomes, "FAILED") == {"test_fails_by_itself"}, output
    assert outcomes["test_nothing_imported"] == "PASSED"


def test_handlers_that_block_fail_their_test(tmp_path):
    """On every loop, in async tests, test clients and `asyncio.run`; with route, line and stack."""
    _, outcomes, output = run(tmp_path, SUITE.replace("@MARK", LIMIT))

    assert those(outcomes, "PASSED") == FINE, output
    assert those(outcomes, "FAILED") == SLOW | {"test_fails_by_itself"}
    assert output.count("the event loop was held for more than 100 ms") >= len(SLOW)
    assert "by GET /slow/{n}: test_app:slow at " in output
    assert "Use await anyio.sleep(...)" in output
    assert "    time.sleep(0.3)\n" in output
    # A test's own failure goes first.
    assert "LookupError: my own" in output


@pytest.mark.parametrize("way", ["option", "ini"])
def test_limit_for_all_tests(way, tmp_path):
    """By option or by setting; the marker says otherwise for one."""
    suite = (
        "import asyncio, time, pytest\n"
        "async def main(): time.sleep(0.3)\n"
        "def test_slow(): asyncio.run(main())\n"
        "@pytest.mark.offload_max_block(20)\n"
        "def test_fine(): asyncio.run(main())\n"
    )
    if way == "option":
        _, outcomes, output = run(tmp_path, suite, "--offload-max-block-ms", "100")
    else:
        _, outcomes, output = run(tmp_path, suite, ini="offload_max_block_ms = 100")

    assert outcomes == {"test_slow": "FAILED", "test_fine": "PASSED"}, output


def test_markers_that_make_no_sense_are_refused(tmp_path):
    """A limit that does not hold must not look as if it did."""
    wrong = {
        "": "takes seconds",
        "1, 2": "takes seconds",
        "seconds=1, cause='gc'": "takes seconds",
        "'soon'": "blocks of 10 ms or more, not 'soon'",
        "0.001": "blocks of 10 ms or more, not 1.0",
        "1, causes=['weather']": "not 'weather'",
    }
    tests = [
        f"@pytest.mark.offload_max_block({marker})\ndef test_{number}(): pass\n"
        for number, marker in enumerate(wrong)
    ]
    status, outcomes, output = run(tmp_path, "import pytest\n" + "".join(tests))

    assert status == 1
    assert those(outcomes, "FAILED") == {f"test_{number}" for number in range(len(wrong))}
    for told in wrong.values():
        assert told in output


@pytest.mark.parametrize("limit", ["5"])
def test_option_that_makes_no_sense_is_refused(limit, tmp_path):
    """Before any test runs."""
    status, outcomes, output = run(
        tmp_path, "def test_it(): pass\n", "--offload-max-block-ms", limit
    )

    assert (status, outcomes) == (4, {})
    assert "blocks of 10 ms or more" in output


def test_causes_can_be_chosen(tmp_path):
    """By default the collector is no failure: the heap is the test runner's."""
    suite = (
        "import asyncio, gc, time, pytest\n"
        "async def collect():\n"
        "    gc.disable()\n"
        "    heap = [[] for _ in range(700_000)]\n"
        "    gc.enable()\n"
        "    await asyncio.sleep(0.1)\n"
        "    end = time.thread_time() + 0.4\n"
        "    while time.thread_time() < end:\n"
        "        gc.collect()\n"
        "    await asyncio.sleep(0.1)\n"
        "@pytest.mark.offload_max_block(0.2, causes=['gc'])\n"
        "def test_counted(): asyncio.run(collect())\n"
        "@pytest.mark.offload_max_block(0.2)\n"
        "def test_not_counted(): asyncio.run(collect())\n"
    )
    _, outcomes, output = run(tmp_path, suite)

    assert outcomes == {"test_counted": "FAILED", "test_not_counted": "PASSED"}, output
    assert "(gc: gc.collect)" in output

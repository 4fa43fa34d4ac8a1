"""Single tasks, limits, search and plain tables of the dashboard, without a browser."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from offload import Pool, TaskKilledError
from offload.asgi import CancelOnDisconnect
from offload.dashboard import Dashboard
from offload.watchdog import Watchdog
from tests.support.functions.paged import POOL, double, fail, spin
from tests.support.processes import until
from tests.tools.test_dashboard import ACT, HOME, allow, visited

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(anyio_backend) -> AsyncIterator[Pool]:
    """Open the pool that the dashboards show."""
    async with Pool(POOL, min_workers=1, max_workers=1, show_arguments=True) as pool:
        yield pool


async def waiting(pool: Pool, count: int) -> None:
    """Return when one task runs and so many wait."""
    await until(lambda: (pool.statistics().busy, pool.statistics().queued) == (1, count))


async def shown(http: httpx.AsyncClient) -> dict:
    """Return what a sample says of the pool."""
    return next(each for each in (await http.get("/state")).json()["pools"] if each["name"] == POOL)


async def killed(numbers: list[int] | None = None) -> None:
    """Make a call that an operator will stop."""
    with pytest.raises(TaskKilledError):
        await (spin() if numbers is None else double(*numbers))


async def test_tasks_are_listed_and_one_that_waits_is_cancelled(pool):
    """What waits is told one by one, with its state; an operator takes one out of the queue."""
    async with visited(Dashboard(actions=allow)) as http, anyio.create_task_group() as group:
        group.start_soon(killed)
        await waiting(pool, 0)
        group.start_soon(killed, [21])
        await waiting(pool, 1)
        told = (await http.get("/tasks", params={"pool": POOL})).json()
        found = (await http.get("/tasks", params={"pool": POOL, "contains": "DOUBLE"})).json()
        running, queued = told["tasks"]
        [worker] = [each for each in (await shown(http))["workers"] if each["state"] == "busy"]
        answers = [
            await http.post("/actions/stop", params={"pool": POOL, "task": each}, headers=ACT)
            for each in (queued["id"], queued["id"], running["id"])
        ]

    assert [running["state"], queued["state"], told["queued"]] == ["running", "waiting", 1]
    assert worker["task"] == running["id"]
    assert [each["id"] for each in found["tasks"]] == [queued["id"]]
    assert [answer.status_code for answer in answers] == [200, 409, 200]
    assert await double(4) == 8


# Under trio, httpx complains of what it leaves itself.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_task_is_told_in_full(pool):
    """The request and the trace that it belongs to are told, and its arguments if they may be."""
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=False)

    async def heavy(_: Request) -> PlainTextResponse:
        with trace.use_span(trace.NonRecordingSpan(context)):
            await killed()
        return PlainTextResponse("stopped")

    for middleware in (Watchdog, CancelOnDisconnect):
        app = Starlette(
            routes=[Route("/heavy/{name}", heavy), Mount("/offload", Dashboard(actions=allow))],
            middleware=[Middleware(middleware)],
        )
        transport = httpx.ASGITransport(app, client=HOME)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
            anyio.create_task_group() as group,
        ):
            group.start_soon(http.get, "/heavy/ada")
            await waiting(pool, 0)
            [row] = (await http.get("/offload/tasks", params={"pool": POOL})).json()["tasks"]
            asked = {"pool": POOL, "id": row["id"]}
            told = (await http.get("/offload/task", params=asked)).json()
            assert pool.stop_task(row["id"])
            await until(lambda: not pool.tasks())
            ended = await http.get("/offload/task", params=asked)

        assert told["request"].startswith("GET /heavy/")
        assert told["trace_id"] == f"{0xABC:032x}"
        assert (told["arguments"], told["state"], told["timeout"]) == ("", "running", None)
        assert ended.status_code == 404


async def test_arguments_stay_hidden_unless_the_pool_shows_them():
    """They may be secrets: without `show_arguments` no answer has them."""
    async with (
        Pool(POOL, max_workers=1) as pool,
        visited(Dashboard()) as http,
        anyio.create_task_group() as group,
    ):
        group.start_soon(killed)
        await waiting(pool, 0)
        group.start_soon(killed, [987654321])
        await waiting(pool, 1)
        texts = [(await http.get("/tasks", params={"pool": POOL})).text]
        for task in pool.tasks():
            answer = await http.get("/task", params={"pool": POOL, "id": task.id})
            assert answer.json()["arguments"] is None
            texts.append(answer.text)
        for task in reversed(pool.tasks()):
            pool.stop_task(task.id)

    assert not any("987654321" in text for text in texts)


async def test_limits_are_changed_from_the_page(pool):
    """An operator sets how many run and wait; what no pool could have is refused."""
    async with visited(Dashboard(actions=allow)) as http:
        answers = [
            await http.post("/actions/limits", params={"pool": POOL} | limits, headers=ACT)
            for limits in (
                {"max_workers": "3", "max_queued": "none"},
                {"max_queued": "7"},
                {"max_workers": "0"},
            )
        ]
        told = await shown(http)

    assert [answer.status_code for answer in answers] == [200, 200, 409]
    assert "max_workers must be at least 1" in answers[2].json()["text"]
    assert (told["max_workers"], told["max_queued"]) == (3, 7)


async def test_functions_are_found_by_name(pool):
    """Those that a sample leaves out are found as well."""
    await double(1)
    async with visited(Dashboard()) as http:
        answers = [
            (await http.get("/functions", params={"pool": POOL, "contains": text})).json()
            for text in ("Paged:DOU", "no such function")
        ]

    assert [[each["name"] for each in found] for found in answers] == [
        ["tests.support.functions.paged:double"],
        [],
    ]


async def test_plain_tables_need_no_script(pool):
    """The same as HTML alone, in which a text is text, whatever it says."""
    evil = "<script>document.title = 'taken'</script>\udcff"
    with pytest.raises(ValueError, match="script"):
        await fail(evil)
    async with visited(Dashboard()) as http:
        page = await http.get("/plain")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;script&gt;document.title = &#x27;taken&#x27;" in page.text
    assert "<script>document" not in page.text
    assert "tests.support.functions.paged:fail" in page.text


async def test_history_is_told_by_pool_and_span(pool):
    """What is kept is told where it is kept, and a wrong question with what would be right."""
    ask = {"pool": POOL, "span": "86400"}
    async with visited(Dashboard()) as http, visited(Dashboard(history=False)) as other:
        told = (await http.get("/history", params=ask)).json()
        wrong = await http.get("/history", params=ask | {"span": "5"})
        none = await other.get("/history", params=ask)
        flags = [(await each.get("/state")).json()["history"] for each in (http, other)]

    assert (told["seconds"], told["span"]) == (240, 86400)
    assert wrong.status_code == 400
    assert "86400" in wrong.text
    assert none.status_code == 404
    assert flags == [True, False]

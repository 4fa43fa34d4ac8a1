"""The schedules of the dashboard: what it tells of them, and who may do what; without a browser."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from offload.dashboard import Dashboard
from offload.jobs import Jobs, JobsUnavailableError
from offload.schedules import EventKind, Schedule, Scheduler, StoredSchedules
from offload.schedules._store import ScheduleStore
from tests.jobs import job_functions as functions

pytestmark = pytest.mark.anyio
ACTION = {"X-Offload-Action": "1"}


async def nothing() -> str:
    """Be scheduled."""
    return "done"


async def fail() -> None:
    """Raise."""
    raise LookupError("<b>nothing there</b>")


@pytest.fixture
async def jobs(tmp_path, anyio_backend):
    """Open jobs."""
    async with Jobs(f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal") as opened:
        yield opened


@pytest.fixture(autouse=True)
def ours(monkeypatch):
    """Show the schedulers of the test, and none that an earlier one has left behind."""
    made = []
    monkeypatch.setattr(Scheduler, "all", lambda: made)
    return made


def scheduler_of(ours, *schedules, jobs=None):
    """Return a scheduler that the dashboard sees."""
    scheduler = Scheduler(jobs)
    for each in schedules:
        scheduler.add(each)
    ours.append(scheduler)
    return scheduler


@asynccontextmanager
async def visited(*, host="127.0.0.1", **options):
    """Visit the page of schedules."""
    app = Starlette(routes=[Mount("/at", Dashboard(pools=[], jobs=[], **options))])
    transport = httpx.ASGITransport(app, client=(host, 50000))
    base_url = "http://127.0.0.1:8000/at/schedules"
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        yield http


async def listed(http, **question):
    """Return the list, and its rows by name."""
    told = (await http.get("/list", params=question)).json()
    return told, {each["name"]: each for each in told["schedules"]}


class TestLook:
    async def test_schedules_are_told_with_their_runs(self, ours):
        """Status, next and last run, lateness; errors of functions as text."""
        scheduler = scheduler_of(
            ours, Schedule("0 3 * * *", nothing, name="good"), Schedule("@yearly", fail, name="bad")
        )
        async with scheduler, visited() as http:
            await scheduler["good"].execute()
            with pytest.raises(LookupError):
                await scheduler["bad"].execute()
            await scheduler["bad"].pause()
            told, rows = await listed(http)
            key = rows["bad"]["key"]
            history = (await http.get("/history", params={"key": key})).json()

        assert (told["all"], told["found"], told["problem"], told["actions"]) == (2, 2, None, False)
        assert rows["good"]["last"]["outcome"] == "finished"
        assert rows["good"]["status"] == "idle"
        soon = datetime.now(UTC) + timedelta(days=1)
        assert rows["good"]["next"] <= soon.timestamp()
        assert (rows["bad"]["status"], rows["bad"]["next"]) == ("paused", None)
        assert [each["error"] for each in history["runs"]] == ["LookupError: <b>nothing there</b>"]
        assert history["runs"][0]["reason"] == "manual"

    async def test_they_are_found_and_come_in_order(self, ours):
        """By a part of the name, by status, in pages, by what is due next."""
        scheduler = scheduler_of(
            ours, *(Schedule(f"{n} 0 1 1 *", nothing, name=f"job {9 - n}") for n in range(5))
        )
        async with scheduler, visited() as http:
            await scheduler["job 7"].pause()
            _, by_text = await listed(http, text="JOB 8")
            _, by_status = await listed(http, status="paused")
            told, first = await listed(http, limit=2)
            _, second = await listed(http, limit=2, start=2)
            _, by_next = await listed(http, order="next")

        assert list(by_text) == ["job 8"]
        assert list(by_status) == ["job 7"]
        assert (list(first), list(second), told["found"]) == (
            ["job 5", "job 6"],
            ["job 7", "job 8"],
            5,
        )
        assert list(by_next) == ["job 9", "job 8", "job 6", "job 5", "job 7"]

    @pytest.mark.parametrize(
        "question", [{"limit": "0"}, {"limit": "many"}, {"start": "-1"}, {"order": "colour"}]
    )
    async def test_question_that_cannot_be_answered(self, ours, question):
        """A wrong condition is a 400."""
        scheduler_of(ours)
        async with visited() as http:
            assert (await http.get("/list", params=question)).status_code == 400

    async def test_jobs_and_what_was_made_at_run_time(self, ours, jobs):
        """A program that fires nothing shows what the engine keeps, history included."""
        schedule = Schedule("0 3 * * *", functions.add, name="nightly", args=(1,), jobs=jobs)
        scheduler_of(ours, schedule, jobs=jobs)
        await StoredSchedules(jobs).put("customer-7", "0 4 * * *", functions.add, args=(2,))
        await StoredSchedules(jobs).pause("customer-7")
        async with visited(actions=lambda _: True) as http:
            _, rows = await listed(http)
            key = {"key": rows["customer-7"]["key"]}
            ran = await http.post("/actions/run", params=key, headers=ACTION)
            resumed = await http.post("/actions/resume", params=key, headers=ACTION)
            history = (await http.get("/history", params=key)).json()["runs"]
            _, after = await listed(http)

        assert rows["customer-7"]["status"] == "paused"
        assert rows["nightly"]["is_fired_here"] is False
        assert (ran.status_code, resumed.status_code) == (200, 200)
        assert [(each["reason"], each["outcome"]) for each in history] == [("manual", None)]
        assert after["customer-7"]["status"] != "paused"

    async def test_engine_that_cannot_be_reached(self, ours, jobs, monkeypatch):
        """The page shows what this process knows, and says what is wrong."""
        scheduler_of(ours, Schedule("@daily", nothing, name="here"), jobs=jobs)

        async def break_down(*_):
            raise JobsUnavailableError("the disk is gone", location="here")

        monkeypatch.setattr(ScheduleStore, "specs", break_down)
        async with visited(actions=lambda _: True) as http:
            told, rows = await listed(http)
            unknown = await http.get("/history", params={"key": "nothing"})

        assert list(rows) == ["here"]
        assert "the disk is gone" in told["problem"]
        assert unknown.status_code == 503

    async def test_unknown_schedule(self, ours):
        """What is not there is a 404."""
        scheduler_of(ours)
        async with visited() as http:
            assert (await http.get("/history", params={"key": "x"})).status_code == 404


class TestMay:
    async def test_others_are_refused(self, ours):
        """From another machine there is nothing to see, and nothing to do."""
        scheduler_of(ours)
        async with visited(host="192.0.2.1", actions=lambda _: True) as http:
            codes = [(await http.get(path)).status_code for path in ("", "/list", "/history")]
            codes.append((await http.post("/actions/run", headers=ACTION)).status_code)

        assert set(codes) == {403}

    async def test_actions_must_be_enabled_and_be_meant(self, ours):
        """Read-only unless told otherwise; what another site has a browser send does nothing."""
        scheduler = scheduler_of(ours, Schedule("@daily", nothing, name="one"))
        async with scheduler, visited() as http, visited(actions=lambda _: True) as allowed:
            key = {"key": (await listed(http))[1]["one"]["key"]}
            closed = await http.post("/actions/pause", params=key, headers=ACTION)
            plain = await allowed.post("/actions/pause", params=key)
            foreign = {**ACTION, "Origin": "http://elsewhere.example"}
            other = await allowed.post("/actions/pause", params=key, headers=foreign)
            status = scheduler["one"].status

        assert [each.status_code for each in (closed, plain, other)] == [403, 403, 403]
        assert status == "idle"

    async def test_actions_are_done_and_told(self, ours, caplog):
        """Run, pause and resume; what cannot be done is a 409 that says why."""
        scheduler = scheduler_of(ours, Schedule("@daily", nothing, name="one"))
        idle = scheduler_of(ours, Schedule("@daily", nothing, name="elsewhere"))
        async with scheduler, visited(actions=lambda _: True) as http:
            _, rows = await listed(http)

            async def act(action, name):
                key = {"key": rows[name]["key"]}
                answer = await http.post(f"/actions/{action}", params=key, headers=ACTION)
                return answer.status_code, answer.text

            async with scheduler.events("one") as events:
                assert "runs now" in (await act("run", "one"))[1]
                async for event in events:
                    if event.kind is EventKind.FINISHED:
                        break
            assert (await act("pause", "one"))[0] == 200
            assert scheduler["one"].status == "paused"
            assert (await act("resume", "one"))[0] == 200
            assert scheduler["one"].status == "idle"
            assert (await act("run", "elsewhere"))[0] == 409
            assert (await act("pause", "elsewhere"))[0] == 409
            assert (await act("explode", "one"))[0] == 404
        # An operator's hand explains what the logs say next.
        assert "dashboard: pause schedule 'one'" in caplog.text
        assert idle["elsewhere"].status == "new"


async def test_plain_page_has_the_same_as_tables(ours):
    """Without JavaScript: which there are, when they fire, how they ran; page by page, as text."""
    yearly = [Schedule("@yearly", nothing, name=f"b {number:02}") for number in range(50)]
    scheduler = scheduler_of(ours, Schedule("@yearly", fail, name="a <b> one"), *yearly)
    async with scheduler, visited() as http:
        with pytest.raises(LookupError):
            await scheduler["a <b> one"].execute()
        root = f"{http.base_url}".removesuffix("schedules/")
        first = (await http.get(f"{root}plain-schedules")).text
        rest = (await http.get(f"{root}plain-schedules", params={"start": 50})).text

    assert "a &lt;b&gt; one" in first
    assert "LookupError: &lt;b&gt;nothing there" in first
    assert 'href="plain-schedules?start=50">1 more' in first
    assert ["b 48" in first, "b 49" in first] == [True, False]
    assert ["b 48" in rest, "b 49" in rest] == [False, True]

"""The jobs of the dashboard: what it tells of them, and who may do what; without a browser."""

import html
import re
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from offload.dashboard import Dashboard
from offload.jobs import JobError, Jobs, JobsUnavailableError
from offload.jobs._values import Fail, LogLine
from tests.jobs import job_functions as functions
from tests.jobs.values import claim
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio
NAME = "tests.jobs.job_functions"
ACTION = {"X-Offload-Action": "1"}


@pytest.fixture
async def jobs(tmp_path, anyio_backend):
    """Open jobs."""
    async with Jobs(f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal") as opened:
        yield opened


@asynccontextmanager
async def visited(jobs, *, host="127.0.0.1", **options):
    """Visit the dashboard of these jobs."""
    app = Starlette(routes=[Mount("/at", Dashboard(pools=[], jobs=jobs, **options))])
    transport = httpx.ASGITransport(app, client=(host, 50000))
    base_url = "http://127.0.0.1:8000/at/jobs"
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        yield http


class TestLook:
    async def test_overview_counts_queues(self, jobs):
        """Each queue has its jobs by state and by function; what is paused is told."""
        await jobs.enqueue(functions.add, 1)
        await jobs.options(delay=60).enqueue(functions.add, 2)
        await jobs.enqueue(functions.plain, "a")
        await jobs.pause("mail")
        await jobs.pause("empty")
        async with visited([jobs]) as http:
            told = (await http.get("/overview", params={"health": 1})).json()
        default, empty, mail = told["queues"]

        assert (default["name"], default["waiting"], default["delayed"]) == ("default", 1, 1)
        assert [each["name"] for each in default["functions"]] == [f"{NAME}:add"]
        assert (mail["waiting"], mail["is_paused"]) == (1, True)
        assert (empty["waiting"], empty["is_paused"]) == (0, True)
        assert told["health"]["engine"] == "sqlite"
        assert told["actions"] is False

    async def test_history_begins_with_the_first_look(self, jobs):
        """From then on, how many jobs there are in each state is kept, whoever looks."""
        await jobs.enqueue(functions.add, 1)
        async with visited([jobs]) as http:
            await http.get("/overview")

            async def told():
                # An answer that waits for nothing lets nobody else run.
                await anyio.lowlevel.checkpoint()
                return (await http.get("/history", params={"queue": "default"})).json()

            with anyio.fail_after(PATIENCE):
                while not (await told())["entries"]["at"]:
                    pass
            kept = await told()
            wrong = await http.get("/history", params={"span": "1"})
        async with visited([jobs], history=False) as http:
            none = await http.get("/history")

        assert kept["queues"] == ["default"]
        assert kept["ended"]["completed"] == [0.0] * 360
        assert (kept["entries"]["waiting"], kept["entries"]["failed"]) == ([1.0], [0.0])
        assert (wrong.status_code, none.status_code) == (400, 404)

    async def test_plain_page_has_the_same_as_tables(self, jobs):
        """Without JavaScript: queues, jobs by state page by page, and what they say as text."""
        await jobs.enqueue_many(functions.plain, [(f"{n}",) for n in range(60)])
        failed = await jobs.options(max_attempts=1).enqueue(functions.fail, "<b>")
        engine = await jobs.engine()
        held = await claim(engine, functions=[f"{NAME}:fail"])
        await engine.finish(held, Fail(JobError("ValueError", "<b>", "")))
        await jobs.pause("mail")
        async with visited([jobs]) as http:
            root = f"{http.base_url}".removesuffix("jobs/")
            every = (await http.get(f"{root}plain-jobs")).text
            some = (await http.get(f"{root}plain-jobs", params={"state": "failed"})).text
            (following,) = re.findall('href="([^"]*cursor=[^"]*)"', every)
            rest = (await http.get(root + html.unescape(following))).text
        async with visited([]) as http:
            none = (await http.get(f"{root}plain-jobs")).text

        assert every.count('<td role="cell" class="" data-label="State">waiting') == 49
        assert rest.count('<td role="cell" class="" data-label="State">waiting') == 11
        assert "paused" in every
        assert failed.id in some
        assert "ValueError: &lt;b&gt;" in some
        assert ">waiting<td" not in some
        assert "opened no jobs" in none

    async def test_list_pages(self, jobs):
        """Pages together have each job once, in the order that was asked for."""
        enqueued = await jobs.enqueue_many(functions.add, [(n,) for n in range(5)])
        found, cursor = [], ""
        async with visited([jobs]) as http:
            while cursor is not None:
                question = {"limit": 2, "order": "oldest", "cursor": cursor}
                page = (await http.get("/list", params=question)).json()
                found += [each["id"] for each in page["jobs"]]
                cursor = page["cursor"]

        assert found == [job.id for job in enqueued]

    @pytest.mark.parametrize(
        "question", [{"limit": "0"}, {"limit": "many"}, {"state": "lost"}, {"limit": "1000"}]
    )
    async def test_question_that_cannot_be_answered(self, jobs, question):
        """A wrong condition is a 400, and no list of everything."""
        async with visited([jobs]) as http:
            assert (await http.get("/list", params=question)).status_code == 400

    async def test_long_arguments_are_cut_and_said_to_be(self, jobs):
        """A page does not get megabytes; how much there is, is told."""
        job = await jobs.enqueue(functions.plain, "x" * 100_000)
        async with visited([jobs]) as http:
            told = (await http.get("/job", params={"id": job.id})).json()

        assert len(told["arguments"]["text"]) == 4000
        assert told["arguments"]["characters"] > 100_000

    async def test_log_records_from_a_number_on(self, jobs):
        """Log records come in pieces."""
        engine = await jobs.engine()
        job = await jobs.enqueue(functions.add, 1)
        held = await claim(engine, functions=[f"{NAME}:add"])
        at = (await job.status()).created_at
        await engine.log(held, [LogLine(at, 30, f"line {n}") for n in range(4)])
        async with visited([jobs]) as http:
            told = (await http.get("/logs", params={"id": job.id, "start": 2})).json()

        assert [(line["message"], line["level"]) for line in told["lines"]] == [
            ("line 2", "WARNING"),
            ("line 3", "WARNING"),
        ]

    async def test_progress_that_is_no_number_breaks_nothing(self, jobs):
        """A function may report anything; the page is told what JSON can say."""
        engine = await jobs.engine()
        job = await jobs.enqueue(functions.add, 1)
        held = await claim(engine, functions=[f"{NAME}:add"])
        await engine.progress(held, '{"done":NaN,"total":Infinity}')
        async with visited([jobs]) as http:
            answer = await http.get("/job", params={"id": job.id})

        assert answer.json()["progress"] is None

    async def test_unknown_job_and_store(self, jobs):
        """What is not there is a 404."""
        async with visited([jobs]) as http:
            answers = [
                await http.get("/job", params={"id": "nothing"}),
                await http.get("/list", params={"store": "redis://elsewhere"}),
            ]
        async with visited([]) as http:
            nothing = (await http.get("/overview")).json()

        assert [each.status_code for each in answers] == [404, 404]
        assert nothing["stores"] == []

    async def test_several_stores(self, jobs, tmp_path):
        """One page shows each store by itself; two handles of one are one."""
        same = Jobs(f"sqlite:///{tmp_path / 'jobs.sqlite3'}?synchronous=normal")
        async with Jobs(f"sqlite:///{tmp_path / 'other.sqlite3'}") as other:
            await other.enqueue(functions.add, 1)
            async with visited([jobs, other, same]) as http:
                told = (await http.get("/overview")).json()
                place = {"store": other.statistics().location}
                of_other = (await http.get("/list", params=place)).json()

        assert len(told["stores"]) == 2
        assert told["queues"] == []
        assert len(of_other["jobs"]) == 1

    async def test_store_that_cannot_be_reached(self, jobs, monkeypatch):
        """The page is told so, in words, within a limit of time."""

        async def fail(*_):
            raise JobsUnavailableError("the disk is gone", location="here")

        monkeypatch.setattr(jobs, "counts", fail)
        async with visited([jobs]) as http:
            down = await http.get("/overview")
            monkeypatch.setattr(jobs, "counts", anyio.sleep_forever)
            monkeypatch.setattr("offload.dashboard._answers._PATIENCE_SECONDS", 0.05)
            hung = await http.get("/overview")

        assert (down.status_code, hung.status_code) == (503, 503)
        assert "the disk is gone" in down.json()["problem"]

    async def test_jobs_of_the_process_by_default(self, jobs):
        """Without a list it shows what this process has opened."""
        async with visited(None) as http:
            told = (await http.get("/overview")).json()

        assert jobs.statistics().location in [each["name"] for each in told["stores"]]


class TestMay:
    async def test_others_are_refused(self, jobs):
        """From another machine there is nothing to see, as on the page of pools."""
        async with visited([jobs], host="192.0.2.1") as http:
            paths = ("", "/overview", "/list", "/job?id=x", "/logs?id=x")
            codes = [(await http.get(path)).status_code for path in paths]
            plain = f"{http.base_url}".replace("/jobs/", "/plain-jobs")
            codes.append((await http.get(plain)).status_code)
            code = (await http.post("/actions/pause?queue=a", headers=ACTION)).status_code

        assert {*codes, code} == {403}

    async def test_actions_must_be_enabled(self, jobs):
        """Read-only unless told otherwise."""
        async with visited([jobs]) as http:
            answer = await http.post("/actions/pause?queue=mail", headers=ACTION)

        assert answer.status_code == 403
        assert await jobs.paused() == frozenset()

    async def test_actions_of_other_sites_are_refused(self, jobs):
        """A request that a page of another site can have a browser send does nothing."""
        async with visited([jobs], actions=lambda _: True) as http:
            plain = await http.post("/actions/pause?queue=mail")
            foreign = {**ACTION, "Origin": "http://elsewhere.example"}
            other = await http.post("/actions/pause?queue=mail", headers=foreign)

        assert (plain.status_code, other.status_code) == (403, 403)
        assert await jobs.paused() == frozenset()

    async def test_actions_are_done_and_told(self, jobs, caplog):
        """Retry, cancel, forget, pause, resume; what cannot be done is a 409 that says why."""
        job = await jobs.enqueue(functions.add, 1)
        async with visited([jobs], actions=lambda _: True) as http:

            async def act(action, **question):
                answer = await http.post(f"/actions/{action}", params=question, headers=ACTION)
                return answer.status_code, answer.text

            assert (await act("retry", id=job.id))[0] == 409
            assert (await act("remove", id=job.id))[0] == 409
            assert "is cancelled" in (await act("cancel", id=job.id))[1]
            assert "runs again" in (await act("retry", id=job.id))[1]
            assert (await job.status()).state == "waiting"
            assert "1 of 2 done" in (await act("cancel", id=[job.id, "nothing"]))[1]
            assert "forgotten" in (await act("remove", id=job.id))[1]
            assert (await act("cancel", id=job.id))[0] == 404
            assert (await act("pause", queue="mail"))[0] == 200
            assert await jobs.paused() == {"mail"}
            assert (await act("resume", queue="mail"))[0] == 200
            assert (await act("explode", id=job.id))[0] == 404
            assert (await act("cancel"))[0] == 400
        # An operator's hand explains what the logs say next.
        assert "dashboard: pause ['mail']" in caplog.text

"""`Jobs` and its handles, with no worker program: what is enqueued, how, and how it is found."""

import asyncio
import os
import pickle
import re
from datetime import UTC, date, datetime, timedelta

import anyio
import pytest

from offload import FunctionError, offload
from offload.jobs import (
    Backoff,
    CancelOutcome,
    JobArgumentError,
    JobCancelledError,
    JobConflictError,
    JobError,
    JobFailedError,
    JobNotFoundError,
    JobProgress,
    JobQueueFullError,
    Jobs,
    JobState,
    JobsUnavailableError,
    JobTimeoutError,
    Unique,
    default_jobs,
    job_context,
    job_options,
)
from offload.jobs._call_options import new_id
from offload.jobs._failures import restored
from offload.jobs._functions import discover, known
from offload.jobs._sqlite.location import parse_url
from offload.jobs._values import Complete, Fail
from tests.jobs import job_functions as functions
from tests.jobs.values import claim

pytestmark = pytest.mark.anyio

NAME = "tests.jobs.job_functions"


async def finish(jobs, ending, function="add"):
    """Claim the one job that waits, and end it, as a worker program would."""
    engine = await jobs.engine()
    held = await claim(engine, functions=[f"{NAME}:{function}"])
    assert (await engine.finish(held, ending)).is_stored


class TestEnqueue:
    async def test_job_waits_with_what_was_given(self, jobs):
        """An enqueued job is stored with its function, its arguments as JSON, and defaults."""
        job = await jobs.enqueue(functions.add, 1, second=2)
        status = await job.status()
        assert status.id == job.id
        assert status.function == f"{NAME}:add"
        assert status.arguments == '{"first":1,"second":2}'
        assert (status.state, status.queue, status.attempts) == (JobState.WAITING, "default", 0)
        assert status.enqueued_by.endswith(f":{os.getpid()}")

    async def test_function_enqueues_itself_in_its_jobs(self, jobs):
        """`function.enqueue` puts the job where `@offload(jobs=…)` says."""
        function = offload(jobs=jobs)(functions.add.__wrapped__)
        job = await function.enqueue(1, second=2)
        status = await job.status()
        assert (status.function, status.arguments) == (
            f"{NAME}:add",
            '{"first":1,"second":2}',
        )
        assert [count.count for count in await jobs.counts()] == [1]
        with pytest.raises(JobArgumentError, match="second"):
            await function.enqueue(1, second="two")

    async def test_function_enqueues_itself_in_the_default_jobs(self, tmp_path, monkeypatch):
        """`function.enqueue` without `jobs` puts the job where OFFLOAD_JOBS says."""
        url = f"sqlite:///{tmp_path}/default.db"
        monkeypatch.setenv("OFFLOAD_JOBS", url)
        default_jobs.cache_clear()
        try:
            job = await functions.add.enqueue(1)
            async with Jobs(url) as elsewhere:
                assert (await elsewhere.get(job.id)).id == job.id
        finally:
            await default_jobs().aclose()
            default_jobs.cache_clear()

    @pytest.mark.parametrize("wrong", ["sqlite:///jobs.db", 3])
    def test_what_is_no_jobs_is_refused(self, wrong):
        """`@offload(jobs=…)` takes a `Jobs`, not its URL."""
        with pytest.raises(TypeError, match="jobs must be a Jobs"):
            offload(jobs=wrong)(functions.add.__wrapped__)

    def test_jobs_of_a_generator_function_are_refused(self, url):
        """A generator function has no jobs, and says so when it is decorated."""
        with pytest.raises(FunctionError, match="one result"):
            offload(jobs=Jobs(url))(functions.generate.__wrapped__)

    async def test_wrong_argument_is_refused_by_parameter(self, jobs):
        """What does not fit the annotation is refused at once, and nothing is stored."""
        with pytest.raises(JobArgumentError, match="second") as caught:
            await jobs.enqueue(functions.add, 1, second="two")
        assert caught.value.parameter == "second"
        assert await jobs.counts() == ()

    async def test_large_arguments_are_refused(self, url, anyio_backend):
        """Arguments past `max_payload_bytes` are refused at once."""
        async with Jobs(url, max_payload_bytes=100) as jobs:
            with pytest.raises(JobArgumentError, match="store it"):
                await jobs.enqueue(functions.plain, "x" * 200)

    @pytest.mark.parametrize(
        "function, why",
        [
            (functions.undecorated, "not decorated"),
            (len, "not decorated"),
            (functions.generate, "generator"),
            (functions.Shop().sell, "bound to"),
        ],
    )
    async def test_function_without_jobs_is_refused(self, jobs, function, why):
        """What no worker program could run is refused at once, with the reason."""
        with pytest.raises(FunctionError, match=why):
            await jobs.enqueue(function)

    async def test_local_function_is_refused(self, jobs):
        """A function that cannot be imported by name is refused, though it is decorated."""

        @job_options()
        def local() -> None: ...

        with pytest.raises(FunctionError, match="top level"):
            await jobs.enqueue(local)

    async def test_full_queue_refuses(self, url, anyio_backend):
        """Past `max_queued` jobs are refused: none of them is stored."""
        async with Jobs(url, max_queued=2) as jobs:
            await jobs.enqueue_many(functions.add, [(1,), (2,)])
            with pytest.raises(JobQueueFullError):
                await jobs.enqueue(functions.add, 3)

    async def test_many_are_stored_in_order(self, jobs):
        """`enqueue_many` returns a job for each call, in order, however many there are."""
        made = await jobs.enqueue_many(functions.add, ((number,) for number in range(1500)))
        assert len({job.id for job in made}) == 1500
        page = await jobs.find(oldest_first=True, limit=1000)
        assert [job.id for job in page.jobs] == [job.id for job in made[:1000]]
        with pytest.raises(TypeError, match="tuple"):
            await jobs.enqueue_many(functions.plain, ["word"])


class TestOptions:
    async def test_call_goes_before_function_and_jobs(self, url, anyio_backend):
        """Options of the call go before those of the function, and these before those of `Jobs`."""
        async with Jobs(url, priority=1, max_attempts=7, queue="all") as jobs:
            job = await jobs.options(priority=9).enqueue(functions.plain, "word")
            status = await job.status()
        assert status.queue == "mail"
        assert (status.options.priority, status.options.max_attempts) == (9, 7)
        assert status.options.keep is None

    async def test_options_add_up(self, jobs):
        """`options` of options keeps what was given before."""
        more = jobs.options(priority=2).options(max_attempts=4)
        status = await (await more.enqueue(functions.add, 1)).status()
        assert (status.options.priority, status.options.max_attempts) == (2, 4)

    async def test_delay_makes_a_job_wait(self, jobs):
        """A job with a delay, or an instant, is delayed until then."""
        at = datetime.now(UTC) + timedelta(hours=2)
        first = await (await jobs.options(delay=3600).enqueue(functions.add, 1)).status()
        second = await (await jobs.options(at=at).enqueue(functions.add, 1)).status()
        assert (first.state, second.state) == (JobState.DELAYED, JobState.DELAYED)
        assert first.due_at is not None
        assert timedelta(minutes=59) < first.due_at - first.created_at <= timedelta(minutes=61)
        assert second.due_at is not None
        assert abs(second.due_at - at) < timedelta(seconds=0.01)

    async def test_id_is_idempotent(self, jobs):
        """Enqueuing an id again gives back the first job."""
        first = await jobs.options(id="invoice-1").enqueue(functions.add, 1)
        second = await jobs.options(id="invoice-1").enqueue(functions.add, 2)
        assert first == second
        assert (await second.status()).arguments == '{"first":1}'

    @pytest.mark.parametrize("unique", ["key", Unique("key", 60.0), True])
    async def test_unique_gives_back_the_first_job(self, jobs, unique):
        """Under a key that is taken, or the same arguments, there is one job."""
        first = await jobs.options(unique=unique).enqueue(functions.add, 1)
        assert await jobs.options(unique=unique).enqueue(functions.add, 1) == first
        other = await jobs.options(unique=unique).enqueue(functions.add, 2)
        assert (other == first) is (unique is not True)

    async def test_backoff_may_be_a_number(self, jobs):
        """A number is a fixed delay, and a Backoff is kept as it is."""
        fixed = await (await jobs.options(backoff=3).enqueue(functions.add, 1)).status()
        assert fixed.options.backoff == Backoff(3.0, factor=1.0, maximum=3.0, jitter=0.0)
        given = Backoff(initial=0.5, factor=3.0, maximum=9.0, jitter=0.1)
        kept = await (await jobs.options(backoff=given).enqueue(functions.add, 1)).status()
        assert kept.options.backoff == given

    @pytest.mark.parametrize(
        "options, error, text",
        [
            ({"later": 3}, TypeError, "unknown option 'later'"),
            ({"delay": "3"}, TypeError, "delay"),
            ({"delay": -1}, ValueError, "at least 0"),
            ({"delay": float("nan")}, ValueError, "finite"),
            ({"at": datetime(2026, 1, 1)}, ValueError, "aware"),  # noqa: DTZ001 - that is the test
            ({"delay": 1, "at": datetime.now(UTC)}, ValueError, "not both"),
            ({"max_attempts": 0}, ValueError, "at least 1"),
            ({"max_attempts": True}, TypeError, "int"),
            ({"priority": 1.5}, TypeError, "int"),
            ({"timeout": 0}, ValueError, "above 0"),
            ({"id": ""}, ValueError, "1 to 200"),
            ({"id": "x" * 201}, ValueError, "1 to 200"),
            ({"id": "a\nb"}, ValueError, "printable"),
            ({"queue": ""}, ValueError, "1 to 200"),
            ({"unique": 3}, TypeError, "key"),
            ({"backoff": Backoff(jitter=2.0)}, ValueError, "jitter"),
            ({"deadline": 3}, TypeError, "datetime"),
        ],
    )
    def test_wrong_option_is_refused(self, jobs_unopened, options, error, text):
        """An option that is wrong is refused where it is given."""
        with pytest.raises(error, match=text):
            jobs_unopened.options(**options)

    def test_option_of_one_job_is_no_default(self, url):
        """What is of one job cannot be a default of many."""
        with pytest.raises(ValueError, match="of one job"):
            Jobs(url, id="one")
        with pytest.raises(ValueError, match="of one job"):
            job_options(deadline=datetime.now(UTC))

    @pytest.fixture
    def jobs_unopened(self, url):
        """Return jobs that are never opened."""
        return Jobs(url)


class TestResult:
    async def test_result_has_its_annotated_type(self, jobs):
        """A result comes back as the type that the function is annotated with."""
        job = await jobs.enqueue(functions.report, date(2026, 11, 1), 1, 2)
        await finish(jobs, Complete('{"month":"2026-11-01","total":3}'), "report")
        assert await job.result() == functions.Report(date(2026, 11, 1), 3)
        again = await jobs.get(job.id)
        assert await again.result() == functions.Report(date(2026, 11, 1), 3)

    async def test_result_of_an_unknown_function_is_plain(self, jobs):
        """Where the function is not imported, and never by its name, the result is JSON data."""
        from offload.jobs._values import NewJob

        engine = await jobs.engine()
        await engine.put([NewJob("1", "no.such:thing", "{}")])
        held = await claim(engine, functions=["no.such:thing"])
        await engine.finish(held, Complete('{"a":[1]}'))
        assert await (await jobs.get("1")).result() == {"a": [1]}

    async def test_large_result_is_read(self, jobs):
        """A result that is decoded on a thread comes back like any other."""
        job = await jobs.enqueue(functions.plain, "x")
        engine = await jobs.engine()
        held = await claim(engine, functions=[f"{NAME}:plain"], queues=["mail"])
        await engine.finish(held, Complete(f'"{"y" * 100_000}"'))
        assert await job.result() == "y" * 100_000

    async def test_wait_ends_when_the_job_does(self, jobs):
        """Whoever waits is told at once."""
        job = await jobs.enqueue(functions.add, 1)
        results = []

        async def wait():
            results.append(await job.result())

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await finish(jobs, Complete("1"))
        assert results == [1]

    async def test_timeout_leaves_the_job(self, jobs):
        """A wait that is over raises, and the job goes on."""
        job = await jobs.enqueue(functions.add, 1)
        with pytest.raises(JobTimeoutError, match="continues") as caught:
            await job.result(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert (await job.status()).state is JobState.WAITING

    async def test_cancelled_job_raises(self, jobs):
        """A job that was cancelled before it ran says that it did not run."""
        job = await jobs.enqueue(functions.add, 1)
        assert await job.cancel() is CancelOutcome.REMOVED
        with pytest.raises(JobCancelledError) as caught:
            await job.result()
        assert not caught.value.may_have_run
        assert await job.cancel() is CancelOutcome.OVER

    async def test_own_error_is_raised(self, jobs):
        """A failed job raises the function's error; what is known of the job is its cause."""
        job = await jobs.enqueue(functions.add, 1)
        await finish(jobs, Fail(JobError("ValueError", "boom", "Traceback: here")))
        with pytest.raises(ValueError, match=r"^boom$") as caught:
            await job.result()
        cause = caught.value.__cause__
        assert isinstance(cause, JobFailedError)
        assert (cause.job_id, cause.attempts, cause.crashes) == (job.id, 1, 0)
        assert "Traceback: here" in str(cause)

    async def test_error_that_cannot_be_made_is_told(self, jobs):
        """A failed job whose error cannot be made again raises JobFailedError."""
        job = await jobs.enqueue(functions.add, 1)
        await finish(jobs, Fail(JobError("no.such.Error", "boom")))
        with pytest.raises(JobFailedError, match=r"no\.such\.Error: boom"):
            await job.result()

    async def test_retry_runs_it_again(self, jobs):
        """A failed job can be had to run again; a completed one cannot."""
        job = await jobs.enqueue(functions.add, 1)
        await finish(jobs, Fail(JobError("ValueError", "boom")))
        await job.retry()
        await finish(jobs, Complete("1"))
        assert await job.result() == 1
        with pytest.raises(JobConflictError):
            await job.retry()

    async def test_unknown_job_is_an_error(self, jobs):
        """A job that is not there is an error, and not a wait for ever."""
        with pytest.raises(JobNotFoundError):
            await jobs.get("nothing")


class TestRestored:
    """Which exceptions are made again of their name and text."""

    @pytest.mark.parametrize(
        "name, text, expected",
        [
            ("ValueError", "boom", ValueError("boom")),
            ("ValueError", "", ValueError()),
            ("KeyError", "'month'", KeyError("month")),
            ("FileNotFoundError", "[Errno 2] no", FileNotFoundError("[Errno 2] no")),
            (f"{NAME}.OrderError", "no", functions.OrderError("no")),
            ("decimal.InvalidOperation", "no", None),
        ],
    )
    def test_exception_of_its_text_is_restored(self, name, text, expected):
        """An exception that is made of its text alone is made again."""
        made = restored(JobError(name, text))
        if expected is None:
            import decimal

            expected = decimal.InvalidOperation(text)
        assert type(made) is type(expected)
        assert str(made) == text

    @pytest.mark.parametrize(
        "name",
        [
            "SystemExit",
            "KeyboardInterrupt",
            "print",
            "UnicodeDecodeError",
            "os.system",
            "antigravity.Error",
            f"{NAME}.CodeError",
            f"{NAME}.Report",
            "offload.errors.WorkerCrashedError",
            "",
            ".",
            "..",
            "a..b",
        ],
    )
    def test_anything_else_is_not(self, name):
        """Whatever else a store says is neither imported nor called."""
        assert restored(JobError(name, "text")) is None

    def test_key_that_is_no_literal_is_not(self):
        """The text of a KeyError is read as a literal, and never evaluated."""
        assert restored(JobError("KeyError", "__import__('os')")) is None


class TestEvents:
    async def test_events_follow_the_job(self, jobs):
        """The status comes at once, then after changes, and the last one is final."""
        job = await jobs.enqueue(functions.add, 1)
        engine = await jobs.engine()
        seen = []
        async with job.events() as events:
            seen.append(await anext(events))
            held = await claim(engine, functions=[f"{NAME}:add"])
            seen.append(await anext(events))
            await engine.progress(held, '{"done":1,"total":4}')
            seen.append(await anext(events))
            await engine.finish(held, Complete("1"))
            seen += [status async for status in events]
        assert [status.state for status in seen] == ["waiting", "active", "active", "completed"]
        assert seen[2].progress == JobProgress(1.0, 4.0)
        assert seen[2].progress.share == 0.25

    async def test_events_end_with_the_job(self, jobs):
        """Of a job that is over there is one event."""
        job = await jobs.enqueue(functions.add, 1)
        await job.cancel()
        assert [status.state async for status in job.events()] == ["cancelled"]


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, None),
        ("null", None),
        ("50", JobProgress(50.0, 100.0)),
        ('{"done":3}', JobProgress(3.0)),
        ('{"step":"x"}', None),
        ('"x"', None),
        ("[]", None),
    ],
)
def test_progress_of_others_is_read(text, expected):
    """Progress that other programs report is understood, or left out."""
    assert JobProgress.of(text) == expected


class TestRun:
    async def test_caller_that_leaves_cancels_the_job(self, jobs):
        """A call that nobody waits for any more is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jobs.run, functions.add, 1)
            with anyio.fail_after(60):
                while not (await jobs.find()).jobs:  # noqa: ASYNC110 - it has no event
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        (found,) = (await jobs.find()).jobs
        assert found.state is JobState.CANCELLED


class TestFind:
    @pytest.mark.parametrize("cursor", ["", "x", "-1", "1e5", "1 2", "9" * 400, "\u0661", "0\n"])
    async def test_cursor_of_no_page_is_refused(self, jobs, cursor):
        """Whatever a client sends back, a store is asked for a number of a job."""
        with pytest.raises(ValueError, match="cursor must be the cursor of a page"):
            await jobs.find(cursor=cursor)

    async def test_find_by_conditions(self, jobs):
        """Jobs are found by state, queue, function and id, a page at a time."""
        await jobs.enqueue_many(functions.add, [(number,) for number in range(5)])
        word = await jobs.options(id="word-1").enqueue(functions.plain, "word")
        page = await jobs.find(functions=[functions.add], limit=3)
        rest = await jobs.find(functions=[f"{NAME}:add"], limit=3, cursor=page.cursor)
        assert (len(page.jobs), len(rest.jobs), rest.cursor) == (3, 2, None)
        assert [job.id for job in (await jobs.find(queues=["mail"])).jobs] == [word.id]
        assert [job.id for job in (await jobs.find(id_prefix="word")).jobs] == [word.id]
        assert (await jobs.find(states=["failed"])).jobs == ()
        counts = {(each.queue, each.state): each.count for each in await jobs.counts()}
        assert counts == {("default", "waiting"): 5, ("mail", "waiting"): 1}

    async def test_pause_and_remove(self, jobs):
        """A queue is paused and resumed; jobs that are over can be removed."""
        await jobs.pause("mail")
        assert await jobs.paused() == {"mail"}
        await jobs.resume("mail")
        assert await jobs.paused() == frozenset()
        job = await jobs.enqueue(functions.add, 1)
        assert await jobs.remove([job.id]) == 0
        await job.cancel()
        assert await jobs.remove([job.id]) == 1


class TestLife:
    async def test_opens_by_itself(self, url, anyio_backend):
        """Jobs open when they are first used; closed ones say so, until they are opened again."""
        jobs = Jobs(url)
        job = await jobs.enqueue(functions.add, 1)
        await jobs.aclose()
        with pytest.raises(JobsUnavailableError, match="closed"):
            await job.status()
        await jobs.open()
        assert (await job.status()).state is JobState.WAITING
        assert (await jobs.health()).engine == "sqlite"
        await jobs.aclose()

    def test_one_after_the_other_on_two_loops(self, url):
        """The same object may be used by one event loop after another."""
        jobs = Jobs(url)
        job = asyncio.run(jobs.enqueue(functions.add, 1))
        assert asyncio.run(job.status()).state is JobState.WAITING
        asyncio.run(jobs.aclose())

    def test_url_of_the_environment(self, monkeypatch, tmp_path):
        """OFFLOAD_JOBS says where jobs are, unless a URL is given."""
        monkeypatch.setenv("OFFLOAD_JOBS", f"sqlite:///{tmp_path}/of-environment.db")
        assert "of-environment" in repr(Jobs())
        assert "given" in repr(Jobs(f"sqlite:///{tmp_path}/given.db"))
        monkeypatch.delenv("OFFLOAD_JOBS")
        assert ".offload/jobs.sqlite3" in repr(Jobs())
        assert default_jobs() is default_jobs()

    def test_second_store_is_told(self, monkeypatch, tmp_path, caplog):
        """A function enqueued without jobs of its own, beside a `Jobs` elsewhere, is a mistake."""
        monkeypatch.delenv("OFFLOAD_JOBS", raising=False)
        monkeypatch.chdir(tmp_path)
        default_jobs.cache_clear()
        mine = Jobs("sqlite:///mine.db")
        made = default_jobs()
        assert made.statistics().location != mine.statistics().location
        assert "mine.db" in caplog.text
        caplog.clear()
        default_jobs.cache_clear()
        monkeypatch.setenv("OFFLOAD_JOBS", "sqlite:///meant.db")
        default_jobs()
        assert caplog.text == ""
        default_jobs.cache_clear()

    @pytest.mark.parametrize("url", ["mysql://user:secret@host/x", "jobs.db", "unix:///redis", ""])
    def test_wrong_url_is_refused(self, url, monkeypatch):
        """A URL that names no engine is refused, without showing its password."""
        monkeypatch.setenv("OFFLOAD_JOBS", "wrong:")
        with pytest.raises(ValueError, match="names no engine") as caught:
            Jobs(url or None)
        assert "secret" not in str(caught.value)

    def test_path_is_that_of_a_file(self, tmp_path):
        """A `Path` may be given; one that is written as text is told how a URL is written."""
        path = tmp_path / "a%20b?.db"
        location = Jobs(path).statistics().location
        assert parse_url(location).path == str(path)
        with pytest.raises(ValueError, match=r"write sqlite:////srv/jobs\.db"):
            Jobs("/srv/jobs.db")
        with pytest.raises(TypeError, match="not 5"):
            Jobs(5)


class TestFunctions:
    def test_decorated_functions_are_discovered(self):
        """All decorated functions of imported modules are found by name, methods of classes too."""
        found = {name for name in discover() if name.startswith(NAME)}
        assert f"{NAME}:add" in found
        assert f"{NAME}:plain" in found
        assert f"{NAME}:Shop.price" in found
        assert f"{NAME}:Shop.named" in found
        assert f"{NAME}:generate" not in found
        assert f"{NAME}:undecorated" not in found

    @pytest.mark.parametrize("name", ["os:system", "no.such:thing", f"{NAME}:undecorated", "", ":"])
    def test_name_of_a_store_finds_decorated_functions_only(self, name):
        """A name that is not of a decorated function finds nothing, and imports nothing."""
        assert known(name) is None

    def test_no_job_context_outside_of_jobs(self):
        """A function that is called directly has no job."""
        assert job_context() is None


def test_ids_are_uuids_in_order():
    """New ids are UUIDs of version 7, and later ones sort behind."""
    ids = [new_id() for _ in range(100)]
    shape = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}")
    assert all(map(shape.fullmatch, ids))
    assert len(set(ids)) == 100
    assert [each[:13] for each in ids] == sorted(each[:13] for each in ids)


@pytest.mark.parametrize(
    "error",
    [
        JobTimeoutError("late", job_id="1", timeout=3.0),
        JobFailedError("no", job_id="1", type_name="X", attempts=2),
    ],
)
def test_errors_pickle(error):
    """Errors cross process borders with their attributes."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


async def test_trace_goes_on(jobs):
    """A job carries the trace of whoever enqueued it, and spans of an attempt are part of it."""
    from opentelemetry import propagate, trace
    from opentelemetry.sdk.trace import TracerProvider

    from offload.jobs._trace import continued

    tracer = TracerProvider().get_tracer("tests")
    assert propagate.get_global_textmap().fields  # it is in use, as with any instrumentation
    with tracer.start_as_current_span("request") as request:
        job = await jobs.enqueue(functions.add, 1)
    (record,) = await (await jobs.engine()).get([job.id])
    assert record is not None
    with continued(record.trace):
        found = trace.get_current_span().get_span_context()
        assert found.trace_id == request.get_span_context().trace_id
        assert found.span_id == request.get_span_context().span_id
    assert not trace.get_current_span().get_span_context().is_valid
    with continued({}):
        assert not trace.get_current_span().get_span_context().is_valid

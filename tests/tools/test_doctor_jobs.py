"""`offload doctor` on jobs: stores that are sick, functions that cannot be jobs."""

import asyncio
import json
import textwrap
from dataclasses import replace

import pytest

from offload._cli import main
from offload._cli.findings import Level
from offload._cli.job_checks import check_jobs
from offload._cli.report import JobFunctionReport, JobsReport, Report
from offload.jobs import Jobs
from offload.jobs._values import NewJob

STORE = JobsReport(
    location="redis://cache:6379/0",
    engine="redis",
    version="7.2",
    round_trip=0.001,
    clock_ahead=0.0,
    queued={"default": 10},
    max_queued=1000,
    largest_bytes=1000,
    largest_of="shop:report",
    sampled=50,
    max_payload_bytes=256 * 1024,
)


def found(store=STORE, functions=()):
    """Return level, check and text of what there is to say."""
    report = Report(jobs=(store,), job_functions=functions)
    return [(each.level, each.check, each.text) for each in check_jobs(report)]


def test_sound_store_has_one_line():
    """Where it is, what it is, and how long it takes."""
    ((level, check, text),) = found()
    assert (level, check) == (Level.OK, "store")
    assert "redis 7.2, answers in 1" in text


@pytest.mark.parametrize(
    "changes,check,word",
    [
        ({"round_trip": 0.2}, "store", "answers in 200 ms"),
        ({"problems": ("its maxmemory-policy is allkeys-lru",)}, "settings", "allkeys-lru"),
        ({"clock_ahead": -3.2}, "clock", "3.2 s behind"),
        ({"clock_ahead": 3.2}, "clock", "3.2 s ahead"),
        ({"queued": {"mail": 900}}, "queues", "900 jobs wait in queue 'mail', of 1,000"),
        ({"unknown": {"old:gone": 3, "old:lost": 1}}, "unknown", "4 jobs"),
        ({"largest_bytes": 200 * 1024}, "payloads", "200 KiB"),
    ],
)
def test_each_ailment_is_a_warning(changes, check, word):
    """What will hurt is told with its figures, before it does."""
    (warning,) = [each for each in found(replace(STORE, **changes)) if each[0] is Level.WARN]
    assert warning[1] == check
    assert word in warning[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_ahead": 0.9},
        {"clock_ahead": 1.01, "round_trip": 0.02},
        {"clock_ahead": None},
        {"queued": {"mail": 700}},
        {"queued": {"mail": 10**6}, "max_queued": None},
        {"largest_bytes": 10**9, "max_payload_bytes": None},
    ],
)
def test_what_is_in_order_is_no_warning(changes):
    """Near misses, and what has no limit, are not told."""
    assert [each[0] for each in found(replace(STORE, **changes))] == [Level.OK]


def test_store_that_cannot_be_reached_fails():
    """And nothing else is said of it."""
    ((level, _, text),) = found(replace(STORE, problem="connection refused"))
    assert level is Level.FAIL
    assert "connection refused" in text


def test_function_that_cannot_be_a_job_fails():
    """Each by itself, beside those that can."""
    functions = (JobFunctionReport(name="a:f", problem="no"), JobFunctionReport(name="a:g"))
    told = found(functions=functions)[1:]
    assert [(level, check) for level, check, _ in told] == [
        (Level.FAIL, "functions"),
        (Level.OK, "functions"),
    ]


SICK = """
    from offload import Pool, offload
    from offload.jobs import Jobs, job_options

    jobs = Jobs("sqlite:///{path}", max_payload_bytes=2000, max_queued=4)
    other = Jobs("sqlite:///{path}.new")
    missing = Jobs("sqlite:///{path}/folder/jobs.db")
    pool = Pool("default", max_workers=1, spare_workers=0)

    @offload(jobs=jobs)
    def report(month: str) -> str:
        return month

    @job_options(queue="mail")
    def send(to: str) -> None: ...

    @job_options(queue="mail")
    def taken(to: object = object()) -> None: ...

    hidden = taken

    def taken(): ...
"""


def test_application_with_sick_jobs(tmp_path, capsys):
    """The command looks into the store that the code names, and makes none that is not there."""
    path = tmp_path / "jobs.db"
    url = f"sqlite:///{path}"

    async def store():
        async with Jobs(url) as jobs:
            engine = await jobs.engine()
            large = '{"month":"' + "x" * 1500 + '"}'
            names = ["sick_tasks:report", "gone_tasks:old", "gone_tasks:old", "gone_tasks:old"]
            await engine.put(
                [NewJob(f"job-{n}", name, large) for n, name in enumerate(names)], max_queued=None
            )

    asyncio.run(store())
    (tmp_path / "sick_tasks.py").write_text(textwrap.dedent(SICK).format(path=path))
    command = ["doctor", "sick_tasks:jobs", "--app-dir", str(tmp_path), "--json"]
    assert main(command) == 1
    told = json.loads(capsys.readouterr().out)["findings"]
    texts = {
        (each["level"], each["check"]): each["text"] for each in told if each["section"] == "Jobs"
    }
    stores = [each["text"] for each in told if each["check"] == "store"]

    assert any("made when first used" in text and ".new" in text for text in stores)
    assert any("answers in" in text for text in stores)
    assert not (tmp_path / "jobs.db.new").exists()
    assert "3 jobs in the queues" in texts["WARN", "unknown"]
    assert "gone_tasks:old" in texts["WARN", "unknown"]
    assert "4 jobs wait in queue 'default', of 4" in texts["WARN", "queues"]
    assert "sick_tasks:taken" in texts["FAIL", "functions"]
    assert "sick_tasks:report, sick_tasks:send" in texts["OK", "functions"]
    assert ("WARN", "payloads") in texts
    # What serves no requests is not asked for its routes.
    assert not [each for each in told if each["section"] == "Endpoints"]
    assert not [each for each in told if "the whole application" in each["text"]]

"""The page of jobs as a person has it: in a real Chromium, on `offload jobs dashboard`."""

import contextlib
import logging
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from playwright.sync_api import Browser, expect

from offload.jobs import JobError, Jobs
from offload.jobs._values import Complete, Fail, LogLine
from tests.jobs import job_functions as functions
from tests.jobs.values import claim
from tests.site.test_pages import NARROW, PATIENCE, browser, check_axe, check_looks, opened

__all__ = ["browser"]

NAME = "tests.jobs.job_functions"
EVIL = "<img src=x onerror=\"document.title = 'taken'\"><b id=evil>"
LONG_LINE = "x" * 3000


async def stored(url: str) -> SimpleNamespace:
    """Store jobs of each kind; return the ids of some."""
    async with Jobs(url) as jobs:
        engine = await jobs.engine()
        await jobs.enqueue_many(functions.plain, [(f"person {n}",) for n in range(60)])
        failed = await jobs.options(max_attempts=1).enqueue(functions.fail, EVIL)
        held = await claim(engine, functions=[f"{NAME}:fail"])
        now = (await failed.status()).created_at
        await engine.log(held, [LogLine(now, logging.WARNING, f"line {n}") for n in range(3)])
        traceback = f"Traceback (most recent call last):\n  {LONG_LINE}\nValueError: {EVIL}"
        await engine.finish(held, Fail(JobError("ValueError", EVIL, traceback)))
        done = await jobs.enqueue(functions.add, 1)
        await engine.finish(await claim(engine, functions=[f"{NAME}:add"]), Complete("1"))
        waiting = await jobs.enqueue(functions.add, 5)
        active = await jobs.enqueue(functions.tell, 3)
        # Longer than the tests take: nobody sweeps here.
        held = await claim(engine, functions=[f"{NAME}:tell"], lease=3600.0)
        await engine.progress(held, '{"done":1,"total":4}')
        return SimpleNamespace(failed=failed.id, done=done.id, waiting=waiting.id, active=active.id)


@contextlib.contextmanager
def served(url: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve the page of a store."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "offload", "jobs", "--url", url),
            *("dashboard", "--port", "0", *arguments),
        ],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            told = process.stdout.readline()
            place = re.search(r"http://127\.0\.0\.1:\d+/\S*?(?=,)", told)
            assert place, f"it has not said where it is, but {told!r}"
            yield place[0], process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


@pytest.fixture
def store(tmp_path: Path) -> SimpleNamespace:
    """A store with some jobs."""
    path = tmp_path / "jobs.sqlite3"
    url = f"sqlite:///{path}?synchronous=normal"
    # On a thread: playwright has an event loop of its own on this one.
    with ThreadPoolExecutor(1) as thread:
        ids = thread.submit(anyio.run, stored, url).result()
    return SimpleNamespace(path=path, url=url, ids=ids)


@pytest.fixture
def place(store: SimpleNamespace) -> Iterator[str]:
    """Where the page of the store is, with actions."""
    with served(store.url, "--actions") as (place, _):
        yield place


def row_of(page, job_id):
    """Return the line of a job."""
    return page.locator(f'#rows tr[data-key="{job_id}"]')


def test_it_is_readable_in_every_form(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """List and detail: nothing is cut off or too pale, and axe has nothing to say."""
    # Something for the operator to read, too.
    store.path.chmod(0o644)
    with opened(browser, place) as page:
        expect(page.locator("#rows tr")).to_have_count(50)
        expect(page.locator("#problems li")).to_contain_text("chmod 600")
        check_looks(page, ("ink", "soft", "accent", "good", "warn", "bad"))
        check_axe(page)
        row_of(page, store.ids.failed).locator("button.id").click()
        expect(page.locator("#facts div").first).to_be_visible()
        check_looks(page, ("ink", "soft", "accent", "good", "warn", "bad"))
        check_axe(page)


def test_jobs_are_found(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """By queue and state with one click, by a part of the function, by the beginning of the id."""
    with opened(browser, place) as page:
        rows = page.locator("#rows tr")
        page.get_by_role("button", name="1 failed in default: show them").click()
        expect(rows).to_have_count(1)
        expect(row_of(page, store.ids.failed)).to_contain_text(f"ValueError: {EVIL}")
        page.select_option("[name=state]", "")
        page.select_option("[name=queue]", "")
        page.fill("[name=function]", "FUNCTIONS:AD")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(2)
        page.fill("[name=function]", "nothing like this")
        page.keyboard.press("Enter")
        expect(page.locator("#found")).to_have_text("No job matches.")
        page.fill("[name=function]", "")
        page.fill("[name=id]", store.ids.done)
        page.keyboard.press("Enter")
        expect(rows).to_have_count(1)
        # The address has the search: a reload shows the same.
        page.reload()
        expect(rows).to_have_count(1)


def test_the_last_hours_are_drawn(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """Jobs per minute, and how many there were in each state; of all queues or of one."""
    # What ended before anybody looked.
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        at = int(time.time()) // 10 * 10 - 600
        connection.executemany(
            "INSERT INTO ended VALUES (?, ?, ?, ?)",
            [(at, 3, "mail", 70), (at, 4, "mail", 2), (at, 5, "default", 1)],
        )
    with opened(browser, f"{place.partition('?')[0]}?span=3600") as page:
        charts = page.locator("#charts canvas")
        rates = charts.first
        expect(rates).to_have_attribute("aria-label", re.compile("at most 420/min; failed"))
        expect(rates).to_have_attribute("aria-label", re.compile("cancelled 0/min, at most 6/min"))
        charts = page.locator("#charts figure:not(:first-child) canvas")
        expect(charts.first).to_have_attribute("aria-label", re.compile("waiting 61, at most 61"))
        expect(charts.nth(2)).to_have_attribute("aria-label", re.compile("failed 1, at most 1"))
        page.select_option("#history-queue", "default")
        expect(charts.first).to_have_attribute("aria-label", re.compile("waiting 1, at most 1"))
        expect(rates).to_have_attribute("aria-label", re.compile("at most [06]/min; failed"))
        page.select_option("#span", "21600")
        expect(page.locator("#history-note")).to_contain_text("one point every 60 s")
        assert page.url.endswith("span=21600")
        check_looks(page, ("ink", "soft", "accent"))
        check_axe(page)


def test_pages_and_sorting(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """What does not fit is on the next page, and columns sort what is shown."""
    with opened(browser, place) as page:
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(50)
        page.click("#next")
        expect(rows).to_have_count(14)
        page.click("#first")
        expect(rows).to_have_count(50)
        page.select_option("[name=queue]", "default")
        expect(rows).to_have_count(4)
        sorting = page.locator("th[data-sort=state]")
        sorting.locator("button").click()
        expect(sorting).to_have_attribute("aria-sort", "ascending")
        shown = page.locator("#rows td.state").all_inner_texts()
        sorting.locator("button").click()
        turned = page.locator("#rows td.state").all_inner_texts()

    assert shown == ["active", "completed", "failed", "waiting"]
    assert turned == shown[::-1]


def test_one_job_in_full(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """Arguments, the whole traceback, attempts and log records; as text, whatever it says."""
    with opened(browser, place) as page:
        row_of(page, store.ids.failed).locator("button.id").click()
        expect(page.locator("#arguments")).to_contain_text("onerror")
        failure = page.locator("#failure")
        expect(failure).to_contain_text(f"ValueError: {EVIL}")
        expect(failure).to_contain_text(LONG_LINE)
        expect(page.locator("#attempts tr")).to_have_count(1)
        expect(page.locator("#logs li")).to_have_count(3)
        expect(page.locator("#logs li").last).to_contain_text("WARNING")
        found = page.evaluate("document.querySelectorAll('#evil, main img, dialog img').length")
        page.keyboard.press("Escape")
        expect(page.locator("#job")).to_be_hidden()
        # The focus is where it was.
        focused = page.evaluate("document.activeElement.title")
        title = page.title()

    assert (found, title) == (0, "Jobs \N{EN DASH} offload")
    assert focused == store.ids.failed


def test_without_javascript_there_are_tables(browser: Browser, place: str) -> None:
    """The page says where they are; they are readable, and axe has nothing to say."""
    context = browser.new_context(java_script_enabled=False, viewport=NARROW)
    page = context.new_page()
    page.goto(place)
    page.locator("noscript a", has_text="plain tables").click()
    expect(page.get_by_role("table", name="Queues")).to_contain_text("mail")
    page.get_by_role("link", name="failed").click()
    expect(page.get_by_role("table", name="Jobs, failed")).to_contain_text(f"ValueError: {EVIL}")
    context.close()
    with opened(browser, place.partition("?")[0].replace("/jobs", "/plain-jobs")) as page:
        check_looks(page, ("ink", "soft", "accent"))
        check_axe(page)


def test_progress_of_what_runs(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """A job that runs shows how far it is, and which program runs it."""
    with opened(browser, place) as page:
        expect(row_of(page, store.ids.active)).to_contain_text("25 %")
        expect(page.locator("#at-work")).to_contain_text("(1 job)")
        row_of(page, store.ids.active).locator("button.id").click()
        expect(page.locator("#job-progress")).to_contain_text("1 of 4")


def test_retry_cancel_and_forget(browser: Browser, place: str, store: SimpleNamespace) -> None:
    """What an operator does is done, after a question where it cannot be taken back."""
    with opened(browser, place) as page:
        row_of(page, store.ids.failed).locator("button.id").click()
        page.click("#job [data-action=retry]")
        expect(page.locator("#job-said")).to_contain_text("runs again")
        expect(page.locator("#job-state")).to_have_text("waiting")
        page.click("#job-close")
        row_of(page, store.ids.waiting).locator("input").check()
        row_of(page, store.ids.failed).locator("input").check()
        page.click("#bulk [data-action=cancel]")
        expect(page.locator("#sure-text")).to_contain_text("2 jobs")
        expect(page.locator("#sure-no")).to_be_focused()
        page.click("#sure-yes")
        expect(page.locator("#said")).to_contain_text("2 of 2 done")
        expect(row_of(page, store.ids.waiting).locator("td.state")).to_have_text("cancelled")
        row_of(page, store.ids.done).locator("button.id").click()
        page.click("#job [data-action=remove]")
        page.click("#sure-yes")
        expect(row_of(page, store.ids.done)).to_have_count(0)


def test_a_queue_is_paused_and_goes_on(browser: Browser, place: str) -> None:
    """Paused is seen at once, and ends with another click."""
    with opened(browser, place) as page:
        page.get_by_role("button", name="Pause queue mail").click()
        page.click("#sure-yes")
        expect(page.locator("#queues tr.paused")).to_contain_text("mail")
        page.get_by_role("button", name="Resume queue mail").click()
        expect(page.locator("#queues tr.paused")).to_have_count(0)


def test_without_actions_and_without_a_server(browser: Browser, store: SimpleNamespace) -> None:
    """Who may only look has no buttons that act; and old figures are not passed off as new."""
    with served(store.url) as (place, process), opened(browser, place) as page:
        expect(page.locator("#rows tr")).to_have_count(50)
        row_of(page, store.ids.failed).locator("button.id").click()
        expect(page.locator("#facts div").first).to_be_visible()
        visible = [each.is_visible() for each in page.locator("[data-action]").all()]
        page.click("#job-close")
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        expect(page.locator("#connection")).to_contain_text("Not connected")

    assert visible
    assert not any(visible)


def test_the_port_is_for_this_machine(store: SimpleNamespace) -> None:
    """It listens on the loopback address alone."""
    import psutil

    with served(store.url) as (_, process):
        listening = [
            each.laddr.ip
            for each in psutil.Process(process.pid).net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        ]

    assert listening == ["127.0.0.1"]

"""The page of schedules as a person has it: in a real Chromium, on a server that fires them."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.site.test_pages import NARROW, PATIENCE, browser, check_axe, check_looks, opened
from tests.support.apps.scheduled_app import EVIL

__all__ = ["browser"]


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """Where the page is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "tests.support.apps.scheduled_app:app", "--port", "0"],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            for line in process.stderr:
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
                if found:
                    yield f"{found[0]}/at/schedules"
                    break
            else:
                pytest.fail("the server did not start")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)


def row_of(page, name):
    """Return the line of a schedule."""
    return page.locator("#rows tr", has=page.get_by_role("button", name=f"Show the runs of {name}"))


def test_it_is_readable_in_every_form(browser: Browser, place: str) -> None:
    """List and history: nothing is cut off or too pale, axe has nothing to say."""
    with opened(browser, place) as page:
        expect(page.locator("#rows tr")).to_have_count(50)
        row_of(page, "a failing one").get_by_role("button", name="Run a failing one now").click()
        expect(row_of(page, "a failing one")).to_contain_text("failed")
        check_looks(page, ("ink", "soft", "accent", "good", "warn", "bad"))
        check_axe(page)
        row_of(page, "a failing one").get_by_role("button", name="Show the runs").click()
        expect(page.locator("#runs")).to_contain_text(f"LookupError: {EVIL}")
        check_looks(page, ("ink", "soft", "accent", "good", "warn", "bad"))
        check_axe(page)
        # What an error says becomes text, whatever it says.
        expect(page).not_to_have_title("taken")


def test_schedules_are_found_and_sorted(browser: Browser, place: str) -> None:
    """By a part of the name, page by page, by a column; the address keeps the search."""
    with opened(browser, place) as page:
        rows = page.locator("#rows tr")
        expect(rows).to_have_count(50)
        page.click("#next")
        expect(page.locator("#found")).to_contain_text("51 to 62 of 62 found")
        page.fill("[name=text]", "Customer 1")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(10)
        page.get_by_role("button", name="Name").click()
        page.get_by_role("button", name="Name").click()
        expect(rows.first).to_contain_text("customer 19")
        page.reload()
        expect(rows).to_have_count(10)
        expect(page.locator("[name=text]")).to_have_value("Customer 1")


def test_without_javascript_there_is_a_table(browser: Browser, place: str) -> None:
    """The page says where it is; it is readable, and axe has nothing to say."""
    context = browser.new_context(java_script_enabled=False, viewport=NARROW)
    page = context.new_page()
    page.goto(place)
    page.locator("noscript a", has_text="plain tables").click()
    expect(page.get_by_role("table", name="Schedules")).to_contain_text("a failing one")
    page.get_by_role("link", name="12 more").click()
    expect(page.get_by_role("table", name="Schedules")).not_to_contain_text("a failing one")
    context.close()
    with opened(browser, place.replace("/schedules", "/plain-schedules")) as page:
        check_looks(page, ("ink", "soft", "accent"))
        check_axe(page)
        # On a screen as well: an error that is cut off is not read.
        box = page.locator(".scroll")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_pause_and_resume_by_keyboard(browser: Browser, place: str) -> None:
    """A pause is asked about, done, shown and undone."""
    with opened(browser, f"{place}?text=customer+07") as page:
        row = page.locator("#rows tr")
        expect(row).to_have_count(1)
        pause = row.get_by_role("button", name="Pause report of customer 07")
        pause.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#sure-text")).to_contain_text("Pause report of customer 07?")
        # The harmless answer has the focus.
        expect(page.locator("#sure-no")).to_be_focused()
        page.click("#sure-yes")
        expect(row).to_contain_text("paused")
        page.select_option("[name=status]", "paused")
        expect(row).to_have_count(1)
        row.get_by_role("button", name="Resume report of customer 07").click()
        expect(page.locator("#said")).to_contain_text("fires again")
        expect(row).to_have_count(0)

"""What the page of pools is for beside watching: to find, to look closely, to go back, to act."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.site.test_pages import (
    NARROW,
    PATIENCE,
    browser,
    check_axe,
    check_looks,
    dashboards,
    opened,
    tab_to,
)

__all__ = ["browser", "dashboards"]

NAME = "tests.support.functions.paged"


@contextlib.contextmanager
def told(url: str, count: int) -> Iterator[list[str]]:
    """Keep workers busy with calls that tell their progress; what they ended with, afterwards."""
    answers: list[str] = []
    with ThreadPoolExecutor(count) as threads:
        for number in range(count):
            path = f"{url}/tell/{number}"
            threads.submit(lambda path=path: answers.append(httpx.get(path, timeout=PATIENCE).text))
        try:
            yield answers
        finally:
            act = {"headers": {"X-Offload-Action": "1"}, "timeout": PATIENCE}
            while len(answers) < count:
                asked = httpx.get(
                    f"{url}/dashboard/tasks", params={"pool": "paged"}, timeout=PATIENCE
                )
                for task in asked.json()["tasks"]:
                    stop = {"pool": "paged", "task": task["id"]}
                    httpx.post(f"{url}/dashboard/actions/stop", params=stop, **act)


def widths(page: Page) -> list[list[int]]:
    """Return how wide each table is, and how wide its place."""
    return page.evaluate(
        "[...document.querySelectorAll('.scroll')].map((box) => [box.scrollWidth, box.clientWidth])"
    )


def test_one_that_waits_is_cancelled_and_one_that_runs_is_seen_in_full(browser, dashboards):
    """Tasks are there one by one, with their progress; the one that is cancelled never runs."""
    with told(dashboards, 3) as answers, opened(browser, f"{dashboards}/dashboard/") as page:
        progress = page.locator("[data-of=workers] tr[data-state=busy] .progress").first
        expect(progress).to_contain_text("1 of 4")
        page.click("[data-of=tasks-box] summary")
        rows = page.locator("[data-of=tasks] tr")
        expect(rows).to_have_count(3)
        expect(rows.first).to_contain_text("GET /tell/{name}")
        page.set_viewport_size(NARROW)
        assert all(wide <= place for wide, place in widths(page))
        check_axe(page)
        page.locator("[data-of=tasks] tr[data-state=waiting] [data-action=stop]").click()
        page.click("#sure-yes")
        expect(page.locator("#said")).to_have_text("The task is cancelled.")
        expect(rows).to_have_count(2)
        assert answers == ["TaskKilledError"]
        rows.first.locator("button.link").click()
        expect(page.locator("#task-title")).to_have_text(f"{NAME}:tell_and_spin")
        expect(page.locator("#task-facts")).to_contain_text("GET /tell/{name}")
        expect(page.locator("#task-arguments")).to_have_text(re.compile("^'[012]'$"))
        expect(page.locator("#task-progress")).to_contain_text("1 of 4")
        check_axe(page)
        page.click("#task-cancel")
        page.click("#sure-yes")
        expect(page.locator("#task-state")).to_have_text("ended")


def test_what_is_looked_for_is_in_the_address(browser, dashboards):
    """Search and order hold for all tables, survive a reload, and can be sent to somebody."""
    for number in (1, 2):
        httpx.get(f"{dashboards}/double", params={"number": number}).raise_for_status()
    httpx.get(f"{dashboards}/fail", params={"text": "no such customer"}).raise_for_status()
    with opened(browser, f"{dashboards}/dashboard/?q=DOUBLE") as page:
        functions = page.locator("[data-of=functions] tr:not([hidden])")
        expect(functions).to_have_count(1)
        expect(functions).to_contain_text(f"{NAME}:double")
        expect(page.locator(".failures details")).to_have_count(0)
        expect(page.locator("[name=q]")).to_have_value("DOUBLE")
        page.fill("[name=q]", "customer")
        expect(page.locator(".failures details").first).to_contain_text("no such customer")
        expect(functions).to_have_count(0)
        page.select_option("[name=kind]", "crashed")
        expect(page.locator(".failures details")).to_have_count(0)
        page.fill("[name=q]", "")
        page.select_option("[name=kind]", "")
        heading = page.locator("[data-of=functions-table] th[data-sort=completed] button")
        heading.click()
        expect(functions.first).to_contain_text(f"{NAME}:double")
        assert page.url.endswith("/dashboard/?functions=-completed")
        page.reload()
        head = page.locator("[data-of=functions-table] th[data-sort=completed]")
        expect(head).to_have_attribute("aria-sort", "descending")
        expect(functions.first).to_contain_text(f"{NAME}:double")
        heading.click()
        expect(functions.first).not_to_contain_text(f"{NAME}:double")
        # By two keys it is back as it was.
        tab_to(page, "[data-of=functions-table] th[data-sort=completed] button")
        page.keyboard.press("Enter")
        expect(head).not_to_have_attribute("aria-sort", re.compile("."))
        assert page.url.endswith("/dashboard/")


def test_focus_stays_on_what_moves_and_is_not_lost_with_what_goes(browser, dashboards):
    """A row that changes its place keeps the focus; one that goes leaves it to its table."""
    with opened(browser, f"{dashboards}/dashboard/") as page:
        found = page.evaluate(
            """async () => {
              const { keyed } = await import("./static/text.js");
              const box = document.createElement("div");
              box.tabIndex = 0;
              document.body.append(box);
              const list = box.appendChild(document.createElement("ul"));
              const make = () => document.createElement("button");
              const fill = (element, name) => { element.textContent = name; };
              const show = (names) => keyed(list, [...names], (name) => name, make, fill);
              show("abc");
              const focused = list.children[2];
              focused.focus();
              show("cab");
              const moved = document.activeElement === focused;
              show("ab");
              return [moved, document.activeElement === box];
            }"""
        )

    assert found == [True, True]


def test_theme_is_chosen_and_remembered(browser, dashboards):
    """Dark on a light system and the other way round, on both pages, also after a reload."""
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    with opened(browser, f"{dashboards}/dashboard/") as page:
        light = page.evaluate(ground)
        page.select_option("#theme", "dark")
        dark = page.evaluate(ground)
        page.reload()
        expect(page.locator("#theme")).to_have_value("dark")
        remembered = page.evaluate(ground)
        page.goto(f"{dashboards}/dashboard/jobs")
        of_jobs = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        page.select_option("#theme", "light")
        on_dark = page.evaluate(ground)
        page.select_option("#theme", "auto")
        auto = page.evaluate(ground)

    assert light != dark
    assert (remembered, of_jobs, on_dark, auto) == (dark, dark, light, dark)


def test_limits_are_set_by_keyboard(browser, dashboards):
    """The form begins with what holds now; what was set holds at once, for whoever calls."""
    with opened(browser, f"{dashboards}/dashboard/") as page:
        page.locator("[data-of=limits-box] summary").focus()
        page.keyboard.press("Enter")
        expect(page.locator("[name=max_workers]")).to_have_value("2")
        expect(page.locator("[name=max_workers]")).to_be_focused()
        page.keyboard.press("Control+a")
        page.keyboard.type("3")
        page.keyboard.press("Tab")
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        check_axe(page)
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("has new limits: max_workers=3")
        expect(page.locator("[data-of=busy]")).to_contain_text("of 3")
        expect(page.locator("[data-of=queued]")).to_contain_text("no limit")
        # The form has what holds now by the time that it has the focus.
        page.click("[data-of=limits-box] summary")
        expect(page.locator("[name=max_workers]")).to_be_focused()
        page.fill("[name=max_workers]", "1")
        page.click("[data-of=limits] button")
        # As many as `min_workers` there must be.
        expect(page.locator("#said")).to_contain_text("min_workers (2) must not exceed")
        page.click("[data-of=limits-box] summary")
        expect(page.locator("[name=max_workers]")).to_be_focused()
        page.fill("[name=max_workers]", "2")
        page.fill("[name=max_queued]", "1000")
        page.click("[data-of=limits] button")
        expect(page.locator("[data-of=busy]")).to_contain_text("of 2")


def test_the_last_hours_are_drawn(browser, dashboards):
    """What the server has kept is shown, over the time that the address says."""
    httpx.get(f"{dashboards}/double", params={"number": 1}).raise_for_status()
    with opened(browser, f"{dashboards}/dashboard/?span=3600") as page:
        charts = page.locator("[data-of=charts] canvas")
        expect(charts.nth(4)).to_have_attribute("aria-label", re.compile(r"up [1-9]"))
        expect(page.locator("[data-of=history-note]")).to_contain_text("in 42 KiB of memory")
        page.select_option("[data-of=span]", "21600")
        expect(page.locator("[data-of=history-note]")).to_contain_text("one point every 60 s")
        assert page.url.endswith("?span=21600")
        check_looks(page, ("ink", "soft", "accent"))
        check_axe(page)


@pytest.mark.parametrize("path", ["", "plain"])
def test_without_javascript_there_are_tables(browser: Browser, dashboards: str, path: str):
    """The page says where they are; they have the same workers, functions and failures."""
    httpx.get(f"{dashboards}/fail", params={"text": "<b>no such customer</b>"}).raise_for_status()
    context = browser.new_context(java_script_enabled=False, viewport=NARROW)
    page = context.new_page()
    page.goto(f"{dashboards}/dashboard/{path}")
    if not path:
        # Neither a search that finds nothing nor a connection that never comes.
        expect(page.locator("#filter, #connection, #loop").locator("visible=true")).to_have_count(0)
        page.locator("noscript a", has_text="plain tables").click()
    expect(page.get_by_role("table", name="Functions")).to_contain_text(f"{NAME}:fail")
    expect(page.get_by_role("table", name="Recent failures")).to_contain_text("<b>no such customer")
    context.close()
    if path:
        with opened(browser, f"{dashboards}/dashboard/plain") as page:
            check_looks(page, ("ink", "soft", "accent"))
            check_axe(page)

"""The pages as a person has them: in a real Chromium, headless, on real servers.

Without a Chromium on the machine they are skipped; with OFFLOAD_REQUIRE_BROWSER set, as in CI, its
absence is a failure.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Route,
    expect,
    sync_playwright,
)

from tests.site.test_demo_server import encoded, started

ROOT = Path(__file__).parents[2]
# Of a browser that starts cold on a busy machine.
PATIENCE = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing of the network beyond the page, which a closed one would refuse again and again.
FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
]
expect.set_options(timeout=PATIENCE * 1000)
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 360, "height": 740}
# By WCAG 2.2, success criterion 1.4.3, for text of ordinary size.
LEAST_CONTRAST = 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Share one browser among the tests; each has a page of its own."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        reason = "needs a Chromium on PATH (Debian: apt-get install chromium)"
        if os.environ.get("OFFLOAD_REQUIRE_BROWSER"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, *, moves: bool = False) -> Iterator[Page]:
    """Open a page, and fail if it does what its policy forbids, or breaks.

    Nothing of it plays by itself unless it `moves`.
    """
    complaints = []

    def note(message: ConsoleMessage) -> None:
        # What the server refuses on purpose is told by the browser as well.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page = browser.new_page(viewport=WIDE, reduced_motion="no-preference" if moves else "reduce")
    page.set_default_timeout(PATIENCE * 1000)
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    try:
        page.goto(url)
        yield page
    finally:
        page.close()
    assert not complaints


def tab_to(page: Page, selector: str) -> None:
    """Go on with the Tab key until an element has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(selector)


def contrast(page: Page, ink: str, ground: str) -> float:
    """Return the contrast of two colours of the page's palette, as WCAG defines it."""
    levels = []
    for name in (ink, ground):
        code = page.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()",
            f"--{name}",
        )
        parts = [int(code[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        levels.append(
            sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        )
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def check_axe(page: Page) -> None:
    """Fail if axe finds something that keeps people from using the page as it is now."""
    found = Axe().run(page).response["violations"]
    told = [
        (each["id"], each["help"], [node["target"] for node in each["nodes"]]) for each in found
    ]
    assert told == []


# Tables whose rows are blocks on a telephone, and that do not fit even so.
TOO_WIDE = """[...document.querySelectorAll(".scroll:has(.stack)")]
  .filter((box) => box.scrollWidth > box.clientWidth).length"""


def check_looks(page: Page, colours: tuple[str, ...]) -> None:
    """Fail if, in any form of the page, something sticks out or a text is too pale to be read."""
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), size
        if size == NARROW:
            assert not page.evaluate(TOO_WIDE), "a table is read by scrolling sideways"
    grounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        contrasts = {colour: contrast(page, colour, "card") for colour in colours}
        assert min(contrasts.values()) >= LEAST_CONTRAST, (scheme, contrasts)
    assert len(grounds) == 2


@pytest.fixture(scope="module")
def demo(browser: Browser) -> Iterator[str]:
    """Share a demo server."""
    with started() as server:
        yield server.url
        server.end(signal.SIGTERM)


class TestDemoPage:
    def test_it_is_readable_in_every_form(self, browser, demo):
        """Light or dark, on a telephone or a screen, nothing is cut off or too pale."""
        with opened(browser, demo) as page:
            # Measured, drawn and written by then.
            expect(page.locator("#median")).to_contain_text("ms")
            expect(page.locator("#workers tr").first).to_be_visible()
            check_looks(page, ("ink", "soft", "accent", "inline", "thread", "offloaded", "job"))
            for size in (WIDE, NARROW):
                page.set_viewport_size(size)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                    check_axe(page)

    def test_without_javascript_it_offers_what_works(self, browser, demo):
        """No button that does nothing: the endpoints, and tables of the pool."""
        context = browser.new_context(java_script_enabled=False, viewport=NARROW)
        page = context.new_page()
        page.goto(demo)
        assert page.locator("button:visible, select:visible, canvas:visible").count() == 0
        page.click("#endpoints summary")
        expect(page.locator(".endpoints")).to_contain_text("curl")
        page.click("noscript a")
        expect(page.get_by_role("table", name="Workers")).to_be_visible()
        context.close()

    def test_an_untouched_page_plays_one_round(self, browser):
        """Whoever only looks sees what it is about: inline, then offloaded, both compared."""
        with started() as server, opened(browser, server.url, moves=True) as page:
            status = page.locator("#status")
            expect(status).to_have_attribute("data-round", "soon")
            expect(status).to_contain_text("unless you touch something")
            expect(status).to_have_attribute("data-round", "plays")
            check_axe(page)
            expect(status).to_have_attribute("data-round", "played", timeout=2 * PATIENCE * 1000)
            told = status.inner_text()
            worst = {
                way: float(page.locator(f"#results tr[data-way={way}]").get_attribute("data-worst"))
                for way in ("inline", "offloaded")
            }
            server.end(signal.SIGTERM)

        assert told.startswith("The same work twice. Inline, an answer of /fast took up to ")
        assert worst["offloaded"] < worst["inline"], worst

    def test_a_round_gives_way_to_whoever_is_there(self, browser):
        """Nothing plays for who touches something, wants no motion, or beside a second visitor."""
        with started() as server:
            with opened(browser, server.url, moves=True) as page:
                page.locator("#count").focus()
                page.keyboard.press("Tab")
                expect(page.locator("#status")).to_have_attribute("data-round", "left out")
                expect(page.locator("#status")).to_have_text("Nothing runs.")
            with (
                opened(browser, server.url) as still,
                opened(browser, server.url, moves=True) as page,
            ):
                for each in (page, still):
                    expect(each.locator("#status")).to_have_attribute("data-round", "left out")
            # What plays ends with the first touch, and the button that it was for is obeyed.
            with opened(browser, server.url, moves=True) as page:
                # Not beside those that have just left.
                expect(page.locator("#status")).to_have_attribute("data-round", "plays")
                page.select_option("#count", "1")
                page.click("button[data-way=offloaded]")
                expect(page.locator("#status")).to_contain_text("Offloaded: 1 request done")
            server.end(signal.SIGTERM)

    def test_a_machine_that_starves_workers_is_told(self, browser, demo):
        """Calls that take for ever are no fault of the library: the page says whose."""

        def starve(route: Route) -> None:
            told = route.fetch().json()
            route.fulfill(json=told | {"starved_workers": 2})

        with opened(browser, demo) as page:
            expect(page.locator("#workers tr").first).to_be_visible()
            page.route("**/stats", starve)
            expect(page.locator("#starved")).to_contain_text("starves the workers")
            check_axe(page)
            page.unroute_all(behavior="ignoreErrors")
            expect(page.locator("#starved")).to_be_hidden()

    def test_the_chart_jumps_inline_and_stays_flat_offloaded(self, browser, demo):
        """What the page is for: inline, /fast waits as long as the work runs; offloaded, not."""
        tops = {}
        results = {}
        for way in ("inline", "offloaded", "job"):
            # Anew each time, so that the chart has this run alone.
            with opened(browser, demo) as page:
                expect(page.locator("#median")).to_contain_text("ms")
                page.select_option("#count", "8")
                page.select_option("#n", "300000")
                page.click(f"button[data-way={way}]")
                row = page.locator(f"#results tr[data-way={way}]")
                # On a machine that is busy with other tests one will do, and the others keep the
                # workers busy until then.
                done = "8" if way == "inline" else re.compile("[1-8]")
                expect(row).to_have_attribute("data-done", done)
                results[way] = {
                    name: float(row.get_attribute(f"data-{name}"))
                    for name in ("ran", "median", "worst")
                }
                tops[way] = page.evaluate(HIGHEST_OF_LINE)
        inline = results["inline"]

        # A question may have come when the first of the eight was already under way.
        assert inline["worst"] > 0.8 * inline["ran"], results
        for way in ("offloaded", "job"):
            flat = results[way]
            assert flat["worst"] < flat["ran"], results
            assert flat["median"] < flat["ran"] / 5, results
            assert flat["median"] < inline["median"] / 5, results
            # Not only the numbers: the line itself.
            assert tops["inline"] > tops[way], tops

    def test_a_job_of_a_killed_program_comes_back(self, browser):
        """The worker program is killed from the page while it runs a job; another one ends it."""
        with started() as server, opened(browser, server.url) as page:
            expect(page.locator("#program")).to_have_attribute("data-state", "up")
            before = page.locator("#program").get_attribute("data-pid")
            # Many, so that one runs when the click comes, on a quick machine too.
            page.select_option("#count", "64")
            page.select_option("#n", "100000")
            page.click("button[data-way=job]")
            bar = page.locator("#jobs li[data-state=active] progress").first
            # Its progress arrives while it runs.
            expect(bar).not_to_have_js_property("value", 0)
            page.click("#kill")
            crashed = page.locator("#jobs li[data-crashes='1']")
            expect(crashed.first).to_contain_text("its program died")
            done = page.locator("#jobs li[data-crashes='1'][data-state=completed]")
            expect(done.first).to_be_visible()
            after = page.locator("#program").get_attribute("data-pid")
            server.end(signal.SIGTERM)

        assert before
        assert after
        assert before != after

    def test_jobs_are_cancelled_from_the_page(self, browser, demo):
        """Stop: what waits never runs, and what runs is ended."""
        with opened(browser, demo) as page:
            page.select_option("#count", "8")
            page.select_option("#n", "1000000")
            page.click("button[data-way=job]")
            expect(page.locator("#jobs li[data-state=active]").first).to_be_visible()
            page.click("#stop")
            expect(page.locator("#status")).to_contain_text("As a job: cancelled")
            # Perhaps not all had been enqueued.
            expect(page.locator("#jobs-count")).to_have_text(re.compile("^[1-8] cancelled$"))

    def test_a_page_whose_server_is_gone_says_so(self, browser):
        """What is shown is marked as old, and a click that nobody answers is no result."""
        with started() as server, opened(browser, server.url) as page:
            expect(page.locator("#median")).to_contain_text("ms")
            server.end(signal.SIGKILL)
            expect(page.locator("#gone")).to_contain_text("does not answer")
            expect(page.locator("button[data-way=job]")).to_have_attribute("aria-disabled", "true")
            for button in ("button[data-way=offloaded]", "#compare", "#sample", "#kill"):
                expect(page.locator(button)).to_have_attribute("aria-disabled", "true")
                page.click(button, force=True)
            shown = page.locator("#results td").all_inner_texts()
            said = page.locator("#upload-status, #kill-status").all_inner_texts()
            check_axe(page)

        assert set(shown) == {"\N{EN DASH}"}
        assert said == ["", ""]

    def test_closing_the_connection_stops_the_workers(self, browser, demo):
        """Work that nobody waits for any more ends, and the page shows it."""
        with opened(browser, demo) as page:
            page.select_option("#count", "64")
            page.select_option("#n", "1000000")
            page.click("button[data-way=offloaded]")
            expect(page.locator("#workers tr[data-state=busy]")).to_have_count(2)
            page.click("#stop")
            expect(page.locator("#status")).to_contain_text("no worker runs and nothing waits")
            now = httpx.get(f"{demo}/stats").json()

        assert (now["busy"], now["queued"]) == (0, 0)

    def test_more_than_may_wait_is_refused_in_sight(self, browser, demo):
        """A full queue is told from slow work: by its length, and by what was refused."""
        with opened(browser, demo) as page:
            flood = page.locator("#count option").last.get_attribute("value")
            page.select_option("#count", flood)
            page.click("button[data-way=offloaded]")
            # All of it, before the first is done: two workers, a thousand that wait.
            refused = page.locator("#results tr[data-way=offloaded] td").last
            expect(refused).to_have_text(re.compile(r"[1-9]"))
            expect(page.locator("#counters")).to_contain_text("refused")
            page.click("#stop")
            expect(page.locator("#status")).to_contain_text("connection closed")

    def test_keyboard_alone_is_enough(self, browser, demo):
        """Without a mouse: there is a way to each control, and the focus stays where it was."""
        with opened(browser, demo) as page:
            tab_to(page, ".skip")
            tab_to(page, "#count")
            page.keyboard.press("Home")
            tab_to(page, "button[data-way=offloaded]")
            page.keyboard.press("Enter")
            expect(page.locator("#status")).to_contain_text("1 request done")
            is_there = page.evaluate("document.activeElement.dataset.way")
            tab_to(page, "#sample")
            page.keyboard.press("Space")
            expect(page.locator("#upload-status")).to_contain_text("answered after")

        assert is_there == "offloaded"

    def test_a_picture_comes_back_small(self, browser, demo):
        """A visitor's own file is worked on, and its result shown."""
        with opened(browser, demo) as page:
            file = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(size=(900, 300))}
            page.set_input_files("#file", file)
            page.click("#upload [type=submit]")
            image = page.locator("#upload-result img")
            expect(image).to_be_visible()
            size = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")

        assert size == [240, 80]

    def test_a_file_that_is_none_is_told_as_text(self, browser, demo):
        """The server's answer to a broken file is shown, and nothing of the file runs."""
        with opened(browser, demo) as page:
            text = b"\xff<script>document.title = 'taken'</script>"
            file = {"name": "<b>.csv", "mimeType": "text/csv", "buffer": text}
            page.set_input_files("#file", file)
            page.click("#upload [type=submit]")
            expect(page.locator("#upload-status")).to_have_text("<b>.csv: Not text in utf-8.")


# How high the line of the chart goes, from 0 at the bottom to 1 at the top.
HIGHEST_OF_LINE = """() => {
  const canvas = document.getElementById("chart");
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const code = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  const accent = [1, 3, 5].map((start) => parseInt(code.slice(start, start + 2), 16));
  const isAccent = (index) =>
    data[index + 3] > 200 && accent.every((part, at) => Math.abs(data[index + at] - part) < 12);
  for (let index = 0; index < data.length; index += 4) {
    if (isAccent(index)) {
      return 1 - Math.floor(index / 4 / width) / height;
    }
  }
  return 0;
}"""


@contextlib.contextmanager
def paged() -> Iterator[tuple[str, subprocess.Popen]]:
    """Start a server with dashboards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.apps.paged_app"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            # The port answers only when the pool is open.
            httpx.get(f"{url}/dashboard/state", timeout=PATIENCE).raise_for_status()
            yield url, process
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
            # Actions and dead workers are logged; nothing breaks.
            assert "Traceback" not in errors, errors
        finally:
            # Only where a test has failed before.
            process.kill()


@pytest.fixture(scope="module")
def dashboards(browser: Browser) -> Iterator[str]:
    """Share a server with dashboards."""
    with paged() as (url, _):
        yield url


class TestDashboard:
    def test_it_is_readable_in_every_form(self, browser, dashboards):
        """Light or dark, on a telephone or a screen, nothing is cut off or too pale."""
        httpx.get(f"{dashboards}/fail", params={"text": "x" * 300})
        with opened(browser, f"{dashboards}/dashboard/") as page:
            expect(page.locator(".failures details").first).to_be_visible()
            check_looks(page, ("ink", "soft", "accent", "good", "warn", "bad"))
            check_axe(page)

    def test_a_killed_worker_is_seen_to_be_replaced_within_a_second(self, browser, dashboards):
        """The page shows that a worker is gone and that another has come, at once."""
        took = []
        with opened(browser, f"{dashboards}/dashboard/") as page:
            rows = page.locator("[data-of=workers] tr:not([data-state=gone])")
            # On a machine that is busy with other things one of several must do.
            for _ in range(5):
                expect(page.locator("[data-of=workers] tr[data-state=idle]")).to_have_count(2)
                before = rows.evaluate_all("rows => rows.map((row) => row.dataset.key)")
                killed = time.monotonic()
                os.kill(int(before[0]), signal.SIGKILL)
                expect(page.locator(f'tr[data-key="{before[0]}"][data-state=gone]')).to_be_visible()
                known = "".join(f':not([data-key="{key}"])' for key in before)
                expect(page.locator(f"[data-of=workers] tr{known}").first).to_be_visible()
                took.append(time.monotonic() - killed)
                if took[-1] < 1.0:
                    break

        assert min(took) < 1.0, took

    def test_a_script_in_an_error_does_nothing(self, browser, dashboards):
        """Text from a function is text, however it is written: nothing of it runs or loads."""
        evil = (
            "<script>document.title = 'taken'</script>"
            "<img src=x onerror=\"document.title = 'taken'\"><b id=evil>"
        )
        httpx.get(f"{dashboards}/fail", params={"text": evil}).raise_for_status()
        with opened(browser, f"{dashboards}/dashboard/") as page:
            failure = page.locator("details", has_text="<script>").first
            failure.locator("summary").click()
            # Summary and whole text, the traceback included, as it was written.
            expect(failure.locator(".error")).to_contain_text(f"ValueError: {evil}")
            expect(failure.locator("pre")).to_contain_text("raise ValueError(text)")
            expect(failure.locator("pre")).to_contain_text(evil)
            found = page.evaluate(
                "document.querySelectorAll('#evil, main script, main img').length"
            )
            title = page.title()

        assert (found, title) == (0, "offload")

    def test_a_task_is_cancelled_with_the_keyboard_alone(self, browser, dashboards):
        """An operator stops a task, is asked first, and its caller is told by whom."""
        answers = []

        def spin() -> None:
            answers.append(httpx.get(f"{dashboards}/spin", timeout=PATIENCE).text)

        caller = threading.Thread(target=spin)
        caller.start()
        with opened(browser, f"{dashboards}/dashboard/") as page:
            busy = page.locator("[data-of=workers] tr[data-state=busy]")
            expect(busy).to_have_count(1)
            tab_to(page, "tr[data-state=busy] [data-action=cancel]")
            page.keyboard.press("Enter")
            expect(page.locator("#sure-no")).to_be_focused()
            page.keyboard.press("Escape")
            expect(page.locator("#sure")).to_be_hidden()
            still = busy.count()
            page.keyboard.press("Enter")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            expect(page.locator("#said")).to_contain_text("is being stopped")
            expect(busy).to_have_count(0)
        caller.join(PATIENCE)

        assert (still, answers) == (1, ["TaskKilledError"])

    def test_a_pool_is_drained_and_opened_again(self, browser, dashboards):
        """What an operator closes, he can open."""
        with opened(browser, f"{dashboards}/dashboard/") as page:
            page.click("[data-action=drain]")
            page.click("#sure-yes")
            expect(page.locator("[data-of=state]")).to_have_text("draining")
            page.click("[data-action=open]")
            expect(page.locator("[data-of=state]")).to_have_text("open")
            answer = httpx.get(f"{dashboards}/double", params={"number": 21}).text

        assert answer == "42"

    def test_what_blocks_the_loop_is_named(self, browser, dashboards):
        """Where the watchdog runs, the page says which route held the event loop, and where."""
        httpx.get(f"{dashboards}/block", timeout=PATIENCE).raise_for_status()
        with opened(browser, f"{dashboards}/dashboard/") as page:
            place = page.locator("#places tr", has_text="GET /block")
            expect(place).to_contain_text("blocking")
            expect(place).to_contain_text("paged_app.py")
            check_looks(page, ("ink", "soft"))

    def test_rows_follow_the_order_of_their_items(self, browser, dashboards):
        """What overtakes is moved; what keeps its place among the others is not touched."""
        with opened(browser, f"{dashboards}/dashboard/") as page:
            found = page.evaluate(
                """async () => {
                  const { keyed } = await import("./static/text.js");
                  const list = document.createElement("ul");
                  let moved = 0;
                  const insert = list.insertBefore.bind(list);
                  list.insertBefore = (element, place) => {
                    moved += element.parentNode === list;
                    return insert(element, place);
                  };
                  const make = () => document.createElement("li");
                  const told = [];
                  for (const names of ["abc", "acb", "cabd", "bd", "bd", ""]) {
                    moved = 0;
                    const fill = (element, name) => { element.textContent = name; };
                    keyed(list, [...names], (name) => name, make, fill);
                    told.push(`${list.textContent} ${moved}`);
                  }
                  return told;
                }"""
            )

        assert found == ["abc 0", "acb 1", "cabd 1", "bd 0", "bd 0", " 0"]

    def test_a_page_that_may_only_look_has_no_buttons(self, browser, dashboards):
        """Read-only unless actions are enabled: nothing that acts is there to be pressed."""
        with opened(browser, f"{dashboards}/read-only/") as page:
            expect(page.locator("#connection")).to_have_text("Live")
            expect(page.locator("[data-of=workers] tr").first).to_be_visible()
            actions = page.locator("[data-action], [data-of=limits-box] summary, #sure button")
            visible = [each.is_visible() for each in actions.all()]

        assert visible
        assert not any(visible)

    def test_a_page_that_loses_its_server_says_so(self, browser):
        """An open page keeps no server from ending, and does not pass old numbers off as new."""
        with paged() as (url, process), opened(browser, f"{url}/dashboard/") as page:
            expect(page.locator("#connection")).to_have_text("Live")
            expect(page.locator("[data-action=drain]").first).to_be_visible()
            asked = time.monotonic()
            process.terminate()
            process.wait(PATIENCE)
            # Well before its events would have ended by themselves, which is after 20 seconds.
            took = time.monotonic() - asked
            expect(page.locator("#connection")).to_contain_text("Not connected")
            expect(page.locator("body")).to_have_class(re.compile("stale"))
            expect(page.locator("[data-action]").locator("visible=true")).to_have_count(0)
            check_axe(page)

        assert took < 15, took

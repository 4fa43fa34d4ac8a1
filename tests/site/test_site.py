"""The documentation site: built strictly, whole, and readable without any other host."""

import functools
import re
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from offload._cli import COMMANDS
from tests.site.test_pages import NARROW, WIDE, Axe, Browser, Page, browser, expect
from tests.site.test_release import script
from tests.support.docs_pages import PAGES, ROOT

__all__ = ["browser"]  # the fixture


@pytest.fixture(scope="module")
def builder():
    """Return scripts/site.py."""
    module = script("site")
    sys.modules["site_of_docs"] = module
    return module


@pytest.fixture(scope="module")
def site(builder, tmp_path_factory) -> Path:
    """Build the site once; return its folder."""
    folder = tmp_path_factory.mktemp("site")
    builder.build(folder)
    return folder


def test_every_page_is_there(site):
    """Pages, modules of the reference and scenarios of the benchmarks: nothing is left out."""
    expected = {f"{page.stem}.html" for page in PAGES if page.stem != "reference"}
    expected |= {"index.html", "changelog.html", "contributing.html", "licence.html"}
    expected |= {"security.html"}
    names = re.findall(
        r"^## (offload[\w.]*)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE
    )
    expected |= {f"reference/{name}.html" for name in [*names, "index"]}
    expected |= {"reference/command-line.html", "reference/pytest-plugin.html"}
    scenarios = [page.stem for page in (ROOT / "benchmarks" / "pages").glob("*.md")]
    expected |= {f"benchmarks/{name}.html" for name in [*scenarios, "index"]}
    found = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert found == expected | {"404.html"}


def test_every_page_is_in_the_navigation(site):
    """A reader finds every page from the first."""
    text = (site / "index.html").read_text()
    listed = set(re.findall(r'<a href="([\w./-]+\.html)" class="md-nav__link', text))
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert listed >= pages - {"404.html", "index.html"}


def test_commands_tell_of_themselves(site):
    """Each command and each action of one has its help on the page of the command line."""
    text = (site / "reference" / "command-line.html").read_text()
    for command in (*COMMANDS, "jobs retry", "schedule next"):
        assert f"usage: offload {command} [-h]" in text, command


def test_lists_and_tables_are_what_they_are(site):
    """Lists in lists, and tables in what is folded, are such on the site as on GitHub."""
    reference = (site / "reference" / "offload.html").read_text()
    assert re.search(r"<li><code>\*\*options</code>:<ul>\s*<li><code>timeout</code>", reference)
    scenario = (site / "benchmarks" / "fast_under_heavy.html").read_text()
    assert re.search(r"</summary>\s*<table>", scenario)
    for path in site.rglob("*.html"):
        body = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(), flags=re.DOTALL)
        assert not re.search(r"<p>[^<]*\n(- |\d\. |\|)", body), path.name


def test_anchor_that_is_not_there_stops_the_build(builder, tmp_path):
    """Links to headings are checked as strictly as links to pages."""
    pages = [builder.Page("index.md", "README.md", "# Home\n\n[there](#nowhere)\n")]
    with pytest.raises(builder.SiteError, match="#nowhere"):
        builder.build(tmp_path / "site", pages)


class TestLinks:
    @staticmethod
    def followed(builder, text, source="docs/jobs.md"):
        """Return a text with the links that it has on the site."""
        page = builder.Page("jobs.md", source, text)
        places = {"README.md": "index.md", "docs/jobs.md": "jobs.md"}
        return builder.linked(page, places, {"reference/offload.metrics.md": {"offloadmetrics"}})

    def test_follow_their_pages(self, builder):
        """Links of the repository lead to the pages of the site."""
        assert self.followed(builder, "[a](../README.md#x)") == "[a](index.md#x)"
        assert self.followed(builder, "[a](#x)") == "[a](jobs.md#x)"
        found = self.followed(builder, "[a](reference.md#offloadmetrics)")
        assert found == "[a](reference/offload.metrics.md#offloadmetrics)"
        assert self.followed(builder, "[a](https://x.y/z)") == "[a](https://x.y/z)"

    def test_to_files_that_are_no_pages_are_text(self, builder):
        """Raw results are in the repository only."""
        assert self.followed(builder, "see [raw](../benchmarks/results).") == "see raw."

    @pytest.mark.parametrize("link", ["no-such.md", "reference.md#nothing", "../nowhere/"])
    def test_that_lead_nowhere_stop_the_build(self, builder, link):
        """A link that is wrong is found before a reader finds it."""
        with pytest.raises(builder.SiteError, match=r"docs/jobs\.md: .*no"):
            self.followed(builder, f"[a]({link})")

    def test_code_is_left_alone(self, builder):
        """What looks like a link in a block of code is code."""
        code = "```python\nf[0](x)\n```\n"
        assert self.followed(builder, code) == code


@pytest.fixture(scope="module")
def served(site) -> Iterator[str]:
    """Serve the site; return where."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read(browser: Browser, served: str, pages: list[str], size: dict[str, int]) -> Iterator[Page]:
    """Yield pages as a browser shows them; fail if one asks another host for anything."""
    page = browser.new_page(viewport=size)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route(lambda url: not url.startswith(served), lambda route: route.abort())
    try:
        for path in pages:
            page.goto(f"{served}/{path}")
            yield page
    finally:
        page.close()
    assert len(asked) > len(pages)
    assert [url for url in asked if not url.startswith((served, "data:"))] == []


def test_pages_fit_a_phone_and_need_no_other_host(browser, served):
    """At 360 pixels only tables and code scroll sideways, and everything comes from the site."""
    pages = ["index.html", "howto-fastapi.html", "guarantees.html", "comparison.html"]
    pages += ["how-it-works.html", "troubleshooting.html", "reference/offload.html"]
    pages += ["benchmarks/index.html", "benchmarks/fast_under_heavy.html"]
    for page in read(browser, served, pages, NARROW):
        wide = page.evaluate("document.scrollingElement.scrollWidth")
        assert wide <= NARROW["width"], page.url


def test_search_finds(browser, served):
    """The search works with what the site has."""
    for page in read(browser, served, ["index.html"], {"width": 1280, "height": 900}):
        page.get_by_placeholder("Search").fill("QueueFullError")
        expect(page.locator(".md-search-result__link").first).to_be_visible()


@pytest.mark.parametrize("scheme, size", [("light", WIDE), ("dark", NARROW)])
def test_pages_are_readable(browser, served, scheme, size):
    """Light or dark, axe finds nothing that keeps people from reading; one picture is shown."""
    page = browser.new_page(color_scheme=scheme, reduced_motion="reduce", viewport=size)
    for path in ("index.html", "howto-django.html", "comparison.html"):
        page.goto(f"{served}/{path}")
        expect(page.locator(".md-typeset__scrollwrap:not([tabindex])")).to_have_count(0)
        found = Axe().run(page).response["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []
    page.goto(f"{served}/index.html")
    shown = page.locator("article img:visible").evaluate_all("all => all.map((each) => each.src)")
    assert [url.rpartition("-")[2] for url in shown] == [f"{scheme}.svg"]
    page.close()

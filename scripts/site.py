"""Builds the documentation site from the pages of the repository: see scripts/docs.

The pages stay where readers of the repository find them. Here a copy of them gets the layout of the
site: README is its first page, each module of the reference has a page, and links follow.
"""

from __future__ import annotations

import argparse
import ast
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offload._cli.completion import choices_of, parsers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "docs" / "site"
REFERENCE = "docs/reference.md"
# Page of the site, for each page of the repository that has another name there.
RENAMED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "licence.md",
    "benchmarks/README.md": "benchmarks/index.md",
}
# What a link looks like: of Markdown, or of the few tags that pages have.
_LINK = re.compile(r'(?<=\]\()[^)\s]+(?=\))|(?<=\bsrc=")[^"]+|(?<=\bsrcset=")[^"]+')
_ELSEWHERE = "elsewhere:"


class SiteError(Exception):
    """The site cannot be built; the text says which page is wrong, and how."""


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Args:
        path: on the site.
        source: of which file of the repository it is made; "" if its links are right already.
        text: in Markdown, with links as they are in the repository.
    """

    path: str
    source: str
    text: str


def main(output: str) -> int:
    """Build the site; return the exit status."""
    try:
        build(Path(output).absolute())
    except SiteError as error:
        print(f"scripts/docs: {error}", file=sys.stderr)
        return 1
    print(f"open {Path(output) / 'index.html'}")
    return 0


def build(output: Path, pages: Sequence[Page] | None = None) -> None:
    """Build the site into a folder.

    Args:
        output: the folder; what is in it is replaced.
        pages: of the site; None: all that there are.

    Raises:
        SiteError: a page links to nothing, or mkdocs finds an error.
    """
    with tempfile.TemporaryDirectory(prefix="offload-docs-") as temporary:
        stage = Path(temporary)
        pages = all_pages() if pages is None else pages
        write(stage / "pages", pages)
        settings = (SETTINGS / "mkdocs.yml").read_text()
        for folder in ("reference", "benchmarks"):
            names = [
                found[1]
                for page in pages
                if (found := re.fullmatch(rf"{folder}/(?!index)([\w.-]+)\.md", page.path))
            ]
            entries = "".join(f"      - {name}: {folder}/{name}.md\n" for name in names)
            first = f"      - {folder}/index.md\n"
            settings = settings.replace(first, first + entries)
        # Files at the top of the repository that the settings do not name, such as SECURITY.md.
        for page in pages:
            if page.source.endswith(".md") and "/" not in page.source and page.path not in settings:
                settings += f"      - {page.path}\n"
        (stage / "mkdocs.yml").write_text(settings)
        command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
        ended = subprocess.run(  # noqa: S603 - our own interpreter
            [*command, "--config-file", str(stage / "mkdocs.yml"), "--site-dir", str(output)],
            # Its theme tells of its successors in a banner.
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode != 0:
        raise SiteError((ended.stdout + ended.stderr).strip())


def write(folder: Path, pages: Sequence[Page]) -> None:
    """Write pages as mkdocs takes them, and all pictures."""
    places = {page.source: page.path for page in pages if page.source != REFERENCE}
    places[REFERENCE] = "reference/index.md"
    headings = {page.path: anchors_of(page.text) for page in pages if page.source == REFERENCE}
    for picture in [*ROOT.glob("docs/pictures/*.svg"), *ROOT.glob("benchmarks/plots/*.svg")]:
        source = picture.relative_to(ROOT).as_posix()
        places[source] = source.removeprefix("docs/")
        (folder / places[source]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, folder / places[source])
    for name in ("site.css", "site.js"):
        shutil.copy(SETTINGS / name, folder)
    for page in pages:
        path = folder / page.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(flavoured(linked(page, places, headings)))


def all_pages() -> list[Page]:
    """Return the pages of the site."""
    pages: list[Page] = []
    for pattern in (
        "*.md",
        "LICENSE",
        "docs/*.md",
        "benchmarks/README.md",
        "benchmarks/pages/*.md",
    ):
        for file in sorted(ROOT.glob(pattern)):
            source = file.relative_to(ROOT).as_posix()
            text = file.read_text()
            if source == REFERENCE:
                pages += reference_pages(text)
                continue
            if source == "LICENSE":
                text = f"# Licence\n\n```text\n{text}```\n"
            path = source.removeprefix("docs/").replace("benchmarks/pages/", "benchmarks/")
            pages.append(Page(RENAMED.get(source, path.lower()), source, text))
    return [*pages, command_line_page(), plugin_page()]


def command_line_page() -> Page:
    """Return the page of all commands, as they tell of themselves."""
    parts = ["# Command line\n\nWhat each is good for: [in the terminal](../terminal.md).\n"]
    for name, parser in parsers().items():
        parts.append(f"## offload {name}\n\n{_help(parser)}")
        parts += [
            f"### offload {name} {action}\n\n{_help(each)}" for action, each in choices_of(parser)
        ]
    return Page("reference/command-line.md", "", "\n".join(parts))


def _help(parser: argparse.ArgumentParser) -> str:
    # The same on every terminal.
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, width=92)  # type: ignore[assignment]
    return f"```text\n{parser.format_help().rstrip()}\n```\n"


def plugin_page() -> Page:
    """Return the page of the plugin for pytest, which is its docstring."""
    tree = ast.parse((ROOT / "offload" / "pytest_plugin.py").read_text())
    return Page("reference/pytest-plugin.md", "", f"# pytest plugin\n\n{ast.get_docstring(tree)}\n")


def reference_pages(text: str) -> list[Page]:
    """Return the reference as an index, and a page for each module, each heading a level up."""
    head, *parts = re.split(r"^## (offload[\w.]*)\n", text, flags=re.MULTILINE)
    modules = dict(zip(parts[::2], parts[1::2], strict=True))
    # The list of the one page has links into itself.
    head = re.sub(r"^- .*\n", "", head, flags=re.MULTILINE).strip()
    listed = "\n".join(
        f"- [`{name}`]({name}.md): {body.strip().partition(chr(10))[0]}"
        for name, body in modules.items()
    )
    listed += "\n- [Command line](command-line.md)\n- [pytest plugin](pytest-plugin.md)"
    return [
        Page("reference/index.md", "", f"{head}\n\n{listed}\n"),
        *(
            Page(
                f"reference/{name}.md",
                REFERENCE,
                # Where they stand, comments of Python code have one sign and a space.
                re.sub(r"^#(?=##+ )", "", f"# {name}\n{body}", flags=re.MULTILINE),
            )
            for name, body in modules.items()
        ),
    ]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def linked(page: Page, places: dict[str, str], headings: dict[str, set[str]]) -> str:
    """Return the text of a page, with its links as they are on the site.

    Args:
        page: whose links are as they are in the repository.
        places: page of the site for each file of the repository.
        headings: anchors of each page of the reference.

    Raises:
        SiteError: a link leads nowhere.
    """
    if not page.source:
        return page.text

    def follow(found: re.Match[str]) -> str:
        if re.match(r"https?:", found[0]):
            return found[0]
        target, _, anchor = found[0].partition("#")
        here = posixpath.dirname(page.source)
        wanted = posixpath.normpath(posixpath.join(here, target)) if target else page.source
        place = places.get(wanted)
        if wanted == REFERENCE and anchor:
            place = next((path for path, anchors in headings.items() if anchor in anchors), None)
        if place is None:
            if (ROOT / wanted).exists() and wanted != REFERENCE:
                return _ELSEWHERE
            raise SiteError(f"{page.source}: {found[0]} leads nowhere")
        relative = posixpath.relpath(place, posixpath.dirname(page.path) or ".")
        return f"{relative}#{anchor}" if anchor else relative

    text = outside_code(page.text, lambda prose: _LINK.sub(follow, prose))
    # Files of the repository that are no pages, such as raw results: only their names are told.
    return re.sub(rf"\[([^]]+)\]\({_ELSEWHERE}\)", r"\1", text)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a text that is changed but for its blocks of code."""
    parts = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def flavoured(text: str) -> str:
    """Return a page, written as GitHub reads it, as Python-Markdown reads it."""

    def change(prose: str) -> str:
        # Lists within lists are four spaces in, and a list begins after an empty line.
        prose = re.sub(r"^ {2,3}(?=[-*] |\d+\. )", "    ", prose, flags=re.MULTILINE)
        prose = re.sub(
            r"^(?![-*|>\s]|\d+\. )(.+)\n(?=[-*] |1\. )", r"\1\n\n", prose, flags=re.MULTILINE
        )
        # Both pictures: site.css shows the one that the reader has chosen.
        prose = re.sub(
            r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*'
            r'(<img alt="([^"]*)" [^>]*>)\s*</picture>',
            r'\2\n<img alt="\3" src="\1">',
            prose,
        )
        return prose.replace("<details>", '<details markdown="1">')

    return outside_code(text, change)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""What all pages have in common, written once: head, links between them, dialog."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import NamedTuple

__all__ = ["head", "links", "served_files"]


class _Page(NamedTuple):
    """A page of static/ in which the common parts are comments.

    Attributes:
        title: of the window.
        path: where it is served, below the dashboard.
        styles: style sheets, after that of all pages.
        script: the module.
    """

    title: str
    path: str
    styles: tuple[str, ...]
    script: str


_PAGES = {
    "index.html": _Page("offload", "./", (), "dashboard.js"),
    "jobs.html": _Page("Jobs \N{EN DASH} offload", "jobs", ("jobs.css",), "jobs.js"),
    "schedules.html": _Page(
        "Schedules \N{EN DASH} offload", "schedules", ("jobs.css", "schedules.css"), "schedules.js"
    ),
}
_LINKS = (("./", "Pools"), ("jobs", "Jobs"), ("schedules", "Schedules"))

_STATUS = """<label class="field theme">Theme <select id="theme"><option value="auto">auto</option>
    <option value="light">light</option><option value="dark">dark</option></select></label>
  <p id="connection" role="status">Connecting…</p>"""

_SURE = """<dialog id="sure" aria-labelledby="sure-text">
  <p id="sure-text"></p>
  <div class="buttons"><button type="button" id="sure-no">Leave it</button>
    <button type="button" id="sure-yes" class="danger"></button></div>
</dialog>"""


def head(title: str, styles: tuple[str, ...] = (), script: str = "") -> str:
    """Return HTML from its first line to the beginning of the body."""
    sheets = "".join(
        f'<link rel="stylesheet" href="static/{name}">\n' for name in ("dashboard.css", *styles)
    )
    module = f'<script type="module" src="static/{script}"></script>\n' if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f'<script src="static/theme.js"></script>\n{sheets}{module}<body>'
    )


def links(current: str, pages: tuple[tuple[str, str], ...] = _LINKS) -> str:
    """Return the links between pages.

    Args:
        current: path of the page that they are on.
        pages: paths and names.
    """
    found = " ".join(
        f'<a href="{path}"{" aria-current=page" if path == current else ""}>{name}</a>'
        for path, name in pages
    )
    return f'<nav aria-label="Pages">{found}</nav>'


def served_files() -> dict[str, bytes]:
    """Return pages, scripts and style sheets by name. Read once: the event loop opens no file."""
    static = files("offload.dashboard") / "static"
    found = {each.name: each.read_bytes() for each in static.iterdir() if each.is_file()}
    for name, page in _PAGES.items():
        text = found[name].decode()
        for mark, part in (
            ("head", head(page.title, page.styles, page.script)),
            ("links", links(page.path)),
            ("status", _STATUS),
            ("sure", _SURE),
        ):
            comment = f"<!-- {mark} -->"
            if comment not in text:
                raise ValueError(f"{name} has no {comment}")
            text = text.replace(comment, part)
        found[name] = text.encode()
    return found

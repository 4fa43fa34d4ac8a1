"""The page at `/`: static files of this package, with what the server knows filled in."""

from __future__ import annotations

import html
import mimetypes
from importlib.metadata import PackageNotFoundError, metadata
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from demo_server.uploads import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from demo_server.settings import Settings

__all__ = ["Endpoint", "Page"]

# Method, path, what it does, and the rest of a curl command to try it.
Endpoint = tuple[str, str, str, str]

_HEADERS = {
    # Nothing from another host, no inline code, and text can only become text: whatever a file or
    # an error says, a browser that knows these words runs none of it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # A new version is seen at once.
    "Cache-Control": "no-cache",
}


class Page:
    """The page and its files.

    Args:
        settings: limits, which the page keeps to.
        endpoints: what it lists.
    """

    def __init__(self, settings: Settings, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        static = files("demo_server") / "static"
        # Read once: the event loop opens no file.
        self._files = {each.name: each.read_bytes() for each in static.iterdir() if each.is_file()}
        self._page = self._files.pop("index.html").decode()
        self._page = self._page.replace("{documentation}", _documentation())
        self._page = self._page.replace("{max_body}", size_text(settings.max_body_bytes))
        for name in ("max_n", "max_queued", "max_size", "os_priority"):
            self._page = self._page.replace(f"{{{name}}}", str(getattr(settings, name)))

    def routes(self) -> list[Route]:
        """Return a route for the page and one for its files."""
        return [Route("/", self.index), Route("/static/{name}", self.file)]

    async def index(self, request: Request) -> Response:
        """Answer the page."""
        base = str(request.base_url).rstrip("/")
        items = "".join(
            f"<dt>{_link(method, path)}<dd>{what}<pre>{html.escape(_curl(base, path, rest))}</pre>"
            for method, path, what, rest in self._endpoints
        )
        return HTMLResponse(self._page.replace("{endpoints}", items), headers=_HEADERS)

    async def file(self, request: Request) -> Response:
        """Answer one of its files."""
        name: str = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        # Not what the machine has in its tables: some of them call JavaScript text/plain.
        kinds = {".js": "text/javascript", ".css": "text/css"}
        kind = kinds.get(name[name.rfind(".") :]) or mimetypes.guess_type(name)[0]
        return Response(self._files[name], media_type=kind, headers=_HEADERS)


def _documentation() -> str:
    """Return what leads to the documentation: a link, once the project has an address."""
    try:
        known = metadata("offload").get_all("Project-URL") or []
    except PackageNotFoundError:  # a copy of the source that was never installed
        known = []
    for each in known:
        name, _, url = each.partition(",")
        if name.strip() == "Documentation":
            return f'<a href="{html.escape(url.strip())}">Documentation</a>'
    return "<span>Documentation: <code>docs/</code> of the repository</span>"


def _link(method: str, path: str) -> str:
    return f'<a href="{path}">{path}</a>' if method == "GET" else f"{method} {path}"


def _curl(base: str, path: str, rest: str) -> str:
    return f"curl{rest} '{base}{path}'"

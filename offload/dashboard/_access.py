"""Who may look, and who may act: decided from the ASGI scope alone."""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

__all__ = ["ACTION_HEADER", "Token", "forgery", "stranger"]

# A page of another site cannot send it without asking first (a CORS preflight), which nobody here
# answers.
ACTION_HEADER = "X-Offload-Action"

# What browsers and command-line programs say of themselves and of what they want. Proxies, tunnels
# and meshes add names of their own, new ones every year: whoever says anything else is refused.
_CLIENT_HEADERS = frozenset(
    {
        "authorization",
        "cache-control",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "dnt",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "last-event-id",
        "origin",
        "pragma",
        "priority",
        "purpose",
        "range",
        "referer",
        "save-data",
        "te",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "x-offload-action",
        "x-offload-token",
        "x-requested-with",
    }
)
_CLIENT_PREFIXES = ("accept", "if-", "sec-")
_logger = logging.getLogger("offload.dashboard")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")


def stranger(scope: Scope) -> str | None:
    """Return why a request may come from elsewhere than this machine; None if it does not.

    Both ends of the connection must be loopback addresses, and the client must say nothing that
    browsers do not: all clients of a proxy on this machine have the proxy's address, and most
    proxies add something of themselves. One that adds nothing and speaks like a browser cannot be
    told from one: whoever has a proxy needs `authorize`.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not _is_loopback(client[0]):
        return f"the client's address is {client[0] if client else 'not known'}"
    if not server or not _is_loopback(server[0]):
        return f"the server was reached at {server[0] if server else 'an unknown address'}"
    headers = Headers(scope=scope)
    for name in headers:
        if name not in _CLIENT_HEADERS and not name.startswith(_CLIENT_PREFIXES):
            return f"it may have come through a proxy (it has the header {name})"
    if scope.get("http_version") == "1.0":
        # No browser has spoken it for twenty years; nginx does by default.
        return "it came through a proxy (it is HTTP/1.0)"
    # A site that a browser on this machine has open can give its own name this machine's address
    # (DNS rebinding) and would then read all of it as its own.
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_local_name(hosts[0]):
        return "its Host is not a name of this machine"
    return None


def forgery(scope: Scope) -> str | None:
    """Return why a POST may be the work of another site's page; None if it cannot be.

    The custom header alone keeps other sites out; the browser's own word comes on top of it.
    Sec-Fetch-Site is only sent over TLS and to the own machine, Origin also elsewhere, and
    programs such as curl send neither.
    """
    headers = Headers(scope=scope)
    if ACTION_HEADER not in headers:
        return f"an action needs the header {ACTION_HEADER}: 1"
    site = headers.get("sec-fetch-site")
    if site is not None:
        return None if site == "same-origin" else "an action must come from the dashboard itself"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return "an action must come from the dashboard itself"
    return None


class Token:
    """What an action must bring where no function decides who may act: it is in the log.

    It is logged when somebody first opens a page, or acts, without it. A page that was opened with
    it in the address keeps it in a cookie, for this browser's session.

    Attributes:
        text: it.
    """

    _COOKIE = "offload-token"
    _HEADER = "x-offload-token"

    def __init__(self) -> None:
        self.text = secrets.token_urlsafe(24)
        self._is_logged = False

    def is_in(self, request: Request) -> bool:
        """Return whether a request has it; log it if this is the first one without."""
        given = request.headers.get(self._HEADER) or request.cookies.get(self._COOKIE, "")
        if self._is(given):
            return True
        if not self._is_logged:
            self._is_logged = True
            _logger.warning(
                "actions on the dashboard need its token: add ?token=%s to the address of the "
                "page, or send the token as the header X-Offload-Token",
                self.text,
            )
        return False

    def kept(self, request: Request) -> Response | None:
        """Return the answer to who opens the page with it: the page, without it in the address."""
        given = request.query_params.get("token")
        if given is None or not self._is(given):
            self.is_in(request)
            return None
        # To the same page, by a name that no Host can change.
        answer = RedirectResponse(f"./{quote(request.url.path.rpartition('/')[2], safe='')}", 303)
        path = request.scope.get("root_path", "") + "/"
        answer.set_cookie(self._COOKIE, self.text, path=path, httponly=True, samesite="strict")
        return answer

    def _is(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.text.encode())


def _is_loopback(host: str) -> bool:
    try:
        # Without the zone of a link-local address.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    # An IPv6 socket gives IPv4 clients such an address; Python before 3.13 does not see through.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_local_name(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().rstrip(".")
    # By RFC 6761, section 6.3, these never leave the machine.
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return _is_loopback(name.strip("[]"))

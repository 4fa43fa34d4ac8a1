"""Who may look, and who may act: decided from the ASGI scope alone."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import Scope

__all__ = ["ACTION_HEADER", "forgery", "stranger"]

# A page of another site cannot send it without asking first (a CORS preflight), which nobody here
# answers.
ACTION_HEADER = "X-Offload-Action"

# What proxies add of themselves. One that adds nothing and speaks like a browser cannot be told
# from one: whoever has a proxy needs `authorize`.
_PROXY_HEADERS = (
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "cf-connecting-ip",
    "true-client-ip",
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@]+)(:[0-9]{1,5})?")


def stranger(scope: Scope) -> str | None:
    """Return why a request may come from elsewhere than this machine; None if it does not.

    Both ends of the connection must be loopback addresses, and what the client says must not
    point to a proxy, behind which all clients have the proxy's address.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not _is_loopback(client[0]):
        return f"the client's address is {client[0] if client else 'not known'}"
    if not server or not _is_loopback(server[0]):
        return f"the server was reached at {server[0] if server else 'an unknown address'}"
    headers = Headers(scope=scope)
    for name in _PROXY_HEADERS:
        if name in headers:
            return f"it came through a proxy (it has the header {name})"
    if scope.get("http_version") == "1.0":
        # No browser has spoken it for twenty years; nginx does by default.
        return "it came through a proxy (it is HTTP/1.0)"
    # A site that a browser on this machine has open can give its own name this machine's address
    # (DNS rebinding) and would then read all of it as its own.
    if not _is_local_name(headers.get("host", "")):
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

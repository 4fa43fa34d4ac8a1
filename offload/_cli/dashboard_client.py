"""Reads the state of a running server from its dashboard."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULT_URL", "DashboardError", "fetch", "state_url"]

DEFAULT_URL = "http://127.0.0.1:8000/dashboard"
_TIMEOUT_SECONDS = 10.0
# More than any dashboard says; whoever answers so much is none.
_MAX_BYTES = 32 << 20
_LOCAL = ("127.0.0.1", "localhost", "::1")
_FORBIDDEN = 403
_UNAUTHORIZED = 401
_NOT_FOUND = 404


class DashboardError(Exception):
    """There is no dashboard to be read; the text says what answered instead."""


def state_url(url: str) -> str:
    """Return where the state of a dashboard is.

    Args:
        url: the dashboard's; a server without a path has it at /dashboard.

    Raises:
        ValueError: it is none that can be opened.
    """
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"{url!r} is not the URL of a server, such as {DEFAULT_URL}"
        raise ValueError(message)
    path = parts.path.rstrip("/").removesuffix("/jobs") or "/dashboard"
    path = path if path.endswith("/state") else f"{path}/state"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def fetch(
    url: str, headers: Mapping[str, str] | None = None, *, timeout: float = _TIMEOUT_SECONDS
) -> dict[str, Any]:
    """Return the state that a dashboard tells, with that of its jobs, if there are any, as `jobs`.

    Args:
        url: as `state_url` returns it.
        headers: sent with the request.
        timeout: seconds for the server to answer.

    Raises:
        DashboardError: nobody answers there, or something else.
    """
    state = _asked(url, headers, timeout)
    if not isinstance(state.get("pools"), list):
        raise DashboardError(_no_dashboard(url))
    parts = urlsplit(url)
    path = f"{parts.path.removesuffix('state')}jobs/overview"
    try:
        told = _asked(urlunsplit(parts._replace(path=path)), headers, timeout)
    except DashboardError:
        # This server has no such page, or its store does not answer; its pools are there.
        told = {}
    return state | {"jobs": told if told.get("queues") else None}


def _no_dashboard(url: str) -> str:
    return f"what answers at {url} is no dashboard of offload"


def _asked(url: str, headers: Mapping[str, str] | None, timeout: float) -> dict[str, Any]:
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - http(s), see state_url
    handlers: list[Any] = []
    if urlsplit(url).hostname in _LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy has no way to this machine
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            body = response.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise DashboardError(_refusal(url, error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        message = (
            f"nothing answers at {url}: {reason}. Start the server, or name its dashboard: "
            "offload top http://HOST:PORT/PATH"
        )
        raise DashboardError(message) from None
    try:
        told: Any = json.loads(body)
    except ValueError:
        raise DashboardError(_no_dashboard(url)) from None
    if not isinstance(told, dict):
        raise DashboardError(_no_dashboard(url))
    return told


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    text = error.read(2000).decode(errors="replace").strip()
    if error.code == _NOT_FOUND:
        return (
            f"there is no dashboard at {url} (404). Mount one, "
            'Mount("/dashboard", Dashboard()) of offload.dashboard, or name the path of yours'
        )
    if error.code in (_UNAUTHORIZED, _FORBIDDEN):
        return f"{url} refuses ({error.code}): {text}. What it wants to see goes into --header"
    return f"{url} answers {error.code}: {text}"

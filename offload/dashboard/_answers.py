"""What the endpoints of all pages share: headers, JSON, threads, who may act, asking a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.responses import Response

from offload.dashboard._access import forgery

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

__all__ = [
    "HEADERS",
    "answer",
    "check_action",
    "client_of",
    "from_store",
    "limit_of",
    "on_thread",
    "start_of",
]

T = TypeVar("T")

HEADERS: Final = {
    # Nothing from another host, no inline code, and text can only become text: whatever an error
    # or the name of a function says, a browser that knows these words runs none of it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": the browser would then say "Origin: null" with the page's own actions.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What it says of the server is of now, and for those who may see it.
    "Cache-Control": "no-store",
}

# Engines raise within seconds; this is for one that does not keep its word.
_PATIENCE_SECONDS: Final = 15.0
_MOST_ROWS: Final = 200
# Nobody has so many rows, or lines.
_MOST_DIGITS: Final = 9


def answer(told: Any, status: int = 200) -> Response:
    """Return JSON."""
    # Not a JSONResponse: in ASCII, as a text may hold what UTF-8 cannot.
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json", headers=HEADERS)


async def on_thread(function: Callable[[], T]) -> T:
    """Run what may take a millisecond or more, on a thread, and return what it returns."""
    # Its own: the threads that the application shares may all be busy, with what is looked at.
    return await anyio.to_thread.run_sync(function, limiter=anyio.CapacityLimiter(1))


# What is asked


def limit_of(request: Request) -> int:
    """Return how many rows at most are asked for."""
    limit = request.query_params.get("limit", "50")
    if not (limit.isdecimal() and 1 <= int(limit) <= _MOST_ROWS):
        raise HTTPException(400, f"limit must be from 1 to {_MOST_ROWS}.")
    return int(limit)


def start_of(request: Request, mistake: str) -> int:
    """Return how many to leave out; `mistake`: what is said of anything else."""
    start = request.query_params.get("start", "0")
    if not (start.isdecimal() and len(start) <= _MOST_DIGITS):
        raise HTTPException(400, mistake)
    return int(start)


def check_action(request: Request, *, is_enabled: bool) -> None:
    """Raise unless the pages may act, and the request is one of theirs."""
    if not is_enabled:
        raise HTTPException(403, "Actions are not enabled here: use Dashboard(actions=True).")
    if (reason := forgery(request.scope)) is not None:
        raise HTTPException(403, f"{reason[:1].upper()}{reason[1:]}.")


def client_of(request: Request) -> str:
    """Return who asks, for the log."""
    return request.client.host if request.client else "unknown"


# Stores


async def from_store(asking: Awaitable[T]) -> T:
    """Return what a store answers, or raise what the page is to be told."""
    from offload.jobs import JobsUnavailableError

    try:
        with anyio.fail_after(_PATIENCE_SECONDS):
            return await asking
    except (JobsUnavailableError, TimeoutError) as error:
        reason = f"{error}" or "it does not answer"
        raise HTTPException(503, f"The store cannot be reached: {reason}") from error

"""Which request code runs for: from its context, or from the stack."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

from offload._heartbeat import local

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

__all__ = [
    "context_of_thread",
    "current_scope",
    "package_of",
    "route_of",
    "scope_of_context",
    "scope_of_stack",
]

current_scope: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar(
    "offload.watchdog.scope", default=None
)
"""The ASGI scope of the request that runs in this context; child tasks and threads inherit it."""

_KINDS = ("http", "websocket")


def scope_of_context(context: contextvars.Context | None) -> Mapping[str, Any] | None:
    """Return the request that a context belongs to, None if it does not."""
    return None if context is None else context.get(current_scope)


def scope_of_stack(frame: FrameType) -> Mapping[str, Any] | None:
    """Return the request that a stack works for, by what ASGI applications call it: `scope`.

    On any thread. For programs without the middleware, and for threads, whose context is theirs.
    """
    each: FrameType | None = frame
    while each is not None:
        scope: Any = local(each, "scope")
        if scope is None:
            # Whatever the application calls `request` may do anything when it is asked.
            with contextlib.suppress(Exception):
                scope = getattr(local(each, "request"), "scope", None)
        if isinstance(scope, dict) and scope.get("type") in _KINDS and "path" in scope:
            return scope
        each = each.f_back
    return None


def context_of_thread(frame: FrameType) -> contextvars.Context | None:
    """Return the context in which a thread of a pool runs its function.

    Of anyio (Starlette's and FastAPI's sync endpoints), trio and `asyncio.to_thread`.
    """
    each: FrameType | None = frame
    while each is not None:
        module = each.f_globals.get("__name__")
        found: Any = None
        if module in ("anyio._backends._asyncio", "trio._threads"):
            found = local(each, "context")
        elif module == "concurrent.futures.thread":
            item: Any = local(each, "self")
            # `functools.partial(context.run, function, ...)`; Python 3.14 has it one level deeper.
            function = getattr(item, "fn", None) or (getattr(item, "task", None) or (None,))[0]
            found = getattr(getattr(function, "func", None), "__self__", None)
        if isinstance(found, contextvars.Context):
            return found
        each = each.f_back
    return None


def route_of(scope: Mapping[str, Any] | None) -> str:
    """Return method and path template of a request; the path where there is no template.

    Any framework: Starlette and FastAPI put their route into the scope.
    """
    if scope is None:
        return ""
    method = scope.get("method") or "WEBSOCKET"
    path = str(scope.get("path") or "/")
    return f"{method} {_template(scope, path) or path}"


def _template(scope: Mapping[str, Any], path: str) -> str:
    route = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str):
        return ""
    filled = template
    for name, value in (scope.get("path_params") or {}).items():
        filled = filled.replace(f"{{{name}}}", str(value))
    # What comes before is of the routers and mounts that it is in.
    if filled and path.endswith(filled):
        return path[: -len(filled)] + template
    return template


def package_of(scope: Mapping[str, Any] | None) -> str:
    """Return the top-level name of the package that a request's endpoint is in, "" if unknown."""
    endpoint = None if scope is None else scope.get("endpoint")
    module = getattr(endpoint, "__module__", None)
    return module.partition(".")[0] if isinstance(module, str) else ""

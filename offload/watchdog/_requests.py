"""Which request code runs for: from its context, or from the stack."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from typing import TYPE_CHECKING, Any

from offload._heartbeat import local

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

__all__ = [
    "context_of_thread",
    "current_scope",
    "has_template",
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
    """Return method and path template of a request; the path where there is no template."""
    if scope is None:
        return ""
    method = scope.get("method") or "WEBSOCKET"
    return f"{method} {_template(scope) or _path(scope)}"


def has_template(scope: Mapping[str, Any] | None) -> bool:
    """Return whether `route_of` is one of those that the application has: no client's choice."""
    return scope is None or _template(scope) != ""


def _path(scope: Mapping[str, Any]) -> str:
    return str(scope.get("path") or "/")


def _template(scope: Mapping[str, Any]) -> str:
    """Return the template of a request's path, "" if it is not known, or not yet."""
    route = scope.get("route")  # of FastAPI, and of Starlette from 1.0 on
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if not isinstance(template, str):
        template = scope.get("path_template")  # of Litestar
        return template if isinstance(template, str) else _template_of_endpoint(scope)
    path, filled = _path(scope), template
    for name, value in (scope.get("path_params") or {}).items():
        filled = filled.replace(f"{{{name}}}", str(value))
    # What comes before is of the routers and mounts that it is in.
    if filled and path.endswith(filled):
        return path[: -len(filled)] + template
    return template


def _template_of_endpoint(scope: Mapping[str, Any]) -> str:
    # Of older Starlettes. An instance is an application that was mounted, with any path below.
    endpoint = scope.get("endpoint")
    if not (inspect.isroutine(endpoint) or inspect.isclass(endpoint)):
        return ""
    left, right = _path(scope), ""
    for name, value in reversed((scope.get("path_params") or {}).items()):
        start = left.rfind(f"/{value}")
        end = start + 1 + len(str(value))
        if start < 0 or left[end : end + 1] not in ("", "/"):
            return ""  # it was converted, and how it was written nobody knows
        left, right = left[:start], f"/{{{name}}}{left[end:]}{right}"
    return left + right


def package_of(scope: Mapping[str, Any] | None) -> str:
    """Return the top-level name of the package that a request's endpoint is in, "" if unknown."""
    endpoint = None if scope is None else scope.get("endpoint")
    module = getattr(endpoint, "__module__", None)
    return module.partition(".")[0] if isinstance(module, str) else ""

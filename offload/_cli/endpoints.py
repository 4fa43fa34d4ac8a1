"""The routes of an application, found by what they have and not by what they are.

Starlette and FastAPI are not imported here: whoever has such an application has imported them, and
what is needed (`routes`, `path`, `endpoint`) has outlived many of their versions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from offload._cli.blocking import is_async, unwrapped
from offload._pool.target import is_offloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Endpoint", "endpoints"]

# Applications wrap each other (middlewares, routers in routers); nobody does so more often.
_DEPTH = 30


class Endpoint(NamedTuple):
    """What answers the requests to a path.

    Attributes:
        route: methods and path, such as "GET /fast"; "middleware" and the name of one.
        function: what is called, bound if it is a method.
    """

    route: str
    function: Any

    @property
    def kind(self) -> str:
        """Where it runs: "async" (on the event loop), "thread", or "offloaded"."""
        if is_offloaded(unwrapped(self.function)):
            return "offloaded"
        return "async" if is_async(self.function) else "thread"


def endpoints(app: Any) -> list[Endpoint] | None:
    """Return the endpoints of an application, with what runs before them.

    Returns:
        In the order of the routes; None if it has no routes that can be read.
    """
    found: list[Endpoint] = []
    for _ in range(_DEPTH):
        found += _middlewares(app)
        if hasattr(app, "routes"):
            return found + list(_of_routes(app.routes, "", 0))
        # A middleware around it: the convention of ASGI is to call what is inside `app`.
        app = getattr(app, "app", None)
    return None


def _middlewares(app: Any) -> Iterator[Endpoint]:
    for middleware in getattr(app, "user_middleware", ()):
        kind = getattr(middleware, "cls", None)
        for name in ("__call__", "dispatch"):
            if isinstance(kind, type) and name in vars(kind):
                yield Endpoint(f"middleware {kind.__qualname__}", getattr(kind, name))
        # What `@app.middleware("http")` made.
        dispatch = getattr(middleware, "kwargs", {}).get("dispatch")
        if dispatch is not None:
            yield Endpoint(f"middleware {unwrapped(dispatch).__qualname__}", dispatch)


def _of_routes(routes: Any, prefix: str, depth: int) -> Iterator[Endpoint]:
    for route in routes or ():
        path = prefix + str(getattr(route, "path", ""))
        endpoint = getattr(route, "endpoint", None)
        router = getattr(route, "original_router", None)  # FastAPI: one that was included
        if endpoint is not None:
            yield from _of_endpoint(route, path, endpoint)
        elif router is not None and depth < _DEPTH:
            included = str(getattr(getattr(route, "include_context", None), "prefix", ""))
            yield from _of_routes(router.routes, prefix + included, depth + 1)
        elif depth < _DEPTH:
            yield from _middlewares(getattr(route, "app", None))
            yield from _of_routes(getattr(route, "routes", ()), path, depth + 1)


def _of_endpoint(route: Any, path: str, endpoint: Any) -> Iterator[Endpoint]:
    methods = sorted(set(getattr(route, "methods", None) or ()) - {"HEAD"})
    name = f"{','.join(methods)} {path}".strip()
    for call in _dependencies(getattr(route, "dependant", None)):
        yield Endpoint(name, call)
    if isinstance(endpoint, type):
        # Starlette's HTTPEndpoint and WebSocketEndpoint: a method for each kind of request.
        for each in ("get", "post", "put", "patch", "delete", "head", "options", "on_receive"):
            if each in vars(endpoint):
                yield Endpoint(f"{each.upper()} {path}", getattr(endpoint, each))
    else:
        yield Endpoint(name, endpoint)


def _dependencies(dependant: Any) -> Iterator[Any]:
    """Yield what FastAPI calls before an endpoint."""
    for each in getattr(dependant, "dependencies", ()):
        yield from _dependencies(each)
        if each.call is not None:
            yield each.call

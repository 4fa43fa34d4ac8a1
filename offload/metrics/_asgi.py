"""The endpoint that Prometheus scrapes."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio.to_thread

from offload.metrics._client import REGISTRY, choose_encoder
from offload.metrics._collector import register
from offload.metrics._jobs import look

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from offload.metrics._client import CollectorRegistry

    _Message = MutableMapping[str, Any]
    _Receive = Callable[[], Awaitable[_Message]]
    _Send = Callable[[_Message], Awaitable[None]]

__all__ = ["exposition", "metrics_app"]

# What zlib is told to write the header of gzip.
_GZIP = 16 + zlib.MAX_WBITS


def metrics_app(registry: CollectorRegistry = REGISTRY) -> MetricsApp:
    """Return an ASGI application that answers with all metrics of a registry.

    In the format of Prometheus, or as OpenMetrics, as the client asks for (`Accept`); compressed if
    it takes gzip; only some, with `?name[]=…`. The text is made in a thread, because it can take
    several milliseconds.

    Args:
        registry: which; that of the process by default, where the application's own metrics and
            those of the interpreter are as well. Our collector is registered there if it is not.
    """
    register(registry)
    return MetricsApp(registry)


class MetricsApp:
    """An ASGI application, for `Route("/metrics", …)`, `mount` or a server of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            message = f"the endpoint of metrics speaks HTTP, not {scope['type']}"
            raise NotImplementedError(message)
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(send, 405, [(b"allow", b"GET, HEAD")], b"")
            return
        headers: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            known = headers.get(name.lower())
            text = value.decode("latin-1")
            headers[name.lower()] = text if known is None else f"{known},{text}"
        names = parse_qs(scope["query_string"].decode("latin-1")).get("name[]", [])
        is_compressed = _takes_gzip(headers.get(b"accept-encoding", ""))
        accept = headers.get(b"accept", "")
        kind, body = await exposition(self._registry, accept, names)
        if is_compressed:
            body = await anyio.to_thread.run_sync(_compressed, body)
        fields = [
            (b"content-type", kind.encode("latin-1")),
            (b"content-length", str(len(body)).encode()),
            (b"vary", b"accept, accept-encoding"),
            (b"cache-control", b"no-store"),
        ]
        if is_compressed:
            fields.append((b"content-encoding", b"gzip"))
        await _answer(send, 200, fields, b"" if scope["method"] == "HEAD" else body)


async def exposition(
    registry: CollectorRegistry, accept: str = "", names: Sequence[str] = ()
) -> tuple[str, bytes]:
    """Return the text of a registry, as HTTP sends it: its media type, and itself.

    The stores of jobs are asked first, for a few seconds at most; the text is made on a thread.

    Args:
        registry: which.
        accept: what the client would have; see `Accept` of HTTP.
        names: only these metrics; none: all.
    """
    if not names or any(name.startswith("offload_jobs") for name in names):
        await look()
    return await anyio.to_thread.run_sync(_text, registry, accept, names)


def _text(registry: Any, accept: str, names: Sequence[str]) -> tuple[str, bytes]:
    encoder, kind = choose_encoder(accept)
    body: bytes = encoder(registry.restricted_registry(names) if names else registry)
    return kind, body


def _compressed(body: bytes) -> bytes:
    press = zlib.compressobj(wbits=_GZIP)
    return press.compress(body) + press.flush()


def _takes_gzip(header: str) -> bool:
    for each in header.split(","):
        coding, _, rest = each.strip().partition(";")
        if coding.strip().lower() == "gzip":
            # "gzip;q=0" is a refusal (RFC 9110, section 12.5.3).
            return rest.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _answer(
    send: _Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: _Receive, send: _Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

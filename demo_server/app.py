"""The application: one fast endpoint beside heavy ones, and what operators ask of a server."""

from __future__ import annotations

import dataclasses
import os
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from demo_server import work
from demo_server.burst import Burst
from demo_server.heavy_jobs import HeavyJobs
from demo_server.page import Page
from demo_server.settings import Settings
from demo_server.uploads import read_upload
from demo_server.visitors import Visitors
from offload import Pool
from offload.dashboard import Dashboard
from offload.metrics import metrics_app
from offload.starlette import (
    CancelOnDisconnect,
    ProblemResponse,
    exception_handlers,
    jobs_lifespan,
    lifespan,
)
from offload.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request

    from demo_server.page import Endpoint

__all__ = ["create_app"]

# What the index page lists: method, path, what it does, and the rest of a curl command to try it.
ENDPOINTS: tuple[Endpoint, ...] = (
    ("GET", "/fast", "a few bytes, at once", ""),
    ("GET", "/heavy?n=100000", "count the primes below n, in a worker process", ""),
    ("GET", "/heavy/inline?n=100000", "the same on the event loop: everything else waits", ""),
    ("GET", "/heavy/thread?n=100000", "the same in a thread: everything else is slow", ""),
    (
        "POST",
        "/heavy/job?n=100000",
        "the same as a job: 202, and where to follow it",
        " -i -X POST",
    ),
    ("POST", "/burst?count=8", "many of them at once; way=inline or thread as well", " -N -X POST"),
    ("POST", "/thumbnail?size=200", "shrink an image", " -F file=@photo.jpg -o thumbnail.jpg"),
    ("POST", "/csv", "summarise each column of a table", " -F file=@table.csv"),
    ("GET", "/health", "is the process alive?", ""),
    ("GET", "/ready", "will it take requests?", ""),
    ("GET", "/dashboard/", "pools, workers, functions and failures, live", ""),
    ("GET", "/metrics", "the same for Prometheus", ""),
    ("GET", "/stats", "what the pool is doing", ""),
    ("GET", "/worker", "the worker program, which runs the jobs", ""),
)


class Demo:
    """The endpoints.

    Args:
        settings: limits of what they take.
        pool: where the heavy functions run.
    """

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self.jobs = HeavyJobs(settings, self._n)

    def routes(self) -> list[BaseRoute]:
        """Return a route for each endpoint."""
        return [
            *Page(self._settings, ENDPOINTS).routes(),
            Route("/fast", self.fast),
            Route("/heavy", self.heavy),
            Route("/heavy/inline", self.heavy_inline),
            Route("/heavy/thread", self.heavy_thread),
            *self.jobs.routes(),
            Route("/burst", self.burst, methods=["POST"]),
            Route("/alone", self.alone),
            Route("/thumbnail", self.thumbnail, methods=["POST"]),
            Route("/csv", self.csv, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/stats", self.stats),
            # Open to this machine only, wherever the server listens.
            # Its actions need the token, which is logged when the page is opened.
            Route("/dashboard", self.to_dashboard),
            Mount("/dashboard", Dashboard(actions=True)),
            Route("/metrics", metrics_app()),
        ]

    async def to_dashboard(self, request: Request) -> Response:  # noqa: ARG002 - as in fast
        """Lead to the page on this host: Starlette would believe the Host of the request."""
        return RedirectResponse("dashboard/")

    async def fast(self, request: Request) -> Response:  # noqa: ARG002 - Starlette passes it
        """Answer a few bytes."""
        return PlainTextResponse("fast\n")

    async def heavy(self, request: Request) -> Response:
        """Count in a worker process: the event loop stays free."""
        return _json(await _offloaded(self._n(request)))

    async def heavy_inline(self, request: Request) -> Response:
        """Count on the event loop: no other request is served meanwhile."""
        return _json(await _inline(self._n(request)))

    async def heavy_thread(self, request: Request) -> Response:
        """Count in a thread: it takes the GIL from the event loop, again and again."""
        return _json(await _thread(self._n(request)))

    async def burst(self, request: Request) -> Response:
        """Do many pieces of work at once, and tell of each when it ends."""
        way = request.query_params.get("way", "offloaded")
        if way not in _WAYS:
            raise HTTPException(400, f"way must be one of {', '.join(_WAYS)}.")
        if _is_of_another_site(request):
            raise HTTPException(403, "A page of another site may not ask for that.")
        count = _whole_number(request, "count", default=8, least=1, greatest=self._most_at_once())
        return Burst(count, partial(_WAYS[way], self._n(request)))

    async def alone(self, request: Request) -> Response:
        """Tell a page whether it may play a round by itself: nobody else would be disturbed."""
        now = self._pool.statistics()
        is_alone = request.scope["demo_visitors"].is_alone(request.scope)
        return JSONResponse({"alone": is_alone and not now.busy and not now.queued})

    async def thumbnail(self, request: Request) -> Response:
        """Shrink the posted image in a worker process."""
        settings = self._settings
        size = _whole_number(request, "size", default=200, least=1, greatest=settings.max_size)
        upload = await read_upload(
            request, max_bytes=settings.max_body_bytes, media_types=["image/*"]
        )
        with upload.file as file:
            result = await work.thumbnail(file, size, settings.max_pixels)
        return Response(result.data, media_type=result.media_type)

    async def csv(self, request: Request) -> Response:
        """Summarise the posted table in a worker process."""
        upload = await read_upload(
            request,
            max_bytes=self._settings.max_body_bytes,
            # The last one is what browsers on Windows make of ".csv" (RFC 4180 came later).
            media_types=["text/*", "application/csv", "application/vnd.ms-excel"],
        )
        with upload.file as file:
            return JSONResponse(await work.summarise_csv(file, upload.charset or "utf-8"))

    async def health(self, request: Request) -> Response:  # noqa: ARG002 - as in fast
        """Answer as long as the event loop turns: a busy pool is no reason for a restart."""
        return PlainTextResponse("alive\n")

    async def ready(self, request: Request) -> Response:  # noqa: ARG002 - as in fast
        """Answer 503 while the pool does not take calls, so that no requests are sent here."""
        now = self._pool.statistics()
        # At least one worker is kept, so none at all means that it cannot be started.
        if now.state != "open" or not now.idle + now.busy:
            return ProblemResponse(503, "There is no worker to run heavy requests.", pool=now.state)
        return PlainTextResponse("ready\n")

    async def stats(self, request: Request) -> Response:  # noqa: ARG002 - as in fast
        """Show the pool's statistics."""
        # Failures stay with the dashboard: their texts may quote what a client has sent.
        now = dataclasses.replace(self._pool.statistics(), functions=(), failures=())
        shown = dataclasses.asdict(now)
        del shown["functions"], shown["failures"]
        for name, histogram in (("wait", now.wait), ("run", now.run)):
            # Instead of some hundred buckets, what a human asks for, in seconds.
            quantiles = {f"p{percent}": histogram.quantile(percent / 100) for percent in (50, 99)}
            shown[name] = {"count": histogram.count, "mean": histogram.mean, **quantiles}
        return JSONResponse(shown)

    def _most_at_once(self) -> int:
        # Enough to fill the queue and to be refused.
        return self._settings.max_queued + 1000

    def _n(self, request: Request) -> int:
        settings = self._settings
        return _whole_number(
            request, "n", default=settings.default_n, least=0, greatest=settings.max_n
        )


async def _inline(n: int) -> work.PrimeCount:
    return work.count_primes.__wrapped__(n)


async def _thread(n: int) -> work.PrimeCount:
    return await anyio.to_thread.run_sync(work.count_primes.__wrapped__, n)


async def _offloaded(n: int) -> work.PrimeCount:
    return await work.count_primes(n)


_WAYS: dict[str, Callable[[int], Awaitable[work.PrimeCount]]] = {
    "offloaded": _offloaded,
    "inline": _inline,
    "thread": _thread,
}


def _json(result: work.PrimeCount) -> Response:
    return JSONResponse(dataclasses.asdict(result))


def _is_of_another_site(request: Request) -> bool:
    """Return whether a browser says that the page of another site asks; programs say nothing."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def _whole_number(request: Request, name: str, *, default: int, least: int, greatest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    # Not int() alone: it takes "1_000" and " 1 ", and a number of a million digits is work.
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise HTTPException(400, f"{name} must be a whole number from {least} to {greatest}.")
    if not least <= int(text) <= greatest:
        raise HTTPException(400, f"{name} must be from {least} to {greatest}.")
    return int(text)


async def _http_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001
    error = cast("HTTPException", error)
    return ProblemResponse(error.status_code, error.detail, headers=error.headers)


async def _work_problem(request: Request, error: Exception) -> Response:  # noqa: ARG001
    # The texts of these errors are written for the client, see `demo_server.work`.
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    text = str(error)
    return ProblemResponse(status, f"{text[:1].upper()}{text[1:]}.")


_STATUS: dict[type, int] = {
    work.UnsupportedFormatError: 415,
    work.UnreadableError: 422,
    work.MissingDependencyError: 501,
}


def create_app(settings: Settings | None = None) -> Starlette:
    """Make the application.

    One at a time: its pool has a name, which only one can have in a process.

    Args:
        settings: how it is set up; from the environment if None.

    Raises:
        SettingsError: the environment has a setting that cannot be used.
        ValueError: there is another one in this process.
    """
    settings = settings or Settings.from_environment(os.environ)
    pool = Pool(
        work.POOL,
        min_workers=1,
        max_workers=settings.workers,
        max_queued=settings.max_queued,
        queue_timeout=settings.queue_timeout,
        timeout=settings.timeout,
        os_priority=settings.os_priority,
        preload=("demo_server.work",),
    )
    demo = Demo(settings, pool)

    @asynccontextmanager
    async def worker_program(app: object) -> AsyncGenerator[None]:  # noqa: ARG001 - as Starlette calls it
        async with demo.jobs.keeper.kept_up():
            yield

    app = Starlette(
        routes=demo.routes(),
        lifespan=lifespan(
            pool, drain=settings.drain, inner=jobs_lifespan(demo.jobs.jobs, inner=worker_program)
        ),
        middleware=[
            # Outermost, so that everything below it is named.
            *([Middleware(Watchdog)] if settings.watchdog else []),
            Middleware(CancelOnDisconnect),
            Middleware(Visitors),
        ],
        exception_handlers={
            **exception_handlers,
            **dict.fromkeys(_STATUS, _work_problem),
            HTTPException: _http_problem,
        },
    )
    app.router.redirect_slashes = False  # to the Host of the request, whatever that is
    return app


def __getattr__(name: str) -> Starlette:
    # `uvicorn demo_server.app:app` finds it here. Made on demand: whoever imports the module for
    # `create_app` has settings of his own, and wants no second pool of the same name.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application = globals()["app"] = create_app()
    return application

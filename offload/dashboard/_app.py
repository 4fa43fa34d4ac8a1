"""The ASGI application: who may see it, what it answers, what it can be told to do."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from typing import TYPE_CHECKING, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from offload._values.options import check_number, check_type
from offload.dashboard._access import Token, stranger
from offload.dashboard._actions import ACTIONS, target_of
from offload.dashboard._answers import HEADERS, answer, check_action, client_of, on_thread
from offload.dashboard._feed import Feed, Feeds
from offload.dashboard._history import SPANS, Recorder
from offload.dashboard._jobs_app import JobPages
from offload.dashboard._pages import served_files
from offload.dashboard._plain import plain_page
from offload.dashboard._schedules_app import SchedulePages
from offload.dashboard._state import Sampler
from offload.dashboard._stream import EventStream
from offload.dashboard._tasks import task_detail, task_rows
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from starlette.types import Receive, Scope, Send

    from offload.jobs import Jobs

__all__ = ["Dashboard"]

T = TypeVar("T")

_logger = logging.getLogger("offload.dashboard")

_MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_CLOSED = (
    "This dashboard answers to its own machine only, and {reason}. To open it to others, tell it "
    "who may see it: Dashboard(authorize=...)."
)


class Dashboard:
    """ASGI application: live pages about the pools of this process, and about its jobs.

    For one's own server, `Mount("/offload", Dashboard(authorize=...))` of Starlette or
    `app.mount("/offload", Dashboard(authorize=...))` of FastAPI, or by itself under any ASGI
    server. Under its path it has the page (`/`), its files, the same as JSON (`/state`) and as
    server-sent events (`/events`), single tasks (`/tasks`, `/task`), the last hours (`/history`),
    the whole text of one failure (`/failure`), a page of plain tables (`/plain`) and the actions
    (`POST /actions/...`); and the pages of jobs (`/jobs`, `/plain-jobs`) and of schedules
    (`/schedules`, `/plain-schedules`), whose data are below these.

    The pages show names of functions, texts of errors and tracebacks, which may quote what users
    have sent, and arguments, results and log records of jobs; arguments of tasks only of a pool
    that has `show_arguments`. Without `authorize` they are refused to everybody but this machine,
    which is told by the addresses of both ends of the connection, by the headers that proxies add,
    and by the name that the client asks for. **A proxy on the same machine that adds nothing of
    itself cannot be told from a local browser: behind a proxy, give `authorize`.**

    A sample is taken at most once per `interval` and event loop, on a thread, however many watch;
    none when nobody does.

    Args:
        pools: which to show, as pools or their names; None: all of this process.
        jobs: which to show, as `Jobs`; None: all that this process has opened.
        authorize: called with each request; whether it may see the page and, with `actions`, act
            (a POST). May be async, and may raise Starlette's `HTTPException`, such as a 401 that
            makes the browser ask for a password. It must not read the body.
        actions: whether tasks can be cancelled, workers recycled, limits of pools changed, pools
            drained and opened again; jobs retried, cancelled and forgotten, queues paused and
            resumed; schedules run, paused and resumed: by whom `authorize` lets in, or by whom a
            function of the request, which may be async, returns True for. True without
            `authorize`: by whoever has the token, which is logged when a page is opened without it.
        interval: seconds between two samples.
        history: whether to keep how the pools of this process did over the last 24 hours, from now
            on: some 50 KB for each, and a look once a second, on a thread of the pools' own. Of
            jobs, how many ended per minute, and how many there were in each state from when
            somebody looks at their page on.

    Raises:
        TypeError: `authorize` or `actions` cannot be called, `interval` is not a number, or
            `history` not a bool.
        ValueError: `interval` is not above 0.
    """

    def __init__(
        self,
        *,
        pools: Iterable[Pool | str] | None = None,
        jobs: Iterable[Jobs] | None = None,
        authorize: Callable[[Request], bool | Awaitable[bool]] | None = None,
        actions: bool | Callable[[Request], bool | Awaitable[bool]] = False,
        interval: float = 0.5,
        history: bool = True,
    ) -> None:
        if authorize is not None and not callable(authorize):
            raise TypeError(f"authorize must be a function of a request, not {authorize!r}")
        if isinstance(pools, str):
            raise TypeError(f"pools must be several, such as [{pools!r}], not one str")
        check_number("interval", interval, above=0.0, optional=False)
        check_type("history", history, bool, "True or False")
        self._names = None if pools is None else {getattr(each, "name", each) for each in pools}
        self._jobs = None if jobs is None else tuple(jobs)
        self._authorize = authorize
        if not isinstance(actions, bool) and not callable(actions):
            raise TypeError(f"actions must be a bool or a function of a request, not {actions!r}")
        self._actions = actions is not False
        self._may_act = actions if callable(actions) else None
        self._token = Token() if actions is True and authorize is None else None
        self._interval = interval
        self._feeds = Feeds(self._new_feed)
        self._recorder = Recorder.started() if history else None
        self._files = served_files()
        self._app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/static/{name}", self._file),
                Route("/state", self._state),
                Route("/events", self._events),
                Route("/plain", self._plain),
                Route("/functions", self._functions),
                Route("/tasks", self._tasks),
                Route("/task", self._task),
                Route("/history", self._history),
                Route("/failure", self._failure),
                Route("/actions/{action}", self._act, methods=["POST"]),
                *JobPages(
                    self._shown_jobs,
                    actions=self._actions,
                    history=history,
                    page=self._jobs_page,
                ).routes(),
                *SchedulePages(actions=self._actions, page=self._schedules_page).routes(),
            ]
        )
        # It would be to the Host that the client has said.
        self._app.router.redirect_slashes = False

    @property
    def token(self) -> str | None:
        """What actions need, if not None; a page opened with `?token=…` keeps it."""
        return None if self._token is None else self._token.text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "http":
            refused = await self._refusal(Request(scope, receive))
            if refused is None and scope["method"] not in ("GET", "HEAD"):
                refused = await self._refusal_to_act(Request(scope, receive))
            if refused is not None:
                await refused(scope, receive, send)
                return
        # Starlette answers to the lifespan, and closes web sockets.
        await self._app(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        if self._authorize is None:
            reason = stranger(request.scope)
            return None if reason is None else _plain(403, _CLOSED.format(reason=reason))
        return await _refused(self._authorize, request, "You may not see this dashboard.")

    async def _refusal_to_act(self, request: Request) -> Response | None:
        # Of whatever is not mere reading, here and not where it is done: what comes later as well.
        if self._token is not None and not self._token.is_in(request):
            return _plain(403, "Actions need the token: the server's log says what to open.")
        if self._may_act is None:
            return None
        return await _refused(self._may_act, request, "You may look, and not act.")

    def _shown(self) -> list[Pool]:
        names = self._names
        return [pool for pool in Pool.all() if names is None or pool.name in names]

    def _shown_jobs(self) -> Sequence[Jobs]:
        if self._jobs is not None:
            return self._jobs
        # Not imported here: where there are jobs, somebody has done so.
        if "offload.jobs._jobs" not in sys.modules:
            return ()
        from offload.jobs import Jobs

        return [each for each in Jobs.all() if each.is_open]

    def _named(self, request: Request) -> Pool:
        name = request.query_params.get("pool")
        for pool in self._shown():
            if pool.name == name:
                return pool
        raise HTTPException(404, "There is no such pool.")

    def _new_feed(self) -> Feed:
        return Feed(self._new_sampler().take, self._interval)

    def _new_sampler(self) -> Sampler:
        return Sampler(
            self._shown,
            actions=self._actions,
            interval=self._interval,
            history=self._recorder is not None,
        )

    # --- endpoints ---

    async def _index(self, request: Request) -> Response:
        kept = None if self._token is None else self._token.kept(request)
        return self._answer("index.html") if kept is None else kept

    async def _jobs_page(self, request: Request) -> Response:
        kept = None if self._token is None else self._token.kept(request)
        return self._answer("jobs.html") if kept is None else kept

    async def _schedules_page(self, request: Request) -> Response:
        kept = None if self._token is None else self._token.kept(request)
        return self._answer("schedules.html") if kept is None else kept

    async def _file(self, request: Request) -> Response:
        return self._answer(request.path_params["name"])

    def _answer(self, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
        return Response(self._files[name], media_type=media_type, headers=HEADERS)

    async def _state(self, request: Request) -> Response:  # noqa: ARG002 - Starlette passes it
        sample = await self._feeds.here().after(0)
        return Response(sample.data, media_type="application/json", headers=HEADERS)

    async def _events(self, request: Request) -> Response:  # noqa: ARG002 - as in _state
        return EventStream(self._feeds.here(), HEADERS)

    async def _plain(self, request: Request) -> Response:  # noqa: ARG002 - as in _state
        sample = await self._feeds.here().after(0)
        page = await on_thread(lambda: plain_page(json.loads(sample.data)))
        return Response(page, media_type="text/html", headers=HEADERS)

    async def _functions(self, request: Request) -> Response:
        pool, text = self._named(request), request.query_params.get("contains", "")
        data = await on_thread(lambda: self._new_sampler().functions(pool, text))
        return Response(data, media_type="application/json", headers=HEADERS)

    async def _tasks(self, request: Request) -> Response:
        pool, text = self._named(request), request.query_params.get("contains", "")
        return answer(await on_thread(lambda: task_rows(pool, text)))

    async def _task(self, request: Request) -> Response:
        pool, task_id = self._named(request), request.query_params.get("id", "")
        task = await on_thread(lambda: pool.task(task_id))
        if task is None:
            raise HTTPException(404, "The task has ended.")
        return answer(await on_thread(lambda: task_detail(task)))

    async def _history(self, request: Request) -> Response:
        pool, span = self._named(request), request.query_params.get("span", "3600")
        recorder = self._recorder
        if recorder is None:
            raise HTTPException(404, "No history is kept: Dashboard(history=False).")
        if span not in map(str, SPANS):
            raise HTTPException(400, f"span must be one of {', '.join(map(str, SPANS))}.")
        return answer(await on_thread(lambda: recorder.told(pool.name, int(span))))

    async def _failure(self, request: Request) -> Response:
        asked = request.query_params
        for failure in self._named(request).statistics().failures:
            # A number has one shortest form in JSON, whoever writes it: it names the failure.
            if repr(failure.at) == asked.get("at") and failure.function == asked.get("function"):
                return answer(
                    {
                        "message": failure.message,
                        "traceback": failure.traceback,
                        "story": failure.story,
                    }
                )
        raise HTTPException(404, "It is not among the last failures any more.")

    async def _act(self, request: Request) -> Response:
        check_action(request, is_enabled=bool(self._actions))
        action = ACTIONS.get(request.path_params["action"])
        if action is None:
            raise HTTPException(404, f"There are these actions: {', '.join(ACTIONS)}.")
        pool = self._named(request)
        target = target_of(action, request.query_params)
        # An operator's hand explains what the logs of the pool and of its callers say next.
        _logger.warning(
            "dashboard: %s, pool %r, %s, asked for by %s",
            action.name,
            pool.name,
            target,
            client_of(request),
        )
        done, told = await action.run(pool, target)
        return answer({"done": done, "text": told}, 200 if done else 409)


async def _refused(
    permit: Callable[[Request], bool | Awaitable[bool]], request: Request, text: str
) -> Response | None:
    """Return the answer to who is not permitted something; None: they are."""
    try:
        allowed = permit(request)
        if inspect.isawaitable(allowed):
            allowed = await allowed
    except HTTPException as error:
        return _plain(error.status_code, error.detail, dict(error.headers or {}))
    # Not what is merely true: a coroutine that was not awaited, or a Response, is a mistake.
    return None if allowed is True else _plain(403, text)


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers={**HEADERS, **(headers or {})})

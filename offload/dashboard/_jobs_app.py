"""The endpoints of the page of jobs: what is in the stores, found, shown and acted upon."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import anyio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from offload.dashboard._answers import (
    HEADERS,
    answer,
    check_action,
    client_of,
    from_store,
    limit_of,
    on_thread,
    start_of,
)
from offload.dashboard._history import SPANS
from offload.dashboard._jobs_actions import JOB_ACTIONS, QUEUE_ACTIONS
from offload.dashboard._jobs_history import JobHistories
from offload.dashboard._jobs_state import detail, log_lines, matching, queues_of, row
from offload.dashboard._plain import plain_jobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    from offload.jobs import Count, Jobs
    from offload.jobs._counting import RecentCounts

__all__ = ["JobPages"]

_logger: Final = logging.getLogger("offload.dashboard")

# How long counting may take, and how old counts may be where it is quick.
_COUNTING_SECONDS: Final = 10.0
_COUNTS_AGE: Final = 0.5
_MOST_LINES: Final = 500
# Of one request: a page of rows that somebody has chosen.
_MOST_AT_ONCE: Final = 200
_MOST_ACTIVE: Final = 100


class JobPages:
    """Routes below the dashboard's path, behind its access check.

    Args:
        shown: the jobs to show now.
        history: whether to keep how many there were.
        actions: whether they can be retried, cancelled, forgotten, and queues paused.
        page: answers the page itself.
    """

    def __init__(
        self,
        shown: Callable[[], Sequence[Jobs]],
        *,
        actions: bool,
        history: bool,
        page: Callable[[Request], Awaitable[Response]],
    ) -> None:
        self._shown = shown
        self._actions = actions
        self._histories = JobHistories() if history else None
        self._page = page

    def routes(self) -> list[Route]:
        """Return them."""
        return [
            Route("/jobs", self._page),
            Route("/plain-jobs", self._plain),
            Route("/jobs/overview", self._overview),
            Route("/jobs/list", self._list),
            Route("/jobs/job", self._job),
            Route("/jobs/logs", self._logs),
            Route("/jobs/history", self._history),
            Route("/jobs/actions/{action}", self._act, methods=["POST"]),
        ]

    async def _overview(self, request: Request) -> Response:
        """Tell of every store: its queues, what is paused, and who is at work."""
        return answer(*await self._told(request))

    async def _plain(self, request: Request) -> Response:
        """Return the page without JavaScript."""
        told, status = await self._told(request)
        if "problem" in told:
            raise HTTPException(status, told["problem"])
        page = await self._found(request) if told["stores"] else None
        question = dict(request.query_params)
        text = await on_thread(lambda: plain_jobs(told, page, question))
        return Response(text, media_type="text/html", headers=HEADERS)

    async def _told(self, request: Request) -> tuple[dict[str, Any], int]:
        stores = [{"name": name} for name in self._by_location()]
        if not stores:
            return {"at": time.time(), "stores": [], "actions": self._actions}, 200
        name, jobs = self._named(request)
        told: dict[str, Any] = {
            "at": time.time(),
            "actions": self._actions,
            "stores": stores,
            "store": name,
            "queues": [],
            "active": [],
        }
        try:
            paused, page = await self._asked(_look(jobs))
            recent = await self._asked(self._recent(jobs))
        except HTTPException as error:
            # The page goes on asking, and shows this beside what it knows.
            return told | {"problem": error.detail}, error.status_code
        told["queues"] = queues_of(recent.counts or (), paused)
        told["counts_age"] = time.monotonic() - recent.told_at if recent.counts else None
        told["active"] = [row(status) for status in page.jobs]
        told["history"] = self._histories is not None
        if self._histories is not None:
            self._histories.of(jobs)
        if "health" in request.query_params:
            told["health"] = asdict(await self._asked(jobs.health()))
        return told, 200

    async def _list(self, request: Request) -> Response:
        """Return one page of the jobs that match."""
        return answer(await self._found(request))

    async def _found(self, request: Request) -> dict[str, Any]:
        asked = request.query_params
        _, jobs = self._named(request)
        functions: Sequence[str] = ()
        if text := asked.get("function", "").strip():
            functions = matching(text, await self._counts(jobs))
            if not functions:
                return {"jobs": [], "cursor": None}
        limit = limit_of(request)
        try:
            page = await self._asked(
                jobs.find(
                    states=asked.getlist("state"),
                    queues=asked.getlist("queue"),
                    functions=functions,
                    id_prefix=asked.get("id", "").strip(),
                    oldest_first=asked.get("order") == "oldest",
                    limit=limit,
                    cursor=asked.get("cursor") or None,
                )
            )
        except ValueError as error:
            raise HTTPException(400, f"{error}") from error
        return {"jobs": [row(each) for each in page.jobs], "cursor": page.cursor}

    async def _job(self, request: Request) -> Response:
        """Return everything about one job."""
        _, jobs = self._named(request)
        job = await self._asked(jobs.get(_id_of(request)))
        return answer(detail(await self._asked(job.status())))

    async def _logs(self, request: Request) -> Response:
        """Return log records of one job, from a number on."""
        _, jobs = self._named(request)
        start = start_of(request, "start must be the number of a log record.")
        job = await self._asked(jobs.get(_id_of(request)))
        lines = await self._asked(job.logs(start=start, limit=_MOST_LINES))
        return answer({"start": start, "lines": log_lines(lines)})

    async def _history(self, request: Request) -> Response:
        """Return how many jobs there were by state, over some hours."""
        asked = request.query_params
        if self._histories is None:
            raise HTTPException(404, "No history is kept: Dashboard(history=False).")
        span = asked.get("span", "3600")
        if span not in map(str, SPANS):
            raise HTTPException(400, f"span must be one of {', '.join(map(str, SPANS))}.")
        _, jobs = self._named(request)
        return answer(self._histories.of(jobs).told(asked.get("queue", ""), int(span)))

    async def _act(self, request: Request) -> Response:
        """Do what was asked for to each of the jobs, or queues, that are named."""
        check_action(request, is_enabled=self._actions)
        name = request.path_params["action"]
        run = JOB_ACTIONS.get(name) or QUEUE_ACTIONS.get(name)
        if run is None:
            known = ", ".join((*JOB_ACTIONS, *QUEUE_ACTIONS))
            raise HTTPException(404, f"There are these actions: {known}.")
        key = "id" if name in JOB_ACTIONS else "queue"
        targets = request.query_params.getlist(key)
        if not 1 <= len(targets) <= _MOST_AT_ONCE:
            raise HTTPException(400, f"{key} must be given once to {_MOST_AT_ONCE} times.")
        store, jobs = self._named(request)
        _logger.warning(
            "dashboard: %s %s in %s, asked for by %s", name, targets, store, client_of(request)
        )
        done, said = 0, ""
        for target in targets:
            try:
                is_done, said = await self._asked(run(jobs, target))
            except HTTPException as error:
                if len(targets) == 1:
                    raise
                # One that is gone meanwhile is no reason to leave the others.
                is_done, said = False, error.detail
            done += is_done
        if len(targets) > 1:
            said = f"{name}: {done} of {len(targets)} done. The last: {said}"
        return answer({"done": done, "text": said}, 200 if done else 409)

    async def _counts(self, jobs: Jobs) -> Sequence[Count]:
        recent: RecentCounts = await self._asked(self._recent(jobs))
        return recent.counts or ()

    async def _recent(self, jobs: Jobs) -> RecentCounts:
        from offload.jobs._counting import RecentCounts, recent_counts

        with anyio.move_on_after(_COUNTING_SECONDS):
            return await recent_counts(jobs, max_age=_COUNTS_AGE)
        # It looks at every job, and there are many: the rest of the page goes without.
        return RecentCounts()

    # --- stores ---

    def _by_location(self) -> dict[str, Jobs]:
        # Several `Jobs` of one place have the same jobs; the order is that of the text.
        found: dict[str, Jobs] = {}
        for jobs in self._shown():
            found.setdefault(jobs.statistics().location, jobs)
        return dict(sorted(found.items()))

    def _named(self, request: Request) -> tuple[str, Jobs]:
        found = self._by_location()
        name = request.query_params.get("store") or next(iter(found), "")
        if name not in found:
            raise HTTPException(404, "There is no such store of jobs.")
        return name, found[name]

    async def _asked(self, asking: Awaitable[Any]) -> Any:
        """Return what a store answers, or raise what the page is to be told."""
        from offload.jobs import JobNotFoundError

        try:
            return await from_store(asking)
        except JobNotFoundError as error:
            raise HTTPException(404, f"{error}") from error


async def _look(jobs: Jobs) -> tuple[Any, Any]:
    paused = await jobs.paused()
    return paused, await jobs.find(states=["active"], oldest_first=True, limit=_MOST_ACTIVE)


def _id_of(request: Request) -> str:
    job_id = request.query_params.get("id", "")
    if not job_id:
        raise HTTPException(400, "id must be the id of a job.")
    return job_id

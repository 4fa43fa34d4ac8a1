"""The endpoints of the page of schedules: which there are, how they ran, what is done to them."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from offload.dashboard._access import forgery
from offload.dashboard._schedules_actions import SCHEDULE_ACTIONS
from offload.dashboard._schedules_state import Asked, Shown, chosen, row, run_row

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.requests import Request

    from offload.jobs import Jobs
    from offload.schedules import Scheduler
    from offload.schedules._standings import Standing

__all__ = ["SchedulePages"]

_logger: Final = logging.getLogger("offload.dashboard")

# Engines raise within seconds; this is for one that does not keep its word.
_PATIENCE_SECONDS: Final = 15.0
_MOST_ROWS: Final = 200
_MOST_RUNS: Final = 50


class SchedulePages:
    """Routes below the dashboard's path, behind its access check.

    Args:
        actions: whether schedules can be run, paused and resumed.
        page: answers the page itself.
        headers: of every answer.
    """

    def __init__(
        self,
        *,
        actions: bool,
        page: Callable[[Request], Awaitable[Response]],
        headers: Mapping[str, str],
    ) -> None:
        self._actions = actions
        self._page = page
        self._headers = dict(headers)

    def routes(self) -> list[Route]:
        """Return them."""
        return [
            Route("/schedules", self._page),
            Route("/schedules/list", self._list),
            Route("/schedules/history", self._history),
            Route("/schedules/actions/{action}", self._act, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        """Tell of the schedules that match, and how they stand."""
        asked = _asked(request)
        everything, problem = await _everything()
        # On a thread: there may be a hundred thousand.
        page, found = await anyio.to_thread.run_sync(chosen, everything, asked)
        seen: dict[Any, Standing] = {}
        if page:
            from offload.schedules._standings import standings

            try:
                seen = await self._asking(
                    standings([(each.schedule, each.scheduler) for each in page])
                )
            except HTTPException as error:
                # The page goes on asking, and shows this beside what this process knows.
                problem = error.detail
        rows = partial(_rows, page, seen)
        return self._answer(
            {
                "at": time.time(),
                "actions": self._actions,
                "schedules": await anyio.to_thread.run_sync(rows),
                "found": found,
                "all": len(everything),
                "problem": problem,
            }
        )

    async def _history(self, request: Request) -> Response:
        """Return the last runs of one schedule, the latest first."""
        shown = await self._named(request)
        recent = shown.scheduler.levers.recent
        from offload.schedules._history import history

        runs = await self._asking(history(shown.schedule, recent, _MOST_RUNS))
        return self._answer({"name": shown.schedule.name, "runs": list(map(run_row, runs))})

    async def _act(self, request: Request) -> Response:
        """Do what was asked for to one schedule."""
        if not self._actions:
            raise HTTPException(403, "Actions are not enabled: Dashboard(actions=True).")
        if (reason := forgery(request.scope)) is not None:
            raise HTTPException(403, f"{reason[:1].upper()}{reason[1:]}.")
        name = request.path_params["action"]
        run = SCHEDULE_ACTIONS.get(name)
        if run is None:
            raise HTTPException(404, f"There are these actions: {', '.join(SCHEDULE_ACTIONS)}.")
        shown = await self._named(request)
        schedule = shown.schedule
        client = request.client.host if request.client else "unknown"
        _logger.warning("dashboard: %s schedule %r, asked for by %s", name, schedule.name, client)
        done, said = await self._asking(run(schedule, shown.scheduler))
        return self._answer({"done": done, "text": said}, 200 if done else 409)

    async def _named(self, request: Request) -> Shown:
        key = request.query_params.get("key", "")
        everything, problem = await _everything()
        for each in everything:
            if each.key == key:
                return each
        if problem is not None:
            raise HTTPException(503, problem)
        raise HTTPException(404, "There is no such schedule.")

    async def _asking(self, asking: Awaitable[Any]) -> Any:
        """Return what a schedule answers, or raise what the page is to be told."""
        from offload.jobs import JobsUnavailableError

        try:
            with anyio.fail_after(_PATIENCE_SECONDS):
                return await asking
        except (JobsUnavailableError, TimeoutError) as error:
            raise HTTPException(503, _reason(error)) from error

    def _answer(self, told: Any, status: int = 200) -> Response:
        # Not a JSONResponse: in ASCII, as a text may hold what UTF-8 cannot.
        text = json.dumps(told, allow_nan=False, separators=(",", ":"))
        return Response(text, status, media_type="application/json", headers=self._headers)


def _asked(request: Request) -> Asked:
    question = request.query_params
    limit, start = question.get("limit", "50"), question.get("start", "0")
    if not (limit.isdecimal() and 1 <= int(limit) <= _MOST_ROWS):
        raise HTTPException(400, f"limit must be from 1 to {_MOST_ROWS}.")
    if not (start.isdecimal() and len(start) <= 9):  # noqa: PLR2004 - nobody has so many
        raise HTTPException(400, "start must be how many to leave out.")
    order = question.get("order") or "name"
    if order not in ("name", "next"):
        raise HTTPException(400, "order must be name or next.")
    text, status = question.get("text", "").strip(), question.get("status", "")
    return Asked(text, status, order, int(limit), int(start))


def _rows(page: Sequence[Shown], seen: Mapping[Any, Standing]) -> list[dict[str, Any]]:
    return [row(each, seen.get((each.scheduler, each.schedule.name))) for each in page]


async def _everything() -> tuple[list[Shown], str | None]:
    """Return all schedules that this process knows, and what keeps it from knowing more."""
    # Not imported here: where there are schedules, somebody has done so.
    if "offload.schedules._scheduler" not in sys.modules:
        return [], None
    from offload.jobs import JobsUnavailableError
    from offload.schedules import Scheduler

    schedulers = Scheduler.all()
    found = [Shown(each, scheduler) for scheduler in schedulers for each in scheduler]
    try:
        with anyio.fail_after(_PATIENCE_SECONDS):
            for jobs, scheduler in _idle_engines(schedulers).items():
                found += await _made_at_run_time(jobs, scheduler)
    except (JobsUnavailableError, TimeoutError) as error:
        return found, _reason(error)
    return found, None


def _idle_engines(schedulers: Sequence[Scheduler]) -> dict[Jobs, Scheduler]:
    """Return the engines of which no scheduler of this process fires schedules made at run time."""
    found: dict[Jobs, Scheduler] = {}
    running: set[Jobs] = set()
    for scheduler in schedulers:
        for jobs in {scheduler.jobs, *(each.jobs for each in scheduler)}:
            if jobs is None:
                continue
            found.setdefault(jobs, scheduler)
            if scheduler.is_running:
                running.add(jobs)
    return {jobs: scheduler for jobs, scheduler in found.items() if jobs not in running}


async def _made_at_run_time(jobs: Jobs, scheduler: Scheduler) -> list[Shown]:
    from offload.schedules._declaration import schedule_of
    from offload.schedules._store import ScheduleStore

    found: list[Shown] = []
    for name, spec in (await ScheduleStore(jobs, "dashboard").specs()).items():
        if spec.declaration is not None:
            schedule = schedule_of(name, spec.declaration, jobs)
            if schedule is not None:
                found.append(Shown(schedule, scheduler))
    return found


def _reason(error: BaseException) -> str:
    return f"The store cannot be reached: {f'{error}' or 'it does not answer'}"

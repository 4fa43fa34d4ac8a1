"""The endpoints of the page of schedules: which there are, how they ran, what is done to them."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

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
from offload.dashboard._plain import plain_schedules
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

_MOST_RUNS: Final = 50


class SchedulePages:
    """Routes below the dashboard's path, behind its access check.

    Args:
        actions: whether schedules can be run, paused and resumed.
        page: answers the page itself.
    """

    def __init__(
        self,
        *,
        actions: bool,
        page: Callable[[Request], Awaitable[Response]],
    ) -> None:
        self._actions = actions
        self._page = page

    def routes(self) -> list[Route]:
        """Return them."""
        return [
            Route("/schedules", self._page),
            Route("/plain-schedules", self._plain),
            Route("/schedules/list", self._list),
            Route("/schedules/history", self._history),
            Route("/schedules/actions/{action}", self._act, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        """Tell of the schedules that match, and how they stand."""
        return answer(await self._told(request))

    async def _plain(self, request: Request) -> Response:
        """Return the page without JavaScript."""
        told = await self._told(request)
        text = await on_thread(lambda: plain_schedules(told, _asked(request).start))
        return Response(text, media_type="text/html", headers=HEADERS)

    async def _told(self, request: Request) -> dict[str, Any]:
        asked = _asked(request)
        everything, problem = await _everything()
        # On a thread: there may be a hundred thousand.
        page, found = await on_thread(lambda: chosen(everything, asked))
        seen: dict[Any, Standing] = {}
        if page:
            from offload.schedules._standings import standings

            try:
                seen = await from_store(
                    standings([(each.schedule, each.scheduler) for each in page])
                )
            except HTTPException as error:
                # The page goes on asking, and shows this beside what this process knows.
                problem = error.detail
        return {
            "at": time.time(),
            "actions": self._actions,
            "schedules": await on_thread(lambda: _rows(page, seen)),
            "found": found,
            "all": len(everything),
            "problem": problem,
        }

    async def _history(self, request: Request) -> Response:
        """Return the last runs of one schedule, the latest first."""
        shown = await self._named(request)
        recent = shown.scheduler.levers.recent
        from offload.schedules._history import history

        runs = await from_store(history(shown.schedule, recent, _MOST_RUNS))
        return answer({"name": shown.schedule.name, "runs": list(map(run_row, runs))})

    async def _act(self, request: Request) -> Response:
        """Do what was asked for to one schedule."""
        check_action(request, is_enabled=self._actions)
        name = request.path_params["action"]
        run = SCHEDULE_ACTIONS.get(name)
        if run is None:
            raise HTTPException(404, f"There are these actions: {', '.join(SCHEDULE_ACTIONS)}.")
        shown = await self._named(request)
        schedule = shown.schedule
        _logger.warning(
            "dashboard: %s schedule %r, asked for by %s", name, schedule.name, client_of(request)
        )
        done, said = await from_store(run(schedule, shown.scheduler))
        return answer({"done": done, "text": said}, 200 if done else 409)

    async def _named(self, request: Request) -> Shown:
        key = request.query_params.get("key", "")
        everything, problem = await _everything()
        for each in everything:
            if each.key == key:
                return each
        if problem is not None:
            raise HTTPException(503, problem)
        raise HTTPException(404, "There is no such schedule.")


def _asked(request: Request) -> Asked:
    question = request.query_params
    limit = limit_of(request)
    start = start_of(request, "start must be how many to leave out.")
    order = question.get("order") or "name"
    if order not in ("name", "next"):
        raise HTTPException(400, "order must be name or next.")
    text, status = question.get("text", "").strip(), question.get("status", "")
    return Asked(text, status, order, limit, start)


def _rows(page: Sequence[Shown], seen: Mapping[Any, Standing]) -> list[dict[str, Any]]:
    return [row(each, seen.get((each.scheduler, each.schedule.name))) for each in page]


async def _everything() -> tuple[list[Shown], str | None]:
    """Return all schedules that this process knows, and what keeps it from knowing more."""
    # Not imported here: where there are schedules, somebody has done so.
    if "offload.schedules._scheduler" not in sys.modules:
        return [], None
    from offload.schedules import Scheduler

    schedulers = Scheduler.all()
    found = [Shown(each, scheduler) for scheduler in schedulers for each in scheduler]

    async def add_those_of_engines() -> None:
        for jobs, scheduler in _idle_engines(schedulers).items():
            found.extend(await _made_at_run_time(jobs, scheduler))

    try:
        await from_store(add_those_of_engines())
    except HTTPException as error:
        return found, error.detail
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

"""`offload schedule list|history|run|pause|resume MODULE`: the schedules of an application."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from offload._cli.loading import ApplicationError, import_module, load
from offload.errors import OffloadError
from offload.pool import Pool
from offload.schedules import Scheduler, StoredSchedules, default_scheduler
from offload.schedules._declaration import schedule_of_stored
from offload.schedules._history import history

if TYPE_CHECKING:
    import argparse

    from offload.jobs import Jobs
    from offload.schedules import Schedule, ScheduleRun

__all__ = ["run"]


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    sys.path.insert(0, os.path.abspath(arguments.app_dir or os.getcwd()))
    try:
        scheduler = _scheduler_of(arguments.app)
        return anyio.run(partial(_run, scheduler, arguments))
    except ApplicationError as error:
        print(f"offload schedule: {error}", file=sys.stderr)
        return 2
    except (OffloadError, ValueError) as error:
        print(f"offload schedule: {error}", file=sys.stderr)
        return 1


def _scheduler_of(reference: str) -> Scheduler:
    if ":" not in reference:
        import_module(reference)
        return default_scheduler()
    found = load(reference)
    if not isinstance(found, Scheduler):
        raise ApplicationError(f"{reference} is {found!r:.100}, not offload.schedules.Scheduler")
    return found


async def _run(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    try:
        return await _ACTIONS[arguments.action](scheduler, arguments)
    finally:
        for jobs in _all_jobs(scheduler):
            await jobs.aclose()
        for pool in Pool.all():
            await pool.aclose(drain=0.0)


def _all_jobs(scheduler: Scheduler) -> set[Jobs]:
    found = {scheduler.jobs, *(each.jobs for each in scheduler)}
    return {each for each in found if each is not None}


@dataclass(frozen=True, slots=True)
class _Row:
    """A schedule, and what an engine knows of it."""

    schedule: Schedule
    is_paused: bool
    last: ScheduleRun | None

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        following, last = self.following, self.last
        return {
            "name": self.schedule.name,
            "fire_times": repr(self.schedule.fire_times),
            "runs": self.kind,
            "paused": self.is_paused,
            "next": following or None,
            "last": None if last is None else _run_json(last),
        }

    @property
    def kind(self) -> str:
        """How it runs."""
        return "in memory" if self.schedule.jobs is None else "as jobs"

    @property
    def following(self) -> str:
        """When it runs next; empty if it does not."""
        at = None if self.is_paused else self.schedule.next_run()
        return "" if at is None else at.isoformat(timespec="seconds")

    @property
    def last_text(self) -> str:
        """How it went last."""
        if self.last is None:
            return "-"
        outcome = "enqueued" if self.last.outcome is None else self.last.outcome.value
        return f"{outcome} {self.last.fire_time.isoformat(timespec='seconds')}"

    def columns(self) -> tuple[str, ...]:
        """Return it for people."""
        following = "paused" if self.is_paused else self.following or "-"
        return (
            self.schedule.name,
            repr(self.schedule.fire_times),
            self.kind,
            following,
            (self.last_text),
        )


async def _list(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    rows = await _rows(scheduler)
    if arguments.json:
        for row in rows:
            print(json.dumps(row.as_json()))
        return 0
    table = [("NAME", "FIRE TIMES", "RUNS", "NEXT", "LAST"), *(row.columns() for row in rows)]
    _print_table(table)
    return 0


def _print_table(table: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


async def _rows(scheduler: Scheduler) -> list[_Row]:
    rows: list[_Row] = []
    for schedule in scheduler:
        store = scheduler.levers.store_of(schedule)
        spec = None if store is None else await store.spec(schedule.name)
        is_paused = spec is not None and spec.is_paused
        rows.append(_Row(schedule, is_paused, await schedule.last_run()))
    for jobs in _all_jobs(scheduler):
        for stored in await StoredSchedules(jobs).list():
            found = await schedule_of_stored(stored.name, jobs)
            # Several of these jobs may be of one engine.
            if found is not None and found.name not in {row.schedule.name for row in rows}:
                found.added_to(scheduler.levers)
                rows.append(_Row(found, stored.is_paused, await found.last_run()))
    return sorted(rows, key=lambda row: row.schedule.name)


async def _history(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    runs = await history(await _find(scheduler, arguments.name), None, arguments.count)
    if arguments.json:
        for run in runs:
            print(json.dumps(_run_json(run)))
        return 0
    head = ("FIRE TIME", "REASON", "OUTCOME", "SECONDS", "ERROR")
    _print_table([head, *map(_run_columns, runs)])
    return 0


def _run_json(run: ScheduleRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "fire_time": run.fire_time.isoformat(),
        "reason": run.reason.value,
        "outcome": None if run.outcome is None else run.outcome.value,
        "started_at": run.started_at.isoformat(),
        "ended_at": None if run.ended_at is None else run.ended_at.isoformat(),
        "error": None if run.error is None else str(run.error),
    }


def _run_columns(run: ScheduleRun) -> tuple[str, ...]:
    took = None if run.ended_at is None else (run.ended_at - run.started_at).total_seconds()
    return (
        run.fire_time.isoformat(timespec="seconds"),
        run.reason.value,
        "-" if run.outcome is None else run.outcome.value,
        "-" if took is None else f"{took:.3f}",
        # Of a traceback, or of several lines, the first.
        "-" if run.error is None else str(run.error).partition("\n")[0],
    )


async def _execute(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    schedule = await _find(scheduler, arguments.name)
    if schedule.jobs is None or arguments.wait:
        try:
            result = await schedule.execute()
        except Exception as error:  # noqa: BLE001 - of the function, which is the user's
            print(f"{schedule.name}: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        print(repr(result))
        return 0
    job = await schedule.enqueue()
    print(job.id)
    return 0


async def _find(scheduler: Scheduler, name: str) -> Schedule:
    if name not in scheduler:
        for jobs in _all_jobs(scheduler):
            found = await schedule_of_stored(name, jobs)
            if found is not None:
                return found
    return scheduler[name]


async def _pause(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    return await _set_paused(scheduler, arguments.names, is_paused=True)


async def _resume(scheduler: Scheduler, arguments: argparse.Namespace) -> int:
    return await _set_paused(scheduler, arguments.names, is_paused=False)


async def _set_paused(scheduler: Scheduler, names: list[str], *, is_paused: bool) -> int:
    for name in names:
        schedule = await _find(scheduler, name)
        store = scheduler.levers.store_of(schedule)
        if store is None:
            print(
                f"offload schedule: no engine keeps {name}, so the programs that fire it cannot be "
                "reached: give its Scheduler jobs, or set OFFLOAD_JOBS",
                file=sys.stderr,
            )
            return 1
        await store.pause(name, is_paused=is_paused)
    return 0


_ACTIONS: Final = {
    "list": _list,
    "history": _history,
    "run": _execute,
    "pause": _pause,
    "resume": _resume,
}

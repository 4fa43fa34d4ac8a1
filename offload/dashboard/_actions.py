"""What an operator can do from the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from starlette.exceptions import HTTPException

from offload._values.options import INHERIT
from offload.dashboard._answers import on_thread
from offload.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from offload._values.options import Inherit
    from offload.pool import Pool

__all__ = ["ACTIONS", "Action", "Target", "target_of"]

# Of no process id, no limit and no count of tasks anybody has.
_NUMBER = re.compile("[0-9]{1,9}")
_TASK_ID = re.compile("[0-9a-f]{1,16}-[0-9]{1,20}")


class Target(NamedTuple):
    """What an action is about, beside its pool.

    Attributes:
        pid: process id of a worker; 0: of none.
        task: id of a task; "": of none.
        limits: `max_workers` and `max_queued` to be set.
    """

    pid: int = 0
    task: str = ""
    limits: tuple[int | Inherit, int | Inherit | None] = (INHERIT, INHERIT)

    def __str__(self) -> str:
        """Tell it as the log has it."""
        if self.task:
            return f"task {self.task}"
        if self.pid:
            return f"worker {self.pid}"
        named = zip(("max_workers", "max_queued"), self.limits, strict=True)
        return ", ".join(f"{name}={value}" for name, value in named if value is not INHERIT) or "-"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do.

    Attributes:
        name: what it is called in the path and in the log.
        needs: what of its target must be given; "" for a whole pool.
        run: does it; returns whether it was done, and a sentence about it.
    """

    name: str
    needs: str
    run: Callable[[Pool, Target], Awaitable[tuple[bool, str]]]


def target_of(action: Action, asked: Mapping[str, str]) -> Target:
    """Return what an action is asked to be about.

    Whatever is given is checked, needed or not: it goes into the log.

    Raises:
        HTTPException: something is missing, or is not what it should be.
    """
    pid, task = asked.get("pid", ""), asked.get("task", "")
    if (pid or action.needs == "pid") and not _NUMBER.fullmatch(pid):
        raise HTTPException(400, "pid must be the process id of a worker.")
    if (task or action.needs == "task") and not _TASK_ID.fullmatch(task):
        raise HTTPException(400, "task must be the id of a task.")
    workers, queued = asked.get("max_workers"), asked.get("max_queued")
    for name, value in (("max_workers", workers), ("max_queued", queued)):
        is_no_limit = name == "max_queued" and value == "none"
        if value is not None and not is_no_limit and not _NUMBER.fullmatch(value):
            raise HTTPException(400, f"{name} must be a number.")
    if action.needs == "limits" and workers is None and queued is None:
        raise HTTPException(400, "max_workers or max_queued must be given.")
    limits: tuple[int | Inherit, int | Inherit | None] = (
        INHERIT if workers is None else int(workers),
        INHERIT if queued is None else None if queued == "none" else int(queued),
    )
    return Target(int(pid or 0), task, limits)


async def _cancel(pool: Pool, target: Target) -> tuple[bool, str]:
    if await on_thread(lambda: pool.kill_task(target.pid)):
        return True, f"The task of worker {target.pid} is being stopped."
    return False, f"Worker {target.pid} runs nothing."


async def _stop(pool: Pool, target: Target) -> tuple[bool, str]:
    if await on_thread(lambda: pool.stop_task(target.task)):
        return True, "The task is cancelled."
    return False, "The task had ended already."


async def _recycle(pool: Pool, target: Target) -> tuple[bool, str]:
    if await on_thread(lambda: pool.recycle(target.pid)):
        return True, f"Worker {target.pid} is replaced as soon as it runs nothing."
    return False, f"There is no worker {target.pid}."


async def _limits(pool: Pool, target: Target) -> tuple[bool, str]:
    workers, queued = target.limits

    def change() -> None:
        pool.set_limits(max_workers=workers, max_queued=queued)

    try:
        await on_thread(change)
    except ValueError as error:
        return False, f"The limits of pool {pool.name} stay as they are: {error}."
    return True, f"Pool {pool.name} has new limits: {target}."


async def _drain(pool: Pool, _: Target) -> tuple[bool, str]:
    await on_thread(pool.stop_accepting)
    return True, f"Pool {pool.name} takes no more calls; the calls that it has continue."


async def _open(pool: Pool, _: Target) -> tuple[bool, str]:
    try:
        await pool.open()
    except OffloadError as error:
        return False, f"Pool {pool.name} did not open: {error}"
    return True, f"Pool {pool.name} takes calls."


ACTIONS = {
    each.name: each
    for each in (
        Action("cancel", "pid", _cancel),
        Action("stop", "task", _stop),
        Action("recycle", "pid", _recycle),
        Action("limits", "limits", _limits),
        Action("drain", "", _drain),
        Action("open", "", _open),
    )
}

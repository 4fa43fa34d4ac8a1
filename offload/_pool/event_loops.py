"""Calls back on the event loop of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._pool.task import PoolTask

__all__ = ["call_soon_on_loop_of", "do_soon"]


def call_soon_on_loop_of(
    task: PoolTask, callback: Callable[..., object], *arguments: object
) -> bool:
    """Call back on the thread of a task's loop; False if that was closed: nobody waits."""
    try:
        task.loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return False
    return True


def do_soon(task: PoolTask, action: Callable[[], None]) -> None:
    """Do something soon, on the loop of a task, or on the keeper's if that was closed."""
    if not call_soon_on_loop_of(task, action):
        keeper.post(action)

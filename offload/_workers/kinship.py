"""What workers are given to be children of this process in the eyes of `multiprocessing`.

The other end is `offload._child.kinship`. Nothing here imports more of `multiprocessing` than its
smallest part, unless somebody uses more of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from offload._wire.tracking import unpack_news
from offload._workers.keeper import keeper

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["authkey", "is_inherited", "pickled_for_child", "strangers_key", "track"]


def authkey() -> bytes:
    """Return the key by which processes of `multiprocessing` know each other."""
    # It is made when this is imported: what has it later must find the same.
    from multiprocessing import process

    return bytes(process.current_process().authkey)


def strangers_key() -> bytes:
    """Return a key that nobody else has, for a worker which must not be taken for a child of ours.

    Whoever listens in this process with the key of `multiprocessing` unpickles what it is sent.
    """
    return os.urandom(32)


def is_inherited(error: BaseException | None) -> bool:
    """Return whether something was not pickled that `multiprocessing` hands to its children only.

    Locks and queues say so with a `RuntimeError`.
    """
    return isinstance(error, RuntimeError) and "multiprocessing" in sys.modules


def pickled_for_child(value: object) -> bytes:
    """Pickle what a worker is started with, as `multiprocessing` does for a child of its own.

    For one worker: a descriptor in it is handed over once.

    Raises:
        RuntimeError: a lock or a queue of the start method "fork" is in it.
    """
    from multiprocessing import reduction
    from multiprocessing.context import set_spawning_popen

    class Popen:
        """As much of a process that is being started as is asked."""

        @staticmethod
        def duplicate_for_child(fd: int) -> int:
            return fd

        @staticmethod
        def DupFd(fd: int) -> Any:  # noqa: N802 - so is it called
            from multiprocessing import resource_sharer

            return resource_sharer.DupFd(fd)

    popen: Any = Popen()
    set_spawning_popen(popen)
    try:
        return bytes(reduction.ForkingPickler.dumps(value))
    except RuntimeError as error:
        message = (
            f"initargs cannot reach a worker: {error} Make it with "
            'multiprocessing.get_context("spawn"), as get_context("spawn").Queue()'
        )
        raise RuntimeError(message) from error
    finally:
        set_spawning_popen(None)


def track(news: bytes) -> bool:
    """Tell the resource tracker of this process what a worker has made, attached or unlinked.

    On the thread of the loop that hears it, in the order in which it is said, since a later word of
    this process must not overtake it. Only a tracker that is not there yet, and takes a while to
    start, is told by the keeper.

    Returns:
        False if it is nothing that a worker of ours says.
    """
    told = unpack_news(news)
    if told is None:
        return False
    command, rtype, name = told
    from multiprocessing import resource_tracker

    tell: Callable[[str, str], None] = getattr(resource_tracker, command)
    if getattr(resource_tracker._resource_tracker, "_fd", None) is None:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no other way to ask
        keeper.post(_tell, tell, name, rtype)
    else:
        _tell(tell, name, rtype)
    return True


def _tell(tell: Callable[[str, str], None], name: str, rtype: str) -> None:
    # It is bookkeeping for the end of this process, and none of a loop's business if it fails.
    with contextlib.suppress(Exception):
        tell(name, rtype)

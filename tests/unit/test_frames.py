"""Looking at where other threads are keeps nothing of them alive."""

import asyncio
import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from offload._heartbeat import frames_of_others, running_loop
from offload.testing import LoopBlockDetector
from offload.watchdog._samples import Looker, look_round


class Large:
    """What a function of another thread has in a variable."""


def detect() -> None:
    """Find a block, and, when no loop turns in its thread, look as well."""

    async def hold() -> None:
        with LoopBlockDetector(0.02, raises=False) as detector:
            await asyncio.sleep(0.01)
            time.sleep(0.1)  # noqa: ASYNC251 - that is what it looks for
            await asyncio.sleep(0.01)
        assert detector.blocks

    asyncio.run(hold())


def detect_without_loop() -> None:
    """Have a detector look while the loop that it watches stands still."""
    loop = asyncio.new_event_loop()
    detector = LoopBlockDetector(0.02, raises=False)

    async def call(method: Callable[..., object], *arguments: object) -> None:
        method(*arguments)

    loop.run_until_complete(call(detector.__enter__))
    time.sleep(0.1)
    loop.run_until_complete(call(detector.__exit__, None, None, None))
    loop.close()


def sample() -> None:
    """Look as the watchdog does, from a thread of its own."""

    async def hold() -> None:
        loop, thread = running_loop(), threading.get_ident()

        def look() -> None:
            looker = Looker(loop, thread, threading.current_thread())
            assert looker.look(0.0, None, was_kept=True).others
            look_round(0.0)

        watcher = threading.Thread(target=look)
        watcher.start()
        watcher.join()

    asyncio.run(hold())


@pytest.mark.parametrize(
    "look",
    [frames_of_others, detect, detect_without_loop, sample],
    ids=lambda look: look.__name__,
)
def test_nothing_of_other_threads_is_kept(look: Callable[[], Any]) -> None:
    """What they have in variables goes when they do, with no need of the garbage collector."""
    entered, end = threading.Event(), threading.Event()
    left: list[weakref.ref[Large]] = []

    def hold() -> None:
        large = Large()
        left.append(weakref.ref(large))
        entered.set()
        end.wait()

    thread = threading.Thread(target=hold)
    with contextlib.ExitStack() as stack:
        gc.disable()
        stack.callback(gc.enable)
        thread.start()
        entered.wait()
        look()
        end.set()
        thread.join()
        assert left[0]() is None

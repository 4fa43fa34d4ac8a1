"""What becomes of a thousand calls of a megabyte, all made at once, and what is left of them?

Varied: the contender; whether a worker is killed every 50 ms, twenty times. Held: 1,000 calls of 1
MiB, 2 workers, and for `offload`, which alone has such a limit, `max_queued_bytes` of 64 MiB; a
call that is refused comes again when it was told to, one that fails is tried five times, and one
that has not come back after a minute is lost. Values are the calls that came back whole, how far
the memory of server and workers together (PSS) rose above the start, and the descriptors and shared
memory that are left when all is closed. Refuted if `offload` loses a call or returns it changed, if
its memory rises by more than the limit and what the calls that are being made and run take (32
MiB), or if descriptors are left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.functions import hold_and_echo
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, without_workers
from offload import QueueFullError
from offload._bench.machine import pss_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Call, Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_MIB = 1 << 20
_CALLS = 1000
_QUICK_CALLS = 20
_KILLS = 20
_KILL_EVERY_SECONDS = 0.05
_LIMIT_BYTES = 64 * _MIB
_SLACK_BYTES = 32 * _MIB
_TRIES = 5
# Children of this process that start others, or keep books; what they fork has their command line.
_HELPERS = ("resource_tracker", "forkserver", "offload._child.supervisor")
_PATIENCE_SECONDS = 60.0
# What a contender takes to end its processes and threads.
_SETTLE_SECONDS = 1.0


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return how many workers are killed."""
    return [{"kills": kills} for kills in ((0,) if settings.is_quick else (0, _KILLS))]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each in a fresh process."""
    calls = _QUICK_CALLS if context.settings.is_quick else _CALLS
    for each in parameters:
        told = context.child(
            contender, {**each, "calls": calls, "workers": context.settings.workers}
        )
        told.parameters = each
        yield told


class Watch:
    """The memory of this process and its workers, looked at until it is over."""

    def __init__(self) -> None:
        gc.collect()
        self.start = self.most = pss_bytes([os.getpid()]) or 0
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            now = await asyncio.to_thread(pss_bytes, [os.getpid()])
            self.most = max(self.most, now or 0)
            await asyncio.sleep(0.02)

    def stop(self) -> int:
        """Return by how many bytes it rose above the start."""
        self._task.cancel()
        return self.most - self.start


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def shared_bytes() -> int:
    """Return how much shared memory the machine uses, all programs together."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) << 10
    return 0


def workers() -> list[int]:
    """Return the process ids of a contender's workers: what has no children and is no helper."""
    here, found = os.getpid(), []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_helper = process.ppid() == here and any(
                name in " ".join(process.cmdline()) for name in _HELPERS
            )
            if not is_helper and not process.children():
                found.append(process.pid)
    return found


class Flood:
    """All calls at once, and what becomes of them."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._data = [bytes([number]) * _MIB for number in range(8)]
        self.whole = self.refused = self.failed = 0

    async def run(self, calls: int, kills: int) -> None:
        """Make them; return when all are back, or nobody waits any longer."""
        under_way = [asyncio.ensure_future(self._one(number)) for number in range(calls)]
        under_way.append(asyncio.ensure_future(self._kill(kills)))
        _, late = await asyncio.wait(under_way, timeout=_PATIENCE_SECONDS)
        for each in late:
            each.cancel()
        await asyncio.wait(under_way, timeout=1.0)

    async def _one(self, number: int) -> None:
        value = self._data[number % len(self._data)]
        tries = 0
        while tries < _TRIES:
            try:
                result = await self._call(hold_and_echo, value, 0.0)
            except QueueFullError as error:
                self.refused += 1
                await asyncio.sleep(min(error.retry_after, 0.2))
            except Exception:  # noqa: BLE001 - whatever a contender says of a worker that died
                self.failed += 1
                tries += 1
            else:
                self.whole += result == value
                return

    async def _kill(self, kills: int) -> None:
        for number in range(kills):
            await asyncio.sleep(_KILL_EVERY_SECONDS)
            pids = workers()
            if pids:
                os.kill(pids[number % len(pids)], signal.SIGKILL)


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Measure one flood."""
    assert contender.open is not None  # noqa: S101 - skipped
    workers, calls = parameters["workers"], parameters["calls"]
    fds, shared = descriptors(), shared_bytes()
    async with contender.open(workers, max_queued_bytes=_LIMIT_BYTES) as call:
        await asyncio.gather(*(call(hold_and_echo, b"", 0.05) for _ in range(4 * workers)))
        flood, watch = Flood(call), Watch()
        begin = time.perf_counter()
        await flood.run(calls, parameters["kills"])
        took = time.perf_counter() - begin
        rise = watch.stop()
    values = {
        "whole_share": flood.whole / calls,
        "seconds": took,
        "rise_bytes": rise,
        "refused": flood.refused,
        "failed": flood.failed,
    }
    del flood, call
    gc.collect()
    await asyncio.sleep(_SETTLE_SECONDS)
    values["descriptors_left"] = max(descriptors() - fds, 0)
    values["shared_bytes_left"] = max(shared_bytes() - shared, 0)
    return {"values": values}


_NO_KILLS, _WITH_KILLS = (("kills", 0),), (("kills", _KILLS),)
scenario = Scenario(
    name="payload_flood",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("whole_share", "came back whole, %", "more", factor=100, is_headline=True),
        Metric("seconds", "all of them, s", is_headline=True),
        Metric("rise_bytes", "memory above the start, MiB PSS", factor=2**-20, is_headline=True),
        Metric("refused", "refused, times", better=None),
        Metric("failed", "failed, times"),
        Metric("descriptors_left", "descriptors left"),
        Metric("shared_bytes_left", "shared memory left, MiB", better=None, factor=2**-20),
    ),
    cells=cells,
    measure=measure,
    skips=without_workers,
    claims=tuple(
        Claim(
            text=f"{text}, {kills} workers killed",
            value=value,
            parameters={"kills": kills},
            relation=relation,
            limit=limit,
        )
        for kills in (0, _KILLS)
        for text, value, relation, limit in (
            ("calls that came back whole, %", "whole_share", "at least", 100),
            (
                "memory above the start, MiB",
                "rise_bytes",
                "at most",
                (_LIMIT_BYTES + _SLACK_BYTES) / _MIB,
            ),
            ("descriptors left", "descriptors_left", "at most", 0),
        )
    ),
    plots=(
        Plot(
            "dots",
            "whole_share",
            "1,000 calls of 1 MiB at once, 20 workers killed meanwhile: how many came back whole",
            "More is better. What failed was tried five times.",
            where=_WITH_KILLS,
            is_log=False,
        ),
        Plot(
            "dots",
            "rise_bytes",
            "1,000 calls of 1 MiB at once: memory above the start",
            "Less is better.",
            where=_NO_KILLS,
            is_log=False,
        ),
    ),
    repetitions=2,
)

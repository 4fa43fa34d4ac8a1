"""What does a worker weigh?

Varied: the contender, what its workers have imported: nothing, or numpy. Held: 1 and 4 workers, all
of which have run something. Memory is PSS of the whole process tree, helper processes included (a
page shared by n processes counts as 1/n in each); the weight of a worker is a third of what three
more cost. Where a contender can have numpy imported before its workers start, and share it, it
does: `preload` of `offload`, `set_forkserver_preload` of the standard library. Refuted if a worker
of `offload` weighs more than one of a forkserver `ProcessPoolExecutor`.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from benchmarks.functions import hold, import_numpy
from benchmarks.suite.scenario import (
    Claim,
    Measured,
    Metric,
    Plot,
    Scenario,
    without_workers,
)
from offload._bench.machine import pss_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_FEW, _MANY = 1, 4
_TASK_SECONDS = 0.1


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return what workers import."""
    return [
        {"imports": each} for each in (("nothing",) if settings.is_quick else ("nothing", "numpy"))
    ]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure with few and with many workers, each in a fresh process."""
    for each in parameters:
        few, less = context.weighed(contender, each, _FEW)
        many, more = context.weighed(contender, each, _MANY)
        yield Measured(
            each,
            values={"worker_bytes": (more - less) / (_MANY - _FEW), "tree_bytes": more},
            health=many.health,
            attempts=max(few.attempts, many.attempts),
        )


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the memory of this process and all below it once all workers have worked."""
    assert contender.open is not None  # noqa: S101 - skipped
    workers = parameters["workers"]
    function = import_numpy if parameters["imports"] == "numpy" else hold
    preload = ("numpy",) if parameters["imports"] == "numpy" else ()
    async with contender.open(workers, preload=preload) as call:
        for _ in range(3):
            await asyncio.gather(*(call(function, _TASK_SECONDS) for _ in range(2 * workers)))
        return {"values": {"tree_bytes": await asyncio.to_thread(pss_bytes, [os.getpid()])}}


scenario = Scenario(
    name="memory",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("worker_bytes", "a worker, MiB PSS", factor=2**-20, is_headline=True),
        Metric("tree_bytes", f"all with {_MANY} workers, MiB PSS", factor=2**-20),
    ),
    cells=cells,
    measure=measure,
    skips=without_workers,
    claims=(
        Claim(
            text="a worker, times one of a forkserver `ProcessPoolExecutor`",
            value="worker_bytes",
            parameters={"imports": "nothing"},
            relation="at most",
            limit=1.0,
            reference="executor-forkserver",
        ),
    ),
    plots=(
        Plot(
            "dots",
            "worker_bytes",
            "What one more worker weighs, nothing imported",
            "Less is better.",
            where=(("imports", "nothing"),),
            is_log=False,
        ),
        Plot(
            "dots",
            "worker_bytes",
            "What one more worker weighs, with numpy",
            "Less is better.",
            where=(("imports", "numpy"),),
            is_log=False,
        ),
    ),
)

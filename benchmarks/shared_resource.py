"""What do workers weigh that have all read a table of 256 MiB?

Varied: the contender, 1 and 4 workers. Held: an array of float64 that every worker has summed.
`offload` has it as a resource, loaded once before its workers are forked; of the others, those that
can preload modules preload the table's, and each worker loads the table at its first call. Memory
is PSS of the whole process tree (a page shared by n processes counts as 1/n in each). Refuted if
four workers of `offload` weigh more than one by over 40 MiB for each that is added.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from benchmarks.shared_table import TABLE_MIB, whole
from benchmarks.suite.contenders import OURS
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
_PER_WORKER_MIB = 40
_TABLE = "benchmarks.shared_table"
# Long enough that a worker that is busy leaves the next call to another.
_TASK_SECONDS = 0.1


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """There is one."""
    return [{}]


def measure(contender: Contender, _: Sequence[Parameters], context: Context) -> Iterator[Measured]:
    """Measure with few and with many workers, each in a fresh process."""
    size = 8 if context.settings.is_quick else TABLE_MIB
    few, less = context.weighed(contender, {"mib": size}, _FEW)
    many, more = context.weighed(contender, {"mib": size}, _MANY)
    yield Measured(
        {},
        values={
            "few_bytes": less,
            "many_bytes": more,
            "worker_bytes": (more - less) / (_MANY - _FEW),
        },
        health=many.health,
        disturbed=many.disturbed,
        attempts=max(few.attempts, many.attempts),
    )


async def inside(contender: Contender, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the memory of this process and all below it once all workers have read the table."""
    assert contender.open is not None  # noqa: S101 - skipped
    os.environ["TABLE_MIB"] = str(parameters["mib"])
    workers = parameters["workers"]
    # Only a fork shares what was loaded before it.
    table = f"{_TABLE}:table" if contender.name == OURS else _TABLE
    seen: set[int] = set()
    async with contender.open(workers, preload=("numpy", table)) as call:
        while len(seen) < workers:  # until each has read it
            calls = (call(whole, _TASK_SECONDS) for _ in range(2 * workers))
            seen |= set(await asyncio.gather(*calls))
        return {"values": {"tree_bytes": await asyncio.to_thread(pss_bytes, [os.getpid()])}}


scenario = Scenario(
    name="shared_resource",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("few_bytes", f"{_FEW} worker, MiB PSS", factor=2**-20),
        Metric("many_bytes", f"{_MANY} workers, MiB PSS", factor=2**-20, is_headline=True),
        Metric("worker_bytes", "one more worker, MiB PSS", factor=2**-20, is_headline=True),
    ),
    cells=cells,
    measure=measure,
    skips=without_workers,
    claims=(
        Claim(
            text="one more worker, MiB",
            value="worker_bytes",
            relation="at most",
            limit=_PER_WORKER_MIB,
        ),
    ),
    plots=(
        Plot(
            "dots",
            "many_bytes",
            f"Memory of {_MANY} workers that have read a table of {TABLE_MIB} MiB",
            "Less is better. PSS: a page shared by n processes counts as 1/n in each.",
            is_log=False,
        ),
    ),
    repetitions=2,
)

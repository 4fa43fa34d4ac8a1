"""Does `/fast` stay fast while a handler enqueues jobs, and a worker program uses every core?

Varied: the store, and whether there are jobs. Held: one server process (uvicorn on uvloop), `/fast`
probed 200 times a second from another process, open loop, as in fast_under_heavy; with jobs,
another 200 requests a second that enqueue one each, of 20 ms of pure computation, twice what two
CPUs can run, and `offload worker` on the same machine, as it comes. Without jobs first, on the same
server. Refuted if the p99 of `/fast` with jobs exceeds 1.3 times that without.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from benchmarks.suite import stores
from benchmarks.suite.contenders import OURS
from benchmarks.suite.load import disturbances, failed_share, latencies, load
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, quantiles
from benchmarks.suite.servers import ROOT, Server, end, free_port, wait_for_answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_IDLE, _BUSY = "none", "enqueued and run"
_JOB_MS = 20
_RATE = 200
_WARM_UP_SECONDS = 2.0
_QUICK_WARM_UP_SECONDS = 0.3
_TIMEOUT_SECONDS = 10


def skips(contender: Contender) -> str | None:
    """Refuse other pools: it is about our jobs."""
    return None if contender.name == OURS else "it has no jobs"


def cells(_: Contender, settings: Settings) -> list[Parameters]:
    """Return the stores that are here, without jobs first."""
    here = ["sqlite"] if settings.is_quick else stores.STORES
    return [
        {"store": store, "jobs": jobs}
        for store in here
        if stores.missing(store) is None
        for jobs in (_IDLE, _BUSY)
    ]


def measure(
    contender: Contender, parameters: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure each store on a server of its own."""
    for store in dict.fromkeys(str(each["store"]) for each in parameters):
        with stores.opened(store) as url:
            loops = context.loops(contender, _JOB_MS)
            environment = os.environ | {"OFFLOAD_JOBS": url, "JOB_LOOPS": str(loops)}
            with _server(contender, environment) as server:
                for jobs in (_IDLE, _BUSY):
                    cell = {"store": store, "jobs": jobs}
                    yield context.undisturbed(
                        lambda cell=cell, server=server, environment=environment: _once(
                            server, environment, cell, context
                        )
                    )


@contextlib.contextmanager
def _server(contender: Contender, environment: Mapping[str, str]) -> Iterator[Server]:
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.jobs_server:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--log-level", "critical"),
    ]
    with _running(command, environment) as process:
        wait_for_answer(process, port, contender)
        yield Server(port, psutil.Process(process.pid))


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        end(process)


def _once(
    server: Server, environment: Mapping[str, str], cell: Parameters, context: Context
) -> Measured:
    if cell["jobs"] == _IDLE:
        return _loaded(server, cell, context)
    command = [sys.executable, "-m", "offload", "worker", "benchmarks.jobs_server:jobs"]
    with _running(command, environment) as process:
        worker, begin = psutil.Process(process.pid), time.monotonic()
        measured = _loaded(server, cell, context, "--fast", "/job")
        measured.values["worker_cpus"] = _cpu_seconds(worker) / (time.monotonic() - begin)
    return measured


def _loaded(server: Server, cell: Parameters, context: Context, *more: str) -> Measured:
    result = load(
        server,
        *("--fast", "/fast", *more, "--rate", str(_RATE), "--timeout", str(_TIMEOUT_SECONDS)),
        seconds=context.seconds,
        warm_up=_QUICK_WARM_UP_SECONDS if context.settings.is_quick else _WARM_UP_SECONDS,
    )
    measured = Measured(cell, health=result["health"], disturbed=disturbances(result["health"]))
    for name, stream in zip(("fast", "job"), result["fast"], strict=False):
        measured.samples[f"{name}_ms"] = latencies(stream)
        measured.values[f"{name}_failed_share"] = failed_share(stream)
    return measured


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and all below it."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


scenario = Scenario(
    name="fast_beside_jobs",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        *quantiles("job_ms", "enqueueing request {}, ms"),
        Metric("fast_failed_share", "/fast failed, %", factor=100),
        Metric("job_failed_share", "enqueueing requests failed, %", factor=100),
        Metric("worker_cpus", "CPUs of the worker program", better=None),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=tuple(
        Claim(
            text=f"`/fast` p99 with jobs on {store}, times that without",
            value="fast_ms p99",
            parameters={"store": store, "jobs": _BUSY},
            relation="at most",
            limit=1.3,
            reference=OURS,
            reference_parameters={"store": store, "jobs": _IDLE},
        )
        for store in stores.STORES
    ),
    plots=(
        Plot(
            "curves",
            "fast_ms",
            "Latency of /fast, jobs on SQLite",
            "Less is better; all percentiles.",
            where=(("store", "sqlite"), ("jobs", _BUSY)),
        ),
    ),
    only=(OURS,),
    repetitions=3,
    seconds=10.0,
    quick_seconds=1.0,
    timeout_ms=_TIMEOUT_SECONDS * 1e3,
)

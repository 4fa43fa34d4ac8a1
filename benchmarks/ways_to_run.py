"""What does each way to run scheduled and heavy work cost, and what does a crash take down with it?

Varied: how a function runs: inline on the event loop, in a thread of the server, on the pool of the
server's program, or as jobs in a worker program. Held: one web server process (uvicorn on uvloop),
about 200 ms of pure computation per run, two workers where there are any. Measured on one server,
one after the other: `/fast` with nothing to do and beside a fire each second, in turns, and what
each program weighs then; eight closed-loop clients that have work done; a run that crashes its
process while another one is under way; SIGKILL for the program that computes, in the midst of a
run, where a process manager starts again what has ended after a second; and eight clients once more
on one worker. Refuted if `/fast` is not answered for any time because a run on the pool or as a job
crashes, if a run that is a job is lost when its program is killed, or if two workers do less than
1.6 times the work of one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.suite.contenders import OURS
from benchmarks.suite.load import disturbances, failed_share, latencies
from benchmarks.suite.scenario import Claim, Measured, Metric, Plot, Scenario, quantiles
from benchmarks.ways_programs import running
from benchmarks.ways_windows import FIRES, IDLE, PATIENCE_SECONDS, asked, windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings
    from benchmarks.ways_programs import Programs

CLIENTS, CRASH, KILL = "8 clients", "a run crashes", "its program is killed"
_HEAVY_MS = 200
_HEAVY_CLIENTS = 8
# So that what is under way is so when the harm is done, on a busy machine, too.
_BYSTANDER_MS = 1500
_HARM_AT_SECONDS = 1.0
_CRASH_RATE = 50
# More than the lease of a job, after which another attempt begins.
_LATEST_SECONDS = 30.0
_LOOK_SECONDS = 0.05


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """Return them in the order in which they are measured."""
    loads = (IDLE, FIRES, CLIENTS, CRASH, KILL)
    return [*({"load": each, "workers": 2} for each in loads), {"load": CLIENTS, "workers": 1}]


def measure(
    contender: Contender, given: Sequence[Parameters], context: Context
) -> Iterator[Measured]:
    """Measure all on one server, and the last one on another."""
    idle, fires, clients, crash, kill, one = given
    loops = context.loops(contender, _HEAVY_MS)
    per_ms = context.loops(contender, 1)
    with running(contender, 2, loops) as programs:
        yield from windows(programs, idle, fires, context)
        yield context.undisturbed(lambda: under_load(programs, clients, loops, context.seconds))
        # What is harmed is not measured to the millisecond: no reason to do it twice.
        yield harmed(programs, crash, per_ms, context.seconds)
        yield harmed(programs, kill, per_ms, context.seconds)
    with running(contender, 1, loops) as programs:
        yield context.undisturbed(lambda: under_load(programs, one, loops, context.seconds))


def under_load(programs: Programs, cell: Parameters, loops: int, seconds: float) -> Measured:
    """Measure while clients have work done."""
    heavy = ("--heavy", f"/work?n={loops}", "--clients", str(_HEAVY_CLIENTS), "--hang-up")
    result = asked(programs, *heavy, seconds=seconds)
    (fast,), health = result["fast"], result["health"]
    # What is left of the work, so that it does not count for the next.
    programs.await_answer()
    return Measured(
        cell,
        values={
            "work_per_second": result["heavy"]["per_second"],
            "work_round_trip_ms": _middle(result["heavy"]["round_trip_ms"]),
        },
        samples={"fast_ms": latencies(fast)},
        health=health,
        disturbed=disturbances(health),
    )


def harmed(programs: Programs, cell: Parameters, per_ms: int, seconds: float) -> Measured:
    """Crash a run, or kill the program that computes; tell what was lost."""
    path = programs.folder / f"{cell['load']}.txt".replace(" ", "-")
    server = programs.server
    bystander = f"/work?n={per_ms * _BYSTANDER_MS}&path={path}"

    def ask(what: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            server.ask_text(what, timeout=_LATEST_SECONDS)

    def harm() -> None:
        time.sleep(_HARM_AT_SECONDS)
        if cell["load"] == CRASH:
            ask("/crash")
        else:
            programs.all[-1].kill()

    asking = [
        threading.Thread(target=ask, args=(bystander,), daemon=True),
        threading.Thread(target=harm, daemon=True),
    ]
    for each in asking:
        each.start()
    length = max(seconds, 2 * _HARM_AT_SECONDS) + 2.0
    result = asked(programs, seconds=length, rate=_CRASH_RATE)
    (fast,), health = result["fast"], result["health"]
    lost = 0.0 if _comes(path) else 1.0
    for each in asking:
        each.join(_LATEST_SECONDS)
    programs.await_answer()
    return Measured(
        cell,
        values={
            "unanswered_seconds": failed_share(fast) * length,
            "runs_lost": lost,
        },
        health=health,
    )


def _comes(path: Any) -> bool:
    """Return whether the run that was under way has ended, in time."""
    deadline = time.monotonic() + _LATEST_SECONDS
    while time.monotonic() < deadline:
        if path.exists():
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _middle(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _no_silence(contender: str, where: str) -> Claim:
    return Claim(
        text=f"seconds without an answer of `/fast`, because a run {where} crashes",
        value="unanswered_seconds",
        parameters={"load": CRASH},
        relation="at most",
        limit=0.0,
        contender=contender,
    )


def _scales(contender: str, where: str) -> Claim:
    return Claim(
        text=f"work with two workers {where}, times that with one",
        value="work_per_second",
        parameters={"load": CLIENTS, "workers": 2},
        relation="at least",
        limit=1.6,
        contender=contender,
        reference=contender,
        reference_parameters={"load": CLIENTS, "workers": 1},
    )


_BOTH = (("load", CLIENTS),)
scenario = Scenario(
    name="ways_to_run",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        *quantiles("fast_ms", "/fast {}, ms", headline=0.99),
        Metric("fast_p99_ratio", "/fast p99, times idle"),
        Metric("start_ms", "runs begin late by, p50, ms", fraction=0.5),
        Metric("work_per_second", "runs/s", better="more", is_headline=True),
        Metric("work_round_trip_ms", "round trip of a run, p50, ms"),
        Metric("web_processes", "web: processes", better=None),
        Metric("web_threads", "web: threads", better=None),
        Metric("web_pss_bytes", "web: memory, MiB PSS", factor=2**-20),
        Metric("web_cpu_share", "web: CPU, %", better=None, factor=100),
        Metric("worker_processes", "worker program: processes", better=None),
        Metric("worker_threads", "worker program: threads", better=None),
        Metric("worker_pss_bytes", "worker program: memory, MiB PSS", better=None, factor=2**-20),
        Metric("worker_cpu_share", "worker program: CPU, %", better=None, factor=100),
        Metric("unanswered_seconds", "/fast not answered for, s", is_headline=True),
        Metric("runs_lost", "runs lost that were under way", is_headline=True),
    ),
    cells=cells,
    measure=measure,
    claims=(
        _no_silence(OURS, "on the pool"),
        _no_silence("offload-jobs", "as a job"),
        Claim(
            text="runs lost when the program is killed that runs the job",
            value="runs_lost",
            parameters={"load": KILL},
            relation="at most",
            limit=0.0,
            contender="offload-jobs",
        ),
        _scales(OURS, "of the pool"),
        _scales("offload-jobs", "as jobs"),
    ),
    plots=(
        Plot(
            "dots",
            "fast_ms p99",
            "/fast p99 while a function fires each second",
            "Less is better. The axis is logarithmic.",
            where=(("load", FIRES),),
        ),
        Plot(
            "dots",
            "work_per_second",
            "Runs of 200 ms per second for eight clients, by the number of workers",
            "More is better. 10 a second is what two cores could do with nothing else to do.",
            where=_BOTH,
            is_log=False,
        ),
    ),
    only=("inline", "run_in_threadpool", OURS, "offload-jobs"),
    repetitions=2,
    seconds=4.0,
    quick_seconds=1.5,
    timeout_ms=PATIENCE_SECONDS * 1e3,
)

"""`/fast` without fires and with them, in turns, and what the programs weigh meanwhile."""

from __future__ import annotations

import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.suite.load import disturbances, load
from benchmarks.suite.scenario import Measured
from offload._bench.machine import read, usage

if TYPE_CHECKING:
    from benchmarks.suite.scenario import Context, Parameters
    from benchmarks.ways_programs import Program, Programs

IDLE, FIRES = "idle", "a fire each second"
FAST_RATE = 400
PATIENCE_SECONDS = 10
_WARM_UP_SECONDS = 0.4
_TURN_SECONDS = 2.0
_FIRST_SECONDS = 2.5


def windows(
    programs: Programs, idle: Parameters, fires: Parameters, context: Context
) -> list[Measured]:
    """Return what `/fast` was like without fires and with them, in turns of two seconds."""
    found: list[Measured] = []

    def once() -> Measured:
        found[:] = _windows(programs, idle, fires, context.seconds)
        return Measured({}, disturbed=list(found[0].disturbed))

    both = context.undisturbed(once)
    for each in found:
        each.attempts = both.attempts
    return found


def asked(programs: Programs, *more: str, seconds: float, rate: int = FAST_RATE) -> dict[str, Any]:
    """Return what the generator tells of `/fast` of these programs."""
    arguments = [
        *("--fast", "/fast", "--rate", str(rate), "--timeout", str(PATIENCE_SECONDS)),
        *more,
    ]
    if programs.worker is not None:
        # The other one is given by `load`.
        arguments += ["--server-pid", str(programs.worker.process.pid)]
    return load(programs.server, *arguments, seconds=seconds, warm_up=_WARM_UP_SECONDS)


def _windows(
    programs: Programs, idle: Parameters, fires: Parameters, seconds: float
) -> list[Measured]:
    server = programs.server
    # The first of all fires finds cold caches, and node-cron forks a process before it.
    server.ask_text("/fires?on=1")
    time.sleep(_FIRST_SECONDS)
    server.ask_text("/fires?on=0")
    server.ask("/starts")
    turns = max(round(seconds / _TURN_SECONDS), 1)
    with ThreadPoolExecutor(1) as thread:
        length = 2 * _TURN_SECONDS * (turns + 1) + 1.0
        loading = thread.submit(asked, programs, seconds=length)
        spans, used = _take_turns(programs, turns)
        result = loading.result()
    (fast,), health = result["fast"], result["health"]
    both = [Measured(idle), Measured(fires)]
    for measured, its_spans in zip(both, spans, strict=True):
        measured.health, measured.disturbed = health, disturbances(health)
        found = [
            (at, took)
            for at, took in zip(fast["intended_ms"], fast["latency_ms"], strict=True)
            if took is not None
            and any(low <= result["started_monotonic"] + at / 1e3 < high for low, high in its_spans)
        ]
        measured.times["fast_ms"] = [at for at, _ in found]
        measured.samples["fast_ms"] = [took for _, took in found]
    starts = server.ask("/starts")
    p99 = [_quantile(each.samples["fast_ms"], 0.99) for each in both]
    both[1].samples["start_ms"] = starts
    both[1].values = {**used, "fires": float(len(starts)), "fast_p99_ratio": p99[1] / p99[0]}
    return both


def _take_turns(
    programs: Programs, turns: int
) -> tuple[tuple[list[tuple[float, float]], list[tuple[float, float]]], dict[str, float]]:
    """Have a function fire for two seconds of four; return the spans without and with fires."""
    server = programs.server
    # After the warm-up. Fires come at whole seconds of the wall clock.
    begin = math.ceil(time.time() + 1.0)
    off = time.monotonic() - time.time()
    spans: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    told: list[dict[str, float]] = []
    for turn in range(turns):
        at = begin + 2 * _TURN_SECONDS * turn
        for is_loaded, offset in ((True, 0.0), (False, _TURN_SECONDS)):
            # Between two fires: what was begun has ended by then, if it can.
            _sleep_until(at + offset + 0.5)
            server.ask_text(f"/fires?on={int(is_loaded)}")
            _sleep_until(at + offset + 0.8)
            # In both kinds of turn: it takes CPU as well.
            watched = _Watched(programs)
            _sleep_until(at + offset + 0.7 + _TURN_SECONDS)
            used = watched.told()
            span = (at + offset + 0.8 + off, at + offset + 0.7 + _TURN_SECONDS + off)
            spans[is_loaded].append(span)
            if is_loaded:
                told.append(used)
    medians = {name: statistics.median(each[name] for each in told) for name in told[0]}
    return spans, medians


def _sleep_until(at: float) -> None:
    time.sleep(max(at - time.time(), 0.0))


class _Watched:
    """What the programs use between its making and `told`."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._before, self._begin = read(), time.monotonic()

    def told(self) -> dict[str, float]:
        """Return processes, threads, memory and CPU of each program."""
        after, elapsed = read(), time.monotonic() - self._begin
        found: dict[str, float] = {}
        for name, program in (("web", self._programs.web), ("worker", self._programs.worker)):
            if program is None:
                continue
            count, threads, memory = program.weight()
            found |= {
                f"{name}_processes": float(count),
                f"{name}_threads": float(threads),
                f"{name}_pss_bytes": memory,
            }
            if self._before is not None and after is not None:
                used = usage(self._before, after, [_pid(program)])
                found[f"{name}_cpu_share"] = used.tree / elapsed
        return found


def _pid(program: Program) -> int:
    return program.process.pid


def _quantile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * fraction) - 1, 0)]

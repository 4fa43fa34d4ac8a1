"""The headline, measured: idle, then under heavy load, in rounds that alternate.

```
round 1: idle, loaded    round 2: loaded, idle    round 3: idle, loaded    …
```

What drifts, a machine that gets warm or a cache that fills, so falls on both alike. A round that
others disturbed is repeated, and a limit that is neither clearly kept nor clearly exceeded gets
more rounds, up to `Settings.max_rounds` in all.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._bench.machine import pss_bytes
from offload._bench.result import Cell, Result, Round, counted
from offload._bench.subject import SubjectError

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload._bench.result import Settings
    from offload._bench.subject import Subject

__all__ = ["facts", "measure"]

_STARTING_SECONDS = 0.5  # What a generator takes to start and to wait for the last answers.
_TICK_SECONDS = 0.2  # Between two looks at the clock, for the display only.


def measure(
    subject: Subject,
    settings: Settings,
    *,
    alone_ms: float,
    tell: Callable[[str, float], None] = lambda _label, _left: None,
) -> Result:
    """Measure; takes as many rounds as are asked for or, if need be, more.

    Args:
        subject: the server, which has answered both paths before.
        settings: what to measure, and how.
        alone_ms: what is known of a single heavy request.
        tell: called with what is being done and how many seconds are left, again and again.

    Raises:
        SubjectError: the generator found nothing to measure.
    """
    started_at = time.time()
    rounds: list[Round] = []
    cell_seconds = settings.seconds + settings.warm_up + _STARTING_SECONDS
    while True:
        number = len(rounds) + 1
        planned = max(settings.rounds, number)
        kinds = [0, settings.clients]
        cells: dict[int, Cell] = {}
        for index, clients in enumerate(kinds if number % 2 else reversed(kinds)):
            label = f"{clients} heavy clients" if clients else "idle"
            label = f"round {number} of {planned}: {label}"
            left = (2 * (planned - number + 1) - index) * cell_seconds
            show = partial(_show, tell, label, left)
            cells[clients] = _cell(subject, settings, clients, show)
        rounds.append(Round(cells[0], cells[settings.clients]))
        if len(rounds) < settings.rounds:
            continue
        kept = _kept(rounds, settings.rounds)
        is_last = len(rounds) >= settings.max_rounds
        if not is_last and any(each.is_disturbed for each in kept):
            continue
        tell("computing intervals", 0.0)
        _add_beats(subject, kept, settings.seconds)
        result = Result(
            settings=settings,
            name=subject.name,
            facts=facts(subject),
            started_at=started_at,
            rounds=kept,
            dropped=len(rounds) - len(kept),
            alone_ms=alone_ms,
        )
        if is_last or result.is_decided:
            return result


def _show(tell: Callable[[str, float], None], label: str, left: float, spent: float) -> None:
    tell(label, max(left - spent, 0.0))


def _kept(rounds: list[Round], wanted: int) -> list[Round]:
    """Return the rounds that count: all that were not disturbed, else as many as are wanted."""
    clean = [each for each in rounds if not each.is_disturbed]
    if len(clean) >= wanted:
        return clean
    # Those that were disturbed first are replaced first.
    disturbed = [each for each in rounds if each.is_disturbed]
    del disturbed[: len(rounds) - wanted]
    dropped = {id(each) for each in rounds} - {id(each) for each in (*clean, *disturbed)}
    return [each for each in rounds if id(each) not in dropped]


def _cell(
    subject: Subject, settings: Settings, clients: int, show: Callable[[float], None]
) -> Cell:
    load = _generate(_command(subject, settings, clients), show)
    if not any(latency is not None for latency in load["fast"][0]["latency_ms"]):
        failures = counted(load["fast"][0]["errors"])
        raise SubjectError(
            f"no request of {settings.fast.path} was answered any more ({failures}): the server "
            f"has gone away, or refuses the load\n{subject.last_words()}".rstrip()
        )
    return Cell(clients, load, None, pss_bytes(subject.pids) if subject.pids else None)


def _add_beats(subject: Subject, rounds: list[Round], seconds: float) -> None:
    """Give each cell the beats of its time, late enough that they all have arrived."""
    if subject.beats is None:
        return
    for cell in (cell for each in rounds for cell in (each.idle, each.loaded)):
        start = cell.load["started_monotonic"]
        cell.beats = [beat for beat in subject.beats if start <= beat.at <= start + seconds]


def _command(subject: Subject, settings: Settings, clients: int) -> list[str]:
    heavy = settings.heavy
    command = [
        # -P: a module of the user's folder must not stand in for one of the standard library.
        *(sys.executable, "-P", "-m", "offload._bench.load", subject.base),
        *("--fast", settings.fast.url, "--rate", str(settings.rate)),
        *("--seconds", str(settings.seconds), "--warm-up", str(settings.warm_up)),
        *("--timeout", str(settings.timeout)),
        *(f"--header={name}: {value}" for name, value in settings.fast.headers),
        *(f"--server-pid={pid}" for pid in subject.pids),
    ]
    if clients:
        command += ["--heavy", heavy.url, "--heavy-method", heavy.method, "--clients", str(clients)]
        if settings.heavy_body is not None:
            command += ["--heavy-body", settings.heavy_body]
    return command


def _generate(command: list[str], show: Callable[[float], None]) -> dict[str, Any]:
    """Run the generator; return its output."""
    started = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdout=subprocess.PIPE,
        # A group of its own for Linux's autogroup scheduling as well: the generator's share of the
        # CPUs is then not that of a session in which heavy work runs.
        start_new_session=os.name == "posix",
    ) as process:
        try:
            while True:
                show(time.monotonic() - started)
                try:
                    output, _ = process.communicate(timeout=_TICK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise SubjectError(f"the load generator ended with {process.returncode}; see above")
    result: dict[str, Any] = json.loads(output)
    return result


def facts(subject: Subject) -> dict[str, str]:
    """Return what a reader must know of server and machine to judge the numbers."""
    return {
        **(subject.facts or {}),
        "machine": f"{platform.system()} {platform.release()}, {platform.machine()}, "
        f"{os.cpu_count()} CPUs",
        "Python": platform.python_version(),
    }

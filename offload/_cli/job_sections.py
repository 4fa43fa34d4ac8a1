"""The tables of jobs on the screen of `offload top`: the queues, and what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from offload._cli.fitting import Column
from offload._cli.formats import printable, seconds_text
from offload._cli.sections import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offload._cli.sections import Frame

__all__ = ["job_sections"]

# With the rank of its column: what is over is dropped first.
_STATES: Final = {
    "waiting": 1,
    "delayed": 3,
    "active": 2,
    "failed": 2,
    "cancelled": 5,
    "completed": 4,
}
_STYLES: Final = {"waiting": "yellow", "active": "bold yellow", "failed": "red"}
_COUNT: Final = 9


def job_sections(frame: Frame) -> list[Section]:
    """Return them; none where the server told of no jobs."""
    jobs = frame.state.get("jobs")
    if not jobs:
        return []
    return [each for each in (_queues(jobs), _active(frame, jobs)) if each.rows]


def _queues(jobs: Mapping[str, Any]) -> Section:
    columns = [
        Column("QUEUE", keeps_end=True),
        *(Column(state.upper(), rank, _COUNT, is_number=True) for state, rank in _STATES.items()),
    ]
    section = Section(columns, weight=2)
    # Those first in which most jobs wait.
    for queue in sorted(jobs["queues"], key=lambda each: (-each["waiting"], each["name"])):
        name = Text(printable(queue["name"]), "bold")
        if queue["is_paused"]:
            name = Text("paused ", "bold red").append(name)
        counts = [
            Text(f"{queue[state]:,}" if queue[state] else "", _STYLES.get(state, ""))
            for state in _STATES
        ]
        section.rows.append([name, *counts])
    return section


def _active(frame: Frame, jobs: Mapping[str, Any]) -> Section:
    columns = [
        Column("JOB", 3, keeps_end=True),
        Column("FUNCTION", keeps_end=True),
        Column("FOR", 1, 7, is_number=True),
        Column("DONE", 2, 5, is_number=True),
        Column("TRY", 4, 3, is_number=True),
        Column("PROGRAM", 5, keeps_end=True),
    ]
    section = Section(columns, weight=2, noted=1)
    for job in jobs["active"]:
        if not frame.view.has_name(job["function"]):
            continue
        ran = jobs["at"] - (job["started_at"] or jobs["at"])
        section.rows.append(
            [
                Text(printable(job["id"])),
                Text(printable(job["function"])),
                Text(seconds_text(max(ran, 0.0))),
                Text(_share(job["progress"])),
                Text(str(job["attempts"] + job["crashes"] + 1)),
                Text(printable(job["worker"])),
            ]
        )
    return section


def _share(progress: tuple[float, float | None] | None) -> str:
    if progress is None:
        return ""
    done, total = progress
    return f"{min(max(done / total, 0.0), 1.0):.0%}" if total else f"{done:g}"

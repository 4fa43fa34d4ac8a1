"""What a check has found, and how it is shown: to a person, or as JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Finding",
    "Level",
    "as_json",
    "as_text",
    "count",
    "duration",
    "found",
    "mebibytes",
    "paint",
    "wants_colors",
    "worst",
]

# Lines of explanations are read best up to here, however wide the terminal is.
_WIDTH = 100
# Beside the level and the arrow of an advice.
_MARGIN = 10
_COLORS = {"green": 32, "yellow": 33, "red": 31, "bold": 1, "dim": 2}


class Level(Enum):
    """How bad it is, mildest first."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of one check.

    Attributes:
        level: how bad it is.
        section: under which heading it is shown.
        check: the name of the check, for programs; the same check may find several things.
        text: what was found, with its figures.
        advice: what to do about it, empty where nothing is to be done.
        facts: the figures, for programs; only what JSON has.
    """

    level: Level
    section: str
    check: str
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def found(level: Level, section: str, check: str, text: str, advice: str = "") -> Finding:
    """Return a finding that has no figures for programs."""
    return Finding(level=level, section=section, check=check, text=text, advice=advice)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level of all; OK where nothing was found."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def as_json(subject: str, findings: Sequence[Finding]) -> str:
    """Return all findings as one JSON document."""
    shown = [asdict(finding) | {"level": finding.level.value} for finding in findings]
    document = {"subject": subject, "level": worst(findings).value, "findings": shown}
    return json.dumps(document, indent=2)


def as_text(findings: Sequence[Finding], *, colors: bool) -> str:
    """Return all findings as lines for a terminal, under the headings of their sections."""
    lines: list[str] = []
    for section in dict.fromkeys(finding.section for finding in findings):
        lines += ["", paint(section, "bold", colors=colors)]
        for finding in findings:
            if finding.section == section:
                lines += _lines_of(finding, colors=colors)
    counts = {level: sum(each.level is level for each in findings) for level in Level}
    lines += ["", ", ".join(f"{count} {level.value}" for level, count in counts.items())]
    return "\n".join(lines[1:])


def _lines_of(finding: Finding, *, colors: bool) -> list[str]:
    color = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}[finding.level]
    label = paint(f"{finding.level.value:<4}", color, colors=colors)
    first, *others = _wrapped(finding.text)
    lines = [f"  {label}  {first}", *(f"        {line}" for line in others)]
    if finding.advice:
        first, *others = _wrapped(finding.advice)
        lines += [f"        → {first}", *(f"          {line}" for line in others)]
    return lines


def _wrapped(text: str) -> list[str]:
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns) - _MARGIN
    # Line by line: what an error says keeps its own lines. Names and paths stay whole.
    lines = [
        part
        for line in text.splitlines() or [""]
        for part in textwrap.wrap(
            line,
            max(width, 2 * _MARGIN),
            break_on_hyphens=False,
            break_long_words=False,
            subsequent_indent=_indent_of(line),
        )
    ]
    return lines or [""]


def _indent_of(line: str) -> str:
    return " " * (len(line) - len(line.lstrip()))


def paint(text: str, color: str, *, colors: bool) -> str:
    """Return `text` with the escape sequences of a terminal around it, if `colors`."""
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m" if colors else text


def wants_colors() -> bool:
    """Return whether standard output is a terminal that shows colours (https://no-color.org)."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def count(number: int, what: str, plural: str = "s") -> str:
    """Return a number with what it counts, in the plural unless it is one."""
    return f"{number} {what}{'' if number == 1 else plural}"


def duration(seconds: float) -> str:
    """Return seconds for people."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def mebibytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 2**20:,.0f} MiB"

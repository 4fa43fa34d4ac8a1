"""Renders raw results: README.md beside the scenarios, and the plots. Nothing in it is typed.

Where somebody is better than `offload`, that comes first: found in the results, by the interval of
the ratio.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.suite import catalogue, plots
from benchmarks.suite.contenders import CONTENDERS, OURS
from benchmarks.suite.results import Results, ResultsError, describe, read
from benchmarks.suite.statistics import Interval, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from benchmarks.suite.results import Cell
    from benchmarks.suite.scenario import Claim, Metric, Parameters, Scenario
    from benchmarks.suite.statistics import Estimate

BEGIN = "<!-- benchmarks: rendered by `python -m benchmarks report --readme README.md` -->"
END = "<!-- benchmarks: end -->"
_HEADLINE = "fast_under_heavy"
_HEADLINE_CELL = (("heavy_clients", 8),)
_HEADLINE_COLUMNS = (
    "fast_ms p50",
    "fast_ms p99",
    "fast_ms p99.9",
    "heavy_per_second",
    "pss_bytes",
)
_HOLDS, _REFUTED, _UNDECIDED, _OPEN = "holds", "**REFUTED**", "undecided", "not measured"
# What was measured once varies by nobody knows how much.
_HELD_ONCE, _MISSED_ONCE = "held the one time", "**MISSED** the one time"
# A difference that is smaller is not worth a sentence, however sure it is.
_WORTH_TELLING = 1.02
# Without an interval, a difference has to be larger to be told.
_WORTH_TELLING_ONCE = 1.10


@dataclass(frozen=True, slots=True)
class Loss:
    """A contender that is better than ours in one metric of one cell; `times` as good."""

    scenario: str
    metric: Metric
    parameters: tuple[tuple[str, int | float | str], ...]
    rival: str
    ours: float
    theirs: float
    times: Interval

    def text(self) -> str:
        """Return it for readers."""
        where = describe(self.parameters)
        at = f"at {where}: " if where else ""
        theirs, ours = (number(each * self.metric.factor) for each in (self.theirs, self.ours))
        return f"{at}{theirs} with {self.rival}, {ours} with offload ({times(self.times)})"


def report(
    files: Sequence[Path], folder: Path, output: Path, readme: Path | None = None
) -> list[Path]:
    """Render raw results.

    Args:
        files: raw results; none: the newest of each scenario in `folder`.
        folder: of the raw results.
        output: where README.md and the folder of plots are written.
        readme: a file with the two marker comments, between which the headline is put.

    Returns:
        what was written.

    Raises:
        ResultsError: there are no raw results, or `readme` has no marker comments.
    """
    found = [read(path) for path in files] or newest(folder)
    if not found:
        raise ResultsError(f"no raw results in {folder}: `python -m benchmarks run` makes them")
    found.sort(key=lambda results: catalogue.NAMES.index(results.scenario))
    pictures = output / "plots"
    pictures.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    sections: list[str] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        drawn: list[tuple[str, str, str]] = []
        for index, plot in enumerate(scenario.plots):
            path = pictures / f"{scenario.name}-{index + 1}-{plot.kind}.svg"
            if plots.draw(scenario, results, plot, path):
                written.append(path)
                drawn.append((plot.title, f"plots/{path.name}", plot.caption))
        sections.append(section(scenario, results, drawn))
    page = output / "README.md"
    page.write_text("\n\n".join([head(found), *sections]) + "\n", encoding="utf-8")
    written.append(page)
    if readme is not None:
        headline = next((each for each in found if each.scenario == _HEADLINE), None)
        if headline is None:
            raise ResultsError(f"there are no raw results of {_HEADLINE} to put into {readme}")
        insert(readme, f"{headline_text(headline, page)}\n\n{promises(found)}")
        written.append(readme)
    return written


def newest(folder: Path) -> list[Results]:
    """Return the newest raw results of each scenario in a folder."""
    latest: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json")):
        name = path.name.rpartition("-")[0]
        if name in catalogue.NAMES:
            latest[name] = path
    return [read(path) for path in latest.values()]


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{min(digits, 3)}f}"


def times(interval: Interval) -> str:
    """Return a ratio with its interval."""
    if math.isinf(interval.value):
        return "which is none"
    if math.isnan(interval.low):
        return f"× {interval.value:.2f}, one repetition, no interval"
    return f"× {interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def told(scenario: Scenario, metric: Metric, estimate: Estimate) -> str:
    """Return an estimate for a table: value and 95 % interval."""
    fraction = 0.5 if metric.fraction is None else metric.fraction
    found = estimate.interval(fraction)
    value, low, high = (each * metric.factor for each in found)
    limit = scenario.timeout_ms if metric.key.endswith("_ms") else metric.given_up_at
    if limit is not None and found.value >= limit:
        # Whoever had waited so long left: the true value is unknown, and above this.
        return f"≥ {number(limit * metric.factor)}"
    if math.isnan(low) or low == high:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def losses(scenario: Scenario, results: Results) -> list[Loss]:
    """Return who is better than ours, in the headline metrics of a scenario, the worst first."""
    found: list[Loss] = []
    for cell in results.cells():
        if cell[0] == OURS:
            for metric in scenario.metrics:
                if metric.is_headline and metric.better is not None:
                    found += _losses_in(scenario, results, cell, metric)
    found.sort(key=lambda loss: -abs(math.log(max(loss.times.value, 1e-9))))
    return found


def _losses_in(scenario: Scenario, results: Results, cell: Cell, metric: Metric) -> list[Loss]:
    ours = results.estimate(cell, metric, scenario.metrics)
    found: list[Loss] = []
    if ours is None:
        return found
    fraction = 0.5 if metric.fraction is None else metric.fraction
    for name in results.contenders:
        rival = name, cell[1]
        if CONTENDERS[name].is_ours or rival not in results.cells():
            continue
        theirs = results.estimate(rival, metric, scenario.metrics)
        if theirs is None:
            continue
        # How many times as good as ours: above 1 we lose, whichever way the metric goes.
        if metric.better == "more":
            compared = ratio(ours, theirs, fraction)
        else:
            compared = ratio(theirs, ours, fraction)
        sure = compared.low > 1 if not math.isnan(compared.low) else None
        enough = _WORTH_TELLING if sure else _WORTH_TELLING_ONCE
        if sure is False or not compared.value > enough:
            continue
        found.append(
            Loss(
                scenario.name,
                metric,
                cell[1],
                results.label(name),
                ours.value(fraction),
                theirs.value(fraction),
                compared,
            )
        )
    return found


def losses_text(found: Iterable[Results]) -> str:
    """Return where somebody is better than ours: a line for each metric, with the worst case."""
    lines: list[str] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        by_metric: dict[str, list[Loss]] = {}
        for loss in losses(scenario, results):
            by_metric.setdefault(loss.metric.label, []).append(loss)
        for label, all_of_it in by_metric.items():
            rivals = list(dict.fromkeys(loss.rival for loss in all_of_it))
            line = f"- **{scenario.name}, {label}**: {all_of_it[0].text()}."
            if len(all_of_it) > 1:
                line = line.replace("**: ", "**, at worst ", 1)
                line += f" Better in at least one case: {'; '.join(rivals)}."
            lines.append(line)
    return "\n".join(lines) or "Nowhere in these results."


def head(found: Sequence[Results]) -> str:
    """Return the top of the page."""
    machine = found[0].document["machine"]
    virtual = ", a virtual machine" if machine["is_virtual"] else ""
    commits = sorted({str(each.document["commit"])[:10] for each in found})
    changed = any(each.document["is_changed"] for each in found)
    return f"""# Benchmarks

<!-- Rendered by `python -m benchmarks report` from the raw results; do not edit. -->

## Where offload loses

{losses_text(found)}

"offload" alone is the default on Linux: workers from a fork server, at idle priority. Numbers in
brackets are 95 % intervals, of ratios too, by drawing repetitions anew; of two or three repetitions
they are not much more than the range of these, and cover less, some 60 to 80 %. A difference whose
interval includes 1 is not listed, nor one below {_WORTH_TELLING - 1:.0%}.

## How this was measured

{machine["cpu"]}, {machine["cpus"]} CPUs{virtual}, {machine["memory_bytes"] / 2**30:.0f} GiB,
{machine["kernel"]}, Python {machine["python"]},
{", ".join(f"{name} {version}" for name, version in machine["versions"].items())};
commit {", ".join(commits)}{" with uncommitted changes" if changed else ""}. Other machines give
other numbers: make your own with

```sh
pip install -e . --group bench && (cd benchmarks/node && npm ci)
python -m benchmarks run fast_under_heavy --minutes 12  # the headline, within 15 minutes
python -m benchmarks run                                # everything, some two hours
python -m benchmarks report
```

- Load comes from a process of its own. `/fast` is an open loop: latency counts from the intended
  send time, so that a frozen server is charged for all that it kept waiting.
- Contenders take turns within each repetition, so that a noisy minute is noisy for all of them.
- Where the hypervisor or other processes took CPU meanwhile, a cell is measured again; what
  stayed disturbed is counted below each scenario.
- Intervals are bootstrapped over repetitions and, within them, stretches of neighbouring requests.
- [Raw results](results) have every repetition, with machine, versions, commit and settings.
  `python -m benchmarks compare BEFORE.json AFTER.json` tells a regression from noise."""


def section(scenario: Scenario, results: Results, drawn: Sequence[tuple[str, str, str]]) -> str:
    """Return what the page says of one scenario."""
    question, _, method = scenario.question.strip().partition("\n\n")
    parts = [f"## {scenario.name}", f"**{' '.join(question.split())}**", " ".join(method.split())]
    parts += [claims(scenario, results)] if scenario.claims else []
    for title, path, caption in drawn:
        parts.append(f"![{title}]({path})\n\n*{title}. {caption}*")
    groups: dict[tuple[tuple[str, int | float | str], ...], list[Cell]] = {}
    for cell in results.cells():
        groups.setdefault(cell[1], []).append(cell)
    for parameters, members in groups.items():
        table_text = table(scenario, results, members, scenario.metrics)
        if len(groups) == 1:
            parts.append(table_text)
        else:
            parts.append(
                f"<details><summary>{describe(parameters)}</summary>\n\n{table_text}\n\n</details>"
            )
    parts.append(notes(results))
    return "\n\n".join(parts)


def table(
    scenario: Scenario, results: Results, cells: Sequence[Cell], metrics: Iterable[Metric]
) -> str:
    """Return a table: a row for each cell, a column for each metric that any of them has."""
    columns = [
        metric
        for metric in metrics
        if any(results.estimate(cell, metric, scenario.metrics) for cell in cells)
    ]
    best = {metric.name: _best(scenario, results, cells, metric) for metric in columns}
    order = {name: index for index, name in enumerate(results.contenders)}
    lines = [
        "| " + " | ".join(["", *(metric.label for metric in columns)]) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for cell in sorted(cells, key=lambda cell: order[cell[0]]):
        entries = [results.label(cell[0])]
        for metric in columns:
            estimate = results.estimate(cell, metric, scenario.metrics)
            text = "–" if estimate is None else told(scenario, metric, estimate)
            entries.append(f"**{text}**" if cell in best[metric.name] else text)
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _best(
    scenario: Scenario, results: Results, cells: Sequence[Cell], metric: Metric
) -> list[Cell]:
    """Return the best cells of a column; none if all are equal, or nobody wins by it."""
    fraction = 0.5 if metric.fraction is None else metric.fraction
    values: dict[Cell, float] = {}
    for cell in cells:
        estimate = results.estimate(cell, metric, scenario.metrics)
        if estimate is not None:
            values[cell] = estimate.value(fraction)
    if metric.better is None or len(set(values.values())) < 2:
        return []
    best = (max if metric.better == "more" else min)(values.values())
    return [cell for cell, value in values.items() if value == best]


def claims(scenario: Scenario, results: Results) -> str:
    """Return what was promised, and whether it holds."""
    lines: list[str] = []
    for claim in scenario.claims:
        found = _claimed(scenario, results, claim)
        if found is None:
            lines.append(f"- {_OPEN}: {claim.text}")
        else:
            told = number(found.value)
            if not math.isnan(found.low) and found.low != found.high:
                told += f" [{number(found.low)}, {number(found.high)}]"
            lines.append(
                f"- {_verdict(claim, found)}: {claim.text} "
                f"({claim.relation} {claim.limit:.3g}): {told}"
            )
    return "\n".join(lines)


def _verdict(claim: Claim, found: Interval) -> str:
    """Return whether a claim holds; neither way if its interval has values of both kinds."""
    value, low, high = found
    if claim.relation == "at least":  # the same, mirrored
        value, low, high = -value, -high, -low
    limit = claim.limit if claim.relation == "at most" else -claim.limit
    if math.isnan(low):
        return _HELD_ONCE if value <= limit else _MISSED_ONCE
    if high <= limit:
        return _HOLDS
    return _REFUTED if low > limit else _UNDECIDED


def _claimed(scenario: Scenario, results: Results, claim: Claim) -> Interval | None:
    """Return the number that a claim is about, in the reader's unit; None: it was not measured."""
    metric = plots.metric_of(scenario, claim.value)
    fraction = 0.5 if metric.fraction is None else metric.fraction
    ours = _best_estimate(scenario, results, metric, claim.parameters, claim.contender)
    if claim.reference is None:
        if ours is None:
            return None
        value, low, high = ours.interval(fraction)
        return Interval(value * metric.factor, low * metric.factor, high * metric.factor)
    parameters = claim.reference_parameters
    theirs = _best_estimate(
        scenario,
        results,
        metric,
        claim.parameters if parameters is None else parameters,
        claim.reference,
    )
    if ours is None or theirs is None or not theirs.value(fraction):
        return None
    return ratio(theirs, ours, fraction)


def _best_estimate(
    scenario: Scenario, results: Results, metric: Metric, parameters: Parameters, contender: str
) -> Estimate | None:
    """Return the estimate of a contender's cell, the best if there are several."""
    wanted = [contender]
    if contender == "best":
        wanted = [each for each in results.contenders if not CONTENDERS[each].is_ours]
    fraction = 0.5 if metric.fraction is None else metric.fraction
    found: Estimate | None = None
    for cell in results.cells():
        if cell[0] in wanted and set(parameters.items()) <= set(cell[1]):
            estimate = results.estimate(cell, metric, scenario.metrics)
            if estimate is None:
                continue
            is_more = found is None or estimate.value(fraction) > found.value(fraction)
            if found is None or is_more == (metric.better == "more"):
                found = estimate
    return found


def notes(results: Results) -> str:
    """Return who is missing and why, what failed, and what was disturbed."""
    document = results.document
    lines: list[str] = []
    reasons: dict[str, list[str]] = {}
    for each in document["absent"]:
        reasons.setdefault(each["reason"], []).append(each["label"])
    lines += [f"- not measured: {'; '.join(who)}: {reason}." for reason, who in reasons.items()]
    failures: dict[tuple[str, str], int] = {}
    for each in document["failures"]:
        where = describe(each["parameters"].items())
        key = f"{results.label(each['contender'])}{', ' + where if where else ''}", each["error"]
        failures[key] = failures.get(key, 0) + 1
    lines += [
        f"- FAILED: {who}, {count} of {document['repetitions']} times: {error}"
        for (who, error), count in failures.items()
    ]
    rows = document["rows"]
    disturbed = [row for row in rows if row["disturbed"]]
    requests = [
        sum(len(row["samples"].get("fast_ms", ())) for row in results.rows(cell))
        for cell in results.cells()
    ]
    if any(requests):
        lines.append(
            f"- A cell has {min(requests):,} to {max(requests):,} requests of `/fast`: "
            f"{max(requests) / 1000:.1f} of them lie beyond p99.9."
        )
    told = f"{len(disturbed)} of {len(rows)} measurements were disturbed by others"
    if disturbed:
        who = {results.label(row["contender"]) for row in disturbed}
        told += f", of {len(who)} contenders, in the last of up to "
        told += f"{max(row['attempts'] for row in disturbed)} attempts"
    if not document["is_complete"]:
        lines.append("- The run was stopped before its end.")
    lines.append(
        f"- Repetitions: {document['repetitions']}, in {document['seconds']:,.0f} s; {told}. "
        f"[Raw results](results/{results.path.name})"
    )
    return "\n".join(lines)


def headline_text(results: Results, page: Path) -> str:
    """Return table and plot for a README."""
    scenario = catalogue.scenario(results.scenario)
    cells = [cell for cell in results.cells() if cell[1] == _HEADLINE_CELL]
    columns = [plots.metric_of(scenario, name) for name in _HEADLINE_COLUMNS]
    machine = results.document["machine"]
    worst: dict[str, Loss] = {}
    for loss in losses(scenario, results):
        if loss.parameters == _HEADLINE_CELL:
            worst.setdefault(loss.metric.label, loss)
    told_first = (
        "Where it loses first: "
        + "; ".join(f"{label}: {loss.text()}" for label, loss in worst.items())
        + "."
        if worst
        else "No contender is better in any of these columns by more than its interval."
    )
    folder = page.parent.name
    told_first += f" [Where it loses elsewhere]({folder}/README.md#where-offload-loses)."
    return f"""{told_first}

![/fast p99 as heavy clients come]({folder}/plots/{_HEADLINE}-1-lines.svg)

`/fast` is probed 200 times a second while 8 clients keep two workers busy with computations of
200 ms. {machine["cpu"]}, {machine["cpus"]} CPUs, Python {machine["python"]},
{results.document["repetitions"]} interleaved repetitions; in brackets 95 % intervals. Everything
else, and how to repeat it: [{folder}/README.md]({folder}/README.md).

{table(scenario, results, cells, columns)}"""


def promises(found: Sequence[Results]) -> str:
    """Return what all scenarios have promised, and whether it holds, for a README."""
    parts: list[str] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        if scenario.claims:
            parts.append(f"**{scenario.name}**\n\n{claims(scenario, results)}")
    text = "\n\n".join(parts)
    counts = [
        (text.count(f"\n- {verdict}:"), words)
        for verdict, words in (
            (_HOLDS, "hold"),
            (_REFUTED, "are refuted"),
            (_UNDECIDED, "cannot be decided from these results"),
            (_HELD_ONCE, "held the one time that they were measured"),
            (_MISSED_ONCE, "did not hold the one time that they were measured"),
            (_OPEN, "were not measured"),
        )
    ]
    told = ", ".join(f"{count} {words}" for count, words in counts if count)
    summary = f"What would refute each scenario; of these promises, {told}"
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def insert(path: Path, text: str) -> None:
    """Put text between the marker comments of a file.

    Raises:
        ResultsError: it has not both of them.
    """
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise ResultsError(
            f"{path} needs these two lines, where the headline is to be:\n{BEGIN}\n{END}"
        )
    block = f"{BEGIN}\n\n{text}\n\n{END}"
    path.write_text(pattern.sub(lambda _: block, before, count=1), encoding="utf-8")

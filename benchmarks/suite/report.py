"""Renders raw results: an index, a page for each scenario, plots. Nothing in it is typed.

Where somebody is better than `offload`, that comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.suite import catalogue, claims, headline, picture, plots, ways
from benchmarks.suite.losses import WORTH_TELLING, losses_text
from benchmarks.suite.results import ResultsError, describe, read
from benchmarks.suite.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Scenario

_RENDERED = "<!-- Rendered by `python -m benchmarks report` from the raw results; do not edit. -->"


def report(
    files: Sequence[Path],
    folder: Path,
    output: Path,
    readme: Path | None = None,
    ways_page: Path | None = None,
) -> list[Path]:
    """Render raw results.

    Args:
        files: raw results; none: the newest of each scenario in `folder`.
        folder: of the raw results.
        output: where the index (README.md) and the folders of pages and plots are written.
        readme: a file with the two marker comments, between which the headline is put.
        ways_page: likewise, for the figures of the ways to run work.

    Returns:
        what was written.

    Raises:
        ResultsError: there are no raw results, or `readme` has no marker comments.
    """
    found = [read(path) for path in files] or newest(folder)
    if not found:
        raise ResultsError(f"no raw results in {folder}: `python -m benchmarks run` makes them")
    found.sort(key=lambda results: catalogue.NAMES.index(results.scenario))
    pictures, pages = output / "plots", output / "pages"
    for each in (pictures, pages):
        each.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        drawn: list[tuple[str, str, str]] = []
        for index, plot in enumerate(scenario.plots):
            path = pictures / f"{scenario.name}-{index + 1}-{plot.kind}.svg"
            if plots.draw(scenario, results, plot, path):
                written.append(path)
                drawn.append((plot.title, f"../plots/{path.name}", plot.caption))
        path = pages / f"{scenario.name}.md"
        path.write_text(page(scenario, results, drawn) + "\n", encoding="utf-8")
        written.append(path)
    path = output / "README.md"
    path.write_text(index_page(found) + "\n", encoding="utf-8")
    written.append(path)
    first = next((each for each in found if each.scenario == headline.SCENARIO), None)
    if first is not None:
        written += picture.draw(first, pictures)
    if readme is not None:
        if first is None:
            raise ResultsError(f"there are no raw results of {headline.SCENARIO} for {readme}")
        headline.insert(readme, headline.text(first, output.name))
        written.append(readme)
    if ways_page is not None:
        told = ways.text({each.scenario: each for each in found})
        headline.insert(ways_page, told, ways.BEGIN, ways.END)
        written.append(ways_page)
    return written


def newest(folder: Path) -> list[Results]:
    """Return the newest raw results of each scenario in a folder."""
    latest: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json")):
        name = path.name.rpartition("-")[0]
        if name in catalogue.NAMES:
            latest[name] = path
    return [read(path) for path in latest.values()]


def index_page(found: Sequence[Results]) -> str:
    """Return the page about all scenarios."""
    machine = found[0].document["machine"]
    virtual = ", a virtual machine" if machine["is_virtual"] else ""
    commits = sorted({str(each.document["commit"])[:10] for each in found})
    changed = any(each.document["is_changed"] for each in found)
    return f"""# Benchmarks

{_RENDERED}

## Scenarios

Each asks one question, and says beforehand what would refute it. Promises:
{claims.count(found)}.

{_scenarios(found)}

## Where offload loses

{losses_text(found)}

"offload" alone is the default on Linux: workers from a fork server, at idle priority. Numbers in
brackets are 95 % intervals, of ratios too, by drawing repetitions anew; of two or three repetitions
they are not much more than the range of these, and cover less, some 60 to 80 %. A difference whose
interval includes 1 is not listed, nor one below {WORTH_TELLING - 1:.0%}.

## How this was measured

{machine["cpu"]}, {machine["cpus"]} CPUs{virtual}, {machine["memory_bytes"] / 2**30:.0f} GiB,
{machine["kernel"]}, Python {machine["python"]},
{", ".join(f"{name} {version}" for name, version in machine["versions"].items())};
commit {", ".join(commits)}{" with uncommitted changes" if changed else ""}. Other machines give
other numbers: make your own with

```sh
pip install -e . --group bench && (cd benchmarks/node && npm ci)
python -m venv benchmarks/queues/.venv                   # other queues of jobs, if wanted
benchmarks/queues/.venv/bin/pip install -r benchmarks/queues/requirements.txt
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


def _scenarios(found: Sequence[Results]) -> str:
    lines: list[str] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        question = " ".join(scenario.question.strip().partition("\n\n")[0].split())
        lines.append(f"- [{scenario.name}](pages/{scenario.name}.md): {question}")
    return "\n".join(lines)


def page(scenario: Scenario, results: Results, drawn: Sequence[tuple[str, str, str]]) -> str:
    """Return the page of one scenario."""
    question, _, method = scenario.question.strip().partition("\n\n")
    parts = [f"# {scenario.name}", _RENDERED]
    parts += [f"**{' '.join(question.split())}**", " ".join(method.split())]
    parts += [claims.claims(scenario, results)] if scenario.claims else []
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
    parts += [notes(results), "[All scenarios](../README.md)"]
    return "\n\n".join(parts)


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
        f"[Raw results](../results/{results.path.name})"
    )
    return "\n".join(lines)

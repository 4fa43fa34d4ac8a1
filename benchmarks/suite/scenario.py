"""What a scenario is, and what it gets and gives."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from benchmarks.suite.contenders import OURS
from benchmarks.suite.servers import ROOT, end
from offload._bench.machine import read, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.suite.contenders import Contender

Parameters: TypeAlias = "Mapping[str, int | float | str]"

_OTHERS_SHARE = 0.10
_STEAL_SHARE = 0.02
_CHILD_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a cell, as tables and plots show it.

    Attributes:
        key: what it is called in raw results, in "samples" if it is a quantile, else in "values".
        label: for readers, with the unit.
        better: "less" or "more"; None: it explains, and nobody wins by it.
        fraction: which quantile of the samples; None: a value for each repetition.
        factor: what raw numbers are multiplied with for readers.
        is_headline: whether who wins is worth a sentence at the top of the report.
        given_up_at: raw number at which measuring is given up: the true one is above that.
    """

    key: str
    label: str
    better: Literal["less", "more"] | None = "less"
    fraction: float | None = None
    factor: float = 1.0
    is_headline: bool = False
    given_up_at: float | None = None

    @property
    def name(self) -> str:
        """What it is called in comparisons."""
        return self.key if self.fraction is None else f"{self.key} p{self.fraction * 100:g}"


def quantiles(
    key: str, label: str, headline: float | None = None, factor: float = 1.0
) -> tuple[Metric, ...]:
    """Return the metrics of a distribution: p50, p90, p99, p99.9 and the maximum."""
    names = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9", 1.0: "max"}
    return tuple(
        Metric(
            key,
            label.format(name),
            # The worst of all is one event: it is shown, and decides nothing.
            better=None if fraction == 1.0 else "less",
            fraction=fraction,
            factor=factor,
            is_headline=fraction == headline,
        )
        for fraction, name in names.items()
    )


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of one metric.

    Attributes:
        kind: "dots": a row for each contender, a panel for each cell; "lines": over a parameter;
            "curves": all percentiles of the samples; "time": the samples over time.
        metric: of `Scenario.metrics`, by its name; the key of samples for "curves" and "time".
        title: what it shows.
        caption: how to read it; what it hides.
        over: the parameter on the x-axis, for "lines".
        where: the cells that are shown: these values of these parameters.
        is_log: whether the axis of the metric is logarithmic.
    """

    kind: Literal["dots", "lines", "curves", "time"]
    metric: str
    title: str
    caption: str
    over: str = ""
    where: tuple[tuple[str, int | float | str], ...] = ()
    is_log: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a scenario would refute, in numbers: the report says whether it holds.

    Attributes:
        text: what is claimed, without the limit.
        value: the name of the metric, in the reader's unit.
        parameters: of the cells; of several, the one that is best counts.
        relation: of the value, or of its ratio to the reference, to the limit.
        limit: see above.
        contender: whose value.
        reference: whose value it is divided by; "best": the best of all that are not ours; None:
            nobody's.
        reference_parameters: its cells, if they are others.
    """

    text: str
    value: str
    relation: Literal["at most", "at least"]
    limit: float
    parameters: Parameters = field(default_factory=dict)
    contender: str = OURS
    reference: str | None = None
    reference_parameters: Parameters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is made; in the raw results as it is here.

    Attributes:
        repetitions: of all cells, contenders interleaved; None: as the scenario has it.
        seconds: of one measurement; None: as the scenario has it.
        workers: of each contender.
        repeats: how often a cell that others disturbed is measured again, at most.
        is_quick: whether only breakage matters, not numbers.
        minutes: after which disturbed cells are no longer measured again; None: no limit.
    """

    repetitions: int | None = None
    seconds: float | None = None
    workers: int = 2
    repeats: int = 2
    is_quick: bool = False
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        for name in ("repetitions", "seconds", "workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SettingsError(f"{name} is {value:g}: give more than 0")
        if self.repeats < 0:
            raise SettingsError(f"repeats is {self.repeats}: give 0 or more")


@dataclass(slots=True)
class Measured:
    """One measurement of one cell.

    Attributes:
        parameters: which cell.
        values: one number each; None: not known here.
        samples: many numbers each, in the order of time.
        times: of samples that have them, when each was, in the same unit and order.
        health: of the measurement itself, as far as known.
        disturbed: what others did meanwhile; the last attempt's.
        attempts: how often it was measured.
    """

    parameters: Parameters
    values: dict[str, float | None] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    disturbed: list[str] = field(default_factory=list)
    attempts: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return what the raw results have of it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a measurement needs to know.

    Attributes:
        settings: of the run.
        seconds: of one measurement.
        loops_per_ms: steps of the heavy computation that take a millisecond: "python", "node".
        may_repeat: whether there is time to measure a disturbed cell again.
        module: of the scenario, for `child`.
    """

    settings: Settings
    seconds: float
    loops_per_ms: Mapping[str, float]
    may_repeat: Callable[[], bool]
    module: str

    def loops(self, contender: Contender, milliseconds: float) -> int:
        """Return how many steps take a contender's language so long."""
        return round(self.loops_per_ms[contender.language] * milliseconds)

    def undisturbed(self, measure: Callable[[], Measured]) -> Measured:
        """Measure, and again if others disturbed it, as often as the settings allow."""
        attempts = 0
        while True:
            attempts += 1
            measured = measure()
            measured.attempts = attempts
            is_last = attempts > self.settings.repeats or not self.may_repeat()
            if is_last or not measured.disturbed:
                return measured

    def child(self, contender: Contender, parameters: Parameters) -> Measured:
        """Measure in a fresh process: `inside` of the scenario's module.

        Raises:
            ChildError: it failed or took too long.
        """
        return self.undisturbed(lambda: self._child(contender, parameters))

    def weighed(
        self, contender: Contender, parameters: Parameters, workers: int
    ) -> tuple[Measured, float]:
        """As `child`, with so many workers; and the "tree_bytes" that it has told.

        Raises:
            ChildError: it failed, or this machine does not tell memory.
        """
        measured = self.child(contender, {**parameters, "workers": workers})
        weight = measured.values["tree_bytes"]
        if weight is None:
            raise ChildError("this machine does not tell the PSS of a process")
        return measured, weight

    def _child(self, contender: Contender, parameters: Parameters) -> Measured:
        before, begin = read(), time.monotonic()
        command = [
            *(sys.executable, "-m", "benchmarks.suite.child", self.module),
            *(contender.name, json.dumps(dict(parameters))),
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, errors = process.communicate(timeout=_CHILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise ChildError(f"not done after {_CHILD_SECONDS:g} s") from None
        finally:
            end(process)
        if process.returncode != 0:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise ChildError(f"exit status {process.returncode}: {last}")
        # What workers print is theirs; ours is the last line.
        told = json.loads(out.rpartition(b"\n")[2])
        measured = Measured(parameters, **told)
        after, elapsed = read(), time.monotonic() - begin
        if before is not None and after is not None:
            # Our own tree: what the child used is ours by now.
            used = usage(before, after, [os.getpid()])
            available = after.cpus * elapsed
            others = max(used.busy - used.tree, 0.0) / available
            steal = used.steal / available
            measured.health |= {"others_share": round(others, 4), "steal_share": round(steal, 4)}
            if others > _OTHERS_SHARE:
                measured.disturbed.append(f"other processes took {others:.0%} of the CPU time")
            if steal > _STEAL_SHARE:
                measured.disturbed.append(f"the hypervisor took {steal:.0%} of the CPU time")
        return measured


class SettingsError(ValueError):
    """A run cannot be made in the way that was asked for."""


class ChildError(RuntimeError):
    """A measurement in a process of its own failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question, and how it is put.

    Attributes:
        name: for commands, files and headings.
        module: where it is.
        question: the module's docstring: what is asked, varied, held, and what would refute us.
        metrics: what is measured, in the order of the tables.
        cells: the parameters of all cells of a contender.
        measure: measures these cells once; yields each as it is done.
        skips: why a contender has no part in it; None: it has.
        plots: for the report.
        claims: what the question says would refute us, in numbers.
        repetitions: unless the settings say otherwise.
        seconds: of one measurement, unless the settings say otherwise; quick runs have their own.
        quick_seconds: of one measurement in a quick run.
        also: contenders that take part here by default, though not elsewhere.
        only: those that take part here, queues among them, which do nowhere else; empty: all pools.
        timeout_ms: what a latency is at most, because nobody waits longer.
    """

    name: str
    module: str
    question: str
    metrics: Sequence[Metric]
    cells: Callable[[Contender, Settings], Sequence[Parameters]]
    measure: Callable[[Contender, Sequence[Parameters], Context], Iterator[Measured]]
    skips: Callable[[Contender], str | None] = lambda _: None
    plots: Sequence[Plot] = ()
    claims: Sequence[Claim] = ()
    repetitions: int = 3
    seconds: float = 2.0
    quick_seconds: float = 0.3
    also: Sequence[str] = ()
    only: Sequence[str] = ()
    timeout_ms: float | None = None


def in_process(contender: Contender) -> str | None:
    """Return why a contender cannot be called from Python; None if it can."""
    return "it is no call in this process" if contender.open is None else None


def without_workers(contender: Contender) -> str | None:
    """Return why a contender has no worker processes to be called from Python; None if it has."""
    if contender.open is not None and not contender.has_processes:
        return "it has no worker processes"
    return in_process(contender)

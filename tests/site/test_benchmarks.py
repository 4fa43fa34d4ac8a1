"""The benchmark suite: that it runs and reports, and that `compare` tells regressions from noise.

Breakage, not numbers: what a number is on the machine of a test says nothing.
"""

import dataclasses
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import jobs
from benchmarks.overload import right_share
from benchmarks.queues.marks import Mark
from benchmarks.suite import catalogue, machine, results, run, ways
from benchmarks.suite.claims import verdict as verdict_on
from benchmarks.suite.compare import compare
from benchmarks.suite.contenders import CONTENDERS, OURS, Contender
from benchmarks.suite.figures import told
from benchmarks.suite.headline import BEGIN, END, insert
from benchmarks.suite.losses import losses
from benchmarks.suite.report import report
from benchmarks.suite.scenario import Claim, Context, Measured, Metric, Scenario, Settings
from benchmarks.suite.statistics import Estimate, Interval, ratio

ROOT = Path(__file__).parents[2]
PATIENCE = 100.0
RIVAL = "executor-forkserver"


def command(*arguments, **environment):
    """Run `python -m benchmarks` and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def made(folder, name="before", *, medians=(1.0, 1.0), seed=1, repetitions=5, levels=(0, 8)):
    """Make a file of raw results: noise around these medians of /fast, ours and a rival's.

    The noise is that of a shared machine: each repetition is some 3 % off, a request some 20 %.
    """
    draw = random.Random(seed)
    rows = []
    for repetition in range(repetitions):
        for contender, median in zip((OURS, RIVAL), medians, strict=True):
            for level in levels:
                off = median * draw.lognormvariate(0, 0.03)
                rows.append(
                    {
                        "contender": contender,
                        "repetition": repetition,
                        **Measured(
                            {"heavy_clients": level},
                            values={
                                "heavy_per_second": 10 / median * draw.lognormvariate(0, 0.02),
                                "pss_bytes": 2.0**26,
                            },
                            samples={
                                "fast_ms": [off * draw.lognormvariate(0, 0.2) for _ in range(150)]
                            },
                            times={"fast_ms": [number * 5.0 for number in range(150)]},
                        ).to_json(),
                    }
                )
    chosen = [CONTENDERS[OURS], CONTENDERS[RIVAL]]
    path = folder / f"fast_under_heavy-{name}.json"
    document = {
        "format": results.FORMAT,
        "scenario": "fast_under_heavy",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
        "is_complete": True,
        "machine": machine.machine(),
        "commit": "0" * 40,
        "is_changed": False,
        "settings": {"workers": 2, "is_quick": False},
        "seconds_each": 2.0,
        "repetitions": repetitions,
        "contenders": [
            {"name": each.name, "label": each.label, "family": each.family, "versions": {}}
            for each in chosen
        ],
        "absent": [],
        "failures": [],
        "rows": rows,
    }
    results.write(path, document)
    return path


def made_of_ways(folder, scenario):
    """Make a file of raw results of a scenario about ways: ours has all, jobs have one cell."""
    path = made(folder, repetitions=1)
    document = json.loads(path.read_text(encoding="utf-8"))
    names = {OURS: "offload", "offload-jobs": "jobs"}
    rows = [
        {
            "contender": name,
            "repetition": 0,
            **Measured(
                {"load": load, "workers": 2},
                values={"fast_p99_ratio": 1.5, "work_per_second": 9.0, "web_threads": 3.0},
                samples={"fast_ms": [milliseconds] * 200},
            ).to_json(),
        }
        for name, loads in ((OURS, ("idle", "a fire each second")), ("offload-jobs", ("idle",)))
        for load, milliseconds in zip(loads, (2.0, 3.0), strict=False)
    ]
    contenders = [
        {"name": name, "label": label, "family": "offload", "versions": {}}
        for name, label in names.items()
    ]
    document |= {"scenario": scenario, "rows": rows, "contenders": contenders}
    path = folder / f"{scenario}-made.json"
    results.write(path, document)
    return path


class TestCommand:
    def test_scheduled_work_is_measured_in_turns(self, tmp_path):
        """A web server and a worker program run, fires end, both kinds of turn have requests."""
        ran = command(
            *("run", "scheduled_work", "--quick", "--results", tmp_path),
            *("--contender", "offload-jobs", "--contender", "inline"),
        )

        assert ran.returncode == 0, ran.stderr
        found = results.read(Path(ran.stdout.strip()))
        assert found.document["failures"] == []
        assert "compares" in found.document["absent"][0]["reason"]
        idle, fires = found.document["rows"]
        assert len(idle["samples"]["fast_ms"]) > 300
        assert len(fires["samples"]["fast_ms"]) > 300
        assert fires["values"]["worker_processes"] >= 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_run_that_is_stopped_keeps_what_was_measured(self, tmp_path, number):
        """Hours of measuring are not lost because somebody has seen enough."""
        options = ("--contender", OURS, "--seconds", "0.1", "--repetitions", "1000")
        options += ("--results", str(tmp_path))
        with subprocess.Popen(
            [sys.executable, "-m", "benchmarks", "run", "dispatch_overhead", *options],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            for line in program.stderr:
                if line.startswith("[2/"):
                    program.send_signal(number)
                    break
            program.stderr.read()
            assert program.wait(PATIENCE) == 130
        (path,) = tmp_path.iterdir()
        assert results.read(path).document["rows"]

    def test_quick_run_measures_and_reports_every_cell(self, tmp_path):
        """Servers, load, raw results, tables and plots work; who is missing is told."""
        # Node is not on this path, whatever the machine has.
        ran = command(
            *("run", "fast_under_heavy", "dispatch_overhead", "payload"),
            *("--quick", "--results", tmp_path),
            # Not the default priority: beside other tests it would wait for them all.
            *("--contender", "offload-normal", "--contender", "express-inline"),
            PATH=str(tmp_path),
        )

        assert ran.returncode == 0, ran.stderr
        served, called, moved = (results.read(Path(line)) for line in ran.stdout.split())
        for each in (served, called, moved):
            assert each.document["failures"] == []
        assert served.document["absent"] == [
            {
                "name": "express-inline",
                "label": "Express, inline",
                "reason": "there is no `node` on this machine",
            }
        ]
        assert [row["parameters"] for row in served.document["rows"]] == [
            {"heavy_clients": 0},
            {"heavy_clients": 2},
        ]
        for row in served.document["rows"]:
            assert len(row["samples"]["fast_ms"]) > 10
            assert row["values"]["fast_failed_share"] == 0
            assert row["samples"]["lag_ms"]
        for each in (called, moved):
            assert [row["contender"] for row in each.document["rows"]] == ["offload-normal"]

        reported = command("report", "--results", tmp_path, "--output", tmp_path / "out")

        assert reported.returncode == 0, reported.stderr
        page = (tmp_path / "out" / "pages" / "fast_under_heavy.md").read_text(encoding="utf-8")
        assert "not measured: Express, inline: there is no `node` on this machine" in page
        for path in map(Path, reported.stdout.split()):
            assert path.stat().st_size > 0
        assert "plots/fast_under_heavy-1-lines.svg" in page

    def test_compare_fails_on_a_regression(self, tmp_path):
        """The exit status is for CI."""
        before = made(tmp_path, medians=(1.0, 1.0))
        after = made(tmp_path, "after", medians=(1.5, 1.0), seed=2)

        assert command("compare", before, before).returncode == 0
        found = command("compare", before, after)

        assert found.returncode == 1
        assert f"{OURS}, heavy clients 8: /fast p50, ms" in found.stdout

    def test_unknown_names_are_told_with_the_known_ones(self):
        """A typing error is no traceback."""
        found = command("run", "fast_under_havy")

        assert found.returncode == 2
        assert "there is no scenario 'fast_under_havy'; there are: fast_under_heavy" in found.stderr


class TestJobs:
    """Queues of jobs: what of `offload` is run as well; what other packages need is not here."""

    def measured(self, **cell):
        context = Context(
            settings=Settings(is_quick=True, repeats=0),
            seconds=0.2,
            loops_per_ms={"python": 10_000},
            may_repeat=lambda: False,
            module=jobs.__name__,
        )
        return jobs.once(CONTENDERS[OURS], {"store": "sqlite", **cell}, context)

    def test_one_at_a_time_is_told_from_its_mark(self):
        """A job begins after it was enqueued, and before its result has come."""
        found = self.measured(jobs="one at a time", at_once=1).samples

        assert {name: len(each) for name, each in found.items()} == {
            "enqueue_ms": 5,
            "begin_ms": 5,
            "result_ms": 5,
        }
        for begin, result in zip(found["begin_ms"], found["result_ms"], strict=True):
            assert 0 < begin < result

    def test_many_are_counted_as_they_end(self):
        """All that were enqueued run, and how many a second is known."""
        values = self.measured(jobs="no work", at_once=10).values

        assert values["jobs_per_second"] > 0
        assert values["enqueued_per_second"] > 0

    def test_the_first_and_the_last_tenth_do_not_count(self):
        """A slow begin and a late end say nothing of the rate between them."""
        ends = [0.0, 5.0, *(10.0 + number / 100 for number in range(16)), 20.0, 30.0]

        found = jobs.per_second([Mark(number, 0.0, end) for number, end in enumerate(ends)])

        assert found == pytest.approx(16 / (20.0 - 10.0))
        assert jobs.per_second([]) is None

    @pytest.mark.parametrize("name", ["payload", "fast_under_heavy"])
    def test_a_queue_has_no_part_in_what_is_about_calls(self, name):
        """It is told as absent, wherever it is installed."""
        assert run.no_part(catalogue.scenario(name), CONTENDERS["celery"]) is not None
        assert run.no_part(catalogue.scenario("jobs"), CONTENDERS[RIVAL]) is not None


class TestCompare:
    def test_regression_is_flagged_and_only_that(self, tmp_path):
        """Half as slow again is found in the cells that became slower, and in no others."""
        before = results.read(made(tmp_path, medians=(1.0, 1.0)))
        after = results.read(made(tmp_path, "after", medians=(1.5, 1.0), seed=2))

        found = compare(before, after)

        assert {change.cell[0] for change in found.regressions} == {OURS}
        assert {change.metric.name for change in found.regressions} >= {
            "fast_ms p50",
            "fast_ms p90",
            "fast_ms p99",
            "heavy_per_second",
        }
        assert "better: 0" in found.text()

    @pytest.mark.parametrize("seed", range(2, 8))
    def test_noise_is_not_flagged(self, tmp_path, seed):
        """Two runs of the same thing have neither regressions nor improvements."""
        before = results.read(made(tmp_path))
        after = results.read(made(tmp_path, "after", seed=seed))

        verdicts = {change.verdict for change in compare(before, after).changes}

        assert verdicts <= {"same", "unclear"}

    def test_improvement_is_no_regression(self, tmp_path):
        """Which way a metric goes is its own: more of throughput, less of latency."""
        before = results.read(made(tmp_path, medians=(1.5, 1.0)))
        after = results.read(made(tmp_path, "after", medians=(1.0, 1.0), seed=2))

        found = compare(before, after)

        assert found.regressions == []
        assert {change.metric.name for change in found.changes if change.verdict == "better"} >= {
            "fast_ms p50",
            "heavy_per_second",
        }

    def test_one_repetition_decides_nothing(self, tmp_path):
        """Without repetitions there is no telling a change from a bad minute."""
        before = results.read(made(tmp_path, repetitions=1))
        after = results.read(made(tmp_path, "after", medians=(3.0, 3.0), repetitions=1))

        verdicts = {change.verdict for change in compare(before, after).changes}

        assert verdicts <= {"no interval", "same"}

    def test_what_differs_between_the_runs_is_told(self, tmp_path):
        """Another machine or another set of cells makes a comparison what it is."""
        before = results.read(made(tmp_path))
        after = results.read(made(tmp_path, "after", levels=(0,)))
        after.document["machine"]["cpu"] = "another"

        notes = " ".join(compare(before, after).notes)

        assert "cpu differs" in notes
        assert "2 cells are in one run only" in notes

    def test_runs_of_different_scenarios_are_refused(self, tmp_path):
        """There is nothing to compare."""
        before = results.read(made(tmp_path))
        after = results.read(made(tmp_path, "after"))
        after.document["scenario"] = "mixed"

        with pytest.raises(results.ResultsError, match="give two runs of the same scenario"):
            compare(before, after)


class TestStatistics:
    def test_interval_holds_the_true_value(self):
        """Of a hundred intervals of 95 % about five may miss; of repetitions that differ, too."""
        draw = random.Random(7)
        hits = 0
        for _ in range(40):
            off = [draw.lognormvariate(0, 0.1) for _ in range(8)]
            repetitions = [[each * draw.lognormvariate(0, 0.3) for _ in range(100)] for each in off]
            found = Estimate(repetitions, (0.5,)).interval(0.5)
            hits += found.low <= 1.0 <= found.high

        # Eight repetitions are few: the interval is somewhat narrow. 33 of 40 are 82 %.
        assert hits >= 33

    def test_ratio_to_nothing_is_no_unknown(self):
        """A pool that does nothing at all is not left out of a comparison."""
        nothing, something = Estimate([[0.0], [0.0]]), Estimate([[2.0], [3.0]])

        assert ratio(nothing, something) == (math.inf, math.inf, math.inf)
        assert ratio(something, nothing) == (0.0, 0.0, 0.0)
        assert ratio(nothing, nothing) == (1.0, 1.0, 1.0)

    def test_few_values_are_drawn_in_several_stretches(self):
        """One stretch of all of them would be the sample itself, of which all draws are alike."""
        draw = random.Random(3)
        found = Estimate([[draw.random() for _ in range(35)]], (0.5,)).interval(0.5)

        assert found.high - found.low > 0.1

    def test_one_value_has_no_interval(self):
        """A single number does not tell how much it varies."""
        assert math.isnan(Estimate([[3.0]]).interval().low)


class TestReport:
    def test_where_we_lose_comes_first(self, tmp_path):
        """A rival who is better is named at the top, with the numbers; an equal one is not."""
        better = results.read(made(tmp_path, medians=(1.5, 1.0)))
        scenario = catalogue.scenario("fast_under_heavy")

        lost = losses(scenario, better)

        assert {loss.metric.name for loss in lost} == {"fast_ms p99", "heavy_per_second"}
        report([better.path], tmp_path, tmp_path)
        page = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert page.index("/fast p99, ms**, at worst at heavy clients") < page.index("## How this")
        assert "Promises:\nhold: 1; refuted: 1." in page
        page = (tmp_path / "pages" / "fast_under_heavy.md").read_text(encoding="utf-8")
        assert "REFUTED**: heavy throughput with 8 clients" in page
        assert losses(scenario, results.read(made(tmp_path, medians=(1.0, 1.5)))) == []

    @pytest.mark.parametrize(
        "relation, low, high, verdict",
        [
            ("at most", 0.8, 1.0, "holds"),
            ("at most", 0.8, 1.1, "undecided"),
            ("at most", 1.01, 1.1, "**REFUTED**"),
            ("at least", 1.0, 1.1, "holds"),
            ("at least", 0.9, 1.1, "undecided"),
            ("at least", 0.8, 0.99, "**REFUTED**"),
        ],
    )
    def test_claim_is_decided_by_all_of_its_interval(self, relation, low, high, verdict):
        """What may be so or not is not decided, wherever its middle is."""
        claim = Claim(text="", value="x", relation=relation, limit=1.0)

        assert verdict_on(claim, Interval(1.0, low, high)) == verdict

    @pytest.mark.parametrize(
        "relation, value, verdict",
        [
            ("at most", 0.9, "held the only time"),
            ("at most", 1.1, "**MISSED** the only time"),
            ("at least", 1.1, "held the only time"),
            ("at least", 0.9, "**MISSED** the only time"),
        ],
    )
    def test_one_measurement_is_told_as_one(self, relation, value, verdict):
        """How far the next one would be from it nobody knows."""
        claim = Claim(text="", value="x", relation=relation, limit=1.0)

        assert verdict_on(claim, Interval(value, math.nan, math.nan)) == verdict

    def test_what_was_given_up_is_told_as_more(self):
        """A wait that was cut off at a minute was no minute."""
        scenario = catalogue.scenario("overload")
        metric = next(each for each in scenario.metrics if each.key == "recovery_seconds")

        assert told(scenario, metric, Estimate([[0.5]])) == "0.500"
        assert told(scenario, metric, Estimate([[60.2]])) == "≥ 60.0"

    def test_headline_goes_between_the_markers(self, tmp_path):
        """The rest of the file stays as it is, and the next report replaces the last one."""
        path = made(tmp_path)
        readme = tmp_path / "TOP.md"
        readme.write_text(f"above\n{BEGIN}\nsuperseded\n{END}\nbelow\n", encoding="utf-8")

        for _ in range(2):
            report([path], tmp_path, tmp_path, readme)

        text = readme.read_text(encoding="utf-8")
        assert text.startswith("above\n")
        assert text.endswith("\nbelow\n")
        assert "superseded" not in text
        assert text.count("| offload |") == text.count(BEGIN) == 1

    def test_picture_is_drawn_for_light_and_dark_pages(self, tmp_path):
        """The same results give the same two files, which name those that they compare."""
        path = made(tmp_path)
        path.write_text(path.read_text().replace(RIVAL, "executor-fork"))

        drawn = [
            {
                file.name: file.read_bytes()
                for file in report([path], tmp_path, tmp_path / folder)
                if file.name.startswith("headline")
            }
            for folder in ("one", "two")
        ]

        assert drawn[0].keys() == {"headline-light.svg", "headline-dark.svg"}
        assert drawn[0] == drawn[1]
        for name in (OURS, "executor-fork"):
            label = results.read(path).label(name)
            assert f"<!-- {label} -->".encode() in drawn[0]["headline-light.svg"]

    def test_page_of_the_ways_has_figures_of_each_way(self, tmp_path):
        """Every figure comes from the results; a way that was not measured somewhere has a dash."""
        page = tmp_path / "ways.md"
        page.write_text(f"above\n{ways.BEGIN}\n{ways.END}\nbelow\n", encoding="utf-8")
        files = [made_of_ways(tmp_path, name) for name in ways.NAMES]

        report(files, tmp_path, tmp_path, ways_page=page)

        lines = page.read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines if line.startswith("| on the pool |")]
        assert len(rows) == 5
        # Of `/fast` p99: 2 ms idle, 3 ms beside fires.
        assert rows[4].startswith("| on the pool | 2.00 | 3.00 | 1.50 [1.50, 1.50] |")
        assert any(re.match(r"\| as jobs \| \W \|", line) for line in lines)
        with pytest.raises(results.ResultsError, match="no raw results of scheduled_work"):
            report(files[:1], tmp_path, tmp_path, ways_page=page)

    def test_file_without_markers_is_refused(self, tmp_path):
        """Where the headline is to be is for the author to say."""
        readme = tmp_path / "TOP.md"
        readme.write_text("no markers", encoding="utf-8")

        with pytest.raises(results.ResultsError, match="needs these two lines"):
            insert(readme, "text")


class TestRuns:
    @staticmethod
    def context(*, repeats, has_time=True):
        """Return the context of a measurement."""
        return Context(
            settings=Settings(repeats=repeats),
            seconds=1.0,
            loops_per_ms={},
            may_repeat=lambda: has_time,
            module="",
        )

    @pytest.mark.parametrize(
        "disturbed_times, repeats, has_time, attempts, stays",
        [
            (0, 2, True, 1, False),
            (1, 2, True, 2, False),
            (9, 2, True, 3, True),
            (9, 2, False, 1, True),
        ],
    )
    def test_disturbed_cell_is_measured_again(
        self, disturbed_times, repeats, has_time, attempts, stays
    ):
        """As often as allowed, while there is time; what stays disturbed says so."""
        noise = iter([["steal"]] * disturbed_times)

        found = self.context(repeats=repeats, has_time=has_time).undisturbed(
            lambda: Measured({}, disturbed=next(noise, []))
        )

        assert found.attempts == attempts
        assert bool(found.disturbed) == stays

    def test_failure_of_one_contender_is_reported_and_stops_nobody(self, tmp_path, monkeypatch):
        """Each repetition is told, with its error, and the others are measured."""

        def measure(contender: Contender, cells, _):
            for number, cell in enumerate(cells):
                if contender.name == RIVAL and number == 1:
                    raise OSError("no answer")
                yield Measured(cell, values={"x": 1.0})

        scenario = Scenario(
            name="mixed",
            module=__name__,
            question="",
            metrics=(Metric("x", "x"),),
            cells=lambda *_: [{"n": 0}, {"n": 1}, {"n": 2}],
            measure=measure,
        )
        monkeypatch.setattr(machine, "loops_per_ms", lambda **_: {"python": 1.0})

        (path,) = run.run([scenario], [RIVAL, OURS], Settings(repetitions=2), tmp_path)

        document = json.loads(path.read_text(encoding="utf-8"))
        assert document["is_complete"]
        failed = [(each["contender"], each["parameters"]["n"]) for each in document["failures"]]
        assert failed == [(RIVAL, 1), (RIVAL, 2)] * 2
        assert {each["error"] for each in document["failures"]} == {"OSError: no answer"}
        assert len(document["rows"]) == 2 * (1 + 3)
        # Contenders take turns in being the first.
        first = [row["contender"] for row in document["rows"] if row["parameters"]["n"] == 0]
        assert first == [RIVAL, OURS, OURS, RIVAL]

    @pytest.mark.parametrize(
        "told, share",
        [(1.0, 1.0), (0.51, 1.0), (0.49, 0.0), (1.99, 1.0), (2.01, 0.0), (None, None)],
    )
    def test_refusal_is_right_if_those_accepted_took_about_as_long(self, told, share):
        """What was asked of the refused is held against what the accepted around them waited."""
        # One a second is accepted and takes a second; those in between are refused.
        rows = [(at, 1000.0, 200, None) for at in range(0, 100_000, 1000)]
        rows += [(at + 500, 1.0, 503, told) for at, *_ in rows]
        columns = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
        names = "intended_ms", "latency_ms", "status", "retry_after"

        assert right_share(dict(zip(names, columns, strict=True))) == share

    def test_package_that_is_not_installed_is_named(self):
        """What to do about a missing contender is in the reason."""
        contender = dataclasses.replace(CONTENDERS[OURS], packages=("no-such-package",))

        assert contender.missing() == ("not installed: no-such-package; install the group `bench`")

    def test_every_scenario_asks_a_question(self):
        """Its docstring says what is varied, what is held and what would refute us."""
        for scenario in catalogue.scenarios([]):
            first = scenario.question.strip().partition("\n\n")[0]
            assert "?" in first
            for word in ("aried", "eld", "efuted"):
                assert word in scenario.question, scenario.name
            assert {claim.value for claim in scenario.claims} <= {
                metric.name for metric in scenario.metrics
            }
            assert {plot.metric for plot in scenario.plots} <= {
                name for metric in scenario.metrics for name in (metric.name, metric.key)
            }

"""`offload bench`: what it measures, how it judges, what it writes, and what it refuses."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from offload._bench import measure, numbers
from offload._bench.client import Target
from offload._bench.numbers import blocks, compare, stalls
from offload._bench.report import as_html
from offload._bench.result import Cell, Result, Round, Settings
from offload._bench.subject import Beat, Subject, SubjectError
from offload._bench.text import as_json, as_text, milliseconds
from offload._bench.verdict import judge
from offload._cli import main
from tests.support.apps.load_server import Server, unused_port

ROOT = str(Path(__file__).parents[2])
SETTINGS = Settings(
    fast=Target("http://127.0.0.1:1/ping"),
    heavy=Target("http://127.0.0.1:1/report"),
    clients=8,
    rate=200.0,
    rounds=2,
    max_rounds=4,
    seconds=4.0,
    warm_up=1.0,
    timeout=60.0,
    max_ratio=1.5,
)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Let intervals take a tenth of the time; they are as wide with fewer draws, only coarser."""
    monkeypatch.setattr(numbers, "_RESAMPLES", 100)


def load(latencies, *, heavy=0, causes=(), errors=None):
    """Return what the generator prints: so many heavy answers, and these latencies at 200/s."""
    return {
        "started_monotonic": 100.0,
        "fast": [
            {
                "intended_ms": [5.0 * index for index in range(len(latencies))],
                "latency_ms": list(latencies),
                "statuses": {"200": len(latencies)},
                "errors": errors or {},
            }
        ],
        "heavy": {
            "completed": heavy,
            "round_trip_ms": [200.0] * heavy,
            "statuses": {"200": heavy, "503": 3} if heavy else {},
            "errors": {},
        },
        "health": {
            "causes": list(causes),
            "disturbed": [f"because of {cause}" for cause in causes],
            "others_share": 0.5,
            "steal_share": 0.0,
            "lateness_ms": {"p50": 0.1, "p99": 0.2, "max": 0.3},
        },
    }


def quiet(factor=1.0):
    """Return the latencies of four seconds: 1 ms, a little more for some."""
    return [factor * (1.0 + index % 10 / 10) for index in range(800)]


def stalling(factor=1.0):
    """Return the same of a server whose loop is held for 20 ms once a second."""
    return [max(latency, 20.0 - 5.0 * (index % 200)) for index, latency in enumerate(quiet(factor))]


def result_of(idle, loaded, *, heavy=160, beats=None, settings=SETTINGS, **options):
    """Return a result of two equal rounds."""
    cells = [
        (Cell(0, load(idle, **options), beats), Cell(8, load(loaded, heavy=heavy), beats))
        for _ in range(2)
    ]
    return Result(
        settings=settings,
        name="app:app",
        facts={"machine": "a machine"},
        started_at=0.0,
        rounds=[Round(*pair) for pair in cells],
        dropped=0,
        alone_ms=200.0,
    )


class TestOnRealServers:
    def bench(self, tmp_path, app):
        """Return exit status, JSON and HTML of one run."""
        html, numbers = tmp_path / "report.html", tmp_path / "numbers.json"
        status = main(
            [
                *("bench", f"tests.support.apps.bench_app:{app}", "--app-dir", ROOT),
                *("--fast", "/ping", "--heavy", "/report", "--max-ratio", "4"),
                *("--rounds", "1", "--max-rounds", "1", "--seconds", "2.2", "--warm-up", "0.2"),
                *("--html", str(html), "--json", str(numbers)),
            ]
        )
        return status, json.loads(numbers.read_text()), html.read_text()

    def test_block_of_the_loop_once_a_second_is_caught(self, tmp_path, capsys):
        """20 ms in a second, 2 % of the time, is seen in the p99, and its cause is named."""
        status, numbers, html = self.bench(tmp_path, "faulty")

        # Of the loop's own thread: it is told apart from a machine that is busy elsewhere.
        assert numbers["loaded"]["own_stalls"] >= 1
        assert "code on the event loop computed for 10 ms or more" in html
        if not disturbances(numbers):
            assert status == 1
            assert numbers["table"]["ratio"]["p99"]["value"] > 4
            assert "FAIL: the p99 of /ping under load is" in capsys.readouterr().out

    def test_healthy_application_passes(self, tmp_path, capsys):
        """Waiting for reports leaves the loop alone: the same limit is kept."""
        status, numbers, html = self.bench(tmp_path, "healthy")

        assert numbers["heavy"]["per_second"] > 0
        assert numbers["heavy"]["failures"] == numbers["loaded"]["failures"] == {}
        if not disturbances(numbers):
            assert numbers["loaded"]["own_stalls"] == 0
            assert "code on the event loop computed" not in html
            assert status == 0
            assert "PASS: the p99 ratio" in capsys.readouterr().out

    def test_application_that_cannot_be_imported_is_explained(self, capsys):
        """The words of the server that did not start are the answer."""
        arguments = ["--app-dir", ROOT, "--fast", "/ping", "--heavy", "/report"]

        assert main(["bench", "tests.support.apps.bench_app:nothing", *arguments]) == 2

        assert 'Attribute "nothing" not found' in capsys.readouterr().err


def disturbances(numbers):
    """Return what disturbed the measurement; a busy machine can tell nothing of a p99."""
    return [
        cause
        for each in numbers["rounds"]
        for cell in each.values()
        for cause in cell["load"]["health"]["causes"]
    ]


class TestRefusals:
    @pytest.mark.parametrize(
        "fast, heavy, message",
        [
            ("/missing", "/a", "GET /missing answers 404 Not Found: is the path right?"),
            ("/a", "/busy", "GET /busy answers 503 Service Unavailable before any load"),
            ("/a", "/nonsense", "no HTTP/1.1 answer"),
            ("/a", "/never", "no answer after 0.3 s"),
            ("a", "/a", "a path begins with a slash"),
            ("/a b", "/a", "percent-encoded"),
        ],
    )
    def test_path_that_does_not_answer_is_refused(self, capsys, fast, heavy, message):
        """What fails alone is not measured under load."""
        with Server() as server:
            status = main(
                [
                    *("bench", f"http://127.0.0.1:{server.port}", "--timeout", "0.3"),
                    *("--fast", fast, "--heavy", heavy),
                ]
            )

        assert status == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize(
        "subject, message",
        [
            # Named: the tests of all processes of a run must have the same names.
            pytest.param(f"http://127.0.0.1:{unused_port()}", "nothing listens at", id="nobody"),
            ("http://192.0.2.1", "is not this machine, and this is a load test"),
            ("localhost:8000", "neither a URL"),
            ("app", "neither a URL"),
            ("ftp://127.0.0.1", "no absolute http"),
        ],
    )
    def test_subject_that_is_none_is_refused(self, capsys, subject, message):
        """Each wrong subject is told what is wrong with it, and nothing is sent elsewhere."""
        assert main(["bench", subject, "--fast", "/a", "--heavy", "/a"]) == 2

        assert message in capsys.readouterr().err

    def test_missing_extra_is_named(self, capsys, monkeypatch):
        """Serving an application needs uvicorn; a running server needs nothing."""
        monkeypatch.setattr("offload._cli.bench.find_spec", lambda _: None)

        assert main(["bench", "app:app", "--fast", "/a", "--heavy", "/a"]) == 2

        assert "pip install 'offload[bench]'" in capsys.readouterr().err

    def test_report_that_cannot_be_written_is_told_first(self, capsys, tmp_path):
        """Not after a minute of measuring."""
        file = str(tmp_path / "none" / "report.html")

        arguments = ["--fast", "/a", "--heavy", "/a", "--html", file]
        assert main(["bench", "http://127.0.0.1:1", *arguments]) == 2

        assert "cannot be written" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--clients=0", "--rate=0", "--seconds=inf", "--rounds=x"])
    def test_nonsense_is_refused(self, capsys, option):
        """Numbers without a meaning are usage errors."""
        with pytest.raises(SystemExit) as ended:
            main(["bench", "http://127.0.0.1:1", "--fast", "/a", "--heavy", "/a", option])

        assert ended.value.code == 2
        assert option.partition("=")[0] in capsys.readouterr().err


class TestVerdict:
    def test_ratio_above_the_limit_fails(self):
        """The reason has the ratio, its interval and the limit."""
        verdict = judge(result_of(quiet(), stalling()))

        assert not verdict.is_passed
        [reason] = verdict.reasons
        assert re.search(r"p99 of /ping under load is [\d.]+ times .* the limit of 1\.5", reason)

    def test_ratio_within_the_limit_passes(self):
        """Nothing else speaks against it."""
        verdict = judge(result_of(quiet(), quiet(1.2)))

        assert verdict.is_passed
        assert "PASS" in as_text(result_of(quiet(), quiet(1.2)), verdict)

    def test_fault_that_is_there_without_load_fails(self):
        """A ratio of 1 says nothing if idle is no baseline: the same block in both is caught."""
        result = result_of(stalling(), stalling())

        verdict = judge(result)

        assert result.ratio.value == 1.0
        [reason] = verdict.reasons
        assert "idle is no baseline" in reason
        assert "stalls 1.0 times a second, for 20 ms" in reason

    def test_own_thread_is_named_where_it_held_the_loop(self):
        """Beats that came late while the loop's own thread computed are its own doing."""
        beats = [Beat(100.0 + second, 18.0, 20.5) for second in range(4)]

        result = result_of(stalling(), stalling(), beats=beats)

        assert result.idle.own_stalls == 8
        assert "code on the event loop computes" in judge(result).reasons[0]

    @pytest.mark.parametrize("beat", [Beat(101.0, 18.0, 0.5), Beat(101.0, 150.0, 12.0)])
    def test_waiting_loop_is_not_blamed(self, beat):
        """A late beat with little CPU time, or with the work that piled up, is the machine's."""
        result = result_of(quiet(), quiet(), beats=[beat])

        assert result.loaded.own_stalls == 0

    def test_failed_requests_fail(self):
        """An error page is fast: it must not pass for an answer."""
        verdict = judge(result_of(quiet(), quiet(), errors={"refused": 5}))

        assert "/ping idle: 10 of 1,600 requests failed (refused 10)" in verdict.reasons

    def test_no_heavy_answer_fails(self):
        """Without load there is nothing to compare."""
        [reason] = judge(result_of(quiet(), quiet(), heavy=0)).reasons

        assert "there was no load" in reason

    def test_heavy_requests_that_fail_under_load_fail(self):
        """A pool that is broken answers fast, and is no load."""
        result = result_of(quiet(), quiet(), heavy=20)
        for each in result.rounds:
            each.loaded.load["heavy"]["statuses"]["500"] = 3_000

        [reason] = judge(result).reasons

        assert "6,000 of 6,040 requests of /report failed (500 6,000)" in reason

    def test_heavy_requests_that_are_refused_do_not(self):
        """To refuse what is too much is what an overloaded server should do."""
        result = result_of(quiet(), quiet(), heavy=20)
        for each in result.rounds:
            each.loaded.load["heavy"]["statuses"] |= {"503": 3_000, "500": 1}

        assert judge(result).is_passed

    def test_without_a_limit_nothing_fails(self):
        """What would fail is noted, for the reader to judge."""
        settings = dataclasses.replace(SETTINGS, max_ratio=None)

        verdict = judge(result_of(stalling(), stalling(), settings=settings))

        assert verdict.is_passed
        assert any("idle is no baseline" in note for note in verdict.notes)

    def test_disturbance_is_noted(self):
        """Whoever reads a failure must know that the machine was busy."""
        verdict = judge(result_of(quiet(), stalling(), causes=["others"]))

        assert not verdict.is_passed
        assert any("measure again" in note for note in verdict.notes)
        assert "2 of 4 measurements were disturbed; at worst, because of others" in verdict.notes
        page = as_html(result_of(quiet(), stalling(), causes=["others"]), verdict)
        assert "The machine was disturbed meanwhile" in page


class TestRounds:
    def run(self, monkeypatch, answers, settings=SETTINGS):
        """Measure with a generator that answers from a list; return result and what it ran."""
        clients = []

        def generate(command, show):
            show(0.0)
            heavy = int(command[command.index("--clients") + 1]) if "--clients" in command else 0
            clients.append(heavy)
            latencies, causes = answers(len(clients), heavy)
            return load(latencies, heavy=heavy * 20, causes=causes)

        monkeypatch.setattr(measure, "_generate", generate)
        told = []
        result = measure.measure(
            Subject("app:app", "http://127.0.0.1:1"),
            settings,
            alone_ms=200.0,
            tell=lambda label, left: told.append((label, left)),
        )
        return result, clients, told

    def test_idle_and_loaded_take_turns_in_being_first(self, monkeypatch):
        """What drifts falls on both alike; the time left only falls."""
        result, clients, told = self.run(monkeypatch, lambda *_: (quiet(), ()))

        assert clients == [0, 8, 8, 0]
        assert len(result.rounds) == 2
        assert told[0] == ("round 1 of 2: idle", pytest.approx(22.0))
        lefts = [left for _, left in told]
        assert lefts == sorted(lefts, reverse=True)

    def test_disturbed_round_is_replaced(self, monkeypatch):
        """As soon as there are enough others it does not count."""
        result, clients, _ = self.run(
            monkeypatch, lambda number, _: (quiet(), ["others"] if number == 1 else ())
        )

        assert len(clients) == 6
        assert result.dropped == 1
        assert not result.is_disturbed

    def test_machine_that_is_never_quiet_ends_all_the_same(self, monkeypatch):
        """Twice the rounds, and the result says what it is worth."""
        result, clients, _ = self.run(monkeypatch, lambda *_: (quiet(), ["steal"]))

        assert len(clients) == 8
        assert len(result.rounds) == 2
        assert result.is_disturbed

    def test_undecided_limit_gets_more_rounds(self, monkeypatch):
        """An interval with the limit in it is worth more time."""

        def answers(_, heavy):
            # Half a second in four is above the limit.
            latencies = quiet()
            return [*latencies[:700], *(each * (3 if heavy else 1) for each in latencies[700:])], ()

        result, _, _ = self.run(monkeypatch, answers)
        settings = dataclasses.replace(SETTINGS, max_ratio=5.0)
        decided, _, _ = self.run(monkeypatch, answers, settings)

        assert len(result.rounds) == 4
        assert len(decided.rounds) == 2

    def test_server_that_goes_away_ends_it(self, monkeypatch):
        """Nothing is reported of a server that does not answer."""
        with pytest.raises(SubjectError, match="no request of /ping was answered any more"):
            self.run(monkeypatch, lambda *_: ([None] * 800, ()))


class TestNumbers:
    def test_interval_covers_what_seconds_differ_in(self):
        """Requests of one second are drawn together: a slow second widens the interval."""
        times = [(5.0 * index, 1.0 if index < 600 else 3.0) for index in range(800)]

        table = compare(blocks(times), blocks((at, 2 * took) for at, took in times))

        assert table.before["p50"] == (1.0, 1.0, 3.0)
        assert table.ratio["p99"].value == 2.0
        assert table.ratio["p99"].low < 2.0 < table.ratio["p99"].high

    def test_stall_is_one_however_many_wait(self):
        """Requests that wait for the same thing are one stall, as long as the first has waited."""
        times = [(0.0, 1.0), (5.0, 20.0), (10.0, 15.0), (15.0, 10.0), (20.0, 5.0), (1000.0, 12.0)]

        assert stalls(times, threshold_ms=10.0) == [(5.0, 20.0), (1000.0, 12.0)]

    def test_durations_have_three_digits(self):
        """As many as mean something."""
        values = (0.0712, 0.7123, 7.123, 71.23, 1240.4)

        assert [milliseconds(value) for value in values] == [
            "0.07 ms",
            "0.71 ms",
            "7.12 ms",
            "71.2 ms",
            "1,240 ms",
        ]


class Page(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


class TestReport:
    EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'

    def report(self):
        """Return the page of a result whose every text is an attack."""
        settings = dataclasses.replace(
            SETTINGS,
            fast=Target("http://127.0.0.1:1/" + self.EVIL.replace(" ", "/")),
            heavy=Target("http://127.0.0.1:1/?" + self.EVIL.replace(" ", "/")),
        )
        beats = [Beat(100.0 + tick / 100, 0.2, 0.1) for tick in range(400)]
        result = result_of(quiet(), stalling(), settings=settings, beats=beats)
        result.name = self.EVIL
        result.facts = {self.EVIL: self.EVIL}
        return as_html(result, judge(result))

    def test_everything_is_escaped(self):
        """Paths and names of an application may hold anything."""
        page = Page(self.report())

        assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object"})
        assert not any(name.startswith("on") for name in page.attributes)

    def test_nothing_is_loaded(self):
        """It can be read without a network, and says so to the browser."""
        text = self.report()

        assert "default-src 'none'" in text
        assert Page(text).attributes.isdisjoint({"src", "href", "srcset", "action"})
        assert "url(" not in text
        assert "@import" not in text

    def test_plots_are_well_formed(self):
        """Latency and lag over time, percentiles: each for a wide and for a narrow page."""
        plots = [
            ET.fromstring(svg)  # noqa: S314 - of our own making
            for svg in re.findall(r"<svg.*?</svg>", self.report(), flags=re.DOTALL)
        ]

        assert [plot.get("width") for plot in plots] == ["760", "340"] * 3
        assert {plot.get("aria-label") for plot in plots} == {
            "round trip, ms over time",
            "round trip, ms by percentile",
            "event-loop lag, ms over time",
        }
        for plot in plots:
            styles = {path.get("class") for path in plot.iter("path")}
            assert styles & {"dots idle", "line idle"}
            assert styles & {"dots loaded", "line loaded"}

    def test_numbers_are_those_of_the_table(self):
        """Page, terminal and JSON say the same."""
        result = result_of(quiet(), stalling())
        verdict = judge(result)
        page, text = as_html(result, verdict), as_text(result, verdict)
        numbers = json.loads(json.dumps(as_json(result, verdict), allow_nan=False))

        assert numbers["verdict"]["passed"] is False
        for side, name in (("idle_ms", "p50"), ("loaded_ms", "p99"), ("loaded_ms", "max")):
            value = milliseconds(numbers["table"][side][name]["value"])
            assert f"<td>{value}</td>" in page
            assert value in text
        assert "503 6" in page
        assert "503 6" in text

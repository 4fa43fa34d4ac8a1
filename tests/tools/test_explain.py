"""`offload explain`: what a call takes in both ways is measured, and judged by a rule."""

import json
import re
from dataclasses import replace

import pytest

from offload._cli import main
from offload._cli.explain import parse_argument, render
from offload._cli.verdict import Measurement, Way, judge, milliseconds
from tests.support import inside

FUNCTIONS = "tests.support.functions.explained"
WAY = Way(calls=20, seconds=0.050, held=0.050, loop_cpu=0.050)
MEASURED = Measurement(
    function="work:resize",
    pool="images",
    inline=WAY,
    threaded=replace(WAY, held=0.005),
    lets_go=False,
    offloaded=Way(calls=20, seconds=0.0512, held=0.0, loop_cpu=0.0002),
    empty=Way(calls=200, seconds=0.0001, held=0.0, loop_cpu=0.0001),
    worker_seconds=0.051,
    cold_seconds=0.08,
    first_seconds=0.06,
    computing=1.0,
    argument_bytes=100,
    argument_seconds=0.00001,
    result_bytes=2000,
    result_seconds=0.00001,
)


@pytest.fixture(autouse=True)
def _pool_is_forgotten():
    yield
    inside.forget_if_known("offload explain")


def explain(capsys, *arguments):
    """Run the command with --json; return its exit status and what it measured."""
    status = main(["explain", *arguments, "--json", "--repeat", "3"])
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out else said.err


class TestMeasured:
    def test_function_that_computes(self, capsys):
        """Inline it holds the loop for all of its time, offloaded it does not."""
        status, found = explain(capsys, f"{FUNCTIONS}:slow", "0.1")
        assert status == 0
        measured = found["measurement"]
        assert measured["pool"] == "explained"
        assert measured["inline"]["held"] >= 0.09
        assert measured["inline"]["seconds"] >= 0.1
        assert measured["worker_seconds"] >= 0.1
        assert measured["offloaded"]["held"] < measured["inline"]["held"]
        assert measured["offloaded"]["loop_cpu"] < 0.05
        assert measured["cold_seconds"] > 0
        assert found["verdict"]["answer"] == "yes"

    def test_function_that_does_nothing(self, capsys):
        """What is over at once is not worth a worker, and the break-even says from when it is."""
        status, found = explain(capsys, f"{FUNCTIONS}:quick", "1")
        assert status == 0
        assert found["verdict"]["answer"] == "no"
        assert found["verdict"]["break_even"] > found["measurement"]["inline"]["seconds"]

    def test_function_that_waits(self, capsys):
        """A thread is enough for what does not compute."""
        status, found = explain(capsys, f"{FUNCTIONS}:waits", "0.05")
        assert status == 0
        assert found["measurement"]["computing"] < 0.3
        assert found["verdict"]["answer"] == "thread"

    def test_function_that_lets_go_of_the_gil(self, capsys):
        """What computes in native code without the GIL leaves the loop free in a thread as well."""
        status, found = explain(capsys, f"{FUNCTIONS}:digest", "64")
        assert status == 0
        assert found["measurement"]["lets_go"] is True
        _, found = explain(capsys, f"{FUNCTIONS}:keeps", "0.05")
        assert found["measurement"]["lets_go"] is False

    def test_arguments_are_literals(self, capsys):
        """Each run gets arguments of its own: what one changes, the next does not see."""
        arguments = (f"{FUNCTIONS}:swap", "[1, 2]", "--kwargs", "{'key': 'k'}")
        status, found = explain(capsys, *arguments)
        assert status == 0
        measured = found["measurement"]
        assert measured["argument_bytes"] > 10
        assert measured["result_bytes"] > 10

    def test_generator(self, capsys):
        """A generator is run to its end, inline and as a stream."""
        status, found = explain(capsys, f"{FUNCTIONS}:numbers", "20")
        assert status == 0
        assert found["measurement"]["items"] == 20
        assert found["measurement"]["result_bytes"] == 0

    def test_pool_that_is_made_elsewhere(self, capsys):
        """A function whose pool is not there is measured on one with default options."""
        status, found = explain(capsys, f"{FUNCTIONS}:homeless")
        assert status == 0
        assert found["measurement"]["pool"] == "offload explain"


class TestRefused:
    @pytest.mark.parametrize(
        "arguments,said",
        [
            (["divide", "1", "0"], "ZeroDivisionError: division by zero"),
            (["divide", "1"], "missing 1 required positional argument"),
            (["unpicklable"], "cannot pickle '_thread.lock' object"),
            (["on_the_loop"], "is async def"),
            (["anonymous"], "is a lambda"),
            (["nothing_of_this_name"], "has no 'nothing_of_this_name'"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else None,
    )
    def test_function_that_cannot_be_measured(self, capsys, arguments, said):
        """What goes wrong, inline or on the way, is told, with status 1."""
        name, *values = arguments
        status, error = explain(capsys, f"{FUNCTIONS}:{name}", *values)
        assert status == 1
        assert error.startswith("offload explain: ")
        assert said in error
        assert "_cli" not in error

    @pytest.mark.parametrize(
        "arguments,said",
        [
            (["['text"], "no Python literal"),
            (["__import__('os')"], "no Python literal"),
            (["@/no/such/file"], "No such file"),
            (["1", "--kwargs", "[1]"], "must be a dict of names, not [1]"),
            (["1", "--kwargs", "{1: 2}"], "must be a dict of names, not {1: 2}"),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else None,
    )
    def test_arguments_that_cannot_be_read(self, capsys, arguments, said):
        """What is no literal is wrong usage, told with how to write it; nothing is evaluated."""
        status, error = explain(capsys, f"{FUNCTIONS}:quick", *arguments)
        assert status == 2
        assert said in error

    def test_file_as_argument(self, tmp_path):
        """`@file` stands for the bytes of a file, as functions for images take them."""
        (tmp_path / "photo").write_bytes(b"\xff\xd8")
        assert parse_argument(f"@{tmp_path}/photo") == b"\xff\xd8"


class TestVerdict:
    @pytest.mark.parametrize(
        "changes,answer,said",
        [
            ({}, "yes", "250 times less"),
            ({"inline": replace(WAY, seconds=0.00015)}, "no", "Run it inline"),
            ({"inline": replace(WAY, seconds=0.0006)}, "hardly", "nobody notices"),
            ({"computing": 0.05}, "thread", "a thread is enough"),
            # What computes a little while it waits, and is over at once, is no case for a thread.
            ({"computing": 0.05, "inline": replace(WAY, seconds=0.0006)}, "hardly", "nobody"),
            ({"lets_go": True}, "yes", "It releases the GIL"),
            (
                {"offloaded": Way(calls=1, seconds=0.2, held=0.03, loop_cpu=0.01)},
                "yes",
                "Its payload still holds the loop for up to 30 ms",
            ),
        ],
    )
    def test_rule(self, changes, answer, said):
        """The run time against what the loop spends on handing it over: that is the rule."""
        found = judge(replace(MEASURED, **changes))
        assert found.answer == answer
        assert said in found.why

    def test_break_even_is_the_cost_to_the_loop(self):
        """Above the time that the loop needs to hand it over, inline holds the loop longer."""
        assert judge(MEASURED).break_even == MEASURED.offloaded.loop_cpu

    def test_overhead_is_never_negative(self):
        """A worker that was slow when it was asked apart does not make the way there free."""
        assert replace(MEASURED, worker_seconds=1.0).overhead == 0.0


class TestShown:
    def test_report(self):
        """A person sees both ways side by side, the costs, and the answer."""
        text = render(MEASURED, judge(MEASURED), colors=False)
        assert re.search(r"event loop held +50 ms +5 ms +< 1.5 ms  at a stretch", text)
        assert "2,000 bytes, pickled and unpickled" in text
        assert "Worth offloading? Yes." in text
        assert "\x1b" not in text

    def test_busy_machine(self):
        """Figures of a machine that had other things to do are told to be such."""
        busy = replace(MEASURED, starved=0.7)
        assert "no CPU for 70% of the time" in render(busy, judge(busy), colors=False)
        assert "no CPU" not in render(MEASURED, judge(MEASURED), colors=False)

    @pytest.mark.parametrize(
        "seconds,text",
        [
            (12.3456, "12.3 s"),
            (1.0, "1 s"),
            (0.0123456, "12.3 ms"),
            (0.000123, "123 µs"),
            (0, "0 µs"),
        ],
    )
    def test_durations(self, seconds, text):
        """Three figures, in the unit that fits."""
        assert milliseconds(seconds) == text

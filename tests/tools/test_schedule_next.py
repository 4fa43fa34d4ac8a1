"""`offload schedule next`: when does an expression fire?"""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from offload._cli import main


def test_prints_one_instant_a_line(capsys):
    """ISO 8601 with the zone's offset, across a clock change."""
    options = ["--timezone", "Europe/Berlin", "--from", "2027-03-27T12:00+01:00", "-n", "3"]
    assert main(["schedule", "next", "30 2 * * *", *options]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2027-03-28T03:00:00+02:00",
        "2027-03-29T02:30:00+02:00",
        "2027-03-30T02:30:00+02:00",
    ]


def test_counts_from_now(capsys):
    """Without `--from`, the next fire time lies ahead; an hour at most for this one."""
    before = datetime.now(UTC)
    assert main(["schedule", "next", "@hourly"]) == 0
    found = datetime.fromisoformat(capsys.readouterr().out.strip())
    assert 0 < (found - before).total_seconds() <= 3601


def test_start_without_offset_is_of_the_zone(capsys):
    """`--from` without an offset is what the zone's clock shows."""
    options = ["--timezone", "Asia/Tokyo", "--from", "2026-11-30T03:00"]
    assert main(["schedule", "next", "0 3 * * *", *options]) == 0
    assert capsys.readouterr().out == "2026-12-01T03:00:00+09:00\n"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["0 25 * * *"], "hour '25' at position 2"),
        (["@daily", "--timezone", "Europe/Berln"], "did you mean 'Europe/Berlin'?"),
        (["@daily", "--from", "yesterday"], "no ISO 8601 instant"),
        (["@daily", "-n", "0"], "-n must be 1 or more"),
    ],
)
def test_wrong_usage_is_told(arguments, text, capsys):
    """What is wrong, on standard error, with exit status 2."""
    assert main(["schedule", "next", *arguments]) == 2
    told = capsys.readouterr()
    assert text in told.err
    assert not told.out


def test_nothing_left_is_status_one(capsys):
    """An expression that has no fire time left prints nothing, and says so by its status."""
    assert main(["schedule", "next", "@yearly", "--from", "9998-12-31T00:00Z"]) == 1
    assert not capsys.readouterr().out


def test_reader_may_leave():
    """A reader that has seen enough, as `head`, is no error."""
    command = [sys.executable, "-m", "offload", "schedule", "next", "* * * * *", "-n", "200000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert not process.stderr.read()
    assert process.returncode == 0

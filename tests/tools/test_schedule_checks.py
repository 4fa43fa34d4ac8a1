"""`offload doctor`: schedules that never fire, and times of day that the clock skips."""

from datetime import UTC, datetime

import pytest

from offload._cli.doctor import examine
from offload._cli.findings import Level
from offload.schedules import Cron

APPLICATION = """
from datetime import UTC, datetime
from starlette.applications import Starlette
from offload.schedules import At, schedule

@schedule("30 2 * * *", timezone="Europe/Berlin", name="in a gap")
@schedule("30 12 * * *", timezone="Europe/Berlin", name="fine")
@schedule(At(datetime(2020, 1, 1, tzinfo=UTC)), name="over")
async def work(): ...

app = Starlette()
"""


def test_schedules_that_surprise_are_told(tmp_path):
    """What never fires, or not when it seems to, is a warning with the instant."""
    (tmp_path / "scheduled_app.py").write_text(APPLICATION)

    findings = examine("scheduled_app:app", folder=str(tmp_path))

    found = {each.check: each for each in findings if each.section == "Schedules"}
    assert found.keys() == {"never", "gap", "fire"}
    assert found["never"].level is Level.WARN
    assert found["never"].text.startswith("over: At(")
    assert "in a gap: Cron('30 2 * * *'" in found["gap"].text
    assert "03:00:00+02:00 instead" in found["gap"].text
    assert found["fire"].text == "1 schedule without a surprise"


@pytest.mark.parametrize(
    "expression, zone, expected",
    [
        ("30 2 * * *", "Europe/Berlin", ["2027-03-28T02:30:00 2027-03-28T01:00:00+00:00"]),
        ("0 2,3 * * *", "Europe/Berlin", ["2027-03-28T02:00:00 2027-03-28T01:00:00+00:00"]),
        ("0 3 * * *", "Europe/Berlin", []),
        ("*/15 * * * *", "Europe/Berlin", []),
        ("30 2 * * MON", "Europe/Berlin", []),
        ("@daily", "America/Santiago", ["2027-09-05T00:00:00 2027-09-05T04:00:00+00:00"]),
        ("30 2 * * *", "UTC", []),
    ],
)
def test_what_the_clock_skips(expression, zone, expected):
    """The times of day of a year that do not exist, and when they fire instead."""
    start, end = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)

    found = Cron(expression, zone).skipped(start, end)

    assert [f"{wall.isoformat()} {instant.isoformat()}" for wall, instant in found] == expected
    for _, instant in found:
        assert Cron(expression, zone).previous_before(instant.replace(microsecond=1)) == instant

"""Expressions and zones that are wrong are refused where they are declared, and it is said why."""

import pickle
import zoneinfo
from datetime import UTC, datetime, tzinfo

import pytest

from offload.errors import OffloadError
from offload.schedules import Cron, Every, Policy, ScheduleError
from offload.schedules import _zones as zones

START = datetime(2026, 11, 30, 9, 37, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "expression, field, position, text",
    [
        ("0 25 * * *", "hour", 2, "25 is out of range (0 to 23)"),
        ("  0  24 * * *", "hour", 5, "0 to 23"),
        ("60 * * * *", "minute", 0, "0 to 59"),
        ("60 0 * * * *", "second", 0, "0 to 59"),
        ("1,2,77 * * * *", "minute", 4, "'77'"),
        ("0 0 0 * *", "day of month", 4, "1 to 31"),
        ("0 0 32W * *", "day of month", 4, "1 to 31"),
        ("0 0 * 13 *", "month", 6, "1 to 12"),
        ("0 0 * * 8", "day of week", 8, "0 to 7"),
        ("0 0 * SEPT *", "month", 6, "did you mean SEP?"),
        ("0 0 * * MONDAY", "day of week", 8, "did you mean MON?"),
        ("0 0 * * XYZ", "day of week", 8, "names are SUN, MON"),
        ("0 0 * * FRI-MON", "day of week", 8, 'write "5-6,0-1"'),
        ("0 0 * * FRI-SUN", "day of week", 8, 'write "5-7"'),
        ("0 22-4 * * *", "hour", 2, 'write "22-23,0-4"'),
        ("*/90 * * * *", "minute", 0, "use Every(seconds)"),
        ("*/0 * * * *", "minute", 0, "the least is 1"),
        ("*/a * * * *", "minute", 0, "a step is a number"),
        ("*/ * * * *", "minute", 0, "a step is a number"),
        ("0 ,1 * * *", "hour", 2, "remove the comma"),
        ("0 1, * * *", "hour", 4, "remove the comma"),
        ("0 0 ? * *", "day of month", 4, 'write "*"'),
        ("0 5L * * *", "hour", 2, '"L" belongs into'),
        ("0 0 * * 15W", "day of week", 8, '"W" belongs into'),
        ("0 0 1#2 * *", "day of month", 4, '"#" belongs into'),
        ("0 0 * * 1#6", "day of week", 8, '"1#1" to "1#5"'),
        ("0 0 * * L", "day of week", 8, '"5L" is the last Friday'),
        ("0 0 * * FRIL", "day of week", 8, 'write "5L"'),
        ("0 0 L/2 * *", "day of month", 4, "remove the step"),
        ("0 0 L-3 * *", "day of month", 4, '"L" for the last day'),
        ("-5 * * * *", "minute", 0, 'a range as "0-2"'),
        ("H * * * *", "minute", 0, "write 0 to 59"),
        (f"0 {'9' * 900} * * *", "hour", 2, "out of range"),
        ("0 0 30 2 *", "day of month", 4, "never fires"),
        ("0 0 31W 4,6 *", "day of month", 4, "never fires"),
        ("0 0 * 2 * *", None, None, None),
        ("* * * *", None, None, "write five"),
        ("", None, None, "write five"),
        ("0 0 0 1 1 * 2026", None, None, "no field for years"),
        ("0 0 * * é", None, 8, "ASCII"),
        ("* " * 600, None, None, "at most 1,000"),
        ("@dayly", None, 0, "did you mean @daily?"),
        ("@every 5m", None, 0, "use Every(seconds)"),
        ("@reboot", None, 0, "when the program starts"),
        ("@", None, 0, "words are @yearly"),
    ],
)
def test_wrong_expressions_are_refused(expression, field, position, text):
    """The error names field and position, and says what would be right."""
    if text is None:
        assert Cron(expression)
        return
    with pytest.raises(ScheduleError) as raised:
        Cron(expression)
    error = raised.value
    assert text in str(error)
    assert (error.expression, error.field, error.position) == (expression, field, position)
    assert isinstance(error, ValueError)
    assert isinstance(error, OffloadError)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


@pytest.mark.parametrize(
    "expression, same",
    [
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        (" @Weekly ", "0 0 * * SUN"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 jan *"),
        ("0 3 * * *", "0 0 3 * * *"),
        ("0 3 * * 7", "0\t3 * * sun"),
        ("0 3 * * 2-2/3", "0 3 * * 2"),
        ("0 3 * * 5-7", "0 3 * * 5,6,0"),
        ("0 0 * * 7L", "0 0 * * 0L"),
        ("50/5 * * * *", "50,55 * * * *"),
        ("0 0 1,1,1 * *", "0 0 1 * *"),
    ],
)
def test_same_meaning(expression, same):
    """What can be said in several ways fires at the same times."""
    assert Cron(expression).next_n(START, 20) == Cron(same).next_n(START, 20)


@pytest.mark.parametrize(
    "expression, instant",
    [
        ("0 0 15W 8 *", "2026-08-14"),
        ("0 0 1W 8 *", "2026-08-03"),
        ("0 0 31W 1 *", "2027-01-29"),
        ("0 0 30W 4 *", "2028-04-28"),
        ("0 0 LW 2 *", "2027-02-26"),
        ("0 0 L 2 *", "2027-02-28"),
        ("0 0 * 2 MON#5", "2044-02-29"),
    ],
)
def test_special_days(expression, instant):
    """Workdays stay within their month, and what is rare is found."""
    year = {"8": 2026, "4": 2028}.get(expression.split()[3], 2027)
    found = Cron(expression).next_after(datetime(year, 1, 1, tzinfo=UTC))
    assert f"{found:%F}" == instant


@pytest.mark.parametrize(
    "zone, text",
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Sao Paulo", "did you mean 'America/Sao_Paulo'?"),
        ("Mars/Phobos_Base", "as in Europe/Berlin"),
        ("", "as in Europe/Berlin"),
        ("../etc/passwd", "unknown"),
        ("Europe", "unknown"),
        ("A" * 300, "unknown"),
        (7, "pass an IANA name"),
    ],
)
def test_unknown_zones_are_refused(zone, text):
    """The error has the name that was meant, where there is one."""
    if zone == "europe/berlin":
        try:
            zoneinfo.ZoneInfo(zone)
        except zoneinfo.ZoneInfoNotFoundError:
            pass
        else:
            pytest.skip("a file system that takes any case")
    with pytest.raises(ScheduleError) as raised:
        Cron("@daily", timezone=zone)
    assert text in str(raised.value)


def test_other_zone_classes_are_refused():
    """Classes that do not follow PEP 495 could be off by an hour."""

    class Zone(tzinfo):
        pass

    with pytest.raises(ScheduleError, match="is a Zone"):
        Cron("@daily", timezone=Zone())


def test_system_without_zones_says_what_to_install(monkeypatch):
    """Where neither the system nor tzdata has zones, the error says so."""
    monkeypatch.setattr(zones, "available_timezones", set)
    with pytest.raises(ScheduleError, match="pip install tzdata"):
        Cron("@daily", timezone="Europe/Nowhere")


@pytest.mark.parametrize(
    "policy",
    [
        {"misfire_grace": -1},
        {"misfire_grace": float("nan")},
        {"random_delay": -0.1},
        {"random_delay": float("inf")},
        {"max_executions": 0},
        {"max_catch_up": 0},
        {"start": START.replace(tzinfo=None)},
        {"start": START, "end": START.replace(year=2025)},
    ],
)
def test_wrong_policies_are_refused(policy):
    """Out of range, naive, or an end before the start: refused at declaration."""
    with pytest.raises(ScheduleError):
        Policy(**policy)


def test_missing_library_is_named(monkeypatch):
    """Without the extra, a cron expression says what to install; intervals need nothing."""
    monkeypatch.setitem(__import__("sys").modules, "cronsim", None)
    with pytest.raises(ImportError, match=r"offload\[schedules\]"):
        Cron("3,4,5,58,59 3 3 3 6#3")
    assert Every(60).next_after(START)

"""Fire times: beside a scan of each minute, beside other libraries, and by example."""

import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.schedules import At, Cron, Every, FireTimes, ScheduleError
from tests.schedules import model, peers

CHANGES = model.changes(2026, 2027)
START = datetime(2026, 11, 30, 9, 37, 12, tzinfo=UTC)


def fields(low, high, names=()):
    """Texts of a field of numbers."""
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
    steps = st.integers(1, high - low + 1)
    some = [numbers.map(str), ranges, *([st.sampled_from(names)] if names else [])]
    stepped = st.tuples(st.just("*") | ranges | numbers.map(str), steps)
    term = st.one_of(*some, stepped.map(lambda pair: f"{pair[0]}/{pair[1]}"))
    return st.just("*") | st.lists(term, min_size=1, max_size=3).map(",".join)


minutes, hours = fields(0, 59), fields(0, 23)
workdays = st.integers(1, 31).map(lambda day: f"{day}W")
dates = fields(1, 31) | st.sampled_from(("L", "LW", "1,L", "15W,LW")) | workdays
months = fields(1, 12, ("JAN", "feb", "Dec"))
pairs = st.tuples(st.integers(0, 7), st.integers(1, 5)).map(lambda pair: f"{pair[0]}#{pair[1]}")
lasts = st.integers(0, 7).map(lambda day: f"{day}L")
weekdays = fields(0, 7, ("SUN", "mon", "Sat")) | pairs | lasts | st.just("MON-FRI")
instants = st.integers(-(10**10), 4 * 10**15).map(
    lambda each: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=each)
)
# Hours that clock changes concern, more often than not.
early = st.sampled_from(("0", "1", "2", "3", "0-3", "1,2", "*", "*/2", "0-4/2"))
expressions = st.tuples(minutes, early | hours, dates | st.just("*"), months, weekdays)


def cron(expression, zone="UTC"):
    """Return the expression parsed; None if it never fires."""
    try:
        return Cron(expression, zone)
    except ScheduleError as error:
        assert "never fires" in str(error)  # noqa: PT017 - nothing else is made here
        return None


class TestBesideTheScan:
    @settings(max_examples=25)
    @given(change=st.sampled_from(CHANGES), expression=expressions.map(" ".join))
    def test_minutes_around_a_clock_change(self, change, expression):
        """In both directions, the fire times are those that a scan of every minute finds."""
        name, instant, _, _ = change
        found = cron(expression, name)
        start, end = instant - 15 * model.HOUR, instant + 15 * model.HOUR
        walls = model.watch(ZoneInfo(name), start, end, model.MINUTE)
        expected = model.Watched(expression).fires(walls)
        if found is None:
            assert not expected
            return
        assert model.ours(found, start, end) == expected
        assert model.ours_backwards(found, start, end) == expected

    @settings(max_examples=10)
    @given(
        change=st.sampled_from(CHANGES),
        second=st.sampled_from(("0", "*", "*/20", "5,59", "10-50/7")),
        minute=st.sampled_from(("0", "*", "29-31", "*/30", "59")),
        hour=early,
    )
    def test_seconds_around_a_clock_change(self, change, second, minute, hour):
        """With six fields, too: a scan of every second."""
        name, instant, before, after = change
        around = abs(after - before) + timedelta(minutes=10)
        start, end = instant - around, instant + around
        expression = f"{second} {minute} {hour} * * *"
        expected = model.Watched(expression).fires(
            model.watch(ZoneInfo(name), start, end, model.SECOND)
        )
        found = Cron(expression, name)
        assert model.ours(found, start, end) == expected
        assert model.ours_backwards(found, start, end) == expected

    @settings(max_examples=50)
    @given(
        expression=st.tuples(dates, months, weekdays).map(lambda each: f"0 0 {' '.join(each)}"),
        year=st.integers(1990, 2100),
    )
    def test_days_of_a_year(self, expression, year):
        """Whatever the day fields say: the days are those that a look at each day finds."""
        found = cron(expression)
        start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 3, 1, tzinfo=UTC)
        watched = model.Watched(expression)
        each = (start + timedelta(days=n) for n in range((end - start).days))
        expected = [day for day in each if watched.says_day(day.date())]
        assert (model.ours(found, start, end) if found else []) == expected

    @given(
        change=st.sampled_from(CHANGES),
        expression=expressions.map(" ".join),
        offset=st.integers(-200_000_000, 200_000_000).map(
            lambda each: timedelta(milliseconds=each)
        ),
    )
    def test_any_instant_can_be_asked(self, change, expression, offset):
        """Next lies after, previous before, nothing between, and each finds the other."""
        found = cron(expression, change[0])
        instant = change[1] + offset
        if found is None:
            return
        following, previous = found.next_after(instant), found.previous_before(instant)
        assert following > instant > previous
        tick = timedelta(microseconds=1)
        between = found.next_after(previous)
        assert between in {following, instant}
        assert found.previous_before(following) in {previous, instant}
        assert found.next_after(following - tick) == following
        assert found.previous_before(previous + tick) == previous


class TestBesideOthers:
    """Where other libraries differ, and that they do: if one of these fails, one was mended."""

    @pytest.mark.parametrize("name", [*ZoneInfo("UTC").key.split(), "Asia/Kolkata"])
    @pytest.mark.parametrize("peer", peers.PEERS)
    @pytest.mark.parametrize(
        "expression",
        ["0 3 * * *", "*/7 4-6 * * *", "5,50 */5 1-7 * *", "0 12 * 2-4 *", "0 0 L * *"],
    )
    def test_same_without_clock_changes(self, peer, expression, name):
        """Without clock changes all are of one opinion."""
        end = START + timedelta(days=200 if expression.startswith("0") else 20)
        theirs = peers.PEERS[peer](expression, ZoneInfo(name), START, end)
        assert theirs
        assert model.ours(Cron(expression, name), START, end) == theirs

    @settings(max_examples=30)
    @given(
        change=st.sampled_from([each for each in CHANGES if each[3] > each[2]]),
        expression=st.sampled_from(("30 2 * * *", "0 0 * * *", "*/15 * * * *", "15,45 1-3 * * *")),
    )
    def test_cronsim_agrees_forward(self, change, expression):
        """Cronsim follows Debian's cron as we do; what it fires twice at a change we fire once."""
        name, instant, _, _ = change
        start, end = instant - 26 * model.HOUR, instant + 26 * model.HOUR
        theirs = peers.with_cronsim(expression, ZoneInfo(name), start, end)
        assert model.ours(Cron(expression, name), start, end) == theirs

    def test_cronsim_goes_back_in_time(self):
        """From an hour that comes twice, its next fire time can lie an hour before."""
        start = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
        berlin = ZoneInfo("Europe/Berlin")
        theirs = next(peers.CronSim("45 2 * * *", start.astimezone(berlin)))
        assert theirs.astimezone(UTC) < start
        assert Cron("45 2 * * *", "Europe/Berlin").next_after(start) == datetime(
            2026, 10, 26, 1, 45, tzinfo=UTC
        )

    def test_croniter_loses_an_hour_that_comes_twice(self):
        """Every 15 minutes, it has nothing in the hour that comes again, and ours has."""
        start = datetime(2026, 10, 25, 0, tzinfo=UTC)
        end = start + timedelta(hours=3)
        theirs = peers.with_croniter("0 * * * *", ZoneInfo("Europe/Berlin"), start, end)
        assert len(theirs) < 3 == len(model.ours(Cron("0 * * * *", "Europe/Berlin"), start, end))

    def test_apscheduler_leaves_out_what_is_skipped(self):
        """A time of day that does not exist: it fires an hour late or not at all, ours at once."""
        start = datetime(2027, 3, 28, 0, tzinfo=UTC)
        end = start + timedelta(hours=4)
        theirs = peers.with_apscheduler("30 2 * * *", ZoneInfo("Europe/Berlin"), start, end)
        found = model.ours(Cron("30 2 * * *", "Europe/Berlin"), start, end)
        assert found == [datetime(2027, 3, 28, 1, tzinfo=UTC)] != theirs


def in_berlin(expression, day, count=4):
    """Return fire times from the beginning of a day on, as a clock in Berlin shows them."""
    zone = ZoneInfo("Europe/Berlin")
    start = datetime.combine(day, datetime.min.time(), zone) - timedelta(seconds=1)
    fires = Cron(expression, "Europe/Berlin").next_n(start, count)
    return [f"{fire.astimezone(zone):%d. %H:%M %z}" for fire in fires]


class TestClockChanges:
    def test_skipped_time_of_day_fires_at_the_change(self):
        """02:30 does not exist on that day: the job runs at 03:00, once, and as ever after."""
        fires = in_berlin("30 2 * * *", date(2027, 3, 28), 2)
        assert fires == ["28. 03:00 +0200", "29. 02:30 +0200"]

    def test_several_skipped_times_fire_once(self):
        """What is skipped, and what falls on the change by itself, is one fire."""
        fires = in_berlin("0,30 2,3 * * *", date(2027, 3, 28), 3)
        assert fires == ["28. 03:00 +0200", "28. 03:30 +0200", "29. 02:00 +0200"]

    def test_repeated_time_of_day_fires_the_first_time(self):
        """02:30 comes twice on that day: the job runs once."""
        fires = in_berlin("30 2 * * *", date(2026, 10, 25), 2)
        assert fires == ["25. 02:30 +0200", "26. 02:30 +0100"]

    def test_intervals_follow_the_time_that_passes(self):
        """Every half hour is every half hour, whatever the clock shows."""
        zone = ZoneInfo("Europe/Berlin")
        for day in (date(2026, 10, 25), date(2027, 3, 28)):
            start = datetime.combine(day, datetime.min.time(), zone).astimezone(UTC)
            fires = Cron("*/30 * * * *", "Europe/Berlin").next_n(start, 12)
            assert fires == [start + timedelta(minutes=30) * n for n in range(1, 13)]

    def test_intervals_have_nothing_in_an_hour_that_is_skipped(self):
        """Every 20 minutes from two to three: on that day, never."""
        assert in_berlin("*/20 2 * * *", date(2027, 3, 28), 1) == ["29. 02:00 +0200"]

    def test_midnight_that_is_skipped(self):
        """Where the clock goes forward at midnight, the day begins at one."""
        fires = Cron("0 0 * * *", "America/Santiago").next_n(
            datetime(2026, 9, 5, 12, tzinfo=UTC), 2
        )
        assert fires == [datetime(2026, 9, 6, 4, tzinfo=UTC), datetime(2026, 9, 7, 3, tzinfo=UTC)]

    def test_day_that_is_skipped(self):
        """Samoa had no 30 December 2011: its fire is that of the 31st, as that day begins."""
        fires = Cron("0 0 * 12 *", "Pacific/Apia").next_n(datetime(2011, 12, 29, tzinfo=UTC), 3)
        days = [datetime(2011, 12, day, 10, tzinfo=UTC) for day in (29, 30)]
        assert fires == [*days, datetime(2012, 12, 1, tzinfo=UTC) - timedelta(hours=14)]


class TestEvery:
    @given(microseconds=st.integers(1000, 10**13), anchor=instants, instant=instants)
    def test_is_a_grid(self, microseconds, anchor, instant):
        """Each fire time lies a whole number of intervals from the anchor: nothing drifts."""
        step = timedelta(microseconds=microseconds)
        every = Every(step, anchor=anchor)
        following, previous = every.next_after(instant), every.previous_before(instant)
        assert not (following - anchor) % step
        assert previous < instant < following
        assert following - previous in {step, 2 * step}
        assert (following - previous == 2 * step) == (not (instant - anchor) % step)

    def test_is_the_same_in_every_process(self):
        """Without an anchor, an hour is a full hour."""
        assert Every(3600).next_after(START) == datetime(2026, 11, 30, 10, tzinfo=UTC)

    @pytest.mark.parametrize("interval", [0, -1, 0.0001, float("nan"), float("inf"), 1e300])
    def test_refuses_what_is_no_interval(self, interval):
        """Zero, less, less than a millisecond, and what is no number are refused at declaration."""
        with pytest.raises(ScheduleError, match="interval"):
            Every(interval)


def test_at_fires_once():
    """One instant: before it there is one fire time, from then on none."""
    at = At(START)
    tick = timedelta(microseconds=1)
    assert at.next_after(START - tick) == at.previous_before(START + tick) == START
    assert at.next_after(START) is at.previous_before(START) is None
    assert at.next_n(START - tick, 5) == [START]


def test_no_fire_times_beyond_the_calendar():
    """At the ends of what a datetime can be, there is nothing, and no error."""
    for times in (Cron("0 0 1 1 *"), Cron("* * * * *", "Europe/Berlin"), Every(10**9)):
        assert times.next_after(datetime.max.replace(tzinfo=UTC)) is None
        assert times.previous_before(datetime.min.replace(tzinfo=UTC)) is None


@pytest.mark.parametrize(
    "times",
    [
        Cron("0 3 * * *", "Europe/Berlin"),
        Cron("@daily", timezone(timedelta(hours=2))),
        Every(7.5),
        Every(60, anchor=START),
        At(START.astimezone(ZoneInfo("Asia/Tokyo"))),
    ],
    ids=repr,
)
def test_fire_times_are_values(times):
    """They pickle, compare, hash and show themselves, and know the zone to show instants in."""
    copy = pickle.loads(pickle.dumps(times))
    assert copy == times
    assert hash(copy) == hash(times)
    assert copy.next_after(START) == times.next_after(START)
    assert copy.timezone.utcoffset(None) == times.timezone.utcoffset(None)
    assert isinstance(times, FireTimes)
    assert repr(times).startswith(type(times).__name__)
    assert times != object()


@pytest.mark.parametrize("times", [Cron("0 3 * * *"), Every(60), At(START)])
def test_naive_instants_are_refused(times):
    """What could be any of many instants is none."""
    with pytest.raises(ScheduleError, match="aware"):
        times.next_after(START.replace(tzinfo=None))


def test_equal_expressions_share_what_was_parsed():
    """100,000 schedules with one expression keep it once."""
    assert Cron("0 3 * * *")._calendar is Cron("0 3 * * *", "Asia/Tokyo")._calendar

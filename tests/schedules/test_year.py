"""A year of a thousand schedules: clock changes, jumps, late loops and restarts lose nothing."""

import itertools
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from offload.schedules import Agenda, Coalesce, Cron, Every, Fire, Overlap, Policy, fire_id
from tests.schedules.model import Watched, watch

START = datetime(2026, 12, 31, 12, tzinfo=UTC)
END = datetime(2028, 1, 2, tzinfo=UTC)
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Antarctica/Troll",
)
# All minutes of the expressions, and all clock changes of that year, are multiples of it.
TICK = timedelta(minutes=15)
EXPRESSIONS = (
    "0 3 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "45 1 * * SUN",
    "0 9 * * MON-FRI",
    "15 0 1 * *",
    "0 0 L * *",
    "0 8 15W * *",
    "30 12 * * 5L",
    "0 7 * * 1#2",
    "0 6 1,15 * MON",
    "15 2,14 * * *",
    "*/30 2 * * *",
)
# Each fire must run, however late: what is due at once runs one by one.
POLICY = Policy(coalesce=Coalesce.ALL, max_catch_up=10**6, overlap=Overlap.ALLOW)


def schedules(number=1000):
    """Return the fire times of each schedule, and those of the scan that it is judged by."""
    walls = {zone: watch(ZoneInfo(zone), START, END, TICK) for zone in ZONES}
    kinds = []
    for zone, expression in itertools.product(ZONES, EXPRESSIONS):
        kinds.append((Cron(expression, zone), Watched(expression, TICK).fires(walls[zone])))
    for hours in (5, 6, 24, 100):
        anchor = START + timedelta(minutes=hours)
        expected = [anchor + timedelta(hours=hours) * n for n in range(400 * 24 // hours)]
        kinds.append((Every(timedelta(hours=hours), anchor=anchor), expected))
    return {f"s{n}": kinds[n % len(kinds)] for n in range(number)}


class Program:
    """A scheduler with a clock that is not to be trusted, and an engine that takes each id once."""

    def __init__(self, fire_times):
        self.fire_times = fire_times
        self.agenda = Agenda()
        self.random = random.Random(15)
        self.taken = Counter()
        self.repeated = 0
        self.events = Counter()
        for name, times in fire_times.items():
            self.agenda.add(name, times, POLICY, now=START)

    def step(self, now):
        for action in self.agenda.advance(now):
            assert isinstance(action, Fire)
            assert action.due == action.fire_time <= now
            self.repeated += action.id in self.taken
            self.taken[action.id] += 1
            self.agenda.ended(action.schedule, action.id)

    def restart(self, now, kept):
        """Go on with what was kept; what has fired since then fires again, under the same ids."""
        self.agenda = Agenda()
        for name, times in self.fire_times.items():
            self.agenda.add(name, times, POLICY, now=now, snapshot=kept[name])

    def snapshots(self):
        return {name: self.agenda[name].snapshot() for name in self.agenda}

    def run(self):
        now, kept = START, self.snapshots()
        while now < END:
            due = self.agenda.next_due()
            late = self.random.choice((0.0, 0.001, 0.02, 1.5, 90.0))
            now = max(now, due) + timedelta(seconds=late)
            event = self.random.random()
            if event < 0.002:
                self.events["restart"] += 1
                self.restart(now, self.snapshots())
                now += timedelta(hours=self.random.uniform(0, 30))
            elif event < 0.003:
                self.events["killed"] += 1
                self.restart(now, kept)
            elif event < 0.006:
                self.events["set back"] += 1
                now -= timedelta(hours=self.random.uniform(0, 12))
            elif event < 0.009:
                self.events["suspended or set forward"] += 1
                now += timedelta(hours=self.random.uniform(0, 48))
            elif event < 0.011:
                # A wrong clock, for a moment: all that it makes fire has fired, and never again.
                self.events["wrong"] += 1
                self.step(now + timedelta(days=self.random.uniform(0, 3)))
            elif event < 0.016:
                kept = self.snapshots()
            self.step(now)


def test_year_of_a_thousand_schedules():
    """Every fire exactly once, at its instant to the microsecond, in well under a minute."""
    kinds = schedules()
    began = time.process_time()
    program = Program({name: times for name, (times, _) in kinds.items()})
    program.run()
    # Only a program that was killed before it kept a snapshot fires again; the engine refuses it.
    assert sum(program.taken.values()) == len(program.taken) + program.repeated
    assert min(program.events.values()) >= 3
    taken = set(program.taken)
    last = END - timedelta(days=1)
    expected = {
        fire_id(name, instant)
        for name, (_, instants) in kinds.items()
        for instant in instants
        if START < instant < last
    }
    assert len(expected) > 250_000
    assert expected <= taken
    beyond = {each for each in taken - expected if each.partition("@")[2] < f"{last:%Y%m%dT%H%M%S}"}
    assert not beyond
    assert time.process_time() - began < 60

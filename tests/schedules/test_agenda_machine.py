"""`offload.schedules.Agenda` beside a model: the same actions through any history of events.

The model lists all fire times there are, and keeps those that were missed one by one. It has no
heap, no spans and no memory of the next fire time, so that it cannot share a mistake with what it
judges.
"""

import itertools
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offload.schedules import (
    Agenda,
    At,
    Cancel,
    Coalesce,
    Cron,
    Every,
    Finished,
    FinishReason,
    Fire,
    FireReason,
    Missed,
    MissedReason,
    Overlap,
    Phase,
    Policy,
    SkippedOverlap,
    _agenda,
    _decisions,
    fire_id,
)

BASE = datetime(2026, 10, 25, tzinfo=UTC)
TICK = timedelta(microseconds=1)
# What any history can reach, and more.
HORIZON = timedelta(hours=2.5)
NAMES = ("a", "b", "c")

seconds = st.sampled_from((0.0, 0.001, 1.0, 4.5, 10.0, 30.0, 61.0, 200.0))
# An end of the fire times, and none.
fire_times = st.sampled_from(
    (
        Every(7),
        Every(10, anchor=BASE + timedelta(seconds=3)),
        Every(60),
        Cron("*/10 * * * * *", "Europe/Berlin"),
        Cron("30 */2 * * * *"),
        At(BASE + timedelta(seconds=40)),
        At(BASE - timedelta(seconds=40)),
    )
)
instants = st.none() | seconds.map(lambda each: BASE + timedelta(seconds=each))
policies = st.builds(
    Policy,
    misfire_grace=st.sampled_from((None, None, 0.0, 5.0, 45.0)),
    coalesce=st.sampled_from(Coalesce),
    max_catch_up=st.sampled_from((1, 3, 1000)),
    overlap=st.sampled_from(Overlap),
    max_executions=st.sampled_from((None, None, None, 1, 4)),
    start=instants,
    end=st.none() | st.just(BASE + timedelta(minutes=10)),
    random_delay=st.sampled_from((0.0, 0.0, 3.0, 100.0)),
)


@lru_cache
def all_of(fire_times):
    """Return all fire times within the horizon."""
    found = []
    fire = fire_times.next_after(BASE - timedelta(hours=1))
    while fire is not None and fire < BASE + HORIZON:
        found.append(fire)
        fire = fire_times.next_after(fire)
    return found


class Model:
    """One schedule."""

    def __init__(self, name, fire_times, policy, now):
        self.name = name
        self.until = now
        self.executions = 0
        self.phase = Phase.ACTIVE
        self.running = []
        self.queued = None
        self.follow(fire_times, policy)
        if policy.start is not None and policy.start >= now:
            self.until = policy.start - TICK

    def follow(self, fire_times, policy):
        self.fire_times, self.policy = fire_times, policy
        self.all = all_of(fire_times)
        self.following = dict(itertools.pairwise(self.all))
        # Lists of fire times that were missed together: behind the clock, and before it once more.
        self.passed = []
        self.waiting = []

    def start_of(self, fire):
        delay = timedelta(seconds=self.policy.random_delay)
        if not delay:
            return fire
        if fire in self.following:
            delay = min(delay, self.following[fire] - fire)
        digest = blake2b(fire_id(self.name, fire).encode(), digest_size=8).digest()
        return fire + (delay // TICK * int.from_bytes(digest) >> 64) * TICK

    def pending(self):
        end = self.policy.end or BASE + HORIZON
        return self.all[bisect_right(self.all, self.until) : bisect_right(self.all, end)]

    def set_back(self, now):
        groups = sorted(filter(None, self.passed + self.waiting))
        self.passed = [[each for each in group if self.start_of(each) <= now] for group in groups]
        self.waiting = [[each for each in group if self.start_of(each) > now] for group in groups]

    def due(self):
        groups = [*sorted(filter(None, self.waiting)), self.pending()]
        first = next((group[0] for group in groups if group), None)
        return None if first is None or self.phase is not Phase.ACTIVE else self.start_of(first)

    def advance(self, now):
        if self.due() is None or self.due() > now:
            return []
        actions = []
        groups = sorted(filter(None, self.waiting))
        self.waiting = []
        for group in groups:
            seen = [each for each in group if self.start_of(each) <= now]
            self.decide(seen, now, actions)
            self.waiting.append([each for each in group if each not in seen])
        seen = [each for each in self.pending() if self.start_of(each) <= now]
        self.decide(seen, now, actions)
        self.until = max(seen, default=self.until)
        return actions + self.settle()

    def decide(self, seen, now, actions):
        grace, most = self.policy.misfire_grace, self.policy.max_catch_up
        late = [
            each
            for each in seen
            if grace is not None and now - self.start_of(each) > timedelta(seconds=grace)
        ]
        rest = [each for each in seen if each not in late]
        self.miss(late, MissedReason.TOO_LATE, actions)
        passed = []
        if len(rest) > 1 and self.policy.coalesce is Coalesce.ONCE:
            passed, rest = rest[:-1], rest[-1:]
            self.miss(passed, MissedReason.COALESCED, actions)
        elif len(rest) > 1 and self.policy.coalesce is Coalesce.SKIP:
            passed, rest = rest, []
            self.miss(passed, MissedReason.SKIPPED, actions)
        elif len(rest) > most:
            passed, rest = rest[:-most], rest[-most:]
            self.miss(passed, MissedReason.CATCH_UP_LIMIT, actions)
        for each in rest:
            if self.executions != self.policy.max_executions:
                fire = (fire_id(self.name, each), each, self.start_of(each), FireReason.SCHEDULED)
                self.start(Fire(self.name, *fire), actions)
        if late + passed:
            self.passed.append(late + passed)

    def miss(self, fires, reason, actions):
        if fires:
            actions.append(Missed(self.name, fires[0], fires[-1], reason))

    def start(self, fire, actions):
        overlap = self.policy.overlap
        if not self.running or overlap is Overlap.ALLOW:
            self.running.append(fire)
            if fire.reason is FireReason.SCHEDULED:
                self.executions += 1
            actions.append(fire)
            return
        if overlap is Overlap.QUEUE_ONE and self.queued is None:
            self.queued = fire
            return
        loser = fire
        if overlap is Overlap.CANCEL_RUNNING:
            loser, self.queued = self.queued, fire
            if loser is None:
                actions += [Cancel(self.name, each.id) for each in self.running]
                return
        actions.append(SkippedOverlap(self.name, loser.id, loser.fire_time))

    def settle(self):
        if self.phase is not Phase.ACTIVE:
            return []
        if self.executions == self.policy.max_executions:
            reason = FinishReason.MAX_EXECUTIONS
        elif self.due() is None and self.queued is None:
            reason = FinishReason.NO_FIRE_TIMES
        else:
            return []
        self.phase = Phase.FINISHED
        return [Finished(self.name, reason)]

    def ended(self, fire):
        self.running = [each for each in self.running if each.id != fire]
        actions = []
        if not self.running and self.queued is not None:
            queued, self.queued = self.queued, None
            self.start(queued, actions)
        return actions + self.settle()


class AgendaMachine(RuleBasedStateMachine):
    """Any event that a shell can report, with any clock."""

    def __init__(self):
        super().__init__()
        # Small, so that a short history gets to a rebuild; large, so that none is forgotten.
        self.patches = [
            mock.patch.object(_agenda, "_STALE_WORTH_A_REBUILD", 3),
            mock.patch.object(_decisions, "_MAX_SPANS", 1000),
        ]
        for patch in self.patches:
            patch.start()
        self.agenda = Agenda()
        self.models = {}
        self.now = BASE
        # What has fired by schedule since the schedule was added or changed.
        self.fired = set()

    def teardown(self):
        for patch in self.patches:
            patch.stop()

    def check(self, actions, expected):
        assert actions == expected
        for each in actions:
            if isinstance(each, Fire):
                assert each.id not in self.fired
                self.fired.add(each.id)

    def look_back(self, now):
        if now < self.now:
            for model in self.models.values():
                model.set_back(now)
        self.now = now

    @initialize(times=st.lists(fire_times, min_size=2, max_size=2), policy=policies)
    def add_two(self, times, policy):
        """A history without schedules is a short one; of these two, one has no limits."""
        self.add("a", times[0], Policy(overlap=Overlap.ALLOW))
        self.add("b", times[1], policy)

    @rule(name=st.sampled_from(NAMES), fire_times=fire_times, policy=policies)
    def add(self, name, fire_times, policy):
        if name in self.models:
            return
        self.fired = {each for each in self.fired if not each.startswith(f"{name}@")}
        model = self.models[name] = Model(name, fire_times, policy, self.now)
        self.check(self.agenda.add(name, fire_times, policy, now=self.now), model.settle())

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def remove(self, data):
        name = data.draw(st.sampled_from(sorted(self.models)))
        del self.models[name]
        self.agenda.remove(name)

    @rule(step=seconds)
    def advance(self, step):
        """Time passes; the agenda is asked late or in time."""
        self.look_back(self.now + timedelta(seconds=step))
        found = self.agenda.advance(self.now)
        for name, model in self.models.items():
            self.check([each for each in found if each.schedule == name], model.advance(self.now))

    @rule(step=seconds, back=seconds, later=st.lists(seconds, max_size=3))
    def run_ahead(self, step, back, later):
        """The clock runs ahead, is corrected, and comes by again."""
        self.advance(step)
        self.set_clock_back(back)
        for each in later:
            self.advance(each)

    @rule()
    def advance_to_next(self):
        """The timer fires to the microsecond."""
        due = self.agenda.next_due()
        if due is not None and due - self.now < timedelta(minutes=5):
            self.advance((max(due, self.now) - self.now).total_seconds())

    @rule(step=seconds)
    def set_clock_back(self, step):
        self.look_back(self.now - timedelta(seconds=step))
        found = self.agenda.advance(self.now)
        for name, model in self.models.items():
            self.check([each for each in found if each.schedule == name], model.advance(self.now))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def pause(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        expected = model.advance(self.now)
        if model.phase is Phase.ACTIVE:
            model.phase = Phase.PAUSED
            if model.queued is not None:
                model.miss([model.queued.fire_time], MissedReason.PAUSED, expected)
                model.queued = None
        self.check(self.agenda.pause(model.name, now=self.now), expected)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def resume(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        expected = []
        if model.phase is Phase.PAUSED:
            model.phase = Phase.ACTIVE
            model.until = max(model.until, self.now)
            model.passed = model.waiting = []
            expected = model.settle()
        self.check(self.agenda.resume(model.name, now=self.now), expected)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), fire_times=st.none() | fire_times, policy=st.none() | policies)
    def change(self, data, fire_times, policy):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        expected = model.advance(self.now)
        if model.phase is Phase.FINISHED:
            model.phase = Phase.ACTIVE
        model.follow(fire_times or model.fire_times, policy or model.policy)
        model.until = max(model.until, self.now)
        if model.policy.start is not None:
            model.until = max(model.until, model.policy.start - TICK)
        if model.policy.max_executions and model.executions > model.policy.max_executions:
            model.executions = model.policy.max_executions
            self.agenda[model.name].executions = model.executions
        expected += model.settle()
        self.check(self.agenda.change(model.name, fire_times, policy, now=self.now), expected)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def run_now(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        found = self.agenda.run_now(model.name, now=self.now)
        taken = {each.id for each in [*model.running, *filter(None, [model.queued])]}
        at = self.now
        while f"{fire_id(model.name, at)}-manual" in taken:
            at += TICK
        expected = []
        fire = Fire(model.name, f"{fire_id(model.name, at)}-manual", at, at, FireReason.MANUAL)
        model.start(fire, expected)
        assert found == expected

    @precondition(lambda self: any(model.running for model in self.models.values()))
    @rule(data=st.data())
    def ended(self, data):
        busy = sorted(name for name, model in self.models.items() if model.running)
        model = self.models[data.draw(st.sampled_from(busy))]
        fire = data.draw(st.sampled_from(model.running))
        expected = model.ended(fire.id)
        found = self.agenda.ended(model.name, fire.id)
        if fire.reason is FireReason.MANUAL or any(
            each.reason is FireReason.MANUAL for each in found if isinstance(each, Fire)
        ):
            assert found == expected
        else:
            self.check(found, expected)

    @rule()
    def restart(self):
        """A program that has kept snapshots goes on as if it had not ended."""
        kept = {name: self.agenda[name].snapshot() for name in self.agenda}
        self.agenda = Agenda()
        for name, model in self.models.items():
            # What was passed over and lies before the clock is so again, in the same pieces.
            assert not self.agenda.add(
                name, model.fire_times, model.policy, now=self.now, snapshot=kept[name]
            )
            model.set_back(self.now)

    @invariant()
    def due_is_the_first_of_all(self):
        """The next due instant is the least of those of all schedules, found without a scan."""
        dues = [model.due() for model in self.models.values()]
        assert self.agenda.next_due() == min(filter(None, dues), default=None)

    @invariant()
    def states_are_the_same(self):
        assert set(self.agenda) == set(self.models)
        for name, model in self.models.items():
            state = self.agenda[name]
            assert state.phase is model.phase
            assert state.executions == model.executions
            assert list(state.running) == model.running
            assert state.queued == model.queued

    @invariant()
    def heap_is_bounded(self):
        """Entries left behind are cleared away."""
        assert len(self.agenda._heap) <= 2 * len(self.models) + 2 * 3 + 2


AgendaMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

TestAgenda = AgendaMachine.TestCase


def test_clock_that_ran_ahead_keeps_random_delays():
    """A clock that runs ahead and is set back leaves the due times where they were."""
    machine = AgendaMachine()
    try:
        policy = Policy(coalesce=Coalesce.SKIP, random_delay=3.0)
        machine.add_two(times=[Every(7.0), Every(7.0)], policy=policy)
        machine.restart()
        machine.run_ahead(back=0.0, later=[], step=30.0)
        machine.run_ahead(back=10.0, later=[], step=0.0)
        machine.run_ahead(back=0.001, later=[], step=4.5)
        machine.due_is_the_first_of_all()
    finally:
        machine.teardown()

"""What becomes of the programs of one `offload run`, decided without any process."""

import signal

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offload._run.decisions import Say, Send, Start, State, Supervision, exit_status

NAMES = ("web", "worker")
TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


def running(*names):
    """Return a tree all of whose programs are ready at instant 0."""
    supervision = Supervision(names or NAMES, kill_after=30.0)
    supervision.begin()
    for name in names or NAMES:
        supervision.ready(name, 0.0)
    return supervision


def done(actions):
    """Return actions without what is only said."""
    return [action for action in actions if not isinstance(action, Say)]


def test_all_are_started():
    """One after the other, in the order in which they were named."""
    assert Supervision(NAMES, kill_after=1.0).begin() == [Start("web"), Start("worker")]


def test_crash_costs_one_program():
    """It is started again after a second; the others are not touched."""
    tree = running()
    (said,) = tree.ended("worker", -KILL, 100.0)
    assert said == Say("worker was killed by SIGKILL, and is started again in 1 s")
    assert tree.next_due() == 101.0
    assert tree.advance(100.9) == []
    assert tree.advance(101.0) == [Start("worker")]
    assert not tree.is_stopping


def test_program_that_ends_again_and_again_waits_longer():
    """Twice as long each time, up to half a minute; after a minute of service it begins anew."""
    tree, now, delays = running("web"), 0.0, []
    for _ in range(7):
        tree.ended("web", 1, now)
        delays.append(tree.next_due() - now)
        now = tree.next_due()
        assert tree.advance(now) == [Start("web")]
        tree.ready("web", now)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    tree.ended("web", 1, now + 60.0)
    assert tree.next_due() == now + 61.0


def test_program_that_does_not_start_ends_all():
    """With its exit status: it would fail again, and whoever has started them must see it."""
    tree = Supervision(NAMES, kill_after=30.0)
    tree.begin()
    tree.ready("worker", 0.0)
    said, *actions = tree.ended("web", 3, 1.0)
    assert said == Say("web ended with status 3 before it was ready: all end")
    assert actions == [Send("worker", TERM)]
    tree.ended("worker", 0, 2.0)
    assert (tree.is_over, tree.status) == (True, 3)


def test_program_that_ends_well_before_it_is_ready_is_no_success():
    """Nothing runs, so the status of the whole is not 0."""
    tree = Supervision(["web"], kill_after=30.0)
    tree.begin()
    tree.ended("web", 0, 1.0)
    assert (tree.is_over, tree.status) == (True, 1)


def test_restart_that_fails_ends_all():
    """Code that was changed for the worse does not come up the second time, either."""
    tree = running()
    tree.ended("worker", -KILL, 0.0)
    tree.advance(1.0)
    assert done(tree.ended("worker", 1, 2.0)) == [Send("web", TERM)]


def test_program_with_nothing_to_do_is_missed_by_nobody():
    """It ends, alone, and is not started again."""
    tree = Supervision(NAMES, kill_after=30.0)
    tree.begin()
    tree.ready("web", 0.0)
    tree.unneeded("worker")
    assert tree.ended("worker", 0, 1.0) == [Say("there is nothing for worker to do")]
    assert (tree.next_due(), tree.is_stopping) == (None, False)


def test_it_is_over_when_there_is_nothing_for_anyone_to_do():
    """Nobody waits for ever for programs that are not needed."""
    tree = Supervision(NAMES, kill_after=30.0)
    tree.begin()
    for name in NAMES:
        tree.unneeded(name)
        tree.ended(name, 0, 1.0)
    assert (tree.is_over, tree.status) == (True, 0)


def test_stops_become_more_urgent():
    """The first asks, the second tells to hurry, all others kill."""
    tree = running()
    for number in (TERM, INT, KILL, KILL):
        assert tree.stop(1.0) == [Send("web", number), Send("worker", number)]


def test_orderly_end_is_status_zero():
    """Also of a program that was still starting, and had no handler for the signal."""
    tree = Supervision(NAMES, kill_after=30.0)
    tree.begin()
    tree.ready("web", 0.0)
    tree.stop(1.0)
    tree.ended("web", 0, 2.0)
    assert not tree.is_over
    tree.ended("worker", -TERM, 2.0)
    assert (tree.is_over, tree.status, tree.next_due()) == (True, 0, None)


def test_failure_at_the_end_is_told():
    """A program that cannot end in order is the status of the whole."""
    tree = running()
    tree.stop(1.0)
    assert tree.ended("web", 7, 2.0) == [Say("web ended with status 7")]
    tree.ended("worker", 0, 2.0)
    assert tree.status == 7


def test_who_does_not_end_is_killed():
    """After `kill_after` seconds, and that is told and a failure."""
    tree = running()
    tree.stop(10.0)
    tree.ended("web", 0, 11.0)
    assert tree.next_due() == 40.0
    said, *actions = tree.advance(40.0)
    assert said == Say("worker: not ended after 30 s, killed")
    assert actions == [Send("worker", KILL)]
    assert tree.advance(41.0) == []
    tree.ended("worker", -KILL, 41.0)
    assert (tree.is_over, tree.status) == (True, 1)


def test_program_that_waits_is_not_started_any_more():
    """What a stop meets between two lives stays dead."""
    tree = running()
    tree.ended("worker", -KILL, 0.0)
    assert tree.stop(0.5) == [Send("web", TERM)]
    assert tree.advance(10.0) == []
    tree.ended("web", 0, 1.0)
    assert tree.is_over


def test_program_hears_of_the_end_once_it_has_a_process():
    """A stop may come while it is being started."""
    tree = Supervision(NAMES, kill_after=30.0)
    tree.begin()
    assert tree.started("web") == []
    tree.stop(0.0)
    tree.stop(0.0)
    assert tree.started("worker") == [Send("worker", INT)]


def test_signal_is_an_exit_status():
    """As shells have it."""
    assert (exit_status(3), exit_status(-KILL)) == (3, 137)


class Tree(RuleBasedStateMachine):
    """Any history beside a naive model: the processes that there are."""

    @initialize()
    def begin(self):
        """Start."""
        self.tree = Supervision(NAMES, kill_after=30.0)
        self.alive, self.now, self.told = set(), 0.0, {}
        self.carry_out(self.tree.begin())

    def carry_out(self, actions):
        """Do what is decided."""
        for action in actions:
            match action:
                case Start(name):
                    assert name not in self.alive
                    assert not self.tree.is_stopping
                    self.alive.add(name)
                case Send(name, number):
                    assert name in self.alive
                    self.told[name] = number

    @rule(name=st.sampled_from(NAMES))
    def ready(self, name):
        """Tell of a program that it is ready."""
        if name in self.alive:
            self.tree.ready(name, self.now)

    @rule(name=st.sampled_from(NAMES))
    def unneeded(self, name):
        """Tell of a program that there is nothing for it to do, and end it."""
        if name in self.alive and self.tree.state(name) is State.STARTING:
            self.tree.unneeded(name)
            self.alive.remove(name)
            self.carry_out(self.tree.ended(name, 0, self.now))

    @rule(name=st.sampled_from(NAMES), status=st.sampled_from([0, 1, -9]))
    def ended(self, name, status):
        """End a program."""
        if name in self.alive:
            self.alive.remove(name)
            self.carry_out(self.tree.ended(name, status, self.now))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 40.0]))
    def time_passes(self, seconds):
        """Let time pass, and do what is due."""
        self.now += seconds
        self.carry_out(self.tree.advance(self.now))

    @precondition(lambda self: hasattr(self, "tree"))
    @rule()
    def stop(self):
        """Send a signal."""
        self.carry_out(self.tree.stop(self.now))

    @invariant()
    def holds(self):
        """All that live are known, all are told of an end, and it is over when none is left."""
        if not hasattr(self, "tree"):
            return
        tree = self.tree
        living = {name for name in NAMES if tree.state(name) in (State.STARTING, State.RUNNING)}
        assert living == self.alive
        assert tree.is_over == (tree.is_stopping and not self.alive)
        if tree.is_stopping:
            assert self.alive <= self.told.keys()
        due = tree.next_due()
        waiting = any(tree.state(name) is State.WAITING for name in NAMES)
        assert not waiting or (due is not None and due <= self.now + 30.0)


TestTree = Tree.TestCase

"""What an agenda decides, by example. `test_agenda_machine` tries every history."""

from datetime import UTC, datetime, timedelta

import pytest

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
    Missed,
    MissedReason,
    Overlap,
    Phase,
    Policy,
    ScheduleError,
    SkippedOverlap,
    fire_id,
)

START = datetime(2026, 11, 30, 12, 30, tzinfo=UTC)
HOURLY = Cron("0 * * * *")


def at(hour, minute=0, second=0):
    """Return an instant of the day that all tests are on."""
    return datetime(2026, 11, 30, hour, minute, second, tzinfo=UTC)


def agenda_of(fire_times=HOURLY, **policy):
    """Return an agenda of one schedule, `a`."""
    agenda = Agenda()
    assert not agenda.add("a", fire_times, Policy(**policy), now=START)
    return agenda


def fired(actions):
    """Return the hours that fired."""
    return [each.fire_time.hour for each in actions if isinstance(each, Fire)]


def run(agenda, now):
    """Advance, and let each run end at once."""
    actions = agenda.advance(now)
    for each in actions:
        if isinstance(each, Fire):
            agenda.ended(each.schedule, each.id)
    return actions


def test_fires_at_its_time():
    """Not before, and once; the id tells schedule and fire time."""
    agenda = agenda_of()
    assert agenda.next_due() == at(13)
    assert not agenda.advance(at(12, 59, 59))
    (fire,) = agenda.advance(at(13))
    assert (fire.id, fire.fire_time, fire.due) == ("a@20261130T130000Z", at(13), at(13))
    assert not agenda.advance(at(13))
    assert agenda.next_due() == at(14)


def test_late_loop_does_not_drift():
    """However late each fire is seen, the next one is due at its own time."""
    agenda = agenda_of(Every(10))
    now = START
    for n in range(1, 500):
        assert agenda.next_due() == START + timedelta(seconds=10) * n
        now = agenda.next_due() + timedelta(seconds=n % 10)
        (fire,) = run(agenda, now)
        assert fire.fire_time == START + timedelta(seconds=10) * n


@pytest.mark.parametrize(
    "coalesce, hours, missed",
    [
        (Coalesce.ONCE, [17], (at(13), at(16), MissedReason.COALESCED)),
        (Coalesce.ALL, [13, 14, 15, 16, 17], None),
        (Coalesce.SKIP, [], (at(13), at(17), MissedReason.SKIPPED)),
    ],
)
def test_downtime(coalesce, hours, missed):
    """Several fire times are due at once: one runs for all, each runs, or none does."""
    agenda = agenda_of(coalesce=coalesce, overlap=Overlap.ALLOW)
    actions = run(agenda, at(17, 20))
    assert fired(actions) == hours
    told = [(e.first, e.last, e.reason) for e in actions if isinstance(e, Missed)]
    assert told == ([missed] if missed else [])
    assert fired(run(agenda, at(18))) == [18]


def test_misfire_grace():
    """What is later than the grace allows does not run; what is as late as that does."""
    agenda = agenda_of(misfire_grace=3600, coalesce=Coalesce.ALL, overlap=Overlap.ALLOW)
    actions = run(agenda, at(17))
    assert actions[0] == Missed("a", at(13), at(15), MissedReason.TOO_LATE)
    assert fired(actions) == [16, 17]


def test_catching_up_is_bounded():
    """After years of downtime of a schedule of each second, so many runs and no more, at once."""
    agenda = agenda_of(Every(1), coalesce=Coalesce.ALL, max_catch_up=5, overlap=Overlap.ALLOW)
    actions = run(agenda, START + timedelta(days=2000))
    assert [type(each) for each in actions] == [Missed] + [Fire] * 5
    assert actions[-1].fire_time == START + timedelta(days=2000)


def test_overlap_skip():
    """While a run lasts, fire times are skipped, and told."""
    agenda = agenda_of()
    (fire,) = agenda.advance(at(13))
    assert agenda.advance(at(14)) == [SkippedOverlap("a", fire_id("a", at(14)), at(14))]
    agenda.ended("a", fire.id)
    assert fired(agenda.advance(at(15))) == [15]


def test_overlap_queue_one():
    """One waits for the run to end; further ones are skipped."""
    agenda = agenda_of(overlap=Overlap.QUEUE_ONE)
    (fire,) = agenda.advance(at(13))
    assert not agenda.advance(at(14))
    assert agenda.advance(at(15)) == [SkippedOverlap("a", fire_id("a", at(15)), at(15))]
    assert fired(agenda.ended("a", fire.id)) == [14]


def test_overlap_cancel_running():
    """The run is cancelled once; when it has ended, the latest fire time runs."""
    agenda = agenda_of(overlap=Overlap.CANCEL_RUNNING)
    (fire,) = agenda.advance(at(13))
    assert agenda.advance(at(14)) == [Cancel("a", fire.id)]
    assert agenda.advance(at(15)) == [SkippedOverlap("a", fire_id("a", at(14)), at(14))]
    assert fired(agenda.ended("a", fire.id)) == [15]


def test_max_executions():
    """So many scheduled runs, and it is finished; those by hand do not count."""
    agenda = agenda_of(max_executions=2)
    (manual,) = agenda.run_now("a", now=START)
    agenda.ended("a", manual.id)
    assert fired(run(agenda, at(13))) == [13]
    assert run(agenda, at(14))[1:] == [Finished("a", FinishReason.MAX_EXECUTIONS)]
    assert agenda.next_due() is None
    assert agenda["a"].phase is Phase.FINISHED


def test_start_and_end():
    """Nothing before the start or after the end; both are fire times if they are one."""
    agenda = agenda_of(start=at(14), end=at(15))
    assert agenda.next_due() == at(14)
    assert fired(run(agenda, at(14))) == [14]
    assert run(agenda, at(15))[1:] == [Finished("a", FinishReason.NO_FIRE_TIMES)]


def test_start_that_is_now_fires_now():
    """A schedule that starts at this instant fires at this instant."""
    agenda = Agenda()
    agenda.add("a", Every(3600), Policy(start=at(13)), now=at(13))
    assert agenda.next_due() == at(13)


def test_past_instant_is_finished_at_once():
    """What will never fire says so when it is added."""
    told = Agenda().add("a", At(at(9)), now=START)
    assert told == [Finished("a", FinishReason.NO_FIRE_TIMES)]


def test_pause_and_resume():
    """What would have fired during the pause never does; what was due before it has."""
    agenda = agenda_of()
    assert fired(agenda.pause("a", now=at(13, 10))) == [13]
    agenda.ended("a", fire_id("a", at(13)))
    assert agenda.next_due() is None
    assert not agenda.advance(at(16))
    assert not agenda.resume("a", now=at(16, 30))
    assert agenda.next_due() == at(17)


def test_clock_set_back_repeats_nothing():
    """An hour that the clock shows for the second time has fired."""
    agenda = agenda_of()
    for hour in (13, 14, 15):
        assert fired(run(agenda, at(hour))) == [hour]
    assert not run(agenda, at(13, 30))
    assert agenda.next_due() == at(16)


def test_wrong_clock_loses_nothing():
    """A clock runs ahead and is corrected: what was passed over fires at its right time, once."""
    agenda = agenda_of()
    actions = run(agenda, at(20, 10))
    assert fired(actions) == [20]
    assert not run(agenda, at(15, 30))
    assert [fired(run(agenda, at(hour))) for hour in range(16, 23)] == [
        [16], [17], [18], [19], [], [21], [22],
    ]  # fmt: skip


def test_wrong_clock_before_a_restart():
    """The same, when the program ended with the wrong clock and starts with the right one."""
    agenda = agenda_of()
    run(agenda, at(20, 10))
    kept = agenda["a"].snapshot()
    again = Agenda()
    again.add("a", HOURLY, now=at(15, 30), snapshot=kept)
    assert [fired(run(again, at(hour))) for hour in (16, 19, 20, 21)] == [[16], [19], [], [21]]


def test_restart_goes_on():
    """With its snapshot, a schedule catches up with what it missed; without, it begins anew."""
    agenda = agenda_of()
    run(agenda, at(13))
    kept = agenda["a"].snapshot()
    again = Agenda()
    again.add("a", HOURLY, now=at(15, 10), snapshot=kept)
    again.add("b", HOURLY, now=at(15, 10))
    assert [each.schedule for each in run(again, at(15, 10)) if isinstance(each, Fire)] == ["a"]


def test_same_ids_after_a_kill():
    """What fires again after a kill has the id that it had: an engine takes it once."""
    agenda = agenda_of(random_delay=600)
    kept = agenda["a"].snapshot()
    first = run(agenda, at(13, 30))
    again = Agenda()
    again.add("a", HOURLY, Policy(random_delay=600), now=at(13, 40), snapshot=kept)
    assert run(again, at(13, 40)) == first


def test_random_delay():
    """Delays differ by schedule and fire, are those of every process, and stay in order."""
    agenda = Agenda()
    for name in "abcdefgh":
        agenda.add(name, Every(60), Policy(random_delay=600), now=START)
    dues = []
    while agenda.next_due() < at(13):
        dues += [each for each in run(agenda, agenda.next_due()) if isinstance(each, Fire)]
    delays = {(each.due - each.fire_time).total_seconds() for each in dues}
    # Never as long as until the next fire time.
    assert 0 <= min(delays) < 10
    assert 50 < max(delays) < 60
    assert len(delays) > 100
    assert [each.due for each in dues] == sorted(each.due for each in dues)


def test_order_is_that_of_due_times():
    """Of many schedules, what was due first is told first; a limit leaves the rest due."""
    agenda = Agenda()
    for minute in (5, 3, 4, 1, 2):
        agenda.add(f"m{minute}", Cron(f"{minute} * * * *"), now=START)
    actions = agenda.advance(at(13, 4), max_schedules=3)
    assert [each.schedule for each in actions] == ["m1", "m2", "m3"]
    assert agenda.next_due() == at(13, 4)
    assert [each.schedule for each in agenda.advance(at(13, 5))] == ["m4", "m5"]


def test_change_takes_effect_from_now():
    """What was due by the old rule has fired; from now on the new one holds."""
    agenda = agenda_of()
    assert fired(agenda.change("a", Cron("30 * * * *"), now=at(13, 10))) == [13]
    assert agenda.next_due() == at(13, 30)


def test_removed_schedule_is_gone():
    """Nothing is due of it, and its end is ignored; the name is free again."""
    agenda = agenda_of()
    (fire,) = agenda.advance(at(13))
    assert agenda.remove("a").running == (fire,)
    assert agenda.next_due() is None
    assert not agenda.ended("a", fire.id)
    assert not agenda.add("a", HOURLY, now=at(13))


def test_names_are_unique():
    """A second schedule of that name, or one without a name, is refused."""
    agenda = agenda_of()
    with pytest.raises(ScheduleError, match="already"):
        agenda.add("a", HOURLY, now=START)
    with pytest.raises(ScheduleError, match="name"):
        agenda.add("", HOURLY, now=START)


def test_next_due_is_no_scan():
    """With 20,000 schedules that all change, the heap stays bounded, and nothing is read."""
    agenda = Agenda()
    for n in range(20_000):
        agenda.add(f"s{n}", Every(3600 + n), now=START)
    for n in range(40_000):
        agenda.change(f"s{n % 20_000}", Every(60 + n), now=START)
    assert len(agenda._heap) < 42_000
    reads = 0

    class Counting(dict):
        def __getitem__(self, name):
            nonlocal reads
            reads += 1
            return super().__getitem__(name)

    agenda._states = Counting(agenda._states)
    assert agenda.next_due() is not None
    assert not reads

"""When a worker counts as starved, and when that is told."""

import os
import sys

import pytest

from offload._cpu_time import schedstat
from offload._decisions.starvation import BusyWorker, Starvation, ThreadTime
from offload._workers.thread_times import times_of_threads

MINUTE = 60.0


def worker(*times: ThreadTime, number: int = 1, since: float | None = 0.0) -> BusyWorker:
    """Return a worker whose threads have these times."""
    return BusyWorker(number, 100 + number, "module:function", since, dict(enumerate(times)))


def look(judge: Starvation, at: float, *workers: BusyWorker, throttled: float | None = None):
    """Look at workers, all of which are alive."""
    return judge.look(workers, at, alive={1, 2, 3}, throttled=throttled)


def running(ran: float, waited: float, sleeps: int | None = 7) -> ThreadTime:
    """Return the times of a thread that runs, or could."""
    return ThreadTime(ran, waited, sleeps, is_runnable=True)


def asleep(ran: float, waited: float, sleeps: int | None = 7) -> ThreadTime:
    """Return the times of a thread that waits for something else than a CPU."""
    return ThreadTime(ran, waited, sleeps, is_runnable=False)


class TestShare:
    # Seconds that it ran and waited between two looks, and whether that is starvation.
    @pytest.mark.parametrize(
        "ran, waited, is_starved",
        [
            (0.003, 0.997, True),  # SCHED_IDLE beside busy processes
            (0.014, 0.986, True),  # nice 19
            (0.04, 0.96, True),
            (0.06, 0.94, False),
            (0.25, 0.75, False),  # a fair share, beside three others
            (1.0, 0.0, False),
            (0.0, 0.4, False),  # too short to say
        ],
    )
    def test_it_is_less_than_a_twentieth_of_what_was_wanted(self, ran, waited, is_starved):
        """Fair shares are none, until there are twenty that want each CPU."""
        judge = Starvation()
        look(judge, 1.0, worker(asleep(5.0, 9.0)))
        verdict = look(judge, 2.0, worker(asleep(5.0 + ran, 9.0 + waited)))

        assert [each.number for each in verdict.starved] == [1] * is_starved
        assert judge.starved == frozenset({1} if is_starved else ())
        assert verdict.is_news is is_starved
        if is_starved:
            assert (verdict.ran, verdict.waited) == pytest.approx((ran, waited))

    def test_task_that_waits_for_something_else_is_none(self):
        """A worker that sleeps, be it all the time, wants no CPU."""
        judge = Starvation()
        for second in range(5):
            verdict = look(judge, second, worker(asleep(0.001 * second, 0.002 * second)))
            assert not verdict.starved

    def test_what_has_just_woken_up_has_not_waited(self):
        """Found runnable, it may have slept until a moment ago: its count of sleeps tells."""
        judge = Starvation()
        for second in range(5):
            verdict = look(judge, second, worker(running(0.001 * second, 0.0, sleeps=second)))
            assert not verdict.starved

    def test_wait_that_is_not_over_counts(self):
        """The kernel counts a wait when the thread runs again; one that never runs is seen too."""
        judge = Starvation()
        look(judge, 1.0, worker(running(0.5, 0.2)))
        second = look(judge, 2.0, worker(running(0.5, 0.2)))
        third = look(judge, 3.0, worker(running(0.501, 2.0)))

        assert second.starved
        assert second.waited == pytest.approx(1.0)
        # Not twice: what has been counted ahead is not counted again when the kernel does.
        assert third.starved
        assert third.waited == pytest.approx(0.999)

    def test_wait_begins_with_the_task(self):
        """What was before its task is no wait of a worker that had none."""
        judge = Starvation()
        look(judge, 1.0, worker(running(0.5, 0.2)))
        verdict = look(judge, 2.0, worker(running(0.5, 0.2), since=1.7))

        assert not verdict.starved

    def test_where_sleeps_are_unknown_the_kernel_has_the_word(self):
        """Without that count nothing is guessed."""
        judge = Starvation()
        look(judge, 1.0, worker(running(0.5, 0.2, sleeps=None)))

        assert not look(judge, 2.0, worker(running(0.5, 0.2, sleeps=None))).starved
        assert look(judge, 3.0, worker(running(0.5, 2.1, sleeps=None))).starved

    def test_threads_are_counted_together(self):
        """A function that waits for its threads, as those of numeric libraries, starves in them."""
        judge = Starvation()
        look(judge, 1.0, worker(asleep(1.0, 0.0), running(0.1, 0.1), running(0.1, 0.1)))
        verdict = look(
            judge, 2.0, worker(asleep(1.0, 0.0), running(0.11, 1.09), running(0.11, 1.09))
        )

        assert verdict.starved
        assert verdict.waited == pytest.approx(1.98)

    def test_worker_that_is_new_is_judged_by_all_it_had(self):
        """A worker whose start takes for ever is seen at the first look."""
        judge = Starvation()
        verdict = look(judge, 1.0, worker(running(0.001, 0.9), since=None))

        assert verdict.starved

    def test_nothing_known_is_nothing_told(self):
        """Where the kernel keeps no such figures no worker is starved, and nothing fails."""
        judge = Starvation()
        for second in range(5):
            assert not look(judge, second, worker()).starved

    def test_worker_that_is_gone_is_forgotten(self):
        """Its number, and that of its thread, may come again."""
        judge = Starvation()
        look(judge, 1.0, worker(asleep(5.0, 9.0), number=9))
        judge.look((), 2.0, alive={1})
        verdict = judge.look((worker(asleep(0.001, 0.9), number=9),), 3.0, alive={9})

        assert verdict.waited == pytest.approx(0.9)


class TestNews:
    def starve(self, judge, *seconds):
        """Return whether each look, at these times, is news."""
        return [look(judge, at, worker(asleep(0.0, at * 10.0))).is_news for at in seconds]

    def test_it_is_told_once(self):
        """As long as it lasts nothing more is said."""
        assert self.starve(Starvation(), *range(1, 200)) == [True] + [False] * 198

    def test_what_comes_and_goes_is_one_episode(self):
        """Bursts that starve one after the other are no news each."""
        assert self.starve(Starvation(), 1, 50, 100, 150) == [True, False, False, False]

    def test_it_is_told_again_after_a_quiet_minute(self):
        """What begins anew is another episode."""
        assert self.starve(Starvation(), 1, 1 + MINUTE, 2 + MINUTE) == [True, True, False]


class TestQuota:
    def test_quota_that_stops_workers_is_told_once(self):
        """It stops the event loop as well: a quarter of a second in a second is news."""
        judge = Starvation()
        told = [
            look(judge, at, worker(asleep(at, 0.0)), throttled=0.3 * at) for at in range(1, 100)
        ]

        assert [each.is_quota_news for each in told] == [False, True] + [False] * 97
        assert sum(each.throttled for each in told) == pytest.approx(0.3 * 98)
        assert not any(each.is_news for each in told)

    def test_little_is_not_told(self):
        """A quota that is touched now and then is what a quota is for."""
        judge = Starvation()
        told = [
            look(judge, at, worker(asleep(at, 0.0)), throttled=0.2 * at) for at in range(1, 100)
        ]

        assert not any(each.is_quota_news for each in told)

    def test_starvation_by_quota_is_told_as_that(self):
        """Another priority would not help: the quota is named, and only that."""
        judge = Starvation()
        look(judge, 1, worker(asleep(0.0, 0.0)), throttled=0.0)
        verdict = look(judge, 2, worker(asleep(0.01, 0.99)), throttled=0.9)

        assert verdict.starved
        assert verdict.is_quota_news
        assert not verdict.is_news

    def test_what_was_stopped_while_nobody_looked_is_not_counted(self):
        """Seconds of a pool that had nothing to do are not those of its workers."""
        judge = Starvation()
        look(judge, 1, worker(asleep(0.0, 0.0)), throttled=0.0)
        verdict = look(judge, 100, worker(asleep(0.0, 0.0)), throttled=50.0)

        assert (verdict.throttled, verdict.is_quota_news) == (0.0, False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_times_of_a_process_are_read():
    """Of the threads that may compute: here, of the one that asks."""
    times = times_of_threads(os.getpid())

    mine = times[os.getpid()]
    assert mine.ran > 0.0
    assert mine.waited >= 0.0
    assert mine.sleeps is not None
    assert mine.is_runnable


def test_process_that_is_gone_has_no_times():
    """It may end at any time, and elsewhere there is no such file."""
    assert times_of_threads(2**22 + 1) == {}


@pytest.mark.parametrize("text", [b"", b"0 0 0\n", b"1 2", b"a b c"])
def test_kernel_without_figures_is_told_by_its_file(text):
    """Where schedstats are off they are all zero."""
    assert schedstat(text) == (None, None)

"""What other libraries say of the same expression, from one instant to another."""

import itertools
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger
from croniter import croniter
from cronsim import CronSim

# croniter can return the same instant for ever where a zone skips midnight.
MOST = 10_000
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


def until(fires, start, end):
    """Return the instants of an iterator within the range, in UTC."""
    found = [fire.astimezone(UTC) for fire in itertools.islice(fires, MOST)]
    return [fire for fire in found if start <= fire < end]


def with_cronsim(expression, zone, start, end):
    """Return the fire times of cronsim."""
    before = (start - timedelta(seconds=1)).astimezone(zone)
    return until(
        itertools.takewhile(lambda fire: fire < end, CronSim(expression, before)), start, end
    )


def with_croniter(expression, zone, start, end):
    """Return the fire times of croniter."""
    before = (start - timedelta(seconds=1)).astimezone(zone)
    fires = croniter(expression, before).all_next(datetime)
    return until(itertools.takewhile(lambda fire: fire < end, fires), start, end)


def with_apscheduler(expression, zone, start, end):
    """Return the fire times of the trigger of APScheduler 3."""
    # It counts weekdays from Monday: names are safe. Both day fields must always match.
    minute, hour, day, month, weekday = expression.split()
    if weekday.isdigit():
        weekday = DAYS[int(weekday)]
    trigger = CronTrigger(
        minute=minute,
        hour=hour,
        day="last" if day == "L" else day,
        month=month,
        day_of_week=weekday,
        timezone=zone,
    )

    def fires():
        fire = trigger.get_next_fire_time(None, start)
        while fire is not None and fire < end:
            yield fire
            fire = trigger.get_next_fire_time(fire, fire)

    return until(fires(), start, end)


PEERS = {
    "cronsim": with_cronsim,
    "croniter": with_croniter,
    "APScheduler": with_apscheduler,
}

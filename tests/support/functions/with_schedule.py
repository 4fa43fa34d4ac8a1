"""A module with a schedule, for workers to import."""

import sys

from offload import offload
from offload.schedules import Scheduler, schedule
from tests.support.functions.scheduled import pool

scheduler = Scheduler()


@schedule("0 2 * * *", scheduler=scheduler)
@offload(pool=pool)
def count() -> int:
    """Return how many schedules there are in this process."""
    assert "cronsim" not in sys.modules
    return len(scheduler)

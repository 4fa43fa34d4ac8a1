"""A code base whose schedule, in the module of its application, fires at once and goes on."""

import json
import os

from starlette.applications import Starlette

from offload.schedules import Every, Schedule, Scheduler
from offload.starlette import lifespan
from tests.roles.tasks import wait

scheduler = Scheduler(drain=60.0)
scheduler.add(
    Schedule(
        Every(0.2),
        wait,
        args=tuple(json.loads(os.environ.get("ROLES_HELD", "[]"))),
    )
)
app = Starlette(lifespan=lifespan(scheduler=scheduler))

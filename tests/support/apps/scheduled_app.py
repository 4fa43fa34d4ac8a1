"""An application with schedules and a dashboard that may act on them."""

from starlette.applications import Starlette
from starlette.routing import Mount

from offload.dashboard import Dashboard
from offload.schedules import Schedule, Scheduler
from offload.starlette import lifespan

EVIL = "<img src=x onerror=\"document.title = 'taken'\"><b id=evil>"


async def greet() -> str:
    """Return at once."""
    return "done"


async def fail() -> None:
    """Raise what a page must not run."""
    raise LookupError(EVIL)


scheduler = Scheduler()
for number in range(60):
    scheduler.add(Schedule(f"{number} 0 1 1 *", greet, name=f"report of customer {number:02}"))
scheduler.add(Schedule("0 3 L * *", fail, name="a failing one", timezone="America/Sao_Paulo"))
scheduler.add(Schedule("@yearly", greet, name=EVIL))
app = Starlette(
    routes=[Mount("/at", Dashboard(pools=[], jobs=[], actions=lambda _: True))],
    lifespan=lifespan(scheduler=scheduler),
)

"""Functions for schedules to run on a pool that reads data."""

from offload import Pool, offload
from offload.jobs import Jobs
from offload.schedules import FireContext
from tests.support.functions import forgeries

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("data-schedules", max_workers=1, os_priority="normal", results="data")
jobs = Jobs()


@offload(pool=pool)
def tell(fire: FireContext) -> tuple[str, str, int]:
    return fire.schedule, fire.id, fire.attempt


@offload(pool=pool)
def fail(text: str) -> None:
    raise ValueError(text)


@offload(pool=pool)
def return_no_data() -> object:
    return object()


@offload(pool=pool)
def forge(path: str) -> None:
    """Send a pickle that makes a file where it is unpickled."""
    forgeries.forge(forgeries.Kind.RESULT, "frame", 0, path)

"""Functions of jobs on a pool that reads data, some of which speak for the worker."""

import logging

from offload import Pool, offload
from offload.jobs import Jobs
from tests.support.functions import forgeries

# At idle priority a worker waits for every other process of a shared machine.
pool = Pool("data-jobs", max_workers=1, os_priority="normal", results="data")
jobs = Jobs()
logger = logging.getLogger("tests.jobs")

NO_TEXT = "a\0b\ud800c"


@offload(pool=pool)
def add(first: int, second: int) -> int:
    return first + second


@offload(pool=pool)
def say_what_no_store_holds() -> str:
    """Return, log and raise what stores have no form for, as the codec may not see to it."""
    logger.warning("text %s", NO_TEXT)
    raise ValueError(NO_TEXT)


@offload(pool=pool)
def return_what_no_store_holds() -> str:
    return NO_TEXT


@offload(pool=pool)
def reply(number: int) -> None:
    """Reply with what no attempt replies."""
    forgeries.forge_value(forgeries.Kind.RESULT, REPLIES[number])


@offload(pool=pool)
def reply_at_length() -> None:
    """Reply with a result that is larger than jobs may have."""
    forgeries.reply_text_more_than_allowed()


REPLIES = (7, (["7"], 0), ('"\0"', 0), ("ValueError", 7, "", True, 0))

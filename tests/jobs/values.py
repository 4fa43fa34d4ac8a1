"""Jobs and wishes, as short as tests would have them."""

from dataclasses import replace
from itertools import count

from offload.jobs._values import JobError, JobOptions, JobRecord, NewJob, Wanted

DEFAULT = "default"
FUNCTION = "shop.reports:monthly"
# Longer than any test, also on a machine that is very busy.
LEASE = 300.0
BOOM = JobError("builtins.ValueError", "boom", "Traceback …")

_numbers = count(1)


def new_job(job_id=None, *, function=FUNCTION, queue=DEFAULT, due_at=None, **options):
    """Return a job, with an id of its own unless one is given."""
    return NewJob(
        id=job_id or f"job-{next(_numbers)}",
        function=function,
        arguments='["2026-11"]',
        queue=queue,
        options=JobOptions(**options),
        due_at=due_at,
    )


def wanted(limit=1, *, functions=(FUNCTION,), queues=(DEFAULT,), lease=LEASE, worker="worker-1"):
    """Return what a worker program would claim."""
    return Wanted(frozenset(queues), frozenset(functions), worker, lease, limit)


async def put(engine, *jobs):
    """Put jobs one after the other, and return their ids."""
    return [(await engine.put([job]))[0] for job in jobs]


async def claim(engine, **wish):
    """Claim the one job that there must be."""
    (claimed,) = await engine.claim(wanted(**wish))
    return claimed.claim


async def claimed_ids(engine, limit=100, **wish):
    """Claim until there is nothing more, and return the ids in order."""
    ids = []
    while len(ids) < limit and (found := await engine.claim(wanted(limit - len(ids), **wish))):
        ids += [each.job.id for each in found]
    return ids


async def look(engine, job_id) -> JobRecord:
    """Return the record of a job that there must be."""
    (record,) = await engine.get([job_id])
    assert record is not None
    return record


def without_times(record):
    """Return a record without what differs from run to run."""
    return replace(record, created_at=None, started_at=None, ended_at=None, history=())

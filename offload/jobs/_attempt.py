"""One attempt: a task of the pool that decodes, calls and encodes in the worker process.

    worker program                      worker process of a pool
      run ── reference, JSON, facts ──►   run_here: import, decode, call, encode
          ◄── JSON of the result, ─────   or the exception as text

Only text crosses: the worker program neither imports what arguments and results are made of, nor
unpickles what a function raised; and a large payload is decoded where it holds nobody up.

All that jobs know of the pool's inside is in this file.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from offload.jobs._context import JobContext, entered

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.jobs._codec import Signature
    from offload.jobs._values import JobError
    from offload.pool import Pool

__all__ = [
    "JOB_FIELD",
    "AttemptFailedError",
    "Attempted",
    "Facts",
    "Runnable",
    "attempt_of",
    "pool_of",
    "run",
    "run_here",
]

# Attribute of a log record: the key of the attempt that made it.
JOB_FIELD: Final = "offload_job"

# What worker processes import before their first attempt, beside the modules of the functions.
_WARM: Final = (
    __name__,
    "offload.jobs._codec",
    "offload.jobs._context",
    "offload.jobs._failures",
    "offload.jobs._functions",
)

# What crosses back: whether it is a result, its text or the error, the number of log records.
_Reply: TypeAlias = "tuple[str, int] | tuple[str, str, str, bool, int]"


# What the worker process is told of the job: id, function, queue, number of the attempt, tries that
# the job has, who enqueued it, key of the attempt, size that the result may have.
Facts: TypeAlias = "tuple[str, str, str, int, int, str, str, int | None]"


# --- in the worker process ---


def run_here(arguments: str, *facts: *Facts) -> _Reply:
    """Run the function of a job in this process."""
    job_id, reference, queue, attempt, max_attempts, enqueued_by, key, max_bytes = facts
    job = JobContext(
        id=job_id,
        function=reference,
        queue=queue,
        attempt=attempt,
        max_attempts=max_attempts,
        enqueued_by=enqueued_by,
        task=_task(),
    )
    records = _mark_records(key)
    with entered(job):
        text, error, is_final = _call(reference, arguments, max_bytes)
    count = records.end()
    if error is None:
        return text, count
    return error.type, error.message, error.traceback, is_final, count


def _call(
    reference: str, arguments: str, max_bytes: int | None
) -> tuple[str, JobError | None, bool]:
    """Return the result as JSON, or the error and whether another attempt would be in vain."""
    try:
        found = _found.get(reference)
        if found is None:
            found = _found[reference] = _import(reference)
        call, bound, signature = found
        args, kwargs = signature.decode_arguments(arguments)
        return (
            signature.encode_result(call(*bound, *args, **kwargs), max_bytes=max_bytes),
            None,
            False,
        )
    except Exception as error:  # noqa: BLE001 - it is the outcome of the attempt
        from offload.jobs._codec_errors import JobResultError
        from offload.jobs._failures import job_error

        if isinstance(error, JobResultError):
            return "", job_error(error), True
        traceback = error.__traceback__
        # Our own frame says nothing.
        return "", job_error(error, traceback and (traceback.tb_next or traceback)), False


# The function to call, what it is bound to, and its signature, by reference.
_found: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Signature]] = {}


def _import(reference: str) -> tuple[Callable[..., Any], tuple[Any, ...], Signature]:
    from importlib import import_module

    from offload.jobs._codec import Signature
    from offload.jobs._functions import known

    module, _, _ = reference.partition(":")
    # The worker program has it, by this name: it is not just any name that a store holds.
    import_module(module)
    function = known(reference)
    if function is None:
        raise LookupError(f"{reference} is not decorated in the worker process, or not there")
    # An offloaded function that is called in a worker runs here, but as a coroutine.
    call = getattr(function, "__wrapped__", function)
    return call, getattr(function, "bound", ()), Signature.of(function)


def _task() -> Any:
    from offload._child.context import task_context

    return task_context()


class _Marker(logging.Handler):
    """Marks the log records of the attempt that is under way, and counts them."""

    key: str | None = None
    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Mark a record, which the next handler sends to the worker program."""
        if self.key is not None:
            self.count += 1
            setattr(record, JOB_FIELD, self.key)

    def end(self) -> int:
        """End the attempt, and return how many records it made."""
        count, self.key, self.count = self.count, None, 0
        return count


_marker = _Marker()


def _mark_records(key: str) -> _Marker:
    handlers = logging.root.handlers
    # First of all: the handler that sends records comes behind it.
    if not handlers or handlers[0] is not _marker:
        if _marker in handlers:
            handlers.remove(_marker)
        handlers.insert(0, _marker)
    _marker.key = key
    _marker.count = 0
    return _marker


# --- in the worker program ---


class AttemptFailedError(Exception):
    """The function raised, or its result has no JSON.

    Attributes:
        error: what it raised.
        is_final: whether another attempt would fail in the same way.
        record_count: log records that the attempt made.
    """

    def __init__(self, error: JobError, *, is_final: bool, record_count: int) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_final = is_final
        self.record_count = record_count


class Runnable(NamedTuple):
    """A function that this worker program can run.

    Attributes:
        reference: `module:qualname`, as jobs name it.
        pool: where it runs.
        max_concurrency: how many attempts of it may run at once; None: no limit.
        grace: seconds between asking an attempt to stop and ending its process.
        target: for the pool.
        options: of the function's decorator, as far as they are of attempts.
    """

    reference: str
    pool: Pool
    max_concurrency: int | None
    grace: float
    target: Any
    options: Any


def pool_of(function: Any) -> Pool | str:
    """Return the pool, or its name, that a function is decorated for."""
    definition = getattr(function, "_definition", None)
    pool: Pool | str = "default" if definition is None else definition.pool
    return pool


def attempt_of(reference: str, function: Any, pool: Pool) -> Runnable:
    """Return how a function is run on a pool."""
    from offload._pool.target import Target
    from offload._values.options import ResolvedOptions
    from offload._values.reference import Reference

    definition = getattr(function, "_definition", None)
    limit = None if definition is None else definition.max_concurrency
    options = ResolvedOptions() if definition is None else pool.resolve(function._options)  # noqa: SLF001
    # These are of whoever awaits a call; a job waits by itself, and has retries of its own.
    options = options._replace(
        queue_timeout=None,
        max_crash_retries=0,
        single_flight=False,
        cancel_on_disconnect=False,
        max_payload_bytes=None,
    )
    # Statistics, logs and `max_concurrency` are of the function, not of what runs it.
    wire = f"{__name__}:{run_here.__qualname__}"
    target = Target(run_here, Reference(reference, wire), max_concurrency=limit)
    for module in (*_WARM, reference.partition(":")[0]):
        pool.register(module)
    return Runnable(reference, pool, limit, options.grace, target, options)


class Attempted(NamedTuple):
    """An attempt that returned: its result as JSON, and how many log records it made."""

    result: str
    record_count: int


async def run(
    runnable: Runnable,
    arguments: str,
    facts: Facts,
    *,
    timeout: float | None,  # noqa: ASYNC109 - of the pool's task
    deadline: float | None,
    grace: float,
    on_progress: Callable[[float, float | None], object],
    may_start: Callable[[], bool],
) -> Attempted:
    """Run an attempt on the pool.

    Args:
        runnable: the function.
        arguments: JSON text.
        facts: what the worker process is told.
        timeout: seconds that it may run; None: as its decorator says.
        deadline: `time.monotonic()` instant at which it is stopped; None: none.
        grace: seconds between asking it to stop and ending its process.
        on_progress: called with what the function reports.
        may_start: asked right before a worker process is given it; False drops it.

    Raises:
        AttemptFailedError: the function raised.
        OffloadError: see `offload.errors`.

    Whatever it raises, the process that computed is gone by then, or has ended the attempt.

    Cancellation: the process that computes is ended, after `grace` seconds.
    """
    options = runnable.options._replace(
        timeout=runnable.options.timeout if timeout is None else timeout,
        deadline=deadline,
        grace=grace,
        on_progress=on_progress,
    )
    from offload._pool.invocation import Invocation

    # Before its process is gone, it must not be said that the job may run elsewhere.
    invocation = Invocation(runnable.target, (arguments, *facts), {}, options, outlasts_worker=True)
    reply = await runnable.pool.run_invocation(invocation, may_start)
    _check(reply, runnable.reference, facts[-1])
    if len(reply) == 2:  # noqa: PLR2004 - see `_Reply`
        return Attempted(*reply)
    from offload.jobs._values import JobError

    kind, message, traceback, is_final, count = reply
    raise AttemptFailedError(
        JobError(kind, message, traceback), is_final=is_final, record_count=count
    )


def _check(reply: Any, reference: str, max_bytes: int | None) -> None:
    """Check that this is what `run_here` replies: a task may have spoken for it.

    Raises:
        ResultError: it is not.
    """
    from offload._pool.call_errors import FORGERY_ADVICE
    from offload.errors import ResultError
    from offload.jobs._texts import storable

    kinds = tuple(map(type, reply)) if type(reply) is tuple else ()
    is_result = kinds == (str, int) and storable(reply[0]) == reply[0]
    if is_result and (max_bytes is None or len(reply[0]) <= max_bytes):
        return
    if kinds == (str, str, str, bool, int):
        return
    message = f"{reference} ran, but its worker replied what no attempt replies. {FORGERY_ADVICE}"
    raise ResultError(message, function=reference)

"""What a schedule runs, checked when it is declared."""

from __future__ import annotations

import inspect
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import anyio

from offload.jobs._functions import name_of_main, options_of, plain, reference_of
from offload.schedules._context import FireContext
from offload.schedules._errors import FireTimeoutError, ScheduleError
from offload.schedules._store import KEEP_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offload.jobs import Job, Jobs

__all__ = ["ScheduledCall", "context_parameter", "name_of"]

_CONTEXT: Final = FireContext.__name__


class ScheduledCall:
    """A function with the arguments and limits that a schedule calls it with.

    Args:
        function: what `@offload` was put on, or an `async def` function; for jobs also what
            `@job_options` was put on.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds that it may run; None: as `@offload` says.
        start_timeout: seconds that it may wait for a worker; None: as `@offload` says.
        jobs: where its fires are enqueued; None: it runs in this process's pool.

    Raises:
        ScheduleError: the function cannot be scheduled, or not with these arguments.
        FunctionError: it cannot be the function of a job.
    """

    __slots__ = (
        "_call",
        "_context_name",
        "_own_timeout",
        "args",
        "function",
        "jobs",
        "kwargs",
        "start_timeout",
        "timeout",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        timeout: float | None,
        start_timeout: float | None,
        jobs: Jobs | None,
    ) -> None:
        self.function: Final = function
        self.args: Final = tuple(args)
        self.kwargs: Final = dict(kwargs)
        self.timeout: Final = timeout
        self.start_timeout: Final = start_timeout
        self.jobs: Final = jobs
        self._context_name = context_parameter(function)
        self._own_timeout: float | None = None
        self._call: Callable[..., Any] = function
        if jobs is not None:
            self._check_job()
        else:
            self._limit()
        self._check_arguments()

    def _check_job(self) -> None:
        reference_of(self.function)
        if self.start_timeout is not None:
            raise ScheduleError(
                f"start_timeout of {name_of(self.function)}: a job waits in its queue for as long "
                "as it must; leave it out, or leave out jobs"
            )

    def _limit(self) -> None:
        name = name_of(self.function)
        if not inspect.iscoroutinefunction(self.function):
            raise ScheduleError(
                f"{name} would run on the event loop and hold it: put @offload on it, with "
                "@schedule above"
            )
        if not getattr(type(self.function), "__offload__", False):
            if self.start_timeout is not None:
                raise ScheduleError(
                    f"start_timeout of {name}: an async function waits for no worker; leave it out"
                )
            self._own_timeout = self.timeout
            return
        limits = {"timeout": self.timeout, "queue_timeout": self.start_timeout}
        given = {key: value for key, value in limits.items() if value is not None}
        if given:
            function: Any = self.function
            self._call = function.options(**given)

    def _check_arguments(self) -> None:
        given = dict.fromkeys([self._context_name] if self._context_name else [])
        raw = plain(self.function)
        # Of a bound method the signature has what is left to give.
        function: Any = raw if not _is_bound(self.function) else self.function
        try:
            _signature(function).bind(*self.args, **(given | self.kwargs))
        except TypeError as error:
            raise ScheduleError(
                f"{name_of(self.function)} cannot be called as scheduled: {error}; give args and "
                "kwargs to the schedule"
            ) from error

    def _keywords(self, context: FireContext) -> dict[str, Any]:
        if self._context_name is None or self._context_name in self.kwargs:
            return self.kwargs
        return self.kwargs | {self._context_name: context}

    async def run(self, context: FireContext) -> Any:
        """Call the function, and return its result.

        Raises:
            FireTimeoutError: it is async, and ran too long.
            Exception: as the function and its pool do.

        Cancellation: stops it.
        """
        keywords = self._keywords(context)
        if self._own_timeout is None:
            return await self._call(*self.args, **keywords)
        with anyio.move_on_after(self._own_timeout):
            return await self._call(*self.args, **keywords)
        raise FireTimeoutError(
            f"{name_of(self.function)} ran longer than its timeout of {self._own_timeout:g} s, and "
            "was cancelled",
            timeout=self._own_timeout,
        )

    async def enqueue(self, context: FireContext) -> Job[Any]:
        """Enqueue the job of a fire; once, however often this is called.

        Args:
            context: of the fire.

        Raises:
            OffloadError: as `Jobs.enqueue` does.
        """
        assert self.jobs is not None
        jobs = self.jobs.options(id=context.id)
        keep = options_of(self.function).get("keep", self.jobs.default_keep)
        if keep is not None and keep < KEEP_SECONDS:
            jobs = jobs.options(keep=KEEP_SECONDS)
        if self.timeout is not None:
            jobs = jobs.options(timeout=self.timeout)
        return await jobs.enqueue(self.function, *self.args, **self._keywords(context))


def name_of(function: Any) -> str:
    """Return `module.qualname`, under which a function is scheduled unless it is named."""
    raw = plain(function)
    module = getattr(raw, "__module__", None) or "?"
    if module in ("__main__", "__mp_main__"):
        # The same name as where the program is imported.
        module = name_of_main(sys.modules["__main__"]) or module
    qualname = getattr(raw, "__qualname__", None) or type(raw).__qualname__
    return f"{module}.{qualname}"


@lru_cache(maxsize=256)
def _signature(function: Any) -> inspect.Signature:
    return inspect.signature(function)


def _is_bound(function: Any) -> bool:
    return inspect.ismethod(function) or bool(getattr(function, "bound", ()))


def context_parameter(function: Any) -> str | None:
    """Return the name of the parameter that is annotated with `FireContext`, if there is one."""
    return _context_parameter(plain(function))


# Many schedules may be of one function.
@lru_cache(maxsize=256)
def _context_parameter(raw: Any) -> str | None:
    annotations: dict[str, Any] = getattr(raw, "__annotations__", {})
    try:
        annotations = get_type_hints(raw)
    except Exception:  # noqa: BLE001 - names for type checkers only, or of what comes further below
        annotations = dict(annotations)
    for name, annotation in annotations.items():
        if name != "return" and _is_context(annotation):
            return name
    return None


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        words = annotation.replace(" ", "").split("|")
        return any(word.rpartition(".")[2] == _CONTEXT for word in words)
    members = getattr(annotation, "__args__", ())
    return annotation is FireContext or FireContext in members

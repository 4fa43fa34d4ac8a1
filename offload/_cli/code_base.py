"""What roles run, found from what the command names, and at what price of imports."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from offload._cli.loading import ApplicationError, import_module, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offload.jobs import Jobs
    from offload.schedules import Scheduler

__all__ = ["FRAMEWORKS", "find_jobs", "find_scheduler"]

T = TypeVar("T")

_logger: Final = logging.getLogger("offload.roles")

# What only answers requests.
FRAMEWORKS: Final = (
    "aiohttp.web",
    "blacksheep",
    "django",
    "falcon",
    "fastapi",
    "flask",
    "hypercorn",
    "litestar",
    "quart",
    "sanic",
    "starlette",
    "tornado",
    "uvicorn",
)

# That importing a module took.
_seconds: Final[dict[str, float]] = {}


def find_jobs(reference: str) -> Jobs:
    """Import what is named, and return the jobs to run.

    They are what `module:name` names. Where that is something else, such as an application, or
    the module alone is named: the one `Jobs` object of that module, else of the modules of its
    decorated functions, else `default_jobs()`.

    Raises:
        ApplicationError: there is no such module or name, or there are several `Jobs`.
    """
    from offload.jobs import Jobs, default_jobs

    module_name, named = _imported(reference)
    modules = sorted(_modules_of_functions())
    if isinstance(named, Jobs):
        found: Jobs | None = named
    else:
        found = _only_one(Jobs, [module_name]) or _only_one(Jobs, modules)
    others = [each for each in modules if each != module_name]
    apart = next((each for each in others if found in _all_of(Jobs, [each])), None)
    _tell_of_frameworks(module_name, "jobs", apart and f"{apart}:{_name_in(apart, found)}")
    if found is None:
        _logger.info("no Jobs object in %s: jobs are where OFFLOAD_JOBS says", module_name)
        return default_jobs()
    return found


def find_scheduler(reference: str) -> Scheduler:
    """Import what is named, and return the scheduler to run.

    It is what `module:name` names. Where that is something else, or the module alone is named: the
    one `Scheduler` of that module, else `default_scheduler()`.

    Raises:
        ApplicationError: there is no such module or name, or there are several schedulers.
    """
    from offload.schedules import Scheduler, default_scheduler

    module_name, named = _imported(reference)
    found = named if isinstance(named, Scheduler) else None
    if found is None:
        found = _only_one(Scheduler, [module_name])
    if found is None:  # an empty one is false
        found = default_scheduler()
    modules = {str(getattr(each.function, "__module__", "")) for each in found}
    apart = min(modules - {module_name, ""}, default=None)
    _tell_of_frameworks(module_name, "scheduler", apart)
    return found


def _imported(reference: str) -> tuple[str, Any]:
    """Import what is named; return the name of the module, and what is named in it."""
    module_name, _, name = reference.partition(":")
    begun = time.perf_counter()
    import_module(module_name)
    _seconds[module_name] = time.perf_counter() - begun
    return module_name, load(reference) if name else None


def _only_one(kind: type[T], names: list[str]) -> T | None:
    found = _all_of(kind, names)
    if len(found) > 1:
        what = kind.__name__
        raise ApplicationError(
            f"there are {len(found)} {what} objects in {', '.join(names)}, and a program runs one: "
            f"name it, as in --{what.lower()} {names[0]}:{_name_in(names[0], found[0])}"
        )
    return found[0] if found else None


def _all_of(kind: type[T], names: Iterable[str]) -> list[T]:
    values = [value for name in names for value in vars(sys.modules[name]).values()]
    # By the class first: a proxy may do anything when asked. By identity: they may be equal.
    return list({id(each): each for each in values if issubclass(type(each), kind)}.values())


def _name_in(module_name: str, value: object) -> str:
    names = vars(sys.modules[module_name]).items()
    return next((name for name, each in names if each is value), "NAME")


def _modules_of_functions() -> set[str]:
    from offload.jobs._functions import discover

    names = {reference.partition(":")[0] for reference in discover()}
    return names & sys.modules.keys()


def _tell_of_frameworks(module_name: str, option: str, apart: str | None) -> None:
    """Say what a role imports for nothing, and what to name instead."""
    imported = [name for name in FRAMEWORKS if name in sys.modules]
    if not imported:
        return
    if apart is None:
        advice = (
            "move the functions to a module that imports no application, such as tasks, and name "
            f"that: --{option} tasks"
        )
    else:
        advice = f"--{option} {apart} would not"
    _logger.info(
        "importing %s took %.2f s and brought %s, which this role does not need: %s",
        module_name,
        _seconds[module_name],
        ", ".join(imported),
        advice,
    )

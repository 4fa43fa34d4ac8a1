"""Which jobs the role worker runs, found from what the command names, and at what price."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from offload._cli.loading import ApplicationError, import_module, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offload.jobs import Jobs

__all__ = ["FRAMEWORKS", "find_jobs"]

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


def find_jobs(reference: str) -> Jobs:
    """Import what is named, and return the jobs to run.

    They are what `module:name` names. Where that is something else, such as an application, or
    the module alone is named: the one `Jobs` object of that module, else of the modules of its
    decorated functions, else `default_jobs()`.

    Raises:
        ApplicationError: there is no such module or name, or there are several `Jobs`.
    """
    from offload.jobs import Jobs, default_jobs

    module_name, _, name = reference.partition(":")
    begun = time.perf_counter()
    module = import_module(module_name)
    _tell_of_frameworks(module_name, time.perf_counter() - begun)
    named: Any = load(reference) if name else None
    if isinstance(named, Jobs):
        return named
    for names in ([module_name], sorted(_modules_of_functions())):
        found = list(dict.fromkeys(_jobs_in(names)))
        if len(found) > 1:
            raise ApplicationError(
                f"there are {len(found)} Jobs objects in {', '.join(names)}, and a worker program "
                f"serves one: name it, as in --jobs {names[0]}:jobs"
            )
        if found:
            return found[0]
    _logger.info("no Jobs object in %s: jobs are where OFFLOAD_JOBS says", module.__name__)
    return default_jobs()


def _jobs_in(names: Iterable[str]) -> list[Jobs]:
    from offload.jobs import Jobs

    values = [value for name in names for value in vars(sys.modules[name]).values()]
    # By the class first: a proxy may do anything when asked.
    return [value for value in values if issubclass(type(value), Jobs)]


def _modules_of_functions() -> set[str]:
    from offload.jobs._functions import discover

    names = {reference.partition(":")[0] for reference in discover()}
    return names & sys.modules.keys()


def _tell_of_frameworks(module_name: str, seconds: float) -> None:
    """Say what the role imports for nothing, and what to name instead."""
    imported = [name for name in FRAMEWORKS if name in sys.modules]
    if not imported:
        return
    others = sorted(_modules_of_functions() - {module_name})
    apart = next((name for name in others if _jobs_in([name])), None)
    if apart is None:
        advice = (
            "move the functions and their Jobs object to a module that imports no application, "
            "such as tasks, and name that: --jobs tasks:jobs"
        )
    else:
        names = vars(sys.modules[apart])
        jobs = _jobs_in([apart])[0]
        name = next(name for name, value in names.items() if value is jobs)
        advice = f"--jobs {apart}:{name} would not"
    _logger.info(
        "role worker: importing %s took %.2f s and brought %s, which it does not need: %s",
        module_name,
        seconds,
        ", ".join(imported),
        advice,
    )

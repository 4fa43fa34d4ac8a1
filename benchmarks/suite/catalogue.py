"""All scenarios, in the order of the report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from benchmarks.suite.contenders import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.suite.scenario import Scenario

NAMES = (
    "fast_under_heavy",
    "mixed",
    "overload",
    "dispatch_overhead",
    "payload",
    "payload_flood",
    "uploads",
    "cold_start",
    "crash_recovery",
    "disconnects",
    "scaling",
    "memory",
    "shared_resource",
    "jobs",
    "fast_beside_jobs",
    "ways_to_run",
    "scheduled_work",
)
# Where a scenario is not in the module of its name.
_MODULES = {"payload": "payload_sizes"}


def scenario(name: str) -> Scenario:
    """Return the scenario of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in NAMES:
        raise UnknownNameError(f"there is no scenario {name!r}; there are: {', '.join(NAMES)}")
    found: Scenario = importlib.import_module(f"benchmarks.{_MODULES.get(name, name)}").scenario
    return found


def scenarios(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of these names; of none, all of them.

    Raises:
        UnknownNameError: there is none of a name.
    """
    return [scenario(name) for name in names or NAMES]

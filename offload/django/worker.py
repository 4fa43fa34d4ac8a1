"""The worker program of Django's tasks: `offload worker offload.django.worker:jobs`.

To import this is to set Django up, by the settings that DJANGO_SETTINGS_MODULE names, and to have
the module `tasks` of each application imported. Worker processes do the former by themselves.

Attributes:
    jobs: of the backend in the settings: of the only one of ours, else of the one called "default".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from offload.django._backend import OffloadBackend
from offload.django._border import backends_of
from offload.django._process import leave_console_to_program, set_up_in_worker
from offload.pool import Pool

if TYPE_CHECKING:
    from offload.jobs import Jobs

__all__ = ["jobs"]


def _backend() -> OffloadBackend:
    found = backends_of(OffloadBackend)
    backend: OffloadBackend | None = found.get("default")
    if len(found) == 1:
        (backend,) = found.values()
    if backend is None:
        where = "more than once, and not as the default" if found else "nowhere"
        raise ValueError(f"TASKS in Django's settings has offload.django.OffloadBackend {where}")
    return backend


def _set_up() -> Jobs:
    django: Any = import_module("django")
    loading: Any = import_module("django.utils.module_loading")
    django.setup()
    leave_console_to_program()
    loading.autodiscover_modules("tasks")
    backend = _backend()
    Pool("default", max_workers=backend.max_workers, initializer=set_up_in_worker)
    return backend.jobs


jobs: Final = _set_up()

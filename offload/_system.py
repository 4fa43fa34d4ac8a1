"""What this machine and container really have: CPUs, web workers beside us, memory, priorities.

Every reading degrades to the next best: a file that is missing, empty or unreadable is no error,
because a library that cannot start in an odd container is worse than one that guesses.
"""

from __future__ import annotations

import os
import sys
from os.path import basename, exists, join, split, splitext

__all__ = ["BLAS_VARIABLES", "available_cpus", "default_max_workers", "web_workers"]

# Thread pools of numeric libraries, each of which would start one thread per CPU in each worker
# (joblib#834). They are read when the library is loaded, so they must be in the environment first.
BLAS_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

_SERVERS = {"uvicorn", "gunicorn", "hypercorn", "granian", "fastapi"}


def available_cpus(*, root: str | os.PathLike[str] = "/") -> float:
    """Return the CPUs that this process may use: affinity, cut by the cgroup's CPU quota.

    Args:
        root: where `/proc` and `/sys` are; a test puts a fake tree here.

    Returns:
        A number above 0.0; fractional under a fractional quota.

    Source:
        https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
        https://docs.kernel.org/scheduler/sched-bwc.html (v1 cpu.cfs_quota_us).
    """
    try:
        cpus = float(len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        cpus = float(os.cpu_count() or 1)
    quota = _cgroup_quota(os.fspath(root))
    return cpus if quota is None else min(cpus, quota)


def _cgroup_quota(root: str) -> float | None:
    """Return the smallest CPU quota from our cgroup up to the root of what we can see."""
    quotas: list[float] = []
    for line in _read(join(root, "proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, quota_of = join(root, "sys/fs/cgroup"), _quota_v2
        elif "cpu" in controllers.split(","):
            base, quota_of = join(root, "sys/fs/cgroup/cpu"), _quota_v1
            if not exists(base):
                base = join(root, "sys/fs/cgroup/cpu,cpuacct")
        else:
            continue
        # In a container without a cgroup namespace the path is the host's and does not exist
        # here, while the container's own limit is at the mount's root: look at every level.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            quota = quota_of(join(base, *parts[:depth]))
            if quota is not None:
                quotas.append(quota)
    return min(quotas) if quotas else None


def _quota_v2(folder: str) -> float | None:
    match _read(join(folder, "cpu.max")).split():
        case [quota, period, *_]:
            return _ratio(quota, period)
        case _:
            return None


def _quota_v1(folder: str) -> float | None:
    quota = _read(join(folder, "cpu.cfs_quota_us"))
    return _ratio(quota, _read(join(folder, "cpu.cfs_period_us")))


def _ratio(quota: str, period: str) -> float | None:
    # "max" (v2) and "-1" (v1) both mean no limit.
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def web_workers() -> int:
    """Return how many web worker processes share this machine's CPUs with us, as far as known.

    Read from `--workers N` on the command line of a known server, else from `WEB_CONCURRENCY`: both
    uvicorn and gunicorn take the variable as the default of the option. At least 1.
    """
    return _declared_workers() or _positive(os.environ.get("WEB_CONCURRENCY", "")) or 1


def _declared_workers() -> int:
    """Return the workers that our server's command line asks for, 0 where it does not tell."""
    # A worker of uvicorn has its parent's sys.argv (multiprocessing hands it over), one of
    # gunicorn is forked with it.
    arguments = list(getattr(sys, "argv", []) or [])
    if not arguments:
        return 0
    # `uvicorn`, or `…/uvicorn/__main__.py` for `python -m uvicorn`.
    folder, program = split(arguments[0])
    name = splitext(program)[0]
    if name == "__main__":
        name = basename(folder)
    if name not in _SERVERS:
        return 0
    for index, argument in enumerate(arguments[1:], start=1):
        value = ""
        if argument in ("--workers", "-w") and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith("--workers="):
            value = argument.partition("=")[2]
        elif argument.startswith("-w"):
            value = argument[2:]
        if number := _positive(value):
            return number
    return 0


def _positive(text: str) -> int:
    """Return the number in a text, 0 if there is none or it is not above zero."""
    try:
        return max(int(text), 0)
    except ValueError:
        return 0


def default_max_workers() -> int:
    """Return the CPUs available, divided by the web workers, rounded down, at least 1."""
    # A fractional quota is rounded down: one worker too many is throttled together with the
    # event loop (cpu.max stops the whole cgroup), one too few only costs its fraction.
    return max(1, int(available_cpus() / web_workers()))

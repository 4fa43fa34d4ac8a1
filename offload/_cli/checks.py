"""What the doctor thinks of machine, application and pools: readings in, findings out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from offload._cli.code_checks import check_endpoints, check_functions, check_imports
from offload._cli.findings import Finding, Level, count, duration, found, mebibytes
from offload._cli.job_checks import check_jobs
from offload._cli.schedule_checks import check_schedules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from offload._cli.imports import ImportCost
    from offload._cli.machine import Machine
    from offload._cli.report import PoolReport, Report

__all__ = ["check_all"]

_MACHINE = "Machine"
_APPLICATION = "Application"
_POOLS = "Pools"

# Of what may be used; the rest is for what the functions themselves make.
_MEMORY_SHARE = 0.8
# What the scheduler calls it (sched(7)); the constant of `os` is on Linux only.
_SCHED_IDLE = getattr(os, "SCHED_IDLE", 5)
_LOWEST_NICE = 19
# Executors whose workers are processes of this machine; "" is none, the pool's own.
_PROCESSES = ("", "ProcessPoolExecutor")


def check_all(
    machine: Machine, report: Report, costs: Mapping[tuple[str, str], ImportCost]
) -> list[Finding]:
    """Return what is to be said of an application on a machine.

    Args:
        machine: where it runs.
        report: what importing it showed.
        costs: by pool and module, what that module costs a worker of that pool.
    """
    findings = [*_machine(machine)]
    if report.error:
        findings.append(
            Finding(
                level=Level.FAIL,
                section=_APPLICATION,
                check="import",
                text=f"it cannot be imported: {report.error}",
                advice="nothing else was checked; correct this first",
            )
        )
        return findings
    findings += _application(report)
    findings += _cpus(machine, report.pools)
    findings += _memory(machine, report)
    for pool in report.pools:
        findings += _pool(machine, pool)
    findings += check_functions(report)
    findings += check_imports(report, costs)
    findings += check_jobs(report)
    findings += check_schedules(report.schedules)
    if report.is_server:
        findings += check_endpoints(report.endpoints, report.app_type)
    return findings


# --- the machine ---


def _machine(machine: Machine) -> Iterator[Finding]:
    yield found(Level.OK, _MACHINE, "platform", f"Python {machine.python} on {machine.platform}")
    methods = ", ".join(machine.start_methods)
    if machine.can_fork:
        yield found(Level.OK, _MACHINE, "start_methods", f"processes can be started by {methods}")
    else:
        yield found(
            Level.WARN,
            _MACHINE,
            "start_methods",
            f"no fork here (only {methods}): workers are slots of concurrent.futures executors",
            "a cancelled call is stopped by ending its executor, and generators "
            "cannot be streamed; Linux and macOS have the pool's own workers",
        )


def _cpus(machine: Machine, pools: Sequence[PoolReport]) -> Iterator[Finding]:
    workers = sum(pool.max_workers for pool in pools)
    servers = machine.web_workers
    total = workers * servers
    quota = f", cut to {machine.cpus:g} by the container's quota" if machine.has_quota else ""
    text = (
        f"{machine.cpus_allowed} of the machine's {machine.cpus_installed} CPUs may be used"
        f"{quota}; {count(workers, 'worker')} in each of "
        f"{count(servers, 'web server process', 'es')}, {total} at once"
    )
    facts = {
        "cpus": machine.cpus,
        "cpus_allowed": machine.cpus_allowed,
        "cpus_installed": machine.cpus_installed,
        "web_workers": servers,
        "workers": workers,
    }
    level, advice = Level.OK, ""
    if total > machine.cpus and total > 1:  # one is the least there can be
        level = Level.WARN
        fitting = max(1, int(machine.cpus / servers))
        advice = "more workers than CPUs only wait for each other: "
        advice += (
            f"max_workers={fitting} in all" if workers > fitting else "fewer web server processes"
        )
        if machine.has_quota:
            advice += (
                ". Under a quota they are worse: when it is used up, the kernel stops the whole "
                "container, event loop included, whatever the priorities; or raise the quota"
            )
    elif machine.has_quota and total >= int(machine.cpus):
        advice = (
            "when all workers are busy they use up the quota, and the kernel then stops the event "
            "loop as well: leave it a CPU if its latency matters more than throughput"
        )
    yield Finding(
        level=level, section=_MACHINE, check="cpus", text=text, advice=advice, facts=facts
    )


def _memory(machine: Machine, report: Report) -> Iterator[Finding]:
    # Slots of other executors are threads of the server, or on other machines.
    known = [
        pool
        for pool in report.pools
        if pool.loaded.get("resident_bytes") and pool.executor in _PROCESSES
    ]
    if machine.memory_bytes is None or report.resident_bytes is None:
        yield found(
            Level.OK, _MACHINE, "memory", "the size of the memory cannot be determined here"
        )
        return
    whose = "the container's limit" if machine.is_memory_limited else "what the machine has"
    workers = sum(
        pool.loaded["resident_bytes"] * (pool.max_workers + pool.spare_workers) for pool in known
    )
    needed = (report.resident_bytes + workers) * machine.web_workers
    text = (
        f"{mebibytes(needed)} with every worker started and nothing to do, of "
        f"{mebibytes(machine.memory_bytes)} ({whose}); the server itself "
        f"{mebibytes(report.resident_bytes)}, "
        + (
            ", ".join(
                f"a worker of {p.name!r} {mebibytes(p.loaded['resident_bytes'])}" for p in known
            )
            or "no worker measured"
        )
    )
    facts = {"needed_bytes": needed, "limit_bytes": machine.memory_bytes}
    level, advice = Level.OK, ""
    bounded = (
        sum(
            (pool.max_worker_memory_bytes or 0) * (pool.max_workers + pool.spare_workers)
            for pool in report.pools
        )
        * machine.web_workers
    )
    if needed > machine.memory_bytes:
        level = Level.FAIL
        advice = (
            "fewer workers, a smaller import, or more memory: this ends in a kill by the kernel"
        )
    elif needed > _MEMORY_SHARE * machine.memory_bytes:
        level = Level.WARN
        advice = (
            "the rest is all that the functions have for their work; use fewer workers, or more"
        )
    elif bounded > machine.memory_bytes:
        level = Level.WARN
        advice = (
            f"max_worker_memory_bytes lets all workers together grow to {mebibytes(bounded)}: the "
            "kernel would kill before a worker is replaced; make it smaller"
        )
    elif machine.is_memory_limited and not bounded and report.pools:
        advice = "max_worker_memory_bytes replaces a worker that has grown, before the kernel kills"
    yield Finding(
        level=level, section=_MACHINE, check="memory", text=text, advice=advice, facts=facts
    )


# --- the application ---


def _application(report: Report) -> Iterator[Finding]:
    yield Finding(
        level=Level.OK,
        section=_APPLICATION,
        check="import",
        text=f"a {report.app_type}, imported in {duration(report.import_seconds)} "
        f"with {count(report.modules, 'module')}",
        facts={"seconds": report.import_seconds, "modules": report.modules},
    )
    native = (
        f"; native code has {count(report.native_threads, 'thread')}"
        if report.native_threads
        else ""
    )
    if report.threads:
        yield Finding(
            level=Level.WARN,
            section=_APPLICATION,
            check="fork",
            text=f"importing it starts {count(len(report.threads), 'thread')}: "
            f"{'; '.join(report.threads)}{native}",
            advice="the pool never forks the server, but others may: after gunicorn --preload, or "
            "any os.fork, these threads are gone and the locks that they held stay locked. Start "
            "them in the lifespan",
            facts={"threads": list(report.threads), "native_threads": report.native_threads},
        )
    else:
        yield Finding(
            level=Level.OK,
            section=_APPLICATION,
            check="fork",
            text=f"importing it starts no Python thread: safe to fork (gunicorn --preload){native}",
            facts={"threads": [], "native_threads": report.native_threads},
        )


# --- pools ---


def _pool(machine: Machine, pool: PoolReport) -> Iterator[Finding]:
    kind = f"executor {pool.executor}" if pool.executor else pool.start_method
    if pool.problem:
        yield found(
            Level.FAIL,
            _POOLS,
            "start",
            f"pool {pool.name!r} ({kind}): no worker came up: {pool.problem}",
            "calls would fail with WorkerStartError; correct the initializer, preload or env",
        )
        return
    assert pool.start_seconds is not None
    yield Finding(
        level=Level.OK,
        section=_POOLS,
        check="start",
        text=f"pool {pool.name!r} ({kind}, {count(pool.max_workers, 'worker')}): the first answer "
        f"came after {duration(pool.start_seconds)}",
        facts={"pool": pool.name, "seconds": pool.start_seconds, "max_workers": pool.max_workers},
    )
    if not pool.executor:
        yield _priority(machine, pool)
    if pool.is_hardened:
        yield _walls(pool)
    if pool.results == "data":
        text = f"pool {pool.name!r}: what workers send is read as data, and never unpickled"
        yield found(Level.OK, _POOLS, "results", text)
    yield _blas(machine, pool)


def _walls(pool: PoolReport) -> Finding:
    name = f"pool {pool.name!r}"
    if not pool.missing_walls:
        return found(Level.OK, _POOLS, "harden", f"{name}: workers are hardened")
    return found(
        Level.WARN,
        _POOLS,
        "harden",
        f"{name}: workers are hardened, except for: {', '.join(pool.missing_walls)}",
        "a newer kernel, or a container that allows more, has the rest (the page on operating says "
        "which); with Hardening(strict=True) no worker starts without",
    )


def _priority(machine: Machine, pool: PoolReport) -> Finding:
    scheduler, nice = pool.bare["scheduler"], pool.bare["nice"]
    name = f"pool {pool.name!r}"
    if pool.os_priority == "normal":
        return found(
            Level.WARN,
            _POOLS,
            "priority",
            f"{name}: os_priority='normal': workers compete with the event loop for the CPUs",
            "leave os_priority at 'idle', or 'low' on a host that other programs keep busy",
        )
    if machine.scheduler == _SCHED_IDLE or (machine.nice or 0) >= _LOWEST_NICE:
        return found(
            Level.WARN,
            _POOLS,
            "priority",
            f"{name}: this process itself has the lowest priority (nice {machine.nice}), so its "
            "workers cannot be below it",
            "start the server at a normal priority",
        )
    if scheduler == _SCHED_IDLE:
        return found(
            Level.OK,
            _POOLS,
            "priority",
            f"{name}: workers run at SCHED_IDLE: the event loop always goes first",
        )
    if nice is not None and nice > (machine.nice or 0):
        asked = " (SCHED_IDLE was refused)" if pool.os_priority == "idle" else ""
        return found(
            Level.OK,
            _POOLS,
            "priority",
            f"{name}: workers run at nice {nice}{asked}: the event loop gets most of a CPU, but "
            "not all of it",
        )
    return found(
        Level.WARN,
        _POOLS,
        "priority",
        f"{name}: the system refused os_priority={pool.os_priority!r}: workers compete with the "
        "event loop",
        "allow sched_setscheduler or setpriority (a seccomp profile may forbid both), or leave the "
        "event loop a CPU of its own by a smaller max_workers",
    )


def _blas(machine: Machine, pool: PoolReport) -> Finding:
    blas: dict[str, str] = pool.bare["blas"]
    counts = {name: int(value) for name, value in blas.items() if value.isdecimal()}
    text = f"pool {pool.name!r}: "
    if not counts:
        return Finding(
            level=Level.WARN if not pool.executor else Level.OK,
            section=_POOLS,
            check="blas",
            text=f"{text}threads of numeric libraries are not limited: each worker may start one "
            f"for each of {machine.cpus_allowed} CPUs",
            advice="set OMP_NUM_THREADS and its like in the environment, or Pool(env={…})",
            facts={"pool": pool.name, "environment": blas},
        )
    variable, threads = max(counts.items(), key=lambda item: item[1])
    together = threads * pool.max_workers * machine.web_workers
    is_too_many = threads > 1 and together > machine.cpus
    return Finding(
        level=Level.WARN if is_too_many else Level.OK,
        section=_POOLS,
        check="blas",
        text=f"{text}numeric libraries use {count(threads, 'thread')} in each worker, {together} "
        f"in all ({variable}={threads})",
        advice=f"more threads than the {machine.cpus:g} CPUs get in each other's way: unset "
        f"{variable}, and the pool sets what fits, or set it in Pool(env={{…}})"
        if is_too_many
        else "",
        facts={"pool": pool.name, "environment": blas},
    )

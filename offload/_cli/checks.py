"""What the doctor thinks of what was seen: readings in, findings out; nothing is read here."""

from __future__ import annotations

import os
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from offload._cli.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from offload._cli.imports import ImportCost
    from offload._cli.machine import Machine
    from offload._cli.report import EndpointReport, FunctionReport, PoolReport, Report

__all__ = ["check_all"]

_MACHINE = "Machine"
_APPLICATION = "Application"
_POOLS = "Pools"
_FUNCTIONS = "Functions"
_ENDPOINTS = "Endpoints"

# A call that needs a new worker waits this long for the import; people notice from here on.
_SLOW_IMPORT_SECONDS = 0.5
# Of what may be used; the rest is for what the functions themselves make.
_MEMORY_SHARE = 0.8
_WEB_FRAMEWORKS = frozenset(
    {"aiohttp", "django", "fastapi", "flask", "litestar", "quart", "sanic", "starlette"}
)
_WEB_SERVERS = frozenset({"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})
# What the scheduler calls it (sched(7)); the constant of `os` is on Linux only.
_SCHED_IDLE = getattr(os, "SCHED_IDLE", 5)
_LOWEST_NICE = 19
_MIB = 2**20


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
    findings += _functions(report)
    findings += _imports(report, costs)
    findings += _endpoints(report.endpoints, report.app_type)
    return findings


def _found(level: Level, section: str, check: str, text: str, advice: str = "") -> Finding:
    return Finding(level=level, section=section, check=check, text=text, advice=advice)


# --- the machine ---


def _machine(machine: Machine) -> Iterator[Finding]:
    yield _found(Level.OK, _MACHINE, "platform", f"Python {machine.python} on {machine.platform}")
    methods = ", ".join(machine.start_methods)
    if machine.can_fork:
        yield _found(Level.OK, _MACHINE, "start_methods", f"processes can be started by {methods}")
    else:
        yield _found(
            Level.WARN,
            _MACHINE,
            "start_methods",
            f"no fork here (only {methods}): workers are slots of concurrent.futures executors",
            "a call that is not wanted any more is stopped by ending its executor, and generators "
            "cannot be streamed; Linux and macOS have the pool's own workers",
        )


def _cpus(machine: Machine, pools: Sequence[PoolReport]) -> Iterator[Finding]:
    workers = sum(pool.max_workers for pool in pools)
    servers = machine.web_workers
    total = workers * servers
    quota = f", cut to {machine.cpus:g} by the container's quota" if machine.has_quota else ""
    text = (
        f"{machine.cpus_allowed} of the machine's {machine.cpus_installed} CPUs may be used"
        f"{quota}; {_count(workers, 'worker')} in each of "
        f"{_count(servers, 'web server process', 'es')}, {total} at once"
    )
    facts = {
        "cpus": machine.cpus,
        "cpus_allowed": machine.cpus_allowed,
        "cpus_installed": machine.cpus_installed,
        "web_workers": servers,
        "workers": workers,
    }
    level, advice = Level.OK, ""
    if total > machine.cpus:
        level = Level.WARN
        fitting = max(1, int(machine.cpus / servers))
        advice = f"more workers than CPUs only wait for each other: max_workers={fitting} in all"
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
    known = [pool for pool in report.pools if pool.loaded.get("resident_bytes")]
    if machine.memory_bytes is None or report.resident_bytes is None:
        yield _found(Level.OK, _MACHINE, "memory", "how much memory there is cannot be told here")
        return
    whose = "the container's limit" if machine.is_memory_limited else "what the machine has"
    workers = sum(
        pool.loaded["resident_bytes"] * (pool.max_workers + pool.spare_workers) for pool in known
    )
    needed = (report.resident_bytes + workers) * machine.web_workers
    text = (
        f"{_mib(needed)} with every worker started and nothing to do, of "
        f"{_mib(machine.memory_bytes)} ({whose}); the server itself {_mib(report.resident_bytes)}, "
        + (
            ", ".join(f"a worker of {p.name!r} {_mib(p.loaded['resident_bytes'])}" for p in known)
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
            "what is left is all that the functions have for their work; fewer workers, or more"
        )
    elif bounded > machine.memory_bytes:
        level = Level.WARN
        advice = (
            f"max_worker_memory_bytes lets all workers together grow to {_mib(bounded)}: the "
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
        text=f"a {report.app_type}, imported in {_seconds(report.import_seconds)} "
        f"with {_count(report.modules, 'module')}",
        facts={"seconds": report.import_seconds, "modules": report.modules},
    )
    native = (
        f"; native code has {_count(report.native_threads, 'thread')}"
        if report.native_threads
        else ""
    )
    if report.threads:
        yield Finding(
            level=Level.WARN,
            section=_APPLICATION,
            check="fork",
            text=f"importing it starts {_count(len(report.threads), 'thread')}: "
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
        yield _found(
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
        text=f"pool {pool.name!r} ({kind}, {_count(pool.max_workers, 'worker')}): the first answer "
        f"came after {_seconds(pool.start_seconds)}",
        facts={"pool": pool.name, "seconds": pool.start_seconds, "max_workers": pool.max_workers},
    )
    if not pool.executor:
        yield _priority(machine, pool)
    yield _blas(machine, pool)


def _priority(machine: Machine, pool: PoolReport) -> Finding:
    scheduler, nice = pool.bare["scheduler"], pool.bare["nice"]
    name = f"pool {pool.name!r}"
    if pool.os_priority == "normal":
        return _found(
            Level.WARN,
            _POOLS,
            "priority",
            f"{name}: os_priority='normal': workers compete with the event loop for the CPUs",
            "leave os_priority at 'idle', or 'low' on a host that other programs keep busy",
        )
    if machine.scheduler == _SCHED_IDLE or (machine.nice or 0) >= _LOWEST_NICE:
        return _found(
            Level.WARN,
            _POOLS,
            "priority",
            f"{name}: this process itself has the lowest priority (nice {machine.nice}), so its "
            "workers cannot be below it",
            "start the server at a normal priority",
        )
    if scheduler == _SCHED_IDLE:
        return _found(
            Level.OK,
            _POOLS,
            "priority",
            f"{name}: workers run at SCHED_IDLE: the event loop always goes first",
        )
    if nice is not None and nice > (machine.nice or 0):
        asked = " (SCHED_IDLE was refused)" if pool.os_priority == "idle" else ""
        return _found(
            Level.OK,
            _POOLS,
            "priority",
            f"{name}: workers run at nice {nice}{asked}: the event loop gets most of a CPU, but "
            "not all of it",
        )
    return _found(
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
        text=f"{text}numeric libraries use {_count(threads, 'thread')} in each worker, {together} "
        f"in all ({variable}={threads})",
        advice=f"more threads than the {machine.cpus:g} CPUs get in each other's way: unset "
        f"{variable}, and the pool sets what fits, or set it in Pool(env={{…}})"
        if is_too_many
        else "",
        facts={"pool": pool.name, "environment": blas},
    )


# --- functions ---


def _functions(report: Report) -> Iterator[Finding]:
    if not report.functions:
        yield _found(
            Level.WARN,
            _FUNCTIONS,
            "found",
            "importing the application decorates no function with @offload",
            "decorate what computes; functions that are handed to Pool.run() are not seen here",
        )
    good = [each for each in report.functions if each.is_checked and not each.problem]
    for each in report.functions:
        if each.problem:
            yield _found(
                Level.FAIL,
                _FUNCTIONS,
                "found",
                f"{each.name}: its calls would fail: {each.problem}",
                "a worker finds a function by module and name: define it, under its own name, at "
                "the top of a module that can be imported"
                if each.is_checked
                else "",
            )
        elif not each.is_checked:
            yield _found(
                Level.WARN,
                _FUNCTIONS,
                "found",
                f"{each.name}: not checked, because its pool {each.pool!r} has no worker",
                "see the pool",
            )
    if good:
        names = ", ".join(each.name for each in good)
        yield Finding(
            level=Level.OK,
            section=_FUNCTIONS,
            check="found",
            text=f"workers find {_count(len(good), 'function')}: {names}",
            facts={"functions": [each.name for each in good]},
        )


def _imports(report: Report, costs: Mapping[tuple[str, str], ImportCost]) -> Iterator[Finding]:
    pools = {pool.name: pool for pool in report.pools}
    for (pool_name, module), cost in costs.items():
        users = [f for f in report.functions if f.pool == pool_name and f.module == module]
        if not users or (cost.problem and any(each.problem for each in users)):
            continue
        yield _import(report, pools[pool_name], cost, users)
    for pool_name, group in groupby(costs.items(), key=lambda item: item[0][0]):
        threads = max(cost.preload_threads for _, cost in group)
        pool = pools[pool_name]
        if threads and pool.start_method == "forkserver" and not pool.executor:
            yield _found(
                Level.FAIL,
                _FUNCTIONS,
                "preload",
                f"pool {pool_name!r}: its preload={list(pool.preload)} starts "
                f"{_count(threads, 'thread')} in the process that workers are forked from",
                "a fork copies none of them, and the locks that they hold stay locked: start "
                "threads when they are first needed, take the module out of preload, or use "
                "start_method='spawn'",
            )


def _import(
    report: Report, pool: PoolReport, cost: ImportCost, users: Sequence[FunctionReport]
) -> Finding:
    functions = ", ".join(each.name.partition(":")[2] for each in users)
    what = f"{cost.module} ({functions})"
    if cost.problem:
        return _found(
            Level.WARN,
            _FUNCTIONS,
            "imports",
            f"{what}: importing it by itself failed: {cost.problem}",
            "it depends on what was imported before it",
        )
    everything = cost.imported | cost.preloaded
    slowest = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in cost.slowest)
    text = f"{what}: each worker imports {_count(len(cost.imported), 'module')} for it, "
    text += _seconds(cost.seconds)
    if cost.preloaded:
        shared = _count(len(cost.preloaded), "module")
        text += f", after {shared} that are preloaded, {_seconds(cost.preload_seconds)}"
    if slowest:
        text += f"; slowest: {slowest}"
    roots = Counter(name.partition(".")[0] for name in everything)
    web = sorted((_WEB_FRAMEWORKS | _WEB_SERVERS) & set(roots))
    level, advice = Level.OK, ""
    if report.app_module in everything:
        level = Level.WARN
        text += f". That is the whole application: {report.app_module} is imported"
        advice = (
            "move the functions to a module that imports only what they need: workers start "
            "faster, take less memory, and repeat nothing that the application does when imported"
        )
    elif web:
        level = Level.WARN
        text += f". A worker has no use for {', '.join(web)}"
        advice = "move the functions to a module that does not import the web framework"
    elif cost.seconds > _SLOW_IMPORT_SECONDS:
        level = Level.WARN
        package = cost.slowest[0][0] if cost.slowest else cost.module
        how = (
            f"Pool({pool.name!r}, preload=[{package!r}]) imports it once for all workers"
            if pool.start_method == "forkserver" and not pool.executor
            else "keep workers (min_workers), and import what is slow only where it is needed"
        )
        advice = f"a call that needs a new worker waits for this: {how}"
    return Finding(
        level=level,
        section=_FUNCTIONS,
        check="imports",
        text=text,
        advice=advice,
        facts={
            "module": cost.module,
            "pool": pool.name,
            "functions": [each.name for each in users],
            "seconds": cost.seconds,
            "modules": len(cost.imported),
            "preload_seconds": cost.preload_seconds,
            "slowest": dict(cost.slowest),
            "web": web,
        },
    )


# --- endpoints ---


def _endpoints(endpoints: Sequence[EndpointReport] | None, app_type: str) -> Iterator[Finding]:
    if endpoints is None:
        yield _found(
            Level.WARN,
            _ENDPOINTS,
            "blocking",
            f"not checked: the routes of a {app_type} cannot be listed",
            "only applications with Starlette's routes are read; offload.watchdog finds handlers "
            "that block while they run, whatever the framework",
        )
        return
    kinds = Counter(each.kind for each in endpoints)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    for each in endpoints:
        for call in each.blocking:
            via = f", by way of {' → '.join(call.via)}" if call.via else ""
            yield Finding(
                level=Level.WARN,
                section=_ENDPOINTS,
                check="blocking",
                text=f"{each.route}: async def {each.function} holds the event loop with "
                f"{call.name}() at {call.file}:{call.line}{via}",
                advice=call.advice,
                facts={
                    "route": each.route,
                    "call": call.name,
                    "file": call.file,
                    "line": call.line,
                    "via": list(call.via),
                },
            )
    if not any(each.blocking for each in endpoints):
        yield Finding(
            level=Level.OK,
            section=_ENDPOINTS,
            check="blocking",
            text=f"no call that is known to block in {_count(len(endpoints), 'endpoint')} "
            f"({said}); what is slow because of its data cannot be seen in the source",
            facts={"endpoints": len(endpoints)},
        )


# --- words ---


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:,.0f} MiB"

"""What the doctor thinks of functions and endpoints: readings in, findings out."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from offload._cli.findings import Finding, Level, count, duration, found

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from offload._cli.imports import ImportCost
    from offload._cli.report import EndpointReport, FunctionReport, PoolReport, Report

__all__ = ["check_endpoints", "check_functions", "check_imports"]

_FUNCTIONS = "Functions"
_ENDPOINTS = "Endpoints"

# A call that needs a new worker waits this long for the import; people notice from here on.
_SLOW_IMPORT_SECONDS = 0.5
_WEB_FRAMEWORKS = frozenset(
    {"aiohttp", "django", "fastapi", "flask", "litestar", "quart", "sanic", "starlette"}
)
_WEB_SERVERS = frozenset({"daphne", "granian", "gunicorn", "hypercorn", "uvicorn"})


def check_functions(report: Report) -> Iterator[Finding]:
    """Say which functions a worker finds, and which it does not."""
    if not report.functions:
        yield found(
            Level.WARN,
            _FUNCTIONS,
            "found",
            "importing the application decorates no function with @offload",
            "decorate functions that compute; those passed to Pool.run() cannot be seen here",
        )
    good = [each for each in report.functions if each.is_checked and not each.problem]
    for each in report.functions:
        if each.problem:
            yield found(
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
            yield found(
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
            text=f"workers find {count(len(good), 'function')}: {names}",
            facts={"functions": [each.name for each in good]},
        )


def check_imports(report: Report, costs: Mapping[tuple[str, str], ImportCost]) -> Iterator[Finding]:
    """Say what a worker imports for them, and what of that it has no use for."""
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
            yield found(
                Level.FAIL,
                _FUNCTIONS,
                "preload",
                f"pool {pool_name!r}: its preload={list(pool.preload)} starts "
                f"{count(threads, 'thread')} in the process that workers are forked from",
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
        return found(
            Level.WARN,
            _FUNCTIONS,
            "imports",
            f"{what}: importing it by itself failed: {cost.problem}",
            "it depends on what was imported before it",
        )
    everything = cost.imported | cost.preloaded
    slowest = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.slowest)
    text = f"{what}: each worker imports {count(len(cost.imported), 'module')} for it, "
    text += duration(cost.seconds)
    if cost.preloaded:
        shared = count(len(cost.preloaded), "module")
        text += f", after {shared} that are preloaded, {duration(cost.preload_seconds)}"
    if slowest:
        text += f"; slowest: {slowest}"
    roots = Counter(name.partition(".")[0] for name in everything)
    web = sorted((_WEB_FRAMEWORKS | _WEB_SERVERS) & set(roots))
    level, advice = Level.OK, ""
    if report.is_server and report.app_module in everything:
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
            else "keep workers (min_workers), and import slow modules only where they are needed"
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


def check_endpoints(endpoints: Sequence[EndpointReport] | None, app_type: str) -> Iterator[Finding]:
    """Say which endpoints hold the event loop."""
    if endpoints is None:
        yield found(
            Level.WARN,
            _ENDPOINTS,
            "blocking",
            f"not checked: the routes of a {app_type} cannot be listed",
            "only applications with Starlette's routes are read; offload.watchdog finds handlers "
            "that block while they run, whatever the framework",
        )
        return
    kinds = Counter(each.kind for each in endpoints)
    said = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items())) or "none"
    for each in endpoints:
        if each.is_passed_by:
            yield found(
                Level.FAIL,
                _ENDPOINTS,
                "offloaded",
                f"{each.route}: {each.function} runs in the server, though @offload is put on it: "
                "its route has the plain function",
                "write @offload below the decorator of the route, next to the function",
            )
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
            text=f"no call that is known to block in {count(len(endpoints), 'endpoint')} "
            f"({said}); code that is slow because of its data cannot be found in the source",
            facts={"endpoints": len(endpoints)},
        )

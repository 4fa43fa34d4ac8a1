"""The doctor's child process: imports the application as a server would, and looks around.

    doctor ──► this process ── imports ──► the application, its pools, functions and routes
                     └─ the application's own pools ──► real workers: can they find each function?

A process of its own, because an application may do anything when it is imported: hang, exit, start
threads, change the interpreter. What it prints goes where the doctor wants it.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys
import threading
import time
import traceback
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from offload._child.functions import is_passed_by
from offload._cli import probe
from offload._cli.blocking import blocking_calls, plain_name
from offload._cli.endpoints import endpoints
from offload._cli.jobs_inspection import inspect_jobs
from offload._cli.report import EndpointReport, FunctionReport, PoolReport, Report
from offload._cli.schedule_checks import inspect_schedules
from offload._heartbeat import frames_of_others
from offload._pool.target import is_offloaded
from offload.errors import OffloadError
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from offload._pool.target import Target

__all__ = ["ApplicationError", "decorated", "inspect_application", "load", "main"]

# For a worker to answer; that it takes long to start is what the pool's start_timeout is for.
_ANSWER_SECONDS = 60.0
_KILL_SECONDS = 10.0


class ApplicationError(Exception):
    """The application or function that was named is not to be had; the text says why."""


def load(reference: str, *, factory: bool = False) -> Any:
    """Import what `module:attribute` names.

    Args:
        reference: as uvicorn takes it; the attribute may have dots.
        factory: call what is found, and return what it returns.

    Raises:
        ApplicationError: there is no such thing; with the traceback, if it is of other code.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        message = f"{reference!r} is not of the form module:name, such as main:app"
        raise ApplicationError(message)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            message = (
                f"there is no module {error.name!r} here: start in the folder that has it, or name "
                "that folder with --app-dir"
            )
            raise ApplicationError(message) from None
        raise ApplicationError(_trace(f"importing {module_name!r} failed", error)) from error
    except BaseException as error:  # a module may call sys.exit()
        raise ApplicationError(_trace(f"importing {module_name!r} failed", error)) from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            message = f"{module_name!r} has no {attribute!r}: {error}"
            raise ApplicationError(message) from error
        except BaseException as error:  # a module's own __getattr__ may do anything
            raise ApplicationError(_trace(f"making {reference!r} failed", error)) from error
    if factory:
        try:
            found = found()
        except BaseException as error:
            raise ApplicationError(_trace(f"calling {reference!r} failed", error)) from error
    return found


def _trace(what: str, error: BaseException) -> str:
    # Without our own frames and those of importlib, which say nothing.
    tb = error.__traceback__
    frames = [
        frame
        for frame in traceback.extract_tb(tb)
        if not frame.filename.startswith("<frozen importlib") and frame.filename != __file__
    ]
    lines = traceback.format_list(frames) + traceback.format_exception_only(error)
    return f"{what}:\n{''.join(lines).rstrip()}"


def decorated() -> list[Any]:
    """Return every object that `@offload` made in this process, one for each decoration."""
    found: dict[int, Any] = {}
    for each in gc.get_objects():
        # By its class alone: a proxy that is asked for an attribute may do anything.
        if is_offloaded(each):
            found.setdefault(id(each._definition), each)  # noqa: SLF001
    return sorted(found.values(), key=_name_of)


def _name_of(function: Any) -> str:
    plain = function.__wrapped__
    return f"{plain.__module__}:{plain.__qualname__}"


def inspect_application(reference: str, *, factory: bool = False) -> Report:
    """Import an application and report what it is made of; starts workers, and ends them.

    Args:
        reference: `module:attribute`.
        factory: whether that is a function that makes the application.
    """
    started = time.perf_counter()
    try:
        app = load(reference, factory=factory)
    except ApplicationError as error:
        return Report(error=str(error))
    seconds = time.perf_counter() - started
    threads = _threads()
    native = probe.native_threads()
    seen = probe.look()
    listed = endpoints(app)
    # Before the pools, whose workers are ended when they have been looked at.
    jobs, job_functions = inspect_jobs()
    pools, functions = _inspect_pools(decorated())
    return Report(
        app_module=reference.partition(":")[0],
        app_type=f"{type(app).__module__}.{type(app).__qualname__}",
        import_seconds=seconds,
        modules=seen["modules"],
        resident_bytes=seen["resident_bytes"],
        threads=tuple(threads),
        native_threads=0 if native is None else max(native - 1 - len(threads), 0),
        path=tuple(sys.path),
        pools=pools,
        functions=functions,
        jobs=jobs,
        job_functions=job_functions,
        schedules=inspect_schedules(),
        endpoints=None
        if listed is None
        else tuple(
            EndpointReport(
                route=each.route,
                function=plain_name(each.function),
                kind=each.kind,
                blocking=tuple(blocking_calls(each.function)) if each.kind == "async" else (),
                is_passed_by=is_passed_by(each.function),
            )
            for each in listed
        ),
    )


def _threads() -> list[str]:
    """Return the threads beside this one, each with the function that it was started with."""
    frames = frames_of_others()
    return [
        f"{thread.name} ({_start_of(frames.get(thread.ident or 0))})"
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
    ]


def _start_of(frame: FrameType | None) -> str:
    outermost = "?"
    for each, line in traceback.walk_stack(frame) if frame is not None else ():
        if each.f_code.co_filename != threading.__file__:
            outermost = f"{each.f_code.co_filename}:{line} in {each.f_code.co_name}"
    return outermost


# --- pools and functions ---


def _inspect_pools(
    found: Iterable[Any],
) -> tuple[tuple[PoolReport, ...], tuple[FunctionReport, ...]]:
    targets: dict[str, list[Target]] = {}
    functions: list[FunctionReport] = []
    for each in found:
        definition = each._definition  # noqa: SLF001
        pool_name = definition.pool if isinstance(definition.pool, str) else definition.pool.name
        try:
            pool, target = definition.resolve()
        except OffloadError as error:
            functions.append(
                FunctionReport(
                    name=_name_of(each),
                    module=each.__wrapped__.__module__,
                    pool=pool_name,
                    problem=str(error),
                )
            )
        else:
            targets.setdefault(pool.name, []).append(target)
    pools: list[PoolReport] = []
    for pool in Pool.all():
        report, seen = _visit(pool, targets.get(pool.name, []))
        pools.append(report)
        functions += seen
    return tuple(pools), tuple(sorted(functions, key=lambda each: each.name))


def _visit(pool: Pool, targets: list[Target]) -> tuple[PoolReport, list[FunctionReport]]:
    """Start a worker of a pool and have it find the functions."""
    setup = pool._setup  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this package
    options = setup.options
    executor = options.executor
    described: dict[str, Any] = {
        "name": pool.name,
        "max_workers": pool.max_workers,
        "spare_workers": options.spare_workers,
        "start_method": setup.start_method,
        "executor": ""
        if executor is None
        else getattr(executor, "__name__", type(executor).__name__),
        "os_priority": options.os_priority,
        "preload": options.preload,
        "environment": setup.environment(),
        "max_worker_memory_bytes": options.max_worker_memory_bytes,
        "is_hardened": bool(options.harden),
        "results": options.results,
    }
    calls = pool.executor()
    patience = options.start_timeout + _ANSWER_SECONDS
    functions: list[FunctionReport] = []
    started = time.perf_counter()
    try:
        bare = calls.submit(probe.look).result(patience)
        seconds = time.perf_counter() - started
        for target in targets:
            problem = ""
            if isinstance(target.reference.wire, str):
                problem = calls.submit(probe.seek, target.reference.wire).result(patience)[
                    "problem"
                ]
            functions.append(
                FunctionReport(
                    name=target.name,
                    module=target.module,
                    pool=pool.name,
                    problem=problem,
                    is_checked=True,
                )
            )
        loaded = calls.submit(probe.look).result(patience)
        return (
            PoolReport(
                **described,
                start_seconds=seconds,
                bare=bare,
                loaded=loaded,
                missing_walls=pool.statistics().missing_walls,
            ),
            functions,
        )
    except Exception as error:  # noqa: BLE001 - whatever a worker or an executor of the user raises
        done = {each.name for each in functions}
        functions += [
            FunctionReport(name=each.name, module=each.module, pool=pool.name)
            for each in targets
            if each.name not in done
        ]
        detail = getattr(error, "detail", "")
        problem = "\n".join(filter(None, (str(error) or repr(error), detail)))
        return PoolReport(**described, problem=problem), functions
    finally:
        calls.shutdown(wait=False, cancel_futures=True)
        wait([pool.kill()], timeout=_KILL_SECONDS)


def main(arguments: list[str]) -> None:
    """Inspect an application and write the report; ends the process.

    Args:
        arguments: `module:attribute`, the file to write to, the folder to import from, and
            "factory" or "application".
    """
    reference, path, folder, kind = arguments
    sys.path.insert(0, os.path.abspath(folder))
    report = inspect_application(reference, factory=kind == "factory")
    with open(path, "wb") as file:
        pickle.dump(report, file)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: threads of the application, which would be waited for, may never end.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

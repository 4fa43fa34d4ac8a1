"""`offload run MODULE:APP …`: the programs of a code base, one process for each role."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from offload._cli import worker
from offload._cli.loading import ApplicationError, load
from offload._cli.program_log import set_up_logging
from offload._run.child import OPTION, Child
from offload._system import web_workers
from offload.roles import Role
from offload.roles._role import ENVIRONMENT, role_of

if TYPE_CHECKING:
    from offload._run.processes import Command

__all__ = ["add_arguments", "run"]

_HOST: Final = "127.0.0.1"
_PORT: Final = 8000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "A single role runs in this process. Several roles run in a process each, and their output "
        "is prefixed with their names. SIGTERM or Ctrl+C ends all of them in order, a second one "
        "at once, a third one kills them. A program that ends is started again; if one ends before "
        "it is ready, all end."
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="MODULE:APP",
        help="the ASGI application; roles without a module of their own below import its module",
    )
    parser.add_argument(
        "--role",
        metavar="A,B",
        help=f"{', '.join(map(str, Role))} or all (default: ${ENVIRONMENT}, else all)",
    )
    parser.add_argument("--app-dir", metavar="FOLDER", help="where the modules are (default: here)")
    parser.add_argument(
        "--drain",
        type=worker.seconds,
        default=10.0,
        metavar="SECONDS",
        help="time for requests and jobs under way when it ends (10)",
    )
    parser.add_argument(
        "--kill-after",
        type=worker.seconds,
        default=30.0,
        metavar="SECONDS",
        help="time for several programs to end; then they are killed (30)",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        metavar="LEVEL",
        help="least level of records to print (info)",
    )
    parser.add_argument(OPTION, help=argparse.SUPPRESS)
    web = parser.add_argument_group("role web")
    web.add_argument(
        "--host", default=_HOST, metavar="HOST", help=f"address to listen on ({_HOST})"
    )
    web.add_argument(
        "--port",
        type=_port,
        default=_PORT,
        metavar="PORT",
        help=f"port to listen on; 0: any free one ({_PORT})",
    )
    web.add_argument(
        "--workers",
        type=worker.positive,
        default=web_workers(),
        metavar="N",
        help="processes that answer requests (default: $WEB_CONCURRENCY, else 1)",
    )
    web.add_argument("--factory", action="store_true", help="call APP to make the application")
    web.add_argument("--no-access-log", action="store_true", help="log no requests")
    jobs = parser.add_argument_group("role worker")
    jobs.add_argument(
        "--jobs",
        metavar="MODULE[:JOBS]",
        help="module of the functions and their Jobs object, imported in place of the application",
    )
    worker.add_options(jobs)
    schedules = parser.add_argument_group("role scheduler")
    schedules.add_argument(
        "--scheduler",
        metavar="MODULE[:SCHEDULER]",
        help="module of the schedules, imported in place of the application",
    )


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:  # noqa: PLR2004 - of TCP
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the programs until they are told to stop."""
    child = None if arguments.child is None else Child(arguments.child)
    try:
        role = role_of(arguments.role) or Role.every()
        _check(arguments, role)
        set_up_logging(arguments.log_level)
        names = _names(role, arguments.workers)
        if child is not None or len(names) == 1:
            return _run_here(role, arguments, child)
        return _run_processes(names, arguments)
    except (ApplicationError, ValueError, OSError) as error:
        print(f"offload run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while it was starting
        return 130


def _check(arguments: argparse.Namespace, role: Role) -> None:
    if Role.WEB in role and not arguments.target:
        raise ApplicationError(
            f"the role web needs an application, such as `offload run app:app`; for other roles "
            f"alone, name them by --role or {ENVIRONMENT}"
        )
    if Role.WORKER in role and not (arguments.target or arguments.jobs):
        raise ApplicationError("the role worker needs --jobs MODULE:JOBS, such as tasks:jobs")
    if Role.SCHEDULER in role and not (arguments.target or arguments.scheduler):
        raise ApplicationError(
            "the role scheduler needs --scheduler MODULE, the module of the schedules"
        )


def _names(role: Role, workers: int) -> dict[str, Role]:
    """Return the names of the programs, and what each of them is."""
    names: dict[str, Role] = {}
    for each in role:
        if each is Role.WEB and workers > 1:
            names |= {f"web.{number}": each for number in range(1, workers + 1)}
        else:
            names[str(each)] = each
    return names


# --- several programs ---


def _run_processes(names: dict[str, Role], arguments: argparse.Namespace) -> int:
    from offload._run.processes import Processes

    if not hasattr(os, "fork"):
        raise ApplicationError("several roles at once need a POSIX system: start each by itself")
    commands = _commands(names, arguments)
    return asyncio.run(Processes(commands, kill_after=arguments.kill_after).run())


def _commands(names: dict[str, Role], arguments: argparse.Namespace) -> dict[str, Command]:
    from offload._run.processes import Command

    # One for all processes of the web, and for those that take their place.
    listener = _listener(arguments) if Role.WEB in names.values() else None
    found: dict[str, Command] = {}
    for name, role in names.items():
        environment = {ENVIRONMENT: str(role)}
        if role is Role.WEB and arguments.workers > 1:
            # Pools share the CPUs among as many processes.
            environment["WEB_CONCURRENCY"] = str(arguments.workers)
        found[name] = Command(
            [*arguments.given, "--role", str(role)],
            environment,
            listener if role is Role.WEB else None,
        )
    return found


def _listener(arguments: argparse.Namespace) -> socket.socket:
    """Return a bound socket; it listens when a program serves it."""
    host, port = arguments.host, arguments.port
    try:
        (family, kind, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ApplicationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; --port names another"
        ) from error
    return listener


# --- one program, in this process ---


def _run_here(role: Role, arguments: argparse.Namespace, child: Child | None) -> int:
    # For what is imported now, and for worker processes.
    os.environ[ENVIRONMENT] = str(role)
    sys.path.insert(0, os.path.abspath(arguments.app_dir or os.getcwd()))
    if role is Role.WEB:
        _serve(arguments, child)
        return 0
    return (_work if role is Role.WORKER else _fire)(arguments, child)


def _ready(child: Child | None) -> None:
    if child is not None:
        child.ready()


def _serve(arguments: argparse.Namespace, child: Child | None) -> None:
    try:
        from offload._run.web import serve
    except ModuleNotFoundError as error:
        if error.name != "uvicorn":
            raise
        raise ApplicationError(
            "the role web needs uvicorn: pip install 'offload[web]'; any other ASGI server will "
            f"do as well, started by itself with {ENVIRONMENT}=web"
        ) from None
    # Before the application, which may take long: what cannot be served need not be loaded.
    listener = child.listener if child is not None else None
    listener = listener or _listener(arguments)
    app: Any = load(arguments.target)
    serve(
        app,
        listener,
        factory=arguments.factory,
        access_log=not arguments.no_access_log,
        drain=arguments.drain,
        ready=lambda: _ready(child),
    )


def _work(arguments: argparse.Namespace, child: Child | None) -> int:
    from offload._cli.code_base import find_jobs
    from offload.jobs._functions import discover

    jobs = find_jobs(arguments.jobs or arguments.target)
    if child is not None and not discover():
        return _nothing_to_do(child)
    return worker.work(jobs, arguments, command="offload run", ready=lambda: _ready(child))


def _fire(arguments: argparse.Namespace, child: Child | None) -> int:
    from offload._cli.code_base import find_scheduler
    from offload._run.scheduler import fire
    from offload.jobs._engines import ENVIRONMENT as JOBS_ENVIRONMENT

    scheduler = find_scheduler(arguments.scheduler or arguments.target)
    # An engine may have schedules that were made at run time.
    if not len(scheduler) and not os.environ.get(JOBS_ENVIRONMENT):
        if child is None:
            raise ApplicationError(
                "there is no schedule to fire: name their module by --scheduler MODULE"
            )
        return _nothing_to_do(child)
    asyncio.run(fire(scheduler, lambda: _ready(child)))
    return 0


def _nothing_to_do(child: Child) -> int:
    child.nothing_to_do()
    return 0

"""`offload doctor module:app`: would this application and this machine do well in production?"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from offload._cli.checks import check_all
from offload._cli.findings import Finding, Level, as_json, as_text, wants_colors, worst
from offload._cli.imports import ImportCost, import_cost
from offload._cli.machine import Machine
from offload._cli.report import Report

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "examine", "run"]

_OUTPUT_CHARACTERS = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "Imports the application in a process of its own and starts workers of its pools, as a "
        "server would. Exit status: 1 if something FAILs."
    )
    parser.add_argument(
        "app",
        metavar="MODULE:APP",
        help="the ASGI application, as for uvicorn; or the Jobs, as for offload worker",
    )
    parser.add_argument(
        "--factory", action="store_true", help="APP is a function that makes the application"
    )
    parser.add_argument(
        "--app-dir", default=".", metavar="DIR", help="import from here (default: this folder)"
    )
    parser.add_argument(
        "--web-workers",
        type=_positive,
        metavar="N",
        help="web server processes that will run (default: WEB_CONCURRENCY, or 1)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="for importing the application and starting workers (default: 120)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for a WARN as well")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Examine and print."""
    findings = examine(
        arguments.app,
        factory=arguments.factory,
        folder=arguments.app_dir,
        servers=arguments.web_workers,
        timeout=arguments.timeout,
    )
    if arguments.json:
        print(as_json(arguments.app, findings))
    else:
        print(as_text(findings, colors=wants_colors()))
    failing = {Level.FAIL, Level.WARN} if arguments.strict else {Level.FAIL}
    return 1 if worst(findings) in failing else 0


def examine(
    app: str,
    *,
    factory: bool = False,
    folder: str = ".",
    servers: int | None = None,
    timeout: float = 120.0,
) -> list[Finding]:
    """Return what is to be said of an application on this machine.

    Args:
        app: `module:attribute`.
        factory: whether that is a function that makes the application.
        folder: where to import it from.
        servers: web server processes; None: as the environment says.
        timeout: seconds for importing the application and starting its workers.
    """
    machine = Machine.read(servers=servers)
    report = _report_of_child(app, factory=factory, folder=folder, servers=servers, timeout=timeout)
    return check_all(machine, report, _costs(report, timeout))


def _costs(report: Report, timeout: float) -> dict[tuple[str, str], ImportCost]:
    costs: dict[tuple[str, str], ImportCost] = {}
    for pool in report.pools:
        modules = {f.module for f in report.functions if f.pool == pool.name and f.module}
        for module in sorted(modules):
            costs[pool.name, module] = import_cost(
                module,
                path=report.path,
                preload=pool.preload,
                environment=pool.environment,
                timeout=timeout,
            )
    return costs


def _report_of_child(
    app: str, *, factory: bool, folder: str, servers: int | None, timeout: float
) -> Report:
    """Have a child process import the application, and return what it reports."""
    environment = dict(os.environ)
    if servers is not None:
        environment["WEB_CONCURRENCY"] = str(servers)
    with tempfile.TemporaryDirectory(prefix="offload-doctor-") as temporary:
        path = os.path.join(temporary, "report")
        kind = "factory" if factory else "application"
        command = [sys.executable, "-m", "offload._cli.inspection", app, path, folder, kind]
        with (
            open(os.path.join(temporary, "output"), "w+b") as output,
            # A session of its own: what the application starts is ended with it.
            subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ) as child,
        ):
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                return Report(
                    error=f"not done after {timeout:g} s (--timeout); does it start a server, or "
                    f"wait for something, when it is imported?{_said(output.name)}"
                )
            finally:
                _end(child)
            try:
                with open(path, "rb") as file:
                    report: Report = pickle.load(file)
            except (OSError, EOFError):
                return Report(
                    error=f"the process ended while importing it (exit code {child.returncode})"
                    f"{_said(output.name)}"
                )
            return report


def _end(child: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except OSError:  # all gone; macOS: EPERM for a group of zombies
            return
    elif child.poll() is None:
        child.kill()


def _said(path: str) -> str:
    """Return the end of what the child printed, for the text of an error."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read().strip()[-_OUTPUT_CHARACTERS:]
    return f"; it printed:\n{text}" if text else ""

"""The command line: `offload COMMAND …`, also as `python -m offload`.

Each command is a module of its own, imported only when it is chosen: `offload --help` answers at
once and needs none of the extras.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["main"]

# Name of each command: its module, and one line of help, which is read without importing it.
_COMMANDS: dict[str, tuple[str, str]] = {
    "bench": (
        "offload._cli.bench",
        "does a path of your application stay fast while another one computes?",
    ),
    "doctor": (
        "offload._cli.doctor",
        "check an application and the machine it runs on: what would hurt in production?",
    ),
    "explain": (
        "offload._cli.explain",
        "measure one call, here and on a worker: is offloading it worth it?",
    ),
    "jobs": (
        "offload._cli.jobs",
        "list, show, retry and cancel jobs; count them, pause and resume queues",
    ),
    "run": (
        "offload._cli.run",
        "run the programs of your code base: web, worker",
    ),
    "schedule": (
        "offload._cli.schedule",
        "when does a cron expression fire? List, run, pause and resume schedules",
    ),
    "top": (
        "offload._cli.top",
        "watch the pools of a running server, live in the terminal",
    ),
    "worker": (
        "offload._cli.worker",
        "run jobs: the worker program beside your server, on any machine",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; None: those of this process.

    Returns:
        The exit status: 0 fine, 1 a check failed, 2 wrong usage.
    """
    # Here and not above: workers import functions of this package.
    import argparse
    import sys
    from importlib import import_module

    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="offload", description="Look at, measure and check what `offload` runs."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((each for each in arguments if each in _COMMANDS), None)
    module: Any = None
    for name, (home, help_line) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=help_line)
        if name == chosen:
            module = import_module(home)
            module.add_arguments(command)
    # As given, for a command that starts others.
    parsed = parser.parse_args(arguments, argparse.Namespace(given=arguments))
    status: int = module.run(parsed)
    return status

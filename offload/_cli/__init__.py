"""The command line: `offload COMMAND …`, also as `python -m offload`.

Each command is a module of its own, imported only when it is chosen: `offload --help` answers at
once and needs none of the extras.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any

__all__ = ["COMMANDS", "main", "parser_of"]

# Name of each command: its module, and one line of help, which is read without importing it.
COMMANDS: dict[str, tuple[str, str]] = {
    "bench": (
        "offload._cli.bench",
        "does a path of your application stay fast while another one computes?",
    ),
    "completion": (
        "offload._cli.completion",
        "print a script that completes these commands in bash, zsh or fish",
    ),
    "demo": (
        "offload._cli.demo",
        "start a server with a page that shows what this library does",
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
        "list, show, retry and cancel jobs; count them, pause queues, serve their dashboard",
    ),
    "run": (
        "offload._cli.run",
        "run the programs of your code base: web, worker, scheduler",
    ),
    "schedule": (
        "offload._cli.schedule",
        "when does a cron expression fire? List, run, pause and resume schedules",
    ),
    "top": (
        "offload._cli.top",
        "watch the pools and jobs of a running server, live in the terminal",
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

    arguments = list(sys.argv[1:] if argv is None else argv)
    # Options come after the command; before it there are only those of this program.
    chosen = next((each for each in arguments if not each.startswith("-")), None)
    if chosen is not None and chosen not in COMMANDS:
        print(_unknown(chosen), file=sys.stderr)
        return 2
    parser, modules = parser_of([chosen] if chosen else [])
    if not arguments:
        parser.print_help()
        return 0
    # As given, for a command that starts others.
    parsed = parser.parse_args(arguments, argparse.Namespace(given=arguments))
    if parsed.command is None:
        parser.error("an option, and no command; see offload --help")
    status: int = modules[parsed.command].run(parsed)
    return status


def parser_of(loaded: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """Return the parser of the command line, and the modules of the commands that are loaded.

    Args:
        loaded: names of the commands whose options it knows; their modules are imported.
    """
    import argparse
    from functools import partial
    from importlib import import_module

    from offload import __version__

    parser = argparse.ArgumentParser(
        prog="offload",
        description="Look at, measure and check what `offload` runs.",
        # The longest name of a command, and spaces around it.
        formatter_class=partial(argparse.HelpFormatter, max_help_position=16),
    )
    parser.add_argument("--version", action="version", version=f"offload {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    modules: dict[str, Any] = {}
    for name, (home, help_line) in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, description=help_line)
        if name in loaded:
            modules[name] = import_module(home)
            modules[name].add_arguments(command)
    return parser, modules


def _unknown(command: str) -> str:
    import difflib

    close = difflib.get_close_matches(command, COMMANDS, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    return f"offload: there is no command {command!r}; {guess}Commands: {', '.join(COMMANDS)}"

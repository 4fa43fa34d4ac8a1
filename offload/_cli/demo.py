"""`offload demo`: the demo server, from the wheel or from a clone."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

import offload

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = "More settings are variables of the environment: offload demo --settings"
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", help="port; 0 for any free one (default: 8000)")
    parser.add_argument(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        help="log every request (default: no)",
    )
    parser.add_argument("--settings", action="store_true", help="list all settings")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo server until Ctrl+C, as `python -m demo_server` does."""
    here = os.path.dirname(os.path.abspath(offload.__file__))
    # In the wheel it is below this package, so that the wheel has one name at the top; in a clone
    # beside it. Workers get the path of this process.
    home = os.path.join(here, "_demo")
    sys.path.insert(0, home if os.path.isdir(home) else os.path.dirname(here))
    options: list[str] = ["--help"] if arguments.settings else []
    for name in ("host", "port"):
        value = getattr(arguments, name)
        options += [] if value is None else [f"--{name}", value]
    if arguments.access_log is not None:
        options.append("--access-log" if arguments.access_log else "--no-access-log")
    sys.argv[1:] = options
    runpy.run_module("demo_server", run_name="__main__", alter_sys=True)
    return 0

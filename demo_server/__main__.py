"""Starts the demo server: `python -m demo_server --port 8000`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

from demo_server.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
A server that does heavy work in worker processes (offload) and stays fast beside it.

  python -m demo_server                   then, in another terminal:
  curl http://127.0.0.1:8000/heavy        counts primes in a worker
  curl http://127.0.0.1:8000/fast         answers at once meanwhile
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until Ctrl+C.

    Args:
        arguments: the command line without the program; that of the process if None.

    Returns:
        Exit status: 0 after Ctrl+C, 1 if it could not start. SIGTERM ends the server as cleanly,
        but the process then ends by that signal, as supervisors expect.
    """
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings.from_environment(os.environ)
        settings = dataclasses.replace(settings, **given)
    except SettingsError as error:
        parser.error(str(error))
    try:
        # Here and not above: `--help` and a wrong setting need no web server to be installed.
        from demo_server.serve import serve
    except ModuleNotFoundError as error:
        parser.exit(1, f"{error}; the demo needs more: pip install 'offload[demo]'\n")
    try:
        listener = _listen(settings.host, settings.port)
    except OSError as error:
        reason = error.strerror or error
        parser.exit(
            1,
            f"cannot listen on {settings.host} port {settings.port}: {reason}; "
            "another --port, or 0 for any free one, may help\n",
        )
    logging.basicConfig(format="%(levelname)s: %(name)s: %(message)s")
    # It warns of every form that a client breaks, which is the client's business.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    try:
        serve(settings, listener)
    except SettingsError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        # The server has ended in order by now and says with this which signal asked it to.
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo_server",
        description=_DESCRIPTION,
        epilog="environment:\n  " + "\n  ".join(Settings.describe()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # None where not given, so that the environment decides.
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, help="port; 0 for any free one (default: 8000)")
    parser.add_argument(
        "--access-log",
        action=argparse.BooleanOptionalAction,
        help="log every request (default: no)",
    )
    return parser


def _listen(host: str, port: int) -> socket.socket:
    # Bound before anything is started, so that a port in use is found at once and port 0 is known.
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=2048)


# Worker processes may import this module as their `__main__`: no import above is heavy, and
# nothing starts unless it is the program.
if __name__ == "__main__":
    sys.exit(main())

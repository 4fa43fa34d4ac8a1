"""A process of a pool that was started as a program: frozen, or by mistake."""

from __future__ import annotations

import os
import sys

from offload._wire.interpreter import CHILD, MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["take_over"]


def take_over() -> NoReturn:
    """Be what this process was started for, in place of the program that imports us.

    Raises:
        SystemExit: that is none of ours: somebody has started this program for an interpreter. It
            would start it again, and so on.
    """
    starter = os.environ.pop(MARK, "")
    if sys.argv[1:2] == [CHILD]:
        code = sys.argv[2]
        del sys.argv[1:3]
        exec(code, {"__name__": "__main__", "sys": sys})  # noqa: S102 - our own, see `command_line`
        raise SystemExit
    raise SystemExit(
        f"offload: process {starter} has started {sys.executable!r} to run workers, and that is no "
        "Python interpreter but this program, which ends here. Name the interpreter with "
        "multiprocessing.set_executable(path), or have the program freeze as one "
        "(sys.frozen), before the first call"
    )

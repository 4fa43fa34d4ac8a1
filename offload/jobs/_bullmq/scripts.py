"""Lua scripts: ours, with BullMQ's own as functions inside of them.

BullMQ's scripts each make one change of a job's state. What is atomic here is more than that: to
check a claim, end the attempt, note it and claim the next job. So each script of BullMQ's that one
of ours names becomes a function in it, its text unchanged, and what a state is, which keys it has
and what listeners are told stays BullMQ's to say. Only the texts of the package are read; its
Python code is not imported.

A script of ours begins with lines for what it needs:

    --@include common placing
    --@bullmq finish moveToFinished-14
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

__all__ = ["MISSING", "Script", "script", "texts_of_bullmq"]

MISSING: Final = (
    "jobs on Redis need the `bullmq` package: install the extra, as in pip install 'offload[redis]'"
)

_FUNCTION: Final = re.compile(r"local (function \w+|\w+ = function) ?\(").match
_LUA: Final = os.path.join(os.path.dirname(__file__), "lua")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server takes it.

    Attributes:
        name: for errors.
        text: in Lua.
        sha: what the server knows it by once it has seen the text.
    """

    name: str
    text: str
    sha: str


@cache
def texts_of_bullmq() -> str:
    """Return the directory of BullMQ's Lua texts.

    Raises:
        ImportError: the package is not installed.
    """
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(MISSING, name="bullmq")
    return os.path.join(spec.submodule_search_locations[0], "commands")


@cache
def script(name: str) -> Script:
    """Return a script of ours with all that it needs."""
    own = _read(_LUA, name)
    parts: list[str] = []
    functions: list[str] = []
    for line in own.splitlines():
        words = line.split()
        if line.startswith("--@include "):
            parts += words[1:]
        elif line.startswith("--@bullmq "):
            _, function, file = words
            text = _read(texts_of_bullmq(), file)
            functions.append(_as_function(f"bull_{function}", text))
    included = [_read(_LUA, part) for part in parts]
    # Of the included texts, only `common` needs no function of BullMQ's.
    text = "\n".join([*included[:1], *functions, *included[1:], own])
    # SHA-1 is how Redis names scripts.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha)


def _as_function(name: str, text: str) -> str:
    """Return a script of BullMQ's as a function.

    A script begins with the functions that it needs, some forty of them. Here they are made once,
    and not at each call, which for most calls is a good part of what they cost.
    """
    lines = text.splitlines()
    at = _end_of_functions(lines)
    head, body = "\n".join(lines[:at]), "\n".join(lines[at:])
    return f"local {name}\ndo\n{head}\n{name} = function(KEYS, ARGV)\n{body}\nend\nend\n"


def _end_of_functions(lines: list[str]) -> int:
    """Return where the functions end that come first, with comments among them; 0 if none do."""
    until = ""
    for number, line in enumerate(lines):
        if until == "end" and ("KEYS[" in line or "ARGV[" in line):
            return 0  # those are of each call
        if until:
            ends = line == until or (until == "]]" and until in line)
            until = "" if ends else until
        elif line.startswith("--[["):
            until = "" if "]]" in line else "]]"
        elif _FUNCTION(line):
            until = "end"
        elif line and not line.startswith("--") and line != "local rcall = redis.call":
            return number
    return len(lines)


def _read(directory: str, name: str) -> str:
    with open(os.path.join(directory, name + ".lua"), encoding="utf-8") as file:
        return file.read()

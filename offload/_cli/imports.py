"""What a worker imports for a function, and how long that takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ImportCost", "import_cost", "parse"]

# A line of `-X importtime`: microseconds itself, microseconds with what it imports, and the name.
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")
_MARK = "offload import mark"
# The same imports in the same order as in a worker: what every worker has, what the pool preloads,
# and then what one function needs.
_CODE = """
import sys
module, preload, *sys.path[:] = sys.argv[1:]
def mark(text):
    print("offload import mark " + text, file=sys.stderr, flush=True)
from offload._child import context
context.process.is_worker = True
import importlib, os, offload._child.resource, offload._child.start, offload.function
# Not importlib.import_module: `-X importtime` does not see what that is asked for.
mark("preload")
for each in filter(None, preload.split(",")):
    name, _, resource = each.partition(":")
    __import__(name)
    if resource:
        offload._child.resource.load(each)
threading = sys.modules.get("threading")
mark("threads " + str(len(threading.enumerate()) - 1 if threading else 0))
mark("module")
__import__(module)
mark("end")
sys.stderr.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCost:
    """What one module costs a worker.

    Attributes:
        module: which.
        preloaded: names of the modules that the pool's `preload` imports before, for all workers.
        preload_seconds: how long that takes, once.
        preload_threads: Python threads that run after that.
        imported: names of the modules that are imported then, for this one.
        seconds: how long that takes in each worker.
        slowest: the packages that take the most of both, with seconds; slowest first.
        problem: why it cannot be imported, empty if it can.
    """

    module: str
    preloaded: frozenset[str] = frozenset()
    preload_seconds: float = 0.0
    preload_threads: int = 0
    imported: frozenset[str] = frozenset()
    seconds: float = 0.0
    slowest: tuple[tuple[str, float], ...] = ()
    problem: str = ""


def import_cost(
    module: str,
    *,
    path: Sequence[str],
    preload: Sequence[str] = (),
    environment: Mapping[str, str | None] | None = None,
    timeout: float = 60.0,
) -> ImportCost:
    """Import a module in a new interpreter as a worker would, and measure it.

    Args:
        module: its name.
        path: the `sys.path` of the server.
        preload: modules that the pool preloads, and resources (`module:name`).
        environment: variables that the pool sets for its workers; None removes one.
        timeout: seconds until it is given up.
    """
    variables = dict(os.environ) | {"OFFLOAD_WORKER": "1"}
    for name, value in (environment or {}).items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    command = [sys.executable, "-X", "importtime", "-c", _CODE, module, ",".join(preload), *path]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ImportCost(module=module, problem=f"importing it took more than {timeout:g} s")
    cost = parse(module, done.stderr.decode(errors="replace"))
    if done.returncode and not cost.problem:
        return ImportCost(module=module, problem=f"exit code {done.returncode} while importing it")
    return cost


def parse(module: str, text: str) -> ImportCost:
    """Read what the interpreter has written on standard error.

    Args:
        module: the module that was imported.
        text: lines of `-X importtime`, our marks between them, and whatever else is printed.
    """
    names: dict[str, set[str]] = {"preload": set(), "module": set()}
    seconds: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    threads = 0
    phase = ""
    others: list[str] = []
    for line in text.splitlines():
        if line.startswith(_MARK):
            phase, _, value = line.removeprefix(_MARK).strip().partition(" ")
            if phase == "threads":
                threads = int(value)
            continue
        found = _LINE.match(line)
        if found is None:
            others.append(line)
        elif phase in names:
            own, _, name = found.groups()
            names[phase].add(name)
            seconds[phase] += int(own)
            packages[name.partition(".")[0]] += int(own)
    problem = ""
    if phase != "end":
        last = [line for line in others if line.strip()][-1:]
        problem = "".join(last) or "the interpreter ended while importing it"
    return ImportCost(
        module=module,
        preloaded=frozenset(names["preload"]),
        preload_seconds=seconds["preload"] / 1e6,
        preload_threads=threads,
        imported=frozenset(names["module"]),
        seconds=seconds["module"] / 1e6,
        slowest=tuple((name, took / 1e6) for name, took in packages.most_common(5)),
        problem=problem,
    )

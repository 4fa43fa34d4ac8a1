"""How long does the first call take, in a fresh process?

Varied: the contender. Held: a no-op function, asyncio, everything imported that the contender's
documentation tells to import, byte code on disk, two workers. The clock runs from just before the
contender's import to the first result; the process's own start, the same for all, is not counted.
Refuted if `offload` takes more than 1.5 times as long as a forkserver `ProcessPoolExecutor`, or
longer than `anyio.to_process`.
"""

from __future__ import annotations

import compileall
import functools
import importlib.util
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.suite.scenario import (
    ChildError,
    Claim,
    Measured,
    Metric,
    Plot,
    Scenario,
    in_process,
)
from benchmarks.suite.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Context, Parameters, Settings

_PATIENCE_SECONDS = 60
_SCRIPT = """
import asyncio, os, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
from operator import pos as noop
async def main():
    {call}
    print("first", time.perf_counter() - start, imported - start, flush=True)
    {end}
asyncio.run(main())
"""


def _lines(*lines: str) -> str:
    """Return lines for the body of the script's function."""
    return "\n    ".join(lines)


_EXECUTOR = (
    "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor",
    _lines(
        "executor = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context({0!r}))",
        "await asyncio.get_running_loop().run_in_executor(executor, noop, 1)",
    ),
    "executor.shutdown()",
)
_POOL = ("from offload import Pool", "await Pool({0}).run(noop, 1)", "")
# Imports, the first call, what ends the contender.
_SCRIPTS = {
    "offload-forkserver": (_POOL[0], _POOL[1].format("'p', max_workers=2"), ""),
    "offload-spawn": (_POOL[0], _POOL[1].format("'p', max_workers=2, start_method='spawn'"), ""),
    "offload-executor": (
        "from concurrent.futures import ProcessPoolExecutor\nfrom offload import Pool",
        _POOL[1].format("'p', max_workers=2, executor=ProcessPoolExecutor"),
        "",
    ),
    "executor-fork": (_EXECUTOR[0], _EXECUTOR[1].format("fork"), _EXECUTOR[2]),
    "executor-forkserver": (_EXECUTOR[0], _EXECUTOR[1].format("forkserver"), _EXECUTOR[2]),
    "executor-spawn": (_EXECUTOR[0], _EXECUTOR[1].format("spawn"), _EXECUTOR[2]),
    "anyio": ("from anyio import to_process", "await to_process.run_sync(noop, 1)", ""),
    "pebble": (
        "import multiprocessing\nfrom pebble import ProcessPool",
        _lines(
            "pool = ProcessPool(2, context=multiprocessing.get_context('forkserver'))",
            "await asyncio.wrap_future(pool.schedule(noop, args=(1,)))",
        ),
        "pool.stop(); pool.join()",
    ),
    "loky": (
        "from loky import get_reusable_executor",
        _lines(
            "executor = get_reusable_executor(max_workers=2)",
            "await asyncio.get_running_loop().run_in_executor(executor, noop, 1)",
        ),
        "executor.shutdown(kill_workers=True)",
    ),
    "aiomultiprocess": (
        "import aiomultiprocess\nfrom benchmarks.functions import awaited",
        "pool = aiomultiprocess.Pool(processes=2)\n    await pool.apply(awaited, (abs, 1))",
        "pool.terminate(); await pool.join()",
    ),
}


def skips(contender: Contender) -> str | None:
    """Refuse what has no first call of its own."""
    if contender.name not in _SCRIPTS:
        return in_process(contender) or "nothing has to start, or it starts as another contender"
    return None


def cells(_: Contender, __: Settings) -> list[Parameters]:
    """There is one."""
    return [{}]


def measure(contender: Contender, _: Sequence[Parameters], context: Context) -> Iterator[Measured]:
    """Run the script of the contender in a fresh interpreter."""
    _compile(contender)
    imports, call, end = _SCRIPTS[contender.name]
    script = _SCRIPT.format(imports=imports, call=call, end=end or "pass")

    def once() -> Measured:
        try:
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=ROOT,
                capture_output=True,
                check=True,
                text=True,
                timeout=_PATIENCE_SECONDS,
            )
        except subprocess.SubprocessError as error:
            raise ChildError(f"the first call failed: {error}") from error
        line = next(line for line in done.stdout.splitlines() if line.startswith("first "))
        first, imported = (float(word) * 1e3 for word in line.split()[1:])
        return Measured({}, values={"first_call_ms": first, "import_ms": imported})

    yield context.undisturbed(once)


@functools.cache
def _compile(contender: Contender) -> None:
    """Have the byte code of a contender there, as an installer leaves it.

    A checkout has none where Python was told not to write it, and each process would compile it.
    """
    for name in contender.packages:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations if spec is not None else None) or ():
            compileall.compile_dir(folder, quiet=2)


scenario = Scenario(
    name="cold_start",
    module=__name__,
    question=__doc__ or "",
    metrics=(
        Metric("first_call_ms", "first call, ms", is_headline=True),
        Metric("import_ms", "of which import, ms"),
    ),
    cells=cells,
    measure=measure,
    skips=skips,
    claims=(
        Claim(
            text="first call, times that of a forkserver `ProcessPoolExecutor`",
            value="first_call_ms",
            relation="at most",
            limit=1.5,
            reference="executor-forkserver",
        ),
        Claim(
            text="first call, times that of `anyio.to_process`",
            value="first_call_ms",
            relation="at most",
            limit=1.0,
            reference="anyio",
        ),
    ),
    plots=(
        Plot(
            "dots",
            "first_call_ms",
            "From import to the first result, in a fresh process",
            "Less is better; medians with 95 % intervals.",
            is_log=False,
        ),
    ),
    repetitions=15,
)

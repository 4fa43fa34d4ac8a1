"""What a number must be quoted with: machine, versions, commit; and how fast a core is."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.functions import burn
from benchmarks.suite.contenders import NODE_FOLDER, version
from benchmarks.suite.servers import ROOT

_CALIBRATION = 1_000_000
_NODE_CALIBRATION = """
import { burn } from "./burn.mjs";
const steps = 50_000_000;
burn(steps);  // until the compiler has seen it
const best = Math.min(...[1, 2, 3].map(() => {
  const begin = process.cpuUsage();
  burn(steps);
  return process.cpuUsage(begin).user / 1e3;
}));
console.log(steps / best);
"""


def machine() -> dict[str, Any]:
    """Return what this machine is."""
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "is_virtual": "hypervisor" in _cpuinfo("flags").split(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {
            name: version(name) for name in ("anyio", "starlette", "uvicorn", "uvloop", "httptools")
        },
    }


def commit() -> dict[str, Any]:
    """Return which state of the repository is measured."""
    try:
        told = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "offload", "benchmarks"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "is_changed": None}
    return {"commit": told.stdout.strip(), "is_changed": bool(changed.stdout.strip())}


def loops_per_ms(*, with_node: bool) -> dict[str, float]:
    """Return how many steps of the heavy computation a core does in 1 ms, by language.

    In CPU time, and the best of some tries: what else the machine does is not the computation's.
    """
    found = {"python": max(_python_loops() for _ in range(3))}
    if with_node:
        done = subprocess.run(
            ["node", "--input-type=module", "-e", _NODE_CALIBRATION],
            cwd=NODE_FOLDER,
            capture_output=True,
            text=True,
            check=True,
        )
        found["node"] = float(done.stdout)
    return found


def _python_loops() -> float:
    begin = time.thread_time()
    burn(_CALIBRATION)
    return _CALIBRATION / ((time.thread_time() - begin) * 1e3)


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""

"""Checks a built wheel: what is in it, and how long `import offload` takes where it is installed.

Run by the interpreter of an environment that has the wheel and nothing else:

    python scripts/check_wheel.py dist/offload-0.1.0-py3-none-any.whl
"""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path

# Milliseconds beyond the interpreter's own start; the best of several, for a busy machine.
MOST_MS = 60.0
_TRIES = 15


def problems_of(names: list[str]) -> list[str]:
    """Return what is wrong with the files of a wheel."""
    found: list[str] = []
    tops = {name.partition("/")[0] for name in names}
    packages = sorted(each for each in tops if not each.endswith(".dist-info"))
    if packages != ["offload"]:
        found.append(f"names at the top: {', '.join(packages)}; only offload is ours")
    needed = (
        "offload/py.typed",
        "offload/dashboard/static/index.html",
        "offload/_demo/demo_server/static/index.html",
    )
    found += [f"{each} is missing" for each in needed if each not in names]
    found += [f"{name} does not belong there" for name in names if "__pycache__" in name]
    return found


def import_ms() -> float:
    """Return how much longer an interpreter takes that imports offload."""
    return (_seconds("import offload") - _seconds("pass")) * 1e3


def _seconds(code: str) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own interpreter
        best = min(best, time.perf_counter() - begin)
    return best


def main(wheel: str) -> int:
    """Check a wheel; return the exit status."""
    with zipfile.ZipFile(Path(wheel)) as archive:
        problems = problems_of(archive.namelist())
    took = import_ms()
    print(f"import offload: {took:.1f} ms")
    if took > MOST_MS:
        problems.append(f"import offload takes {took:.0f} ms; {MOST_MS:.0f} are allowed")
    for problem in problems:
        print(f"{wheel}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

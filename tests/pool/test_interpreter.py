"""What workers are started with: the right program, the right modules, from the right places."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE

MAIN = """
import asyncio, os, sys
from pathlib import Path
{before}
from offload import Pool
{work}

async def main():
    {inside}
    async with Pool("p", max_workers=1, start_method={method!r}, os_priority="normal") as pool:
        print(await pool.run({function}, 5))

if __name__ == "__main__":
    asyncio.run(main())
"""
WORK = """
import enum, logging
from offload import Pool, offload

@offload(timeout=60)
def triple(n):
    return n * 3
"""
methods = pytest.mark.parametrize("method", ["forkserver", "spawn"])


def run(
    folder: Path,
    method: str,
    *command: str,
    check: bool = True,
    environment: dict[str, str] | None = None,
    **parts: str,
) -> subprocess.CompletedProcess[str]:
    """Write a program and run it, in its folder."""
    parts = {"before": "", "inside": "pass", "work": "from work import triple"} | parts
    parts.setdefault("function", "triple")
    (folder / "main.py").write_text(MAIN.format(method=method, **parts))
    (folder / "work.py").write_text(WORK)
    return subprocess.run(
        command or [sys.executable, "main.py"],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))}
        | (environment or {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=check,
    )


@methods
@pytest.mark.parametrize("name", ["types", "enum", "logging", "traceback", "signal", "copyreg"])
def test_project_may_have_modules_named_as_those_of_the_standard_library(
    tmp_path: Path, name: str, method: str
) -> None:
    """A server that has the standard library's own has workers that do."""
    before = f"import enum, logging, {name}\nsys.path.insert(0, 'project')"
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / f"{name}.py").write_text("raise ImportError('of the project')\n")
    assert run(tmp_path, method, before=before).stdout == "15\n"


PLACES: dict[str, dict[str, str]] = {
    "relative entry": {
        "before": "os.mkdir('lib'); os.rename('work.py', 'lib/work.py')\nsys.path[0] = 'lib'",
        "inside": "os.chdir('/')",
    },
    "after the first import": {
        "before": "sys.path[0] = ''\nimport work\nos.chdir('/')",
    },
    "directory that is gone": {
        "before": "os.mkdir('gone')\nimport work\nos.chdir('gone'); os.rmdir('../gone')",
    },
    "two moves": {
        "before": "sys.path[0] = '.'\nimport work\nos.chdir('/')",
        "inside": "os.chdir('/tmp')",
    },
}


@methods
@pytest.mark.parametrize("place", PLACES)
def test_workers_find_modules_where_the_program_found_them(
    tmp_path: Path, place: str, method: str
) -> None:
    """Relative entries of the search path mean what they meant, wherever the program is by now."""
    assert run(tmp_path, method, **PLACES[place]).stdout == "15\n"


def script(path: Path, text: str) -> str:
    """Write a program that can be started."""
    path.write_text(textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


COUNT = "open('starts', 'a').write('x')"


@methods
def test_interpreter_is_found_beside_a_program_that_embeds_it(tmp_path: Path, method: str) -> None:
    """`sys.executable` that is the embedding program is not taken for an interpreter."""
    host = script(tmp_path / "host", f"#!{sys.executable}\nopen('host-ran', 'w')\n")
    done = run(tmp_path, method, before=f"sys.executable = {host!r}\n{COUNT}")
    assert done.stdout == "15\n"
    assert (tmp_path / "starts").read_text() == "x"
    assert not (tmp_path / "host-ran").exists()


@methods
def test_interpreter_can_be_named(tmp_path: Path, method: str) -> None:
    """`multiprocessing.set_executable` goes before `sys.executable`."""
    before = (
        "import multiprocessing; multiprocessing.set_executable(sys.executable)\n"
        "sys.executable = '/nowhere/python3'"
    )
    assert run(tmp_path, method, before=before).stdout == "15\n"


def test_program_that_is_started_in_place_of_an_interpreter_ends_at_once(tmp_path: Path) -> None:
    """It does not start itself again and again, and either process says what is wrong."""
    program = script(
        tmp_path / "python-like", f'#!/bin/sh\nexec {sys.executable} {tmp_path}/main.py "$@"\n'
    )
    before = f"sys.executable = {program!r}\n{COUNT}"
    done = run(tmp_path, "forkserver", before=before, check=False)
    assert done.returncode == 1
    assert "no Python interpreter but this program" in done.stderr
    assert "WorkerStartError" in done.stderr
    assert "the supervisor of pool 'p' ended (exit code 1" in done.stderr
    assert "memory runs out" not in done.stderr
    # Each attempt of the first process is one start; none of those has started another.
    assert len((tmp_path / "starts").read_text()) < 10


@methods
def test_frozen_program_has_workers(tmp_path: Path, method: str) -> None:
    """It starts itself, and is a worker then as soon as it imports us."""
    program = script(
        tmp_path / "desk", f'#!/bin/sh\nexec {sys.executable} {tmp_path}/main.py "$@"\n'
    )
    before = f"sys.frozen, sys.executable = True, {program!r}"
    inside = "open('mains', 'a').write('x')"
    done = run(tmp_path, method, program, before=before, inside=inside)
    assert done.stdout == "15\n"
    assert (tmp_path / "mains").read_text() == "x"


def test_variable_by_which_a_child_is_known_is_not_passed_on(tmp_path: Path) -> None:
    """Programs that a function starts may use pools of their own."""
    (tmp_path / "other.py").write_text("import offload; print('fine')")
    (tmp_path / "starts_other.py").write_text(
        "import subprocess, sys\n\ndef start(_):\n"
        "    return subprocess.check_output([sys.executable, 'other.py'], text=True)\n"
    )
    done = run(tmp_path, "spawn", work="from starts_other import start", function="start")
    assert done.stdout == "fine\n\n"


@methods
def test_library_may_be_imported_before_the_first_line_of_a_child(
    tmp_path: Path, method: str
) -> None:
    """As agents that watch a program do, by a `sitecustomize` on the search path of all."""
    (tmp_path / "sitecustomize.py").write_text("import offload\n")
    path = os.pathsep.join([str(tmp_path), *filter(os.path.isabs, sys.path)])
    done = run(tmp_path, method, environment={"PYTHONPATH": path})
    assert done.stdout.split() == ["15"]

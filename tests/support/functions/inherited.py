"""What a worker finds open: in itself, in its supervisor, and in a program that it starts."""

import os
import subprocess
import sys
from pathlib import Path

# Of the standard streams and what a user opens nothing is said: only of what we have made.
_OURS = ("socket:", "memfd:", "/memfd:", "anon_inode:", "pipe:")
_STANDARD = 3
_SCRIPT = """
import os, sys
for each in os.listdir("/proc/self/fd"):
    try:
        print(each, os.readlink("/proc/self/fd/" + each))
    except OSError:
        pass  # the descriptor that the listing itself had open
"""


def of_started_programs(path: str) -> dict[str, dict[int, str]]:
    """Return what programs have open that a task starts, by the way that it starts them."""
    command = [sys.executable, "-I", "-c", _SCRIPT]
    found = {
        "close_fds=False": subprocess.run(
            command, close_fds=False, check=True, text=True, stdout=subprocess.PIPE
        ).stdout
    }
    script, output = Path(path + ".py"), Path(path)
    script.write_text(_SCRIPT)
    assert os.system(f"{sys.executable} -I {script} > {output}") == 0  # noqa: S605 - the way in question
    found["os.system"] = output.read_text()
    return {how: _ours(text) for how, text in found.items()}


def _ours(text: str) -> dict[int, str]:
    found = {}
    for line in text.splitlines():
        number, _, target = line.partition(" ")
        if int(number) >= _STANDARD and target.startswith(_OURS):
            found[int(number)] = target
    return found


def inheritable(pid: int) -> dict[int, str]:
    """Return what a process would hand to a program that it starts."""
    found = {}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(each.readlink())
            info = Path(f"/proc/{pid}/fdinfo/{each.name}").read_text()
        except OSError:
            continue
        flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
        if int(each.name) >= _STANDARD and not int(flags, 8) & os.O_CLOEXEC:
            found[int(each.name)] = target
    return found


def of_our_processes() -> dict[str, dict[int, str]]:
    """Return what this worker and its supervisor would hand on."""
    return {"worker": inheritable(os.getpid()), "supervisor": inheritable(os.getppid())}

"""What README.md shows a stranger first must run as it stands there."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.docs_pages import SITECUSTOMIZE
from tests.support.processes import PATIENCE

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(
    r"^```python\n# (\w+\.py)\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE
)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_example_is_short():
    """The first example is one that a reader takes in at a glance."""
    name, code = BLOCKS[0]
    assert name == "app.py"
    assert len([line for line in code.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name,code", BLOCKS, ids=[name for name, _ in BLOCKS])
def test_example_serves(name, code, tmp_path):
    """Every example that is a file is a server that answers `/heavy` from a worker process."""
    (tmp_path / name).write_text(code)
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    app = f"{name.removesuffix('.py')}:app"
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", app, "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{README.parent}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)  # only where something has failed before
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        base = next(found[0] for line in said if (found := re.search(r"http://[0-9.:]+", line)))
        with urllib.request.urlopen(f"{base}/heavy", timeout=PATIENCE) as response:  # noqa: S310 - our own server
            assert response.status == 200
            assert response.read()
        process.send_signal(signal.SIGINT)
        process.stderr.read()
        assert process.wait(PATIENCE) in (0, -signal.SIGINT)


def test_commands_are_one_line_each():
    """The server and the tests each start with one command that needs nothing but Python."""
    one_liners = [command for command in COMMANDS if command.startswith("python3 -m venv")]
    assert len(one_liners) == 2
    assert all(command.count("\n") == 1 for command in one_liners)

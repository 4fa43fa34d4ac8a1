"""`offload` itself: what it says without a command, to a wrong one, and to the shell."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

import offload
from offload._cli import COMMANDS, event_loop, main
from offload._cli.completion import script
from offload._cli.explain import parse_argument
from offload._cli.findings import Level, as_text, found
from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[2]


class TestWithoutACommand:
    def test_bare_command_is_help(self, capsys):
        """Nobody has to guess: it lists every command, with what it is for, and is no error."""
        assert main([]) == 0
        said = capsys.readouterr().out
        for name in COMMANDS:
            assert re.search(rf"^ +{name}\b", said, re.MULTILINE)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_is_in_words(self, capsys, command):
        """Options that are for other programs alone are not shown."""
        with pytest.raises(SystemExit):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert "SUPPRESS" not in said
        assert "--child" not in said

    def test_version(self, capsys):
        """The package, its command and its metadata say one version."""
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"offload {offload.__version__}\n"
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert project["project"]["dynamic"] == ["version"]
        assert project["tool"]["hatch"]["version"]["path"] == "offload/_version.py"

    @pytest.mark.parametrize(
        "typed,meant", [("doctr", "doctor"), ("explian", "explain"), ("tpo", "top")]
    )
    def test_typing_error_is_told_with_what_was_meant(self, capsys, typed, meant):
        """A wrong command is wrong usage; the close one is named, and all of them."""
        assert main([typed, "x"]) == 2
        said = capsys.readouterr().err
        assert f"there is no command '{typed}'; did you mean {meant}" in said
        assert "schedule" in said

    def test_command_like_no_other(self, capsys):
        """Where nothing is close, nothing is guessed."""
        assert main(["zzzzzz"]) == 2
        assert "did you mean" not in capsys.readouterr().err

    def test_unknown_option(self, capsys):
        """An option that there is not is wrong usage, too."""
        with pytest.raises(SystemExit) as ended:
            main(["--nope"])
        assert ended.value.code == 2
        assert "--nope" in capsys.readouterr().err


class TestCompletion:
    @pytest.mark.parametrize(
        "typed,expected",
        [
            (["do"], ["doctor"]),
            (["jobs", "re"], ["resume", "retry"]),
            (["top", "--on"], ["--once"]),
            (["jobs", "--ur"], ["--url"]),
            (["completion", "z"], ["zsh"]),
        ],
    )
    def test_in_bash(self, typed, expected):
        """Commands, their actions and their options are completed by a real bash."""
        words = " ".join(["offload", *typed])
        code = (
            f"{script('bash')}\nCOMP_WORDS=({words}); COMP_CWORD={len(typed)}\n"
            "_offload; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        said = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        assert sorted(said.stdout.split()) == expected

    @pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
    def test_in_fish(self):
        """The same in fish, with what each command is for."""
        code = f"{script('fish')}\ncomplete -C 'offload do'; complete -C 'offload top --on'"
        said = subprocess.run(["fish", "-c", code], capture_output=True, text=True, check=True)
        assert f"doctor\t{COMMANDS['doctor'][1]}" in said.stdout.splitlines()
        assert "--once" in said.stdout.splitlines()

    def test_script_for_zsh_is_that_for_bash(self):
        """Zsh has bash's way to complete, once it is told."""
        assert script("zsh").endswith(script("bash"))
        assert script("zsh").startswith("autoload -U +X bashcompinit && bashcompinit\n")

    def test_script_is_printed(self, capsys):
        """What the shell evaluates is all that is printed."""
        assert main(["completion", "bash"]) == 0
        assert capsys.readouterr().out == script("bash")


class TestWords:
    @pytest.mark.parametrize(
        "text,value",
        [
            ("hello", "hello"),
            ("hello world", "hello world"),
            ("2026-11-30", "2026-11-30"),
            ("photos/cat.jpg", "photos/cat.jpg"),
            ("10", 10),
            ("None", None),
            ("[1, 2]", [1, 2]),
            ("'10'", "10"),
        ],
    )
    def test_argument_of_explain(self, text, value):
        """A word is itself, a literal is its value."""
        assert parse_argument(text) == value

    @pytest.mark.parametrize("text", ["[1, 2", "{'a': }", "'open", "os.system('x')"])
    def test_broken_literal_is_no_word(self, text):
        """What was meant as a literal is not taken for a text silently."""
        with pytest.raises(ValueError, match="no Python literal"):
            parse_argument(text)


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_explanations_wrap_at_words(columns, monkeypatch):
    """Lines of doctor fit the terminal, but for a name that is longer; no word is broken."""
    monkeypatch.setenv("COLUMNS", str(columns))
    path = "/a/path/that/is/longer/than/any/terminal/of/forty/columns/app.py:173"
    words = f"each worker imports the whole application because of {path} and that takes long"
    shown = as_text([found(Level.WARN, "Functions", "imports", words, words)], colors=False)
    assert path in shown
    lines = shown.splitlines()
    assert all(len(line) <= min(columns, 100) for line in lines if path not in line)
    assert [word for word in shown.split() if word not in ("→", "WARN")][1:-6] == [
        *words.split(),
        *words.split(),
    ]


async def _loop():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_programs_run_on_uvloop_where_it_is_installed(monkeypatch):
    """As uvicorn's do; without it, on asyncio's own loop."""
    pytest.importorskip("uvloop")
    assert event_loop.run(_loop()) == "uvloop"
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert event_loop.run(_loop()) == "asyncio"


def test_demo_starts(tmp_path):
    """`offload demo` serves the page from anywhere, and ends at Ctrl+C without a word of error."""
    command = [sys.executable, "-m", "offload", "demo", "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)  # only where something has failed before
        assert process.stdout is not None
        assert process.stderr is not None
        base = re.search(r"http://[0-9.:]+", process.stdout.readline())
        assert base, process.stderr.read()
        for path in ("/", "/fast"):
            with urllib.request.urlopen(base[0] + path, timeout=PATIENCE) as response:  # noqa: S310 - our own server
                assert response.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0

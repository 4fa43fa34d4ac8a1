"""What the pages of `docs/` tell a reader to write and to type works as it stands there."""

import ast
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import tomllib
from functools import cache
from pathlib import Path

import pytest

from offload import OffloadError, errors
from offload.asgi import answer_to
from tests.pool.test_guarantees import proofs_in
from tests.support.docs_pages import (
    PAGES,
    ROOT,
    SITECUSTOMIZE,
    Block,
    Command,
    Scene,
    blocks_of,
    matches,
    scenes_of,
)
from tests.support.processes import PATIENCE, free_port

README = ROOT / "README.md"
EVERYTHING = [README, *PAGES]
# What is checked word by word, and what shells and pip understand.
CHECKED = {"uvicorn", "gunicorn", "hypercorn", "offload", "python", "pip", "curl", "flask"}

pages = pytest.mark.parametrize("page", EVERYTHING, ids=[page.stem for page in EVERYTHING])


SCENES = [
    pytest.param(page, scene, id=f"{page.stem}-{index}-{scene.app or 'programs'}")
    for page in PAGES
    for index, scene in enumerate(scenes_of(page))
    if scene.app or scene.is_played
]


@pages
def test_every_block_is_accounted_for(page: Path) -> None:
    """No block of code is left out silently."""
    strange = [
        block.place
        for block in blocks_of(page)
        if block.reason is None
        and block.file is None
        and block.home is None
        and block.language not in ("console", "sh", "text")
    ]
    assert not strange
    assert all(len(block.reason or "a reason") > 5 for block in blocks_of(page))
    # A fence that the pattern for blocks does not know would not be looked at.
    assert page.read_text().count("\n```") == 2 * len(blocks_of(page))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_file_is_used(page: Path) -> None:
    """What a page has its reader write is run: by a command, a request or another file."""
    scenes = scenes_of(page)
    assert all(scene.is_played for scene in scenes if scene.app), "an application is never asked"
    run = {command.program for scene in scenes for command in scene.programs}
    services = [command for scene in scenes for command in scene.services]
    named = {word.partition(":")[0] for command in services for word in command.words}
    pieces = {piece.home for scene in scenes for piece in scene.pieces}
    sources = "\n".join(text for scene in scenes for text in scene.files.values())
    # Django imports its settings by their name.
    sources = re.sub(r'"DJANGO_SETTINGS_MODULE", "(\w+)"', r"\nimport \1\n", sources)
    for block in blocks_of(page):
        if block.file is None or block.is_app or block.reason is not None:
            continue
        if block.file.startswith("test_"):
            assert "pytest" in run, block.place
            continue
        name = block.file.removesuffix(".py").replace("/", ".")
        imported = re.search(rf"^\s*(from|import) {name}\b", sources, re.MULTILINE)
        is_used = block.file in run | pieces or name in named or imported
        assert is_used, f"{block.place}: {block.file} is never run"


@pytest.mark.parametrize("page,scene", SCENES)
def test_it_works_as_it_says(page: Path, scene: Scene, tmp_path: Path) -> None:
    """An application answers as its page says, a program prints what its page shows."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    for name, text in scene.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if scene.requests or scene.pieces:
        given = {
            "app": scene.app,
            "requests": [[each.place, each.line, each.output] for each in scene.requests],
            "pieces": [[each.place, each.home, each.text] for each in scene.pieces],
        }
        ended = run(
            [sys.executable, "-m", "tests.support.docs_session"], tmp_path, json.dumps(given)
        )
        assert ended.returncode == 0, ended.stdout
    for command in scene.programs:
        ended = run([sys.executable, *command.arguments], tmp_path)
        printed = ended.stdout
        assert matches(command.output, printed), f"{command.place}: {command.line}:\n{printed}"
        fails = any("Traceback" in line or "failed" in line for line in command.output)
        assert (ended.returncode != 0) is fails, f"{command.place}: {command.line}:\n{printed}"
    for command in scene.services:
        check_service(command, tmp_path)


def check_service(command: Command, folder: Path) -> None:
    """Start a command that goes on, wait for what its page shows, and end it."""
    port = str(free_port())
    lines = [line.replace("8000", port) for line in command.output]
    given = [sys.executable, *command.arguments, "--port", port]
    environment = environment_in(folder) | command.environment
    printed = ""
    with subprocess.Popen(
        given,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        # What hangs is ended, and so is the reading below.
        alarm = threading.Timer(PATIENCE, process.kill)
        alarm.start()
        try:
            for line in process.stdout:
                printed += line
                lines = [each for each in lines if not matches([each], line)]
                if not lines:
                    break
            process.send_signal(signal.SIGINT)
            printed += process.communicate(timeout=PATIENCE)[0]
        finally:
            alarm.cancel()
            process.kill()
    assert not lines, f"{command.place}: {command.line} did not print {lines}, but:\n{printed}"
    assert process.returncode == 0, f"{command.place}: {command.line}:\n{printed}"


def run(command: list[str], folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with this checkout on the path."""
    return subprocess.run(  # noqa: PLW1510 - the caller looks at how it ended
        command,
        cwd=folder,
        env=environment_in(folder),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of a command that is run in a folder."""
    return os.environ | {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "COLUMNS": "100",
        # Those of our own tests take as long to load as the tests of a page take to run.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "anyio.pytest_plugin",
    }


def commands_of(page: Path) -> list[Command]:
    """Return all commands of a page."""
    return [
        command
        for block in blocks_of(page)
        if block.language in ("console", "sh") and block.reason is None
        for line in block.commands()
        for command in parts_of(line)
    ]


def parts_of(command: Command) -> list[Command]:
    """Return the commands that are chained with `&&`."""
    return [Command(command.place, each, []) for each in command.line.split(" && ")]


def test_programs_of_pages_run_at_normal_priority(tmp_path: Path) -> None:
    """On a busy machine a page would wait for all other processes otherwise."""
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    code = (
        "from offload._values.pool_options import PoolOptions\nprint(PoolOptions().os_priority)\n"
    )
    (tmp_path / "look.py").write_text(code)
    assert run([sys.executable, "look.py"], tmp_path).stdout == "normal\n"


@pages
def test_commands_and_options_exist(page: Path) -> None:
    """What a page has its reader type, is there to be typed."""
    for command in commands_of(page):
        words = command.words
        program = words[0].removeprefix(".venv/bin/").removesuffix("3")
        assert program in CHECKED, f"{command.place}: nobody checks {program}"
        if command.is_request or command.program is not None:
            continue  # is run
        if program == "pip":
            check_requirements(command)
            continue
        helped = [program, "--help"]
        if program == "python":
            assert words[1] == "-m", f"{command.place}: {command.line}"
            # As of `offload`, each of its commands has options of its own.
            helped = [words[2], *(words[3:4] if words[2] == "benchmarks" else []), "--help"]
        if program == "offload":
            # The options of `offload schedule next` are its own.
            helped[1:1] = words[1:3] if words[1] == "schedule" else words[1:2]
        text = help_of(*helped)
        options = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
        if program == "python":
            options.remove("-m")
        for option in options:
            # A whole word of the help, as `-w INT, --workers INT`.
            known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
            assert known, f"{command.place}: {helped[0]} has no {option}"


# How units of systemd and images of Docker say what is run.
_DEPLOYED = re.compile(r"^(?:ExecStart=\S*/(offload .*)|CMD \[(\"offload\".*)\])$", re.MULTILINE)


@pages
def test_deployed_commands_exist(page: Path) -> None:
    """What is started where no test can go has the options that it is given."""
    for block in blocks_of(page):
        for line, words in _DEPLOYED.findall(block.text):
            _, name, *arguments = shlex.split(line or words.replace(",", " "))
            text = help_of("offload", name, "--help")
            options = [word for word in arguments if word.startswith("--")]
            assert options, block.place
            missing = [each for each in options if f"{each} " not in text]
            assert not missing, f"{block.place}: offload {name} has no {missing}"


def check_requirements(command: Command) -> None:
    """Check that the extras and groups that pip is told to install exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for word in command.words:
        if found := re.fullmatch(r"(?:offload|\.)\[([\w,]+)\]", word):
            extras = set(found[1].split(","))
            assert extras <= project["project"]["optional-dependencies"].keys(), command.place
    if "--group" in command.words:
        group = command.words[command.words.index("--group") + 1]
        assert group in project["dependency-groups"], command.place


@cache
def help_of(program: str, *arguments: str) -> str:
    """Return what a program says about its options."""
    module = "demo_server" if program == "demo_server" else program
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, f"{program} {arguments}: {ended.stderr}"
    return ended.stdout


def test_readmes_programs_are_run_elsewhere() -> None:
    """The examples of README are started under a real server, in `test_readme`."""
    text = (ROOT / "tests" / "site" / "test_readme.py").read_text()
    assert "BLOCKS" in text
    files = [block for block in blocks_of(README) if block.language == "python"]
    assert files
    assert all(block.file and block.is_app for block in files)


@pages
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file or a heading of ours finds it."""
    outside_code = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for text, target in re.findall(r"(?<!!)\[([^]]+)\]\(([^)]+)\)", outside_code):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: [{text}]({target})"
        if anchor:
            assert anchor in anchors_of(linked), f"{page.name}: [{text}]({target})"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize(
    "expected,printed", [(["a … c", "…", "z"], "a b c\n1\n2\nz\n"), (["a", "…"], "a\n")]
)
def test_ellipsis_stands_for_what_differs(expected: list[str], printed: str) -> None:
    """What is not the same from run to run is left out of a page."""
    assert matches(expected, printed)


@pytest.mark.parametrize("expected,printed", [(["a", "z"], "a\n1\nz\n"), (["a…"], "ab\nc\n")])
def test_everything_else_is_compared(expected: list[str], printed: str) -> None:
    """What a page shows is what is printed, line by line."""
    assert not matches(expected, printed)


def test_block_is_understood() -> None:
    """A marker belongs to the block that follows it."""
    block = Block("page.md", 1, "yaml", "not run: needs a cluster", "a: 1\n")
    assert block.reason == "needs a cluster"
    assert block.file is None


GUARANTEES = ROOT / "docs" / "guarantees.md"


def test_guarantees_name_their_tests() -> None:
    """Each test that a guarantee leans on exists, and is marked as a proof of it."""
    sections = re.split(r"^## (\d)\. ", GUARANTEES.read_text(), flags=re.MULTILINE)
    assert sections[1::2] == list("12345678")
    for number, text in zip(sections[1::2], sections[2::2], strict=True):
        named = re.findall(r"`(\w+/test_\w+)\.py::([\w.]+)`", text)
        assert named, number
        for module, path in named:
            body = ast.parse((ROOT / "tests" / f"{module}.py").read_text()).body
            *_, name = path.split(".")
            proves = (name, int(number)) in proofs_in(body, [])
            assert proves, f"{module}::{path} is no proof of {number}"


def test_failure_table_is_complete_and_true() -> None:
    """Every error has its row, with the status that clients get, and what it says of the run."""
    rows = {}
    for line in GUARANTEES.read_text().splitlines():
        if line.startswith("| ") and (found := re.search(r"\| `(\w+)` \|", line)):
            *_, ran, status, _ = (cell.strip() for cell in line.split("|"))
            rows[found[1]] = ran, status
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, OffloadError) and kind is not OffloadError
    }
    assert rows.keys() == kinds.keys()
    for name, (ran, status) in rows.items():
        kind = kinds[name]
        error = kind.__new__(kind)
        answer = answer_to(error)
        assert int(status) == answer.status, name
        # Of one that does not say whether it had been started, the careful answer is yes.
        assert (ran != "no") is answer.may_have_run, name


def test_reference_is_up_to_date() -> None:
    """The reference says what the docstrings say."""
    command = [sys.executable, ROOT / "scripts" / "reference.py", "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)


def test_reference_has_every_public_name() -> None:
    """What is exported is documented."""
    text = (ROOT / "docs" / "reference.md").read_text()
    for module in re.findall(r"^## (offload[\w.]*)$", text, re.MULTILINE):
        for name in importlib.import_module(module).__all__:
            assert f"\n### {module}.{name}\n" in text, f"{module}.{name}"

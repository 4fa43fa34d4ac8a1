"""What the pages of `docs/` and README say in blocks of code, and what becomes of each block.

A block is one of these, or it is a mistake:

- ```` ```python ```` with a first line `# NAME.py`: a file. Files of a page share a folder; a later
  one of the same name takes the place of the earlier. One that has a line `app = …` is an ASGI
  application: requests that follow are made to it, until the next application. One that begins
  with `test_` is run by pytest, one that ends with `if __name__ == "__main__":` is a program.
- ```` ```python ```` after `<!-- in NAME.py -->`: code that could stand in an async function of
  that file. It runs there, with the application started.
- ```` ```console ````: lines `$ command`, and what it prints. `curl` is a request to the
  application, `python NAME.py`, `python -m pytest …` and `offload …` are run, and what they print
  is compared: `…` stands for anything in a line, and alone on a line for any lines. Of other
  commands it is checked that they and all their options exist.
- ```` ```console ```` after `<!-- until Ctrl+C -->`: a command that goes on. It is started, on a
  free port instead of 8000, until it has printed each line that is shown, in any order, and then
  ended by Ctrl+C, with exit status 0.
- ```` ```sh ````: commands alone, checked in the same way.
- ```` ```text ````: no code, but what a log or a screen shows.
- Anything after `<!-- not run: REASON -->`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.busy_machine import BUSY_MACHINE

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

# Put beside the files of a page, where each interpreter runs it first. As in conftest: who goes
# first is not what pages are about, and on a busy machine idle priority waits for ever.
SITECUSTOMIZE = """
import os, sys
# Commands of the library, and its workers; not a path that has the word in it, as in CI. What
# `offload run` starts is an application as any other.
if "run" in sys.orig_argv or not any(
    each.partition(".")[0] == "offload" for each in sys.orig_argv[1:]
):
    try:
        from offload._values.pool_options import PoolOptions
        changed = PoolOptions._field_defaults | {"os_priority": "normal"}
        PoolOptions.__new__.__defaults__ = tuple(changed[each] for each in PoolOptions._fields)
    except BaseException as error:
        # An error in this file would only be printed, by an interpreter that goes on.
        print(f"sitecustomize of the tests: {error!r}", file=sys.stderr)
        os._exit(70)
"""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n+)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# ([\w/]+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A block of code, and the comment in front of it."""

    page: str
    line: int
    language: str
    marker: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for a reader."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The file that it is, if it is one."""
        found = _FILE.match(self.text) if self.language == "python" else None
        return found[1] if found else None

    @property
    def is_app(self) -> bool:
        """Whether it is an ASGI application."""
        return self.file is not None and re.search(r"^app = ", self.text, re.MULTILINE) is not None

    @property
    def reason(self) -> str | None:
        """Why it is not run, if it is not."""
        return self.marker.removeprefix("not run: ") if self.marker[:8] == "not run:" else None

    @property
    def home(self) -> str | None:
        """The file that a piece of code belongs to."""
        return self.marker.removeprefix("in ") if self.marker.startswith("in ") else None

    @property
    def goes_on(self) -> bool:
        """Whether its command ends by Ctrl+C alone."""
        return self.marker == "until Ctrl+C"

    def commands(self) -> Iterator["Command"]:
        """Yield the commands of a shell block, with what they print."""
        lines = self.text.replace("\\\n", "").splitlines()
        if self.language == "sh":
            yield from (Command(self.place, each, []) for each in lines if each)
            return
        command = None
        for line in lines:
            if line.startswith("$ "):
                if command is not None:
                    yield command
                command = Command(self.place, line.removeprefix("$ "), [])
            elif command is None:
                message = f"{self.place}: a console block begins with `$ command`, not {line!r}"
                raise ValueError(message)
            else:
                command.output.append(line)
        if command is not None:
            yield command


@dataclass(frozen=True)
class Command:
    """A command line, and what it prints according to the page."""

    place: str
    line: str
    output: list[str]

    @property
    def words(self) -> list[str]:
        """Its words, without settings of the environment in front."""
        words = shlex.split(self.line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        return words

    @property
    def environment(self) -> dict[str, str]:
        """Settings of the environment in front of it."""
        return dict(re.findall(r"(?:^| )([A-Z_]+)=(\S*)", self.line.partition(" offload ")[0]))

    @property
    def arguments(self) -> list[str]:
        """What Python is given to run it."""
        return ["-m", *self.words] if self.program == "offload" else self.words[1:]

    @property
    def is_request(self) -> bool:
        """Whether it is a request to the application."""
        return self.words[0] == "curl"

    @property
    def program(self) -> str | None:
        """The Python file that it runs, or "pytest", or "offload"."""
        match self.words:
            case ["offload", *_] if self.output:
                return "offload"
            case ["python", "-m", "pytest", *_]:
                return "pytest"
            case ["python", name, *_] if name.endswith(".py"):
                return name
        return None


@dataclass
class Scene:
    """An application of a page, the files around it, and what is done with it."""

    app: str | None
    files: dict[str, str]
    requests: list[Command] = field(default_factory=list)
    pieces: list[Block] = field(default_factory=list)
    programs: list[Command] = field(default_factory=list)
    services: list[Command] = field(default_factory=list)

    @property
    def is_played(self) -> bool:
        """Whether anything is done in it."""
        return bool(self.requests or self.pieces or self.programs or self.services)


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text()
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, found.start("text")) + 1,
            found["language"],
            (found["marker"] or "").strip(),
            found["text"],
        )
        for found in _BLOCK.finditer(text)
    ]


def scenes_of(page: Path) -> list[Scene]:
    """Return what a page does, application by application."""
    scenes = [Scene(None, {})]
    for block in blocks_of(page):
        if block.reason is not None:
            continue
        if block.file is not None:
            _add_file(scenes, block, block.file)
        elif block.home is not None:
            scenes[-1].pieces.append(block)
        elif block.goes_on:
            scenes[-1].services += block.commands()
        elif block.language == "console":
            for command in block.commands():
                if command.is_request:
                    scenes[-1].requests.append(command)
                elif command.program is not None:
                    scenes[-1].programs.append(command)
    return scenes


def _add_file(scenes: list[Scene], block: Block, name: str) -> None:
    # What was done before was done with the files as they were.
    if scenes[-1].is_played and (block.is_app or name in scenes[-1].files):
        scenes.append(Scene(None, dict(scenes[-1].files)))
    if block.is_app:
        scenes[-1].app = name.removesuffix(".py")
    scenes[-1].files[name] = block.text


def matches(expected: list[str], printed: str) -> bool:
    """Return whether a program printed what the page says.

    But for what a pool says of a machine that is busy with other tests, perhaps.
    """
    printed = "\n".join(line for line in printed.splitlines() if BUSY_MACHINE not in line)
    pattern = "".join(
        r"(?:.*\n)*?"
        if line.strip() in ("…", "...")
        else ".*?".join(map(re.escape, line.rstrip().split("…"))) + r"[ \t]*\n"
        for line in expected
    )
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n") is not None

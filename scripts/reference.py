"""Writes docs/reference.md from the docstrings of the public names.

    python scripts/reference.py            write it
    python scripts/reference.py --check    exit with 1 if it is not up to date

It reads the source and imports nothing: no extra has to be installed, and the signatures are those
that were written, not those of one version of Python.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference.md"
MODULES = (
    "offload",
    "offload.jobs",
    "offload.schedules",
    "offload.roles",
    "offload.starlette",
    "offload.resources",
    "offload.asgi",
    "offload.testing",
    "offload.watchdog",
    "offload.metrics",
    "offload.tracing",
    "offload.dashboard",
)
# What rooms of the library call on each other: no underscore, and nothing for users.
INSIDE = {
    "Schedule": {"added_to", "call", "of_parts"},
    "Scheduler": {"levers"},
    "Events": {"give"},
    "Pool": {
        "forget_workers",
        "is_closed",
        "register",
        "resolve",
        "run_invocation",
        "stream_invocation",
        "tell_observers",
    },
}
HEAD = """\
# Reference

<!-- Made by scripts/reference.py from the docstrings: change those, and run it. -->

All times are seconds unless a name says otherwise (`_ms`, `_bytes`). `None` means no limit.
"""
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Cancellation", "Source", "Yields")
_LINE = 92

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> int:
    """Write the page, or check it."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print("docs/reference.md is not up to date: run python scripts/reference.py")
        return 1
    return 0


def page() -> str:
    """Return the text of the page."""
    modules = [name for name in MODULES if source_of(name) is not None]
    parts = [HEAD, *(f"- [`{name}`](#{name.replace('.', '')})" for name in modules)]
    for name in modules:
        tree = tree_of(name)
        parts += ["", f"## {name}", "", *document(docstring_of(tree))]
        names = sorted(exported(tree), key=lambda each: (each != "offload", each.lower()))
        for each in names:
            parts += ["", f"### {name}.{each}", "", *describe(name, each)]
    return "\n".join(parts).rstrip() + "\n"


def source_of(module: str) -> Path | None:
    """Return the file of a module, None if there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.exists():
            return candidate
    return None


def tree_of(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    source = source_of(module)
    if source is None:
        raise LookupError(module)
    return ast.parse(source.read_text())


def exported(tree: ast.Module) -> list[str]:
    """Return the names of `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise LookupError("__all__")


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a body, and those below `if` and `try` in it."""
    for node in body:
        yield node
        match node:
            case ast.If():
                yield from statements(node.body)
                yield from statements(node.orelse)
            case ast.Try():
                yield from statements(node.body)
            case _:
                pass


def describe(module: str, name: str) -> list[str]:
    """Return the lines about one name, wherever it is defined."""
    found: Definition | None = None
    previous: ast.stmt | None = None
    for node in statements(tree_of(module).body):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if node.name == name:
                found = node  # the last one: those before are overloads
            case ast.ImportFrom(module=str(home)) if any(each.name == name for each in node.names):
                return describe(home, name)
            case ast.Expr(ast.Constant(value=str(text))) if assigned(previous) == name:
                return document(inspect.cleandoc(text))
            case _:
                pass
        previous = node
    if isinstance(found, ast.ClassDef):
        return of_class(found)
    if found is not None:
        return [*signature(found), *document(docstring_of(found))]
    return [f"See the text of `{module}`."]


def assigned(node: ast.stmt | None) -> str | None:
    """Return the name that a statement assigns to."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return None


def of_class(node: ast.ClassDef) -> list[str]:
    """Return the lines about a class and its public methods."""
    methods: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    typed: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for each in statements(node.body):
        if isinstance(each, FUNCTIONS):
            # Of several signatures the last is the most general that says what is returned.
            (typed if "overload" in decorators(each) else methods)[each.name] = each
    bases = [ast.unparse(base) for base in node.bases]
    shown = [
        base.partition("[")[0]
        for base in bases
        if not base.startswith(("_", "Generic", "Decorated"))
    ]
    lines: list[str] = []
    constructor = methods.pop("__init__", None)
    # Where no arguments are told of, the library makes the objects.
    if constructor is not None and "\nArgs:\n" in docstring_of(node):
        lines += signature(constructor, name=node.name)
    if shown and shown != ["Protocol"]:
        lines += [f"Bases: {', '.join(f'`{base}`' for base in shown)}", ""]
    lines += document(docstring_of(node))
    for name, method in methods.items():
        if name.startswith("_") and name != "__call__":
            continue
        text = docstring_of(method)
        if name in INSIDE.get(node.name, ()) or not text:
            continue
        if name == "__call__" and "\n" not in text:
            continue  # ASGI
        label = f"{node.name}.{name}" if name != "__call__" else f"await {node.name}(…)"
        lines += ["", f"#### {label}", ""]
        if not decorators(method) & {"property", "cached_property"} and name != "__call__":
            lines += signature(typed.get(name, method))
        lines += document(text)
    return lines


def decorators(node: Definition) -> set[str]:
    """Return the names of what a definition is decorated with."""
    return {ast.unparse(each) for each in node.decorator_list}


def signature(
    node: ast.FunctionDef | ast.AsyncFunctionDef, *, name: str | None = None
) -> list[str]:
    """Return a block of code with the signature of a function, without `self`."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments = ast.arguments(**{**vars(arguments), "args": arguments.args[1:]})
    prefix = ""
    if name is None:
        prefix = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
        if "asynccontextmanager" in decorators(node) or "contextmanager" in decorators(node):
            prefix = "@contextmanager\n" + prefix
    returned = f" -> {ast.unparse(node.returns)}" if node.returns and name is None else ""
    parameters = split(ast.unparse(arguments))
    line = f"{prefix}{name or node.name}({', '.join(parameters)}){returned}"
    if len(line) > _LINE:
        inner = "".join(f"    {each},\n" for each in parameters)
        line = f"{prefix}{name or node.name}(\n{inner}){returned}"
    return ["<!-- not run: a signature -->", "```python", line, "```", ""]


def split(arguments: str) -> list[str]:
    """Split parameters at the commas between them, and write them as a formatter would."""
    parts, depth, part = [], 0, ""
    for character in arguments:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    spaced = (re.sub(r"^(\w+: [^=]+)=", r"\1 = ", each) for each in [*parts, part.strip()])
    return [each.replace("'", '"') for each in spaced if each]


def docstring_of(node: ast.Module | Definition) -> str:
    """Return the docstring of a definition, "" if it has none."""
    return ast.get_docstring(node) or ""


def document(text: str) -> list[str]:
    """Turn a docstring in the style of Google into Markdown."""
    lines: list[str] = []
    section: str | None = None
    block: list[str] = []
    for line in [*text.splitlines(), "end:"]:
        found = re.fullmatch(r"(\w+):(?:\s+(.*))?", line)
        if line == "end:" or (found and found[1] in SECTIONS):
            lines += of_section(section, block)
            section = found[1] if found and line != "end:" else None
            rest = found[2] if found else None
            block = [f"    {rest}"] if rest else []
        elif section is not None and line and not line.startswith(" "):
            # `Cancellation: text` may go on without an indent, to the next empty line.
            block.append(f"    {line}")
        else:
            block.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def of_section(section: str | None, block: list[str]) -> list[str]:
    """Return the lines of one section."""
    if section is None:
        lines: list[str] = []
        is_open = False
        for line in "\n".join(block).strip("\n").splitlines():
            if line.startswith("```"):
                is_open = not is_open
                if is_open:
                    lines.append("<!-- not run: an excerpt; howto pages have whole programs -->")
            lines.append(line)
        return [*lines, ""]
    text = textwrap.dedent("\n".join(block)).strip()
    if section in ("Args", "Attributes", "Raises"):
        items = re.split(r"\n(?=\S)", text)
        return [f"**{section}**", "", *map(item, items), ""]
    # Paragraphs are joined as they are.
    return [f"**{section}:** {text}", ""]


def item(text: str) -> str:
    """Return one entry of a section as an item of a list."""
    name, _, rest = text.partition(":")
    # Options that are told of one after the other, as `name`: text, are a list of their own.
    words = re.split(r"(?:^|(?<=\.) )(?=`\w+`: )", " ".join(rest.split()))
    return "\n".join(
        [f"- `{name.strip()}`: {words[0]}".rstrip(), *(f"  - {each}" for each in words[1:])]
    )


if __name__ == "__main__":
    sys.exit(main())

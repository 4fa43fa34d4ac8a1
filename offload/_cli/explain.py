"""`offload explain module:function ARG…`: measured, is offloading this call worth it?"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from offload._cli.findings import paint, wants_colors
from offload._cli.inspection import ApplicationError, load
from offload._cli.measure import measure
from offload._cli.verdict import Measurement, Verdict, judge, milliseconds
from offload._pool.target import check, is_offloaded
from offload.errors import FunctionError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

__all__ = ["add_arguments", "parse_argument", "render", "run"]

# What the machine kept the function waiting, from when on the figures are to be doubted.
_BUSY_SHARE = 0.2
# No word that is meant as a text has them.
_OF_LITERALS = "'\"[](){}"
_ANSWERS = {
    "yes": ("Yes", "green"),
    "hardly": ("Hardly", "yellow"),
    "no": ("No", "yellow"),
    "thread": ("No, a thread is enough", "yellow"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "The function runs for real, several times, here and on a worker. Exit status: 0 if it "
        "could be measured, whatever the verdict; 1 if it raised or cannot be offloaded."
    )
    parser.add_argument("function", metavar="MODULE:FUNCTION", help="decorated or not")
    parser.add_argument(
        "arguments",
        metavar="ARG",
        nargs="*",
        help="10, hello, '[1, 2]': a Python literal, or else a text as it is; @FILE: the bytes of "
        "a file",
    )
    parser.add_argument(
        "--kwargs", default="{}", metavar="DICT", help="keyword arguments, as a Python literal"
    )
    parser.add_argument(
        "--app-dir", default=".", metavar="DIR", help="import from here (default: this folder)"
    )
    parser.add_argument(
        "--repeat", type=int, default=20, metavar="N", help="calls of each kind, at most (20)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        metavar="S",
        help="no more calls of a kind after this (2); one is made in any case",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def parse_argument(text: str) -> Any:
    """Return the value that an argument of the command line stands for.

    What is no literal is a text, unless it has quotes or brackets and so was meant to be one.

    Raises:
        ValueError: it is neither a literal nor a word nor the name of a file that can be read.
    """
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                return file.read()
        except OSError as error:
            raise ValueError(f"{text}: {error.strerror}") from error
    try:
        return _literal(text)
    except ValueError:
        if any(each in _OF_LITERALS for each in text):
            raise
        return text


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        message = f"{text} is no Python literal; a string needs quotes of its own: '\"{text}\"'"
        raise ValueError(message) from error


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    try:
        values = tuple(parse_argument(text) for text in arguments.arguments)
        keywords = _literal(arguments.kwargs)
    except ValueError as error:
        return _refuse(str(error))
    if not isinstance(keywords, dict) or not all(isinstance(name, str) for name in keywords):
        return _refuse(f"--kwargs must be a dict of names, not {arguments.kwargs}")
    sys.path.insert(0, os.path.abspath(arguments.app_dir))
    try:
        function = load(arguments.function)
        check(function.__wrapped__ if is_offloaded(function) else function)
    except (ApplicationError, FunctionError) as error:
        return _fail(str(error))
    try:
        found = asyncio.run(
            measure(function, values, keywords, repeat=arguments.repeat, seconds=arguments.seconds)
        )
    except Exception as error:  # noqa: BLE001 - whatever the function raises
        return _fail(_told(arguments.function, error))
    verdict = judge(found)
    if arguments.json:
        print(json.dumps({"verdict": asdict(verdict), "measurement": asdict(found)}, indent=2))
    else:
        print(render(found, verdict, colors=wants_colors()))
    return 0


def _refuse(text: str) -> int:
    print(f"offload explain: {text}", file=sys.stderr)
    return 2


def _fail(text: str) -> int:
    print(f"offload explain: {text}", file=sys.stderr)
    return 1


def _told(function: str, error: Exception) -> str:
    import traceback

    # Neither our own frames nor those of asyncio: what matters is what the function did.
    hidden = (
        os.path.dirname(os.path.dirname(__file__)) + os.sep,
        os.path.dirname(asyncio.__file__),
    )
    frames = traceback.extract_tb(error.__traceback__)
    lines = traceback.format_list([f for f in frames if not f.filename.startswith(hidden)])
    lines += traceback.format_exception_only(error)
    if error.__cause__ is not None:
        lines.append(str(error.__cause__).strip().strip('"').strip())
    return f"{function} cannot be measured with these arguments:\n{''.join(lines).rstrip()}"


def render(found: Measurement, verdict: Verdict, *, colors: bool) -> str:
    """Return what was measured as lines for a terminal."""
    ways = (found.inline, found.threaded, found.offloaded)
    rows: list[tuple[str, Iterable[str], str]] = [
        ("", ("inline", "in a thread", "offloaded"), ""),
        (
            "from call to result",
            [milliseconds(way.seconds) for way in ways],
            f"median of {', '.join(str(way.calls) for way in ways)}",
        ),
        ("event loop held", [_held(way.held) for way in ways], "at a stretch, the longest"),
        ("event loop's CPU", [milliseconds(way.loop_cpu) for way in ways], "per call"),
    ]
    lines = [paint(f"{found.function} on pool {found.pool!r}", "bold", colors=colors), ""]
    lines += [
        f"  {name:<22}{''.join(f'{value:>13}' for value in values)}  {note}".rstrip()
        for name, values, note in rows
    ]
    lines += ["", paint("What offloading takes", "bold", colors=colors), ""]
    parts = [
        ("run in the worker", milliseconds(found.worker_seconds), ""),
        ("dispatch", milliseconds(found.empty.seconds), "a call of nothing, there and back"),
        (
            "arguments",
            milliseconds(found.argument_seconds),
            f"{found.argument_bytes:,} bytes, pickled and unpickled",
        ),
    ]
    if found.items is None:
        parts.append(
            (
                "result",
                milliseconds(found.result_seconds),
                f"{found.result_bytes:,} bytes, pickled and unpickled",
            )
        )
    else:
        parts.append(("items", f"{found.items:,}", "of the generator, one by one"))
    parts += [
        ("cold start", milliseconds(found.cold_seconds), "a new pool, until its first answer"),
        (
            "first call",
            milliseconds(found.first_seconds),
            "on a worker that has not imported the module",
        ),
    ]
    lines += [f"  {name:<22}{value:>13}  {note}".rstrip() for name, value, note in parts]
    answer, color = _ANSWERS[verdict.answer]
    if found.starved > _BUSY_SHARE:
        lines += [
            "",
            f"This machine is busy: inline, it had no CPU for {found.starved:.0%} of the ",
        ]
        lines[-1] += "time. All times would be shorter on one that is not."
    question = paint("Worth offloading?", "bold", colors=colors)
    lines += ["", f"{question} {paint(answer, color, colors=colors)}. {verdict.why}"]
    return "\n".join(lines)


def _held(seconds: float) -> str:
    return milliseconds(seconds) if seconds else "< 1.5 ms"

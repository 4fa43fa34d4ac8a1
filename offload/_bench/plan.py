"""What the load generator is told to do: its command line, and the plan made of it."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from offload._bench.client import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Arrivals", "Plan", "Stream", "plan_of"]

Arrivals = Literal["uniform", "poisson"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do; the fields are the command's options."""

    fast: Sequence[Stream]
    heavy: Sequence[Target]
    clients: int
    seconds: float
    warm_up: float
    timeout: float
    connections: int
    seed: int
    server_pids: Sequence[int]
    hang_up: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """An open-loop stream."""

    target: Target
    rate: float
    arrivals: Arrivals


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no header; write 'Name: value'")
    return name.strip(), value.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m offload._bench.load",
        description="Load from a process of its own; prints JSON, see the module's docstring.",
    )
    parser.add_argument("base", help="port on 127.0.0.1, or URL")
    parser.add_argument("--fast", action="append", default=[], metavar="PATH")
    parser.add_argument(
        "--rate",
        action="append",
        type=float,
        default=[],
        help="requests a second, once for all streams (default 200) or once for each",
    )
    parser.add_argument(
        "--arrivals",
        action="append",
        choices=get_args(Arrivals),
        default=[],
        help="once for all streams (default uniform) or once for each",
    )
    parser.add_argument("--heavy", action="append", default=[], metavar="PATH")
    parser.add_argument("--heavy-method", default=None, help="default GET, with a body POST")
    parser.add_argument("--heavy-body", default=None, metavar="FILE")
    parser.add_argument("--clients", type=int, default=0, help="heavy ones, over all --heavy")
    parser.add_argument("--header", action="append", type=_header, default=[], help="'Name: value'")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request")
    parser.add_argument("--connections", type=int, default=128, help="at most, for each --fast")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--hang-up", action="store_true", help="heavy clients leave at the end, without an answer"
    )
    parser.add_argument("--server-pid", action="append", type=int, default=[], metavar="PID")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.fast and not options.clients:
        parser.error("nothing to do: give --fast PATH, or --heavy PATH with --clients N")
    if options.clients and not options.heavy:
        parser.error("--clients needs --heavy PATH")
    for value in (*options.rate, options.seconds, options.timeout, options.connections):
        if not 0 < value < math.inf:
            parser.error("rates, seconds, time-outs and connections are above 0")
    if options.clients < 0 or not 0 <= options.warm_up < math.inf:
        parser.error("clients and the warm-up are 0 or more")


def plan_of(argv: Sequence[str] | None = None) -> Plan:
    """Return the plan that a command line asks for; ends the process if it asks for nonsense."""
    parser = _parser()
    options = parser.parse_args(argv)
    base: str = options.base
    if base.isdecimal():
        base = f"http://127.0.0.1:{base}"
    headers = tuple(options.header)

    def target(path: str, method: str = "GET", body: bytes = b"") -> Target:
        url = path if "://" in path else base.rstrip("/") + "/" + path.removeprefix("/")
        return Target(url, method, headers, body)

    def for_each(values: list[Any], default: Any, name: str) -> list[Any]:
        count = len(options.fast)
        if len(values) not in {0, 1, count}:
            parser.error(f"{name} is given once, or once for each --fast")
        return values if len(values) == count else (values or [default]) * count

    _check(parser, options)
    rates = for_each(options.rate, 200.0, "--rate")
    kinds = for_each(options.arrivals, "uniform", "--arrivals")
    body = b""
    if options.heavy_body is not None:
        with open(options.heavy_body, "rb") as file:
            body = file.read()
    method = options.heavy_method or ("POST" if options.heavy_body is not None else "GET")
    try:
        fast = [target(path) for path in options.fast]
        heavy = [target(path, method, body) for path in options.heavy]
    except ValueError as error:
        parser.error(str(error))
    return Plan(
        fast=[Stream(*each) for each in zip(fast, rates, kinds, strict=True)],
        heavy=heavy,
        clients=options.clients,
        seconds=options.seconds,
        warm_up=options.warm_up,
        timeout=options.timeout,
        connections=options.connections,
        seed=options.seed,
        server_pids=options.server_pid,
        hang_up=options.hang_up,
    )

"""What is measured: a server that runs, or an application that is served for the occasion."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from offload._bench.client import Answer, Target, exchange
from offload._bench.machine import listeners

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["BEAT_SECONDS", "Beat", "Subject", "SubjectError", "check_answers", "running", "serving"]

# Between two beats of the loop: short enough to see each time that it was held for ten
# milliseconds, and a thousandth of its time.
BEAT_SECONDS = 0.01
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
# What of the application's own output is shown when it does not start.
_SHOWN_LINES = 25


class SubjectError(Exception):
    """There is nothing to measure; the text says why and what to do. Nothing was measured."""


class Beat(NamedTuple):
    """One beat of the server's event loop.

    Attributes:
        at: when it came, as `time.monotonic()`.
        lag_ms: how late that was, in milliseconds.
        cpu_ms: how long the loop's thread had computed since the beat before.
    """

    at: float
    lag_ms: float
    cpu_ms: float


@dataclass(slots=True)
class Subject:
    """A server that can be asked.

    Attributes:
        name: what the user called it.
        base: the URL that paths are added to.
        pids: its processes, without those below them; empty where they are not known.
        beats: of its event loop, as they come; None where they are not known.
        facts: more to tell about it, by name.
        output: the file that it writes its output to, empty if it is not ours.
    """

    name: str
    base: str
    pids: Sequence[int] = ()
    beats: list[Beat] | None = None
    facts: dict[str, str] | None = None
    output: str = ""

    def last_words(self) -> str:
        """Return the last lines that the server has written."""
        if not self.output:
            return ""
        with open(self.output, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-_SHOWN_LINES:]).rstrip()


@contextlib.contextmanager
def running(url: str, *, is_remote_allowed: bool) -> Generator[Subject]:
    """Yield the server behind a URL.

    Raises:
        SubjectError: the URL is none, or is not of this machine and that is not allowed.
    """
    try:
        target = Target(url)
    except ValueError as error:
        raise SubjectError(str(error)) from None
    is_here = _is_loopback(target.host, target.port)
    if not is_here and not is_remote_allowed:
        raise SubjectError(
            f"{target.host} is not this machine, and this is a load test: it can make a server "
            "unusable for others while it runs. If it is yours to load, add --allow-remote"
        )
    pids = listeners(target.port) if is_here else []
    yield Subject(url, url.rstrip("/"), pids, facts={"server": "was running"})


def _is_loopback(host: str, port: int) -> bool:
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise SubjectError(f"the host {host!r} is not known: {error}") from None
    # All of them: what it resolves to next time may be another one.
    return all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


@contextlib.contextmanager
def serving(app: str, *, factory: bool = False, folder: str = ".") -> Generator[Subject]:
    """Serve an application with uvicorn, in a process of its own, and yield it.

    Args:
        app: `module:attribute`, as for uvicorn.
        factory: whether the attribute is called for the application.
        folder: what the module is looked for in.

    Raises:
        SubjectError: it did not start; with what it wrote.
    """
    descriptor, output = tempfile.mkstemp(prefix="offload-bench-", suffix=".log")
    command = [sys.executable, "-m", "offload._bench.serve", app]
    with os.fdopen(descriptor, "wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - the user's own application
            [*command, "--factory"] if factory else command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Ctrl+C is for the command, which ends the server in order.
            start_new_session=os.name == "posix",
        )
    subject = Subject(app, "", [process.pid], beats=[], output=output)
    ready = threading.Event()
    # Ends with the server, which has the other end of the pipe.
    reader = threading.Thread(target=_listen, args=(process, subject, ready), daemon=True)
    reader.start()
    try:
        ready.wait(_START_SECONDS)
        if not subject.base:
            status = process.poll()
            how = "did not start" if status is None else f"ended at its start with {status}"
            raise SubjectError(
                f"{app}: the server {how}; what it wrote:\n{subject.last_words() or '(nothing)'}"
            )
        yield subject
    finally:
        _stop(process)
        reader.join(_STOP_SECONDS)
        with contextlib.suppress(OSError):
            os.unlink(output)


def _listen(process: subprocess.Popen[bytes], subject: Subject, ready: threading.Event) -> None:
    assert process.stdout is not None
    assert subject.beats is not None
    with process.stdout as lines:
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if facts := message.get("ready"):
                subject.facts = {
                    "server": f"uvicorn {facts['uvicorn']}, one process",
                    "event loop": facts["loop"],
                }
                subject.base = f"http://127.0.0.1:{facts['port']}"
                ready.set()
            subject.beats += [Beat(*each) for each in message.get("beats", ())]
    ready.set()  # It has ended, perhaps before it was ready.


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    for end in (process.terminate, process.kill):
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            end()
    process.wait()


def check_answers(subject: Subject, targets: Sequence[Target], *, timeout: float) -> list[float]:
    """Ask each target once, alone; return how many seconds each took.

    Raises:
        SubjectError: the server is not there, or one of them does not answer with success.
    """
    took: list[float] = []
    for target in targets:
        began = time.perf_counter()
        answer = _ask(subject, target, timeout)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            raise SubjectError(_refusal(subject, target, answer))
        took.append(answer.at - began)
    return took


def _ask(subject: Subject, target: Target, timeout: float) -> Answer:
    try:
        return asyncio.run(exchange(target, timeout=timeout))
    except TimeoutError:
        raise SubjectError(
            f"{target.method} {target.path} had no answer after {timeout:g} s, with nothing else "
            "going on; give more time with --timeout"
        ) from None
    except ConnectionRefusedError:
        raise SubjectError(
            f"nothing listens at {subject.base}; start the server, or give the import path of the "
            "application (module:app), and it is served for you"
        ) from None
    except OSError as error:
        raise SubjectError(f"{target.method} {target.url}: {error}") from None


def _refusal(subject: Subject, target: Target, answer: Answer) -> str:
    try:
        phrase = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        phrase = str(answer.status)
    text = f"{target.method} {target.path} answers {phrase}"
    if location := answer.headers.get("location"):
        return f"{text}, to {location[:200]!r}; give the path that answers by itself"
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return f"{text}: is the path right? Routes may want a prefix or another method"
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return f"{text}: add what it asks for with --header 'Authorization: …'"
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and (words := subject.last_words()):
        return f"{text} before any load; the server wrote:\n{words}"
    return f"{text} before any load; only a success can be measured"

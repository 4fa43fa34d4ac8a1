"""The processes of one `offload run`: one for each program, ended together.

    offload run ──── SIGTERM, SIGINT, SIGKILL ───► web, worker, …
       ▲   └─── socket that is bound ────────────► web
       └─────── ready; stdout, stderr; end ────── web, worker, …

Each program is a process group of its own: Ctrl+C comes to us alone, and we tell the programs. When
we end, however we end, the kernel kills them (see `offload._run.child`), and they take their
workers with them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offload._run.child import NOTHING, READY, arguments_of
from offload._run.decisions import Say, Send, Start, Supervision
from offload._run.output import Prefixed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from socket import socket as Socket  # noqa: N812 - of a field `socket`

    from offload._run.decisions import Action

__all__ = ["Command", "Processes"]

# For what a program has written last; one of its children may have its pipes for longer.
_REST_SECONDS: Final = 1.0
_OURS: Final = "run"


@dataclass(frozen=True, slots=True)
class Command:
    """How one program is started.

    Attributes:
        arguments: of `offload`.
        environment: what is added to ours.
        socket: bound, to be given to it; None: none. Closed by us when nothing is started any more.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    socket: Socket | None = None


class Processes:
    """Starts programs, watches them, and ends them.

    Args:
        commands: by the name of the program.
        kill_after: seconds that they have to end.
    """

    def __init__(self, commands: Mapping[str, Command], *, kill_after: float) -> None:
        self._commands = commands
        self._supervision = Supervision(commands, kill_after=kill_after)
        self._output = Prefixed([*commands, _OURS], self._stop)
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def run(self) -> int:
        """Run all until they have ended; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Started by nohup, we go on when the terminal is closed.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop)
        try:
            await self._do(self._supervision.begin())
            while not self._supervision.is_over:
                await self._wait()
                await self._do(self._supervision.advance(time.monotonic()))
        finally:
            for process in self._running.values():
                _send(process, signal.SIGKILL)
        # What was written last.
        await asyncio.gather(*self._tasks)
        return self._supervision.status

    async def _wait(self) -> None:
        """Wait for the next event, or until something is due."""
        due = self._supervision.next_due()
        delay = None if due is None else max(due - time.monotonic(), 0.0)
        try:
            await asyncio.wait_for(self._changed.wait(), delay)
        except TimeoutError:
            return
        self._changed.clear()

    # Events

    def _stop(self) -> None:
        self._signal_all(self._supervision.stop(time.monotonic()))

    async def _watch(self, name: str, process: asyncio.subprocess.Process, ready: int) -> None:
        """Attend to one process, until it has ended and all that it has written is shown."""
        assert process.stdout is not None
        assert process.stderr is not None
        copies = [
            asyncio.create_task(self._output.copy(name, process.stdout, sys.stdout)),
            asyncio.create_task(self._output.copy(name, process.stderr, sys.stderr)),
        ]
        loop = asyncio.get_running_loop()
        loop.add_reader(ready, self._read_ready, name, ready)
        status = await process.wait()
        # It may have been ready, and ended, at once.
        self._read_ready(name, ready)
        os.close(ready)
        await asyncio.wait(copies, timeout=_REST_SECONDS)
        del self._running[name]
        self._signal_all(self._supervision.ended(name, status, time.monotonic()))
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)

    def _read_ready(self, name: str, ready: int) -> None:
        asyncio.get_running_loop().remove_reader(ready)
        try:
            word = os.read(ready, 1)
        except BlockingIOError:
            return
        if word == READY:
            self._supervision.ready(name, time.monotonic())
        elif word == NOTHING:
            self._supervision.unneeded(name)

    # Actions

    def _signal_all(self, actions: Sequence[Action]) -> None:
        """Do what an event led to: nothing is started by one."""
        for action in actions:
            match action:
                case Say(text):
                    self._output.say(_OURS, text)
                case Send(name, number):
                    # One that is being started hears of it when it is.
                    if name in self._running:
                        _send(self._running[name], number)
                case _:
                    raise AssertionError(action)
        if self._supervision.is_stopping:
            for command in self._commands.values():
                # Or clients would wait for programs that have ended.
                if command.socket is not None:
                    command.socket.close()
        self._changed.set()

    async def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                await self._start(action.name)
            else:
                self._signal_all([action])

    async def _start(self, name: str) -> None:
        ready, told = os.pipe()
        os.set_blocking(ready, False)
        try:
            process = await self._execute(self._commands[name], told)
        except OSError as error:
            os.close(ready)
            self._output.say(_OURS, f"{name} cannot be started: {error}")
            self._signal_all(self._supervision.ended(name, 1, time.monotonic()))
            return
        finally:
            os.close(told)
        self._running[name] = process
        task = asyncio.create_task(self._watch(name, process, ready))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._signal_all(self._supervision.started(name))

    async def _execute(self, command: Command, told: int) -> asyncio.subprocess.Process:
        listener = None
        if command.socket is not None and command.socket.fileno() >= 0:
            listener = command.socket.fileno()
        # There is no public name for it.
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # noqa: SLF001
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *flags,
            "-m",
            "offload",
            *command.arguments,
            *arguments_of(os.getpid(), told, listener),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(command.environment),
            pass_fds=[told] if listener is None else [told, listener],
            process_group=0,
        )


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return  # It has just ended.

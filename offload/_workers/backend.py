"""What a pool's engine asks of workers, and what workers tell it."""

from __future__ import annotations

import enum
import signal as signals
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from offload._decisions.dispatch import Worker
    from offload._wire.payload import Parcel

__all__ = ["Call", "Crew", "Exit", "Owner", "Reply", "Revoked", "Settings"]

# kind, flags, body, descriptor: a frame as `offload._wire.frames` takes it apart.
Reply = tuple[int, int, bytes, "int | None"]


class Revoked(enum.Enum):
    """What came of keeping the function of a call from being entered."""

    UNSTARTED = "it was not entered, and will not be"
    FREED = "its worker is free; whether it was entered nobody knows"
    NO = "it was entered, or may have been"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended.

    Attributes:
        pid: process id, None where unknown.
        exit_code: its exit code, None if a signal ended it or where unknown.
        signal: number of the signal that ended it.
        received: whether it had taken its last task.
        started: whether it had entered the function of its last task.
        why: why it was killed, if that was by us.
    """

    pid: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    received: bool = True
    started: bool = True
    why: str = ""

    def __str__(self) -> str:
        """Say it in words."""
        who = f"process {self.pid}" if self.pid else "its process"
        if self.signal is not None:
            try:
                name = signals.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            if self.why:
                return f"{who} was killed, since {self.why}"
            hint = "; the kernel does that when memory runs out" if name == "SIGKILL" else ""
            return f"{who} was killed by {name}{hint}"
        if self.exit_code is not None:
            return f"{who} exited with code {self.exit_code}"
        return f"{who} ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What workers are started with; see `offload.pool.Pool`."""

    name: str
    os_priority: str
    start_method: str
    start_timeout: float
    initializer: bytes | None
    preload: tuple[str, ...]
    env: dict[str, str | None]
    max_memory_bytes: int | None


class Call(Protocol):
    """One call, as its worker sees it. All of it happens on the thread of `loop`."""

    loop: asyncio.AbstractEventLoop
    request: bytes | Parcel
    descriptor: int | None

    def take(self, reply: Reply) -> None:
        """Accept a frame from the worker."""
        ...


class Owner(Protocol):
    """The engine, as its workers see it. May be called on any thread."""

    def worker_ready(self, worker: Worker) -> None:
        """Report that a worker can take tasks."""
        ...

    def worker_failed(self, worker: Worker, detail: str) -> None:
        """Report that a worker did not come up."""
        ...

    def worker_gone(self, worker: Worker, how: Exit) -> None:
        """Report that a worker, once ready, has ended."""
        ...

    def worker_recovered(self, worker: Worker) -> None:
        """Report that an abandoned worker ended its task by itself."""
        ...

    def modules(self) -> list[str]:
        """Return what a new worker should import before its first task."""
        ...


class Crew(Protocol):
    """The workers of one pool: started, given tasks, stopped hard. May be called on any thread."""

    has_descriptors: bool
    can_stop: bool
    # Whether a task that is to stop is asked first, and has its `grace`.
    can_ask: bool

    def start(self) -> None:
        """Start one worker; `Owner.worker_ready` or `worker_failed` follows."""
        ...

    def begin(self, worker: Any, call: Any) -> bool:
        """Give a task to a worker, on the thread of the call's loop.

        Returns:
            False if the worker is dead: it did not receive the task.
        """
        ...

    def more(self, worker: Any, kind: int, body: bytes) -> None:
        """Send a frame to a worker that has a stream."""
        ...

    def stop(self, worker: Any, reason: str, grace: float) -> None:
        """Stop a worker; `Owner.worker_gone` follows."""
        ...

    def revoke(self, worker: Any, call: Any) -> Revoked:
        """Keep the function of a call from being entered, whose worker was just told to stop."""
        ...

    def has_replied(self, worker: Any, call: Any) -> bool:
        """Return whether the reply to a call is there, or about to be, and only not yet read."""
        ...

    def close(self) -> Future[None]:
        """Kill every worker; the future is done when nothing of them is left."""
        ...

    def forget(self) -> None:
        """Let go of everything: this is a forked copy of the process that has the workers."""
        ...

    def workers(self) -> list[Any]:
        """Return the workers that are alive; each has `pid`, None where unknown."""
        ...

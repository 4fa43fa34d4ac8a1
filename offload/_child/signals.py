"""What signals mean in the processes of a pool."""

from __future__ import annotations

from offload._wire.lean import signal

__all__ = ["ignore_signals", "reset_signals"]

# What others send to end a process, or to have a program of theirs do something, and what a
# terminal sends. A supervisor has one way to be told to end, and it is none of these.
_IGNORED = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
    "SIGQUIT",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "SIGVTALRM",
    "SIGPROF",
    "SIGIO",
    "SIGPWR",
    "SIGXCPU",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
)


def ignore_signals() -> None:
    """Make this process one that only SIGKILL ends."""
    for name in _IGNORED:
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_IGN)


def reset_signals() -> None:
    """Make signals what a worker needs, whatever the parent made of them."""
    # A wakeup descriptor that came with a fork would tell the *parent's* loop of our signals
    # (bpo-43064: terminating a child shut the server down).
    signal.set_wakeup_fd(-1)
    for name in (*_IGNORED, "SIGCHLD"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

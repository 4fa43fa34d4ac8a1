"""What kind of call it is that holds a loop, and what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload.watchdog._judge import Verdict
    from offload.watchdog._records import Cause
    from offload.watchdog._stack import Call, Stack

__all__ = ["advise"]

_WORKER = "Run it in a worker process: decorate the function with @offload and await it."
_THREAD = "Run it in a thread: await anyio.to_thread.run_sync(...)."
_EITHER = (
    "Run it in a thread (await anyio.to_thread.run_sync(...)), since it gives up the GIL, or in a "
    "worker process (decorate the function with @offload)."
)
_NO_THREAD = (
    "A thread does not help, since this code keeps the GIL: decorate the function with @offload "
    "and await it."
)
_FREEZE = (
    "Call gc.freeze() when the application has started, make the many objects in a worker process "
    "(@offload), or raise the third number of gc.set_threshold()."
)
_REPORT = (
    "This should not happen: please report it, with the stack that is in "
    "offload.watchdog.statistics()."
)
_PROCESS_POOL = "concurrent.futures.process:ProcessPoolExecutor"


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of call.

    Attributes:
        name: what to call it.
        advice: what to do instead.
        modules: it is this kind if the application has called one of these modules, what is in
            them, or `module:function`.
        text: or if the application's expression reads so.
        is_outer: whether a call of `modules` that has called the application back counts as well.
    """

    name: str
    advice: str
    modules: tuple[str, ...] = ()
    text: str = ""
    is_outer: bool = False


# In order: a library that uses a socket is told before the socket.
_BLOCKING = (
    _Kind(
        "HTTP",
        "Use an async client, such as httpx.AsyncClient, and await it.",
        ("requests", "urllib3", "http.client", "urllib.request", "httpx", "httpcore"),
        r"\b(requests|httpx|urlopen)\b",
    ),
    _Kind(
        "logging",
        "Log through a logging.handlers.QueueHandler, and let a QueueListener call the slow "
        "handler on its own thread.",
        ("logging",),
        is_outer=True,
    ),
    _Kind(
        "DNS",
        "Use await anyio.getaddrinfo(...) or await loop.getaddrinfo(...), or an async client.",
        ("socket:getaddrinfo", "socket:getfqdn"),
        r"\b(getaddrinfo|gethostby\w+|getfqdn|getnameinfo)\b",
        is_outer=True,
    ),
    _Kind(
        "subprocess",
        "Use await anyio.run_process(...) or asyncio.create_subprocess_exec(...).",
        ("subprocess",),
        r"\bos\.(system|popen|wait\w*)\(|\bsubprocess\b",
    ),
    _Kind(
        "database",
        "Use an async driver (asyncpg, aiosqlite, motor, redis.asyncio), or run the query in a "
        "thread: await anyio.to_thread.run_sync(...).",
        ("sqlite3", "psycopg", "psycopg2", "pymysql", "MySQLdb", "pymongo", "redis", "sqlalchemy"),
        r"\.(execute|executemany|executescript|fetchone|fetchall|fetchmany|commit)\(",
    ),
    _Kind(
        "process start",
        "Start processes before the server serves, or in a thread: await "
        "anyio.to_thread.run_sync(...). A pool of offload starts its own off the event loop.",
        ("multiprocessing.process:BaseProcess.start", f"{_PROCESS_POOL}.submit"),
    ),
    _Kind(
        "future",
        "Await it: await asyncio.wrap_future(future).",
        ("concurrent.futures",),
        r"\.result\(",
    ),
    _Kind(
        "lock",
        "Use anyio.Lock, Event or Condition between async code; wait for a thread in a thread: "
        "await anyio.to_thread.run_sync(...).",
        ("threading", "queue", "multiprocessing.synchronize", "multiprocessing.queues"),
        r"\.(acquire|join|wait|get|put)\(|\b\w*lock\b|\bflock\(|\block[fF]?\(",
    ),
    _Kind("sleep", "Use await anyio.sleep(...) or await asyncio.sleep(...).", (), r"sleep\("),
    _Kind(
        "socket",
        "Use asyncio streams, anyio.connect_tcp(...) or an async client.",
        ("socket", "ssl", "select", "selectors", "smtplib", "ftplib", "imaplib", "poplib"),
        r"\.(recv\w*|send\w*|accept|connect\w*)\(|\bselect\.",
    ),
    _Kind(
        "file",
        "Use anyio.open_file(...), anyio.Path, or a thread: await anyio.to_thread.run_sync(...).",
        ("shutil", "pathlib", "io", "tempfile", "glob", "fileinput"),
        r"\b(open|f(data)?sync|read\w*|write\w*|flush|truncate|copy\w*)\(|\bos\.",
    ),
    _Kind("input", _THREAD, ("getpass",), r"\binput\("),
)
_COMPUTING = (
    _Kind("JSON", _WORKER, ("json", "orjson", "ujson", "simplejson"), r"\bu?json\w*\b"),
    _Kind(
        "regular expression",
        "Run it in a worker process with a limit: @offload(timeout=1). Nested repetitions, as in "
        "(a+)+, take exponential time on texts that nearly match.",
        ("re", "re._compiler", "re._parser", "sre_compile", "sre_parse", "regex"),
        r"\bre\.\w+\(|\.(match|fullmatch|search|findall|finditer|sub|subn)\(",
    ),
    _Kind("pickling", _WORKER, ("pickle", "marshal", "cloudpickle"), r"\b(pickle|marshal)\b"),
    _Kind("copying", _WORKER, ("copy",), r"\bdeepcopy\("),
    _Kind(
        "compression",
        _EITHER,
        ("zlib", "gzip", "bz2", "lzma", "zipfile", "tarfile", "zstandard", "brotli"),
        r"\b(zlib|gzip|bz2|lzma|zstd|brotli)\b|compress\(",
    ),
    _Kind(
        "hashing",
        _EITHER,
        ("hashlib", "hmac", "bcrypt", "passlib", "argon2"),
        r"\b(hashlib|hmac|bcrypt|argon2|pbkdf2_\w+|scrypt|sha\d+|md5|blake2\w)\b|\.update\(|digest\(",
    ),
    _Kind(
        "numeric code",
        _WORKER,
        ("numpy", "scipy", "pandas", "polars", "sklearn", "torch"),
        r"\b(np|numpy|pd|pandas|linalg)\.| @ ",
    ),
    _Kind("sorting", _WORKER, ("heapq",), r"\bsorted\(|\.sort\("),
    _Kind(
        "SQL",
        _EITHER,
        ("sqlite3", "duckdb"),
        r"\.(execute|executemany|executescript|fetchone|fetchall|fetchmany|commit)\(",
    ),
    _Kind("image", _WORKER, ("PIL", "cv2")),
    _Kind("template", _WORKER, ("jinja2", "mako")),
    _Kind("validation", _WORKER, ("pydantic", "fastapi.encoders", "fastapi._compat")),
)
_STARVED = {
    "quota": _Kind(
        "the CPU quota of the container was used up",
        "Raise the quota (cpu.max), or lower max_workers, so that workers leave some of it to the "
        "server.",
    ),
    "others": _Kind(
        "other processes had the CPUs",
        "No code of the server is to blame: give it more CPU, a better priority (nice), or fewer "
        "neighbours.",
    ),
    "stopped": _Kind(
        "the process did not run at all",
        "No code of the server is to blame: the process was stopped, or the machine was.",
    ),
}


def advise(verdict: Verdict, cause: Cause, stack: Stack, own: int, text: str) -> tuple[str, str]:
    """Return what kind of block it is, and what to do about it.

    Args:
        verdict: the judgement.
        cause: the cause, after the stack has been looked at.
        stack: that of the thread that was at work.
        own: index in it of the innermost call of the application.
        text: the expression that this call was evaluating.
    """
    match cause:
        case "starved":
            kind = _STARVED[verdict.detail or "others"]
        case "gc" if "collect(" in text:
            kind = _Kind("gc.collect", "Do not call gc.collect() on the event loop.")
        case "gc":
            kind = _Kind("a collection of the whole heap", _FREEZE)
        case "offload":
            kind = _Kind("code of offload", _REPORT)
        case "cpu":
            kind = _computing(stack, own, text)
        case "gil":
            name = _computing(stack, own, text).name
            kind = _Kind(f"{name} that kept the GIL", _NO_THREAD)
        case _:
            kind = _kind(_BLOCKING, stack, own, text) or _Kind("a call that waits", _THREAD)
            if verdict.detail == "gil":
                kind = _Kind(f"{kind.name} in native code that keeps the GIL", _NO_THREAD)
    return kind.name, kind.advice


def _computing(stack: Stack, own: int, text: str) -> _Kind:
    kind = _kind(_COMPUTING, stack, own, text)
    if kind is None and own == 0:
        # What is meant to wait can keep the CPU busy too, in the kernel for instance.
        kind = _kind(_BLOCKING, stack, own, text)
    return kind or _Kind("computing", _WORKER)


def _kind(kinds: tuple[_Kind, ...], stack: Stack, own: int, text: str) -> _Kind | None:
    for kind in kinds:
        calls = stack if kind.is_outer else stack[:own]
        if any(_is_of(call, kind.modules) for call in calls):
            return kind
        if kind.text and re.search(kind.text, text):
            return kind
    return None


def _is_of(call: Call, names: tuple[str, ...]) -> bool:
    module = call.module
    return (
        module in names
        or call.function in names
        or any(module.startswith(f"{name}.") for name in names)
    )

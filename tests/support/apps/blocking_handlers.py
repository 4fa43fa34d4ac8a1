"""An application whose handlers hold the event loop, each in another way, under the watchdog.

Each blocks until it has held the loop for `SECONDS`, whatever the machine does meanwhile.
"""

import _socket
import contextlib
import copy
import ctypes
import dataclasses
import functools
import gc
import hashlib
import json
import logging
import os
import pickle
import re
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.request
import zlib
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from offload.watchdog import Watchdog, statistics

SECONDS = 0.3
# The way, what it must be called, and what kind of call.
WAYS = {}
_python = ctypes.PyDLL(None)  # keeps the GIL, unlike CDLL


def way(cause, what):
    """Register a handler, with the cause that must be found."""

    def register(function):
        WAYS[function.__name__] = (cause, what)
        return function

    return register


def held():
    """Return the time, but that in which this thread waits for a CPU does not pass."""
    waited = Path("/proc/thread-self/schedstat").read_text().split()[1]
    return time.perf_counter() - int(waited) / 1e9


def computing(function):
    """Call a function until this thread has computed long enough."""
    end = time.thread_time() + SECONDS
    while time.thread_time() < end:
        function()


@functools.cache
def rows():
    return [f"row {number}" for number in range(300_000)]


@functools.cache
def tree():
    return {str(number): [number, {"a": str(number)}] for number in range(20_000)}


def quietly(function, *arguments):
    """Call without the collector, which is another handler's matter."""
    gc.disable()
    try:
        return function(*arguments)
    finally:
        gc.enable()


@way("cpu", "computing")
async def cpu_loop():
    end = time.thread_time() + SECONDS
    number = 0
    while time.thread_time() < end:
        number += 1


@way("blocking", "sleep")
async def time_sleep():
    time.sleep(SECONDS)  # noqa: ASYNC251 - this is what it is for


def slow_server():
    """Answer requests late, in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(10_000)
                time.sleep(SECONDS)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")

    threading.Thread(target=serve, daemon=True, name="slow server").start()
    return listener.getsockname()[1]


@way("blocking", "HTTP")
async def sync_http():
    port = PORT
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:  # noqa: ASYNC210
        response.read()


@way("cpu", "JSON")
async def json_dumps():
    computing(lambda: json.dumps(rows()))


@way("cpu", "JSON")
async def json_loads():
    text = json.dumps(rows())
    computing(lambda: json.loads(text))


@way("cpu", "regular expression")
async def regex():
    computing(lambda: re.match(r"(a+)+$", "a" * 18 + "b"))


@way("cpu", "pickling")
async def pickling():
    quietly(computing, lambda: pickle.dumps(tree()))


@way("gc", "gc.collect")
async def garbage():
    heap = quietly(lambda: [[] for _ in range(700_000)])
    end = time.thread_time() + 2 * SECONDS
    while time.thread_time() < end:
        gc.collect()
    del heap


@way("blocking", "sleep in native code that keeps the GIL")
async def native_sleep():
    _python.usleep(int(SECONDS * 1e6))


def sleep_with_gil():
    _python.usleep(int(SECONDS * 1e6))


@way("gil", "sleep that kept the GIL")
async def native_elsewhere():
    await anyio.to_thread.run_sync(sleep_with_gil)


def long_sum():
    # One call in C, so that the GIL is not given up in between.
    return sum(range(25_000_000))


@way("gil", "computing that kept the GIL")
async def python_elsewhere():
    await anyio.to_thread.run_sync(long_sum)


@way("blocking", "lock")
async def lock_wait():
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(SECONDS, lock.release).start()
    with lock:
        pass


@way("blocking", "file")
async def fsync():
    # /tmp is in memory on many machines, where this would take no time.
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        end = held() + SECONDS
        # On a machine that hardly lets us run, enough is enough.
        patience = time.perf_counter() + 10 * SECONDS
        while held() < end and time.perf_counter() < patience:
            file.write(bytes(4_000))
            file.flush()
            os.fsync(file.fileno())


@way("blocking", "subprocess")
async def subprocess_run():
    subprocess.run(["sleep", str(SECONDS)], check=True)  # noqa: ASYNC221


_getaddrinfo = _socket.getaddrinfo


def resolver(host, *arguments):
    """Stand for a name server that does not answer."""
    if host == "slow.invalid":
        time.sleep(SECONDS)
    return _getaddrinfo(host, *arguments)


@way("blocking", "DNS")
async def dns():
    with contextlib.suppress(OSError):
        socket.getaddrinfo("slow.invalid", 80)


@way("cpu", "compression")
async def compression():
    data = os.urandom(1_000_000)
    computing(lambda: zlib.compress(data))


@way("cpu", "hashing")
async def hashing():
    computing(lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 50_000))


@way("cpu", "SQL")
async def sqlite():
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        query = (
            "WITH RECURSIVE count(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM count LIMIT 200000)"
            " SELECT sum(x) FROM count"
        )
        computing(lambda: database.execute(query).fetchall())


@way("cpu", "copying")
async def deep_copy():
    quietly(computing, lambda: copy.deepcopy(list(tree().values())[:3_000]))


@way("cpu", "sorting")
async def sorting():
    backwards = [row[::-1] for row in rows()]
    computing(lambda: sorted(backwards))


@way("cpu", "numeric code")
async def numpy():
    numbers = np.arange(400_000.0)
    computing(lambda: np.sin(numbers))


class SlowHandler(logging.Handler):
    def emit(self, record):
        time.sleep(SECONDS)


@way("blocking", "logging")
async def slow_logging():
    logging.getLogger("slow").warning("this takes a while")


def hogs(count):
    """Start processes that compute for ever, and wait until they do."""
    nice = max(0, 10 - os.getpriority(os.PRIO_PROCESS, 0))
    code = "import os, sys; os.nice(int(sys.argv[1])); print(flush=True)\nwhile True: pass"
    found = []
    for _ in range(count):
        process = subprocess.Popen(["python3", "-S", "-c", code, str(nice)], stdout=subprocess.PIPE)
        found.append(process)
    for process in found:
        process.stdout.readline()
    return found


# The last one: whoever has given up priority cannot take it back.
@way("starved", "other processes had the CPUs")
async def starvation():
    loop_thread = threading.get_native_id()
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(loop_thread, {min(cpus)})
    processes = await anyio.to_thread.run_sync(hogs, 6)
    for process in processes:
        os.sched_setaffinity(process.pid, {min(cpus)})
    os.setpriority(os.PRIO_PROCESS, loop_thread, 19)
    try:
        await anyio.sleep(0.1)
        # Too little to hold the loop by itself.
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        os.sched_setaffinity(loop_thread, cpus)
        for process in processes:
            process.stdout.close()
            await anyio.to_thread.run_sync(process.wait)


def endpoint(function):
    """Return a handler of requests that blocks."""

    @functools.wraps(function)
    async def handle(request):
        await function()
        # What is collected later is the next handler's trouble.
        return PlainTextResponse(request.path_params["item"])

    return handle


async def blocks(_):
    """Tell what the watchdog has found."""
    return JSONResponse([dataclasses.asdict(block) for block in statistics().recent])


@contextlib.asynccontextmanager
async def lifespan(_):
    global PORT  # noqa: PLW0603
    PORT = slow_server()
    rows(), tree()
    _socket.getaddrinfo = resolver
    logging.getLogger("slow").addHandler(SlowHandler())
    logging.getLogger("slow").propagate = False
    yield


PORT = 0
app = Starlette(
    routes=[
        Route("/blocks", blocks),
        *(Route(f"/{name}/{{item}}", endpoint(globals()[name])) for name in WAYS),
    ],
    lifespan=lifespan,
    middleware=[Middleware(Watchdog)],
)

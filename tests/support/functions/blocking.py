# ruff: noqa: ASYNC221, ASYNC230, ASYNC251 - blocking is what they are for
"""Handlers that hold the event loop, and some that only look like it; read, and never run."""

import asyncio
import concurrent.futures
import functools
import hashlib
import threading
import time
import urllib.request

import anyio.to_thread
from starlette.endpoints import HTTPEndpoint
from starlette.responses import Response

from offload import offload


@offload
def count(n):
    return n


def helper():
    time.sleep(1)


def deep(n):
    return deeper(n)


def deeper(n):
    return hashlib.pbkdf2_hmac("sha256", b"", b"", n)


def cyclic():
    return cyclic()


class Api:
    pause = time.sleep

    @property
    def slow(self):
        raise AssertionError

    async def show(self):
        self.fetch()
        _ = self.slow

    def fetch(self):
        return urllib.request.urlopen("http://127.0.0.1")

    @staticmethod
    async def alone():
        time.sleep(1)

    async def through_class(self):
        Api.pause(1)


async def by_module():
    time.sleep(1)


async def by_alias():
    from time import sleep as doze

    doze(1)


async def by_local_module():
    import subprocess as s

    s.run(["true"], check=True)


async def by_helper():
    helper()


async def by_two_helpers():
    return [deep(1) for _ in range(3)]


async def by_wrapped():
    return count.__wrapped__(1)


async def by_instance():
    event = threading.Event()
    event.wait()


async def by_context():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(len, "")
    concurrent.futures.wait([waiting])


async def by_awaited_helper():
    await by_module()


async def in_thread():
    await anyio.to_thread.run_sync(time.sleep, 1)
    await asyncio.to_thread(lambda: time.sleep(1))


async def in_nested():
    def later():
        time.sleep(1)

    return later


async def shadowed(time):
    time.sleep(1)


async def shadowed_in_comprehension(items):
    return [helper() for helper in items]


async def offloaded():
    return await count(1)


async def innocent():
    event = asyncio.Event()
    await event.wait()
    cyclic()
    await asyncio.sleep(0)
    open("/dev/null").read()  # noqa: SIM115, PTH123 - as people write it
    sum(range(10))


def closed_over(blocking):
    async def inner():
        blocking(1)

    return inner


def decorate(function):
    @functools.wraps(function)
    async def wrapper(*args):
        return await function(*args)

    return wrapper


class Item(HTTPEndpoint):
    async def get(self, request):
        time.sleep(1)


class Slow:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


async def page(request):
    return Response()

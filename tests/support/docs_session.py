"""Does with one application what a page of `docs/` does with it; run in a process of its own.

Reads JSON from standard input: the module of the application, requests and pieces of code. The
application is called as a server would call it, with its lifespan, over httpx's ASGI transport.
"""

import ast
import asyncio
import getopt
import importlib
import json
import shlex
import sys
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import httpx

from tests.support.docs_pages import matches

_BASE = "http://127.0.0.1:8000"


@asynccontextmanager
async def started(app):
    """Send an application through its lifespan, if it has one."""
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    await to_app.put({"type": "lifespan.startup"})
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    running = asyncio.create_task(app(scope, to_app.get, from_app.put))
    answer = asyncio.create_task(from_app.get())
    await asyncio.wait({running, answer}, return_when=asyncio.FIRST_COMPLETED)
    assert answer.done(), f"the application has no lifespan: {running.exception()!r}"
    assert answer.result()["type"] == "lifespan.startup.complete", answer.result()
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await running


async def curl(client, line):
    """Make the request that `curl` would make, and return what it would print."""
    shown, (url,) = getopt.gnu_getopt(
        shlex.split(line)[1:], "isNX:H:d:F:", ["data=", "header=", "include"]
    )
    headers, data, method, includes, files = {}, None, None, False, {}
    for option, value in shown:
        match option:
            case "-H" | "--header":
                name, _, text = value.partition(":")
                headers[name] = text.strip()
            case "-d" | "--data":
                data = value
            case "-F":
                name, _, path = value.partition("=@")
                files[name] = (path, Path(path).read_bytes())  # noqa: ASYNC240 - some lines
            case "-X":
                method = value
            case "-i" | "--include":
                includes = True
    assert url.startswith(_BASE), url
    method = method or ("POST" if data is not None or files else "GET")
    response = await client.request(
        method, url.removeprefix(_BASE), headers=headers, content=data, files=files, timeout=60
    )
    text = response.text
    if includes:
        head = [f"HTTP/1.1 {response.status_code} {HTTPStatus(response.status_code).phrase}"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        text = "\n".join([*head, "", text])
    return response.status_code, text


async def main(given):
    """Do all of it, and say what is not as the page says.

    Raises:
        AssertionError: something is not.
    """
    if given["app"] is None:
        await run_pieces(given["pieces"])
        return
    app = importlib.import_module(given["app"]).app
    # Raised in the server, answered with 500 to the client: as under uvicorn.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with started(app), httpx.AsyncClient(transport=transport, base_url=_BASE) as client:
        for place, line, output in given["requests"]:
            status, printed = await curl(client, line)
            if output:
                assert matches(output, printed), f"{place}: {line} printed:\n{printed}"
            else:
                assert status < HTTPStatus.BAD_REQUEST, f"{place}: {line}: {status} {printed}"
        await run_pieces(given["pieces"])


async def run_pieces(pieces):
    """Run code as if it stood in an async function of its module."""
    for place, home, text in pieces:
        module = importlib.import_module(home.removesuffix(".py"))
        code = compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        # The code of a page that is tested here, and of nobody else.
        running = eval(code, dict(vars(module)))  # noqa: S307
        if running is not None:
            await running


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))

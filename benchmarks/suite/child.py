"""The process of a measurement that is made inside one: runs `inside` of a scenario's module.

    python -m benchmarks.suite.child benchmarks.scaling offload-forkserver '{"loop": "uvloop"}'

`inside` is a coroutine function of a contender and parameters; "loop" among these is the event loop
it runs on. Prints what it returns as the last line, as JSON, and ends at once: a contender that
does not end by itself is not waited for.

Imports nothing at its top: the workers of some contenders import the main module again, and what
they pay for that should be theirs, not the benchmark's.
"""

from __future__ import annotations


def main(module: str, contender: str, text: str) -> None:
    """Measure and print."""
    import asyncio
    import contextlib
    import importlib
    import json
    import os

    import psutil

    from benchmarks.suite.contenders import CONTENDERS

    parameters = json.loads(text)
    inside = importlib.import_module(module).inside
    factory = None
    if parameters.get("loop") == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        result = runner.run(inside(CONTENDERS[contender], parameters))
    os.write(1, b"\n" + json.dumps(result).encode())
    for child in psutil.Process().children(recursive=True):
        # Some end with the one that was killed before them.
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])

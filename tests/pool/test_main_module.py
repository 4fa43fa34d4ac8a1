"""Functions and classes of `__main__`, for every way in which a program can be started."""

import json
import os
import py_compile
import signal
import socket
import subprocess
import sys
import time
import zipapp
from pathlib import Path

import pytest

from tests.support.busy_machine import lines_about_the_test
from tests.support.processes import PATIENCE, free_port

ROOT = Path(__file__).parents[2]
# Seconds: far from the minute that a worker has to start.
AT_ONCE = 30.0

# What a program has at the top; the rest is how it is started.
DEFINITIONS = """
from __future__ import annotations

import asyncio
import enum
import os
import sys
from dataclasses import dataclass, field
from typing import ClassVar

from offload import Pool, offload, FunctionError

NOTE = os.environ.get("NOTE")
if NOTE:
    with open(NOTE, "a") as file:
        file.write(f"{os.getpid()} {__name__}\\n")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Row:
    kinds: ClassVar[list[str]] = ["row"]
    key: int
    color: Color = Color.RED
    tags: tuple[str, ...] = field(default=())


class TooMuchError(Exception):
    pass


calls = 0


@offload
def process(row):
    global calls
    calls += 1
    assert type(row) is Row, type(row)
    assert isinstance(row.color, Color)
    return Row(row.key + calls, Color.BLUE, ("done",)), os.getpid(), Row.kinds


@offload
def twice(value):
    return helper(value)


def helper(value):
    return 2 * value


@offload
def rows(until):
    for key in range(until):
        yield Row(key)


@offload
def fail(text):
    raise TooMuchError(text)


@dataclass(frozen=True)
class Scale:
    factor: int

    @offload
    def times(self, value):
        return self.factor * value

    @offload
    @classmethod
    def name(cls):
        return cls.__qualname__


async def use():
    row, pid, kinds = await process(Row(1))
    assert type(row) is Row, type(row)
    assert row == Row(2, Color.BLUE, ("done",)), row
    assert row.color is Color.BLUE
    assert pid != os.getpid()
    assert kinds == ["row"]
    assert await twice(4) == 8
    assert await twice.map([1, 2, 3]) == [2, 4, 6]
    assert [row async for row in rows.stream(2)] == [Row(0), Row(1)]
    assert await Scale(3).times(5) == 15
    assert await Scale.name() == "Scale"
    try:
        await fail("too much")
    except TooMuchError as error:
        assert error.args == ("too much",)
        assert "in fail" in str(error.__cause__), error.__cause__
    else:
        raise AssertionError
    pool = Pool.named()
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(pool.executor(), helper, 5) == 10
    assert await pool.run(helper, 6) == 12
    print("all is well")


async def main():
    async with Pool("default", max_workers=1, start_method=os.environ.get("METHOD")):
        await use()
"""
GUARDED = (
    DEFINITIONS
    + """
if __name__ == "__main__":
    asyncio.run(main())
"""
)


def environment(folder, **variables):
    """Return the environment of a program that finds `offload` and what is in `folder`."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    return os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"} | variables


def run(folder, *arguments, stdin="", **variables):
    """Run Python until it ends."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=folder,
        env=environment(folder, **variables),
        check=False,
    )
    done.stderr = lines_about_the_test(done.stderr)
    return done


def expect_well(done):
    """Expect that a program went through `use`."""
    assert (done.stdout, done.stderr, done.returncode) == ("all is well\n", "", 0)


methods = pytest.mark.parametrize("method", ["forkserver", "spawn"])


class TestStartedFromFile:
    @methods
    def test_script_works(self, tmp_path, method):
        """`python app.py`: functions of the script run, and its classes stay the same classes."""
        (tmp_path / "app.py").write_text(GUARDED)
        expect_well(run(tmp_path, "app.py", METHOD=method))

    @methods
    def test_module_works(self, tmp_path, method):
        """`python -m app` is as good."""
        (tmp_path / "app.py").write_text(GUARDED)
        expect_well(run(tmp_path, "-m", "app", METHOD=method))

    @methods
    def test_package_works(self, tmp_path, method):
        """`python -m package` runs its `__main__.py`, with relative imports."""
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "other.py").write_text("OTHER = 5\n")
        (package / "__main__.py").write_text(
            GUARDED.replace("import asyncio\n", "import asyncio\nfrom .other import OTHER\n", 1)
        )
        expect_well(run(tmp_path, "-m", "package", METHOD=method))

    def test_console_script_works(self, tmp_path):
        """A script without suffix that imports the program, as pip makes it, is not run again."""
        (tmp_path / "program.py").write_text(DEFINITIONS)
        script = tmp_path / "program"
        script.write_text(
            "import asyncio, sys\n"
            "from program import main\n"
            "print('script', file=sys.stderr)\n"
            "sys.exit(asyncio.run(main()))\n"
        )
        script = script.rename(tmp_path / "run-program")
        done = run(tmp_path, script)
        assert (done.stdout, done.stderr, done.returncode) == ("all is well\n", "script\n", 0)

    def test_folder_works(self, tmp_path):
        """`python folder` runs its `__main__.py`."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "__main__.py").write_text(GUARDED)
        expect_well(run(tmp_path, "folder"))

    def test_archive_works(self, tmp_path):
        """`python app.pyz` runs the `__main__.py` inside."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "__main__.py").write_text(GUARDED)
        zipapp.create_archive(tmp_path / "folder", tmp_path / "app.pyz")
        expect_well(run(tmp_path, "app.pyz"))

    def test_compiled_script_works(self, tmp_path):
        """`python app.pyc` needs no source."""
        (tmp_path / "app.py").write_text(GUARDED)
        py_compile.compile(str(tmp_path / "app.py"), cfile=str(tmp_path / "app.pyc"))
        (tmp_path / "app.py").unlink()
        expect_well(run(tmp_path, "app.pyc"))

    def test_script_is_found_from_another_folder(self, tmp_path):
        """The program may change its working directory."""
        (tmp_path / "app.py").write_text(
            GUARDED.replace("asyncio.run(main())", "os.chdir('/')\n    asyncio.run(main())")
        )
        expect_well(run(tmp_path, "app.py"))

    def test_main_is_run_again_only_when_it_is_needed(self, tmp_path):
        """A program whose functions and classes are elsewhere is not run in its workers."""
        (tmp_path / "work.py").write_text(DEFINITIONS)
        (tmp_path / "app.py").write_text(
            "import asyncio, os\n"
            "print('began')\n"
            "import work\n"
            "asyncio.run(work.main())\n"  # no guard, and no need of one
        )
        done = run(tmp_path, "app.py")
        assert (done.stdout, done.stderr) == ("began\nall is well\n", "")

    def test_main_is_run_again_once_in_each_worker(self, tmp_path):
        """A worker runs the script once, under the name of multiprocessing."""
        (tmp_path / "app.py").write_text(GUARDED)
        expect_well(run(tmp_path, "app.py", NOTE=str(tmp_path / "note")))
        lines = [line.split() for line in (tmp_path / "note").read_text().splitlines()]
        assert [name for _, name in lines] == ["__main__", "__mp_main__"]
        assert len({pid for pid, _ in lines}) == 2

    def test_class_of_main_crosses_to_a_function_elsewhere_and_back(self, tmp_path):
        """A class of the script can be an argument and a result of any function."""
        (tmp_path / "work.py").write_text(
            "from offload import offload\n\n\n@offload\ndef echo(value):\n    return value\n"
        )
        (tmp_path / "app.py").write_text(
            DEFINITIONS
            + """
import work


async def main():
    async with Pool("default", max_workers=1):
        row = await work.echo(Row(1, Color.BLUE))
        assert type(row) is Row, type(row)
        assert row == Row(1, Color.BLUE), row
        print("all is well")


if __name__ == "__main__":
    asyncio.run(main())
"""
        )
        expect_well(run(tmp_path, "app.py"))


class TestTyped:
    """Code that has no file: it is sent by value, with cloudpickle."""

    PROGRAM = DEFINITIONS + "\nasyncio.run(main())\n"

    def test_command_works(self, tmp_path):
        """`python -c`."""
        expect_well(run(tmp_path, "-c", self.PROGRAM))

    @methods
    def test_standard_input_works(self, tmp_path, method):
        """`python - < file`, which is what a notebook is to us."""
        expect_well(run(tmp_path, "-", stdin=self.PROGRAM, METHOD=method))

    @pytest.mark.skipif(sys.version_info < (3, 15), reason="lazy imports are new in Python 3.15")
    def test_lazy_imports_are_sent_as_what_they_import(self, tmp_path):
        """A typed function uses modules and names of `lazy import` statements, used or not."""
        (tmp_path / "lazy_module.py").write_text("def double(number):\n    return 2 * number\n")
        program = """
lazy import json
lazy import lazy_module
lazy from lazy_module import double

import asyncio
from offload import offload, Pool

@offload
def work(number):
    return json.dumps([lazy_module.double(number), double(number)])

async def main():
    async with Pool("default", max_workers=1):
        assert await work(2) == "[4, 4]"
        assert json.loads(await work(3)) == [6, 6]  # json was used here, too
        print("all is well")

asyncio.run(main())
"""
        expect_well(run(tmp_path, "-", stdin=program))

    def test_without_cloudpickle_the_error_says_what_to_install(self, tmp_path):
        """The error says that a typed function needs cloudpickle, or a module, and nothing runs."""
        program = "import sys\nsys.modules['cloudpickle'] = None\n" + DEFINITIONS.replace(
            "from __future__ import annotations", ""
        )
        program += """
async def main():
    async with Pool("default", max_workers=1):
        try:
            await twice(4)
        except FunctionError as error:
            print(error)

asyncio.run(main())
"""
        done = run(tmp_path, "-c", program)
        assert (done.stderr, done.returncode) == ("", 0)
        assert "pip install 'offload[interactive]'" in done.stdout
        assert "put the function into a module" in done.stdout

    def test_argument_that_does_not_pickle_is_named(self, tmp_path):
        """What cannot be sent by value either is named as ever."""
        program = (
            DEFINITIONS
            + """
import threading
from offload import ArgumentError

async def main():
    async with Pool("default", max_workers=1):
        try:
            await twice([threading.Lock()])
        except ArgumentError as error:
            print(error)

asyncio.run(main())
"""
        )
        done = run(tmp_path, "-c", program)
        assert done.stderr == ""
        assert "argument 'value', at value[0], cannot be pickled" in done.stdout


class TestNoGuard:
    def test_program_without_a_guard_is_told_at_once(self, tmp_path):
        """A script that does its work when imported is an error that says so, not a second run."""
        (tmp_path / "app.py").write_text(DEFINITIONS + "\nasyncio.run(main())\n")
        began = time.monotonic()
        done = run(tmp_path, "app.py", NOTE=str(tmp_path / "note"))
        assert time.monotonic() - began < AT_ONCE
        assert done.returncode == 1
        assert "all is well" not in done.stdout
        assert "FunctionNotFoundError" in done.stderr
        assert "calls process when it is imported" in done.stderr
        assert 'if __name__ == "__main__":' in done.stderr
        assert len((tmp_path / "note").read_text().splitlines()) == 2

    SERVER = """
import asyncio
import os
import uvicorn
from offload import offload, Pool
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

with open(os.environ["NOTE"], "a") as file:
    file.write(f"{os.getpid()}\\n")


@offload
def heavy(value):
    return value, os.getpid()


async def endpoint(request):
    try:
        return JSONResponse(await heavy(5))
    except Exception as error:
        return JSONResponse(f"{type(error).__name__}: {error}")


app = Starlette(routes=[Route("/", endpoint)])
"""

    @pytest.mark.parametrize(
        "ending,option",
        [
            ("uvicorn.run(app, host='127.0.0.1', port=PORT, log_level='error')", ""),
            ("uvicorn.run(app, uds=SOCKET, log_level='error')", "uds"),
        ],
        ids=["port", "unix socket"],
    )
    def test_server_without_a_guard_is_never_started_twice(self, tmp_path, ending, option):
        """The call fails with what to do, at once and each time, and the server serves on."""
        port = free_port()
        ending = ending.replace("PORT", str(port)).replace("SOCKET", repr(str(tmp_path / "s")))
        (tmp_path / "app.py").write_text(self.SERVER + ending + "\n")
        with server(tmp_path, port if not option else None) as (process, ask):
            for _ in range(2):
                began = time.monotonic()
                answer = ask()
                assert time.monotonic() - began < AT_ONCE
                assert answer.startswith("FunctionNotFoundError: __main__:heavy did not run")
                assert "starts a server at" in answer
                assert 'if __name__ == "__main__":' in answer
            note = (tmp_path / "note").read_text().split()
            assert note[0] == str(process.pid)
            assert len(note) == len(set(note)) <= 3  # once in a worker, whoever asks how often

    def test_guarded_server_works(self, tmp_path):
        """The same program with a guard answers from a worker."""
        port = free_port()
        ending = (
            "if __name__ == '__main__':\n"
            f"    uvicorn.run(app, host='127.0.0.1', port={port}, log_level='error')\n"
        )
        (tmp_path / "app.py").write_text(self.SERVER + ending)
        with server(tmp_path, port) as (process, ask):
            value, pid = ask()
            assert value == 5
            assert pid != process.pid


class server:  # noqa: N801 - reads as what it gives
    """A server program for the time of a block, and a function that asks it."""

    def __init__(self, folder, port):
        self.folder = folder
        self.port = port

    def __enter__(self):
        """Start it, and return when it answers connections."""
        self.process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=self.folder,
            env=environment(self.folder, NOTE=str(self.folder / "note")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
            except OSError:
                assert self.process.poll() is None, self.process.communicate()[0]
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.02)
            else:
                return self.process, self.ask

    def connect(self):
        """Return a connection to the server."""
        if self.port is not None:
            return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(self.folder / "s"))
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self):
        """Return what `/` answers."""
        with self.connect() as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as answer:
                return json.loads(answer.read().partition(b"\r\n\r\n")[2])

    def __exit__(self, *_):
        """End it as Ctrl+C does."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()

"""What hardened workers cannot do, and what they still can; by trying."""

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Literal

import anyio
import numpy as np
import pytest

from offload import FunctionNotFoundError, Hardening, Pool, WorkerStartError, offload
from tests.support import inside
from tests.support.functions import pool as pool_functions
from tests.support.functions import walled as functions
from tests.support.processes import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="walls of Linux"),
]
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
METHODS = ("forkserver", "spawn")
_NO_CAPABILITIES = "0000000000000000"


def opened(name: str, **options: Any) -> Pool:
    """Return an open pool of one worker."""
    pool = Pool(name, max_workers=1, spare_workers=0, os_priority="normal", **options)
    anyio.run(pool.open)
    return pool


def closed(pool: Pool) -> None:
    """Close a pool, and forget it."""
    anyio.run(partial(pool.aclose, drain=1.0))
    inside.forget(pool)


@pytest.fixture(scope="module", params=METHODS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """A hardened pool, as far as this system allows that."""
    pool = opened(
        f"walls {request.param}", start_method=request.param, harden=Hardening(strict=False)
    )
    yield pool
    closed(pool)


@pytest.fixture(scope="module")
def plain() -> Iterator[Pool]:
    """A pool that is not: what cannot be done there either, this system forbids anyhow."""
    pool = opened("no walls")
    yield pool
    closed(pool)


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder."""
    return [each.name for each in folder.iterdir()]


def dumps_to_files() -> bool:
    """Return whether processes of this system that abort leave files."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return bool(hard) and not Path("/proc/sys/kernel/core_pattern").read_text().startswith("|")


def with_walls(pool: Pool, *walls: str) -> None:
    """Leave the test where the system has no such walls, as `missing_walls` tells."""
    if missing := set(walls) & set(pool.statistics().missing_walls):
        pytest.skip(f"this system has no {', '.join(sorted(missing))}")


@ASYNCIO
@pytest.mark.parametrize("name", functions.NETWORKS)
async def test_no_socket_can_be_made(pool: Pool, plain: Pool, name: str) -> None:
    """No task, and no program that it starts, reaches a network or another process by a socket."""
    with_walls(pool, "network")
    with anyio.fail_after(PATIENCE):
        assert await plain.run(functions.attempt, "NETWORKS", name) == "done"
        assert await pool.run(functions.attempt, "NETWORKS", name) == "EPERM"


@ASYNCIO
@pytest.mark.parametrize("name", [*functions.FOLDERS, *functions.CHANGES])
async def test_no_file_can_be_changed(pool: Pool, plain: Pool, tmp_path: Path, name: str) -> None:
    """Files are read-only, with all that belongs to them."""
    with_walls(pool, "files")
    file = tmp_path / "file"
    file.write_text("whole")
    group = "FOLDERS" if name in functions.FOLDERS else "CHANGES"
    with anyio.fail_after(PATIENCE):
        found = await pool.run(functions.attempt, group, name, str(tmp_path))
        assert found in ("EACCES", "EPERM")
        assert names_in(tmp_path) == ["file"]
        assert file.read_text() == "whole"
        # The control: the same task, without walls.
        assert await plain.run(functions.attempt, group, name, str(tmp_path)) == "done"


@ASYNCIO
@pytest.mark.parametrize("method", METHODS)
async def test_writable_folder_is_the_exception(
    new_pool: Callable[..., Pool], tmp_path: Path, method: str
) -> None:
    """What is named can be written in, but for what the kernel has no right for; nothing else."""
    within, beside = tmp_path / "within", tmp_path / "beside"
    for folder in (within, beside):
        folder.mkdir()
        (folder / "file").write_text("whole")
    harden = Hardening(writable=[within], strict=False)
    async with new_pool(max_workers=1, start_method=method, harden=harden) as pool:
        with_walls(pool, "files")
        for name in functions.CHANGES:
            assert await pool.run(functions.attempt, "CHANGES", name, str(within)) == "EPERM"
        for name in ("create", "append", "truncate", "link", "make a folder", "remove"):
            assert await pool.run(functions.attempt, "FOLDERS", name, str(within)) == "done"
            found = await pool.run(functions.attempt, "FOLDERS", name, str(beside))
            assert found in ("EACCES", "EPERM", "EXDEV")


@ASYNCIO
@pytest.mark.parametrize("whose", ["server", "supervisor"])
@pytest.mark.parametrize("name", functions.PROCESSES)
async def test_no_other_process_can_be_touched(pool: Pool, name: str, whose: str) -> None:
    """Neither signals, nor its memory, nor its limits: not of the server, nor of the supervisor."""
    walls = ("signals",) if name.startswith("signal") else ("system calls", "files")
    with_walls(pool, *walls)
    pid = os.getpid() if whose == "server" else inside.supervisor_pid(pool)
    with anyio.fail_after(PATIENCE):
        assert await pool.run(functions.attempt, "PROCESSES", name, pid) in ("EPERM", "EACCES")


@ASYNCIO
@pytest.mark.parametrize("name", ["signal", "memory", "environment", "limits"])
async def test_without_walls_processes_can_be_touched(plain: Pool, name: str) -> None:
    """The control of the test before: workers are no sandbox by themselves."""
    with anyio.fail_after(PATIENCE):
        assert await plain.run(functions.attempt, "PROCESSES", name, os.getpid()) == "done"


@ASYNCIO
@pytest.mark.parametrize("name", functions.OTHERS)
async def test_nothing_else_opens_a_way_out(pool: Pool, name: str) -> None:
    """No namespaces, no rings, no semaphores of the machine, no other user."""
    with_walls(pool, "system calls", "capabilities")
    with anyio.fail_after(PATIENCE):
        found = await pool.run(functions.attempt, "OTHERS", name)
        assert found == ("ENOSYS" if name == "io_uring" else "EPERM")


@ASYNCIO
@pytest.mark.parametrize("method", METHODS)
async def test_no_core_dump_is_left(
    new_pool: Callable[..., Pool], plain: Pool, tmp_path: Path, method: str
) -> None:
    """What a task had in memory is in no file, wherever it may write."""
    harden = Hardening(writable=[tmp_path], strict=False)
    async with new_pool(max_workers=1, start_method=method, harden=harden) as pool:
        with_walls(pool, "dumps")
        assert not await pool.run(functions.leaves_core_dump, str(tmp_path))
    assert names_in(tmp_path) == []
    if dumps_to_files():
        assert await plain.run(functions.leaves_core_dump, str(tmp_path))


async def test_what_tasks_do_is_done(pool: Pool) -> None:
    """Pairs of sockets, programs and their end, memory, large payloads, streams."""
    values = np.ones(3_000_000, dtype="u1")
    with anyio.fail_after(PATIENCE):
        assert await pool.run(functions.use_what_is_allowed) == [b"pair", b"shell\n", -9, 3]
        assert (await pool.run(pool_functions.echo, values)).sum() == 3_000_000
        limited = offload(pool=pool, max_memory_bytes=1 << 26, timeout=PATIENCE)(
            pool_functions.echo
        )
        assert await limited("limited") == "limited"
        found = await pool.run(functions.status)
    missing = pool.statistics().missing_walls
    if "capabilities" not in missing:
        names = ("CapInh", "CapPrm", "CapEff", "CapAmb")
        assert [found[name] for name in names] == [_NO_CAPABILITIES] * len(names)
    if "privileges" not in missing:
        assert found["NoNewPrivs"] == "1"


@ASYNCIO
@pytest.mark.parametrize("method", METHODS)
async def test_worker_is_another_user(new_pool: Callable[..., Pool], method: str) -> None:
    """A server that is root has its workers be somebody else; any other is told that it cannot."""
    harden = Hardening(user=65534, strict=os.getuid() != 0)
    # The code of these tests may be where only root can look: the supervisor loads it before.
    preload = [functions.__name__, "numpy"] if method == "forkserver" else []
    pool = new_pool(max_workers=1, start_method=method, harden=harden, preload=preload)
    if os.getuid() != 0:
        with pytest.raises(WorkerStartError, match=r"does not allow all of it: .*user"):
            await pool.open()
        return
    try:
        async with pool:
            uid, gid, groups, capabilities = await pool.run(functions.who)
            touched = await pool.run(functions.attempt, "PROCESSES", "signal", os.getpid())
    except (WorkerStartError, FunctionNotFoundError):
        # Of a fresh interpreter it depends on where that is: who cannot read it does not start.
        assert method == "spawn"
        assert not _others_can_read(sys.executable)
        return
    assert (uid, capabilities) == (65534, _NO_CAPABILITIES)
    assert 0 not in (gid, *groups)
    assert touched == "EPERM"


_REGISTERS = """
import asyncio
from offload import Hardening, Pool
from tests.support.functions.walled import register_shared_memory

async def main():
    async with Pool("p", start_method=METHOD, harden=HARDEN) as pool:
        await pool.run(register_shared_memory, NAME)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("harden", [Hardening(strict=False), False], ids=["hardened", "control"])
def test_no_file_is_removed_by_way_of_the_server(
    method: str, harden: Hardening | Literal[False], tmp_path: Path
) -> None:
    """A hardened worker cannot have multiprocessing's tracker unlink the memory of others."""
    memory = SharedMemory(create=True, size=100)
    words = {"METHOD": method, "HARDEN": harden, "NAME": memory.name}
    text = _REGISTERS
    for word, value in words.items():
        text = text.replace(word, repr(value))
    program = tmp_path / "program.py"
    program.write_text(text)
    try:
        subprocess.run(
            [sys.executable, program],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        is_there = memory.name in names_in(Path("/dev", "shm"))
        assert is_there is bool(harden)
    finally:
        memory.close()
        if harden:
            memory.unlink()
        else:
            resource_tracker.unregister(f"/{memory.name}", "shared_memory")


def _others_can_read(path: str) -> bool:
    real = Path(path).resolve()
    return all(each.stat().st_mode & 0o5 for each in (real, *real.parents))


# Landlock is refused, as containers do that know nothing of it: ENOSYS for its first call.
_WITHOUT_LANDLOCK = """
import ctypes, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7fff0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code)
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, struct.pack("@HP", len(steps), ctypes.addressof(buffer)), 0, 0) == 0
import asyncio, logging
from offload import Hardening, Pool, WorkerStartError
logging.basicConfig(stream=sys.stdout, format="%(message)s")

async def main():
    try:
        await Pool("strict", start_method=METHOD, harden=True).open()
    except WorkerStartError as error:
        print("refused:", error)
    lax = Hardening(strict=False)
    async with Pool("lax", start_method=METHOD, harden=lax, max_workers=2) as pool:
        print(pool.statistics().missing_walls)
        print(pool)
        await asyncio.gather(pool.run(abs, -1), pool.run(abs, -2))

asyncio.run(main())
"""


@pytest.mark.parametrize("method", METHODS)
def test_what_is_missing_is_told(method: str, tmp_path: Path) -> None:
    """Strict, no worker starts, and the error says why; else log, statistics and repr tell it."""
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(_WITHOUT_LANDLOCK).replace("METHOD", repr(method)))
    done = subprocess.run(
        [sys.executable, program], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    assert "refused: pool 'strict' cannot start workers" in done.stdout
    assert "does not allow all of it: files, signals." in done.stdout
    assert "('files', 'signals')" in done.stdout
    assert "hardened but for files, signals)" in done.stdout
    assert done.stdout.count("workers of pool 'lax' are hardened, except for: files, signals.") == 1


@ASYNCIO
@pytest.mark.parametrize("method", METHODS)
async def test_missing_writable_folder_is_told(
    new_pool: Callable[..., Pool], tmp_path: Path, method: str
) -> None:
    """A path that is not there is no wall with a hole of unknown size: the pool does not start."""
    harden = Hardening(writable=[tmp_path / "nothing"], strict=False)
    pool = new_pool(start_method=method, harden=harden)
    with anyio.fail_after(PATIENCE), pytest.raises(WorkerStartError, match=r"/nothing"):
        await pool.open()
    await pool.aclose()


def test_hardening_is_checked() -> None:
    """What makes no sense is told where it is written."""
    with pytest.raises(TypeError, match="several paths"):
        Hardening(writable="/tmp")  # noqa: S108 - not used
    with pytest.raises(TypeError, match="network must be True or False"):
        Hardening(network=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not root"):
        Hardening(user=0)
    with pytest.raises(TypeError, match="number or the name"):
        Hardening(user=True)
    assert Hardening(writable=["here"]).writable == (str(Path.cwd() / "here"),)
    assert "writable=('/x',)" in repr(Hardening(writable=["/x"]))


@ASYNCIO
async def test_unknown_user_is_told(new_pool: Callable[..., Pool]) -> None:
    """A name that this machine does not know is an error of opening the pool."""
    pool = new_pool(harden=Hardening(user="nobody by this name"))
    with pytest.raises(ValueError, match="no user 'nobody by this name'"):
        await pool.open()

"""`offload.testing`: blocks of the event loop are found and attributed, and leaks are listed."""

import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import trio

from offload import Pool
from offload.testing import (
    Footprint,
    LeakError,
    LoopBlock,
    LoopBlockDetector,
    LoopBlockedError,
    no_leaks,
)
from offload.testing._loop_blocks import _Figures, _waited_between
from tests.support.functions.decorated import (
    square,  # decorated: what calls need is imported by now
)
from tests.support.processes import PATIENCE

LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio")]
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
THRESHOLD = 0.05
LONG = 0.25  # much longer than the threshold: it is found on a busy machine too

# Every test here holds the loop itself.
held = pytest.mark.holds_loop("what is tested is that this is found")


def spin(seconds):
    """Burn CPU, as seen by the thread's own clock: other load makes it longer, not easier."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def sleep(seconds):
    """Sit in a blocking call."""
    time.sleep(seconds)


def compute_in_c(seconds):
    """Hold the GIL in C code, where no other thread can look."""
    value = list(range(200_000))
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pickle.dumps([value] * 30 + [[*value] for _ in range(30)])


async def blocks_of(hold, *, count=1, after=0.02):
    """Return what is found of a loop that is held so many times.

    A machine that lets this process wait, wait and wait hides a block: the detector errs on the
    side of silence. Then it is tried again; what is found too often is never made good.
    """
    for _ in range(10):
        with LoopBlockDetector(THRESHOLD, raises=False) as detector:
            for _ in range(count):
                await anyio.sleep(0.05)
                hold(LONG)
            await anyio.sleep(after)
        if len(detector.blocks) >= count:
            break
    return detector.blocks


@pytest.mark.anyio
@held
class TestBlocks:
    @pytest.mark.parametrize("hold", [spin, sleep, compute_in_c], ids=lambda hold: hold.__name__)
    async def test_block_is_found_with_its_line(self, hold):
        """A computation, a blocking call and C code under the GIL are found, and where it was."""
        blocks = await blocks_of(hold)
        assert blocks, "nothing was found"
        block = max(blocks, key=lambda block: block.seconds)
        assert block.seconds > THRESHOLD
        assert hold.__name__ in {frame.name for frame in block.stack}
        assert block.line.startswith(__file__)

    async def test_computing_and_waiting_are_told_apart(self):
        """CPU time is most of a computation, and next to nothing of a blocking call."""
        cpu = {}
        for hold in (spin, sleep):
            block = max(await blocks_of(hold), key=lambda block: block.seconds)
            cpu[hold] = block.cpu_seconds
        assert cpu[spin] > LONG / 2
        assert cpu[sleep] < LONG / 4

    async def test_leaving_the_context_raises(self):
        """What was found is raised, with every block, when the context is left."""

        async def hold():
            with LoopBlockDetector(THRESHOLD):
                await anyio.sleep(0.02)
                sleep(LONG)
                await anyio.sleep(0.02)

        with pytest.raises(LoopBlockedError, match="the event loop was held for") as caught:  # noqa: PT012 - as in `blocks_of`
            for _ in range(10):
                await hold()
        assert isinstance(caught.value, AssertionError)
        assert isinstance(caught.value.blocks[0], LoopBlock)

    async def test_block_up_to_the_end_is_found(self):
        """A block counts if the loop does not come round before the context is left."""
        for _ in range(10):  # as in `blocks_of`
            with LoopBlockDetector(THRESHOLD, raises=False) as detector:
                sleep(LONG)
            if detector.blocks:
                break
        assert len(detector.blocks) == 1

    async def test_other_exceptions_pass(self):
        """The exception of the body is not replaced."""
        with pytest.raises(KeyError), LoopBlockDetector(THRESHOLD):  # noqa: PT012 - as above
            sleep(LONG)
            raise KeyError

    async def test_each_block_is_one(self):
        """Two blocks with a turn of the loop between them are two."""
        assert len(await blocks_of(sleep, count=2, after=0.05)) == 2


async def notice_greedy_thread():
    """Let another thread hold the GIL, and return what was found."""
    go = threading.Event()
    thread = threading.Thread(target=lambda: (go.wait(), hold_gil(1.0)), name="greedy", daemon=True)
    thread.start()
    with LoopBlockDetector(THRESHOLD, raises=False) as detector:
        await anyio.sleep(0.05)
        go.set()
        with anyio.fail_after(20):
            while thread.is_alive():  # noqa: ASYNC110 - threads have no event for anyio
                await anyio.sleep(0.01)
    return detector.blocks


@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_gil_held_by_another_thread_is_found(run):
    """A thread that keeps the GIL holds the loop too; it is in `threads`."""

    def is_found() -> bool:
        coroutine = notice_greedy_thread if run is trio.run else notice_greedy_thread()
        return any("greedy" in block.threads for block in run(coroutine))

    # A stack is a sample: the watcher has to get the GIL as well, between two of its turns.
    assert any(is_found() for _ in range(15))


def hold_gil(seconds):
    """Keep the GIL, in C code that never gives it up, several times the threshold at a time."""
    value = [[str(number), number] for number in range(400_000)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pickle.dumps(value)


@pytest.mark.anyio
class TestNoFalseAlarm:
    async def test_idle_loop_is_free(self):
        """Waiting is not holding."""
        with LoopBlockDetector(THRESHOLD) as detector:
            await anyio.sleep(0.3)
        assert detector.blocks == []

    async def test_short_turns_are_free(self):
        """A loop that is busy with many short callbacks is not held."""
        with LoopBlockDetector(THRESHOLD) as detector:
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                spin(0.001)
                await anyio.lowlevel.checkpoint()
        assert detector.blocks == []

    @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
    async def test_starved_machine_is_no_block(self):
        """A loop that is kept from the CPU by other processes is not held by its own code."""
        loads = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"])  # noqa: ASYNC220
            for _ in range(4 * (os.cpu_count() or 1))
        ]
        try:
            with LoopBlockDetector(THRESHOLD) as detector:
                end = time.monotonic() + 1.0
                while time.monotonic() < end:
                    spin(0.001)
                    await anyio.lowlevel.checkpoint()
            assert detector.blocks == []
        finally:
            for load in loads:
                load.kill()
            for load in loads:
                load.wait()

    async def test_thread_that_ends_takes_no_wait_of_others_with_it(self):
        """What the threads have waited is told thread by thread: one that is gone has no part."""
        before = _Figures(0.0, {"loop": 1.0, "ends": 7.0}, None, 0.0)
        after = _Figures(1.0, {"loop": 1.5, "new": 0.25}, None, 0.0)
        assert _waited_between(before, after) == 0.75

    async def test_what_the_host_takes_is_no_block(self, monkeypatch):
        """A virtual machine that stands still for a while holds no loop."""
        stolen = [0.0]
        monkeypatch.setattr("offload.testing._loop_blocks.stolen_seconds", lambda: stolen[0])
        with LoopBlockDetector(THRESHOLD, raises=False) as detector:
            await anyio.sleep(0.02)
            time.sleep(LONG)  # noqa: ASYNC251 - as if the machine had been asleep
            stolen[0] += LONG
            await anyio.sleep(0.02)
        assert detector.blocks == []

    async def test_work_on_a_pool_is_free(self):
        """The loop stays free while workers compute."""
        async with Pool("testing", max_workers=2) as pool:
            with LoopBlockDetector(THRESHOLD) as detector:
                for number in range(50):
                    assert await pool.run(square, number) == number * number
        assert detector.blocks == []


@pytest.mark.parametrize("new_loop", LOOPS)
def test_between_two_runs_of_a_loop_nothing_is_held(new_loop):
    """What holds the GIL while the loop does not run is no block, also if nobody could look."""
    loop = new_loop()
    detector = LoopBlockDetector(THRESHOLD, raises=False)

    async def enter():
        detector.__enter__()
        await asyncio.sleep(0.03)

    async def leave():
        detector.__exit__(None, None, None)

    def run(coroutine):
        loop.run_until_complete(coroutine)

    run(enter())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10)
    try:
        spin(0.3)
        run(leave())
    finally:
        sys.setswitchinterval(interval)
    loop.close()
    assert detector.blocks == []


class TestOutsideOfALoop:
    def test_it_needs_a_loop(self):
        """Without an event loop there is nothing to watch, and the error says so."""
        with pytest.raises(RuntimeError, match="no event loop runs in this thread"):
            LoopBlockDetector().__enter__()

    def test_loop_that_ends_first_is_no_problem(self):
        """A detector may outlive its loop."""

        async def enter():
            return LoopBlockDetector(THRESHOLD).__enter__()

        detector = asyncio.run(enter())
        time.sleep(0.1)
        detector.__exit__(None, None, None)
        assert detector.blocks == []

    @pytest.mark.parametrize("system", ["without schedstat"])
    def test_without_figures_of_the_kernel_it_still_finds_blocks(self, monkeypatch, system):
        """Where the kernel does not count waiting, CPU time and the watcher's own clock decide."""
        monkeypatch.setattr("offload.testing._loop_blocks._waited_for_cpu", lambda: None)

        async def use(hold):
            with LoopBlockDetector(THRESHOLD, raises=False) as detector:
                await asyncio.sleep(0.02)
                hold(LONG)
                await asyncio.sleep(0.02)
            return detector.blocks

        assert asyncio.run(use(spin))


class TestLeaks:
    def test_nothing_is_nothing(self):
        """A block that leaves nothing behind passes."""
        with no_leaks(within=0.0) as before:
            assert before.left_behind(within=0.0) == []

    def test_open_descriptor_is_listed(self):
        """A socket that stays open is named with its number."""
        left = []
        with (
            pytest.raises(LeakError, match=r"left behind: descriptor .*socket"),
            no_leaks(within=0.05),
        ):
            left.append(socket.socket())
        left.pop().close()

    def test_anonymous_file_is_listed(self):
        """A memfd counts, and a file with a name is the program's own business."""
        before = Footprint.now()
        fd = os.memfd_create("forgotten") if hasattr(os, "memfd_create") else os.pipe()[0]
        with Path(__file__).open(encoding="utf-8"):
            (found,) = before.left_behind(within=0.0)
        assert found.startswith(f"descriptor {fd}: ")
        os.close(fd)

    def test_child_is_listed_with_its_command(self):
        """A process that runs on is named, and one that nobody has waited for as well."""
        before = Footprint.now()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            found = before.left_behind(within=0.05)
            assert any(
                text.startswith(f"child process {child.pid}: ") and "input()" in text
                for text in found
            )
            child.stdin.close()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            (zombie,) = before.left_behind(within=0.05)
            assert "nobody has waited for it" in zombie
        finally:
            child.kill()
            child.wait()
        assert before.left_behind() == []

    def test_child_of_a_child_is_listed(self):
        """What a child started counts too: a worker is the child of a supervisor."""
        program = (
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
            "print(child.pid, flush=True)\n"
            "input()\n"
            "child.kill(); child.wait()\n"
        )
        before = Footprint.now()
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            grandchild = int(child.stdout.readline())
            assert {child.pid, grandchild} <= Footprint.now().children - before.children
            child.stdin.close()

    def test_thread_of_ours_is_listed(self):
        """A thread named `offload-…` counts; other threads are the program's own."""
        go = threading.Event()
        threads = [threading.Thread(target=go.wait, name=name) for name in ("offload-x", "other")]
        before = Footprint.now()
        for thread in threads:
            thread.start()
        assert before.left_behind(within=0.05) == ["thread offload-x"]
        go.set()
        for thread in threads:
            thread.join()

    def test_what_ends_in_time_is_no_leak(self):
        """Processes and threads get a moment to end."""
        before = Footprint.now()
        thread = threading.Timer(0.1, lambda: None)
        thread.name = "offload-short"
        thread.start()
        assert before.left_behind(within=10.0) == []
        thread.join()

    def test_other_exceptions_pass(self):
        """The exception of the body is not replaced by what it left behind."""
        left = []
        with pytest.raises(KeyError), no_leaks(within=0.0):  # noqa: PT012 - what passes is tested
            left.append(socket.socket())
            raise KeyError
        left.pop().close()

    def test_open_pool_is_found_and_closed_pool_is_not(self):
        """A pool's processes, thread and descriptors are there while it is open, then all gone."""
        # That of the test before may be about to end.
        for thread in threading.enumerate():
            if thread.name == "offload-keeper":
                thread.join(PATIENCE)
        before = Footprint.now()
        pool = Pool("leaking", max_workers=1)

        async def use():
            await pool.open()
            found = before.left_behind(within=0.0)
            await pool.aclose()
            return found

        found = asyncio.run(use())
        assert any(text.startswith("child process") for text in found)
        assert any(text.startswith("thread offload-keeper") for text in found)
        assert any(text.startswith("descriptor") for text in found)
        assert before.left_behind() == []


# What the fixtures of conftest.py do with a test, shown on tests that are wrong on purpose.
WRONG = """
import asyncio
import time
import pytest
from offload import Pool, offload
from tests.support.functions.executor import square
from tests.support import inside


@pytest.mark.anyio
async def test_pool_left_open():
    pool = Pool("left open", max_workers=1)
    await pool.run(square, 2)


@pytest.mark.anyio
async def test_own_block():
    time.sleep(0.3)


@pytest.mark.anyio
async def test_block_of_ours(monkeypatch):
    inside.hold_loop_on_admission(monkeypatch, 1)
    async with Pool("slow", max_workers=1) as pool:
        await pool.run(square, 2)


@pytest.mark.holds_loop()
def test_opt_out_without_a_reason():
    pass


left = []


def test_socket_left_open():
    import socket

    left.append(socket.socketpair())


@pytest.mark.leaves_behind("this is a test of the marker")
def test_socket_left_open_with_a_reason():
    import socket

    left.append(socket.socketpair())
"""


def test_fixtures_of_this_suite_fail_what_they_should(tmp_path):
    """Pools, blocks and leaks of a test fail it, with a text that says what it was."""
    (tmp_path / "test_wrong.py").write_text(WRONG)
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import *\n"
        "from tests.conftest import _loop_stays_free, _nothing_left_behind, _watched_loop\n"
    )
    root = Path(__file__).parents[2]
    options = ["-q", "-p", "no:cacheprovider", "-k", "not uvloop", "-c", root / "pyproject.toml"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), "--rootdir", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    text = done.stdout
    errors = {
        line.rpartition("::")[2].split(" ")[0]
        for line in text.splitlines()
        if line.startswith("ERROR ")
    }
    assert errors == {
        "test_pool_left_open[asyncio]",
        "test_pool_left_open[trio]",
        "test_block_of_ours[asyncio]",  # under trio it is the keeper's loop that is held
        "test_opt_out_without_a_reason",
        "test_socket_left_open",
    }, text
    assert "the test left these pools open" in text
    assert "the event loop was held for" in text
    assert "@pytest.mark.holds_loop needs a reason" in text
    assert "the test left behind: descriptor" in text


WITHOUT_UVLOOP = """
import sys

sys.modules["uvloop"] = None  # not to be imported
true_version = sys.version_info
sys.version_info = VERSION
import tests.support.loops

sys.version_info = true_version
from tests.conftest import *
"""


@pytest.mark.parametrize("version", [(3, 15), (3, 16)])
def test_uvloop_may_be_missing_on_a_python_that_is_too_new_for_it_only(tmp_path, version):
    """There its tests are skipped, which the summary says; on others their absence is an error."""
    (tmp_path / "test_any.py").write_text(
        "import pytest\n@pytest.mark.anyio\nasync def test_any(): pass\n"
    )
    (tmp_path / "conftest.py").write_text(WITHOUT_UVLOOP.replace("VERSION", str(version)))
    root = Path(__file__).parents[2]
    options = ["-q", "-p", "no:cacheprovider", "-c", root / "pyproject.toml", "--rootdir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), tmp_path],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )

    if version < (3, 16):
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert "uvloop is missing, which the tests need on this Python" in done.stderr
    else:
        assert done.returncode == pytest.ExitCode.OK, done.stdout
        assert "2 passed, 1 skipped" in done.stdout
        assert "there is no uvloop for Python 3.16" in done.stdout

"""Fixtures that every test shares."""

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import anyio
import hypothesis
import pytest

import offload.testing
from offload import Pool
from offload._pool.imports import import_what_calls_need
from offload.testing import Footprint, LoopBlock, LoopBlockDetector
from tests.support import inside
from tests.support.busy_machine import is_about_the_test
from tests.support.loops import BACKENDS, prepare_uvloop
from tests.support.processes import Fifo, until

# Guarantee 1 is a millisecond. What a test can tell for sure, beside other tests and on two busy
# cores, is this; benchmarks measure the rest.
LOOP_HOLD_SECONDS = 0.05
PACKAGE = str(Path(offload.__file__).parent)
# The detector joins its thread on the loop: that is the test's doing, not the library's.
TESTS = (str(Path(__file__).parent), offload.testing.__file__)


def pytest_configure(config: pytest.Config) -> None:
    """Register the ways to opt out of the fixtures below; each asks for a reason."""
    # A shell that starts us in the background has us ignore Ctrl+C, and our children inherit that:
    # servers that tests end by it would not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What calls need, before there is a loop to hold: without byte code at hand, and with pytest's
    # rewriting of assertions, which our plugin's entry point brings upon all of `offload`, this
    # takes half a second, and would be charged to the first test.
    import_what_calls_need(with_executors=True, with_data=True)
    # A machine that is busy is no failure of the example that it was busy with.
    hypothesis.settings.register_profile("offload", deadline=None)
    hypothesis.settings.load_profile("offload")
    # Who goes first is the matter of few tests, and they say so. At idle priority, the default, a
    # worker waits for every other process of a shared machine, and a test with it.
    inside.make_normal_priority_the_default()
    logging.getLogger("offload.pool").addFilter(is_about_the_test)
    for name in ("holds_loop", "leaves_behind"):
        config.addinivalue_line("markers", f"{name}(reason): allowed here, for the reason given")
    prepare_uvloop()


@pytest.hookimpl(tryfirst=True)  # before `-k` and `-m` choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every test of a guarantee be found by its name: `-k guarantee_7`."""
    for item in items:
        for marker in item.iter_markers("guarantee"):
            item.extra_keyword_matches.add(f"guarantee_{marker.args[0]}")
            item.user_properties.append(("guarantee", marker.args[0]))  # for reports


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run every test marked `anyio` on each event loop that the library supports."""
    return request.param


@pytest.fixture
def entered(tmp_path: Path) -> Iterator[Fifo]:
    """Where functions tell that they run."""
    with Fifo(tmp_path / "entered") as fifo:
        yield fifo


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Fifo]:
    """Where functions wait for the test."""
    with Fifo(tmp_path / "gate") as fifo:
        yield fifo


@pytest.fixture
def held(entered: Fifo, gate: Fifo) -> tuple[str, str]:
    """Arguments of the functions that tell that they run, and wait."""
    return entered.path, gate.path


@pytest.fixture(scope="module")
def _open_request_pools() -> Iterator[tuple[Pool, ...]]:
    from tests.support.functions import requests as request_functions

    pools = request_functions.pool, request_functions.small
    for pool in pools:
        anyio.run(pool.open)
    yield pools
    for pool in pools:
        anyio.run(partial(pool.aclose, drain=0.0))


@pytest.fixture
async def request_pools(_open_request_pools: tuple[Pool, ...]) -> AsyncIterator[None]:
    """Have the pools of `functions.requests` open, and nothing left in them when a request ends."""
    yield
    for pool in _open_request_pools:
        await until(lambda pool=pool: not (pool.statistics().busy or pool.statistics().queued))


def is_ours(block: LoopBlock) -> bool:
    """Return whether code of `offload` held the loop: itself, or by what it called."""
    stacks = [block.stack]
    if (block.cpu_seconds or 0.0) < block.seconds / 2:
        # The loop's thread did not compute: perhaps a thread of ours had the GIL.
        stacks += (
            stack for name, stack in block.threads.items() if name.startswith("offload-payload")
        )
    for stack in stacks:
        # The innermost of the two decides: a slow `__reduce__` of a test is the test's own.
        for frame in reversed(stack):
            if frame.filename.startswith(TESTS):
                break
            if frame.filename.startswith(PACKAGE):
                return True
    return False


@pytest.fixture
async def _watched_loop(request: pytest.FixtureRequest):
    # A full collection of all that some thousand tests have left takes 50 ms by itself: it is of
    # this process, and none of ours. What the test makes is collected as ever.
    gc.freeze()
    try:
        with LoopBlockDetector(LOOP_HOLD_SECONDS, raises=False) as detector:
            yield
    finally:
        gc.unfreeze()
    held = [str(block) for block in detector.blocks if is_ours(block)]
    if held:
        pytest.fail("\n".join(held), pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest):
    """Fail a test that leaves a pool open, a process, a descriptor or a thread of ours."""
    check_reason(request, "leaves_behind")
    open_before = inside.open_pools()
    before = Footprint.now()
    yield
    left_open = [pool for pool in inside.open_pools() if pool not in open_before]
    for pool in left_open:
        asyncio.run(pool.aclose(drain=0.0))
    if request.node.get_closest_marker("leaves_behind"):
        return
    if left_open:
        pytest.fail(f"the test left these pools open: {left_open}", pytrace=False)
    # What several tests share, a pool or a client, opens and closes things when it likes.
    if open_before or shares_fixtures(request):
        return
    if left := before.left_behind():
        pytest.fail("the test left behind: " + "; ".join(left), pytrace=False)


@pytest.fixture(autouse=True)
def _loop_stays_free(request: pytest.FixtureRequest, _nothing_left_behind: None) -> None:
    """Fail an async test during which code of `offload` held the event loop."""
    check_reason(request, "holds_loop")
    if "anyio_backend" in request.fixturenames and not request.node.get_closest_marker(
        "holds_loop"
    ):
        request.getfixturevalue("_watched_loop")


def shares_fixtures(request: pytest.FixtureRequest) -> bool:
    """Return whether the test uses a fixture of this suite that other tests use as well."""
    return any(
        definition.scope != "function" and definition.func.__module__.startswith("tests.")
        for definitions in inside.fixture_definitions(request).values()
        for definition in definitions
    )


def check_reason(request: pytest.FixtureRequest, name: str) -> None:
    """Refuse an opt-out that does not say why."""
    marker = request.node.get_closest_marker(name)
    if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
        pytest.fail(f"@pytest.mark.{name} needs a reason", pytrace=False)

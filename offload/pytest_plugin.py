"""pytest plugin: a test fails if a handler holds the event loop for too long.

Off unless asked for, and then for all tests or for single ones:

    pytest --offload-max-block-ms 50

    # pyproject.toml
    [tool.pytest.ini_options]
    offload_max_block_ms = "50"

    @pytest.mark.offload_max_block(0.05)  # seconds; None: not this one
    async def test_upload(client): ...

Every loop that runs during the test itself is watched: that of an async test on asyncio, uvloop or
trio, that of `asyncio.run`, that of Starlette's and FastAPI's `TestClient`; not those of fixtures.
The failure names route, function, line and cause, with the stack.

What the machine does is no failure: neither that it is busy, nor the garbage collector, whose heap
is the test runner's. The marker can say otherwise: `offload_max_block(0.05, causes=["gc"])`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

_MARKER = "offload_max_block"
_INI = "offload_max_block_ms"
_CAUSES = ("offload", "cpu", "blocking", "gil")
_ALL_CAUSES = (*_CAUSES, "gc", "starved")
# As of `offload.watchdog.Watchdog`, which is not imported for it.
_LEAST_MS = 10.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the option."""
    text = "fail a test if a handler holds the event loop for more than so many milliseconds"
    group = parser.getgroup("offload")
    group.addoption("--offload-max-block-ms", type=float, metavar="MS", help=text)
    parser.addini(_INI, text)


def pytest_configure(config: pytest.Config) -> None:
    """Tell of the marker, and refuse limits that cannot be used."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(seconds, causes=...): fail if the event loop is held longer; None: never",
    )
    _limit_of_session(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Watch the loops of one test."""
    limit, causes = _limit_of(item)
    if limit is None or not isinstance(item, pytest.Function):
        return (yield)
    from offload.watchdog._guard import LoopGuard

    guard = LoopGuard(limit, causes)
    function = item.obj
    item.obj = guard.around(function)
    guard.begin()
    try:
        result = yield
    finally:
        guard.end()
        item.obj = function
    if guard.blocks:
        pytest.fail(
            f"the event loop was held for more than {limit * 1e3:.0f} ms:\n{guard}", pytrace=False
        )
    return result


def _limit_of(item: pytest.Item) -> tuple[float | None, Sequence[Any]]:
    """Return the limit of a test in seconds, None for none, and the causes that count."""
    marker = item.get_closest_marker(_MARKER)
    if marker is None:
        return _limit_of_session(item.config), _CAUSES
    unknown = set(marker.kwargs) - {"seconds", "causes"}
    given = marker.args or (marker.kwargs.get("seconds", ...),)
    if unknown or len(marker.args) > 1 or given[0] is ...:
        raise pytest.UsageError(
            f"{item.nodeid}: {_MARKER} takes seconds (None: no limit) and, by name, causes"
        )
    causes = marker.kwargs.get("causes", _CAUSES)
    if wrong := [cause for cause in causes if cause not in _ALL_CAUSES]:
        raise pytest.UsageError(
            f"{item.nodeid}: {_MARKER} knows the causes {', '.join(_ALL_CAUSES)}; not {wrong[0]!r}"
        )
    seconds: Any = given[0]
    if seconds is None:
        return None, causes
    is_number = isinstance(seconds, int | float)
    return _checked(seconds * 1e3 if is_number else seconds, item.nodeid), causes


def _limit_of_session(config: pytest.Config) -> float | None:
    given: Any = config.getoption("--offload-max-block-ms")
    if given is None:
        given = config.getini(_INI) or None
    return None if given is None else _checked(given, _INI)


def _checked(milliseconds: Any, where: str) -> float:
    try:
        limit = float(milliseconds)
    except ValueError:
        limit = float("nan")
    # Written so that NaN, which compares false with everything, is refused.
    if not _LEAST_MS <= limit < float("inf"):
        raise pytest.UsageError(
            f"{where}: the event loop can be watched for blocks of {_LEAST_MS:.0f} ms or more, "
            f"not {milliseconds!r}"
        )
    return limit / 1e3

"""The event loops that tests run on, and whether there is a uvloop for this Python."""

import sys

import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

# It has builds for these. A Python that is newer goes without until it has one for it, too.
UVLOOP_IS_EXPECTED = sys.platform != "win32" and sys.version_info < (3, 16)
UVLOOP_IS_MISSING = f"there is no uvloop for Python {sys.version_info[0]}.{sys.version_info[1]}"

needs_uvloop = pytest.mark.skipif(uvloop is None, reason=UVLOOP_IS_MISSING)

ASYNCIO = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=needs_uvloop)
TRIO = pytest.param(("trio", {}), id="trio")
BACKENDS = [ASYNCIO, UVLOOP, TRIO]


def prepare_uvloop() -> None:
    """Fail the run if uvloop is missing that should be there: many tests would be skipped."""
    if uvloop is not None:
        # libuv makes a pipe for signals with its first loop, and keeps it: no test shall be blamed.
        uvloop.new_event_loop().close()
    elif UVLOOP_IS_EXPECTED:
        raise pytest.UsageError(
            "uvloop is missing, which the tests need on this Python; install the group `test-core`"
        )

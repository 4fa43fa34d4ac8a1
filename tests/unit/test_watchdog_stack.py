"""Stacks as the watchdog tells them."""

from types import FunctionType

from offload.watchdog._stack import stack_of
from tests.support import inside


def _frame():
    return inside.frame_here()


def test_watchdog_is_never_the_place():
    """What its hooks interrupt is the place: the collector's comes wherever that is at work."""
    names = {"__name__": "offload.watchdog._watcher", "inside": inside}
    stack = stack_of(FunctionType(_frame.__code__, names)())
    assert stack[0].function == f"{__name__}:test_watchdog_is_never_the_place"
    assert stack_of(_frame())[0].function == f"{__name__}:_frame"

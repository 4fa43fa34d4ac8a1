"""Names what holds the event loop up: which route, which line, for how long, how often, and why."""

from offload.watchdog._ledger import statistics
from offload.watchdog._records import (
    Block,
    Cause,
    CauseStatistics,
    PlaceStatistics,
    WatchdogStatistics,
)

__all__ = [
    "Block",
    "Cause",
    "CauseStatistics",
    "PlaceStatistics",
    "WatchdogStatistics",
    "statistics",
]

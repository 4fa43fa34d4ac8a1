"""Compare fire times with a scan of every minute, and with other libraries, at every clock change.

    python scripts/compare_fire_times.py [--every N] [--no-peers]

Takes each change of offset that any zone has from 2020 to 2035, looks at 27 hours on either side of
it, and compares `Cron` in both directions with `tests/schedules/model.py`. Any difference from that
is an error, and the exit status 1. Differences from cronsim, croniter and APScheduler are counted
by kind, and printed as a table with an example of each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).parents[1]))

import itertools

from offload.schedules import Cron
from tests.schedules import model
from tests.schedules.peers import PEERS

EXPRESSIONS = (
    "0 3 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "30 1 * * *",
    "0 12 * * MON-FRI",
    "10 0 1 * *",
    "0 0 L * *",
    "15,45 1-3 * * *",
    "5 0-4/2 * * 0",
    "0 * * * *",
    "*/15 * * * *",
    "0 */2 * * *",
    "* 2 * * *",
)
# Not every peer has `W`, `#`, weekdays with `L`, or the rule that either day will do.
EXPRESSIONS_OF_OURS = (
    "*/20 2 * * 0#2",
    "0 4 15W * *",
    "17 3 * * 0L",
    "0-59/7 0-23 * * *",
    "0 0 1,LW,15W * 5L",
    "30 0,2-3 */2 1-12/3 *",
)
AROUND = timedelta(hours=27)


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th change only")
    parser.add_argument("--no-peers", action="store_true", help="the scan only")
    arguments = parser.parse_args()
    began = time.perf_counter()
    changes = model.changes()[:: arguments.every]
    wrong = 0
    fires = 0
    kinds: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for name, instant, before, after in changes:
        zone = ZoneInfo(name)
        start, end = instant - AROUND, instant + AROUND
        walls = model.watch(zone, start, end, model.MINUTE)
        for expression in EXPRESSIONS + EXPRESSIONS_OF_OURS:
            watched = model.Watched(expression)
            expected = watched.fires(walls)
            fires += len(expected)
            cron = Cron(expression, name)
            found = model.ours(cron, start, end)
            if found != expected or model.ours_backwards(cron, start, end) != expected:
                wrong += 1
                print(f"WRONG: {expression} in {name} around {instant.isoformat()}")
            if expression not in EXPRESSIONS or arguments.no_peers:
                continue
            change = "forward" if after > before else "back"
            meaning = "intervals" if watched.is_elapsing else "times of day"
            for peer, ask in PEERS.items():
                theirs = ask(expression, zone, start, end)
                kind = difference(found, theirs, instant)
                kinds[peer, change, meaning, kind].append(
                    f"{expression} in {name} {instant:%F %R}Z"
                )
    for (peer, change, meaning, kind), cases in sorted(kinds.items()):
        example = "" if kind == "same" else f"  e.g. {cases[0]}"
        print(f"{peer:12} {change:8} {meaning:13} {kind:38} {len(cases):6}{example}")
    print(
        f"{len(changes)} changes, {fires} fire times, {wrong} wrong, "
        f"{time.perf_counter() - began:.0f} s"
    )
    return 1 if wrong else 0


def difference(ours: list[datetime], theirs: list[datetime], instant: datetime) -> str:
    """Return in a few words how theirs differs from ours."""
    said = []
    if any(later <= earlier for earlier, later in itertools.pairwise(theirs)):
        said.append("repeats an instant")
    missing, extra = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    for what, instants in (("lacks", missing), ("adds", extra)):
        if instants:
            is_near = all(abs(each - instant) <= timedelta(hours=3) for each in instants)
            at_change = " the change" if instants == [instant] else ""
            said.append(what + (at_change or (" some near it" if is_near else " some far from it")))
    return ", ".join(said) or "same"


if __name__ == "__main__":
    sys.exit(main())

"""Runs and reports the benchmarks.

python -m benchmarks run [SCENARIO …] [--contender NAME …] [--quick]
python -m benchmarks report [FILE …] [--readme README.md] [--ways docs/ways-to-run.md]
python -m benchmarks compare BEFORE.json AFTER.json
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.suite import catalogue
from benchmarks.suite.compare import compare
from benchmarks.suite.contenders import CONTENDERS, UnknownNameError
from benchmarks.suite.results import ResultsError, read
from benchmarks.suite.run import run
from benchmarks.suite.scenario import Settings, SettingsError

_HERE = Path(__file__).parent
_RESULTS = _HERE / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure and report.")
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="measure, and write raw results")
    runs.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(catalogue.NAMES)}; all"
    )
    runs.add_argument(
        "--contender",
        action="append",
        default=[],
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)}; once for each (default: all but the variants)",
    )
    runs.add_argument("--quick", action="store_true", help="for breakage, not for numbers")
    runs.add_argument("--repetitions", type=int, help="of every cell, contenders interleaved")
    runs.add_argument("--seconds", type=float, help="of each measurement that has a length")
    runs.add_argument("--workers", type=int, default=2)
    runs.add_argument("--repeats", type=int, default=2, help="of a disturbed cell, at most")
    runs.add_argument("--minutes", type=float, help="then disturbed cells are taken as they are")
    runs.add_argument("--results", type=Path, default=_RESULTS, help="folder of the raw results")
    reports = commands.add_parser("report", help="render raw results")
    reports.add_argument(
        "files", nargs="*", type=Path, help="raw results (default: the newest of each scenario)"
    )
    reports.add_argument("--results", type=Path, default=_RESULTS)
    reports.add_argument("--output", type=Path, default=_HERE, help="folder of README.md and plots")
    reports.add_argument(
        "--readme",
        type=Path,
        help="also put the headline between the two marker comments of this file",
    )
    reports.add_argument(
        "--ways", type=Path, help="also put the figures of the ways to run work into this page"
    )
    compares = commands.add_parser("compare", help="tell regressions from noise")
    compares.add_argument("before", type=Path)
    compares.add_argument("after", type=Path)
    compares.add_argument(
        "--at-least", type=float, default=1.1, help="ratio that matters (default 1.1)"
    )
    compares.add_argument("--all", action="store_true", help="list what did not change as well")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if `compare` finds a regression."""
    options = _parser().parse_args(argv)
    try:
        match options.command:
            case "run":
                settings = Settings(
                    repetitions=options.repetitions,
                    seconds=options.seconds,
                    workers=options.workers,
                    repeats=0 if options.quick else options.repeats,
                    is_quick=options.quick,
                    minutes=options.minutes,
                )
                scenarios = catalogue.scenarios(options.scenarios)
                # As Ctrl+C does it: `timeout` and CI end programs so.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
                paths = run(scenarios, options.contender, settings, options.results)
                for path in paths:
                    print(path)
            case "report":
                # Plots need matplotlib, which measuring does not.
                from benchmarks.suite.report import report

                for path in report(
                    options.files, options.results, options.output, options.readme, options.ways
                ):
                    print(path)
            case _:
                found = compare(read(options.before), read(options.after), options.at_least)
                print(found.text(everything=options.all))
                return 1 if found.regressions else 0
    except (UnknownNameError, SettingsError, ResultsError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what was measured until now has been written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

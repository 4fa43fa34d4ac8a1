"""`python -m offload.metrics`: the dashboard for Grafana; with `alerts`, those for Prometheus."""

import argparse
import sys

from offload.metrics._files import alert_rules, grafana_dashboard

_FILES = {"dashboard": grafana_dashboard, "alerts": alert_rules}


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m offload.metrics",
        description="Print what comes with the package for other tools.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        choices=_FILES,
        default="dashboard",
        help="the dashboard, to be imported into Grafana, or alerts, for Prometheus's rule_files",
    )
    sys.stdout.write(_FILES[parser.parse_args().file]())


if __name__ == "__main__":
    _main()

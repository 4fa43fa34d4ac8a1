"""`python -m offload.metrics`: the dashboard for Grafana; with `alerts`, those for Prometheus."""

import sys

from offload.metrics._files import alert_rules, grafana_dashboard

_FILES = {"dashboard": grafana_dashboard, "alerts": alert_rules}


def _main(wanted: list[str]) -> None:
    if len(wanted) != 1 or wanted[0] not in _FILES:
        sys.exit(f"usage: python -m offload.metrics [{' | '.join(_FILES)}]")
    sys.stdout.write(_FILES[wanted[0]]())


if __name__ == "__main__":
    _main(sys.argv[1:] or ["dashboard"])

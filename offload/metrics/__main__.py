"""`python -m offload.metrics > dashboard.json`: the dashboard, to be imported into Grafana."""

import sys

from offload.metrics._grafana import grafana_dashboard

if __name__ == "__main__":
    sys.stdout.write(grafana_dashboard())

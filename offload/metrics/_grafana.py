"""The dashboard for Grafana, which comes with the package."""

from __future__ import annotations

from importlib import resources

__all__ = ["grafana_dashboard"]


def grafana_dashboard() -> str:
    """Return the dashboard as JSON: in Grafana, Dashboards → New → Import."""
    return (resources.files("offload.metrics") / "grafana-dashboard.json").read_text("utf-8")

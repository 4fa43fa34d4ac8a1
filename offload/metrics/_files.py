"""What comes with the package for other tools: a dashboard for Grafana, alerts for Prometheus."""

from __future__ import annotations

from importlib import resources

__all__ = ["alert_rules", "grafana_dashboard"]


def grafana_dashboard() -> str:
    """Return the dashboard as JSON: in Grafana, Dashboards → New → Import."""
    return _text("grafana-dashboard.json")


def alert_rules() -> str:
    """Return the alerts as YAML, for `rule_files` of Prometheus."""
    return _text("alert-rules.yaml")


def _text(name: str) -> str:
    return (resources.files("offload.metrics") / name).read_text("utf-8")

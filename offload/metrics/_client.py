"""What is used of `prometheus_client`, or the word that it is not installed."""

from __future__ import annotations

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import REGISTRY, CollectorRegistry
    from prometheus_client.samples import Sample
except ModuleNotFoundError as error:
    message = f"offload.metrics needs prometheus_client ({error}): pip install 'offload[metrics]'"
    raise ModuleNotFoundError(message, name=error.name) from error

__all__ = [
    "REGISTRY",
    "CollectorRegistry",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "HistogramMetricFamily",
    "InfoMetricFamily",
    "Metric",
    "Sample",
    "choose_encoder",
]

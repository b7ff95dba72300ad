"""Makes families of metrics, and leaves out what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from loiter_aggregator.distribution import Distribution

_NO_LABELS: Final = ()


def gauge(name: str, help_text: str, value: float | None) -> GaugeMetricFamily:
    """One value that rises and falls; without a sample where it is not known."""
    family = GaugeMetricFamily(name, help_text, labels=_NO_LABELS)
    if value is not None:
        family.add_metric((), value)
    return family


def gauges(name: str, help_text: str, label: str, values: Mapping[str, float | None]) -> GaugeMetricFamily:
    """A value by one label; those that are not known are left out."""
    family = GaugeMetricFamily(name, help_text, labels=(label,))
    for key, value in values.items():
        if value is not None:
            family.add_metric((key,), value)
    return family


def counter(name: str, help_text: str, value: float) -> CounterMetricFamily:
    """A count since the start."""
    return CounterMetricFamily(name, help_text, value=value)


def counters(name: str, help_text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    """Counts since the start by one label."""
    family = CounterMetricFamily(name, help_text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def histogram(
    name: str, help_text: str, labels: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], Distribution]]
) -> HistogramMetricFamily:
    """Distributions by their labels' values."""
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, distribution in found:
        buckets = [(_bound(bound), float(count)) for bound, count in distribution.cumulative()]
        family.add_metric(values, buckets, distribution.total)
    return family


def _bound(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text

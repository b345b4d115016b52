"""Measures of rows as people read them: metrics in points, times, sizes and numbers in their units."""

from remora.results.wording import NONE, RAW_METRICS, count, duration, metric_name, points, size

_NAMES = {
    "train_seconds": "training time",
    "step_seconds": "time of a step",
    "examples_per_second": "examples/s",
    "peak_bytes": "peak memory",
    "adapter_params": "adapter params",
    "trained_params": "trained params",
    "trained_share": "trained share",
    "train_loss": "training loss",
}


def measure_name(measure: str) -> str:
    """The measure in a heading."""
    return _NAMES.get(measure) or metric_name(measure)


def measure_text(measure: str, value: float | None) -> str:
    """A value of the measure."""
    if value is None:
        return NONE
    if measure in ("train_seconds", "step_seconds"):
        return duration(value)
    if measure == "peak_bytes":
        return size(value)
    if measure in ("examples_per_second", "adapter_params", "trained_params"):
        return count(value)
    if measure == "trained_share":
        return f"{100 * value:.3g} %"
    if measure == "train_loss" or measure in RAW_METRICS:
        return f"{value:.3g}"
    return points(value)

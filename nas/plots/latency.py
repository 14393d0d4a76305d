"""Measured latency of whole networks against the lookup table and against FLOPs (cf. AttentiveNAS, appendix F and Table 4)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nas.evaluation.metrics import kendall_tau
from nas.plots.style import BLUE, GREY, Chart, Series, wide


def charts(validation: pd.DataFrame, setting: Mapping[str, Any]) -> tuple[Chart, Chart]:
    """The lookup table, and FLOPs alone, on networks that the table was not fitted on; bars span two measurements.

    Args:
        validation: columns mflops, predicted_latency_ms, first_latency_ms, second_latency_ms.
        setting: device, backend and batch of the table.

    Raises:
        ValueError: if there are no networks.
    """
    if not len(validation):
        raise ValueError("there are no networks to validate the latency table on")
    first, second, predicted, mflops = (
        validation[c].to_numpy() for c in ("first_latency_ms", "second_latency_ms", "predicted_latency_ms", "mflops")
    )
    measured, half_range = (first + second) / 2, np.abs(second - first) / 2
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    device = f"{setting.get('device', 'this device')}, {setting.get('backend', '')}, batch {setting.get('batch', '')}"
    return (
        Chart(
            "latency",
            f"{device}: Kendall's τ = {kendall_tau(predicted, measured):.2f}",
            "latency by the lookup table, ms",
            "measured latency, ms",
            (
                Series("table = measured", ends, ends, GREY, dash="dash"),
                Series("network, measured twice", predicted, measured, BLUE, "circle", error=half_range),
            ),
            log_x=wide(predicted),
            log_y=wide(predicted),
        ),
        Chart(
            "latency-flops",
            f"FLOPs alone: Kendall's τ = {kendall_tau(mflops, measured):.2f}",
            "cost, MFLOPs",
            "measured latency, ms",
            (Series("network, measured twice", mflops, measured, BLUE, "circle", error=half_range),),
            log_x=wide(mflops),
            log_y=wide(predicted),
        ),
    )

"""How well a latency lookup table predicts the latency of whole networks that nothing was fitted on."""

import numpy as np
import pandas as pd

from nas.evaluation.metrics import kendall_tau


def summarise(measurements: pd.DataFrame) -> pd.DataFrame:
    """The validation networks: network, mflops, predicted_latency_ms, first_ and second_latency_ms (medians over rounds).

    Args:
        measurements: of `nas.latency.profiler.Profile.measurements`.
    """
    rows = measurements[measurements["part"] == "validation"]
    medians = rows.groupby(["network", "measurement"])["latency_ms"].median().unstack()
    networks = rows.groupby("network")[["mflops", "predicted_latency_ms"]].first()
    return networks.assign(first_latency_ms=medians[1], second_latency_ms=medians[2]).reset_index()


def metrics(networks: pd.DataFrame) -> dict[str, float]:
    """How well a table predicts measured latencies; relative errors are fractions of the measured latency.

    Args:
        networks: of `summarise`; the mean of the two measurements counts as the true latency.

    Returns:
        kendall_tau_latency (of the table), kendall_tau_flops, kendall_tau_repeat (of the second measurement with the first),
        median_relative_error, p90_relative_error, bias (mean of the signed errors), noise_floor (median difference
        of the two measurements), p90_noise.
    """
    columns = ("predicted_latency_ms", "first_latency_ms", "second_latency_ms", "mflops")
    predicted, first, second, mflops = (networks[column].to_numpy() for column in columns)
    measured = (first + second) / 2
    error = predicted / measured - 1
    noise = np.abs(second - first) / measured
    return {
        "kendall_tau_latency": kendall_tau(predicted, measured),
        "kendall_tau_flops": kendall_tau(mflops, measured),
        "kendall_tau_repeat": kendall_tau(first, second),
        "median_relative_error": float(np.median(np.abs(error))),
        "p90_relative_error": float(np.percentile(np.abs(error), 90)),
        "bias": float(error.mean()),
        "noise_floor": float(np.median(noise)),
        "p90_noise": float(np.percentile(noise, 90)),
    }

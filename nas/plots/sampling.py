"""Trials needed for one architecture under a cost target, by three samplers (AttentiveNAS, Figure 8 and appendix C)."""

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, GREY, ORANGE, Chart, Series


def chart(trials: pd.DataFrame) -> Chart:
    """Trials a sample against the target, logarithmic.

    Args:
        trials: columns target (MFLOPs), and trials a sample: uniform, paper_mean, paper_std, exact.
    """
    trials = trials.sort_values("target")
    target, mean, deviation = (trials[c].to_numpy(np.float64) for c in ("target", "paper_mean", "paper_std"))
    band = np.maximum(mean - deviation, 1), mean + deviation  # nobody needs less than one trial
    return Chart(
        "sampling",
        "Trials for one architecture under a target",
        "target, MFLOPs",
        "trials a sample",
        (
            Series("uniform rejection", target, trials["uniform"].to_numpy(np.float64), GREY, dash="dash"),
            Series("the paper's proposal (mean ± sd)", target, mean, ORANGE, "square", "solid", band=band),
            Series("exact (dynamic programme)", target, trials["exact"].to_numpy(np.float64), BLUE, "circle", "solid"),
        ),
        log_y=True,
    )

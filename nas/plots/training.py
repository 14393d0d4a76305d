"""Figures of supernet training: accuracy, losses, and the trials that sampling under a FLOPs target takes."""

import numpy as np
import pandas as pd

from nas.plots.style import BLUE, GREEN, GREY, ORANGE, Chart, Series


def accuracy(pretrain: pd.DataFrame, train: pd.DataFrame) -> Chart:
    """Validation accuracy of the smallest and the largest sub-network in both trainings.

    Args:
        pretrain: columns epoch, top1_smallest, top1_largest (percent).
        train: the same.
    """
    sizes = (("largest", BLUE), ("smallest", ORANGE))
    histories = (("train", train, "solid"), ("pretrain", pretrain, "dot"))
    series = (
        Series(f"{size} ({stage})", history["epoch"].to_numpy(), history[f"top1_{size}"].to_numpy(), colour, dash=dash)
        for stage, history, dash in histories
        for size, colour in sizes
    )
    return Chart("accuracy", "Smallest and largest sub-network", "epoch", "top-1 on the validation split, %", tuple(series))


def loss(history: pd.DataFrame) -> Chart:
    """Losses of the sandwich rule: labels for the largest sub-network, distillation for the others.

    Args:
        history: columns epoch, loss_largest, loss_sampled, loss_smallest (nats).
    """
    lines = (
        ("loss_largest", "largest (cross-entropy with labels)", BLUE, "solid"),
        ("loss_smallest", "smallest (distillation)", ORANGE, "dash"),
        ("loss_sampled", "sampled (distillation)", GREEN, "dot"),
    )
    series = (
        Series(name, history["epoch"].to_numpy(), history[column].to_numpy(), colour, dash=dash) for column, name, colour, dash in lines
    )
    return Chart("loss", "Training losses", "epoch", "loss, nats", tuple(series))


def sampling(trials: pd.DataFrame) -> Chart:
    """Trials per sample against the FLOPs target for three samplers (AttentiveNAS, Figure 8 and appendix C).

    Args:
        trials: columns target (MFLOPs), and trials per sample: uniform, paper_mean, paper_std, exact.
    """
    trials = trials.sort_values("target")
    target, mean, deviation = (trials[c].to_numpy(np.float64) for c in ("target", "paper_mean", "paper_std"))
    band = np.maximum(mean - deviation, 1), mean + deviation  # a sample takes at least one trial
    return Chart(
        "sampling",
        "Trials per architecture under a FLOPs target",
        "target, MFLOPs",
        "trials per sample",
        (
            Series("uniform with rejection", target, trials["uniform"].to_numpy(np.float64), GREY, dash="dash"),
            Series("the paper's proposal (mean ± SD)", target, mean, ORANGE, "square", "solid", band=band),
            Series("exact (dynamic programming)", target, trials["exact"].to_numpy(np.float64), BLUE, "circle", "solid"),
        ),
        log_y=True,
    )

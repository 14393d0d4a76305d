"""Training curves of the supernet: accuracy of its two ends, and the three losses of a step."""

import pandas as pd

from nas.plots.style import BLUE, GREEN, ORANGE, Chart, Series


def accuracy(pretrain: pd.DataFrame, train: pd.DataFrame) -> Chart:
    """Top-1 on the val split of the smallest and the largest sub-network in both trainings.

    Args:
        pretrain: columns epoch, top1_smallest, top1_largest (percent).
        train: the same.
    """
    ends = (("largest", BLUE), ("smallest", ORANGE))
    runs = (("train", train, "solid"), ("pretrain", pretrain, "dot"))
    series = (
        Series(f"{end} ({name})", run["epoch"].to_numpy(), run[f"top1_{end}"].to_numpy(), colour, dash=dash)
        for name, run, dash in runs
        for end, colour in ends
    )
    return Chart("accuracy", "Accuracy of the supernet's ends", "epoch", "top-1 on the val split, %", tuple(series))


def loss(history: pd.DataFrame) -> Chart:
    """The losses of the sandwich rule: labels for the largest, distillation for the others.

    Args:
        history: columns epoch, loss_largest, loss_sampled, loss_smallest (nats).
    """
    looks = (
        ("loss_largest", "largest (cross-entropy with labels)", BLUE, "solid"),
        ("loss_smallest", "smallest (distillation)", ORANGE, "dash"),
        ("loss_sampled", "sampled (distillation)", GREEN, "dot"),
    )
    series = (
        Series(name, history["epoch"].to_numpy(), history[column].to_numpy(), colour, dash=dash) for column, name, colour, dash in looks
    )
    return Chart("loss", "Training losses", "epoch", "loss, nats", tuple(series))

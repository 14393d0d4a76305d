"""Curves of a supernet training in MLflow, with a warning if the supernet has collapsed."""

from collections.abc import Callable
from dataclasses import asdict

from scipy.stats import binom

from nas.data.dataset import ImageDataset
from nas.tracking.runs import StageRun
from nas.training.recipe import Recipe
from nas.training.recovery import ADVICE
from nas.training.trainer import Epoch


def log_epochs(run: StageRun, prefix: str, data: ImageDataset, recipe: Recipe) -> Callable[[Epoch], None]:
    """Logs each epoch as `<prefix>/...`. Warns once if the largest sub-network is at chance level after warm-up.

    Chance level is the accuracy that 99 of 100 random classifiers do not exceed on the validation split.
    """
    images, warned = len(data.indices("val")), False
    chance = 100 * binom.ppf(0.99, images, 1 / len(data.classes)) / images  # percent

    def on_epoch(row: Epoch) -> None:
        nonlocal warned
        run.log({f"{prefix}/{key}": value for key, value in asdict(row).items() if key != "epoch"}, row.epoch)
        if row.epoch > recipe.warmup_epochs and row.top1_largest <= chance and not warned:
            message = (
                f"epoch {row.epoch}: top-1 of the largest sub-network is {row.top1_largest:.1f} %, chance level (up to {chance:.1f} %)"
            )
            print(f"{prefix}: {message}. Has the supernet collapsed? {ADVICE}", flush=True)
            run.tag(collapsed=message)
            warned = True

    return on_epoch

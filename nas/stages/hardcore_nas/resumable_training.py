"""HardCoRe-NAS's trainings: the one-shot model, fine-tuned and scratch networks; each resumable, with its duration."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.data.dataset import ImageDataset
from nas.data.loader import TrainingBatches
from nas.differentiable.hardcore_nas.training import Loss, fit
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.stages.hardcore_nas.config import PIPELINE, HardcoreNasParams, Training
from nas.tracking.runs import StageRun


def training_batches(
    data: ImageDataset, items: np.ndarray, batch: int, key: str, cfg: HardcoreNasParams, device: torch.device
) -> TrainingBatches:
    """Batches of these images, augmented.

    Args:
        key: of the batch size in params.yaml.

    Raises:
        ParamsError: if there are fewer images than fill a batch.
    """
    if batch > len(items):
        raise params.ParamsError(
            f"{PIPELINE.parameters}: {key}: {data.key!r} has {len(items)} images for it, fewer than a batch of {batch}"
        )
    return TrainingBatches(data, items, batch, cfg.images.augmentation, cfg.seed, cfg.runtime.workers, device.type == "cuda")


@dataclass(frozen=True)
class Trained:
    """Losses and duration of a training."""

    losses: tuple[float, ...]  # mean of each epoch, nats
    seconds: float  # interrupted runs included

    def rows(self, **columns: str) -> list[dict[str, Any]]:
        """Rows of history.csv, one per epoch: the columns, epoch, loss."""
        return [{**columns, "epoch": epoch, "loss": loss} for epoch, loss in enumerate(self.losses, 1)]


class Trainer:
    """Trains networks of one stage; each continues from its last epoch, and none is trained twice."""

    def __init__(
        self, stage: str, cfg: HardcoreNasParams, data: ImageDataset, device: torch.device, checkpoint: Checkpoint, run: StageRun
    ) -> None:
        self._stage, self._cfg, self._data, self._device, self._checkpoint, self._run = stage, cfg, data, device, checkpoint, run

    def fit(self, name: str, key: str, network: nn.Module, loss: Loss, items: np.ndarray, training: Training) -> Trained:
        """Train in place; leaves the network in eval mode.

        Args:
            name: of the network.
            key: of `training` in the stage's section.

        Raises:
            FloatingPointError: if the loss is NaN or infinite; says what to lower.
            ParamsError: if there are fewer images than fill a batch.
        """
        section = f"{self._stage}.{key}"
        batches = training_batches(self._data, items, training.batch, f"{section}.batch", self._cfg, self._device)
        state = self._checkpoint.load(f"{name}.pt")
        record = {"losses": state["losses"], "seconds": state["seconds"]} if state else {"losses": [], "seconds": 0.0}
        began = time.monotonic() - record["seconds"]

        def on_epoch(state: dict[str, Any], mean: float) -> None:
            record["losses"].append(mean)
            record["seconds"] = time.monotonic() - began
            self._checkpoint.save({**state, **record}, f"{name}.pt")
            self._run.log({f"{self._stage}/{name}/loss": mean}, state["epoch"])

        try:
            fit(network, loss, batches, training, f"{self._stage}: {name}", self._cfg.runtime, self._device, state, on_epoch)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; the key is {PIPELINE.parameters}: {section}.learning_rate") from None
        network.eval()
        return Trained(tuple(record["losses"]), record["seconds"])

"""Networks of rows trained from scratch, calibrated, and their predictions; a stage's checkpoint remembers finished ones."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from nas.data.augmentation import Augmentation
from nas.data.dataset import ImageDataset
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.evaluation.evaluate import Evaluation, calibrate, calibration_set
from nas.models.blocks import RowNetwork, init_weights
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.params import Section
from nas.training.finetune import FineTuningConfig, Hyperparameters, fine_tune
from nas.training.recipe import Runtime


class ScratchTraining(Section):
    """Section `train` of TF-NAS: training of a network from scratch."""

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    optimisation: FineTuningConfig
    augmentation: Augmentation


class ScratchTrainer:
    """Trains networks from scratch; each continues from its last epoch, and none is trained twice."""

    def __init__(
        self,
        cfg: ScratchTraining,
        key: str,
        seed: int,
        runtime: Runtime,
        evaluation: Evaluation,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        """
        Args:
            key: of the learning rate, with its file, for messages.
        """
        self._cfg, self._key, self._seed, self._runtime, self._device = cfg, key, seed, runtime, device
        self._evaluation, self._checkpoint = evaluation, checkpoint

    def train(self, name: str, network: RowNetwork, data: ImageDataset, items: np.ndarray) -> RowNetwork:
        """Draw the network's weights by its name, train them on the images and calibrate; returns the network in eval mode.

        Raises:
            FloatingPointError: if the loss is NaN or infinite; says what to lower.
        """
        with seeding.torch_seed(self._seed, "alone", name):
            network.apply(init_weights)
        network.to(self._device, memory_format=self._runtime.memory_format)
        if done := self._checkpoint.load(f"{name}-done.pt"):
            network.load_state_dict(done["weights"])
            return network.eval()
        cfg, cuda = self._cfg, self._device.type == "cuda"
        batches = TrainingBatches(
            data,
            items,
            cfg.optimisation.batch,
            cfg.augmentation,
            self._seed,
            self._runtime.workers,
            cuda,
            key=f"{self._key.rpartition('.')[0]}.optimisation.batch",
        )
        setting, state = Hyperparameters(cfg.learning_rate, cfg.weight_decay), self._checkpoint.load(f"{name}.pt")

        def on_epoch(state: dict) -> None:
            self._checkpoint.save(state, f"{name}.pt")

        try:
            fine_tune(network, batches, setting, cfg.optimisation, self._seed, self._runtime, self._device, state, on_epoch)
        except FloatingPointError:
            raise FloatingPointError(f"network {name}, trained from scratch, diverged; lower {self._key}") from None
        calibration = calibration_set(data, self._evaluation, self._seed, "train", self._runtime.workers)
        calibrate(network, (images for images, _ in self._runtime.to_device(calibration, self._device)))
        self._checkpoint.save({"weights": network.state_dict()}, f"{name}-done.pt")
        return network

    @torch.no_grad()
    def predict(self, network: RowNetwork, data: ImageDataset, items: np.ndarray) -> np.ndarray:
        """(n,) predicted class of each image, in the order of the items.

        Raises:
            ValueError: if an image cannot be decoded.
        """
        batches = EvaluationBatches(data, items, self._evaluation.batch, self._runtime.workers)
        predictions = [network(images).argmax(1).cpu().numpy() for images, _ in self._runtime.to_device(batches, self._device)]
        classes = np.concatenate(predictions)
        if len(classes) != len(items):
            raise ValueError(f"{len(items) - len(classes)} of {len(items)} images of {data.key!r} cannot be decoded")
        return classes

    def top1(self, network: RowNetwork, data: ImageDataset, items: np.ndarray) -> float:
        """Percent of the images whose predicted class is the label."""
        return 100 * float((self.predict(network, data, items) == data.labels[items]).mean())

"""Networks of rows trained by themselves from fresh weights, calibrated, and what they answer; kept in a stage's checkpoint."""

import numpy as np
import torch

from nas.data import loader
from nas.evaluation.evaluate import calibrate
from nas.models.blocks import RowNetwork, init_weights
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.stages import runner as main_pipeline
from nas.stages.pipelines import Pipeline, Training, placed
from nas.training.finetune import Try, fine_tune
from nas.training.recipe import Runtime


class Alone:
    """Trains networks; each goes on from its last epoch, and none is trained twice."""

    def __init__(
        self,
        p: Training,
        pipeline: Pipeline,
        seed: int,
        runtime: Runtime,
        evaluation: main_pipeline.Evaluation,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self._p, self._pipeline, self._seed, self._runtime, self._device = p, pipeline, seed, runtime, device
        self._evaluation, self._checkpoint = evaluation, checkpoint

    def trained(self, name: str, network: RowNetwork, data: loader.ImageDataset, items: np.ndarray) -> RowNetwork:
        """The network with fresh weights drawn by its name, trained on the images and calibrated; in eval mode.

        Raises:
            FloatingPointError: if the loss is no number any more; says what to lower.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeding.key(self._seed, "alone", name))
            network.apply(init_weights)
        network.to(self._device, memory_format=self._runtime.memory_format)
        if done := self._checkpoint.load(f"{name}-done.pt"):
            network.load_state_dict(done["weights"])
            return network.eval()
        batches = loader.TrainingBatches(
            data, items, self._p.how.batch, self._p.augmentation, self._seed, self._runtime.workers, self._device.type == "cuda"
        )
        setting, state = Try(self._p.learning_rate, self._p.weight_decay), self._checkpoint.load(f"{name}.pt")
        try:
            fine_tune(network, batches, setting, self._p.how, self._seed, self._runtime, self._device, state, lambda s: self._keep(name, s))
        except FloatingPointError:
            raise FloatingPointError(
                f"network {name}, trained alone, diverged; lower {self._pipeline.parameters}: train.learning_rate"
            ) from None
        known = main_pipeline.calibration(data, self._evaluation, self._seed, "train", self._runtime.workers)
        calibrate(network, (images for images, _ in placed(known, self._runtime, self._device)))
        self._checkpoint.save({"weights": network.state_dict()}, f"{name}-done.pt")
        return network

    @torch.no_grad()
    def answers(self, network: RowNetwork, data: loader.ImageDataset, items: np.ndarray) -> np.ndarray:
        """(n,) class that the network names for each image, in the order of the items.

        Raises:
            ValueError: if one of them cannot be decoded.
        """
        batches = loader.EvaluationBatches(data, items, self._evaluation.batch, self._runtime.workers)
        found = [network(images).argmax(1).cpu().numpy() for images, _ in placed(batches, self._runtime, self._device)]
        answers = np.concatenate(found)
        if len(answers) != len(items):
            raise ValueError(f"{len(items) - len(answers)} of {len(items)} images of {data.key!r} cannot be decoded")
        return answers

    def _keep(self, name: str, state: dict) -> None:
        self._checkpoint.save(state, f"{name}.pt")

"""TF-NAS's searches over some of the classes, one target after the other, each resumable."""

from dataclasses import asdict, replace

import numpy as np
import torch

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.data.dataset import ImageDataset
from nas.data.loader import TrainingBatches
from nas.data.sources import Images
from nas.data.splits import hold_out
from nas.differentiable.tf_nas.search import Search, sample_classes
from nas.differentiable.tf_nas.supernet import Supernet
from nas.models.blocks import RowNetwork
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.progress import progress
from nas.stages.tf_nas.config import LEARNING_RATE, PIPELINE, TfNasParams
from nas.tracking.runs import StageRun
from nas.training.scratch import ScratchTrainer


def select_classes(data: ImageDataset, cfg: TfNasParams, device: torch.device, checkpoint: Checkpoint) -> np.ndarray:
    """Classes to search on, ascending: one of each group of classes that are equally difficult for a trained network; or all."""
    if cfg.search.classes is None:
        return np.arange(len(data.classes))
    short = cfg.train.optimisation.model_copy(update={"epochs": cfg.search.classes.epochs})
    training = cfg.train.model_copy(update={"optimisation": short})
    trainer = ScratchTrainer(training, LEARNING_RATE, cfg.seed, cfg.runtime, cfg.evaluation, device, checkpoint)
    items = data.indices("train")
    network = trainer.train("classes", RowNetwork(cfg.space.middle(), len(data.classes)), data, items)
    predicted, labels = trainer.predict(network, data, items), data.labels[items]
    accuracy = np.bincount(labels, predicted == labels, len(data.classes)) / np.bincount(labels, minlength=len(data.classes))
    return sample_classes(accuracy, cfg.search.classes.number, seeding.generator(cfg.seed, "classes"))


def of_classes(data: ImageDataset, classes: np.ndarray) -> ImageDataset:
    """The training images of some classes, with labels from 0 on; -1 for images of other classes."""
    numbers = np.full(len(data.classes), -1)
    numbers[classes] = np.arange(len(classes))
    return replace(data, images=Relabelled(data.images, numbers), classes=tuple(data.classes[i] for i in classes))


class Relabelled:
    """The same images with other labels."""

    def __init__(self, images: Images, numbers: np.ndarray) -> None:
        self._images, self.labels = images, numbers[images.labels]

    def __len__(self) -> int:
        return len(self._images)

    def image(self, item: int) -> np.ndarray:
        return self._images.image(item)


class Searcher:
    """Searches for one target after the other; the stage's checkpoint holds their states."""

    def __init__(
        self, cfg: TfNasParams, data: ImageDataset, table: TfNasLatencyTable, device: torch.device, checkpoint: Checkpoint, run: StageRun
    ) -> None:
        self._cfg, self._data, self._table, self._device, self._checkpoint, self._run = cfg, data, table, device, checkpoint, run
        items = data.indices("train")
        self._parts = hold_out(items[data.labels[items] >= 0], data.labels, cfg.search.held_out, cfg.seed)

    def search(self, name: str, target_ms: float) -> Search:
        """The finished search for a target."""
        cfg, search = self._cfg.search.method, self._new()
        if (state := self._checkpoint.load(f"{name}.pt") or self._checkpoint.load("weights_only.pt")) is not None:
            search.load(state)
        finished = len(search.history)
        for epoch in progress(range(finished, cfg.epochs), f"search: epochs for {name}, {target_ms:.3g} ms", cfg.epochs, finished):
            if search.ended:
                break
            weights_only = epoch < cfg.weight_epochs
            row = search.epoch(None if weights_only else target_ms)
            self._checkpoint.save(search.state(), "weights_only.pt" if weights_only else f"{name}.pt")
            self._run.log({f"search/{name}/{key}": value for key, value in asdict(row).items() if key != "epoch"}, row.epoch)
            latencies = f"expected {row.expected_latency_ms:.3f} ms, derived {row.latency_ms:.3f} ms"
            print(f"search {name}: epoch {row.epoch}: {latencies}", flush=True)
        return search

    def _new(self) -> Search:
        cfg, cuda = self._cfg, self._device.type == "cuda"
        size, key = cfg.search.method.batch, f"{PIPELINE.parameters}: search.method.batch"
        batches = [
            TrainingBatches(self._data, part, size, cfg.search.augmentation, cfg.seed, cfg.runtime.workers, cuda, key=key)
            for part in self._parts
        ]
        with seeding.torch_seed(cfg.seed, "weights"):
            supernet = Supernet(cfg.space, len(self._data.classes))
        return Search(supernet, self._table, cfg.search.method, *batches, cfg.seed, cfg.runtime, self._device)

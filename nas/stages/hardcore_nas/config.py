"""What the stages of HardCoRe-NAS share: its parameters, and trainings that go on where they were stopped.

The pipeline is pipelines/hardcore_nas/dvc.yaml, its parameters are beside it. It reuses the images that the main pipeline's
stage split divided. Stages run from the project's root and write below pipelines/hardcore_nas/outputs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from nas.data.dataset import ImageDataset
from nas.data.loader import Augmentation, TrainingBatches
from nas.differentiable.hardcore_nas.training import Loss, Optimisation, fit
from nas.latency.rows import RowLatencyConfig
from nas.runtime import params, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.spaces.hardcore_nas import Space, load
from nas.stages import pipelines
from nas.stages.pipelines import Pipeline, Targets
from nas.tracking.runs import StageRun
from nas.training.recipe import Fraction, Runtime

PIPELINE = Pipeline("hardcore_nas")
TABLE = PIPELINE.outputs / "latency" / "table.json"

Part = Annotated[float, Field(gt=0, lt=1)]


class Evaluation(params.Section):
    """Section `evaluation`."""

    batch: Annotated[int, Field(ge=1)]  # images at once


class Images(params.Section):
    """Section `images`: those to train on."""

    held_out: Part  # of them, for the search; the one-shot model does not see them
    augmentation: Augmentation


class Training(Optimisation):
    """How a network is trained."""

    batch: Annotated[int, Field(ge=2)]


class Train(params.Section):
    """Section `train`: the weights of the one-shot model."""

    largest: Training  # the largest network by itself
    sorted_on: Part  # of the images: channels are sorted by what they do there
    multi_path: Training  # all networks, one for each image


class Search(params.Section):
    """Section `search`."""

    targets: Targets
    start: Annotated[float, Field(ge=0, le=1)]  # of the way from the fastest network to the target
    steps: Annotated[int, Field(ge=1)]
    every: Annotated[int, Field(ge=1)]  # steps: then the search is recorded and can be gone on with
    batch: Annotated[int, Field(ge=1)]  # images a step, a network drawn for each
    rate: Annotated[float, Field(gt=0, le=1)]  # of the way to the best vertex, each step
    momentum: Fraction  # of the gradients


class Tune(params.Section):
    """Section `tune`: the networks that were found."""

    tuning: Training  # from the one-shot model's weights, with the largest network's answers
    scratch: Training  # from fresh weights, to compare


@dataclass(frozen=True)
class Settings(pipelines.Settings):
    """All of pipelines/hardcore_nas/params.yaml."""

    seed: int
    space: Space
    runtime: Runtime
    evaluation: Evaluation
    latency: RowLatencyConfig
    images: Images
    train: Train
    search: Search
    tune: Tune


SECTIONS = {
    "runtime": Runtime,
    "evaluation": Evaluation,
    "latency": RowLatencyConfig,
    "images": Images,
    "train": Train,
    "search": Search,
    "tune": Tune,
}


def read(file: Path = PIPELINE.parameters) -> Settings:
    """The parameters, all checked before the first long stage.

    Raises:
        ParamsError: for the first mistake; names the key.
        FileNotFoundError: for a search space that is missing.
    """
    seed, space, sections = PIPELINE.sections(SECTIONS, file)
    search = sections["search"]
    if search.steps % search.every:
        raise params.ParamsError(f"{file}: search.every: {search.steps} steps cannot be divided into parts of {search.every}")
    return Settings(seed, load(Path(space)), **sections)


@contextmanager
def drawn(seed: int, *place: str) -> Iterator[None]:
    """Weights made meanwhile are drawn by the seed and the place; torch's global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeding.key(seed, *place))
        yield


def batches(data: ImageDataset, items: np.ndarray, batch: int, key: str, s: Settings, device: torch.device) -> TrainingBatches:
    """Of the images, as often as wanted.

    Args:
        key: of the batch in the parameters.

    Raises:
        ParamsError: if there are fewer images than fill a batch.
    """
    if batch > len(items):
        raise params.ParamsError(f"{PIPELINE.parameters}: {key}: {data.key!r} has {len(items)} images for it, a batch cannot have {batch}")
    return TrainingBatches(data, items, batch, s.images.augmentation, s.seed, s.runtime.workers, device.type == "cuda")


@dataclass(frozen=True)
class Trained:
    """What a training was like."""

    losses: tuple[float, ...]  # mean of each epoch, nats
    seconds: float  # those of runs that were stopped among them

    def rows(self, **facts: str) -> list[dict[str, Any]]:
        """A row an epoch, for history.csv: the facts, epoch, loss."""
        return [{**facts, "epoch": epoch, "loss": loss} for epoch, loss in enumerate(self.losses, 1)]


class Trainer:
    """Trains networks of one stage; each goes on from its last epoch, and none is trained twice."""

    def __init__(self, stage: str, s: Settings, data: ImageDataset, device: torch.device, checkpoint: Checkpoint, run: StageRun) -> None:
        self._stage, self._s, self._data, self._device, self._checkpoint, self._run = stage, s, data, device, checkpoint, run

    def fit(self, name: str, key: str, network: nn.Module, loss: Loss, items: np.ndarray, how: Training) -> Trained:
        """Train in place; the network is in eval mode then.

        Args:
            name: of the network.
            key: of `how` in the stage's section.

        Raises:
            FloatingPointError: if the loss is no number any more; says what to lower.
            ParamsError: if there are fewer images than fill a batch.
        """
        place = f"{self._stage}.{key}"
        images = batches(self._data, items, how.batch, f"{place}.batch", self._s, self._device)
        state = self._checkpoint.load(f"{name}.pt")
        kept = {"losses": state["losses"], "seconds": state["seconds"]} if state else {"losses": [], "seconds": 0.0}
        began = time.monotonic() - kept["seconds"]

        def on_epoch(state: dict[str, Any], mean: float) -> None:
            kept["losses"].append(mean)
            kept["seconds"] = time.monotonic() - began
            self._checkpoint.save({**state, **kept}, f"{name}.pt")
            self._run.log({f"{self._stage}/{name}/loss": mean}, state["epoch"])

        try:
            fit(network, loss, images, how, f"{self._stage}: {name}", self._s.runtime, self._device, state, on_epoch)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; the key is {PIPELINE.parameters}: {place}.learning_rate") from None
        network.eval()
        return Trained(tuple(kept["losses"]), kept["seconds"])

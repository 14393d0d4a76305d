"""What the pipelines of TF-NAS and HardCoRe-NAS share: folders, parameters' file, MLflow runs, targets and images.

A pipeline lies in pipelines/<name>: dvc.yaml, params.yaml, outputs. Both reuse the images that the main pipeline's stage
split divided; stages run from the project's root.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from sklearn.model_selection import train_test_split
from torch import Tensor

from nas.cost.infeasible import InfeasibleTarget
from nas.data.dataset import ImageDataset
from nas.data.loader import Augmentation, Batch
from nas.runtime import params
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.io import read_json
from nas.spaces.rows import Plan, Row
from nas.stages import runner
from nas.tracking.runs import StageRun
from nas.training.finetune import FineTuning
from nas.training.recipe import Runtime

NAMES = ascii_lowercase  # of the targets, from the fastest


class Pipeline(runner.Pipeline):
    """Former form of `runner.Pipeline`, until its users have moved."""

    def __init__(self, name: str, parent: Path = Path("pipelines")) -> None:
        super().__init__(parent / name)

    @contextmanager
    def stage(self, name: str, parameters: dict[str, Any]) -> Iterator[tuple[StageRun, Checkpoint, Path]]:
        """Former form of `runner.stage`."""
        with runner.stage(name, parameters, self) as stage:
            yield stage.run, stage.checkpoint, stage.out

    def finish(self, out: Path, metrics: dict[str, float], run: StageRun) -> None:
        """Former form of `Stage.finish`."""
        runner.Stage(f"{self.name} {out.name}", out.name, out, run, None).finish(metrics)

    def networks(self, path: Path, example: Plan, stage: str) -> list[tuple[dict[str, Any], Plan]]:
        """The entries of a file of networks with `rows`, each with its network.

        Args:
            example: of the same stem and head.
            stage: that writes the file.

        Raises:
            DocumentError: if the file holds something else.
        """
        entries = read_json(path)
        try:
            return [
                (e, Plan(example.resolution, example.stem, tuple(Row(*row) for row in e["rows"]), example.head, example.squeeze))
                for e in entries
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise self.damaged(path, error, stage) from None


@dataclass(frozen=True)
class Settings:
    """All of a pipeline's params.yaml; a subclass adds the sections."""

    seed: int
    space: Any  # has a name

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: the space by its name."""
        return {name: self.space.name if name == "space" else getattr(self, name) for name in names}


class Target(params.Section):
    """A latency that a network is to have: in ms, or as a share of the way from the cheapest network to the most expensive."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.latency_ms is None) == (self.share is None):
            raise ValueError("one of latency_ms and share is needed")
        return self

    def ms(self, min_ms: float, max_ms: float, place: str) -> float:
        """The latency, for a whole batch.

        Args:
            place: of the targets, for messages.

        Raises:
            InfeasibleTarget: if no network of the space has it.
        """
        if self.share is not None:
            return min(min_ms + self.share * (max_ms - min_ms), max_ms)  # rounding must not lead beyond
        if not min_ms <= self.latency_ms <= max_ms:
            raise InfeasibleTarget(f"{self.latency_ms:g} ms on this device", min_ms, max_ms, "ms", f"change {place}")
        return self.latency_ms


Targets = Annotated[tuple[Target, ...], Field(min_length=1, max_length=len(NAMES))]


class Training(params.Section):
    """Section `train`: a network from fresh weights."""

    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    how: FineTuning
    augmentation: Augmentation


def divided(data: ImageDataset, items: np.ndarray, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images for the weights, and the share `held_out` of them for the search: the same classes in the same proportions."""
    return tuple(train_test_split(items, test_size=held_out, random_state=seed, stratify=data.labels[items]))


def placed(batches: Iterable[Batch], runtime: Runtime, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, H, W) and labels (B,) on the device."""
    for batch in batches:
        yield batch.images.to(device, memory_format=runtime.memory_format), batch.labels.to(device)

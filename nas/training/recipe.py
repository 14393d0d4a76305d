"""How a supernet is trained: section `recipe` of params.yaml (AttentiveNAS, appendix A), and how it runs: section `runtime`."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.data.dataset import ImageDataset
from nas.data.loader import Augmentation, Batch, TrainingBatches
from nas.runtime import distributed
from nas.runtime.params import Section
from nas.training.losses import DistillationLoss

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Section):
    """Optimisation and regularisation of a sandwich step, shared by `pretrain` and `train`."""

    zero_init: bool  # each block starts as its shortcut; the paper's choice, slow where there are only hundreds of steps
    batch: Annotated[int, Field(ge=2)]  # images a step
    learning_rate: Annotated[float, Field(gt=0)]  # per 256 images; scaled by batch / 256
    warmup_epochs: Annotated[float, Field(ge=0)]  # linear, from 0.001 of the rate
    momentum: Fraction  # Nesterov
    weight_decay: Annotated[float, Field(ge=0)]  # on weights; none on batch norm and biases
    label_smoothing: Fraction
    distillation: DistillationLoss  # of all sub-networks but the largest
    dropout: Fraction  # largest network only
    drop_connect: Fraction  # largest network only
    clip_value: Annotated[float, Field(gt=0)]  # each gradient component is clipped to [-clip_value, clip_value]
    sampled: Annotated[int, Field(ge=1)]  # sub-networks a step beside the largest and the smallest
    augmentation: Augmentation


class Runtime(Section):
    """Where and how fast: device, threads, precision."""

    device: str  # auto, cpu, cuda, cuda:1, ...
    threads: Annotated[int, Field(ge=1)]
    evaluators: Annotated[int, Field(ge=1)]  # threads that evaluate sub-networks side by side
    workers: Annotated[int, Field(ge=0)]  # processes that decode and augment
    precision: Literal["fp32", "bf16"]
    channels_last: bool

    def start(self) -> torch.device:
        """Set the thread count and return the device.

        Raises:
            ValueError: if the device is not there.
        """
        torch.set_num_threads(self.threads)
        name = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and (local := os.environ.get("LOCAL_RANK")):  # torchrun's: a GPU for each process
            name = f"cuda:{local}"
        try:
            device = torch.device(name)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"params.yaml: runtime.device: {self.device!r} cannot be used here ({error}); auto takes what there is"
            ) from None
        if device.type == "cuda":  # a stopped training must end with the same bytes, and fp32 must be fp32
            torch.cuda.set_device(device)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.backends.cudnn.allow_tf32 = False
        return device

    def autocast(self, device: torch.device) -> torch.autocast:
        """bf16 where asked for; weights, batch-norm sums and losses stay in fp32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def to_device(self, batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B, 3, H, W) and labels (B,) on the device."""
        for batch in batches:
            yield batch.images.to(device, memory_format=self.memory_format), batch.labels.to(device)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def training_batches(
    data: ImageDataset, items: np.ndarray, recipe: Recipe, runtime: Runtime, device: torch.device, seed: int
) -> TrainingBatches:
    """This process's share of the batches of the recipe, augmented.

    Raises:
        ValueError: if there are fewer images than fill a batch, or a batch cannot be divided among the processes.
    """
    share = distributed.batch_share(recipe.batch)
    return TrainingBatches(data, items, recipe.batch, recipe.augmentation, seed, runtime.workers, device.type == "cuda", share)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, base: float, warmup_epochs: float) -> float:
    """The rate of a step: linear from 0.001 of the base during warm-up, times a cosine to 0 over all epochs (arXiv:1608.03983)."""
    warmup = warmup_epochs * steps_per_epoch
    rise = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
    return base * rise * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * epochs)))


def optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on weights of two and more dimensions only."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)

"""Sections `recipe` (training of a supernet; AttentiveNAS, appendix A) and `runtime` (device, threads, precision) of params.yaml."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.data.augmentation import Augmentation
from nas.data.dataset import ImageDataset
from nas.data.loader import Batch, TrainingBatches
from nas.runtime import distributed
from nas.runtime.params import Section
from nas.training.losses import DistillationLoss

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Section):
    """Optimisation and regularisation of a sandwich step, shared by `pretrain` and `train`."""

    zero_init: bool  # each block starts as its shortcut; the paper's choice, slow in trainings of hundreds of steps
    batch: Annotated[int, Field(ge=2)]  # images per step
    learning_rate: Annotated[float, Field(gt=0)]  # per 256 images; scaled by batch / 256
    warmup_epochs: Annotated[float, Field(ge=0)]  # linear, from 0.001 of the learning rate
    momentum: Fraction  # Nesterov
    weight_decay: Annotated[float, Field(ge=0)]  # on weights; none on batch norm and biases
    label_smoothing: Fraction
    distillation: DistillationLoss  # of all sub-networks but the largest
    dropout: Fraction  # largest network only
    drop_connect: Fraction  # largest network only
    clip_value: Annotated[float, Field(gt=0)]  # each gradient component is clipped to [-clip_value, clip_value]
    sampled: Annotated[int, Field(ge=1)]  # sub-networks per step besides the largest and the smallest
    augmentation: Augmentation


class Runtime(Section):
    """Device, threads and precision."""

    device: str  # auto, cpu, cuda, cuda:1, ...
    threads: Annotated[int, Field(ge=1)]
    evaluators: Annotated[int, Field(ge=1)]  # threads that evaluate sub-networks concurrently
    workers: Annotated[int, Field(ge=0)]  # processes that decode and augment
    precision: Literal["fp32", "bf16"]
    channels_last: bool

    def start(self) -> torch.device:
        """Set the thread count and return the device.

        Raises:
            ValueError: if the device is not available.
        """
        torch.set_num_threads(self.threads)
        name = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and (local := os.environ.get("LOCAL_RANK")):  # of torchrun: one GPU per process
            name = f"cuda:{local}"
        try:
            device = torch.device(name)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"params.yaml: runtime.device: {self.device!r} is not available ({error}); auto selects an available device"
            ) from None
        if device.type == "cuda":  # a resumed training must end with the same bytes, and fp32 must be fp32
            torch.cuda.set_device(device)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
            torch.backends.cudnn.allow_tf32 = False
        return device

    def autocast(self, device: torch.device) -> torch.autocast:
        """bf16 if configured; weights, batch-norm sums and losses stay in fp32."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def to_device(self, batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B, 3, H, W) and labels (B,) on the device."""
        for batch in batches:
            yield batch.images.to(device, memory_format=self.memory_format), batch.labels.to(device)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def training_batches(
    data: ImageDataset, indices: np.ndarray, recipe: Recipe, runtime: Runtime, device: torch.device, seed: int
) -> TrainingBatches:
    """This process's share of the recipe's augmented batches.

    Raises:
        ValueError: if there are fewer images than one batch needs, or a batch cannot be divided among the processes.
    """
    share = distributed.batch_share(recipe.batch)
    return TrainingBatches(data, indices, recipe.batch, recipe.augmentation, seed, runtime.workers, device.type == "cuda", share)


def learning_rate(step: int, steps_per_epoch: int, epochs: int, base: float, warmup_epochs: float) -> float:
    """Learning rate of a step: linear warm-up from 0.001 of the base, times a cosine to 0 over all epochs (arXiv:1608.03983)."""
    warmup = warmup_epochs * steps_per_epoch
    factor = 1.0 if step >= warmup else 0.001 + 0.999 * step / warmup
    return base * factor * 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * epochs)))


def sgd(model: torch.nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on parameters of two and more dimensions only."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)

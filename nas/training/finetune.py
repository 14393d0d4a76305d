"""Fine-tuning of a network on another dataset (AttentiveNAS, arXiv:2011.09011, appendix G).

SGD with momentum 0.9, label smoothing 0.1, dropout 0.5 and a cosine schedule; the caller selects learning rate and weight
decay on a held-out part.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from nas.data.loader import TrainingBatches
from nas.models.extract import Network
from nas.runtime import seeding
from nas.runtime.params import Section
from nas.training.losses import label_loss
from nas.training.recipe import Fraction, Runtime, learning_rate, sgd


class FineTuningConfig(Section):
    """Training of one network; the paper fine-tunes for 150 epochs with batch 64."""

    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)]
    momentum: Fraction
    label_smoothing: Fraction
    dropout: Fraction
    warmup_epochs: Annotated[float, Field(ge=0)]
    clip_value: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Hyperparameters:
    """Hyperparameters selected on a held-out part."""

    learning_rate: float  # peak, not scaled by the batch
    weight_decay: float


def replace_classifier(network: Network, classes: int, seed: int) -> None:
    """Replace the classifier by a randomly initialised one for other classes, in place."""
    with seeding.torch_seed(seed, "classifier"):
        classifier = nn.Linear(network.classifier.in_features, classes)
        nn.init.normal_(classifier.weight, std=0.01)
        nn.init.zeros_(classifier.bias)
    network.classifier = classifier


def fine_tune(
    network: Network,
    batches: TrainingBatches,
    hyperparameters: Hyperparameters,
    cfg: FineTuningConfig,
    seed: int,
    runtime: Runtime,
    device: torch.device,
    state: dict | None,
    on_epoch: Callable[[dict], None],
) -> None:
    """Train all weights in place; batch norm uses batch statistics, so calibrate before evaluation.

    Args:
        state: the last state passed to `on_epoch` by an interrupted run; None to start.
        on_epoch: called with the state after each epoch.

    Raises:
        FloatingPointError: if the loss is NaN or infinite.
    """
    network.to(device=device, memory_format=runtime.memory_format).train()
    network.dropout.p = cfg.dropout
    peak = hyperparameters.learning_rate
    optimizer = sgd(network, peak, cfg.momentum, hyperparameters.weight_decay)
    first = 0
    if state is not None:
        network.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    devices = [device] if device.type == "cuda" else []
    for epoch in range(first, cfg.epochs):
        total = 0.0
        with torch.random.fork_rng(devices=devices):  # nn.Dropout draws from the global state, seeded per epoch
            torch.manual_seed(seeding.key(seed, "dropout", epoch))
            for i, batch in enumerate(batches.epoch(epoch)):
                rate = learning_rate(epoch * batches.steps + i, batches.steps, cfg.epochs, peak, cfg.warmup_epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                images = batch.images.to(device, non_blocking=True, memory_format=runtime.memory_format)
                with runtime.autocast(device):
                    loss = label_loss(network(images), batch.labels.to(device, non_blocking=True), cfg.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_value_(network.parameters(), cfg.clip_value)
                optimizer.step()
                total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"fine-tuning with learning rate {peak:g} diverged in epoch {epoch + 1}; lower params.yaml: transfer.learning_rates"
            )
        on_epoch({"weights": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})

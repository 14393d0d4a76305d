"""Fine-tune a network of the family on other images (AttentiveNAS, appendix G).

SGD with momentum 0.9, label smoothing 0.1, dropout 0.5, cosine; learning rate and weight decay are
chosen by the caller on a hold-out.
"""

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
from nas.training.recipe import Fraction, Runtime, learning_rate


class FineTuning(Section):
    """How a network is fine-tuned; the paper takes 150 epochs of batch 64."""

    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=2)]
    momentum: Fraction
    label_smoothing: Fraction
    dropout: Fraction
    warmup_epochs: Annotated[float, Field(ge=0)]
    clip_value: Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Try:
    """One setting to fine-tune with."""

    learning_rate: float  # peak, a step
    weight_decay: float


def new_classifier(network: Network, classes: int, seed: int) -> None:
    """Replace the classifier by a fresh one for other classes, in place."""
    with seeding.torch_seed(seed, "classifier"):
        fresh = nn.Linear(network.classifier.in_features, classes)
        nn.init.normal_(fresh.weight, std=0.01)
        nn.init.zeros_(fresh.bias)
    network.classifier = fresh


def fine_tune(
    network: Network,
    batches: TrainingBatches,
    setting: Try,
    how: FineTuning,
    seed: int,
    runtime: Runtime,
    device: torch.device,
    state: dict | None,
    on_epoch: Callable[[dict], None],
) -> None:
    """Train all weights in place; batch norm by batch statistics: calibrate before evaluating.

    Args:
        state: what `on_epoch` got from a run that was stopped; None to start.
        on_epoch: gets the state after each epoch.

    Raises:
        FloatingPointError: if the loss is no longer finite.
    """
    network.to(device=device, memory_format=runtime.memory_format).train()
    network.dropout.p = how.dropout
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": setting.weight_decay}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=setting.learning_rate, momentum=how.momentum, nesterov=how.momentum > 0)
    first = 0
    if state is not None:
        network.load_state_dict(state["weights"])
        sgd.load_state_dict(state["optimizer"])
        first = state["epoch"]
    devices = [device] if device.type == "cuda" else []
    for epoch in range(first, how.epochs):
        total = 0.0
        with torch.random.fork_rng(devices=devices):  # nn.Dropout draws from the global state: counted by epoch
            torch.manual_seed(seeding.key(seed, "dropout", epoch))
            for i, batch in enumerate(batches.epoch(epoch)):
                rate = learning_rate(epoch * batches.steps + i, batches.steps, how.epochs, setting.learning_rate, how.warmup_epochs)
                for group in sgd.param_groups:
                    group["lr"] = rate
                images = batch.images.to(device, non_blocking=True, memory_format=runtime.memory_format)
                with runtime.autocast(device):
                    loss = label_loss(network(images), batch.labels.to(device, non_blocking=True), how.label_smoothing)
                sgd.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_value_(network.parameters(), how.clip_value)
                sgd.step()
                total += loss.item()
        if total != total or total in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"fine-tuning with learning rate {setting.learning_rate:g} diverged in epoch {epoch + 1}; "
                "lower params.yaml: transfer.learning_rates"
            )
        on_epoch({"weights": network.state_dict(), "optimizer": sgd.state_dict(), "epoch": epoch + 1})

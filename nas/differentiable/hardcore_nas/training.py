"""Training: the largest network of the one-shot model, the whole model with it as teacher, fine-tuning of searched networks.

HardCoRe-NAS (arXiv:2102.11646), sections 3.3 and 4.2.2. The largest network is trained first and its channels are sorted
(`one_shot.sort_channels`, by `importance`). Then the whole model is trained, every image through a random architecture:

    CE(labels) + sum over stages of MSE(features, teacher's) / 50 + KL(teacher || student)

Searched networks are extracted and fine-tuned with CE(labels) + 2 KL(teacher || student).
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nas.data.loader import TrainingBatches
from nas.differentiable.hardcore_nas.one_shot import OneShot, Paths
from nas.runtime import seeding
from nas.runtime.params import Section
from nas.runtime.progress import progress
from nas.training.losses import kl_divergence, label_loss
from nas.training.recipe import Fraction, Runtime, learning_rate, sgd

FEATURE_LOSS_DIVISOR = 50
TUNING_KL_WEIGHT = 2

Loss = Callable[[Tensor, Tensor, int], Tensor]  # images, labels, step -> mean loss, nats


class TrainingConfig(Section):
    """SGD with Nesterov momentum and a cosine schedule."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]  # per step, the maximum
    warmup_epochs: Annotated[float, Field(ge=0)]  # linear, from 0.001 of the rate
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]  # on weights; none on batch norm and biases
    label_smoothing: Fraction
    clip_value: Annotated[float, Field(gt=0)]  # each gradient component is clipped to [-clip_value, clip_value]


def largest_loss(model: OneShot, smoothing: float) -> Loss:
    """Cross-entropy of the largest network."""

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        return label_loss(model(images, largest(model, len(images))), labels, smoothing)

    return loss


def multi_path_loss(model: OneShot, teacher: OneShot, smoothing: float, seed: int) -> Loss:
    """Loss of one architecture per image, uniform depths and configurations, by labels and by the teacher's largest network.

    Args:
        teacher: in eval mode.
    """

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        rng = seeding.generator(seed, "paths", step)
        paths = Paths.of([model.space.random(rng) for _ in images], model.space.blocks)
        with torch.no_grad():
            teacher_features = teacher.features(images, largest(teacher, len(images)))
            teacher_logits = teacher.classify(teacher_features[-1])
        features = model.features(images, paths)
        logits = model.classify(features[-1])
        feature_loss = sum(F.mse_loss(ours.float(), theirs.float()) for ours, theirs in zip(features, teacher_features))
        return label_loss(logits, labels, smoothing) + feature_loss / FEATURE_LOSS_DIVISOR + kl_divergence(logits, teacher_logits)

    return loss


def tuning_loss(network: nn.Module, teacher: nn.Module, smoothing: float) -> Loss:
    """Fine-tuning loss of a network, by labels and by the teacher's logits.

    Args:
        teacher: in eval mode.
    """

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = network(images)
        return label_loss(logits, labels, smoothing) + TUNING_KL_WEIGHT * kl_divergence(logits, teacher_logits)

    return loss


def scratch_loss(network: nn.Module, smoothing: float) -> Loss:
    """Cross-entropy of a network trained from scratch."""
    return lambda images, labels, step: label_loss(network(images), labels, smoothing)


def largest(model: OneShot, images: int) -> Paths:
    """The largest architecture for every image."""
    return Paths.of([model.space.largest()] * images, model.space.blocks)


def fit(
    model: nn.Module,
    loss: Loss,
    batches: TrainingBatches,
    cfg: TrainingConfig,
    place: str,
    runtime: Runtime,
    device: torch.device,
    state: dict[str, Any] | None,
    on_epoch: Callable[[dict[str, Any], float], None],
) -> None:
    """Train in place, in training mode; parameters without a gradient do not change.

    Args:
        place: name of the training, for messages.
        state: the last one that `on_epoch` got from an interrupted run; None to start.
        on_epoch: called after every epoch with the state and the mean loss, nats.

    Raises:
        FloatingPointError: if the loss is NaN or infinite.
    """
    model.to(device=device, memory_format=runtime.memory_format).train()
    optimizer = sgd(model, cfg.learning_rate, cfg.momentum, cfg.weight_decay)
    first = 0
    if state is not None:
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in progress(range(first, cfg.epochs), f"{place}: epochs", cfg.epochs, first):
        total = 0.0
        for i, batch in enumerate(batches.epoch(epoch)):
            step = epoch * batches.steps + i
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, batches.steps, cfg.epochs, cfg.learning_rate, cfg.warmup_epochs)
            images = batch.images.to(device, non_blocking=True, memory_format=runtime.memory_format)
            optimizer.zero_grad(set_to_none=True)
            with runtime.autocast(device):
                batch_loss = loss(images, batch.labels.to(device, non_blocking=True), step)
            batch_loss.backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), cfg.clip_value)
            optimizer.step()
            total += batch_loss.item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"{place}: the loss of epoch {epoch + 1} is NaN or infinite; lower its learning_rate ({cfg.learning_rate:g})"
            )
        on_epoch({"weights": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, total / batches.steps)


def importance(model: OneShot, loss: Loss, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """|weight * gradient| of every parameter that the loss depends on, summed over batches; weights do not change.

    Args:
        batches: normalised images (B, 3, H, W) and labels (B,), on the model's device.
    """
    model.eval()
    named = dict(model.named_parameters())
    scores: dict[str, Tensor] = {}
    for i, (images, labels) in enumerate(batches):
        grads = torch.autograd.grad(loss(images, labels, i), list(named.values()), allow_unused=True)
        for (name, weight), grad in zip(named.items(), grads):
            if grad is not None:
                scores[name] = scores.get(name, 0) + (weight.detach() * grad).abs()
    return scores

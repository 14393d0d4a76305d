"""Weights of the one-shot model and of what was found: the largest network, all networks with it as teacher, fine-tuning.

HardCoRe-NAS (arXiv:2102.11646), sections 3.3 and 4.2.2. First the largest network alone; then its channels are sorted
(`one_shot.sort_channels`, by `importance`); then all networks together, every image through a network of its own:

    CE(labels) + sum over stages of MSE(features, teacher's) / 50 + KL(teacher || student)

and each network that was found, cut out, with CE(labels) + 2 KL(teacher || student).
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

FEATURES = 50  # the features' part of the loss is divided by it
KL_IN_TUNING = 2  # weight of the teacher's answers

Loss = Callable[[Tensor, Tensor, int], Tensor]  # images, labels and the number of the step -> mean loss, nats


class Optimisation(Section):
    """SGD with Nesterov momentum and a cosine."""

    epochs: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]  # of a step, at its highest
    warmup_epochs: Annotated[float, Field(ge=0)]  # linear, from 0.001 of the rate
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]  # on weights; none on batch norm and biases
    label_smoothing: Fraction
    clip_value: Annotated[float, Field(gt=0)]  # each gradient component is clipped to [-clip_value, clip_value]


def largest_loss(model: OneShot, smoothing: float) -> Loss:
    """Of the largest network against the labels."""

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        return label_loss(model(images, largest(model, len(images))), labels, smoothing)

    return loss


def multi_path_loss(model: OneShot, teacher: OneShot, smoothing: float, seed: int) -> Loss:
    """Of a network for every image, uniform depths and configurations, against labels, and the teacher's largest network.

    Args:
        teacher: in eval mode.
    """

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        rng = seeding.generator(seed, "paths", step)
        paths = Paths.of([model.space.random(rng) for _ in images], model.space.blocks)
        with torch.no_grad():
            wanted = teacher.features(images, largest(teacher, len(images)))
            answers = teacher.classify(wanted[-1])
        found = model.features(images, paths)
        logits = model.classify(found[-1])
        apart = sum(F.mse_loss(mine.float(), theirs.float()) for mine, theirs in zip(found, wanted))
        return label_loss(logits, labels, smoothing) + apart / FEATURES + kl_divergence(logits, answers)

    return loss


def tuning_loss(network: nn.Module, teacher: nn.Module, smoothing: float) -> Loss:
    """Of a network by itself against labels and the teacher's answers.

    Args:
        teacher: in eval mode.
    """

    def loss(images: Tensor, labels: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            answers = teacher(images)
        logits = network(images)
        return label_loss(logits, labels, smoothing) + KL_IN_TUNING * kl_divergence(logits, answers)

    return loss


def scratch_loss(network: nn.Module, smoothing: float) -> Loss:
    """Of a network by itself against the labels."""
    return lambda images, labels, step: label_loss(network(images), labels, smoothing)


def largest(model: OneShot, images: int) -> Paths:
    """The largest network for each image."""
    return Paths.of([model.space.largest()] * images, model.space.blocks)


def fit(
    model: nn.Module,
    loss: Loss,
    batches: TrainingBatches,
    how: Optimisation,
    place: str,
    runtime: Runtime,
    device: torch.device,
    state: dict[str, Any] | None,
    on_epoch: Callable[[dict[str, Any], float], None],
) -> None:
    """Train in place, in training mode; what has no gradient stays as it is.

    Args:
        place: what the training is called, for messages.
        state: what `on_epoch` got from a run that was stopped; None to start.
        on_epoch: gets the state after each epoch, and the mean loss, nats.

    Raises:
        FloatingPointError: if the loss is no longer finite.
    """
    model.to(device=device, memory_format=runtime.memory_format).train()
    optimizer = sgd(model, how.learning_rate, how.momentum, how.weight_decay)
    first = 0
    if state is not None:
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
    for epoch in progress(range(first, how.epochs), f"{place}: epochs", how.epochs, first):
        total = 0.0
        for i, batch in enumerate(batches.epoch(epoch)):
            step = epoch * batches.steps + i
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, batches.steps, how.epochs, how.learning_rate, how.warmup_epochs)
            images = batch.images.to(device, non_blocking=True, memory_format=runtime.memory_format)
            optimizer.zero_grad(set_to_none=True)
            with runtime.autocast(device):
                found = loss(images, batch.labels.to(device, non_blocking=True), step)
            found.backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), how.clip_value)
            optimizer.step()
            total += found.item()
        if not math.isfinite(total):
            raise FloatingPointError(
                f"{place}: the loss of epoch {epoch + 1} is not finite; lower its learning_rate ({how.learning_rate:g})"
            )
        on_epoch({"weights": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}, total / batches.steps)


def importance(model: OneShot, loss: Loss, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """|weight * gradient| of every parameter that the loss reaches, summed over batches; weights stay as they are.

    Args:
        batches: normalised images (B, 3, H, W) and labels (B,), on the model's device.
    """
    model.eval()
    named = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for i, (images, labels) in enumerate(batches):
        grads = torch.autograd.grad(loss(images, labels, i), list(named.values()), allow_unused=True)
        for (name, weight), grad in zip(named.items(), grads):
            if grad is not None:
                found[name] = found.get(name, 0) + (weight.detach() * grad).abs()
    return found

"""One training step of a supernet by the sandwich rule with in-place distillation.

BigNAS (arXiv:2003.11142) and AttentiveNAS (arXiv:2011.09011), Eq. 3, Algorithm 1 line 10 and
appendix A: the largest network learns from the labels, with dropout and drop-connect; the sampled
ones and the smallest learn from the largest one's answers of this very step, by KL (AlphaNet,
arXiv:2102.07954: by an alpha-divergence). Each is propagated backward at once, so the gradients add
up and the memory is that of one network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.runtime.threads import map_threads
from nas.spaces.mbconv import Arch
from nas.training.losses import Distillation, label_loss
from nas.training.recipe import Runtime

Choose = Callable[[Callable[[Sequence[Arch]], list[float]]], list[Arch]]


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step, in nats: cross-entropy for the largest network, the distillation loss for the others."""

    largest: Tensor  # scalar
    sampled: Tensor  # scalar, mean over the sampled sub-networks
    smallest: Tensor  # scalar


def sandwich_step(
    supernet: Supernet,
    images: Tensor,
    labels: Tensor,
    choose: Choose,
    regularise: Regularisation,
    smoothing: float,
    distil: Distillation,
    runtime: Runtime,
) -> StepLosses:
    """Add the gradients of the largest, the chosen and the smallest sub-network to the supernet's.

    Args:
        images: (B, 3, H, W), normalised.
        labels: (B,) int64.
        choose: gets a score (minus the loss on this batch, higher is better) and returns the
            sub-networks to train; strategies that need no score do not call it.
        smoothing: label smoothing, of the largest network's loss, of the score, and of the labels' part of `distil`.
        distil: what the chosen and the smallest sub-network learn.
        runtime: precision, and how many candidates are scored side by side.
    """

    autocast = partial(runtime.autocast, images.device)

    def gain(arch: Arch) -> float:
        with torch.no_grad(), autocast():  # both hold in one thread only
            return -label_loss(supernet(images, arch), labels, smoothing).item()

    def score(archs: Sequence[Arch]) -> list[float]:
        return list(map_threads(gain, archs, runtime.evaluators))

    sampled = choose(score)
    with autocast():
        teacher = supernet(images, supernet.space.largest(), regularise)
        largest = label_loss(teacher, labels, smoothing)
    largest.backward()
    losses = []
    for arch in [*sampled, supernet.space.smallest()]:
        with autocast():
            loss = distil(supernet(images, arch), teacher, labels, smoothing)
        loss.backward()
        losses.append(loss.detach())
    return StepLosses(largest.detach(), torch.stack(losses[:-1]).mean(), losses[-1])

"""One training step of a supernet by the sandwich rule with in-place distillation.

BigNAS (arXiv:2003.11142) and AttentiveNAS (arXiv:2011.09011), Eq. 3, Algorithm 1 line 10 and
appendix A: the largest network learns from the labels, with dropout and drop-connect; the sampled
ones and the smallest learn from the largest network's logits of the same step, by KL (AlphaNet,
arXiv:2102.07954: by an alpha-divergence). Each is propagated backward immediately, so the gradients
accumulate and the memory is that of one network.
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
    """Losses of one step, in nats: cross-entropy of the largest network, distillation loss of the others."""

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
        choose: receives a score function (minus the loss on this batch, higher is better) and returns the
            sub-networks to train; strategies that need no score do not call it.
        smoothing: label smoothing of the largest network's loss, of the score, and of the label part of `distil`.
        distil: loss of the chosen and the smallest sub-network.
        runtime: precision, and number of candidates scored concurrently.
    """

    autocast = partial(runtime.autocast, images.device)

    def gain(arch: Arch) -> float:
        with torch.no_grad(), autocast():  # both contexts are thread-local
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

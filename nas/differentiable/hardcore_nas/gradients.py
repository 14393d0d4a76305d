"""What the search goes by: the loss of networks drawn from a point, and its gradient by every choice.

HardCoRe-NAS (arXiv:2102.11646), section 3.1.3: a hard Gumbel-softmax sample, one for each image. Drawing a category
by hard Gumbel noise is drawing it by its probability, and the gradient is taken at the one-hot weights themselves, so no
temperature is left in it. Every choice is computed, so those that were not drawn have a gradient too.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.relaxed import Point


class DrawnGradients:
    """Mean cross-entropy of a batch of images, a network drawn for each, by alpha and by beta; weights stay as they are."""

    def __init__(
        self,
        model: OneShot,
        batch: Callable[[int], tuple[Tensor, Tensor]],
        rng: Callable[[int], np.random.Generator],
    ) -> None:
        """
        Args:
            model: is frozen and put into eval mode.
            batch: number of a step -> normalised images (B, 3, H, W), labels (B,), on the model's device.
            rng: number of a step -> a generator of its own.
        """
        self._model, self._batch, self._rng = model.eval().requires_grad_(False), batch, rng

    def __call__(self, point: Point, step: int) -> Point:
        """The gradient at one draw for each image, in nats."""
        return self.with_loss(point, step)[0]

    def with_loss(self, point: Point, step: int) -> tuple[Point, float]:
        """The same gradient, and the loss of what was drawn, nats."""
        images, labels = self._batch(step)
        alpha, beta = (z.to(images).requires_grad_() for z in draw(point, len(images), self._rng(step)))
        loss = F.cross_entropy(self._model.mixed(images, alpha, beta), labels)
        found = torch.autograd.grad(loss, (alpha, beta))
        return Point(*(g.sum(0).double().cpu().numpy() for g in found)), loss.item()


def draw(point: Point, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One-hot choices of n networks: (n, stages, blocks, configurations) and (n, stages, blocks) of depths 1, 2, ..."""
    return tuple(torch.from_numpy(_one_hot(p, n, rng)) for p in (point.alpha, point.beta))


def _one_hot(probabilities: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """(..., choices) -> (n, ..., choices), by the inverse of the distribution function: what has probability 0 is never drawn."""
    sums = probabilities.cumsum(-1)
    drawn = rng.random((n, *sums.shape[:-1], 1)) >= sums / sums[..., -1:]
    return np.eye(sums.shape[-1], dtype=np.float32)[drawn.sum(-1)]

"""The search: block-coordinate stochastic Frank-Wolfe with the latency as a hard constraint, and the projection to a network.

HardCoRe-NAS (arXiv:2102.11646), Algorithm 1 and section 3.4. A step moves either alpha or beta towards the best vertex of
the set in which the other is fixed and the latency is within the target, the solution of a linear programme
(`nas.differentiable.hardcore_nas.knapsack`). That set is convex, so every iterate is within the target. Blocks that cannot
run have no cost and no gradient: they are left out of the programme and do not change.

Gradients (section 3.1.3) are those of the loss at a hard Gumbel-softmax sample per image. Drawing a category with hard Gumbel
noise is drawing it by its probability, and the gradient is taken at the one-hot weights, so there is no temperature. All
choices are computed, so choices that were not drawn have a gradient too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.differentiable.hardcore_nas import knapsack
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, discretize, sample_one_hot
from nas.spaces.hardcore_nas import Arch

Gradients = Callable[[RelaxedArch, int], RelaxedArch]  # relaxed architecture, step -> estimated gradient of the loss


@dataclass(frozen=True, eq=False)
class State:
    """State of a search after a step."""

    step: int
    relaxed: RelaxedArch
    mean: RelaxedArch  # running means of the gradients


@dataclass(frozen=True)
class FrankWolfeConfig:
    """Size and smoothing of the steps."""

    rate: float  # share of the way to the vertex
    momentum: float  # weight of the running mean


class SampledGradients:
    """Gradient by alpha and beta of the mean cross-entropy of a batch, a network drawn per image; weights do not change."""

    def __init__(
        self,
        model: OneShot,
        batch: Callable[[int], tuple[Tensor, Tensor]],
        rng: Callable[[int], np.random.Generator],
    ) -> None:
        """
        Args:
            model: frozen and put into eval mode here.
            batch: step -> normalised images (B, 3, H, W), labels (B,), on the model's device.
            rng: step -> a separate generator.
        """
        self._model, self._batch, self._rng = model.eval().requires_grad_(False), batch, rng

    def __call__(self, relaxed: RelaxedArch, step: int) -> RelaxedArch:
        """The gradient at one sample per image, in nats."""
        return self.with_loss(relaxed, step)[0]

    def with_loss(self, relaxed: RelaxedArch, step: int) -> tuple[RelaxedArch, float]:
        """The same gradient, and the loss of the samples, nats."""
        images, labels = self._batch(step)
        samples = sample_one_hot(relaxed, len(images), self._rng(step))
        alpha, beta = (torch.from_numpy(z).to(images).requires_grad_() for z in samples)
        loss = F.cross_entropy(self._model.mixed(images, alpha, beta), labels)
        gradients = torch.autograd.grad(loss, (alpha, beta))
        return RelaxedArch(*(g.sum(0).double().cpu().numpy() for g in gradients)), loss.item()


def begin(relaxed: RelaxedArch) -> State:
    """Before the first step."""
    return State(0, relaxed, RelaxedArch(np.zeros_like(relaxed.alpha), np.zeros_like(relaxed.beta)))


def search(
    state: State,
    latency: ExpectedLatency,
    target_ms: float,
    cfg: FrankWolfeConfig,
    steps: int,
    gradients: Gradients,
    rng: Callable[[int], np.random.Generator],
) -> Iterator[State]:
    """The state after every step.

    Args:
        state: to start or resume from, within the target.
        steps: number of the last step.
        rng: step -> a separate generator, so that a search can be resumed.

    Raises:
        InfeasibleTarget: if no network is as fast as the target.
        ValueError: if a gradient is not finite.
    """
    latency.check(target_ms)
    while state.step < steps:
        gradient = gradients(state.relaxed, state.step)
        of_alpha = bool(rng(state.step).random() < 0.5)
        state = step(state, gradient, of_alpha, latency, target_ms, cfg)
        yield state


def step(state: State, gradient: RelaxedArch, of_alpha: bool, latency: ExpectedLatency, target_ms: float, cfg: FrankWolfeConfig) -> State:
    """One step of alpha or of beta."""
    relaxed, mean, m = state.relaxed, state.mean, cfg.momentum
    if of_alpha:
        mean = replace(mean, alpha=m * mean.alpha + (1 - m) * gradient.alpha)
        vertex = best_alpha(mean.alpha, relaxed, latency, target_ms)
        relaxed = replace(relaxed, alpha=relaxed.alpha + cfg.rate * (vertex - relaxed.alpha))
    else:
        mean = replace(mean, beta=m * mean.beta + (1 - m) * gradient.beta)
        vertex = best_beta(mean.beta, relaxed, latency, target_ms)
        relaxed = replace(relaxed, beta=relaxed.beta + cfg.rate * (vertex - relaxed.beta))
    return State(state.step + 1, relaxed, mean)


def best_alpha(value: np.ndarray, relaxed: RelaxedArch, latency: ExpectedLatency, target_ms: float) -> np.ndarray:
    """The alpha of least value within the target, at this beta; unchanged in blocks that cannot run."""
    runs = relaxed.kappa > 0
    best = relaxed.alpha.copy()
    best[runs] = knapsack.solve(value[runs], latency.of_configurations(relaxed.beta)[runs], target_ms - latency.fixed_latency_ms)
    return best


def best_beta(value: np.ndarray, relaxed: RelaxedArch, latency: ExpectedLatency, target_ms: float) -> np.ndarray:
    """The beta of least value within the target, at this alpha."""
    return knapsack.solve(value, latency.of_depths(relaxed.alpha), target_ms - latency.fixed_latency_ms)


def project(relaxed: RelaxedArch, latency: ExpectedLatency, target_ms: float) -> Arch:
    """A discrete architecture within the target (section 3.4.2).

    First the beta, then the alpha that agree most with the relaxed architecture within the target. In each, at most one
    block has two non-zero choices (Theorem 3.1); it takes the cheaper one, since the likelier one may exceed the target.
    Beta is rounded first, so the latency that this saves is available to alpha.
    """
    beta = best_beta(-relaxed.beta, relaxed, latency, target_ms)
    rounded = replace(relaxed, beta=cheapest(beta, latency.of_depths(relaxed.alpha)))
    alpha = best_alpha(-relaxed.alpha, rounded, latency, target_ms)
    return discretize(replace(rounded, alpha=cheapest(alpha, latency.blocks_ms)))


def cheapest(x: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """One-hot along the last axis: the cheapest of the non-zero choices."""
    index = np.where(x > 0, cost, np.inf).argmin(-1)
    return np.eye(x.shape[-1])[index]

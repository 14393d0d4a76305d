"""Losses of supernet training: labels for the largest network, the largest network's answers for the others.

In-place distillation of BigNAS and AttentiveNAS is KL(p || q) of teacher p and student q. AlphaNet
(arXiv:2102.07954) takes alpha-divergences instead; its supplement has the labels' part and the
temperature (Eq. 7 and 8), here for every divergence. With the ratio r = p / q:

    loss         = (1 - weight) CE(labels, q) + weight T^2 D(p_T || q_T),     p_T = softmax(logits / T)
    D_alpha      = (E_q[r^alpha] - 1) / (alpha (alpha - 1)),      KL(p || q) at alpha = 1, KL(q || p) at 0
    grad D_alpha = -E_q[r^alpha grad log q] / alpha,              -E_q[log r grad log q] at alpha = 0

A clip bounds r^alpha from above, and r itself at alpha = 0, in the divergence and in its gradient; at
alpha = 1 nothing is clipped. The bounded ratio is no function of q any more, so the gradient goes
through log q alone and is not that of the value. What is computed differently from these equations:
ratios are differences of logarithms, and the two forms in `_alpha` equal the above because p and q
each sum to 1, without its cancellation around alpha = 0 and alpha = 1.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from nas.runtime.params import Section

LARGEST = 60.0  # a ratio without a clip is taken for e^60 = 1e26 at most: float32 ends at 3e38, sums and gradients must fit too
NOUGHT = 1e-20  # a smaller alpha is 0 in float32

Order = Annotated[float, Field(ge=-100, le=100)]  # alpha
Clip = Annotated[float, Field(ge=1, le=1e20)]  # below 1 it would act on equal distributions


class Distillation(Section):
    """What the sampled and the smallest sub-network learn: from the largest one's answers and, where weight < 1, from the labels."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0  # logits are divided by it
    weight: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the largest network's answers, beta in the paper; 1: no labels

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Mean loss over a batch, in nats: (1 - weight) CE(labels) + weight T^2 D(p_T || q_T) (AlphaNet's supplement, Eq. 8).

        T^2 keeps the gradient's size: that of any alpha-divergence falls as 1 / T^2 for large T.

        Args:
            student: logits, (batch, classes); receives the gradient.
            teacher: logits, (batch, classes); detached here.
            labels: (batch,) int64.
            smoothing: label smoothing of the labels' part.
        """
        t = self.temperature
        loss = self.weight * t**2 * self.divergence(_wide(student) / t, _wide(teacher.detach()) / t)
        return loss if self.weight == 1 else loss + (1 - self.weight) * label_loss(student, labels, smoothing)

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean of D over a batch of (batch, classes) logits, in nats."""


class KL(Distillation):
    """KL(p || q)."""

    loss: Literal["kl"] = "kl"

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher)


class Alpha(Distillation):
    """D_alpha of one alpha."""

    loss: Literal["alpha"] = "alpha"
    alpha: Order
    clip: Clip | None  # of the ratio; null: none

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return alpha_divergence(student, teacher, self.alpha, self.clip)


class AdaptiveAlpha(Distillation):
    """For each image the larger D_alpha of two (AlphaNet: alpha -1 and 1, clip 5)."""

    loss: Literal["adaptive-alpha"] = "adaptive-alpha"
    alpha_min: Order
    alpha_max: Order
    clip: Clip | None  # of the ratio; null: none

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.alpha_min >= self.alpha_max:
            raise ValueError("alpha_min must be below alpha_max (for a single one take `loss: alpha`)")
        return self

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return adaptive_alpha_divergence(student, teacher, self.alpha_min, self.alpha_max, self.clip)


DistillationLoss = Annotated[KL | Alpha | AdaptiveAlpha, Field(discriminator="loss")]


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing (arXiv:1512.00567) over (batch, classes) logits, in nats."""
    return F.cross_entropy(_wide(logits), labels, label_smoothing=smoothing)


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean KL(p || q) of teacher p and student q over a batch, in nats; never negative.

    Args:
        student: logits, (batch, classes); receives the gradient.
        teacher: logits, (batch, classes); detached here.
    """
    return F.kl_div(_log_softmax(student), _log_softmax(teacher.detach()), reduction="batchmean", log_target=True)


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float | None = None) -> Tensor:
    """Mean D_alpha(p || q) of teacher p and student q over a batch, in nats; never negative (see `_mean`).

    The ratio is at most e^60 where there is no clip, so that value and gradient are finite in float32.

    Args:
        student: logits, (batch, classes); receives the gradient.
        teacher: logits, (batch, classes); detached here.
        alpha: any of [-100, 100]; 0 and 1 are the limits.
        clip: upper bound of (p/q)^alpha, at alpha = 0 of p/q, from 1 on; without effect at alpha = 1.
    """
    log_q = _log_softmax(student)
    return _mean(log_q, *_alpha(log_q, _log_softmax(teacher.detach()), alpha, clip))


def adaptive_alpha_divergence(student: Tensor, teacher: Tensor, alpha_min: float, alpha_max: float, clip: float | None = None) -> Tensor:
    """Mean over a batch of each image's larger divergence, clipped, of two alphas, in nats; never negative.

    The arguments are those of `alpha_divergence`. AlphaNet (arXiv:2102.07954): a negative alpha
    punishes what the student holds possible and the teacher does not, a positive one the reverse.
    """
    log_q, log_p = _log_softmax(student), _log_softmax(teacher.detach())
    low, low_weights = _alpha(log_q, log_p, alpha_min, clip)
    high, high_weights = _alpha(log_q, log_p, alpha_max, clip)
    return _mean(log_q, torch.maximum(low, high), torch.where((low > high).unsqueeze(1), low_weights, high_weights))


def _wide(logits: Tensor) -> Tensor:
    """In float32, or in float64 if they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(_wide(logits), dim=1)


def _mean(log_q: Tensor, divergence: Tensor, weights: Tensor) -> Tensor:
    """The mean of the divergences; its gradient is the mean of -sum(weights * grad log q).

    A clip can bring the value of an alpha outside [0, 1] below zero, where no divergence is; it then counts as 0.

    Args:
        log_q: the student's, (batch, classes); receives the gradient.
        divergence: (batch,), without gradient.
        weights: q rho, (batch, classes), without gradient.
    """
    surrogate = -(weights * log_q).sum(1)
    return (divergence.clamp(min=0) + (surrogate - surrogate.detach())).mean()  # the surrogate's own value cancels to the bit


@torch.no_grad()
def _alpha(log_q: Tensor, log_p: Tensor, alpha: float, clip: float | None) -> tuple[Tensor, Tensor]:
    """D_alpha of each image, (batch,), and q rho, (batch, classes), rho being what grad log q is weighted with.

    rho = r^alpha / alpha may have any constant added, as E_q[grad log q] = 0. Below 1/2 it is (r^alpha - 1) / alpha,
    which tends to log r and gives D_alpha = E_q[rho] / (alpha - 1). From 1/2 on, with p r^(alpha - 1) for q r^alpha,
    D_alpha = sum(p (r^(alpha - 1) - 1)) / (alpha (alpha - 1)); a clipped class has clip q for q r^alpha.
    """
    p, q, log_r = log_p.exp(), log_q.exp(), log_p - log_q
    log_clip = math.inf if clip is None else math.log(clip)
    if alpha == 1:
        return (p * log_r).sum(1), p
    if abs(alpha) < NOUGHT:
        weights = q * log_r.clamp(max=log_clip)
        return -weights.sum(1), weights
    if alpha < 0.5:
        weights = q * torch.expm1((alpha * log_r).clamp(max=min(log_clip, LARGEST))) / alpha
        return weights.sum(1) / (alpha - 1), weights
    change = p * torch.expm1(((alpha - 1) * log_r).clamp(max=LARGEST))  # q r^alpha - p
    if clip is not None:
        change = torch.where(alpha * log_r > log_clip, clip * q - p, change)
    return change.sum(1) / (alpha * (alpha - 1)), (change + p) / alpha

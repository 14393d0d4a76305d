"""Losses of supernet training: labels for the largest sub-network, its logits for the others.

In-place distillation of BigNAS and AttentiveNAS is KL(p || q) of teacher p and student q. AlphaNet
(arXiv:2102.07954) uses alpha-divergences instead; its supplement has the label part and the
temperature (Eq. 7 and 8), here for every divergence. With the ratio r = p / q:

    loss         = (1 - weight) CE(labels, q) + weight T^2 D(p_T || q_T),     p_T = softmax(logits / T)
    D_alpha      = (E_q[r^alpha] - 1) / (alpha (alpha - 1)),      KL(p || q) at alpha = 1, KL(q || p) at 0
    grad D_alpha = -E_q[r^alpha grad log q] / alpha,              -E_q[log r grad log q] at alpha = 0

A clip bounds r^alpha from above, and r itself at alpha = 0, in the divergence and in its gradient; at
alpha = 1 nothing is clipped. The clipped ratio is constant in q, so the gradient goes through log q
only and is not that of the value. Two computations differ from these equations: ratios are
differences of logarithms, and the two forms in `_alpha`, which are equal because p and q each sum
to 1, avoid cancellation around alpha = 0 and alpha = 1.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from nas.runtime.params import Section

MAX_LOG_RATIO = 60.0  # an unclipped ratio is at most e^60 = 1e26, so that sums and gradients stay below 3e38, the float32 maximum
ZERO_ALPHA = 1e-20  # a smaller alpha is 0 in float32

Order = Annotated[float, Field(ge=-100, le=100)]  # alpha
Clip = Annotated[float, Field(ge=1, le=1e20)]  # below 1 it would clip equal distributions


class Distillation(Section):
    """Loss of the sampled and the smallest sub-network: from the largest one's logits and, if weight < 1, from the labels."""

    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0  # logits are divided by it
    weight: Annotated[float, Field(ge=0, le=1)] = 1.0  # of the distillation part, beta in the paper; 1: no labels

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Mean loss over a batch, in nats: (1 - weight) CE(labels) + weight T^2 D(p_T || q_T) (AlphaNet's supplement, Eq. 8).

        T^2 preserves the size of the gradient, which falls as 1 / T^2 for large T with any alpha-divergence.

        Args:
            student: logits, (batch, classes); receives the gradient.
            teacher: logits, (batch, classes); detached here.
            labels: (batch,) int64.
            smoothing: label smoothing of the label part.
        """
        t = self.temperature
        loss = self.weight * t**2 * self.divergence(_at_least_float32(student) / t, _at_least_float32(teacher.detach()) / t)
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
    """D_alpha with one alpha."""

    loss: Literal["alpha"] = "alpha"
    alpha: Order
    clip: Clip | None  # of the ratio; null: none

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return alpha_divergence(student, teacher, self.alpha, self.clip)


class AdaptiveAlpha(Distillation):
    """Per image, the larger D_alpha of two alphas (AlphaNet: alpha -1 and 1, clip 5)."""

    loss: Literal["adaptive-alpha"] = "adaptive-alpha"
    alpha_min: Order
    alpha_max: Order
    clip: Clip | None  # of the ratio; null: none

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.alpha_min >= self.alpha_max:
            raise ValueError("alpha_min must be below alpha_max (for a single alpha use `loss: alpha`)")
        return self

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return adaptive_alpha_divergence(student, teacher, self.alpha_min, self.alpha_max, self.clip)


DistillationLoss = Annotated[KL | Alpha | AdaptiveAlpha, Field(discriminator="loss")]


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing (arXiv:1512.00567) over (batch, classes) logits, in nats."""
    return F.cross_entropy(_at_least_float32(logits), labels, label_smoothing=smoothing)


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean KL(p || q) of teacher p and student q over a batch, in nats; never negative.

    Args:
        student: logits, (batch, classes); receives the gradient.
        teacher: logits, (batch, classes); detached here.
    """
    return F.kl_div(_log_softmax(student), _log_softmax(teacher.detach()), reduction="batchmean", log_target=True)


def alpha_divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float | None = None) -> Tensor:
    """Mean D_alpha(p || q) of teacher p and student q over a batch, in nats; never negative (see `_mean`).

    Without a clip the ratio is at most e^60, so that value and gradient are finite in float32.

    Args:
        student: logits, (batch, classes); receives the gradient.
        teacher: logits, (batch, classes); detached here.
        alpha: in [-100, 100]; 0 and 1 are the limits.
        clip: upper bound, at least 1, of (p/q)^alpha, at alpha = 0 of p/q; no effect at alpha = 1.
    """
    log_q = _log_softmax(student)
    return _mean(log_q, *_alpha(log_q, _log_softmax(teacher.detach()), alpha, clip))


def adaptive_alpha_divergence(student: Tensor, teacher: Tensor, alpha_min: float, alpha_max: float, clip: float | None = None) -> Tensor:
    """Mean over a batch of each image's larger divergence, clipped, of two alphas, in nats; never negative.

    The arguments are those of `alpha_divergence`. AlphaNet (arXiv:2102.07954): a negative alpha
    penalises classes that the student finds likely and the teacher does not, a positive one the reverse.
    """
    log_q, log_p = _log_softmax(student), _log_softmax(teacher.detach())
    low, low_weights = _alpha(log_q, log_p, alpha_min, clip)
    high, high_weights = _alpha(log_q, log_p, alpha_max, clip)
    return _mean(log_q, torch.maximum(low, high), torch.where((low > high).unsqueeze(1), low_weights, high_weights))


def _at_least_float32(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 if they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(_at_least_float32(logits), dim=1)


def _mean(log_q: Tensor, divergence: Tensor, weights: Tensor) -> Tensor:
    """Mean of the divergences; its gradient is the mean of -sum(weights * grad log q).

    For alpha outside [0, 1] a clip can make the value negative; it then counts as 0.

    Args:
        log_q: the student's, (batch, classes); receives the gradient.
        divergence: (batch,), without gradient.
        weights: q rho, (batch, classes), without gradient.
    """
    surrogate = -(weights * log_q).sum(1)
    return (divergence.clamp(min=0) + (surrogate - surrogate.detach())).mean()  # the surrogate's value cancels exactly


@torch.no_grad()
def _alpha(log_q: Tensor, log_p: Tensor, alpha: float, clip: float | None) -> tuple[Tensor, Tensor]:
    """D_alpha per image, (batch,), and q rho, (batch, classes); rho is the weight of grad log q.

    rho = r^alpha / alpha may have any constant added, as E_q[grad log q] = 0. Below 1/2 it is (r^alpha - 1) / alpha,
    which tends to log r and gives D_alpha = E_q[rho] / (alpha - 1). From 1/2 on, with p r^(alpha - 1) for q r^alpha,
    D_alpha = sum(p (r^(alpha - 1) - 1)) / (alpha (alpha - 1)); a clipped class has clip q for q r^alpha.
    """
    p, q, log_r = log_p.exp(), log_q.exp(), log_p - log_q
    log_clip = math.inf if clip is None else math.log(clip)
    if alpha == 1:
        return (p * log_r).sum(1), p
    if abs(alpha) < ZERO_ALPHA:
        weights = q * log_r.clamp(max=log_clip)
        return -weights.sum(1), weights
    if alpha < 0.5:
        weights = q * torch.expm1((alpha * log_r).clamp(max=min(log_clip, MAX_LOG_RATIO))) / alpha
        return weights.sum(1) / (alpha - 1), weights
    change = p * torch.expm1(((alpha - 1) * log_r).clamp(max=MAX_LOG_RATIO))  # q r^alpha - p
    if clip is not None:
        change = torch.where(alpha * log_r > log_clip, clip * q - p, change)
    return change.sum(1) / (alpha * (alpha - 1)), (change + p) / alpha

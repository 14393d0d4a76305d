"""Losses of supernet training against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from nas.training.losses import distillation_loss, label_loss


def logits(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))


def kl(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """sum p (log p - log q), mean over pictures, in float64."""
    p, q = teacher.double().softmax(1), student.double().softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean().item()


@pytest.mark.parametrize("seed", range(3))
def test_distillation_is_kl_of_teacher_and_student(seed):
    """The direct sum in float64, and torch's kl_div with probabilities as its target."""
    student, teacher = logits(seed), logits(seed + 10)
    found = distillation_loss(student, teacher).item()
    assert found == pytest.approx(kl(student, teacher), rel=1e-5)
    assert found == pytest.approx(F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean").item(), rel=1e-5)


def test_distillation_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2."""
    found = distillation_loss(torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]]))
    assert found.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)


@given(st.integers(0, 2**32), st.floats(0, 30), st.floats(0, 30))
def test_distillation_is_never_negative(seed, one, other):
    """For logits of any size; rounding leaves at most 1e-6 below zero."""
    assert distillation_loss(logits(seed, one), logits(seed + 1, other)).item() >= -1e-6


@given(st.integers(0, 2**32), st.floats(-50, 50))
def test_equal_answers_cost_nothing(seed, shift):
    """Zero for the same logits, also when all of a picture's are shifted; and a zero gradient."""
    teacher = logits(seed)
    student = (teacher + shift).requires_grad_()
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max().item() < 1e-5


def test_gradient_is_that_of_the_student_only():
    """(q - p) / batch for the student's logits, nothing for the teacher's."""
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    distillation_loss(student, teacher).backward()
    assert torch.allclose(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 7, atol=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_loss_is_smoothed_cross_entropy(smoothing):
    """- sum_c t_c log p_c with t = (1 - s) one-hot + s / 5, mean over pictures, in float64."""
    found, labels = logits(3), torch.tensor([0, 1, 2, 3, 4, 0, 2])
    target = (1 - smoothing) * torch.eye(5, dtype=torch.float64)[labels] + smoothing / 5
    expected = -(target * found.double().log_softmax(1)).sum(1).mean().item()
    assert label_loss(found, labels, smoothing).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "loss", [lambda x: label_loss(x, torch.zeros(7, dtype=torch.long), 0.1), lambda x: distillation_loss(x, logits(5))]
)
def test_losses_are_computed_in_float32(loss):
    """bf16 logits, as autocast gives them, do not make bf16 losses."""
    assert loss(logits(4).bfloat16()).dtype == torch.float32

"""Losses of supernet training: labels for the largest network, the largest network's answers for the others."""

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing (arXiv:1512.00567) over (batch, classes) logits, in nats."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean KL(p || q) of teacher p and student q over a batch, in nats; never negative.

    In-place distillation (BigNAS; AttentiveNAS appendix A): temperature 1, no label term.

    Args:
        student: logits, (batch, classes); receives the gradient.
        teacher: logits, (batch, classes); detached here.
    """
    log_p = F.log_softmax(teacher.detach().float(), dim=1)
    log_q = F.log_softmax(student.float(), dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

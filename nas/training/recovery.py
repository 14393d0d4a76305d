"""Recovery from non-finite losses and gradients: skip the step; after several in a row roll back to the last checkpoint; then stop.

A non-finite loss or gradient would destroy the weights. A single one may come from an unusual batch; many in a row mean
that training diverges, so a rollback also lowers the learning rate.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

MAX_SKIPPED_IN_A_ROW = 5  # steps
MAX_ROLLBACKS = 3  # per training
ROLLBACK_RATE_FACTOR = 0.5  # of the learning rate, per rollback
ADVICE = "Lower params.yaml recipe.learning_rate or recipe.clip_value, or lengthen recipe.warmup_epochs"


@dataclass(frozen=True)
class Recovery:
    """Counts of skipped steps and rollbacks; part of a checkpoint, which is only written while the network's logits are finite."""

    skipped: int = 0  # steps of the whole training
    in_row: int = 0  # steps skipped since the last finite one
    rollbacks: int = 0

    def after_step(self, is_finite: bool) -> Self:
        """The counts after one more step."""
        return replace(self, in_row=0) if is_finite else replace(self, skipped=self.skipped + 1, in_row=self.in_row + 1)

    def after_rollback(self, place: str, epoch: int) -> Self:
        """The counts after a rollback to the state of an epoch.

        Raises:
            FloatingPointError: if all rollbacks are used up; names the parameters to change.
        """
        if self.rollbacks == MAX_ROLLBACKS:
            raise FloatingPointError(
                f"{place}: losses or gradients are still not finite ({self.skipped} steps skipped) after {MAX_ROLLBACKS} rollbacks, each "
                f"with {ROLLBACK_RATE_FACTOR} of the learning rate before; the weights of epoch {epoch} are kept. {ADVICE}"
            )
        recovery = replace(self, in_row=0, rollbacks=self.rollbacks + 1)
        print(f"{place}: rollback to the weights of epoch {epoch}, with {recovery.rate:g} of the learning rate", flush=True)
        return recovery

    @property
    def rollback_is_due(self) -> bool:
        """Whether too many steps in a row were skipped."""
        return self.in_row >= MAX_SKIPPED_IN_A_ROW

    @property
    def rate(self) -> float:
        """Factor of the learning rate after the rollbacks so far."""
        return ROLLBACK_RATE_FACTOR**self.rollbacks

    def metrics(self) -> dict[str, int]:
        """{"skipped_steps", "rollbacks"}; empty if no step was skipped."""
        return {"skipped_steps": self.skipped, "rollbacks": self.rollbacks} if self.skipped or self.rollbacks else {}


def finite_weights(module: nn.Module) -> bool:
    """Whether all parameters are finite."""
    return bool(_max_abs([p.detach() for p in module.parameters()]).isfinite())


def finite_gradients(module: nn.Module) -> bool:
    """Whether all gradients are finite."""
    return bool(_max_abs([p.grad for p in module.parameters() if p.grad is not None]).isfinite())


def _max_abs(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Scalar: the largest absolute value; NaN if any value is NaN."""
    return torch.nn.utils.get_total_norm(tensors, norm_type=torch.inf)

"""Steps that went wrong: skipped and counted; after several in a row, back to the last checkpoint and slower; at last, stop.

A loss or a gradient that is not finite would spoil the weights for good. One may be a strange batch; many in a row mean
that the weights are on their way out already, which only an earlier state and a lower rate mend.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

SKIPS = 5  # steps in a row
ROLLBACKS = 3  # in one training
SLOWER = 0.5  # the learning rate after one, as a share of that before
ADVICE = "Lower params.yaml recipe.learning_rate or recipe.clip_value, or lengthen recipe.warmup_epochs"


@dataclass(frozen=True)
class Trouble:
    """What was got over so far; part of a checkpoint, which is only written while the network's answers are numbers."""

    skipped: int = 0  # steps, over the whole training
    in_row: int = 0  # of them, the last ones
    rollbacks: int = 0

    def after(self, finite: bool) -> Self:
        """With one step more."""
        return replace(self, in_row=0) if finite else replace(self, skipped=self.skipped + 1, in_row=self.in_row + 1)

    @property
    def too_much(self) -> bool:
        """Whether training has to go back."""
        return self.in_row >= SKIPS

    @property
    def rate(self) -> float:
        """Share of the learning rate that is left."""
        return SLOWER**self.rollbacks

    def back(self, place: str, epoch: int) -> Self:
        """After going back to the state of an epoch.

        Raises:
            FloatingPointError: if it went back often enough; says what to try.
        """
        if self.rollbacks == ROLLBACKS:
            raise FloatingPointError(
                f"{place}: losses or gradients are no longer finite ({self.skipped} steps skipped), and going back {ROLLBACKS} times, "
                f"each time with {SLOWER} of the learning rate, did not help; the weights of epoch {epoch} are kept. {ADVICE}"
            )
        found = replace(self, in_row=0, rollbacks=self.rollbacks + 1)
        print(f"{place}: back to the weights of epoch {epoch}, with {found.rate:g} of the learning rate", flush=True)
        return found

    def metrics(self) -> dict[str, int]:
        """{"skipped_steps", "rollbacks"}, or nothing where all went well."""
        return {"skipped_steps": self.skipped, "rollbacks": self.rollbacks} if self.skipped or self.rollbacks else {}


def finite_weights(module: nn.Module) -> bool:
    """Whether every parameter is a number."""
    return bool(_largest([p.detach() for p in module.parameters()]).isfinite())


def finite_gradients(module: nn.Module) -> bool:
    """Whether every gradient is a number."""
    return bool(_largest([p.grad for p in module.parameters() if p.grad is not None]).isfinite())


def _largest(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Scalar: the largest absolute value; NaN if there is one."""
    return torch.nn.utils.get_total_norm(tensors, norm_type=torch.inf)

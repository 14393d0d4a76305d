"""Supernet training: sandwich steps, one checkpoint per epoch; a resumed training ends with the same weights as an uninterrupted one.

Several processes train as one: each takes its share of every batch, all choose the same sub-networks by scores averaged
over the processes, and the gradients of all passes of a step are averaged once. Batch norm sees the process's own share,
as in the paper (AttentiveNAS, arXiv:2011.09011).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.loader import Batch, TrainingBatches
from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.runtime import distributed, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.distributed import RankZeroCheckpoint
from nas.runtime.progress import progress
from nas.runtime.threads import Prefetcher
from nas.sampling.attentive import Strategy
from nas.spaces.mbconv import Arch
from nas.training.recipe import Recipe, Runtime, learning_rate, sgd
from nas.training.recovery import Recovery, finite_gradients, finite_weights
from nas.training.sandwich import sandwich_step

PREFETCHED_STEPS = 16  # steps whose candidate architectures are drawn in advance

Validate = Callable[[], tuple[float, float]]  # top-1 (percent) of the smallest and the largest sub-network on the validation split


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch; a row of history.csv."""

    epoch: int  # from 1
    learning_rate: float  # of the last step
    loss_largest: float  # mean cross-entropy, nats
    loss_sampled: float  # mean distillation loss, nats
    loss_smallest: float  # mean distillation loss, nats
    top1_smallest: float  # percent, validation split
    top1_largest: float  # percent, validation split


class NonFiniteScore(Exception):
    """A candidate's loss is NaN or infinite."""


def choose_architectures(strategy: Strategy, groups: list[list[Arch]], score: Callable[[list[Arch]], list[float]]) -> list[Arch]:
    """One architecture per group, chosen by the strategy; candidates are scored together, averaged over the processes.

    Raises:
        NonFiniteScore: if a score is NaN or infinite.
    """
    candidates = [arch for group in groups if len(group) > 1 for arch in group]
    scores = distributed.mean(torch.tensor(score(candidates), dtype=torch.float64)).tolist() if candidates else []
    if not np.isfinite(scores).all():
        raise NonFiniteScore
    score_of = dict(zip(candidates, scores))
    return [strategy.choose(group, lambda archs: [score_of[arch] for arch in archs]) for group in groups]


class Trainer:
    """Trains a supernet in place: SGD, sandwich rule, in-place distillation.

    Args:
        batches: with several processes, this one's share.
        epochs: length of the whole training; the learning-rate schedule depends on it.
        place: name that all random draws are keyed by, e.g. the stage's.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: TrainingBatches,
        strategy: Strategy,
        *,
        epochs: int,
        seed: int,
        place: str,
        recipe: Recipe,
        runtime: Runtime,
        device: torch.device,
    ) -> None:
        self.supernet, self.batches, self.strategy = supernet.to(device), batches, strategy
        self.epochs, self.seed, self.place = epochs, seed, place
        self.recipe, self.runtime, self.device = recipe, runtime, device
        self.optimizer = sgd(supernet, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
        self.history: list[Epoch] = []
        self.recovery = Recovery()

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint's content: weights, optimizer state, history and recovery counts."""
        return {
            "weights": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "trouble": asdict(self.recovery),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of a finished epoch."""
        self.supernet.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.recovery = Recovery(**state["trouble"])

    def metrics(self) -> dict[str, float]:
        """{"top1_smallest", "top1_largest"} of the last epoch, percent; counts of skipped steps and rollbacks if there were any."""
        last = self.history[-1]
        return {"top1_smallest": last.top1_smallest, "top1_largest": last.top1_largest, **self.recovery.metrics()}

    def fit(self, checkpoint: Checkpoint | RankZeroCheckpoint, validate: Validate, on_epoch: Callable[[Epoch], None]) -> list[Epoch]:
        """Train to the last epoch, from the checkpoint if there is one; returns the history.

        Args:
            on_epoch: called after each epoch, before its checkpoint is written.

        Raises:
            FloatingPointError: if losses or gradients stay non-finite after the last rollback; the last checkpoint stays.
        """
        if (state := checkpoint.load()) is not None:
            self.load_state_dict(state)
        else:
            checkpoint.save(self.state_dict())  # a rollback in the first epoch needs a state
        while len(self.history) < self.epochs:
            self._run_epochs(checkpoint, validate, on_epoch)
        return self.history

    def _run_epochs(self, checkpoint: Checkpoint | RankZeroCheckpoint, validate: Validate, on_epoch: Callable[[Epoch], None]) -> None:
        """Train to the last epoch or to the next rollback."""
        first, steps = len(self.history), self.batches.steps
        with Prefetcher(self._candidates, start=first * steps, ahead=PREFETCHED_STEPS) as candidates:
            for epoch, i, batch in progress(self._batches(first), f"{self.place}: steps", self.epochs * steps, first * steps):
                if i == 0:
                    self._start_epoch(epoch)
                self._step(epoch, i, batch, next(candidates))
                is_last = i + 1 == steps
                if self.recovery.rollback_is_due or (is_last and not self._is_sound(batch)):
                    return self._roll_back(checkpoint)
                if is_last:
                    self._end_epoch(epoch, checkpoint, validate, on_epoch)

    def _candidates(self, step: int) -> list[list[Arch]]:
        """Candidate architectures of a step, one group per sampled sub-network."""
        rng = seeding.generator(self.seed, self.place, "architectures", step)
        return [self.strategy.candidates(rng) for _ in range(self.recipe.sampled)]

    def _batches(self, first: int) -> Iterator[tuple[int, int, Batch]]:
        """(epoch, step of the epoch, batch) from an epoch on."""
        for epoch in range(first, self.epochs):
            for i, batch in enumerate(self.batches.epoch(epoch)):
                yield epoch, i, batch

    def _start_epoch(self, epoch: int) -> None:
        self._loss_sums, self._counted_steps = torch.zeros(3, device=self.device), 0
        self._mask_key = seeding.key(self.seed, self.place, "regularisation", epoch)

    def _step(self, epoch: int, i: int, batch: Batch, candidates: list[list[Arch]]) -> None:
        """One optimizer step; a step with a non-finite loss or gradient is skipped and counted."""
        peak = self.recipe.learning_rate * self.recipe.batch / 256
        steps = self.batches.steps
        rate = learning_rate(epoch * steps + i, steps, self.epochs, peak, self.recipe.warmup_epochs) * self.recovery.rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._backward(batch, candidates)
        self.recovery = self.recovery.after_step(is_finite=losses is not None)
        if losses is None:
            print(f"{self.place}: step {i + 1} of epoch {epoch + 1} skipped: its losses or gradients are not finite", flush=True)
            return
        torch.nn.utils.clip_grad_value_(self.supernet.parameters(), self.recipe.clip_value)
        self.optimizer.step()
        self._loss_sums, self._counted_steps = self._loss_sums + losses, self._counted_steps + 1

    def _backward(self, batch: Batch, candidates: list[list[Arch]]) -> Tensor | None:
        """Gradients of one step, averaged over the processes; its mean losses (3,), or None if a loss or a gradient is non-finite."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            losses = sandwich_step(
                self.supernet,
                batch.images.to(self.device, non_blocking=True, memory_format=self.runtime.memory_format),
                batch.labels.to(self.device, non_blocking=True),
                partial(choose_architectures, self.strategy, candidates),
                Regularisation(self.recipe.dropout, self.recipe.drop_connect, batch.indices.to(self.device) + self._mask_key),
                self.recipe.label_smoothing,
                self.recipe.distillation,
                self.runtime,
            )
        except NonFiniteScore:
            return None
        means = distributed.mean(torch.stack([losses.largest, losses.sampled, losses.smallest]))
        distributed.average_gradients(self.supernet)
        return means if means.isfinite().all() and finite_gradients(self.supernet) else None

    def _is_sound(self, batch: Batch) -> bool:
        """Whether the weights and the largest sub-network's logits are finite, on all processes."""
        images = batch.images.nan_to_num(posinf=0.0, neginf=0.0).to(self.device, memory_format=self.runtime.memory_format)
        with torch.no_grad(), self.runtime.autocast(self.device):
            logits = self.supernet(images, self.supernet.space.largest())
        finite_share = distributed.mean(logits.isfinite().all().float()[None])
        return finite_weights(self.supernet) and finite_share.item() == 1

    def _roll_back(self, checkpoint: Checkpoint | RankZeroCheckpoint) -> None:
        """Return to the checkpoint with a lower learning rate."""
        recovery = self.recovery
        self.load_state_dict(checkpoint.load())
        self.recovery = recovery.after_rollback(self.place, len(self.history))
        checkpoint.save(self.state_dict())

    def _end_epoch(
        self, epoch: int, checkpoint: Checkpoint | RankZeroCheckpoint, validate: Validate, on_epoch: Callable[[Epoch], None]
    ) -> None:
        losses = (self._loss_sums / self._counted_steps).tolist() if self._counted_steps else [math.nan] * 3
        smallest, largest = validate()
        self.history.append(Epoch(epoch + 1, self.optimizer.param_groups[0]["lr"], *losses, smallest, largest))
        on_epoch(self.history[-1])
        if not self.recovery.in_row:  # a state amid skipped steps is no good rollback target
            checkpoint.save(self.state_dict())
        top1 = f"top-1 smallest {smallest:.1f} %, largest {largest:.1f} %"
        print(f"{self.place}: epoch {epoch + 1} of {self.epochs}: {top1}", flush=True)

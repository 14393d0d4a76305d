"""Train a supernet for some epochs: sandwich steps, one checkpoint an epoch, the same weights however often it is stopped.

Several processes train as one: each takes its share of every batch, all choose the same sub-networks, by scores averaged
over the processes, and the gradients of all passes of a step are averaged once. Batch norm sees a process's own share,
as in the paper's training.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nas.data.loader import Batch, TrainingBatches
from nas.models.layers import Regularisation
from nas.models.supernet import Supernet
from nas.runtime import distributed, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.distributed import FirstSaves
from nas.runtime.prefetch import RunAhead
from nas.runtime.progress import progress
from nas.sampling.attentive import Strategy
from nas.spaces.mbconv import Arch
from nas.training.recipe import Recipe, Runtime, learning_rate, optimizer
from nas.training.recovery import Trouble, finite_gradients, finite_weights
from nas.training.sandwich import sandwich_step

AHEAD = 16  # steps whose candidates are drawn before they are needed


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; a row of history.csv."""

    epoch: int  # from 1
    learning_rate: float  # of the last step
    loss_largest: float  # mean cross-entropy, nats
    loss_sampled: float  # mean distillation loss, nats
    loss_smallest: float  # mean distillation loss, nats
    top1_smallest: float  # percent, on the part `val`
    top1_largest: float  # percent, on the part `val`


@dataclass(frozen=True)
class Trained:
    """What a training came to, beside the weights."""

    history: list[Epoch]
    trouble: Trouble

    def metrics(self) -> dict[str, float]:
        """{"top1_smallest", "top1_largest"} of the last epoch, percent; with trouble, what it was."""
        last = self.history[-1]
        return {"top1_smallest": last.top1_smallest, "top1_largest": last.top1_largest, **self.trouble.metrics()}


class NotFinite(Exception):
    """A candidate's loss is no number."""


class Monitor(Protocol):
    """Top-1 (percent) of the smallest and the largest sub-network on images that nothing is chosen on."""

    def __call__(self) -> tuple[float, float]: ...


def choose_all(strategy: Strategy, groups: list[list[Arch]], score: Callable[[list[Arch]], list[float]]) -> list[Arch]:
    """One architecture of each group by the strategy; all that need a score are scored together, on all processes' images.

    Raises:
        NotFinite: if a score is no number.
    """
    unsure = [arch for group in groups if len(group) > 1 for arch in group]
    scores = distributed.mean(torch.tensor(score(unsure), dtype=torch.float64)).tolist() if unsure else []
    if not np.isfinite(scores).all():
        raise NotFinite
    known = dict(zip(unsure, scores))
    return [strategy.choose(group, lambda archs: [known[arch] for arch in archs]) for group in groups]


def train(
    supernet: Supernet,
    batches: TrainingBatches,
    strategy: Strategy,
    epochs: int,
    seed: int,
    place: str,
    recipe: Recipe,
    runtime: Runtime,
    device: torch.device,
    checkpoint: Checkpoint | FirstSaves,
    val: Monitor,
    on_epoch: Callable[[Epoch], None],
) -> Trained:
    """Train in place, from the checkpoint where there is one.

    Args:
        batches: of several processes, this one's share.
        place: name that all randomness is counted under, e.g. the stage's.
        on_epoch: called after each epoch, before its checkpoint is written.

    Raises:
        FloatingPointError: if losses or gradients stay no numbers, whatever is tried (`Trouble`); the last checkpoint stays.
    """
    supernet.to(device)
    sgd = optimizer(supernet, recipe)
    history: list[Epoch] = []
    trouble = Trouble()
    base = recipe.learning_rate * recipe.batch / 256

    def restore(state: dict[str, Any]) -> None:
        nonlocal history, trouble
        supernet.load_state_dict(state["weights"])
        sgd.load_state_dict(state["optimizer"])
        history, trouble = [Epoch(**row) for row in state["history"]], Trouble(**state["trouble"])

    def save() -> None:
        rows = [asdict(row) for row in history]
        checkpoint.save({"weights": supernet.state_dict(), "optimizer": sgd.state_dict(), "history": rows, "trouble": asdict(trouble)})

    def candidates(step: int) -> list:
        rng = seeding.generator(seed, place, "architectures", step)
        return [strategy.candidates(rng) for _ in range(recipe.sampled)]

    def steps(first: int) -> Iterator[tuple[int, int, Batch]]:
        for epoch in range(first, epochs):
            for i, batch in enumerate(batches.epoch(epoch)):
                yield epoch, i, batch

    def gradients(batch: Batch, groups: list[list[Arch]], mask_key: int) -> Tensor | None:
        """Of one step, averaged over the processes; its losses (3,) likewise, None if anything is no number."""
        sgd.zero_grad(set_to_none=True)
        try:
            losses = sandwich_step(
                supernet,
                batch.images.to(device, non_blocking=True, memory_format=runtime.memory_format),
                batch.labels.to(device, non_blocking=True),
                partial(choose_all, strategy, groups),
                Regularisation(recipe.dropout, recipe.drop_connect, batch.items.to(device) + mask_key),
                recipe.label_smoothing,
                recipe.distillation,
                runtime,
            )
        except NotFinite:
            return None
        found = distributed.mean(torch.stack([losses.largest, losses.sampled, losses.smallest]))
        distributed.average_gradients(supernet)
        return found if found.isfinite().all() and finite_gradients(supernet) else None

    def sound(batch: Batch) -> bool:
        """Whether what was learnt is worth keeping: the weights and the largest network's answers are numbers."""
        images = batch.images.nan_to_num(posinf=0.0, neginf=0.0).to(device, memory_format=runtime.memory_format)
        with torch.no_grad(), runtime.autocast(device):
            logits = supernet(images, supernet.space.largest())
        numbers = distributed.mean(logits.isfinite().all().float()[None])
        return finite_weights(supernet) and numbers.item() == 1

    if (state := checkpoint.load()) is not None:
        restore(state)
    else:
        save()  # so that there is something to go back to
    while len(history) < epochs:
        first = len(history)
        with RunAhead(candidates, start=first * batches.steps, ahead=AHEAD) as drawn:
            for epoch, i, batch in progress(steps(first), f"{place}: steps", epochs * batches.steps, first * batches.steps):
                if i == 0:
                    sums, counted = torch.zeros(3, device=device), 0
                    mask_key = seeding.key(seed, place, "regularisation", epoch)
                rate = learning_rate(epoch * batches.steps + i, batches.steps, epochs, base, recipe.warmup_epochs) * trouble.rate
                for group in sgd.param_groups:
                    group["lr"] = rate
                losses = gradients(batch, next(drawn), mask_key)
                trouble = trouble.after(finite=losses is not None)
                if losses is None:
                    print(f"{place}: step {i + 1} of epoch {epoch + 1} skipped: its losses or gradients are not finite", flush=True)
                else:
                    torch.nn.utils.clip_grad_value_(supernet.parameters(), recipe.clip_value)
                    sgd.step()
                    sums, counted = sums + losses, counted + 1
                ends = i + 1 == batches.steps
                if trouble.too_much or (ends and not sound(batch)):
                    now = trouble
                    restore(checkpoint.load())
                    trouble = now.back(place, len(history))
                    save()
                    break
                if ends:
                    means = (sums / counted).tolist() if counted else [math.nan] * 3
                    smallest, largest = val()
                    history.append(Epoch(epoch + 1, rate, *means, smallest, largest))
                    on_epoch(history[-1])
                    if not trouble.in_row:  # else it would be no good state to go back to
                        save()
                    print(f"{place}: epoch {epoch + 1} of {epochs}: top-1 smallest {smallest:.1f} %, largest {largest:.1f} %", flush=True)
    return Trained(history, trouble)

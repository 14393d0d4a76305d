"""Train a supernet for some epochs: sandwich steps, one checkpoint an epoch, the same weights however often it is stopped."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch

from nas import seeding
from nas.checkpoint import Checkpoint
from nas.data.loader import Batch, TrainingBatches
from nas.progress import progress
from nas.sampling.ahead import RunAhead
from nas.sampling.attentive import Strategy
from nas.space import Arch
from nas.supernet.layers import Regularisation
from nas.supernet.network import Supernet
from nas.training.recipe import Recipe, Runtime, learning_rate, optimizer
from nas.training.sandwich import sandwich_step

AHEAD = 16  # steps whose candidates are drawn before they are needed
ADVICE = "Lower params.yaml recipe.learning_rate or recipe.clip_value, or lengthen recipe.warmup_epochs"


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; a row of history.csv."""

    epoch: int  # from 1
    learning_rate: float  # of the last step
    loss_largest: float  # mean cross-entropy, nats
    loss_sampled: float  # mean distillation loss, nats
    loss_smallest: float  # mean distillation loss, nats
    top1_smallest: float  # percent, on the part `monitor`
    top1_largest: float  # percent, on the part `monitor`


class Monitor(Protocol):
    """Top-1 (percent) of the smallest and the largest sub-network on pictures that nothing is chosen on."""

    def __call__(self) -> tuple[float, float]: ...


def choose_all(strategy: Strategy, groups: list[list[Arch]], score: Callable[[list[Arch]], list[float]]) -> list[Arch]:
    """One architecture of each group by the strategy; all that need a score are scored together.

    Raises:
        FloatingPointError: if a score is no longer finite.
    """
    unsure = [arch for group in groups if len(group) > 1 for arch in group]
    known = dict(zip(unsure, score(unsure))) if unsure else {}
    if not np.isfinite(list(known.values())).all():
        raise FloatingPointError(f"the losses of the candidates are {[-s for s in known.values()]}; the last checkpoint is kept. {ADVICE}")
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
    checkpoint: Checkpoint,
    monitor: Monitor,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train in place, from the checkpoint where there is one.

    Args:
        place: name that all randomness is counted under, e.g. the stage's.
        on_epoch: called after each epoch, before its checkpoint is written.

    Raises:
        FloatingPointError: if a loss is no longer finite; the last checkpoint stays.
    """
    supernet.to(device)
    sgd = optimizer(supernet, recipe)
    history: list[Epoch] = []
    if (state := checkpoint.load()) is not None:
        supernet.load_state_dict(state["weights"])
        sgd.load_state_dict(state["optimizer"])
        history = [Epoch(**row) for row in state["history"]]

    base = recipe.learning_rate * recipe.batch / 256
    first_step = len(history) * batches.steps

    def candidates(step: int) -> list:
        rng = seeding.generator(seed, place, "architectures", step)
        return [strategy.candidates(rng) for _ in range(recipe.sampled)]

    def steps() -> Iterator[tuple[int, int, Batch]]:
        for epoch in range(first_step // batches.steps, epochs):
            for i, batch in enumerate(batches.epoch(epoch)):
                yield epoch, i, batch

    with RunAhead(candidates, start=first_step, ahead=AHEAD) as drawn:
        for epoch, i, batch in progress(steps(), f"{place}: steps", epochs * batches.steps, first_step):
            if i == 0:
                sums = torch.zeros(3, device=device)
                mask_key = seeding.key(seed, place, "regularisation", epoch)
            rate = learning_rate(epoch * batches.steps + i, batches.steps, epochs, base, recipe.warmup_epochs)
            for group in sgd.param_groups:
                group["lr"] = rate
            groups = next(drawn)
            sgd.zero_grad(set_to_none=True)
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
            torch.nn.utils.clip_grad_value_(supernet.parameters(), recipe.clip_value)
            sgd.step()
            sums += torch.stack([losses.largest, losses.sampled, losses.smallest])
            if i + 1 < batches.steps:
                continue
            means = (sums / batches.steps).tolist()
            if not np.isfinite(means).all():
                raise FloatingPointError(
                    f"{place}: the losses of epoch {epoch + 1} are {means}; the weights of epoch {epoch} are kept. {ADVICE}"
                )
            smallest, largest = monitor()
            history.append(Epoch(epoch + 1, rate, *means, smallest, largest))
            on_epoch(history[-1])
            checkpoint.save({"weights": supernet.state_dict(), "optimizer": sgd.state_dict(), "history": [asdict(row) for row in history]})
            print(f"{place}: epoch {epoch + 1} of {epochs}: top-1 smallest {smallest:.1f} %, largest {largest:.1f} %", flush=True)
    return history

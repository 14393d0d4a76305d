"""TF-NAS's search: weights and strengths trained in turns, on images of their own; widths scaled after each epoch.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.5, and its supplement, section 2:

    min_{alpha, beta} CE(w*; alpha, beta) + trade_off |LAT(alpha, beta) / target - 1|,    w* = argmin_w CE(w; alpha, beta)

by one step of alpha and beta after every few steps of the weights, first order. At first the weights alone are trained.
Then each of their steps takes two paths, one drawn by alpha and one of the other operations (bi-sampling): operations
that alpha likes less go on learning, else the strongest of the first epochs would stay so.

The first epochs, of weights alone, know no target: searches for several targets can go on from the same state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.cost.latency_tf_nas import LatencyTable
from nas.data.loader import Batch, TrainingBatches
from nas.differentiable.tf_nas.architecture import Strengths, drawn_path, expected_latency_ms, other_path, soft_mixture
from nas.differentiable.tf_nas.config import EarlyStopping, Method
from nas.differentiable.tf_nas.scaling import scale
from nas.differentiable.tf_nas.supernet import ChannelSGD, Supernet
from nas.runtime import seeding
from nas.spaces.tf_nas import Arch
from nas.training.recipe import Runtime, learning_rate


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to."""

    epoch: int  # from 1
    learning_rate: float  # of the weights' last step
    temperature: float  # of the Gumbel softmax
    loss_drawn: float  # mean cross-entropy of the path drawn by alpha, nats
    loss_other: float  # of the second path, nats; 0 where there is none
    loss_mixture: float  # of all operations, on the strengths' images, nats; 0 in the epochs of weights alone
    expected_latency_ms: float  # LAT, at the end
    latency_ms: float  # of the network that is strongest, by the table, after scaling
    same_operation: float  # share of the layers whose strongest operation is the one that most layers share


class Search:
    """A search that goes epoch by epoch; `state` is all of it, plain and loadable."""

    def __init__(
        self,
        supernet: Supernet,
        table: LatencyTable,
        how: Method,
        weight_batches: TrainingBatches,
        strength_batches: TrainingBatches,
        seed: int,
        runtime: Runtime,
        device: torch.device,
    ) -> None:
        """
        Args:
            weight_batches: images for the weights.
            strength_batches: other images, for alpha and beta.
        """
        self.supernet, self.table, self.how, self.seed, self.runtime, self.device = supernet, table, how, seed, runtime, device
        self._weight_batches, self._strength_batches = weight_batches, strength_batches
        supernet.to(device, memory_format=runtime.memory_format)
        self.strengths = Strengths(supernet.space).to(device)
        self.widths = supernet.space.start_widths()
        self._kept = [[channels.to(device) for channels in row] for row in supernet.choose(self.widths)]
        w, s = how.weights, how.strengths
        self._sgd = ChannelSGD(supernet.parameters(), w.learning_rate, w.momentum, w.weight_decay)
        self._adam = torch.optim.Adam(self.strengths.parameters(), lr=s.learning_rate, betas=s.betas, weight_decay=s.weight_decay)
        self.history: list[Epoch] = []
        self.operations: list[np.ndarray] = []  # an epoch: softmax of alpha (layers, operations)
        self.sinks: list[list[np.ndarray]] = []  # an epoch: softmax of beta, a stage (depth,)

    @property
    def choice(self) -> Arch:
        """The network that is strongest now."""
        return self.strengths.strongest(self.widths)

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or the operations have kept their order for long enough."""
        stop, trained = self.how.early_stopping, self.operations[self.how.weight_epochs :]
        return len(self.history) >= self.how.epochs or (stop is not None and settled(trained, stop))

    def epoch(self, target_ms: float | None) -> Epoch:
        """One epoch more.

        Args:
            target_ms: latency that the network is to have; None in the epochs of weights alone.

        Raises:
            ValueError: without a target after those epochs.
            FloatingPointError: if a loss is no number any more; says what to try.
        """
        number = len(self.history)
        alone = number < self.how.weight_epochs
        if not alone and target_ms is None:
            raise ValueError(f"epoch {number + 1} trains alpha and beta: a target latency is needed")
        temperature = self.how.temperature.start * self.how.temperature.factor ** max(0, number - self.how.weight_epochs)
        latencies = torch.from_numpy(self.table.latencies_ms(self.widths)).to(self.device, torch.float32)
        hidden = self.supernet.hidden_parameters(self._kept)
        held_out, sums, strength_steps = self._strength_epoch(number), torch.zeros(3, device=self.device), 0
        steps = self._weight_batches.steps
        for i, batch in enumerate(self._weight_batches.epoch(number)):
            rng = seeding.generator(self.seed, "search", number, i)
            rate = learning_rate(number * steps + i, steps, self.how.epochs, self.how.weights.learning_rate, 0)
            sums[:2] += self._weight_step(batch, rate, hidden, rng, 1 if alone or not self.how.bi_sampling else 2)
            if not alone and (i + 1) % self.how.strengths.every == 0:
                sums[2] += self._strength_step(next(held_out), latencies, target_ms, temperature, rng)
                strength_steps += 1
        drawn, other, mixture = (sums / torch.tensor([steps, steps, max(strength_steps, 1)], device=self.device)).tolist()
        if not np.isfinite([drawn, other, mixture]).all():
            raise FloatingPointError(
                f"search: losses of epoch {number + 1} are no numbers; "
                "lower search.method.weights.learning_rate or search.method.weights.clip_norm"
            )
        if not alone:
            self._scale(target_ms)
        self.operations.append(self.strengths.operations().detach().cpu().numpy())
        self.sinks.append([sink.detach().cpu().numpy() for sink in self.strengths.sinks()])
        latencies = torch.from_numpy(self.table.latencies_ms(self.widths)).to(self.device, torch.float32)
        with torch.no_grad():
            expected = expected_latency_ms(
                self.strengths.operations(), self.strengths.sinks(), latencies, self.table.fixed_latency_ms
            ).item()
        same = same_operation(self.operations[-1])
        row = Epoch(number + 1, rate, temperature, drawn, other, mixture, expected, self.table.latency_ms(self.choice), same)
        self.history.append(row)
        return row

    def _weight_step(self, batch: Batch, rate: float, hidden: Mapping, rng: np.random.Generator, paths: int) -> Tensor:
        """Cross-entropies (2,) of the path drawn and of the other; 0 where there is none."""
        for group in self._sgd.param_groups:
            group["lr"] = rate
        self._sgd.zero_grad(set_to_none=True)
        sinks = [sink.detach() for sink in self.strengths.sinks()]
        first = drawn_path(self.strengths.alpha, rng)
        chosen = [first, other_path(first, len(self.supernet.space.operations), rng)][:paths]
        losses = torch.zeros(2, device=self.device)
        images, labels = self._placed(batch)
        for n, path in enumerate(chosen):
            with self.runtime.autocast(self.device):
                loss = F.cross_entropy(self.supernet.path(images, path.tolist(), sinks, self._kept), labels)
            loss.backward()
            losses[n] = loss.detach()
        torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.how.weights.clip_norm)
        self._sgd.step(hidden)
        return losses

    def _strength_step(self, batch: Batch, latencies: Tensor, target_ms: float, temperature: float, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of the mixture; one step of alpha and beta, projected."""
        images, labels = self._placed(batch)
        weights, sinks = soft_mixture(self.strengths.alpha, temperature, rng), self.strengths.sinks()
        with self.runtime.autocast(self.device):
            loss = F.cross_entropy(self.supernet.mixture(images, weights, sinks, self._kept), labels)
        latency = expected_latency_ms(self.strengths.operations(), sinks, latencies, self.table.fixed_latency_ms)
        learnt = list(self.strengths.parameters())
        gradients = torch.autograd.grad(loss + self.how.trade_off * (latency / target_ms - 1).abs(), learnt)
        for p, gradient in zip(learnt, gradients):
            p.grad = gradient
        self._adam.step()
        self.strengths.project()
        return loss.detach()

    def _scale(self, target_ms: float) -> None:
        """Widths of the strongest network such that it takes the target; other operations keep theirs."""
        if not self.how.elasticity_scaling:
            return
        before = self.widths.copy()
        found = scale(self.table, self.choice, target_ms)
        for i in self.supernet.space.active_layers(found.depths):
            self.widths[i, found.operations[i]] = found.widths[i]
        self._kept = self.supernet.choose(self.widths, self._kept, before)

    def _strength_epoch(self, number: int) -> Iterator[Batch]:
        """Batches for alpha and beta, as many as are asked for: passes over their images, counted by epoch."""
        most = -(-(self._weight_batches.steps // self.how.strengths.every) // self._strength_batches.steps)
        for again in count():
            yield from self._strength_batches.epoch(number * max(most, 1) + again)

    def _placed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True, memory_format=self.runtime.memory_format)
        return images, batch.labels.to(self.device, non_blocking=True)

    def state(self) -> dict[str, Any]:
        """All that decides how the search goes on."""
        return {
            "weights": self.supernet.state_dict(),
            "strengths": self.strengths.state_dict(),
            "sgd": self._sgd.state_dict(),
            "adam": self._adam.state_dict(),
            "widths": self.widths.tolist(),
            "kept": self._kept,
            "history": [asdict(row) for row in self.history],
            "operations": [torch.from_numpy(found) for found in self.operations],
            "sinks": [[torch.from_numpy(sink) for sink in found] for found in self.sinks],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.supernet.load_state_dict(state["weights"])
        self.strengths.load_state_dict(state["strengths"])
        self._sgd.load_state_dict(state["sgd"])
        self._adam.load_state_dict(state["adam"])
        self.widths = np.array(state["widths"])
        self._kept = [[channels.to(self.device) for channels in row] for row in state["kept"]]
        self.history = [Epoch(**row) for row in state["history"]]
        self.operations = [found.numpy() for found in state["operations"]]
        self.sinks = [[sink.numpy() for sink in found] for found in state["sinks"]]


def same_operation(operations: np.ndarray) -> float:
    """Share of the layers whose strongest operation is the one that most layers have in common.

    Args:
        operations: (layers, operations) strengths.
    """
    strongest = operations.argmax(1)
    return float(np.bincount(strongest).max() / len(strongest))


def settled(operations: Sequence[np.ndarray], rule: EarlyStopping) -> bool:
    """Whether enough layers have had the same order of operations for so many epochs.

    Args:
        operations: an epoch, (layers, operations) strengths.
    """
    if len(operations) <= rule.epochs:
        return False
    orders = np.stack([found.argsort(axis=1, kind="stable") for found in operations[-rule.epochs - 1 :]])
    stable = (orders == orders[0]).all(axis=(0, 2))
    return bool(stable.mean() >= rule.layers)


def chosen_classes(accuracy: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
    """(groups,) classes, ascending: sorted by accuracy and cut into groups, one of each (supplement, section 2).

    Args:
        accuracy: (classes,) of a trained network.

    Raises:
        ValueError: for more groups than classes, or fewer than 2.
    """
    if not 2 <= groups <= len(accuracy):
        raise ValueError(f"search.classes: {groups} groups of {len(accuracy)} classes; from 2 to {len(accuracy)} are possible")
    parts = np.array_split(accuracy.argsort(kind="stable"), groups)
    return np.sort([rng.choice(part) for part in parts])

"""TF-NAS's search: weights and architecture parameters are trained in turn, on disjoint images; widths are scaled every epoch.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.5, and its supplement, section 2:

    min_{alpha, beta} CE(w*; alpha, beta) + trade_off |LAT(alpha, beta) / target - 1|,    w* = argmin_w CE(w; alpha, beta)

by one first-order step of alpha and beta after every few steps of the weights. Weights-only epochs come first. Afterwards
every weight step takes two paths, one drawn by alpha and one of the other operations (bi-sampling), so operations with a
small alpha keep learning; otherwise the strongest operations of the first epochs would stay so.

Weights-only epochs do not depend on the target: searches for several targets can resume from the same state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.data.loader import Batch, TrainingBatches
from nas.differentiable.tf_nas.architecture import (
    ArchitectureParameters,
    expected_latency_ms,
    gumbel_softmax,
    sample_path,
    sample_second_path,
)
from nas.differentiable.tf_nas.config import EarlyStopping, SearchConfig
from nas.differentiable.tf_nas.scaling import scale
from nas.differentiable.tf_nas.supernet import ChannelSGD, Supernet
from nas.runtime import seeding
from nas.spaces.tf_nas import Arch
from nas.training.recipe import Runtime, learning_rate


@dataclass(frozen=True)
class Epoch:
    """Metrics of one epoch."""

    epoch: int  # from 1
    learning_rate: float  # of the last weight step
    temperature: float  # of the Gumbel softmax
    loss_drawn: float  # mean cross-entropy of the path drawn by alpha, nats
    loss_other: float  # of the second path, nats; 0 without bi-sampling and in weights-only epochs
    loss_mixture: float  # of all operations, on the images for alpha and beta, nats; 0 in weights-only epochs
    expected_latency_ms: float  # LAT, at the end
    latency_ms: float  # of the derived architecture, by the table, after scaling
    same_operation: float  # share of the layers whose strongest operation is the most common one


class Search:
    """A search for one target, run epoch by epoch; `state` holds all of it as tensors and plain values."""

    def __init__(
        self,
        supernet: Supernet,
        table: TfNasLatencyTable,
        cfg: SearchConfig,
        weight_batches: TrainingBatches,
        architecture_batches: TrainingBatches,
        seed: int,
        runtime: Runtime,
        device: torch.device,
    ) -> None:
        """
        Args:
            weight_batches: images for the weights.
            architecture_batches: other images, for alpha and beta.
        """
        self.supernet, self.table, self.cfg, self.seed, self.runtime, self.device = supernet, table, cfg, seed, runtime, device
        self._weight_batches, self._architecture_batches = weight_batches, architecture_batches
        supernet.to(device, memory_format=runtime.memory_format)
        self.architecture = ArchitectureParameters(supernet.space).to(device)
        self.widths = supernet.space.start_widths()
        self._channels = [[channels.to(device) for channels in layer] for layer in supernet.select_channels(self.widths)]
        w, a = cfg.weights, cfg.architecture_parameters
        self._sgd = ChannelSGD(supernet.parameters(), w.learning_rate, w.momentum, w.weight_decay)
        self._adam = torch.optim.Adam(self.architecture.parameters(), lr=a.learning_rate, betas=a.betas, weight_decay=a.weight_decay)
        self.history: list[Epoch] = []
        self.operations: list[np.ndarray] = []  # per epoch the softmax of alpha (layers, operations)
        self.sinks: list[list[np.ndarray]] = []  # per epoch the softmax of beta, per stage (depth,)

    @property
    def arch(self) -> Arch:
        """The architecture of the largest alpha and beta."""
        return self.architecture.derive(self.widths)

    @property
    def ended(self) -> bool:
        """Whether all epochs are done, or early stopping applies."""
        rule, trained = self.cfg.early_stopping, self.operations[self.cfg.weight_epochs :]
        return len(self.history) >= self.cfg.epochs or (rule is not None and order_is_stable(trained, rule))

    def epoch(self, target_ms: float | None) -> Epoch:
        """Run one more epoch.

        Args:
            target_ms: target latency; None in weights-only epochs.

        Raises:
            ValueError: without a target after the weights-only epochs.
            FloatingPointError: if a loss is NaN or infinite; names the keys to lower.
        """
        index = len(self.history)
        weights_only = index < self.cfg.weight_epochs
        if not weights_only and target_ms is None:
            raise ValueError(f"epoch {index + 1} trains alpha and beta: a target latency is needed")
        temperature = self.cfg.temperature.start * self.cfg.temperature.factor ** max(0, index - self.cfg.weight_epochs)
        rate, losses = self._train(index, None if weights_only else target_ms, temperature)
        if not np.isfinite(losses).all():
            raise FloatingPointError(
                f"search: losses of epoch {index + 1} are NaN or infinite; "
                "lower search.method.weights.learning_rate or search.method.weights.clip_norm"
            )
        if not weights_only:
            self._scale(target_ms)
        self.operations.append(self.architecture.operations().detach().cpu().numpy())
        self.sinks.append([sink.detach().cpu().numpy() for sink in self.architecture.sinks()])
        with torch.no_grad():
            expected_ms = self._expected_latency_ms(self.architecture.sinks(), self._latencies()).item()
        same = same_operation(self.operations[-1])
        row = Epoch(index + 1, rate, temperature, *losses, expected_ms, self.table.latency_ms(self.arch), same)
        self.history.append(row)
        return row

    def _train(self, epoch: int, target_ms: float | None, temperature: float) -> tuple[float, list[float]]:
        """Train for one epoch, the weights only without a target.

        Returns:
            Learning rate of the last weight step; mean losses of the drawn path, of the second path and of the mixture.
        """
        latencies, hidden = self._latencies(), self.supernet.hidden_parameters(self._channels)
        held_out, sums, architecture_steps = self._architecture_epoch(epoch), torch.zeros(3, device=self.device), 0
        steps, paths = self._weight_batches.steps, 1 if target_ms is None or not self.cfg.bi_sampling else 2
        for i, batch in enumerate(self._weight_batches.epoch(epoch)):
            rng = seeding.generator(self.seed, "search", epoch, i)
            rate = learning_rate(epoch * steps + i, steps, self.cfg.epochs, self.cfg.weights.learning_rate, 0)
            sums[:2] += self._weight_step(batch, rate, hidden, rng, paths)
            if target_ms is not None and (i + 1) % self.cfg.architecture_parameters.every == 0:
                sums[2] += self._architecture_step(next(held_out), latencies, target_ms, temperature, rng)
                architecture_steps += 1
        return rate, (sums / torch.tensor([steps, steps, max(architecture_steps, 1)], device=self.device)).tolist()

    def _weight_step(self, batch: Batch, rate: float, hidden: Mapping, rng: np.random.Generator, paths: int) -> Tensor:
        """One step of the weights; cross-entropies (2,) of the drawn and the second path, 0 without a second path."""
        for group in self._sgd.param_groups:
            group["lr"] = rate
        self._sgd.zero_grad(set_to_none=True)
        sinks = [sink.detach() for sink in self.architecture.sinks()]
        first = sample_path(self.architecture.alpha, rng)
        second = sample_second_path(first, len(self.supernet.space.operations), rng)
        losses = torch.zeros(2, device=self.device)
        images, labels = self._to_device(batch)
        for n, path in enumerate([first, second][:paths]):
            with self.runtime.autocast(self.device):
                loss = F.cross_entropy(self.supernet.path(images, path.tolist(), sinks, self._channels), labels)
            loss.backward()
            losses[n] = loss.detach()
        torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.cfg.weights.clip_norm)
        self._sgd.step(hidden)
        return losses

    def _architecture_step(self, batch: Batch, latencies: Tensor, target_ms: float, temperature: float, rng: np.random.Generator) -> Tensor:
        """One step of alpha and beta, then the projection; cross-entropy of the mixture."""
        images, labels = self._to_device(batch)
        weights, sinks = gumbel_softmax(self.architecture.alpha, temperature, rng), self.architecture.sinks()
        with self.runtime.autocast(self.device):
            loss = F.cross_entropy(self.supernet.mixture(images, weights, sinks, self._channels), labels)
        latency = self._expected_latency_ms(sinks, latencies)
        trained = list(self.architecture.parameters())
        gradients = torch.autograd.grad(loss + self.cfg.trade_off * (latency / target_ms - 1).abs(), trained)
        for p, gradient in zip(trained, gradients):
            p.grad = gradient
        self._adam.step()
        self.architecture.project()
        return loss.detach()

    def _latencies(self) -> Tensor:
        """(layers, operations) ms at the current widths."""
        return torch.from_numpy(self.table.latencies_ms(self.widths)).to(self.device, torch.float32)

    def _expected_latency_ms(self, sinks: Sequence[Tensor], latencies: Tensor) -> Tensor:
        return expected_latency_ms(self.architecture.operations(), sinks, latencies, self.table.fixed_latency_ms)

    def _scale(self, target_ms: float) -> None:
        """Scale the widths of the derived architecture to the target; those of other operations do not change."""
        if not self.cfg.elasticity_scaling:
            return
        before = self.widths.copy()
        arch = scale(self.table, self.arch, target_ms)
        for i in self.supernet.space.active_layers(arch.depths):
            self.widths[i, arch.operations[i]] = arch.widths[i]
        self._channels = self.supernet.select_channels(self.widths, self._channels, before)

    def _architecture_epoch(self, epoch: int) -> Iterator[Batch]:
        """Endless batches for alpha and beta: as many passes over their images as the epoch needs, seeded by epoch and pass."""
        passes = -(-(self._weight_batches.steps // self.cfg.architecture_parameters.every) // self._architecture_batches.steps)
        for i in count():
            yield from self._architecture_batches.epoch(epoch * max(passes, 1) + i)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True, memory_format=self.runtime.memory_format)
        return images, batch.labels.to(self.device, non_blocking=True)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {
            "weights": self.supernet.state_dict(),
            "architecture_parameters": self.architecture.state_dict(),
            "sgd": self._sgd.state_dict(),
            "adam": self._adam.state_dict(),
            "widths": self.widths.tolist(),
            "channels": self._channels,
            "history": [asdict(row) for row in self.history],
            "operations": [torch.from_numpy(weights) for weights in self.operations],
            "sinks": [[torch.from_numpy(sink) for sink in sinks] for sinks in self.sinks],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self.supernet.load_state_dict(state["weights"])
        self.architecture.load_state_dict(state["architecture_parameters"])
        self._sgd.load_state_dict(state["sgd"])
        self._adam.load_state_dict(state["adam"])
        self.widths = np.array(state["widths"])
        self._channels = [[channels.to(self.device) for channels in layer] for layer in state["channels"]]
        self.history = [Epoch(**row) for row in state["history"]]
        self.operations = [weights.numpy() for weights in state["operations"]]
        self.sinks = [[sink.numpy() for sink in sinks] for sinks in state["sinks"]]


def same_operation(operations: np.ndarray) -> float:
    """Share of the layers whose strongest operation is the most common one.

    Args:
        operations: (layers, operations) weights.
    """
    strongest = operations.argmax(1)
    return float(np.bincount(strongest).max() / len(strongest))


def order_is_stable(operations: Sequence[np.ndarray], rule: EarlyStopping) -> bool:
    """Whether the order of operations has not changed over the rule's epochs, in at least the rule's share of layers.

    Args:
        operations: per epoch (layers, operations) weights.
    """
    if len(operations) <= rule.epochs:
        return False
    orders = np.stack([weights.argsort(axis=1, kind="stable") for weights in operations[-rule.epochs - 1 :]])
    stable = (orders == orders[0]).all(axis=(0, 2))
    return bool(stable.mean() >= rule.layers)


def sample_classes(accuracy: np.ndarray, groups: int, rng: np.random.Generator) -> np.ndarray:
    """(groups,) classes, ascending: sorted by accuracy and split into groups, one drawn from each (supplement, section 2).

    Args:
        accuracy: (classes,) of a trained network.

    Raises:
        ValueError: for more groups than classes, or fewer than 2.
    """
    if not 2 <= groups <= len(accuracy):
        raise ValueError(f"search.classes: {groups} groups of {len(accuracy)} classes; from 2 to {len(accuracy)} are possible")
    parts = np.array_split(accuracy.argsort(kind="stable"), groups)
    return np.sort([rng.choice(part) for part in parts])

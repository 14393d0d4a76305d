"""Top-1 of sub-networks: extracted from the supernet, batch norm calibrated, evaluated on held-out images.

AttentiveNAS (arXiv:2011.09011), section 4.2: a supernet keeps no batch-norm statistics, so those of a sub-network are
estimated on training images before it is evaluated.
"""

from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nas.data.dataset import ImageDataset
from nas.data.loader import Batch, EvaluationBatches
from nas.models.extract import Network, extract
from nas.models.layers import resize
from nas.models.supernet import Supernet
from nas.runtime import distributed, seeding
from nas.runtime.params import Section
from nas.runtime.threads import map_threads
from nas.spaces.mbconv import Arch
from nas.training.recipe import Runtime

MAX_CACHED_BYTES = 2**29  # of resized images on the device, per part and resolution


class Evaluation(Section):
    """Section `evaluation` of params.yaml: how sub-networks are evaluated."""

    batch: Annotated[int, Field(ge=2)]  # images at once
    calibration_batches: Annotated[int, Field(ge=1)]  # training batches for the batch-norm statistics; 64 in the paper


def calibration_set(data: ImageDataset, cfg: Evaluation, seed: int, part: str, workers: int) -> EvaluationBatches:
    """Batches of images without augmentation for batch-norm statistics, drawn from a part; fewer if the part has fewer images."""
    items = data.indices(part)
    n = whole_batches(min(len(items), cfg.batch * cfg.calibration_batches), cfg.batch)
    chosen = seeding.generator(seed, "calibration").choice(items, n, replace=False)
    return EvaluationBatches(data, chosen, cfg.batch, workers)


def whole_batches(images: int, batch: int) -> int:
    """The largest number of images that leaves no smaller batch, so that each batch weighs the same in the batch-norm statistics."""
    return images - images % batch if images > batch else images


@torch.no_grad()
def calibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Set the statistics of every batch norm to their mean over batches; leaves the network in eval mode.

    Args:
        images: batches (B, 3, H, W) of training images.

    Raises:
        ValueError: if there is no batch.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    for m in network.modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    batches = 0
    for batch in images:
        network(batch)
        batches += 1
    if not batches:
        raise ValueError(
            "no images to calibrate batch norm on; check the part 'train' of the split and params.yaml evaluation.calibration_batches"
        )
    network.eval()


class Scorer:
    """Top-1 of sub-networks of one supernet on fixed images, calibrated on fixed training images.

    Few images are cached on the device, resized once per resolution; many are resized at every evaluation.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: EvaluationBatches,
        held_out: EvaluationBatches,
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
        evaluators: int = 1,
    ) -> None:
        """
        Args:
            calibration: training images for the batch-norm statistics.
            held_out: images that the top-1 is measured on.
            evaluators: threads that evaluate sub-networks in parallel.
        """
        self.supernet = supernet
        self.device = device
        self.memory_format = memory_format
        self.evaluators = evaluators
        self._calibration = calibration
        self._held_out = held_out
        self._lock = Lock()
        self._resized: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    def network(self, arch: Arch) -> Network:
        """The sub-network, extracted and calibrated, in eval mode."""
        network = extract(self.supernet, arch).to(memory_format=self.memory_format)
        calibrate(network, (images for images, _ in self._batches("calibration", arch.resolution)))
        return network

    def top1(self, arch: Arch) -> float:
        """Top-1 of the calibrated sub-network on the held-out images, percent."""
        return self.top1_of(self.network(arch))

    def top1_of(self, network: Network) -> float:
        """Top-1 on the held-out images of a network in eval mode on the same device, percent."""
        return top1(network, self._batches("held_out", network.resolution))

    def top1_ends(self) -> tuple[float, float]:
        """Top-1 of the smallest and the largest sub-network, percent."""
        space = self.supernet.space
        smallest, largest = self.top1_all([space.smallest(), space.largest()])
        return smallest, largest

    def top1_all(self, archs: Sequence[Arch]) -> Iterator[float]:
        """`top1` of several architectures, in order, as results come in; distributed over the processes."""
        return distributed.map_sharded(lambda shard: map_threads(self.top1, shard, self.evaluators), archs)

    def _batches(self, which: str, side: int) -> Iterable[tuple[Tensor, Tensor]]:
        source = self._calibration if which == "calibration" else self._held_out
        if 12 * len(source.indices) * side**2 > MAX_CACHED_BYTES:  # float32, three channels: streamed
            return (self._resize(b, side) for b in source)
        with self._lock:
            if (which, side) not in self._resized:
                self._resized[which, side] = [self._resize(b, side) for b in source]
        return self._resized[which, side]

    def _resize(self, batch: Batch, side: int) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True, memory_format=self.memory_format)
        return resize(images, side).contiguous(memory_format=self.memory_format), batch.labels.to(self.device)


def build_scorer(
    supernet: Supernet, data: ImageDataset, part: str, cfg: Evaluation, runtime: Runtime, device: torch.device, seed: int
) -> Scorer:
    """Top-1 of sub-networks on one part of the data, calibrated on images of the part `train`."""
    return Scorer(
        supernet,
        calibration_set(data, cfg, seed, "train", runtime.workers),
        EvaluationBatches(data, data.indices(part), cfg.batch, runtime.workers),
        device,
        runtime.memory_format,
        runtime.evaluators,
    )


@torch.no_grad()
def top1(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1: percent of images whose largest logit is the label's.

    Args:
        batches: (images (B, 3, H, W), labels (B,)).

    Raises:
        ValueError: if there is no image.
    """
    correct = total = 0
    for images, labels in batches:
        correct += (network(images).argmax(1) == labels).sum().item()
        total += len(labels)
    if not total:
        raise ValueError("no images to evaluate on; check the fractions in params.yaml split")
    return 100 * correct / total

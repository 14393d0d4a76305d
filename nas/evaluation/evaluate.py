"""Top-1 of sub-networks: extracted from the supernet, batch norm calibrated, evaluated on held-out images.

AttentiveNAS (arXiv:2011.09011), section 4.2: a supernet keeps no batch-norm statistics, so those of a sub-network are
estimated on training images before it is evaluated.
"""

from collections.abc import Iterable, Iterator, Sequence
from threading import Lock

import torch
from torch import Tensor, nn

from nas.data.loader import Batch, EvaluationBatches
from nas.models.extract import Network, extract
from nas.models.layers import resize
from nas.models.supernet import Supernet
from nas.runtime import distributed
from nas.runtime.threads import map_threads
from nas.spaces.mbconv import Arch

MAX_CACHED_BYTES = 2**29  # of resized images on the device, per part and resolution


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

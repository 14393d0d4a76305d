"""Accuracy of sub-networks: extracted, batch norm calibrated, then counted on held-out images.

AttentiveNAS (arXiv:2011.09011), section 4.2: a supernet keeps no batch-norm statistics, so before
any evaluation those of the sub-network are estimated anew on training images.
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

KEEP_BYTES = 2**29  # of resized images on the device, for each part and resolution


@torch.no_grad()
def calibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Set every batch norm's statistics to the mean of those of the given batches; leaves the network in eval mode.

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
    seen = 0
    for batch in images:
        network(batch)
        seen += 1
    if not seen:
        raise ValueError(
            "batch norm cannot be calibrated on no images; look at the split's part 'train' and evaluation.calibration_batches"
        )
    network.eval()


class Scorer:
    """Top-1 of sub-networks of one supernet on fixed images, calibrated on fixed training images.

    Few images stay on the device, resized once to each resolution that occurs; many are resized each time.
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
            held_out: images to count on.
            evaluators: threads that evaluate sub-networks side by side.
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
        """Percent of the held-out images that the calibrated sub-network names rightly."""
        return self.top1_of(self.network(arch))

    def top1_of(self, network: Network) -> float:
        """Percent of the held-out images that a network in eval mode on the same device names rightly."""
        return top1(network, self._batches("held_out", network.resolution))

    def each(self, archs: Sequence[Arch]) -> Iterator[float]:
        """`top1` of every architecture, in order, as they come; several processes share them out."""
        return distributed.map_sharded(lambda mine: map_threads(self.top1, mine, self.evaluators), archs)

    def _batches(self, which: str, side: int) -> Iterable[tuple[Tensor, Tensor]]:
        source = self._calibration if which == "calibration" else self._held_out
        if 12 * len(source.indices) * side**2 > KEEP_BYTES:  # float32, three channels: streamed
            return (self._place(b, side) for b in source)
        with self._lock:
            if (which, side) not in self._resized:
                self._resized[which, side] = [self._place(b, side) for b in source]
        return self._resized[which, side]

    def _place(self, batch: Batch, side: int) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.device, non_blocking=True, memory_format=self.memory_format)
        return resize(images, side).contiguous(memory_format=self.memory_format), batch.labels.to(self.device)


@torch.no_grad()
def top1(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Percent of images whose largest logit is the label's.

    Args:
        batches: (images (B, 3, H, W), labels (B,)).

    Raises:
        ValueError: if there is no image.
    """
    right = total = 0
    for images, labels in batches:
        right += (network(images).argmax(1) == labels).sum().item()
        total += len(labels)
    if not total:
        raise ValueError("no images to evaluate on: look at the fractions of the section split")
    return 100 * right / total

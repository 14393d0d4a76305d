"""The latency table of a device for a HardCoRe-NAS space: milliseconds of every block in every configuration, as JSON.

HardCoRe-NAS (arXiv:2102.11646), section 3.2.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_file import Block, File, LatencyTableError, Ms, digits, read, text
from nas.spaces.hardcore_nas import Arch, Space
from nas.spaces.rows import Row

FORMAT = "latency table of blocks 1"
AGAIN = "dvc repro -f pipelines/hardcore_nas/dvc.yaml:latency"


def running(beta: np.ndarray) -> np.ndarray:
    """(stages, depths) -> (stages, blocks): the sum over the depths that have the block."""
    return beta[:, ::-1].cumsum(1)[:, ::-1]


@dataclass(frozen=True, eq=False)
class Latency:
    """A table of a device: milliseconds of every block in every configuration.

    Raises:
        ValueError: for shapes that do not fit, a stage without a depth, or an entry below zero or not finite.
    """

    fixed_ms: float  # stem, fixed block, head, and what a network costs besides
    blocks_ms: np.ndarray  # (stages, blocks, configurations); 0 where a stage has no such block
    offered: np.ndarray  # (stages, blocks) whether a stage may have 1, 2, ... blocks

    def __post_init__(self) -> None:
        if self.blocks_ms.ndim != 3 or self.offered.shape != self.blocks_ms.shape[:2] or not self.offered.any(1).all():
            raise ValueError(f"a table of shape {self.blocks_ms.shape} with depths {self.offered.tolist()} is none of a space")
        if not (np.isfinite(self.blocks_ms).all() and self.blocks_ms.min() >= 0 and np.isfinite(self.fixed_ms)):
            raise ValueError(f"milliseconds have to be finite, and those of blocks not below 0; the least is {self.blocks_ms.min()}")

    def __call__(self, point: Any) -> float:
        """Expected milliseconds of a network."""
        return float(self.fixed_ms + (point.kappa * (point.alpha * self.blocks_ms).sum(2)).sum())

    def of(self, arch: Arch) -> float:
        """Milliseconds of a network: the sum of its entries."""
        return float(self.fixed_ms + sum(self.blocks_ms[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage)))

    def of_configurations(self, beta: np.ndarray) -> np.ndarray:
        """(stages, blocks, configurations) milliseconds that each adds if it is chosen, by how likely its block runs."""
        return running(beta)[:, :, None] * self.blocks_ms

    def of_depths(self, alpha: np.ndarray) -> np.ndarray:
        """(stages, blocks) milliseconds of a stage of depth 1, 2, ...; infinite where the depth is not offered."""
        return np.where(self.offered, (alpha * self.blocks_ms).sum(2).cumsum(1), np.inf)

    @property
    def range_ms(self) -> tuple[float, float]:
        """Of the fastest and of the slowest network."""
        low = np.where(self.offered, self.blocks_ms.min(2).cumsum(1), np.inf).min(1).sum()
        high = np.where(self.offered, self.blocks_ms.max(2).cumsum(1), 0).max(1).sum()
        return float(self.fixed_ms + low), float(self.fixed_ms + high)

    def check(self, target_ms: float) -> float:
        """The target itself.

        Raises:
            InfeasibleTarget: if it is outside of what the networks of the space take; states the range.
        """
        low, high = self.range_ms
        if not low <= target_ms <= high:
            raise InfeasibleTarget(f"{target_ms:g} ms", low, high, "ms", "change search.targets of pipelines/hardcore_nas/params.yaml")
        return target_ms


@dataclass(frozen=True)
class Measured:
    """What was found for a block."""

    latency_ms: float  # within a network, of a whole batch
    spread: float  # of the measurements: interquartile range over median


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """What was measured on a device, for one space and number of classes.

    Raises:
        LatencyTableError: if a block of the space is missing.
    """

    space: Space
    classes: int
    blocks: Mapping[Block, Measured]
    given_latency_ms: float  # of what every network has: the parts that are not searched, and what is paid once a network
    setting: Mapping[str, Any] = field(default_factory=dict)  # device, backend, versions, batch, threads, repetitions, ...

    def __post_init__(self) -> None:
        for block in all_blocks(self.space).values():
            if block not in self.blocks:
                raise LatencyTableError(f"no latency of {block}, which space {self.space.name!r} has")

    def latency(self) -> Latency:
        """As the search takes it."""
        entries = np.zeros((len(self.space.stages), self.space.blocks, len(self.space.configurations)))
        for place, block in all_blocks(self.space).items():
            entries[place] = self.blocks[block].latency_ms
        return Latency(self.given_latency_ms, entries, self.space.offered)

    def latency_ms(self, arch: Arch) -> float:
        """Of a whole network and batch.

        Raises:
            ValueError: for a network that is not in the space.
        """
        return self.latency().of(self.space.check(arch))

    def to_json(self) -> str:
        """A text that a person can read: what it was measured with, then a line a block."""
        entries = (
            {"side": block.side, **asdict(block.row), "latency_ms": digits(found.latency_ms), "spread": digits(found.spread)}
            for block, found in self.blocks.items()
        )
        return text(FORMAT, self.space, self.classes, self.given_latency_ms, self.setting, "blocks", entries)

    def save(self, path: Path) -> None:
        """Write `to_json`."""
        path.write_text(self.to_json())


def all_blocks(space: Space) -> dict[tuple[int, int, int], Block]:
    """By stage, block and configuration."""
    found = {}
    for s, (stage, side) in enumerate(zip(space.stages, space.sides())):
        for b in range(stage.depths[-1]):
            for c in range(len(space.configurations)):
                found[s, b, c] = Block(-(-side // stage.stride) if b else side, space.row(s, b, c))
    return found


class _Entry(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    side: int
    c_in: int
    hidden: int
    se: int
    c_out: int
    kernel: int
    stride: int
    act: str
    latency_ms: Ms
    spread: float

    @property
    def block(self) -> Block:
        return Block(self.side, Row(self.c_in, self.hidden, self.se, self.c_out, self.kernel, self.stride, self.act))


class _File(File):
    format: Literal["latency table of blocks 1"]
    blocks: list[_Entry]


def load(path: Path, space: Space, classes: int) -> LatencyTable:
    """Read what `LatencyTable.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        LatencyTableError: if it is damaged, incomplete, in another unit, or of another space or number of classes.
    """
    file, setting = read(path, _File, space, classes, AGAIN)
    try:
        blocks = {entry.block: Measured(entry.latency_ms, entry.spread) for entry in file.blocks}
        return LatencyTable(space, classes, blocks, file.given_latency_ms, setting)
    except LatencyTableError as error:
        raise LatencyTableError(f"{path}: {error}; measure again: {AGAIN}") from None

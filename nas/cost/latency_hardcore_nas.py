"""The latency table of a HardCoRe-NAS space: one entry per block and configuration, and the expected latency that searches use.

HardCoRe-NAS (arXiv:2102.11646), section 3.2.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from nas.cost import latency
from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency import Entry, EntryLine, LatencyTableError, RowBlock, line_of, values
from nas.spaces.hardcore_nas import Arch, Space
from nas.spaces.rows import Row


def block_probability(beta: np.ndarray) -> np.ndarray:
    """(stages, depths) -> (stages, blocks): the sum over the depths that have the block."""
    return beta[:, ::-1].cumsum(1)[:, ::-1]


@dataclass(frozen=True, eq=False)
class ExpectedLatency:
    """Expected latency of relaxed architectures, from the latency of every block in every configuration.

    Raises:
        ValueError: for inconsistent shapes, a stage without a depth, or an entry that is negative or not finite.
    """

    fixed_latency_ms: float  # stem, fixed block, head, and the overhead of a network
    blocks_ms: np.ndarray  # (stages, blocks, configurations); 0 where a stage has no such block
    offered: np.ndarray  # (stages, blocks) whether a stage may have 1, 2, ... blocks

    def __post_init__(self) -> None:
        if self.blocks_ms.ndim != 3 or self.offered.shape != self.blocks_ms.shape[:2] or not self.offered.any(1).all():
            raise ValueError(f"a table of shape {self.blocks_ms.shape} with depths {self.offered.tolist()} fits no space")
        if not (np.isfinite(self.blocks_ms).all() and self.blocks_ms.min() >= 0 and np.isfinite(self.fixed_latency_ms)):
            raise ValueError(f"latencies have to be finite, and those of blocks not negative; the least is {self.blocks_ms.min()}")

    def __call__(self, relaxed: Any) -> float:
        """Expected latency of a relaxed architecture, ms."""
        return float(self.fixed_latency_ms + (relaxed.kappa * (relaxed.alpha * self.blocks_ms).sum(2)).sum())

    def of(self, arch: Arch) -> float:
        """Latency of a network, ms: the sum of its entries."""
        return float(self.fixed_latency_ms + sum(self.blocks_ms[s, b, c] for s, stage in enumerate(arch) for b, c in enumerate(stage)))

    def of_configurations(self, beta: np.ndarray) -> np.ndarray:
        """(stages, blocks, configurations) latency that each adds if it is chosen, ms, times the probability of its block."""
        return block_probability(beta)[:, :, None] * self.blocks_ms

    def of_depths(self, alpha: np.ndarray) -> np.ndarray:
        """(stages, blocks) latency of a stage of depth 1, 2, ..., ms; infinite where the depth is not offered."""
        return np.where(self.offered, (alpha * self.blocks_ms).sum(2).cumsum(1), np.inf)

    @property
    def range_ms(self) -> tuple[float, float]:
        """Latencies of the fastest and of the slowest network."""
        low = np.where(self.offered, self.blocks_ms.min(2).cumsum(1), np.inf).min(1).sum()
        high = np.where(self.offered, self.blocks_ms.max(2).cumsum(1), 0).max(1).sum()
        return float(self.fixed_latency_ms + low), float(self.fixed_latency_ms + high)

    def check(self, target_ms: float) -> float:
        """The target itself.

        Raises:
            InfeasibleTarget: if it is outside the range of latencies of the space; states the range.
        """
        low, high = self.range_ms
        if not low <= target_ms <= high:
            raise InfeasibleTarget(f"{target_ms:g} ms", low, high, "ms", "change search.targets of pipelines/hardcore_nas/params.yaml")
        return target_ms


@dataclass(frozen=True, eq=False)
class HardcoreNasLatencyTable(latency.LatencyTable[Arch]):
    """Per-block latencies of a HardCoRe-NAS space; `entries` by block."""

    NAME: ClassVar = "latency table of blocks"
    COMMAND: ClassVar = "dvc repro -f pipelines/hardcore_nas/dvc.yaml:latency"
    LINE: ClassVar = line_of(Row, EntryLine, side=(int, ...))
    VERSION_1: ClassVar = {"given_latency_ms": "fixed_latency_ms", "blocks": "entries"}

    def check_entries(self) -> None:
        for block in all_blocks(self.space).values():
            if block not in self.entries:
                raise LatencyTableError(f"no latency of {block}, which space {self.space.name!r} has")

    @cached_property
    def expected(self) -> ExpectedLatency:
        """The table as arrays, for searches over relaxed architectures."""
        entries = np.zeros((len(self.space.stages), self.space.blocks, len(self.space.configurations)))
        for place, block in all_blocks(self.space).items():
            entries[place] = self.entries[block].latency_ms
        return ExpectedLatency(self.fixed_latency_ms, entries, self.space.offered)

    def latency_ms(self, arch: Arch) -> float:
        return self.expected.of(self.space.check(arch))

    @property
    def range_ms(self) -> tuple[float, float]:
        return self.expected.range_ms

    def lines(self) -> Iterator[dict[str, Any]]:
        return ({"side": block.side, **asdict(block.row), **asdict(entry)} for block, entry in self.entries.items())

    @classmethod
    def item(cls, line: Any) -> tuple[RowBlock, Entry]:
        return RowBlock(line.side, Row(**values(line, Row))), line.entry


def all_blocks(space: Space) -> dict[tuple[int, int, int], RowBlock]:
    """Every block of the space, by (stage, block, configuration)."""
    blocks = {}
    for s, (stage, side) in enumerate(zip(space.stages, space.sides())):
        for b in range(stage.depths[-1]):
            for c in range(len(space.configurations)):
                blocks[s, b, c] = RowBlock(-(-side // stage.stride) if b else side, space.row(s, b, c))
    return blocks

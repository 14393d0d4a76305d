"""The latency table of a device for a HardCoRe-NAS space: milliseconds of every block in every configuration, as JSON.

HardCoRe-NAS (arXiv:2102.11646), section 3.2.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from nas.differentiable.hardcore_nas.relaxed import Latency
from nas.differentiable.hardcore_nas.space import Arch, Space
from nas.differentiable.rows import Row
from nas.differentiable.table import Block, File, LatencyTableError, Ms, digits, read, text

FORMAT = "latency table of blocks 1"
AGAIN = "dvc repro -f pipelines/hardcore_nas/dvc.yaml:latency"


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

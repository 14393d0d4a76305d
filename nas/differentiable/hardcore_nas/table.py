"""The latency table of a device for a HardCoRe-NAS space: milliseconds of every block in every configuration, as JSON.

HardCoRe-NAS (arXiv:2102.11646), section 3.2. Every number in milliseconds has `latency_ms` in its name: users of the authors'
release had a table in seconds and a target in milliseconds, and a constraint that never bound.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.differentiable.hardcore_nas.relaxed import Latency
from nas.differentiable.hardcore_nas.space import Arch, Space
from nas.differentiable.rows import Row
from nas.documents import is_file, read_json, short

FORMAT = "latency table of blocks 1"

Ms = Annotated[float, Field(gt=0, le=1e9)]  # a sum of such is finite


class LatencyTableError(ValueError):
    """A latency table is damaged, incomplete or of something else."""


@dataclass(frozen=True)
class Block:
    """A searched block in one configuration; equal ones take equally long."""

    side: int  # of its input, pixels
    row: Row


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
        top = {
            "format": FORMAT,
            **self.setting,
            "classes": self.classes,
            "given_latency_ms": _round(self.given_latency_ms),
            "space": self.space.model_dump(mode="json"),
        }
        lines = [
            json.dumps({"side": block.side, **asdict(block.row), "latency_ms": _round(found.latency_ms), "spread": _round(found.spread)})
            for block, found in self.blocks.items()
        ]
        head = json.dumps(top, indent=2, ensure_ascii=False).removesuffix("\n}")
        return head + ',\n  "blocks": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"

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


class _File(BaseModel):
    """What is needed of the file."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    format: Literal["latency table of blocks 1"]
    classes: int
    given_latency_ms: Ms
    space: dict[str, Any]
    blocks: list[_Entry]


def load(path: Path, space: Space, classes: int) -> LatencyTable:
    """Read what `LatencyTable.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        LatencyTableError: if it is damaged, in another unit, or of another space or number of classes.
    """
    if not is_file(path):
        raise FileNotFoundError(f"there is no latency table {path}: measure one of this device")
    found = read_json(path, LatencyTableError)
    try:
        file = _File.model_validate_json(json.dumps(found))
        blocks = {entry.block: Measured(entry.latency_ms, entry.spread) for entry in file.blocks}
        if file.space != space.model_dump(mode="json"):
            raise LatencyTableError(f"measured for the space {short(file.space.get('name'))}, which is not {space.name!r} as it is now")
        if file.classes != classes:
            raise LatencyTableError(f"measured with {file.classes} classes, not {classes}")
        rest = {k: v for k, v in found.items() if k not in _File.model_fields}
        return LatencyTable(space, classes, blocks, file.given_latency_ms, rest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LatencyTableError(f"{path} is damaged: {where}: {first['msg']}, found {short(first['input'])}; measure again") from None
    except ValueError as error:
        raise LatencyTableError(f"{path}: {error}; measure again") from None


def _round(value: float) -> float:
    """Six significant digits: more would be noise."""
    return float(f"{value:.6g}")

"""Latency of every architecture on the device that a table was measured on: one JSON file, summed along the chain like FLOPs.

HardCoRe-NAS (arXiv:2102.11646), section 3.1: a network takes a fixed part plus the time of each of its blocks. A
table holds each distinct piece (stem, block, head) once; `nas.latency` measures it. Every number in milliseconds
has `latency_ms` in its name: users of other releases asked for 25 ms of a table in seconds and got 62.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from nas.cost.flops import stage_sides
from nas.cost.table import CostTable
from nas.runtime.io import is_file, read_json, short
from nas.spaces.mbconv import Arch, SearchSpace

FORMAT = "latency table 1"
LONGEST_MS = 1e9  # eleven days: a sum of such is finite


class LatencyTableError(ValueError):
    """A latency table is damaged, incomplete or of something else."""


@dataclass(frozen=True, order=True)
class Stem:
    """The convolution that a network starts with."""

    side: int  # of the images, pixels
    width: int  # channels


@dataclass(frozen=True, order=True)
class Block:
    """One MBConv block: the first of its stage, or a later one, of which all are alike."""

    stage: str
    first: bool
    side: int  # of its input, pixels
    c_in: int
    width: int  # output channels
    kernel: int
    expansion: int


@dataclass(frozen=True, order=True)
class Head:
    """What follows the last stage, the classifier included."""

    side: int  # of its input, pixels
    c_in: int
    width: int  # channels before the classifier


Piece = Stem | Block | Head
PARTS = {"stem": Stem, "block": Block, "head": Head}


def pieces(space: SearchSpace, arch: Arch) -> list[Piece]:
    """What an architecture is made of, in order; pieces of the same shape are equal.

    Raises:
        ValueError: if the architecture is not in the space.
    """
    sides = stage_sides(space, space.check(arch).resolution)
    found: list[Piece] = [Stem(arch.resolution, arch.stem)]
    c_in = arch.stem
    for stage, chosen, side, after in zip(space.stages, arch.stages, sides, sides[1:]):
        found.append(Block(stage.name, True, side, c_in, chosen.width, chosen.kernel, chosen.expansion))
        c_in = chosen.width
        found += [Block(stage.name, False, after, c_in, c_in, chosen.kernel, chosen.expansion)] * (chosen.depth - 1)
    return [*found, Head(sides[-1], c_in, arch.head)]


def distinct(space: SearchSpace) -> list[Piece]:
    """Every piece of any architecture of the space, each once, in the order of the chain."""
    return list(dict.fromkeys(_all(space)))


def _all(space: SearchSpace) -> Iterator[Piece]:
    sides = [stage_sides(space, r) for r in space.resolutions]
    yield from (Stem(*choice) for choice in product(space.resolutions, space.stem_widths))
    before = space.stem_widths
    for i, s in enumerate(space.stages):
        yield from (Block(s.name, True, *c) for c in product([side[i] for side in sides], before, s.widths, s.kernels, s.expansions))
        if s.depths[-1] > 1:
            later = product([side[i + 1] for side in sides], s.widths, s.kernels, s.expansions)
            yield from (Block(s.name, False, side, width, width, *c) for side, width, *c in later)
        before = s.widths
    yield from (Head(*choice) for choice in product([side[-1] for side in sides], before, space.head_widths))


@dataclass(frozen=True)
class Entry:
    """The latency of one piece within a network."""

    latency_ms: float  # of a whole batch
    spread: float  # of its measurements: interquartile range over median
    times: int  # that it was measured


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """What was measured on a device, for one space and number of classes.

    Raises:
        LatencyTableError: if a piece of the space is missing, or a latency is not a positive number.
    """

    space: SearchSpace
    classes: int
    entries: Mapping[Piece, Entry]
    fixed_latency_ms: float  # paid once a network
    setting: Mapping[str, Any] = field(default_factory=dict)  # device, backend, versions, batch, threads, repetitions, ...

    def __post_init__(self) -> None:
        if missing := [piece for piece in distinct(self.space) if piece not in self.entries]:
            raise LatencyTableError(f"no latency of {missing[0]} ({len(missing)} of the pieces of space {self.space.name!r} are missing)")
        for piece, entry in self.entries.items():
            if not 0 < entry.latency_ms <= LONGEST_MS:
                raise LatencyTableError(f"latency_ms {entry.latency_ms} of {piece}: a positive number is needed, at most {LONGEST_MS:g}")
        if not 0 <= self.fixed_latency_ms <= LONGEST_MS:
            raise LatencyTableError(f"fixed_latency_ms {self.fixed_latency_ms}: a number from 0 to {LONGEST_MS:g} is needed")

    def cost_table(self) -> CostTable:
        """The latency of every architecture, in ms for a whole batch: the same interface as FLOPs."""
        of, space = self._latency_ms, self.space
        shapes = CostTable.shapes(space)
        sides = [stage_sides(space, r) for r in space.resolutions]
        stem = [self.fixed_latency_ms + of(Stem(*choice)) for choice in product(space.resolutions, space.stem_widths)]
        stages, before = [], space.stem_widths
        for i, s in enumerate(space.stages):
            choices = product(sides, before, s.widths, s.depths, s.kernels, s.expansions)
            found = [
                of(Block(s.name, True, side[i], c_in, width, *shape))
                + ((depth - 1) * of(Block(s.name, False, side[i + 1], width, width, *shape)) if depth > 1 else 0.0)
                for side, c_in, width, depth, *shape in choices
            ]
            stages.append(np.array(found).reshape(shapes[1 + i]))
            before = s.widths
        head = [of(Head(side[-1], c_in, width)) for side, c_in, width in product(sides, before, space.head_widths)]
        return CostTable(
            space=space,
            unit="ms",
            per_unit=1,
            stem=np.array(stem).reshape(shapes[0]),
            stages=tuple(stages),
            head=np.array(head).reshape(shapes[-1]),
        )

    def to_json(self) -> str:
        """A text that a person can read: what it was measured with, then a line a piece."""
        names = {kind: name for name, kind in PARTS.items()}
        top = {
            "format": FORMAT,
            **self.setting,
            "classes": self.classes,
            "fixed_latency_ms": _round(self.fixed_latency_ms),
            "space": asdict(self.space),
        }
        lines = [
            json.dumps(
                {"part": names[type(p)], **asdict(p), "latency_ms": _round(e.latency_ms), "spread": _round(e.spread), "times": e.times}
            )
            for p, e in self.entries.items()
        ]
        head = json.dumps(top, indent=2, ensure_ascii=False).removesuffix("\n}")
        return head + ',\n  "entries": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"

    def save(self, path: str | Path) -> None:
        """Write `to_json`."""
        Path(path).write_text(self.to_json())

    def _latency_ms(self, piece: Piece) -> float:
        return self.entries[piece].latency_ms


def load(path: str | Path, space: SearchSpace, classes: int) -> LatencyTable:
    """Read what `LatencyTable.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        LatencyTableError: if it is damaged, in another unit, or of another space or number of classes.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"there is no latency table {path}; `dvc repro latency` measures one of this device")
    again = "measure again: dvc repro -f latency"
    found = read_json(path, lambda message: LatencyTableError(f"{message}; {again}"))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else type(found).__name__
        raise LatencyTableError(f"{path} is no latency table of this project: format {short(kind)}, expected {FORMAT!r}; {again}")
    if missing := sorted({"space", "classes", "fixed_latency_ms", "entries"} - found.keys()):
        raise LatencyTableError(f"{path} is damaged: the key {missing[0]!r} is missing; {again}")
    _check_space(found, space, classes, path, again)
    try:
        pairs = [_entry(entry, i) for i, entry in enumerate(found["entries"])]
        entries = dict(pairs)
        if len(entries) < len(pairs):
            raise LatencyTableError(f"{len(pairs) - len(entries)} of {len(pairs)} entries are there twice")
        rest = {k: v for k, v in found.items() if k not in ("format", "space", "classes", "fixed_latency_ms", "entries")}
        return LatencyTable(space, classes, entries, _number(found["fixed_latency_ms"], "fixed_latency_ms"), rest)
    except (LatencyTableError, TypeError) as error:
        raise LatencyTableError(f"{path} is damaged: {error}; {again}") from None


def load_cost_table(path: str | Path, space: SearchSpace, classes: int) -> CostTable:
    """The latencies of a file as a cost in "ms", for sampling, search and bounds; errors as `load`."""
    return load(path, space, classes).cost_table()


def _check_space(found: Mapping[str, Any], space: SearchSpace, classes: int, path: Path, again: str) -> None:
    expected, there = json.loads(json.dumps(asdict(space))), found["space"]
    if there != expected:
        name = there.get("name") if isinstance(there, dict) else there
        differing = sorted(k for k in expected if not isinstance(there, dict) or there.get(k) != expected[k])
        raise LatencyTableError(
            f"{path} was measured for the space {short(name)}, not for {space.name!r} as params.yaml: space says now ("
            f"they differ in {differing}); {again}"
        )
    if found["classes"] != classes:
        raise LatencyTableError(f"{path} was measured with {short(found['classes'])} classes, not {classes}; {again}")


def _entry(found: Any, number: int) -> tuple[Piece, Entry]:
    """
    Raises:
        LatencyTableError, TypeError: if it is none.
    """
    where = f"entries[{number}]"
    if not isinstance(found, dict):
        raise LatencyTableError(f"{where} is {short(found)}")
    found = dict(found)
    if "latency_ms" not in found:
        others = sorted(k for k in found if "latency" in k)
        raise LatencyTableError(f"{where} has no latency_ms{f', but {others[0]}: another unit' if others else ''}")
    part = found.pop("part", None)
    if part not in list(PARTS):
        raise LatencyTableError(f"{where}.part is {short(part)}, expected one of {list(PARTS)}")
    latency_ms, spread = (_number(found.pop(key, 0.0), f"{where}.{key}") for key in ("latency_ms", "spread"))
    times = found.pop("times", 1)
    if type(times) is not int:
        raise LatencyTableError(f"{where}.times: a whole number is needed, found {short(times)}")
    return PARTS[part](**found), Entry(latency_ms, spread, times)


def _number(found: Any, where: str) -> float:
    if type(found) not in (int, float):
        raise LatencyTableError(f"{where}: a number is needed, found {short(found)}")
    return float(found)


def _round(value: float) -> float:
    """Six significant digits: more would be noise."""
    return float(f"{value:.6g}")

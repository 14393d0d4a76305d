"""Search spaces of MBConv stages and their architectures.

AttentiveNAS (arXiv:2011.09011), section 4.1 and Table 2. A space is a chain: stem, stages of
MBConv blocks, head. Kernel, expansion and width are chosen once per stage, for all of its blocks.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from nas.runtime.io import is_file, read_yaml, short

MAX_VALUE = 2**14  # of any number in a space: larger ones would overflow costs and are likely typing errors


class SpaceError(ValueError):
    """A file is no search space; the message names the file and the key."""


def make_divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple, at least one of it, and the next one up if rounding down loses more than 10 %.

    Channel counts inside blocks follow this rule, as in the papers' code since MobileNetV2.
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded if rounded >= 0.9 * channels else rounded + by


def hidden_width(c_in: int, expansion: int) -> int:
    """Hidden channels of an MBConv block; without an expansion layer its input channels."""
    return c_in if expansion == 1 else make_divisible(c_in * expansion)


@dataclass(frozen=True)
class StageArch:
    """One stage of a sub-network."""

    width: int  # output channels
    depth: int  # blocks
    kernel: int  # depthwise kernel side, pixels
    expansion: int  # hidden channels / input channels


@dataclass(frozen=True)
class Arch:
    """One sub-network. A value, not a state of the supernet: hashable, comparable, JSON-able."""

    resolution: int  # input side, pixels
    stem: int  # channels
    stages: tuple[StageArch, ...]
    head: int  # channels before the classifier

    @property
    def genes(self) -> tuple[int, ...]:
        """All values as one tuple: resolution, widths (stem, stages, head), depths, kernels, expansions."""
        return (
            self.resolution,
            self.stem,
            *(s.width for s in self.stages),
            self.head,
            *(s.depth for s in self.stages),
            *(s.kernel for s in self.stages),
            *(s.expansion for s in self.stages),
        )

    @classmethod
    def from_genes(cls, genes: Sequence[int]) -> "Arch":
        """The inverse of `genes`.

        Raises:
            ValueError: if the length is not 3 + 4 n for some number of stages n >= 1.
        """
        genes = [int(g) for g in genes]
        n, rest = divmod(len(genes) - 3, 4)
        if n < 1 or rest:
            raise ValueError(f"{len(genes)} genes: an architecture of n stages has 3 + 4 n (31 for seven stages)")
        widths, head = genes[2 : 2 + n], genes[2 + n]
        depths, kernels, expansions = (genes[3 + n + i * n : 3 + n + (i + 1) * n] for i in range(3))
        stages = tuple(map(StageArch, widths, depths, kernels, expansions))
        return cls(genes[0], genes[1], stages, head)


@dataclass(frozen=True)
class StageSpace:
    """Choices for a run of MBConv blocks; only the first block has the stride."""

    name: str
    widths: tuple[int, ...]  # output channels
    depths: tuple[int, ...]  # number of blocks
    kernels: tuple[int, ...]  # depthwise kernel side, pixels, odd
    expansions: tuple[int, ...]  # hidden channels / input channels
    stride: int
    se: bool  # squeeze-and-excitation after the depthwise convolution


@dataclass(frozen=True)
class Gene:
    """One value of an architecture, by name, and the values that the space offers."""

    name: str  # e.g. "mb3.width"
    choices: tuple[int, ...]  # ascending


@dataclass(frozen=True)
class SearchSpace:
    """All architectures of one supernet: the product of the choices of its genes."""

    name: str
    resolutions: tuple[int, ...]  # input side, pixels
    stem_widths: tuple[int, ...]  # channels of the 3x3 stem convolution
    stem_stride: int
    stages: tuple[StageSpace, ...]
    head_widths: tuple[int, ...]  # channels before the classifier
    head_expansion: int  # channels of the head's first 1x1 convolution / its input channels

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """In the order of `Arch.genes`."""

        def of_stages(axis: str) -> Iterator[Gene]:
            return (Gene(f"{s.name}.{axis}", getattr(s, axis + "s")) for s in self.stages)

        return (
            Gene("resolution", self.resolutions),
            Gene("stem.width", self.stem_widths),
            *of_stages("width"),
            Gene("head.width", self.head_widths),
            *of_stages("depth"),
            *of_stages("kernel"),
            *of_stages("expansion"),
        )

    @cached_property
    def size(self) -> int:
        """Number of architectures."""
        return prod(len(g.choices) for g in self.genes)

    def largest(self) -> Arch:
        return Arch.from_genes([g.choices[-1] for g in self.genes])

    def smallest(self) -> Arch:
        return Arch.from_genes([g.choices[0] for g in self.genes])

    def random(self, rng: np.random.Generator) -> Arch:
        """Uniform over all architectures."""
        return Arch.from_genes([g.choices[int(u * len(g.choices))] for g, u in zip(self.genes, rng.random(len(self.genes)))])

    def check(self, arch: Arch) -> Arch:
        """The architecture itself.

        Raises:
            ValueError: if it is not in this space; names the gene and what is offered.
        """
        if len(arch.stages) != len(self.stages):
            raise ValueError(f"{len(arch.stages)} stages, but space {self.name!r} has {len(self.stages)}: {[s.name for s in self.stages]}")
        for gene, value in zip(self.genes, arch.genes):
            if value not in gene.choices:
                raise ValueError(f"{gene.name} {value} is not offered in space {self.name!r}; it lists {list(gene.choices)}")
        return arch

    def __contains__(self, arch: Arch) -> bool:
        try:
            self.check(arch)
        except ValueError:
            return False
        return True


def load(path: str | Path) -> SearchSpace:
    """Read a search space from YAML; `nas/spaces/glyphs.yaml` shows the form.

    Raises:
        FileNotFoundError: if there is no such file.
        SpaceError: for missing, unknown or impossible entries; names the file and the key.
    """
    top = _mapping(read_space(path), {"name", "resolutions", "stem", "stages", "head"}, f"{path}")
    stem = _mapping(top["stem"], {"widths", "stride"}, f"{path}: stem")
    head = _mapping(top["head"], {"widths", "expansion"}, f"{path}: head")
    if not isinstance(top["stages"], list) or not top["stages"]:
        raise SpaceError(f"{path}: stages: a list of at least one stage is needed, found {short(top['stages'])}")
    stages = [_stage(entry, f"{path}: stages[{i}]") for i, entry in enumerate(top["stages"])]
    names = [s.name for s in stages]
    if len({*names, "stem", "head"}) < len(names) + 2:  # stem.width and head.width are names of genes too
        raise SpaceError(f"{path}: stages: two stages share a name, or one is called stem or head: {short(names)}")
    return SearchSpace(
        name=str(top["name"]),
        resolutions=_choices(top["resolutions"], f"{path}: resolutions"),
        stem_widths=_choices(stem["widths"], f"{path}: stem.widths"),
        stem_stride=_stride(stem["stride"], f"{path}: stem.stride"),
        stages=tuple(stages),
        head_widths=_choices(head["widths"], f"{path}: head.widths"),
        head_expansion=_choices([head["expansion"]], f"{path}: head.expansion")[0],
    )


def read_space(path: str | Path) -> Any:
    """The content of a search space's YAML file, unchecked.

    Raises:
        FileNotFoundError: if there is no such file; lists those beside it.
        SpaceError: if it is not YAML.
    """
    path = Path(path)
    if not is_file(path):
        files = sorted(str(p) for p in path.parent.glob("*.yaml")) if os.path.isdir(path.parent) else []
        raise FileNotFoundError(f"params.yaml: space: there is no file {path}; found {files or 'no YAML files'} beside it")
    return read_yaml(path, SpaceError)


def _stage(value: object, key: str) -> StageSpace:
    entry = _mapping(value, {"name", "widths", "depths", "kernels", "expansions", "stride", "se"}, key)
    choices = {axis: _choices(entry[axis], f"{key}.{axis}") for axis in ("widths", "depths", "kernels", "expansions")}
    if any(k % 2 == 0 for k in choices["kernels"]):
        raise SpaceError(f"{key}.kernels: {short(list(choices['kernels']))}: kernel sides are odd")
    if 1 in choices["expansions"] and len(choices["expansions"]) > 1:
        offered = short(list(choices["expansions"]))
        raise SpaceError(f"{key}.expansions: {offered}: 1 cannot be combined, a block without expansion has no expansion layer to share")
    if not isinstance(entry["se"], bool):
        raise SpaceError(f"{key}.se: true or false, not {short(entry['se'])}")
    return StageSpace(name=str(entry["name"]), stride=_stride(entry["stride"], f"{key}.stride"), se=entry["se"], **choices)


def _mapping(value: object, keys: set[str], key: str) -> dict:
    if not isinstance(value, dict):
        raise SpaceError(f"{key}: expected the keys {sorted(keys)}, found {short(value)}")
    if unknown := sorted(set(value) - keys):
        raise SpaceError(f"{key}: unknown key {short(unknown[0])}; allowed are {sorted(keys)}")
    if missing := sorted(keys - set(value)):
        raise SpaceError(f"{key}: the key {missing[0]!r} is missing")
    return value


def _choices(value: object, key: str) -> tuple[int, ...]:
    valid = isinstance(value, list) and value and all(type(v) is int and 0 < v <= MAX_VALUE for v in value)
    if not valid or sorted(set(value)) != value:
        raise SpaceError(f"{key}: positive whole numbers up to {MAX_VALUE}, ascending, each once, are needed; found {short(value)}")
    return tuple(value)


def _stride(value: object, key: str) -> int:
    if type(value) is not int or value not in (1, 2):
        raise SpaceError(f"{key}: 1 or 2, not {short(value)}")
    return value

"""Architectures as JSON and as arrays of genes.

The genes of an architecture are the predictor's feature vector (AttentiveNAS, section 4.3; 31 numbers for
the paper's space): resolution, widths (stem, stages, head), depths, kernels, expansions.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nas.runtime.io import read_json, short
from nas.spaces.mbconv import Arch, SearchSpace, StageArch

METRICS = ("mflops", "parameters", "top1_search", "top1_val")  # of a model in family.json


class ArchitectureError(ValueError):
    """A file or value is no architecture, or no family of them."""


def to_json(arch: Arch) -> dict:
    """A dictionary of plain values; `from_json` reads it back."""
    return asdict(arch) | {"stages": [asdict(s) for s in arch.stages]}


def from_json(value: Any) -> Arch:
    """The architecture that `to_json` wrote.

    Raises:
        ArchitectureError: if a key is missing or unknown, or a value is no whole number.
    """
    form = "expected resolution, stem, head and stages of width, depth, kernel, expansion, all whole numbers"
    try:
        stages = tuple(StageArch(**s) for s in value["stages"])
        arch = Arch(**{**value, "stages": stages})
    except (KeyError, TypeError) as error:
        raise ArchitectureError(f"not an architecture ({error}): {form}; found {short(value)}") from None
    if not stages or (wrong := [gene for gene in arch.genes if type(gene) is not int]):
        reason = short(wrong[0]) if stages else "no stages"
        raise ArchitectureError(f"not an architecture ({reason}): {form}; found {short(value)}")
    return arch


def read_family(path: Path, again: str = "dvc repro --force search") -> list[dict]:
    """The entries of a family.json: name, arch as `from_json` takes it, mflops, parameters, top1_search, top1_val.

    Args:
        again: the command that writes the file, for messages.

    Raises:
        ArchitectureError: if it is something else, or a name would lead out of the folder of weights.
    """
    family = read_json(path, ArchitectureError)
    if not isinstance(family, list) or not family:
        raise ArchitectureError(f"{path}: a list of networks is needed, found {short(family)}; {again}")
    for i, entry in enumerate(family):
        if problem := _problem(entry):
            raise ArchitectureError(f"{path}: network {i}: {problem}; {again}")
    return family


def _problem(entry: Any) -> str | None:
    """Why an entry of a family cannot be used; None if it can."""
    if not isinstance(entry, dict):
        return f"found {short(entry)}"
    if missing := sorted({"name", "arch", *METRICS} - entry.keys()):
        return f"the key {missing[0]!r} is missing"
    name = entry["name"]
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
        return f"name: {short(name)} cannot name a file"
    if wrong := [key for key in METRICS if type(entry[key]) not in (int, float)]:
        return f"{wrong[0]}: a number is needed, found {short(entry[wrong[0]])}"
    try:
        from_json(entry["arch"])
    except ArchitectureError as error:
        return str(error)
    return None


def to_genes(archs: Sequence[Arch]) -> np.ndarray:
    """(n,) architectures -> (n, genes) int64, each row `Arch.genes`."""
    return np.array([a.genes for a in archs], dtype=np.int64)


def from_genes(genes: np.ndarray) -> list[Arch]:
    """(n, genes) -> n architectures."""
    return [Arch.from_genes(row) for row in np.asarray(genes).tolist()]


def random_genes(space: SearchSpace, n: int, rng: np.random.Generator) -> np.ndarray:
    """n architectures, uniform over the space, (n, genes) int64."""
    columns = [np.asarray(g.choices)[rng.integers(len(g.choices), size=n)] for g in space.genes]
    return np.stack(columns, axis=1)


def indices(space: SearchSpace, genes: np.ndarray) -> np.ndarray:
    """(n, genes) values -> (n, genes) index of every value in its gene's choices, int64.

    Raises:
        ValueError: if a value is not offered; names the gene.
    """
    genes = np.asarray(genes)
    if genes.ndim != 2 or genes.shape[1] != len(space.genes):
        raise ValueError(f"genes of shape {genes.shape}; space {space.name!r} needs (n, {len(space.genes)})")
    out = np.empty(genes.shape, dtype=np.int64)
    for i, gene in enumerate(space.genes):
        index = np.full(gene.choices[-1] + 2, -1, dtype=np.int64)  # one lookup table per gene: faster than a search
        index[list(gene.choices)] = np.arange(len(gene.choices))
        out[:, i] = index[np.clip(genes[:, i], 0, gene.choices[-1] + 1)]
        if (out[:, i] < 0).any():
            value = genes[out[:, i] < 0, i][0]
            raise ValueError(f"{gene.name} {value} is not offered in space {space.name!r}; it lists {list(gene.choices)}")
    return out

"""Architectures as JSON and as rows of numbers.

A row is the predictor's feature vector (AttentiveNAS, section 4.3; 31 numbers for the paper's
space): resolution, widths (stem, stages, head), depths, kernels, expansions.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nas.runtime.io import read_json, short
from nas.spaces.mbconv import Arch, SearchSpace, StageArch

FIGURES = ("mflops", "parameters", "top1_search", "top1_val")  # of a model, in family.json


class ArchitectureError(ValueError):
    """What was read is no architecture, or no family of them."""


def to_json(arch: Arch) -> dict:
    """A JSON-able dictionary; `from_json` reads it back."""
    return asdict(arch) | {"stages": [asdict(s) for s in arch.stages]}


def from_json(found: Any) -> Arch:
    """The architecture that `to_json` wrote.

    Raises:
        ArchitectureError: if a key is missing or unknown, or a value no whole number.
    """
    form = "expected resolution, stem, head and stages of width, depth, kernel, expansion, all whole numbers"
    try:
        stages = tuple(StageArch(**s) for s in found["stages"])
        arch = Arch(**{**found, "stages": stages})
    except (KeyError, TypeError) as error:
        raise ArchitectureError(f"not an architecture ({error}): {form}; found {short(found)}") from None
    if not stages or (odd := [value for value in arch.genes if type(value) is not int]):
        wrong = short(odd[0]) if stages else "no stages"
        raise ArchitectureError(f"not an architecture ({wrong}): {form}; found {short(found)}")
    return arch


def read_family(path: Path, again: str = "dvc repro --force search") -> list[dict]:
    """The entries of a family.json: name, arch as `from_json` takes it, mflops, parameters, top1_search, top1_val.

    Raises:
        ArchitectureError: if it is something else; a name that would lead out of the folder of weights counts as that.
    """
    found = read_json(path, ArchitectureError)
    if not isinstance(found, list) or not found:
        raise ArchitectureError(f"{path}: a list of networks is needed, found {short(found)}; {again}")
    for i, entry in enumerate(found):
        if not isinstance(entry, dict) or (missing := sorted({"name", "arch", *FIGURES} - entry.keys())):
            told = f"the key {missing[0]!r} is missing" if isinstance(entry, dict) else f"found {short(entry)}"
            raise ArchitectureError(f"{path}: network {i}: {told}; {again}")
        name = entry["name"]
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise ArchitectureError(f"{path}: network {i}: name: {short(name)} can name no file; {again}")
        if odd := [key for key in FIGURES if type(entry[key]) not in (int, float)]:
            raise ArchitectureError(f"{path}: network {i}: {odd[0]}: a number is needed, found {short(entry[odd[0]])}; {again}")
        try:
            from_json(entry["arch"])
        except ArchitectureError as error:
            raise ArchitectureError(f"{path}: network {i}: {error}; {again}") from None
    return found


def to_rows(archs: Sequence[Arch]) -> np.ndarray:
    """(n,) architectures -> (n, genes) int64, each row `Arch.genes`."""
    return np.array([a.genes for a in archs], dtype=np.int64)


def from_rows(rows: np.ndarray) -> list[Arch]:
    """(n, genes) -> n architectures."""
    return [Arch.from_genes(row) for row in np.asarray(rows).tolist()]


def random_rows(space: SearchSpace, n: int, rng: np.random.Generator) -> np.ndarray:
    """n architectures, uniform over the space, as rows (n, genes) int64."""
    columns = [np.asarray(g.choices)[rng.integers(len(g.choices), size=n)] for g in space.genes]
    return np.stack(columns, axis=1)


def indices(space: SearchSpace, rows: np.ndarray) -> np.ndarray:
    """(n, genes) values -> (n, genes) places in each gene's choices, int64.

    Raises:
        ValueError: if a value is not offered; names the gene.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] != len(space.genes):
        raise ValueError(f"rows of shape {rows.shape}; space {space.name!r} needs (n, {len(space.genes)})")
    out = np.empty(rows.shape, dtype=np.int64)
    for i, gene in enumerate(space.genes):
        place = np.full(gene.choices[-1] + 2, -1, dtype=np.int64)  # one look-up table a gene: faster than a search
        place[list(gene.choices)] = np.arange(len(gene.choices))
        out[:, i] = place[np.clip(rows[:, i], 0, gene.choices[-1] + 1)]
        if (out[:, i] < 0).any():
            bad = rows[out[:, i] < 0, i][0]
            raise ValueError(f"{gene.name} {bad} is not offered in space {space.name!r}; it lists {list(gene.choices)}")
    return out

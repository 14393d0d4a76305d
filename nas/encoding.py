"""Architectures as JSON and as rows of numbers.

A row is the predictor's feature vector (AttentiveNAS, section 4.3; 31 numbers for the paper's
space): resolution, widths (stem, stages, head), depths, kernels, expansions.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from nas.space import Arch, SearchSpace, StageArch


def to_json(arch: Arch) -> dict:
    """A JSON-able dictionary; `from_json` reads it back."""
    return asdict(arch) | {"stages": [asdict(s) for s in arch.stages]}


def from_json(found: dict) -> Arch:
    """The architecture that `to_json` wrote.

    Raises:
        ValueError: if a key is missing or unknown.
    """
    try:
        stages = tuple(StageArch(**s) for s in found["stages"])
        return Arch(**{**found, "stages": stages})
    except (KeyError, TypeError) as error:
        form = "resolution, stem, head and stages of width, depth, kernel, expansion"
        raise ValueError(f"not an architecture ({error}): expected {form}; found {found!r}") from None


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

"""The archive of evaluated architectures, and a cache of scores so that no architecture is scored twice, in this or earlier searches."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from nas.runtime.io import DocumentError, parse_json
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass(frozen=True, eq=False)
class Archive:
    """Distinct evaluated architectures with cost and score, in the order of evaluation."""

    rows: np.ndarray  # (n, genes) int64
    cost: np.ndarray  # (n,) float64, the unit of the cost function (MFLOPs)
    score: np.ndarray  # (n,) float64, higher is better (top-1 in percent)
    round: np.ndarray  # (n,) int64, 0 is the first population

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Self) -> Self:
        return type(self)(*(np.concatenate([a, b]) for a, b in zip(self.to_arrays().values(), other.to_arrays().values())))

    def __getitem__(self, which: np.ndarray) -> Self:
        """The entries at the given indices, or where a mask (n,) is true."""
        return type(self)(*(array[which] for array in self.to_arrays().values()))

    @property
    def archs(self) -> list[Arch]:
        """The architectures of an MBConv space."""
        return encoding.from_genes(self.rows)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays for a checkpoint; `Archive(**arrays)` restores the archive."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_frame(self, space: SearchSpace) -> pd.DataFrame:
        """One column per gene, then `mflops`, `top1`, `round`."""
        genes = pd.DataFrame(self.rows, columns=[g.name for g in space.genes])
        return genes.assign(mflops=self.cost, top1=self.score, round=self.round)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, space: SearchSpace) -> Self:
        """The inverse of `to_frame`; other columns are ignored.

        Raises:
            ValueError: if a column is missing.
        """
        genes = [g.name for g in space.genes]
        if missing := [c for c in (*genes, "mflops", "top1", "round") if c not in frame]:
            raise ValueError(f"column {missing[0]!r} is missing; a table of evaluated architectures has one per gene of {space.name!r}")
        columns = (frame[name].to_numpy(t) for name, t in (("mflops", np.float64), ("top1", np.float64), ("round", np.int64)))
        return cls(frame[genes].to_numpy(np.int64), *columns)


def row_keys(rows: np.ndarray) -> list[bytes]:
    """(n, genes) -> n hashable keys, equal for equal rows."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel().tolist() if len(rows) else []


class ScoreCache:
    """Known scores by weights and architecture; with a file, each new score is appended to it at once.

    The file has one JSON object per line and is only appended to, so a search that is killed loses at most the
    evaluation in progress.

    Args:
        weights: fingerprint of everything that a score depends on besides the architecture.
        path: the file; None keeps scores in memory.

    Raises:
        DocumentError: if the file holds something else.
    """

    def __init__(self, weights: str = "", path: str | Path | None = None) -> None:
        self.weights = weights
        self.path = None if path is None else Path(path)
        self._scores: dict[tuple[str, bytes], float] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        """Number of scores with any weights."""
        return len(self._scores)

    def get(self, row: np.ndarray) -> float | None:
        """The score of an architecture (genes,) with these weights; None if unknown."""
        return self._scores.get((self.weights, _key(row)))

    def put(self, row: np.ndarray, score: float) -> None:
        """Store the score of an architecture (genes,)."""
        self._scores[self.weights, _key(row)] = score
        if self.path is not None:
            line = {"weights": self.weights, "genes": np.asarray(row).tolist(), "score": score}
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Architectures (n, genes) with these weights, and their scores (n,)."""
        entries = [(np.frombuffer(key, dtype=np.int64), score) for (weights, key), score in self._scores.items() if weights == self.weights]
        rows, scores = zip(*entries) if entries else ((), ())
        return np.array(rows, dtype=np.int64), np.array(scores, dtype=np.float64)

    def _read(self, path: Path) -> None:
        complete, newline, torn = path.read_bytes().rpartition(b"\n")
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                entry = parse_json(line.decode(), "the line")
                self._scores[entry["weights"], _key(entry["genes"])] = float(entry["score"])
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise DocumentError(f"{path}, line {number} is not a score ({error}); delete the file to score anew") from None
        if torn:  # the process was killed while it wrote
            os.truncate(path, len(complete + newline))


def _key(row: np.ndarray) -> bytes:
    return np.asarray(row, dtype=np.int64).tobytes()

"""A random forest from architecture to accuracy, compiled to arrays: 50 predictions in well under a millisecond.

AttentiveNAS (arXiv:2011.09011), section 4.3: 100 trees of depth 15 on the raw choices of an architecture.
Fitted by scikit-learn. Genes take few values, so all trees together ask few distinct questions
"gene > threshold": each is answered once per row, and the trees are walked on the answers alone.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from nas.runtime.io import short

MAX_GENES = 1_000_000  # in a file
MAX_DEPTH = 10_000  # of a tree in a file: deeper ones would be walked for hours
CHUNK_ROWS = 512  # walked at once: 512 x 100 trees keep the node numbers in the CPU cache


class PredictorError(ValueError):
    """A file is not a predictor; the message names it and the command that makes one."""


@dataclass(frozen=True, eq=False)
class Forest:
    """Regression trees as arrays; siblings are adjacent, a leaf is its own left child.

    Node numbers count through all trees. `question` of a leaf is the last one, whose answer is always "no".
    """

    genes: np.ndarray  # (), length of a row
    question_gene: np.ndarray  # (questions,) int64, column of the row
    question_threshold: np.ndarray  # (questions,) float64, "yes" is gene > threshold
    roots: np.ndarray  # (trees,) int64, first node of each tree
    depth: np.ndarray  # (), steps from a root to the deepest leaf
    left: np.ndarray  # (nodes,) int64, child for "no"; the child for "yes" is the next one
    question: np.ndarray  # (nodes,) int64
    value: np.ndarray  # (nodes,) float64, percent

    @classmethod
    def fit(
        cls, rows: np.ndarray, top1: np.ndarray, *, trees: int = 100, max_depth: int = 15, seed: int = 0, features: float = 1.0
    ) -> Self:
        """Fit to measured sub-networks.

        Args:
            rows: architectures, (n, genes), see `nas.spaces.encoding.to_genes`.
            top1: their accuracy, (n,), percent.
            trees: number of trees.
            max_depth: of each tree.
            seed: of bootstrap samples and ties.
            features: share of the genes that each split is chosen from; a smaller share makes trees more diverse and faster to fit.

        Raises:
            ValueError: for shapes that do not match, fewer than two sub-networks, or top-1 that is NaN or infinite.
        """
        from sklearn.ensemble import RandomForestRegressor  # half a second to import, and only fitting needs it

        rows, top1 = np.asarray(rows), np.asarray(top1, dtype=np.float64)
        if rows.ndim != 2 or top1.shape != rows.shape[:1] or len(rows) < 2:
            raise ValueError(
                f"rows {rows.shape} and top1 {top1.shape}: (n, genes) and (n,) with n >= 2 are needed; "
                "raise params.yaml pretrain.subnetworks if too few were measured"
            )
        if not np.isfinite(top1).all():
            raise ValueError(f"top1 of sub-network {int(np.flatnonzero(~np.isfinite(top1))[0])} is NaN or infinite")
        model = RandomForestRegressor(n_estimators=trees, max_depth=max_depth, max_features=features, random_state=seed, n_jobs=1)
        model.fit(rows, top1)
        return cls.compile(model)

    @classmethod
    def compile(cls, model) -> Self:
        """Arrays of a fitted sklearn.ensemble.RandomForestRegressor with one output."""
        trees = [e.tree_ for e in model.estimators_]
        questions = np.unique(
            np.concatenate([np.stack([t.feature, t.threshold], 1)[t.children_left >= 0] for t in trees] or [np.empty((0, 2))]), axis=0
        )
        number = {(gene, threshold): i for i, (gene, threshold) in enumerate(questions.tolist())}
        left, question, value, roots = [], [], [], []
        first = 0
        for t in trees:
            inner = np.flatnonzero(t.children_left >= 0)
            place = np.zeros(t.node_count, dtype=np.int64)  # the root stays first, then pairs of siblings
            place[t.children_left[inner]] = 1 + 2 * np.arange(len(inner))
            place[t.children_right[inner]] = 2 + 2 * np.arange(len(inner))
            child = np.arange(t.node_count)
            child[place[inner]] = place[t.children_left[inner]]
            ask = np.full(t.node_count, len(questions))
            ask[place[inner]] = [number[key] for key in zip(t.feature[inner].tolist(), t.threshold[inner].tolist())]
            mean = np.empty(t.node_count)
            mean[place] = t.value[:, 0, 0]
            roots.append(first)
            left.append(first + child)
            question.append(ask)
            value.append(mean)
            first += t.node_count
        return cls(
            genes=np.array(model.n_features_in_),
            question_gene=questions[:, 0].astype(np.int64),
            question_threshold=questions[:, 1],
            roots=np.array(roots),
            depth=np.array(max(t.max_depth for t in trees)),
            left=np.concatenate(left),
            question=np.concatenate(question),
            value=np.concatenate(value),
        )

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) float64, percent: the mean over the trees, as scikit-learn computes it.

        Raises:
            ValueError: if the rows have another length than the training rows.
        """
        return self._reduce(rows, np.mean)

    def std(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) standard deviation over the trees, percentage points."""
        return self._reduce(rows, np.std)

    def predict_with_std(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n, 2) `predict` and `std`, in one walk through the trees."""
        return self._reduce(rows, lambda leaves, axis: np.stack([leaves.mean(axis), leaves.std(axis)], axis=1), (2,))

    def _reduce(self, rows: np.ndarray, reduce_trees, shape: tuple[int, ...] = ()) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] != self.genes:
            raise ValueError(f"rows of shape {rows.shape}; this predictor was fitted to (n, {int(self.genes)}): another space?")
        out = np.empty((len(rows), *shape))
        for start in range(0, len(rows), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            out[part] = reduce_trees(self._leaves(rows[part]), axis=1)
        return out

    def _leaves(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n, trees) value of the leaf that each row reaches."""
        answers = np.zeros((len(rows), len(self.question_gene) + 1), dtype=np.int64)
        np.greater(rows[:, self.question_gene], self.question_threshold, out=answers[:, :-1], casting="unsafe")
        answers, start = answers.ravel(), np.arange(len(rows))[:, None] * answers.shape[1]
        node = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        for _ in range(int(self.depth)):
            step = self._steps.take(node)
            node = (step >> 32) + answers.take((step & 0xFFFFFFFF) + start)
        return self.value.take(node)

    @cached_property
    def _steps(self) -> np.ndarray:
        """(nodes,) left child and question in one number: one look-up per level instead of two."""
        return self.left << 32 | self.question

    def save(self, path: str | Path) -> None:
        """Write as npz; the same forest gives the same bytes."""
        np.savez(path, **asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            PredictorError: if it is not a complete predictor file.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if any(array.compress_type for array in arrays.zip.infolist()):
                    raise ValueError("compressed: a small file could expand to any size")
                forest = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
            forest._check()
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged file
            raise PredictorError(
                f"{path} is not a complete predictor file ({short(str(error))}); make it anew: dvc repro --force fit_predictor"
            ) from None
        return forest

    def _check(self) -> None:
        """
        Raises:
            ValueError: for arrays on which `predict` would fail or not terminate.
        """
        integers = {"genes": 0, "depth": 0, "question_gene": 1, "roots": 1, "left": 1, "question": 1}
        for name, dimensions in (integers | {"question_threshold": 1, "value": 1}).items():
            array = getattr(self, name)
            if array.ndim != dimensions or array.dtype != (np.int64 if name in integers else np.float64):
                raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        nodes, questions = len(self.value), len(self.question_gene)
        inner = self.question < questions
        ranges = [
            (self.genes, 1, MAX_GENES),
            (self.question_gene, 0, int(self.genes)),
            (self.roots, 0, nodes),
            (self.left, 0, nodes),
            (self.left[inner] + 1, 0, nodes),
            (self.question, 0, questions + 1),
            (self.depth, 0, MAX_DEPTH),
        ]
        if not len(self.question) == len(self.left) == nodes or len(self.question_threshold) != questions or not len(self.roots):
            raise ValueError("arrays of different length")
        if any(array.size and not low <= array.min() <= array.max() < high for array, low, high in ranges):
            raise ValueError("nodes, genes or questions out of range")

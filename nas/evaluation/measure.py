"""The accuracy of many sub-networks, measured once each: continues where a stopped run was."""

import numpy as np

from nas.evaluation.evaluate import Scorer
from nas.runtime import seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.distributed import RankZeroCheckpoint
from nas.runtime.progress import progress
from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace

CHECKPOINT_INTERVAL = 16  # sub-networks


def distinct_rows(space: SearchSpace, n: int, seed: int) -> np.ndarray:
    """n different architectures, uniform over the space: (n, genes).

    Raises:
        ValueError: if the space has fewer.
    """
    if n > space.size:
        raise ValueError(f"params.yaml: pretrain.subnetworks: {n} different ones are needed, space {space.name!r} has {space.size}")
    rng, rows = seeding.generator(seed, "pretrain", "measured"), {}
    while len(rows) < n:
        rows |= dict.fromkeys(map(tuple, encoding.random_genes(space, n, rng).tolist()))
    return np.array(list(rows)[:n], dtype=np.int64)


def measure_top1(rows: np.ndarray, scorer: Scorer, checkpoint: Checkpoint | RankZeroCheckpoint) -> list[float]:
    """Top-1 (percent) of each architecture; those in the checkpoint are not evaluated twice.

    Args:
        rows: (n, genes).
    """
    top1 = (checkpoint.load("measured.pt") or {"top1": []})["top1"]
    remaining = scorer.top1_all(encoding.from_genes(rows[len(top1) :]))
    for value in progress(remaining, "sub-networks measured", len(rows), len(top1)):
        top1.append(value)
        if len(top1) % CHECKPOINT_INTERVAL == 0:
            checkpoint.save({"top1": top1}, "measured.pt")
    return top1

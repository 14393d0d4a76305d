"""From measured laps to a latency lookup table: entries per block, and the correction that is fitted on whole networks.

An empty call measures what calling a block by itself costs; it is subtracted. A network has a fixed overhead, and its blocks
may run a little faster or slower than they did in chains: the overhead and one scale factor are fitted on whole networks.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from scipy.optimize import nnls

from nas.cost.latency import Entry

MIN_SHARE = 0.1  # of the measured latency that a block keeps when the empty call is subtracted
MIN_NETWORKS = 4  # to fit two numbers on

Block = TypeVar("Block", bound=Hashable)


@dataclass(frozen=True)
class Correction:
    """network = fixed_latency_ms + factor * sum over its blocks."""

    fixed_latency_ms: float
    factor: float


def entries(chains: Sequence[Sequence[Block]], laps_ms: np.ndarray) -> tuple[dict[Block, Entry], float]:
    """Median latency of each block, over all rounds and all chains that contain it, and the median of an empty call, ms.

    The empty call is subtracted from each block, which keeps at least a tenth.

    Args:
        laps_ms: (rounds, columns) milliseconds; for each chain one column per block and one for an empty call.
    """
    columns: dict[Block | None, list[int]] = {}
    for column, block in enumerate(chain.from_iterable((*blocks, None) for blocks in chains)):
        columns.setdefault(block, []).append(column)
    empty_ms = float(np.median(laps_ms[:, columns.pop(None)]))
    measured = {}
    for block, places in columns.items():
        low, middle, high = np.percentile(laps_ms[:, places], (25, 50, 75))
        latency_ms = float(max(middle - empty_ms, MIN_SHARE * middle))
        measured[block] = Entry(latency_ms, float((high - low) / middle), len(laps_ms) * len(places))
    return measured, empty_ms


def fit(sums_ms: Sequence[float], measured_ms: np.ndarray) -> Correction:
    """The correction with the least squared relative error; neither number can be negative.

    Args:
        sums_ms: (networks,) sum over the blocks of each.
        measured_ms: (networks,) latency of each as a whole.

    Raises:
        ValueError: for fewer than 4 networks, on which two numbers would mean little.
    """
    if len(sums_ms) < MIN_NETWORKS:
        raise ValueError(
            f"{len(sums_ms)} networks: at least {MIN_NETWORKS} are needed to fit two numbers; raise params.yaml: latency.fitted"
        )
    columns = np.stack([np.ones(len(sums_ms)), np.asarray(sums_ms)], axis=1) / measured_ms[:, None]
    return Correction(*map(float, nnls(columns, np.ones(len(sums_ms)))[0]))

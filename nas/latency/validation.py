"""From measured pieces to a table, and how well the table tells the latency of whole networks.

What it costs to call a piece by itself is measured with an empty call and taken off. A network pays something once,
and its pieces may run a little faster or slower than they did in chains: two numbers, fitted on whole networks; the
table is then judged on other ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.optimize import nnls

from nas.cost.latency import Entry, LatencyTable, Piece, pieces
from nas.evaluation.metrics import kendall_tau
from nas.sampling.exact import ExactSampler
from nas.spaces.mbconv import Arch, SearchSpace

LEAST = 0.1  # of what was measured, that a piece costs in any case
BINS = 2000  # of the sampler: strata are coarse, so a fine one would only take memory


@dataclass(frozen=True)
class Correction:
    """network = fixed_latency_ms + factor * sum over its pieces."""

    fixed_latency_ms: float
    factor: float


def entries(chains: Sequence[Sequence[Piece]], laps_ms: np.ndarray) -> tuple[dict[Piece, Entry], float]:
    """Median latency of each piece, over all rounds and all chains that hold it, and the median of an empty call, ms.

    The empty call is taken off each piece, of which at least a tenth is left.

    Args:
        laps_ms: (rounds, columns) milliseconds; for each chain a column a piece and one for an empty call.
    """
    columns: dict[Piece | None, list[int]] = {}
    for column, piece in enumerate(piece for chain in chains for piece in (*chain, None)):
        columns.setdefault(piece, []).append(column)
    empty_ms = float(np.median(laps_ms[:, columns.pop(None)]))
    found = {}
    for piece, where in columns.items():
        low, middle, high = np.percentile(laps_ms[:, where], (25, 50, 75))
        found[piece] = Entry(float(max(middle - empty_ms, LEAST * middle)), float((high - low) / middle), len(laps_ms) * len(where))
    return found, empty_ms


def fit(parts: Sequence[Sequence[Entry]], measured_ms: np.ndarray) -> Correction:
    """The correction with the least squared relative error; neither number can be negative.

    Args:
        parts: (networks,) entries of the pieces of each.
        measured_ms: (networks,) latency of each as a whole.

    Raises:
        ValueError: for fewer than 4 networks, on which two numbers would mean little.
    """
    if len(parts) < 4:
        raise ValueError(f"{len(parts)} networks: at least 4 are needed to fit two numbers on; raise params.yaml: latency.fitted")
    sums = np.array([sum(e.latency_ms for e in found) for found in parts])
    columns = np.stack([np.ones(len(parts)), sums], axis=1) / measured_ms[:, None]
    return Correction(*map(float, nnls(columns, np.ones(len(parts)))[0]))


def corrected(space: SearchSpace, classes: int, found: Mapping[Piece, Entry], by: Correction, setting: Mapping) -> LatencyTable:
    """The table that adds up to whole networks."""
    scaled = {p: replace(e, latency_ms=by.factor * e.latency_ms) for p, e in found.items()}
    return LatencyTable(space, classes, scaled, by.fixed_latency_ms, setting)


def spread_over(table: LatencyTable, n: int, rng: np.random.Generator, without: frozenset[Arch] = frozenset()) -> list[Arch]:
    """n different architectures, alike from n equal parts of the range of latencies, cheapest first.

    Where a part holds none, or none that is new, another part gives one more.

    Args:
        without: that are not to be taken.

    Raises:
        ValueError: if the space has too few.
    """
    costs = table.cost_table()
    sampler = ExactSampler(costs, (costs.largest - costs.smallest) / n or 1.0, bins=BINS)
    edges = np.linspace(costs.smallest, costs.largest, n + 1)
    found: dict[Arch, None] = {}
    for _ in range(5):
        for low, high in pairwise(edges):
            if len(found) < n and (arch := _new(sampler, low, high, rng, without | found.keys())) is not None:
                found[arch] = None
        if len(found) == n:
            return sorted(found, key=costs.cost)
    raise ValueError(
        f"space {table.space.name!r} has too few architectures for {n} different networks to measure; lower params.yaml: latency.networks"
    )


def _new(sampler: ExactSampler, low: float, high: float, rng: np.random.Generator, taken: frozenset[Arch]) -> Arch | None:
    try:
        drawn = sampler.draw_between(low, high, 8, rng).archs()
    except ValueError:  # there is none between
        return None
    return next((arch for arch in drawn if arch not in taken), None)


def figures(predicted_ms: np.ndarray, first_ms: np.ndarray, second_ms: np.ndarray, mflops: np.ndarray) -> dict[str, float]:
    """How well a table tells measured latencies; all relative errors are fractions of what was measured.

    Args:
        predicted_ms: (n,) the table's sums.
        first_ms, second_ms: (n,) two measurements of the same networks, whose mean is taken for the truth.
        mflops: (n,) to rank by instead.

    Returns:
        kendall_tau_latency, kendall_tau_flops, kendall_tau_repeat (of the second measurement with the first),
        median_relative_error, p90_relative_error, bias (mean of the signed errors), noise_floor (median difference
        of the two measurements), p90_noise.
    """
    measured = (first_ms + second_ms) / 2
    error = predicted_ms / measured - 1
    noise = np.abs(second_ms - first_ms) / measured
    return {
        "kendall_tau_latency": kendall_tau(predicted_ms, measured),
        "kendall_tau_flops": kendall_tau(mflops, measured),
        "kendall_tau_repeat": kendall_tau(first_ms, second_ms),
        "median_relative_error": float(np.median(np.abs(error))),
        "p90_relative_error": float(np.percentile(np.abs(error), 90)),
        "bias": float(error.mean()),
        "noise_floor": float(np.median(noise)),
        "p90_noise": float(np.percentile(noise, 90)),
    }


def parts_of(space: SearchSpace, found: Mapping[Piece, Entry], archs: Sequence[Arch]) -> list[list[Entry]]:
    """(n,) architectures -> the entries of each one's pieces."""
    return [[found[piece] for piece in pieces(space, arch)] for arch in archs]

"""A latency table of this device: operations measured at several widths in chains, fitted and judged on whole networks.

As `nas.latency.survey` does it for its kind of space, with its rounds, backends and corrections. Whole networks have widths
that were not measured, so the errors of interpolation are judged with the rest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from nas import seeding
from nas.cost.latency import Entry
from nas.differentiable import rows
from nas.differentiable.rows import HeadLayer, InvertedResidual, Plan, Row, RowNetwork, StemLayer
from nas.differentiable.tf_nas.latency import Curve, LatencyTable, Operator, operators
from nas.differentiable.tf_nas.space import Choice, Space
from nas.fold import fold
from nas.latency import judge
from nas.latency.backend import Backend
from nas.latency.choice import Torch
from nas.latency.rounds import Clock, Program, Rounds, measure
from nas.latency.survey import SAVED_EVERY, SHARE, Images, Kept, Settings, middle, spread
from nas.progress import progress

DRAWN = 40  # networks for each that is measured, to choose from


class Latency(Settings):
    """Section `latency`."""

    backend: Torch  # the only one that runs these blocks
    widths: Annotated[int, Field(ge=2)]  # of an operation, between its least and its most hidden channels


@dataclass(frozen=True)
class Block:
    """A searched block, measured."""

    side: int  # of its input, pixels
    row: Row

    @property
    def operator(self) -> Operator:
        r = self.row
        return Operator(self.side, r.c_in, r.se, r.c_out, r.kernel, r.stride, r.act)


@dataclass(frozen=True)
class Given:
    """What every network has: "first", the stem and the block after it, or "last", the head and the classifier."""

    part: str


Piece = Block | Given


@dataclass(frozen=True, eq=False)
class Survey:
    """What came out."""

    table: LatencyTable
    choices: tuple[Choice, ...]  # networks that were measured whole: first those fitted on, then those to judge on
    fitted: int  # how many of them were fitted on
    rounds: Rounds  # of the whole networks


def survey(p: Latency, space: Space, classes: int, seed: int, backend: Backend, kept: Kept, clock: Clock | None = None) -> Survey:
    """Measure, fit, and measure what to judge by.

    Args:
        clock: instead of the backend's own.

    Raises:
        ValueError: if the time limit is too short for one round.
    """
    taking = Taking(clock or backend.clock, p.repetitions, seed, kept)
    found_chains = chains(space, p.widths)
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "latency"))
        images = partial(backend.random, p.batch)
        programs = [chain_program(space, chain, classes, images, backend) for chain in found_chains]
        reference = middle(programs[len(programs) // 2])
        pieces = taking("pieces", programs, reference, SHARE * p.limit_s)
        entries, empty_ms = judge.entries(found_chains, 1000 * pieces.normalised([len(program.calls) for program in programs]))
        draft = table_of(space, classes, entries, judge.Correction(0.0, 1.0), {})
        choices = spread_over(draft, p.fitted, p.networks, seed)
        wholes = [whole_program(space.plan(choice), classes, images, backend) for choice in choices]
        rounds = taking("networks", wholes, reference, (1 - SHARE) * p.limit_s)
    measured_ms = 1000 * np.median(rounds.normalised([1] * len(choices)), axis=0)
    parts = [[Entry(draft.latency_ms(choice), 0.0, 1)] for choice in choices[: p.fitted]]
    correction = judge.fit(parts, measured_ms[: p.fitted])
    setting = {
        **backend.facts(),
        "batch": p.batch,
        "repetitions": len(pieces),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(pieces.seconds + rounds.seconds, 1),
        "reference_latency_ms": round(1000 * float(np.median(pieces.references)), 6),
        "reference_spread": round(spread(pieces.references), 6),
        "empty_call_latency_ms": round(empty_ms, 6),
        "fitted": {**asdict(correction), "networks": p.fitted, "repetitions": len(rounds)},
    }
    return Survey(table_of(space, classes, entries, correction, setting), tuple(choices), p.fitted, rounds)


def measured_widths(low: int, high: int, number: int) -> list[int]:
    """So many numbers of hidden channels from the least to the most, evenly; fewer where there are not so many."""
    return sorted(set(np.linspace(low, high, number).round().astype(int).tolist()))


def chains(space: Space, widths: int) -> list[tuple[Piece, ...]]:
    """Networks of full depth that hold every operator at every width that is measured, at least once."""
    low, high = space.bounds()
    variants = []
    for i, layer in enumerate(space.layers):
        blocks = dict.fromkeys(
            Block(layer.side, space.row(i, o, h))
            for o in range(len(space.operations))
            for h in measured_widths(low[i, o], high[i, o], widths)
        )
        variants.append(list(blocks))
    most = max(map(len, variants))
    # a layer that is like the one before takes other variants in the same chain
    return [(Given("first"), *(v[(n + i) % len(v)] for i, v in enumerate(variants)), Given("last")) for n in range(most)]


def piece_module(space: Space, piece: Piece, classes: int) -> nn.Module:
    """A piece with random weights, batch norm folded, in eval mode."""
    first = space.first
    if isinstance(piece, Block):
        found = InvertedResidual(piece.row, first.squeeze)
    elif piece.part == "first":
        found = nn.Sequential(StemLayer(first.stem), InvertedResidual(first.rows[0], first.squeeze))
    else:
        found = nn.Sequential(HeadLayer(space.layers[-1].c_out, first.head), nn.Linear(first.head.features, classes))
    return fold(found.apply(rows.start_weights).eval())


def chain_program(space: Space, chain: Sequence[Piece], classes: int, images: Images, backend: Backend) -> Program:
    """A chain as a program, with an empty call at its end."""
    x = start = images(3, space.resolution)
    calls = []
    for piece in chain:
        calls.append(backend.prepare(piece_module(space, piece, classes), x))
        x = calls[-1](x)
    return Program((*calls, backend.empty()), start)


def whole_program(plan: Plan, classes: int, images: Images, backend: Backend) -> Program:
    """A whole network, folded, on pictures of its resolution."""
    start = images(3, plan.resolution)
    return Program((backend.prepare(fold(RowNetwork(plan, classes).eval()), start),), start)


def table_of(space: Space, classes: int, entries: dict[Piece, Entry], by: judge.Correction, setting: dict[str, Any]) -> LatencyTable:
    """The table that adds up to whole networks."""
    curves = {}
    for key in operators(space):
        points = sorted((piece.row.hidden, e) for piece, e in entries.items() if isinstance(piece, Block) and piece.operator == key)
        hidden, found = zip(*points)
        curves[key] = Curve(hidden=hidden, latency_ms=tuple(by.factor * e.latency_ms for e in found), spread=tuple(e.spread for e in found))
    given = by.fixed_latency_ms + by.factor * sum(e.latency_ms for piece, e in entries.items() if isinstance(piece, Given))
    return LatencyTable(space, classes, curves, given, setting)


def spread_over(table: LatencyTable, fitted: int, judged: int, seed: int) -> list[Choice]:
    """Networks to measure whole: `fitted`, then `judged` other ones; both spread over the range of latencies, cheapest first."""
    rng = seeding.generator(seed, "latency", "networks")
    drawn = list(dict.fromkeys(random_choice(table.space, rng) for _ in range(DRAWN * (fitted + judged))))
    costs = np.array([table.latency_ms(choice) for choice in drawn])
    free = np.ones(len(drawn), bool)

    def nearest(number: int) -> list[Choice]:
        found = []
        for cost in np.linspace(costs.min(), costs.max(), number):
            at = int(np.where(free, np.abs(costs - cost), np.inf).argmin())
            free[at] = False
            found.append(at)
        return [drawn[at] for at in sorted(found, key=lambda at: costs[at])]

    return [*nearest(fitted), *nearest(judged)]


def random_choice(space: Space, rng: np.random.Generator) -> Choice:
    """A network of any operations, rather small or rather large: drawn alike, all would be of middle size."""
    low, high = space.bounds()
    size, ops = rng.random(), rng.integers(len(space.operations), size=len(space.layers))
    depths = tuple(int(rng.integers(1, 2 + round(size * (stage.depth - 1)))) for stage in space.stages)
    places = np.arange(len(ops))
    least, most = low[places, ops], high[places, ops]
    widths = least + np.rint((most - least) * np.clip(size + rng.uniform(-0.3, 0.3, len(ops)), 0, 1)).astype(int)
    return Choice(tuple(ops.tolist()), depths, tuple(widths.tolist()))


class Taking:
    """Takes rounds, from those that are kept on, and keeps them every few seconds."""

    _ARRAYS = ("laps", "references", "orders")

    def __init__(self, clock: Clock, repetitions: int, seed: int, kept: Kept) -> None:
        self._clock, self._repetitions, self._seed, self._kept = clock, repetitions, seed, kept

    def __call__(self, what: str, programs: list[Program], reference: Program, limit_s: float) -> Rounds:
        """
        Raises:
            ValueError: if two rounds do not fit into the limit, seconds.
        """

        def order(number: int) -> np.ndarray:
            return seeding.generator(self._seed, "latency", what, number).permutation(len(programs))

        state = self._kept.load(f"{what}.pt")
        done = Rounds.none(programs) if state is None else Rounds(*(state[k].numpy() for k in self._ARRAYS), state["seconds"])
        taken = measure(programs, reference, self._clock, self._repetitions, limit_s, order, done)
        found, saved = done, done.seconds
        for found in progress(taken, f"latency: rounds over {len(programs)} {what}", self._repetitions, len(done)):
            if found.seconds - saved > SAVED_EVERY:
                self._save(what, found)
                saved = found.seconds
        self._save(what, found)
        return found

    def _save(self, what: str, found: Rounds) -> None:
        self._kept.save({**{k: torch.from_numpy(getattr(found, k)) for k in self._ARRAYS}, "seconds": found.seconds}, f"{what}.pt")


def judged_on(found: Survey) -> pd.DataFrame:
    """The networks that nothing was fitted on: network, mflops, predicted_latency_ms, first_ and second_latency_ms (medians).

    Even and odd rounds are two measurements of the same network.
    """
    table, ms = found.table, 1000 * found.rounds.normalised([1] * len(found.choices))
    plans = [table.space.plan(choice) for choice in found.choices]
    rows_of = pd.DataFrame(
        {
            "network": np.arange(len(plans)),
            "mflops": [rows.multiply_adds(plan, table.classes).total / 1e6 for plan in plans],
            "predicted_latency_ms": [table.latency_ms(choice) for choice in found.choices],
            "first_latency_ms": np.median(ms[::2], axis=0),
            "second_latency_ms": np.median(ms[1::2], axis=0),
        }
    )
    return rows_of[found.fitted :].reset_index(drop=True)

"""A latency table of this device: every block in every configuration measured in chains, fitted and judged on whole networks.

As `nas.latency.survey` does it for its kind of space, with its rounds, backends and corrections.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from nas import seeding
from nas.cost.latency import Entry
from nas.differentiable import rows
from nas.differentiable.hardcore_nas.space import Arch, Space
from nas.differentiable.hardcore_nas.table import Block, LatencyTable, Measured, all_blocks
from nas.differentiable.rows import HeadLayer, InvertedResidual, StemLayer
from nas.differentiable.tf_nas.survey import Given, Taking, whole_program
from nas.fold import fold
from nas.latency import judge
from nas.latency.backend import Backend
from nas.latency.choice import Torch
from nas.latency.rounds import Clock, Program, Rounds
from nas.latency.survey import SHARE, Images, Kept, Settings, middle, spread

DRAWN = 40  # networks for each that is measured, to choose from

Piece = Block | Given


class LatencySettings(Settings):
    """Section `latency`."""

    backend: Torch  # the only one that runs these blocks


@dataclass(frozen=True, eq=False)
class Survey:
    """What came out."""

    table: LatencyTable
    archs: tuple[Arch, ...]  # networks that were measured whole: first those fitted on, then those to judge on
    fitted: int  # how many of them were fitted on
    rounds: Rounds  # of the whole networks


def survey(p: LatencySettings, space: Space, classes: int, seed: int, backend: Backend, kept: Kept, clock: Clock | None = None) -> Survey:
    """Measure, fit, and measure what to judge by.

    Args:
        clock: instead of the backend's own.

    Raises:
        ValueError: if the time limit is too short for one round, or the space too small for so many networks.
    """
    taking = Taking(clock or backend.clock, p.repetitions, seed, kept)
    found_chains = chains(space)
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "latency"))
        images = partial(backend.random, p.batch)
        programs = [chain_program(space, chain, classes, images, backend) for chain in found_chains]
        reference = middle(programs[len(programs) // 2])
        pieces = taking("pieces", programs, reference, SHARE * p.limit_s)
        entries, empty_ms = judge.entries(found_chains, 1000 * pieces.normalised([len(program.calls) for program in programs]))
        draft = table_of(space, classes, entries, judge.Correction(0.0, 1.0), {})
        archs = spread_over(draft, p.fitted, p.networks, seed)
        wholes = [whole_program(space.plan(arch), classes, images, backend) for arch in archs]
        rounds = taking("networks", wholes, reference, (1 - SHARE) * p.limit_s)
    measured_ms = 1000 * np.median(rounds.normalised([1] * len(archs)), axis=0)
    parts = [[Entry(draft.latency_ms(arch), 0.0, 1)] for arch in archs[: p.fitted]]
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
    return Survey(table_of(space, classes, entries, correction, setting), tuple(archs), p.fitted, rounds)


def chains(space: Space) -> list[tuple[Piece, ...]]:
    """Networks of full depth, one a configuration, that hold every block in every configuration.

    A block takes another configuration than the one before, so that no chain is light or heavy throughout.
    """
    n, places = len(space.configurations), all_blocks(space)
    order = list(dict.fromkeys((s, b) for s, b, _ in places))
    return [(Given("first"), *(places[s, b, (first + i) % n] for i, (s, b) in enumerate(order)), Given("last")) for first in range(n)]


def piece_module(space: Space, piece: Piece, classes: int) -> nn.Module:
    """A piece with random weights, batch norm folded, in eval mode."""
    plan = space.plan(space.heaviest())
    if isinstance(piece, Block):
        found = InvertedResidual(piece.row, plan.squeeze)
    elif piece.part == "first":
        found = nn.Sequential(StemLayer(plan.stem), InvertedResidual(plan.rows[0], plan.squeeze))
    else:
        found = nn.Sequential(HeadLayer(plan.c_last, plan.head), nn.Linear(plan.head.features, classes))
    return fold(found.apply(rows.start_weights).eval())


def chain_program(space: Space, chain: Sequence[Piece], classes: int, images: Images, backend: Backend) -> Program:
    """A chain as a program, with an empty call at its end."""
    x = start = images(3, space.resolution)
    calls = []
    for piece in chain:
        calls.append(backend.prepare(piece_module(space, piece, classes), x))
        x = calls[-1](x)
    return Program((*calls, backend.empty()), start)


def table_of(space: Space, classes: int, entries: dict[Piece, Entry], by: judge.Correction, setting: dict[str, Any]) -> LatencyTable:
    """The table that adds up to whole networks."""
    blocks = {piece: Measured(by.factor * e.latency_ms, e.spread) for piece, e in entries.items() if isinstance(piece, Block)}
    given = by.fixed_latency_ms + by.factor * sum(e.latency_ms for piece, e in entries.items() if isinstance(piece, Given))
    return LatencyTable(space, classes, blocks, given, setting)


def spread_over(table: LatencyTable, fitted: int, judged: int, seed: int) -> list[Arch]:
    """Networks to measure whole: `fitted`, then `judged` other ones; both spread over the range of those drawn, cheapest first.

    Raises:
        ValueError: if the space has fewer.
    """
    rng, latency = seeding.generator(seed, "latency", "networks"), table.latency()
    drawn = list(dict.fromkeys(table.space.random(rng) for _ in range(DRAWN * (fitted + judged))))
    if len(drawn) < fitted + judged:
        raise ValueError(f"space {table.space.name!r} is too small for {fitted + judged} different networks; lower latency.networks")
    costs = np.array([latency.of(arch) for arch in drawn])
    free = np.ones(len(drawn), bool)

    def nearest(number: int) -> list[Arch]:
        found = []
        for cost in np.linspace(costs.min(), costs.max(), number):
            at = int(np.where(free, np.abs(costs - cost), np.inf).argmin())
            free[at] = False
            found.append(at)
        return [drawn[at] for at in sorted(found, key=lambda at: costs[at])]

    return [*nearest(fitted), *nearest(judged)]


def judged_on(found: Survey) -> pd.DataFrame:
    """The networks that nothing was fitted on: network, mflops, predicted_latency_ms, first_ and second_latency_ms (medians).

    Even and odd rounds are two measurements of the same network.
    """
    table, ms = found.table, 1000 * found.rounds.normalised([1] * len(found.archs))
    of_networks = pd.DataFrame(
        {
            "network": np.arange(len(found.archs)),
            "mflops": [rows.multiply_adds(table.space.plan(arch), table.classes).total / 1e6 for arch in found.archs],
            "predicted_latency_ms": [table.latency_ms(arch) for arch in found.archs],
            "first_latency_ms": np.median(ms[::2], axis=0),
            "second_latency_ms": np.median(ms[1::2], axis=0),
        }
    )
    return of_networks[found.fitted :].reset_index(drop=True)

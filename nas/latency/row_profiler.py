"""A latency table of this device for a space of blocks in rows: pieces measured in chains, fitted and judged on whole networks.

As `nas.latency.profiler` does it for its kind of space, with its rounds, backends and corrections.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from nas.cost import rows
from nas.cost.latency import Entry
from nas.cost.latency_file import Block
from nas.latency import validation
from nas.latency.backends.config import Torch
from nas.latency.backends.torch_backend import Backend
from nas.latency.profiler import SHARE, Images, Kept, Settings, Taking, chain_programs, facts, middle
from nas.latency.timing import Clock, Program, Rounds
from nas.models.blocks import HeadLayer, InvertedResidual, RowNetwork, StemLayer, init_weights
from nas.models.fuse import fold
from nas.runtime import seeding
from nas.spaces.rows import Plan

DRAWN = 40  # networks for each that is measured, to choose from

Network = TypeVar("Network")


class Latency(Settings):
    """Section `latency`."""

    backend: Torch  # the only one that runs these blocks


@dataclass(frozen=True)
class Given:
    """What every network has: "first", the stem and the block after it, or "last", the head and the classifier."""

    part: str


Piece = Block | Given


class Table(Protocol[Network]):
    """As `nas.cost.latency_tf_nas.LatencyTable`."""

    classes: int
    setting: dict[str, Any]

    def latency_ms(self, network: Network) -> float: ...


class Surveyed(ABC, Generic[Network]):
    """A search space with what is to be measured of it."""

    name: str
    example: Plan  # a network of the space

    @abstractmethod
    def chains(self) -> list[tuple[Piece, ...]]:
        """Runs of pieces that take each other's output, from Given("first") to Given("last"), with every block at least once."""

    @abstractmethod
    def plan(self, network: Network) -> Plan:
        """The network as rows."""

    @abstractmethod
    def random(self, rng: np.random.Generator) -> Network:
        """A network of the space."""

    @abstractmethod
    def table(self, classes: int, blocks: dict[Block, Entry], given_latency_ms: float, setting: dict[str, Any]) -> Table[Network]:
        """The table of these latencies."""


@dataclass(frozen=True, eq=False)
class Survey(Generic[Network]):
    """What came out."""

    table: Table[Network]
    networks: tuple[Network, ...]  # that were measured whole: first those fitted on, then those to judge on
    fitted: int  # how many of them were fitted on
    rounds: Rounds  # of the whole networks


def survey(
    p: Latency, space: Surveyed[Network], classes: int, seed: int, backend: Backend, kept: Kept, clock: Clock | None = None
) -> Survey[Network]:
    """Measure, fit, and measure what to judge by.

    Args:
        clock: instead of the backend's own.

    Raises:
        ValueError: if the time limit is too short for one round, or the space too small for so many networks.
    """
    taking = Taking(clock or backend.clock, p.repetitions, seed, kept)
    chains = space.chains()
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "latency"))
        images = cache(partial(backend.random, p.batch))
        start = images(3, space.example.resolution)
        programs = chain_programs(chains, lambda _: start, partial(piece_module, space.example, classes), backend)
        reference = middle(programs[len(programs) // 2])
        pieces = taking("pieces", programs, reference, SHARE * p.limit_s)
        entries, empty_ms = validation.entries(chains, 1000 * pieces.normalised([len(program.calls) for program in programs]))
        draft = table_of(space, classes, entries, validation.Correction(0.0, 1.0), {})
        networks = spread_over(space, draft, p.fitted, p.networks, seed)
        wholes = [whole_program(space.plan(network), classes, images, backend) for network in networks]
        rounds = taking("networks", wholes, reference, (1 - SHARE) * p.limit_s)
    measured_ms = 1000 * np.median(rounds.normalised([1] * len(networks)), axis=0)
    parts = [[Entry(draft.latency_ms(network), 0.0, 1)] for network in networks[: p.fitted]]
    correction = validation.fit(parts, measured_ms[: p.fitted])
    setting = facts(backend, p, pieces, rounds, empty_ms, correction)
    return Survey(table_of(space, classes, entries, correction, setting), tuple(networks), p.fitted, rounds)


def piece_module(example: Plan, classes: int, piece: Piece) -> nn.Module:
    """A piece with random weights, batch norm folded, in eval mode."""
    if isinstance(piece, Block):
        found = InvertedResidual(piece.row, example.squeeze)
    elif piece.part == "first":
        found = nn.Sequential(StemLayer(example.stem), InvertedResidual(example.rows[0], example.squeeze))
    else:
        found = nn.Sequential(HeadLayer(example.c_last, example.head), nn.Linear(example.head.features, classes))
    return fold(found.apply(init_weights).eval())


def whole_program(plan: Plan, classes: int, images: Images, backend: Backend) -> Program:
    """A whole network, folded, on images of its resolution."""
    start = images(3, plan.resolution)
    return Program((backend.prepare(fold(RowNetwork(plan, classes).eval()), start),), start)


def table_of(
    space: Surveyed[Network], classes: int, entries: dict[Piece, Entry], by: validation.Correction, setting: dict[str, Any]
) -> Table[Network]:
    """The table that adds up to whole networks."""
    blocks = {piece: Entry(by.factor * e.latency_ms, e.spread, e.times) for piece, e in entries.items() if isinstance(piece, Block)}
    given = by.fixed_latency_ms + by.factor * sum(e.latency_ms for piece, e in entries.items() if isinstance(piece, Given))
    return space.table(classes, blocks, given, setting)


def spread_over(space: Surveyed[Network], table: Table[Network], fitted: int, judged: int, seed: int) -> list[Network]:
    """Networks to measure whole: `fitted`, then `judged` other ones; both spread over the range of those drawn, cheapest first.

    Raises:
        ValueError: if the space has fewer.
    """
    rng = seeding.generator(seed, "latency", "networks")
    drawn = list(dict.fromkeys(space.random(rng) for _ in range(DRAWN * (fitted + judged))))
    if len(drawn) < fitted + judged:
        raise ValueError(f"space {space.name!r} is too small for {fitted + judged} different networks; lower latency.networks")
    costs = np.array([table.latency_ms(network) for network in drawn])
    free = np.ones(len(drawn), bool)

    def nearest(number: int) -> list[Network]:
        found = []
        for cost in np.linspace(costs.min(), costs.max(), number):
            at = int(np.where(free, np.abs(costs - cost), np.inf).argmin())
            free[at] = False
            found.append(at)
        return [drawn[at] for at in sorted(found, key=lambda at: costs[at])]

    return [*nearest(fitted), *nearest(judged)]


def judged_on(found: Survey[Network], space: Surveyed[Network]) -> pd.DataFrame:
    """The networks that nothing was fitted on: network, mflops, predicted_latency_ms, first_ and second_latency_ms (medians).

    Even and odd rounds are two measurements of the same network.
    """
    table, ms = found.table, 1000 * found.rounds.normalised([1] * len(found.networks))
    of_networks = pd.DataFrame(
        {
            "network": np.arange(len(found.networks)),
            "mflops": [rows.multiply_adds(space.plan(network), table.classes).total / 1e6 for network in found.networks],
            "predicted_latency_ms": [table.latency_ms(network) for network in found.networks],
            "first_latency_ms": np.median(ms[::2], axis=0),
            "second_latency_ms": np.median(ms[1::2], axis=0),
        }
    )
    return of_networks[found.fitted :].reset_index(drop=True)


@dataclass(frozen=True, eq=False)
class Measured:
    """Whole networks, measured."""

    latency_ms: np.ndarray  # (networks,) at the machine's speed of the survey
    noise: np.ndarray  # (networks,) how far two measurements of each differ, even and odd rounds, as a fraction
    slowness: float  # of the machine, against that of the survey


def measured(
    plans: Sequence[Plan], p: Latency, space: Surveyed[Network], table: Table[Network], seed: int, backend: Backend, kept: Kept
) -> Measured:
    """Networks of a space, against the same reference block as in the survey that made the table.

    Few networks get more rounds, so that it takes about as long as the survey's: a second of a shared machine says little.

    Raises:
        ValueError: if the time limit is too short for two rounds.
    """
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "derived"))
        images = cache(partial(backend.random, p.batch))
        chains = space.chains()
        start = images(3, space.example.resolution)
        build = partial(piece_module, space.example, table.classes)
        [chain] = chain_programs([chains[len(chains) // 2]], lambda _: start, build, backend)
        programs = [whole_program(plan, table.classes, images, backend) for plan in plans]
        repetitions = p.repetitions * max(1, (p.fitted + p.networks) // len(plans))
        rounds = Taking(backend.clock, repetitions, seed, kept)("derived", programs, middle(chain), (1 - SHARE) * p.limit_s)
    slowness = 1000 * float(np.median(rounds.references)) / table.setting["reference_latency_ms"]
    ms = 1000 * rounds.normalised([1] * len(programs)) / slowness
    first, second, all_of = (np.median(part, axis=0) for part in (ms[::2], ms[1::2], ms))
    return Measured(all_of, np.abs(second - first) / all_of, slowness)

"""A table of this device from start to end: pieces measured in chains, the table fitted and judged on whole networks.

Both kinds of measurement are taken in rounds (`nas.latency.timing`) against the same reference block, within one
time limit; what is measured is handed out after every round, so that it can be kept and gone on from.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Annotated, Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from nas.cost.latency import LatencyTable, Piece, Stem, distinct
from nas.cost.table import CostTable
from nas.latency import validation
from nas.latency.backends.config import OnnxRuntime, Torch
from nas.latency.backends.torch_backend import Backend, Call
from nas.latency.chains import chains
from nas.latency.modules import module, network
from nas.latency.timing import Clock, Program, Rounds, measure
from nas.runtime import seeding
from nas.runtime.params import Section
from nas.runtime.progress import progress
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace

Measured = TypeVar("Measured")  # a piece; equal ones take equally long
Images = Callable[[int, int], Any]  # channels, side in pixels -> a batch, as the backend takes it

_ARRAYS = ("laps", "references", "orders")
SAVED_EVERY = 5.0  # seconds
SHARE = 0.5  # of the time limit, for the pieces; the rest is for whole networks


class Settings(Section):
    """Section `latency`."""

    backend: Annotated[Torch | OnnxRuntime, Field(discriminator="runtime")]
    batch: Annotated[int, Field(ge=1)]  # images a call
    repetitions: Annotated[int, Field(ge=4)]  # rounds over all pieces, then over all networks; fewer when time is up
    limit_s: Annotated[float, Field(gt=0)]  # seconds for all of it
    fitted: Annotated[int, Field(ge=4)]  # whole networks that the fixed part is fitted on
    networks: Annotated[int, Field(ge=8)]  # other ones that the table is judged on


class Kept(Protocol):
    """Where rounds are kept, e.g. `nas.runtime.checkpoint.Checkpoint`."""

    def save(self, state: dict[str, Any], name: str) -> None: ...

    def load(self, name: str) -> dict[str, Any] | None: ...


@dataclass(frozen=True, eq=False)
class Survey:
    """What came out."""

    table: LatencyTable
    archs: tuple[Arch, ...]  # networks that were measured whole: first those fitted on, then those to judge on
    fitted: int  # how many of them were fitted on
    rounds: Rounds  # of the whole networks


def survey(p: Settings, space: SearchSpace, classes: int, seed: int, backend: Backend, kept: Kept, clock: Clock | None = None) -> Survey:
    """Measure, fit, and measure what to judge by.

    Args:
        clock: instead of the backend's own.

    Raises:
        ValueError: if the time limit is too short for one round, or the space too small for so many networks.
    """
    found_chains = chains(space) if backend.in_chains else [(piece,) for piece in distinct(space)]
    taking = Taking(clock or backend.clock, p.repetitions, seed, kept)
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "latency"))
        began = time.monotonic()
        images = cache(partial(backend.random, p.batch))  # one of each shape, for all that take it
        programs = chain_programs(found_chains, partial(_input, images), lambda piece: module(space, piece, classes), backend)
        reference = middle(programs[len(programs) // 2])
        pieces = taking("pieces", programs, reference, SHARE * p.limit_s - (time.monotonic() - began))
        began = time.monotonic()
        entries, empty_ms = validation.entries(found_chains, 1000 * pieces.normalised([len(p.calls) for p in programs]))
        archs = chosen(LatencyTable(space, classes, entries, 0.0), p.fitted, p.networks, seed)
        wholes = [network_program(space, a, classes, images, backend) for a in progress(archs, "latency: networks built", len(archs))]
        rounds = taking("networks", wholes, reference, (1 - SHARE) * p.limit_s - (time.monotonic() - began))
    measured_ms = 1000 * np.median(rounds.normalised([1] * len(archs)), axis=0)
    correction = validation.fit(validation.parts_of(space, entries, archs[: p.fitted]), measured_ms[: p.fitted])
    setting = facts(backend, p, pieces, rounds, empty_ms, correction)
    return Survey(validation.corrected(space, classes, entries, correction, setting), tuple(archs), p.fitted, rounds)


def chain_programs(
    found: Sequence[Sequence[Measured]], start: Callable[[Measured], Any], build: Callable[[Measured], nn.Module], backend: Backend
) -> list[Program]:
    """A program a chain, with an empty call at its end; chains share the pieces that are equal.

    Args:
        start: input of a chain, by its first piece.
        build: a piece as a module.
    """
    calls: dict[Measured, Call] = {}
    programs, empty = [], backend.empty()
    for chain in progress(found, "latency: chains built", len(found)):
        x = first = start(chain[0])
        for piece in chain:
            if piece not in calls:
                calls[piece] = backend.prepare(build(piece), x)
            x = calls[piece](x)
        programs.append(Program((*(calls[piece] for piece in chain), empty), first))
    return programs


def _input(images: Images, piece: Piece) -> Any:
    return images(3 if isinstance(piece, Stem) else piece.c_in, piece.side)


def middle(program: Program) -> Program:
    """The call in the middle of a program by itself: something of usual size, to compare with."""
    x, at = program.start, (len(program.calls) - 1) // 2  # the last one is empty
    for call in program.calls[:at]:
        x = call(x)
    return Program((program.calls[at],), x)


def network_program(space: SearchSpace, arch: Arch, classes: int, images: Images, backend: Backend) -> Program:
    """A whole network on images of its own resolution."""
    start = images(3, arch.resolution)
    return Program((backend.prepare(network(space, arch, classes), start),), start)


def chosen(table: LatencyTable, fitted: int, judged: int, seed: int) -> list[Arch]:
    """Architectures to measure whole: `fitted`, then `judged` other ones; both uniform over the range of latencies."""
    rng = seeding.generator(seed, "latency", "networks")
    to_judge = validation.spread_over(table, judged, rng)
    return [*validation.spread_over(table, fitted, rng, frozenset(to_judge)), *to_judge]


def facts(backend: Backend, p: Settings, pieces: Rounds, networks: Rounds, empty_ms: float, found: validation.Correction) -> dict[str, Any]:
    """What the file of a table says of how it was measured."""
    return {
        **backend.facts(),
        "batch": p.batch,
        "repetitions": len(pieces),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(pieces.seconds + networks.seconds, 1),
        "reference_latency_ms": round(1000 * float(np.median(pieces.references)), 6),
        "reference_spread": round(spread(pieces.references), 6),
        "empty_call_latency_ms": round(empty_ms, 6),
        "fitted": {**asdict(found), "networks": p.fitted, "repetitions": len(networks)},
    }


def spread(values: np.ndarray) -> float:
    """Interquartile range over median."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle)


def validation(found: Survey, mflops: CostTable) -> pd.DataFrame:
    """The raw measurements of whole networks, a row a network and round.

    Returns:
        network (number), part ("fit", or "judge" for those that nothing was fitted on), genes (`Arch.genes`), mflops,
        predicted_latency_ms (the table's), round, measurement (1 or 2: even and odd rounds are two measurements of the
        same network), raw_latency_ms, slowness (of the machine around it), latency_ms (raw over slowness).
    """
    raw, slowness = 1000 * found.rounds.laps, found.rounds.slowness()
    rounds, n = raw.shape
    rows = encoding.to_genes(found.archs)
    of_network = {
        "network": np.arange(n),
        "part": np.repeat(["fit", "judge"], [found.fitted, n - found.fitted]),
        "genes": [" ".join(map(str, row)) for row in rows],
        "mflops": mflops.costs(rows),
        "predicted_latency_ms": found.table.cost_table().costs(rows),
    }
    return pd.DataFrame(
        {
            **{name: np.tile(column, rounds) for name, column in of_network.items()},
            "round": np.repeat(np.arange(rounds), n),
            "measurement": np.repeat(1 + np.arange(rounds) % 2, n),
            "raw_latency_ms": raw.ravel(),
            "slowness": slowness.ravel(),
            "latency_ms": (raw / slowness).ravel(),
        }
    )


def judged_on(rows: pd.DataFrame) -> pd.DataFrame:
    """The networks that nothing was fitted on: network, mflops, predicted_latency_ms, first_ and second_latency_ms (medians).

    Args:
        rows: of `validation`.
    """
    rows = rows[rows["part"] == "judge"]
    medians = rows.groupby(["network", "measurement"])["latency_ms"].median().unstack()
    found = rows.groupby("network")[["mflops", "predicted_latency_ms"]].first()
    return found.assign(first_latency_ms=medians[1], second_latency_ms=medians[2]).reset_index()


class Taking:
    """Takes rounds, from those that are kept on, and keeps them every few seconds."""

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
        done = Rounds.none(programs) if state is None else Rounds(*(state[k].numpy() for k in _ARRAYS), state["seconds"])
        found, saved = done, time.monotonic()
        rounds = measure(programs, reference, self._clock, self._repetitions, limit_s, order, done)
        for found in progress(rounds, f"latency: rounds over {len(programs)} {what}", self._repetitions, len(done)):
            if time.monotonic() - saved > SAVED_EVERY:
                self._save(what, found)
                saved = time.monotonic()
        self._save(what, found)
        return found

    def _save(self, what: str, found: Rounds) -> None:
        arrays = {k: torch.from_numpy(getattr(found, k)) for k in _ARRAYS}
        self._kept.save({**arrays, "seconds": found.seconds}, f"{what}.pt")

"""The profiler: blocks of any space -> per-block latencies of this device -> a table, validated on whole networks.

Blocks are measured in chains, whole networks by themselves; both in rounds (`nas.latency.timing`) beside the same reference
block and within one time limit. Rounds are saved as they come, so that a stopped run goes on where it stopped. A kind of
space is profiled by implementing `ProfiledSpace`: `nas.latency.mbconv`, `nas.latency.tf_nas`, `nas.latency.hardcore_nas`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from itertools import chain
from typing import Annotated, Any, Generic, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from nas.cost.latency import Entry, LatencyTable
from nas.latency import fit, validation
from nas.latency.backends.config import OnnxRuntime, Torch
from nas.latency.backends.torch_backend import Backend, Call
from nas.latency.fit import Correction
from nas.latency.timing import Clock, Program, Rounds, measure
from nas.runtime import seeding
from nas.runtime.params import Section
from nas.runtime.progress import progress

Arch = TypeVar("Arch", bound=Hashable)
Block = TypeVar("Block", bound=Hashable)

BLOCKS_SHARE = 0.5  # of the time limit; the rest is for whole networks
SAVE_INTERVAL_S = 5.0
# names of random streams and of saved rounds; other names would give other draws
BLOCKS, NETWORKS, DERIVED = "pieces", "networks", "derived"
_ARRAYS = ("laps", "references", "orders")


class LatencyConfig(Section):
    """Section `latency`."""

    backend: Annotated[Torch | OnnxRuntime, Field(discriminator="runtime")]
    batch: Annotated[int, Field(ge=1)]  # images per call
    repetitions: Annotated[int, Field(ge=4)]  # rounds over all blocks, then over all networks; fewer when time is up
    limit_s: Annotated[float, Field(gt=0)]  # seconds for all of it
    fitted: Annotated[int, Field(ge=4)]  # networks used to fit the fixed overhead
    networks: Annotated[int, Field(ge=8)]  # other networks, used to validate the table


class Store(Protocol):
    """Where rounds are saved, e.g. `nas.runtime.checkpoint.Checkpoint`."""

    def save(self, state: dict[str, Any], name: str) -> None: ...

    def load(self, name: str) -> dict[str, Any] | None: ...


class ProfiledSpace(ABC, Generic[Arch, Block]):
    """A search space as the profiler sees it; equal blocks have equal latency."""

    name: str

    @abstractmethod
    def chains(self) -> list[tuple[Block, ...]]:
        """Runs of blocks that take each other's output, with every block in at least one.

        A block that is measured by itself, over and over, has its input and its weights in the fastest cache. In a chain its
        input is fresh and its weights have been away, as in a network; HardCoRe-NAS (arXiv:2102.11646) measures isolated blocks.
        """

    def blocks(self) -> list[Block]:
        """Every block once, for backends that measure blocks one by one."""
        return list(dict.fromkeys(chain.from_iterable(self.chains())))

    @abstractmethod
    def input_shape(self, block: Block) -> tuple[int, int]:
        """Channels and side in pixels of the input of a block that starts a chain."""

    @abstractmethod
    def module(self, block: Block, classes: int) -> nn.Module:
        """A block with random weights, batch norm folded, in eval mode."""

    @abstractmethod
    def resolution(self, arch: Arch) -> int:
        """Side of a network's images, pixels."""

    @abstractmethod
    def network(self, arch: Arch, classes: int) -> nn.Module:
        """A whole network with random weights, batch norm folded, in eval mode."""

    @abstractmethod
    def table(self, classes: int, entries: Mapping[Block, Entry], correction: Correction, setting: Mapping[str, Any]) -> LatencyTable[Arch]:
        """The table of these latencies, which sums to whole networks."""

    @abstractmethod
    def select(self, table: LatencyTable[Arch], fitted: int, validated: int, rng: np.random.Generator) -> list[Arch]:
        """Different networks over the range of latencies: `fitted`, then `validated` ones, each cheapest first.

        Raises:
            ValueError: if the space has fewer.
        """

    @abstractmethod
    def mflops(self, archs: Sequence[Arch], classes: int) -> np.ndarray:
        """(n,) millions of multiply-accumulates."""

    def genes(self, arch: Arch) -> str:
        """An architecture as text, for tables."""
        return str(arch)


@dataclass(frozen=True, eq=False)
class Profile(Generic[Arch]):
    """A profiled space: its table and the raw measurements of whole networks."""

    space: ProfiledSpace[Arch, Any]
    table: LatencyTable[Arch]
    archs: tuple[Arch, ...]  # networks measured as a whole: first those of the fit, then those of the validation
    fitted: int  # number of the former
    rounds: Rounds  # of whole networks

    def measurements(self) -> pd.DataFrame:
        """The raw measurements of whole networks, one row per network and round.

        Returns:
            network (number), part ("fit" or "validation"), genes, mflops, predicted_latency_ms (by the table), round,
            measurement (1 or 2: even and odd rounds are two measurements of the same network), raw_latency_ms, slowdown (of
            the machine at that time), latency_ms (raw over slowdown).
        """
        raw, slowdown = 1000 * self.rounds.laps, self.rounds.slowdown()
        rounds, n = raw.shape
        networks = {
            "network": np.arange(n),
            "part": np.repeat(["fit", "validation"], [self.fitted, n - self.fitted]),
            "genes": [self.space.genes(arch) for arch in self.archs],
            "mflops": self.space.mflops(self.archs, self.table.classes),
            "predicted_latency_ms": [self.table.latency_ms(arch) for arch in self.archs],
        }
        return pd.DataFrame(
            {
                **{name: np.tile(column, rounds) for name, column in networks.items()},
                "round": np.repeat(np.arange(rounds), n),
                "measurement": np.repeat(1 + np.arange(rounds) % 2, n),
                "raw_latency_ms": raw.ravel(),
                "slowdown": slowdown.ravel(),
                "latency_ms": (raw / slowdown).ravel(),
            }
        )

    def validation(self) -> pd.DataFrame:
        """The networks that nothing was fitted on: `nas.latency.validation.summarise`."""
        return validation.summarise(self.measurements())

    def metrics(self) -> dict[str, float]:
        """`nas.latency.validation.metrics`, the range of latencies, the number of validation networks, seconds."""
        networks = self.validation()
        low, high = self.table.range_ms
        return {
            **validation.metrics(networks),
            "min_latency_ms": low,
            "max_latency_ms": high,
            "networks": len(networks),
            "seconds": self.table.setting["seconds"],
        }


def profile(
    cfg: LatencyConfig, space: ProfiledSpace[Arch, Any], classes: int, seed: int, backend: Backend, store: Store, clock: Clock | None = None
) -> Profile[Arch]:
    """Measure all blocks, fit the table on whole networks, and measure other networks to validate it.

    Args:
        clock: instead of the backend's own.

    Raises:
        ValueError: if the time limit is too short for two rounds, or the space too small for so many networks.
    """
    chains = space.chains() if backend.in_chains else [(block,) for block in space.blocks()]
    runner = RoundRunner(clock or backend.clock, cfg.repetitions, seed, store)
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "latency"))
        began = time.monotonic()
        bench = Bench(space, classes, cfg.batch, backend)
        programs = bench.chains(chains)
        reference = reference_block(programs)
        blocks = runner.run(BLOCKS, programs, reference, BLOCKS_SHARE * cfg.limit_s - (time.monotonic() - began))
        began = time.monotonic()
        entries, empty_ms = fit.entries(chains, 1000 * blocks.normalised([len(p.calls) for p in programs]))
        uncorrected = space.table(classes, entries, Correction(0.0, 1.0), {})
        archs = space.select(uncorrected, cfg.fitted, cfg.networks, seeding.generator(seed, "latency", "networks"))
        networks = [bench.network(arch) for arch in progress(archs, "latency: networks built", len(archs))]
        rounds = runner.run(NETWORKS, networks, reference, (1 - BLOCKS_SHARE) * cfg.limit_s - (time.monotonic() - began))
    measured_ms = 1000 * np.median(rounds.normalised([1] * len(archs)), axis=0)
    correction = fit.fit([uncorrected.latency_ms(arch) for arch in archs[: cfg.fitted]], measured_ms[: cfg.fitted])
    setting = describe(backend, cfg, blocks, rounds, empty_ms, correction)
    return Profile(space, space.table(classes, entries, correction, setting), tuple(archs), cfg.fitted, rounds)


@dataclass(frozen=True, eq=False)
class MeasuredNetworks:
    """Latencies of whole networks."""

    latency_ms: np.ndarray  # (networks,) at the machine's speed when the table was profiled
    noise: np.ndarray  # (networks,) difference of two measurements of each, even and odd rounds, as a fraction
    slowdown: float  # of the machine, against when the table was profiled


def measure_networks(
    archs: Sequence[Arch],
    cfg: LatencyConfig,
    space: ProfiledSpace[Arch, Any],
    table: LatencyTable[Arch],
    seed: int,
    backend: Backend,
    store: Store,
) -> MeasuredNetworks:
    """Measure networks of a space beside the reference block that its table was profiled with.

    Few networks get more rounds, so that it takes about as long as profiling: a second of a shared machine says little.

    Raises:
        ValueError: if the time limit is too short for two rounds.
    """
    with torch.random.fork_rng(devices=[]), backend.running():
        torch.default_generator.manual_seed(seeding.key(seed, "derived"))
        bench, chains = Bench(space, table.classes, cfg.batch, backend), space.chains()
        reference = reference_block(bench.chains([chains[len(chains) // 2]]))
        programs = [bench.network(arch) for arch in archs]
        repetitions = cfg.repetitions * max(1, (cfg.fitted + cfg.networks) // len(archs))
        rounds = RoundRunner(backend.clock, repetitions, seed, store).run(DERIVED, programs, reference, (1 - BLOCKS_SHARE) * cfg.limit_s)
    slowdown = 1000 * float(np.median(rounds.references)) / table.setting["reference_latency_ms"]
    ms = 1000 * rounds.normalised([1] * len(programs)) / slowdown
    first, second, both = (np.median(part, axis=0) for part in (ms[::2], ms[1::2], ms))
    return MeasuredNetworks(both, np.abs(second - first) / both, slowdown)


class Bench(Generic[Arch, Block]):
    """Builds programs to time, on random images of which there is one batch per shape."""

    def __init__(self, space: ProfiledSpace[Arch, Block], classes: int, batch: int, backend: Backend) -> None:
        self._space, self._classes, self._backend = space, classes, backend
        self._images = cache(partial(backend.random, batch))  # (channels, side in pixels) -> a batch

    def chains(self, chains: Sequence[Sequence[Block]]) -> list[Program]:
        """One program per chain, with an empty call at its end; chains share equal blocks."""
        calls: dict[Block, Call] = {}
        programs, empty = [], self._backend.empty()
        for blocks in progress(chains, "latency: chains built", len(chains)):
            x = start = self._images(*self._space.input_shape(blocks[0]))
            for block in blocks:
                if block not in calls:
                    calls[block] = self._backend.prepare(self._space.module(block, self._classes), x)
                x = calls[block](x)
            programs.append(Program((*(calls[block] for block in blocks), empty), start))
        return programs

    def network(self, arch: Arch) -> Program:
        """A whole network on images of its own resolution."""
        images = self._images(3, self._space.resolution(arch))
        return Program((self._backend.prepare(self._space.network(arch, self._classes), images),), images)


def reference_block(programs: Sequence[Program]) -> Program:
    """The block in the middle of the middle chain: something of usual size, to compare with."""
    program = programs[len(programs) // 2]
    x, place = program.start, (len(program.calls) - 1) // 2  # the last call is empty
    for call in program.calls[:place]:
        x = call(x)
    return Program((program.calls[place],), x)


def describe(backend: Backend, cfg: LatencyConfig, blocks: Rounds, networks: Rounds, empty_ms: float, fit: Correction) -> dict[str, Any]:
    """The setting of the measurement, for the table's file."""
    low, middle, high = np.percentile(blocks.references, (25, 50, 75))
    return {
        **backend.facts(),
        "batch": cfg.batch,
        "repetitions": len(blocks),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(blocks.seconds + networks.seconds, 1),
        "reference_latency_ms": round(1000 * float(np.median(blocks.references)), 6),
        "reference_spread": round(float((high - low) / middle), 6),
        "empty_call_latency_ms": round(empty_ms, 6),
        "fitted": {**asdict(fit), "networks": cfg.fitted, "repetitions": len(networks)},
    }


@dataclass(frozen=True)
class RoundRunner:
    """Measures in rounds, from the saved ones on, and saves every few seconds."""

    clock: Clock
    repetitions: int
    seed: int
    store: Store

    def run(self, name: str, programs: list[Program], reference: Program, limit_s: float) -> Rounds:
        """
        Args:
            name: of the random stream that orders the programs, and of the saved rounds.
            limit_s: seconds for all rounds.

        Raises:
            ValueError: if two rounds do not fit into the limit.
        """

        def order(number: int) -> np.ndarray:
            return seeding.generator(self.seed, "latency", name, number).permutation(len(programs))

        state = self.store.load(f"{name}.pt")
        done = Rounds.none(programs) if state is None else Rounds(*(state[k].numpy() for k in _ARRAYS), state["seconds"])
        rounds, saved = done, time.monotonic()
        measured = measure(programs, reference, self.clock, self.repetitions, limit_s, order, done)
        for rounds in progress(measured, f"latency: rounds over {len(programs)} programs", self.repetitions, len(done)):
            if time.monotonic() - saved > SAVE_INTERVAL_S:
                self._save(name, rounds)
                saved = time.monotonic()
        self._save(name, rounds)
        return rounds

    def _save(self, name: str, rounds: Rounds) -> None:
        arrays = {k: torch.from_numpy(getattr(rounds, k)) for k in _ARRAYS}
        self.store.save({**arrays, "seconds": rounds.seconds}, f"{name}.pt")

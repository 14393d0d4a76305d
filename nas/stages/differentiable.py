"""What the stages of TF-NAS and HardCoRe-NAS share: latency targets, and what their stages latency and derive write."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from nas.cost import parameters
from nas.cost.flops import multiply_adds
from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency import LatencyTable
from nas.latency.profiler import Arch, LatencyConfig, Profile, measure_networks
from nas.latency.rows import ProfiledRows
from nas.runtime import params
from nas.runtime.io import read_json
from nas.spaces.rows import Plan, Row
from nas.stages import runner
from nas.stages.runner import Pipeline, Stage

TARGET_NAMES = ascii_lowercase  # from the fastest
LOGGED = ("table_latency_ms", "measured_latency_ms", "noise_floor", "mflops")


class LatencyTarget(params.Section):
    """A target latency: in ms, or as a share of the way from the fastest to the slowest network of the space."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    share: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _is_described_once(self) -> Self:
        if (self.latency_ms is None) == (self.share is None):
            raise ValueError("one of latency_ms and share is needed")
        return self

    def ms(self, min_ms: float, max_ms: float, key: str) -> float:
        """The latency of a whole batch.

        Args:
            key: of the targets, with its file, for messages.

        Raises:
            InfeasibleTarget: if no network of the space has this latency.
        """
        if self.share is not None:
            return min(min_ms + self.share * (max_ms - min_ms), max_ms)  # rounding must not lead beyond
        if not min_ms <= self.latency_ms <= max_ms:
            raise InfeasibleTarget(f"{self.latency_ms:g} ms on this device", min_ms, max_ms, "ms", f"change {key}")
        return self.latency_ms


LatencyTargets = Annotated[tuple[LatencyTarget, ...], Field(min_length=1, max_length=len(TARGET_NAMES))]


def targets_ms(targets: LatencyTargets, range_ms: tuple[float, float], pipeline: Pipeline) -> list[float]:
    """Latencies of the targets, ascending; the first is that of network a.

    Args:
        range_ms: latencies of the fastest and the slowest network.

    Raises:
        InfeasibleTarget: if no network of the space has one of them.
    """
    return sorted(target.ms(*range_ms, f"{pipeline.parameters}: search.targets") for target in targets)


@dataclass(frozen=True)
class MethodParams:
    """All of a method's params.yaml; a subclass adds the sections."""

    seed: int
    space: Any  # has a name

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: the space by its name."""
        return {name: self.space.name if name == "space" else getattr(self, name) for name in names}


def save_profile(profiled: Profile, stage: Stage) -> None:
    """table.json, validation.csv and metrics.json of a stage latency, in its folder and in MLflow."""
    profiled.table.save(stage.out / "table.json")
    networks = profiled.validation()
    networks.to_csv(stage.out / "validation.csv", index=False)
    stage.run.artifact(stage.out / "table.json")
    stage.run.table(networks, "validation.json")
    stage.finish(profiled.metrics())


def derive(
    searched: Sequence[tuple[dict[str, Any], Arch]],
    cfg: LatencyConfig,
    space: ProfiledRows[Arch],
    table: LatencyTable[Arch],
    seed: int,
    stage: Stage,
) -> None:
    """Measure the searched networks; family.json and metrics.json of a stage derive, in its folder and in MLflow.

    Args:
        searched: for each network the first keys of its entry in family.json, with name and target_latency_ms, and the network.
    """
    measured = measure_networks([arch for _, arch in searched], cfg, space, table, seed, cfg.backend.start(), stage.checkpoint)
    entries, metrics = [], {"slowdown": measured.slowdown}
    for (first_keys, arch), ms, noise in zip(searched, measured.latency_ms, measured.noise):
        plan = space.plan(arch)
        costs = {
            "table_latency_ms": round(table.latency_ms(arch), 6),
            "measured_latency_ms": round(float(ms), 6),
            "noise_floor": round(float(noise), 6),
            "mflops": round(multiply_adds(plan, table.classes).total / 1e6, 6),
            "parameters": parameters.of_plan(plan, table.classes),
        }
        entries.append({**first_keys, **costs, "rows": [astuple(row) for row in plan.rows]})
        metrics |= {f"{first_keys['name']}_{key}": costs[key] for key in LOGGED}
    runner.write_json(stage.out / "family.json", entries)
    stage.run.artifact(stage.out / "family.json")
    stage.finish(metrics)


def read_plans(path: Path, fixed: Plan, pipeline: Pipeline, stage: str) -> list[tuple[dict[str, Any], Plan]]:
    """The entries of a file of networks with `rows`, each with its network.

    Args:
        fixed: a network with the same stem and head.
        stage: that writes the file.

    Raises:
        DocumentError: if the file holds something else.
    """
    entries = read_json(path)
    try:
        rows = [tuple(Row(*row) for row in entry["rows"]) for entry in entries]
        return [(entry, Plan(fixed.resolution, fixed.stem, r, fixed.head, fixed.squeeze)) for entry, r in zip(entries, rows)]
    except (TypeError, KeyError, ValueError) as error:
        raise pipeline.damaged(path, error, stage) from None
